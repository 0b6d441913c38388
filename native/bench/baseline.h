/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What baseline.bpf.c and the programs that measure it share. */
#ifndef REF_BASELINE_H
#define REF_BASELINE_H

#include <linux/types.h>

#define REF_PORTS 8

struct ref_config {
	__u16 mss4, mss6;
	__u8 wscale, ttl;
	__u16 ports[REF_PORTS]; /* host order; 0 ends the list */
};

enum ref_counter {
	REF_ANSWERED,	 /* SYN answered with a cookie */
	REF_GOOD_COOKIE, /* ACK passed */
	REF_BAD_COOKIE,	 /* ACK dropped */
	REF_KNOWN,	 /* passed: the flow is known */
	REF_OTHER,	 /* passed: not protected */
	REF_BAD,	 /* dropped: malformed */
	REF_FAILED,	 /* a helper failed */
	REF_COUNTERS
};

#endif
