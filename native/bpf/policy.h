/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What guards a destination: its policy, and which of the mitigations there are in force. */
#ifndef FNM_POLICY_H
#define FNM_POLICY_H

#include "flows.h"

FNM_INLINE struct fnm_slot *fnm_live_slot(__u32 index, __u64 now)
{
	struct fnm_slot *slot;

	if (!index)
		return NULL;
	slot = bpf_map_lookup_elem(&slots, &index);
	return slot && slot->deadline > now ? slot : NULL;
}

/* The tables themselves: a call each, and the trie walks. */
FNM_GLOBAL int fnm_look_up(const struct fnm_address *address, struct fnm_recent *r, __u32 wide)
{
	struct fnm_policy *policy;
	struct fnm_prefix key;

	if (!address || !r)
		return 0;
	key.bits = 128;
	key.address = *address;
	r->address = *address;
	policy = bpf_map_lookup_elem(&hosts, &key.address);
	if (!policy && wide)
		policy = bpf_map_lookup_elem(&prefixes, &key);
	if (!policy)
		return 0;
	r->policy = *policy;
	return 1;
}

/* What guards the destination, NULL for nothing. A CPU remembers what it has found: an attack is
 * on few destinations. */
FNM_INLINE struct fnm_policy *fnm_policy_of(const struct fnm_control *settings,
					    const struct fnm_packet *p)
{
	const __u32 *d = p->destination.word;
	__u32 bit = fnm_prefilter_bit(d[0], d[1], d[2], d[3]);
	__u32 index = bit & (FNM_RECENT - 1);
	__u64 epoch = ((__u64)settings->epoch + 1) * 2, there;
	struct fnm_policy *found;
	struct fnm_recent *r;

	if (!(settings->prefilter[bit >> 6 & (FNM_PREFILTER - 1)] >> (bit & 63) & 1))
		return NULL;
	r = bpf_map_lookup_elem(&recent, &index);
	if (!r)
		return NULL;
	if ((r->epoch & ~1ull) != epoch || !fnm_same_address(&r->address, &p->destination)) {
		r->epoch = 0;
		r->epoch = epoch | !!fnm_look_up(&p->destination, r, settings->wide);
	}
	found = &r->policy;
	there = r->epoch & 1;
	/* The compiler would compute with the pointer instead, which the verifier forbids. */
	asm volatile("if %[there] != 0 goto +1\n\t%[found] = 0"
		     : [found] "+r"(found)
		     : [there] "r"(there));
	return found;
}

FNM_INLINE __u32 fnm_first_live(const __u16 *chain, __u64 now)
{
	if (!*(const __u64 *)chain)
		return 0;
#pragma unroll
	for (int i = 0; i < FNM_CHAIN; i++) {
		if (fnm_live_slot(chain[i], now))
			return chain[i];
	}
	return 0;
}

/* The slot that stands for the whole policy; 0 when nothing of it is in force. */
FNM_INLINE __u32 fnm_enforcing(const struct fnm_policy *policy, __u64 now)
{
	__u32 slot = fnm_first_live(policy->acl, now);

	if (!slot)
		slot = fnm_first_live(policy->sorb, now);
	return slot ? slot : fnm_first_live(policy->tcp, now);
}

FNM_INLINE int fnm_port_in(__u16 index, __u16 port)
{
	__u32 key = index;
	struct fnm_portset *set;

	if (!index)
		return 1;
	set = bpf_map_lookup_elem(&portsets, &key);
	return set && set->bit[port >> 6 & 1023] >> (port & 63) & 1;
}

/* The index of the proxy that judges the packet, 0 for none. */
FNM_INLINE __u32 fnm_proxy_of(const struct fnm_policy *policy, const struct fnm_packet *p,
			      __u64 now, int any_port)
{
	for (int i = 0; i < FNM_CHAIN && policy->tcp[i]; i++) {
		struct fnm_slot *slot = fnm_live_slot(policy->tcp[i], now);

		if (slot && (any_port || fnm_port_in(slot->portset, fnm_dport(p))))
			return policy->tcp[i];
	}
	return 0;
}

#endif
