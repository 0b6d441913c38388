/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Token buckets without a lock: GCRA (ITU-T I.371) on one word, shared by all CPUs. */
#ifndef FNM_RATE_H
#define FNM_RATE_H

#include <linux/stddef.h>

#include "tables.h"

#define FNM_NS_PER_MS 1000000ull
#define FNM_CAS_TRIES 4

/* Take `cost` ns out of a bucket. A crowd of CPUs on one bucket is over its rate, so giving up
 * after a few tries errs on the side of the limit. */
FNM_INLINE int fnm_take(__u64 *tat, __u64 cost, __u64 burst, __u64 now_ns)
{
	for (int i = 0; i < FNM_CAS_TRIES; i++) {
		__u64 old = *(volatile __u64 *)tat;
		__u64 next = (old > now_ns ? old : now_ns) + cost;

		if (next - now_ns > burst)
			return 0;
		if (__sync_val_compare_and_swap(tat, old, next) == old)
			return 1;
	}
	return 0;
}

FNM_INLINE int fnm_take_one(struct fnm_rate *rate, __u64 now_ms)
{
	if (!rate->interval)
		return 1;
	return fnm_take(&rate->tat, rate->interval, rate->burst, now_ms * FNM_NS_PER_MS);
}

#endif
