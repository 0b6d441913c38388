/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Flows that were open before they had to be known: fingerprints with the newest numbers, in a
 * table of their own. Anybody can have one made, so that they only ever open a bucket.
 */
#ifndef FNM_SIGHTINGS_H
#define FNM_SIGHTINGS_H

#include "flows.h"

#define FNM_NEAR_AHEAD	  (1 << 25)  /* bytes: what a window may hold on a long and fast path */
#define FNM_NEAR_BEHIND	  (1 << 20)  /* bytes: reordering, retransmission */
#define FNM_SIGHTING_KEPT 600	     /* s; a learned one is not given up earlier */
#define FNM_PROGRESS_MAX  0x3fffffff /* bytes; further ahead is behind */

FNM_INLINE struct fnm_sighting_set *fnm_sighting_set(__u64 hash)
{
	__u32 index = fnm_set_a(hash, fnm_sighting_mask);

	return bpf_map_lookup_elem(&sightings, &index);
}

FNM_INLINE __u32 fnm_sighting_tag(__u64 hash)
{
	return (__u32)(hash >> 32) | 1;
}

FNM_INLINE int fnm_near(__s32 ahead)
{
	return ahead <= FNM_NEAR_AHEAD && ahead >= -FNM_NEAR_BEHIND;
}

FNM_INLINE int fnm_forward(__u32 ahead)
{
	return ahead && ahead <= FNM_PROGRESS_MAX;
}

enum fnm_sighted { FNM_NOT_SIGHTED = 0, FNM_SIGHTED_ANSWER = 1, FNM_SIGHTED_LEARNED = 2 };

/* Whether a segment is of a flow that was seen before it had to be known. Who invents one has to
 * hit both numbers, one in 16,000, unless he has made the sighting himself: hence the buckets. */
FNM_INLINE enum fnm_sighted fnm_sighted(const struct fnm_context *c, __u64 hash,
					const struct fnm_tcphdr *th)
{
	__u32 seq = bpf_ntohl(th->seq), tag = fnm_sighting_tag(hash);
	int has_ack = th->flags & FNM_TCP_ACK;
	struct fnm_sighting_set *set;

	if (!fnm_may_know(c, FNM_FILTER_FLOWS, hash))
		return FNM_NOT_SIGHTED;
	set = fnm_sighting_set(hash);
	if (!set)
		return FNM_NOT_SIGHTED;
#pragma unroll
	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_sighting *s = &set->way[i];
		__u32 ack = has_ack ? bpf_ntohl(th->ack) : s->ack, flags;

		if (s->tag != tag || !(s->seen & FNM_SEEN_LEARNED))
			continue;
		if (fnm_age(c->seen, s->seen) > c->flow_idle || !fnm_near(ack - s->ack) ||
		    !fnm_near(seq - s->seq))
			return FNM_NOT_SIGHTED;
		if (fnm_forward(ack - s->ack))
			s->ack = ack;
		if (fnm_forward(seq - s->seq))
			s->seq = seq;
		flags = s->seen & ~FNM_SEEN_TIME;
		if (s->seen != (c->seen | flags))
			s->seen = c->seen | flags;
		return flags & FNM_SEEN_ANSWER ? FNM_SIGHTED_ANSWER : FNM_SIGHTED_LEARNED;
	}
	return FNM_NOT_SIGHTED;
}

/* Another segment of a flow that was noted: either number moving forward is progress. */
FNM_INLINE void fnm_sighting_move(const struct fnm_context *c, struct fnm_sighting *s, __u32 seq,
				  __u32 ack, __u32 learned)
{
	int ack_moves = fnm_forward(ack - s->ack), seq_moves = fnm_forward(seq - s->seq);

	if (learned || ack_moves)
		s->ack = ack;
	if (learned || seq_moves)
		s->seq = seq;
	/* What was an answer stays one: the server's own flow is not learned by its own progress.
	 */
	s->seen = c->seen | (s->seen & ~FNM_SEEN_TIME) |
		  (s->seen & FNM_SEEN_LEARNED ? 0 : learned) |
		  (ack_moves || seq_moves ? FNM_SEEN_LEARNED : 0);
}

/* How willingly a way is given up; 0xffffffff: not at all. */
FNM_INLINE __u32 fnm_sighting_worth(const struct fnm_context *c, const struct fnm_sighting *s)
{
	__u32 age = fnm_age(c->seen, s->seen);
	__u32 fresh = 0x20000000u - (age > 0x1fffffff ? 0x1fffffff : age);

	if (!s->tag)
		return 0;
	if (!(s->seen & FNM_SEEN_LEARNED) || s->seen & FNM_SEEN_ANSWER)
		return fresh;
	return age <= FNM_SIGHTING_KEPT ? 0xffffffffu : fresh + 0x20000000u;
}

/* Note a segment that is not judged, or that passed unknown; a second one may show progress.
 * `learned` is FNM_SEEN_LEARNED, with what goes with it, where this one is enough. */
FNM_GLOBAL int fnm_sighting_note(const struct fnm_context *c, __u64 hash, __u32 seq, __u32 ack,
				 __u32 learned)
{
	struct fnm_sighting_set *set = fnm_sighting_set(hash);
	__u32 tag = fnm_sighting_tag(hash), least = 0xffffffffu;
	struct fnm_sighting *best = NULL;

	if (!set || !c)
		return 0;
#pragma unroll
	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_sighting *s = &set->way[i];
		__u32 worth = fnm_sighting_worth(c, s);

		if (s->tag == tag) {
			fnm_sighting_move(c, s, seq, ack, learned);
			if (s->seen & FNM_SEEN_LEARNED)
				fnm_make_known(FNM_FILTER_FLOWS, hash);
			return 1;
		}
		if (worth < least) {
			least = worth;
			best = s;
		}
	}
	if (!best)
		return 0;
	best->tag = tag;
	best->ack = ack;
	best->seq = seq;
	best->seen = c->seen | learned;
	if (learned)
		fnm_make_known(FNM_FILTER_FLOWS, hash);
	return 1;
}

#endif
