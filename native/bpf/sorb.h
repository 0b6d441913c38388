/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A threshold per source, and a block for who exceeds it.
 *
 * The table has a fixed size and nothing is allocated. In a full set the lightest source makes
 * room, the one with the least credit used: what a flood of invented sources brings in is light, so
 * that it drives out itself and not those who send much. Who is blocked stays until the block is
 * over; where all are, a further source passes without being counted.
 */
#ifndef FNM_SORB_H
#define FNM_SORB_H

#include "acl.h"

#define FNM_SITE_FACTOR 16 /* a /64 may send this many times what one address may */

FNM_INLINE int fnm_same_talker(const struct fnm_talker *t, const struct fnm_address *a,
			       __u32 generation, __u32 wide)
{
	return t->generation == generation && t->wide == wide && fnm_same_address(&t->address, a);
}

FNM_INLINE struct fnm_talker *fnm_talker_find(const struct fnm_context *c,
					      const struct fnm_address *a, __u32 generation,
					      __u32 wide)
{
	__u64 hash = fnm_hash_address(c->seed ^ generation ^ wide << 31, a->word);
	__u32 index = fnm_set_a(hash, fnm_talker_mask);
	struct fnm_talker_set *set = bpf_map_lookup_elem(&talkers, &index);
	struct fnm_talker *room = NULL;
	__u64 least = ~0ull;

	if (!set)
		return NULL;
#pragma unroll
	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_talker *t = &set->way[i];
		__u64 used;

		if (fnm_same_talker(t, a, generation, wide))
			return t;
		if (t->generation && t->blocked_until > c->now)
			continue;
		used = t->generation ? (t->pps_tat > t->bps_tat ? t->pps_tat : t->bps_tat) : 0;
		if (used < least) {
			least = used;
			room = t;
		}
	}
	if (!room) {
		FNM_WORKED(talkers_untracked);
		return NULL;
	}
	*(volatile __u32 *)&room->generation = 0;
	room->address = *a;
	room->wide = wide;
	room->pps_tat = 0;
	room->bps_tat = 0;
	room->blocked_until = 0;
	room->seen = c->now;
	*(volatile __u32 *)&room->generation = generation;
	FNM_WORKED(talkers_inserted);
	return room;
}

FNM_GLOBAL int fnm_count_talker(const struct fnm_context *c, const struct fnm_slot *slot,
				const struct fnm_address *a, __u32 length, __u32 wide)
{
	const struct fnm_sorb *sorb;
	struct fnm_talker *t;
	__u64 now_ns, share = wide ? FNM_SITE_FACTOR : 1;

	if (!c || !slot || !a)
		return FNM_GO_ON;
	sorb = &slot->sorb;
	now_ns = c->now * FNM_NS_PER_MS;
	t = fnm_talker_find(c, a, slot->generation, wide);
	if (!t)
		return FNM_GO_ON;
	if (t->blocked_until > c->now)
		return FNM_R_sorb_blocked;
	if (t->seen != c->now)
		t->seen = c->now;
	if ((!sorb->pps_interval ||
	     fnm_take(&t->pps_tat, sorb->pps_interval / share, sorb->pps_burst, now_ns)) &&
	    (!sorb->bps_interval ||
	     fnm_take(&t->bps_tat, (sorb->bps_interval * length >> 10) / share, sorb->bps_burst,
		      now_ns)))
		return FNM_GO_ON;
	t->blocked_until = c->now + sorb->block_ms;
	return FNM_R_sorb_over;
}

/* A reason, or FNM_GO_ON. */
FNM_INLINE int fnm_absorb(const struct fnm_context *c, const struct fnm_packet *p,
			  const struct fnm_slot *slot)
{
	struct fnm_address site = {};
	int reason = fnm_count_talker(c, slot, &p->source, p->length, 0);

	if (reason != FNM_GO_ON || !p->v6)
		return reason;
	site.word[0] = p->source.word[0];
	site.word[1] = p->source.word[1];
	return fnm_count_talker(c, slot, &site, p->length, 1);
}

#endif
