/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The table of spliced flows.
 *
 * A flow that lives is never given up for another one: without its row it is dead. A row is written
 * by whoever has claimed it; two CPUs may want the same free one.
 */
#ifndef FNM_SPLICES_H
#define FNM_SPLICES_H

#include "flows.h"

FNM_INLINE struct fnm_splice_set *fnm_splice_set(__u64 hash, int choice)
{
	__u32 index = choice ? fnm_set_b(hash, fnm_splice_mask) : fnm_set_a(hash, fnm_splice_mask);

	return bpf_map_lookup_elem(&splices, &index);
}

FNM_INLINE int fnm_splice_lives(const struct fnm_context *c, const struct fnm_splice *f)
{
	return f->ports &&
	       fnm_age(c->seen, f->seen) <= fnm_splice_kept(f, c->flow_closing, fnm_splice_idle);
}

FNM_INLINE int fnm_splice_is(const struct fnm_splice *f, const struct fnm_packet *p)
{
	return f->ports == p->ports &&
	       fnm_same_address((const struct fnm_address *)&f->client, &p->source) &&
	       fnm_same_address((const struct fnm_address *)&f->server, &p->destination);
}

/* The flow of a segment from client to server, NULL where there is none. `hash` is fnm_flow_hash.
 */
FNM_INLINE struct fnm_splice *fnm_splice_find(const struct fnm_context *c,
					      const struct fnm_packet *p, __u64 hash)
{
	__u32 tag = fnm_splice_tag(hash);

	if (!fnm_may_know(c, FNM_FILTER_FLOWS, hash))
		return NULL;
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		struct fnm_splice_set *set = fnm_splice_set(hash, choice);

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < FNM_SPLICE_WAYS; i++) {
			struct fnm_splice *f = &set->way[i];

			if (set->tag[i] == tag && fnm_splice_is(f, p))
				return fnm_splice_lives(c, f) ? f : NULL;
		}
	}
	return NULL;
}

FNM_INLINE void fnm_splice_touch(const struct fnm_context *c, struct fnm_splice *f)
{
	if (f->seen != c->seen)
		f->seen = c->seen;
}

/* Note what a segment of one side says of the end. Data take a RST back: it was not believed. */
FNM_INLINE void fnm_splice_ends(const struct fnm_packet *p, struct fnm_splice *f, __u32 side)
{
	if (p->flags & FNM_TCP_FIN)
		__sync_fetch_and_or(&f->ended, side);
	if (p->flags & FNM_TCP_RST)
		__sync_fetch_and_or(&f->ended, FNM_ENDED_RESET);
	else if (f->ended & FNM_ENDED_RESET && p->end > p->l4 + p->doff)
		__sync_fetch_and_and(&f->ended, ~FNM_ENDED_RESET);
}

FNM_INLINE int fnm_splice_claim(struct fnm_splice *f)
{
	return !__sync_val_compare_and_swap(&f->claim, 0, 1);
}

/* How willingly a row is given up: its own flow's first, then a free one, then one whose flow is
 * over; 3: not at all. What has no tag was never used, and is not looked at. */
FNM_INLINE __u32 fnm_splice_worth(const struct fnm_context *c, const struct fnm_splice_set *set,
				  int way, const struct fnm_packet *p)
{
	const struct fnm_splice *f = &set->way[way];

	if (!set->tag[way] || !f->ports)
		return 1;
	if (fnm_splice_is(f, p))
		return 0;
	return fnm_splice_lives(c, f) ? 3 : 2;
}

/* Where a flow goes: set * FNM_SPLICE_WAYS + way, of the emptier one of its two sets, so that both
 * fill up evenly; -1 where there is no room. */
FNM_GLOBAL int fnm_splice_place(const struct fnm_context *c, const struct fnm_packet *p, __u64 hash)
{
	__u32 most = 0;
	int place = -1;

	if (!c || !p)
		return -1;
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		struct fnm_splice_set *set = fnm_splice_set(hash, choice);
		__u32 room = 0, least = 3;
		int best = 0;

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < FNM_SPLICE_WAYS; i++) {
			__u32 worth = fnm_splice_worth(c, set, i, p);

			if (!worth)
				return choice * FNM_SPLICE_WAYS + i;
			room += worth < 3;
			if (worth < least) {
				least = worth;
				best = i;
			}
		}
		if (room > most) {
			most = room;
			place = choice * FNM_SPLICE_WAYS + best;
		}
	}
	return place;
}

/* Enter a flow, as it is in `row` but for where it lies; false where there is no room. */
FNM_GLOBAL int fnm_splice_insert(const struct fnm_context *c, const struct fnm_packet *p,
				 __u64 hash, const struct fnm_splice *row)
{
	struct fnm_splice_set *set;
	struct fnm_splice *best;
	int place;

	if (!c || !p || !row)
		return 0;
	place = fnm_splice_place(c, p, hash);
	if (place < 0)
		return 0;
	set = fnm_splice_set(hash, place / FNM_SPLICE_WAYS & 1);
	if (!set)
		return 0;
	best = &set->way[place & (FNM_SPLICE_WAYS - 1)];
	if (!fnm_splice_claim(best))
		return 0;
	/* Without ports a row matches nothing while it is half written. */
	*(volatile __u32 *)&best->ports = 0;
	best->client = row->client;
	best->server = row->server;
	__builtin_memcpy(&best->client_isn, &row->client_isn,
			 sizeof(*row) - __builtin_offsetof(struct fnm_splice, client_isn));
	best->seen = c->seen;
	best->state = FNM_SPLICE_ASKED;
	set->tag[place & (FNM_SPLICE_WAYS - 1)] = fnm_splice_tag(hash);
	*(volatile __u32 *)&best->ports = p->ports;
	__sync_lock_test_and_set(&best->claim, 0);
	fnm_make_known(FNM_FILTER_FLOWS, hash);
	return 1;
}

/* The mitigation that a flow is counted for; 0 where that is no more. */
FNM_INLINE __u32 fnm_splice_slot(const struct fnm_splice *f)
{
	__u32 index = f->slot;
	struct fnm_slot *slot = bpf_map_lookup_elem(&slots, &index);

	return slot && slot->generation == f->generation ? index : 0;
}

/* Whether a spliced flow of that server may exist; else nothing more needs to be asked. */
FNM_INLINE int fnm_translated(const struct fnm_address *server)
{
	const __u32 *w = server->word;
	__u32 bit = fnm_prefilter_bit(w[0], w[1], w[2], w[3]), zero = 0;
	struct fnm_splicing *s = bpf_map_lookup_elem(&splicing, &zero);

	return s && s->translated[bit >> 6 & (FNM_PREFILTER - 1)] >> (bit & 63) & 1;
}

#endif
