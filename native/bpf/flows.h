/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Who is known: flows and proven sources.
 *
 * Both are written only after a valid cookie, or within a proven source's bucket, so that no
 * spoofed segment changes them.
 */
#ifndef FNM_FLOWS_H
#define FNM_FLOWS_H

#include "faults.h"

#include "cookie.h"
#include "maps.h"
#include "rate.h"

/* What a judgement works with, beside the packet: copied, as functions that the verifier checks by
 * themselves can be given no pointers within a structure. */
struct fnm_context {
	__u64 now;  /* engine ms */
	__u32 seen; /* the same as tables keep it */
	__u32 seed, flow_idle, flow_closing, source_idle, inserts_per_second;
	__u32 by;			 /* slot that judges */
	__u32 inner_translated;		 /* of an ICMP error */
	struct fnm_minute minute;	 /* of the packet before */
	__u32 filter[2], filter_mask[2]; /* element of `filters` to look at, and its mask */
	/* too large for the stack: a flow that is made, and headers that are moved */
	struct fnm_splice row;
	__u8 headers[96];
};

FNM_INLINE struct fnm_work *fnm_work(void)
{
	__u32 zero = 0;

	return FNM_FAULT(FNM_FAULT_STATE) ? NULL : bpf_map_lookup_elem(&work, &zero);
}

#define FNM_WORKED(field)                                                                          \
	do {                                                                                       \
		struct fnm_work *work_ = fnm_work();                                               \
		if (work_)                                                                         \
			work_->field++;                                                            \
	} while (0)

/* False: the key of this hash is in no table. */
FNM_INLINE int fnm_may_know(const struct fnm_context *c, enum fnm_filter_kind kind, __u64 hash)
{
	__u64 bits = fnm_filter_bits(hash);
	__u32 index = c->filter[kind];
	struct fnm_filter *filter = bpf_map_lookup_elem(&filters, &index);

	if (!filter)
		return 1;
	return (filter->word[fnm_filter_word(hash, c->filter_mask[kind])] & bits) == bits;
}

/* To be called after the row is written: a filter that is made anew meanwhile finds it then. */
FNM_INLINE void fnm_make_known(enum fnm_filter_kind kind, __u64 hash)
{
	__u32 zero = 0;
	struct fnm_control *settings = bpf_map_lookup_elem(&control, &zero);

	if (!settings)
		return;
#pragma unroll
	for (int generation = 0; generation < 2; generation++) {
		__u32 index = kind * 2 + generation;
		struct fnm_filter *filter = bpf_map_lookup_elem(&filters, &index);
		__u64 bits = fnm_filter_bits(hash), *word;

		if (!filter)
			continue;
		word =
		    &filter->word[fnm_filter_word(hash, settings->filter_mask[kind][generation])];
		if ((*word & bits) != bits)
			__sync_fetch_and_or(word, bits);
	}
}

FNM_INLINE int fnm_flow_live(const struct fnm_context *c, __u32 seen)
{
	__u32 idle = seen & FNM_SEEN_CLOSING ? c->flow_closing : c->flow_idle;

	return fnm_age(c->seen, seen) <= idle;
}

FNM_INLINE __u64 fnm_flow_hash(const struct fnm_context *c, const struct fnm_packet *p,
			       const int v6)
{
	if (!v6)
		return fnm_hash_flow4(c->seed, p->source.word[3], p->destination.word[3], p->ports);
	return fnm_hash_flow6(c->seed, p->source.word, p->destination.word, p->ports);
}

/* The same where the family is not known beforehand. */
FNM_INLINE __u64 fnm_hash_of(const struct fnm_context *c, const struct fnm_packet *p)
{
	return p->v6 ? fnm_flow_hash(c, p, 1) : fnm_flow_hash(c, p, 0);
}

FNM_INLINE int fnm_same4(const struct fnm_flow4 *f, const struct fnm_packet *p)
{
	return f->ports == p->ports && f->source == p->source.word[3] &&
	       f->destination == p->destination.word[3];
}

FNM_INLINE int fnm_same6(const struct fnm_flow6 *f, const struct fnm_packet *p)
{
	const __u64 *s = (const __u64 *)p->source.word, *d = (const __u64 *)p->destination.word;

	return f->ports == p->ports && ((const __u64 *)f->source)[0] == s[0] &&
	       ((const __u64 *)f->source)[1] == s[1] &&
	       ((const __u64 *)f->destination)[0] == d[0] &&
	       ((const __u64 *)f->destination)[1] == d[1];
}

/* `seen` of the flow's row, or NULL. */
FNM_INLINE __u32 *fnm_flow_find(const struct fnm_context *c, const struct fnm_packet *p, __u64 hash,
				const int v6)
{
	if (!fnm_may_know(c, FNM_FILTER_FLOWS, hash))
		return NULL;
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 mask = v6 ? fnm_flow6_mask : fnm_flow4_mask;
		__u32 index = choice ? fnm_set_b(hash, mask) : fnm_set_a(hash, mask);
		void *set = v6 ? bpf_map_lookup_elem(&flows6, &index)
			       : bpf_map_lookup_elem(&flows4, &index);

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < FNM_WAYS; i++) {
			if (v6) {
				struct fnm_flow6 *f = &((struct fnm_flow6_set *)set)->way[i];

				if (fnm_same6(f, p))
					return fnm_flow_live(c, f->seen) ? &f->seen : NULL;
			} else {
				struct fnm_flow4 *f = &((struct fnm_flow4_set *)set)->way[i];

				if (fnm_same4(f, p))
					return fnm_flow_live(c, f->seen) ? &f->seen : NULL;
			}
		}
	}
	return NULL;
}

/* What is no end, and not only the confirmation of one: a SYN, or a segment with data. */
FNM_INLINE int fnm_goes_on(const struct fnm_packet *p)
{
	return p->flags & FNM_TCP_SYN || p->end > p->l4 + p->doff;
}

/* Note that the flow lives on; written at most once in two seconds. */
FNM_INLINE void fnm_flow_touch(const struct fnm_context *c, const struct fnm_packet *p, __u32 *seen)
{
	__u32 now = c->seen | (*seen & FNM_SEEN_PROBE);

	if (p->flags & (FNM_TCP_FIN | FNM_TCP_RST))
		now |= FNM_SEEN_CLOSING;
	else if (!fnm_goes_on(p))
		now |= *seen & FNM_SEEN_CLOSING;

	if (*seen != now)
		*seen = now;
}

/* Entries that a second may bring on one CPU are counted, as even good ones cost cache lines. */
FNM_INLINE int fnm_may_insert(const struct fnm_context *c)
{
	struct fnm_work *w = fnm_work();
	__u64 second = c->now >> 10;

	if (!w)
		return 0;
	if (w->second != second) {
		w->second = second;
		w->inserted_in_second = 0;
	}
	if (w->inserted_in_second >= c->inserts_per_second) {
		w->flows_capped++;
		return 0;
	}
	w->inserted_in_second++;
	return 1;
}

/* How willingly a way is given up: empty first, then forgotten, then the longest unseen. */
FNM_INLINE __u32 fnm_worth(const struct fnm_context *c, __u32 ports, __u32 seen)
{
	if (!ports)
		return 0;
	if (!fnm_flow_live(c, seen))
		return 1;
	return 0x40000000u - fnm_age(c->seen, seen);
}

FNM_INLINE void fnm_flow_written(__u32 worth)
{
	struct fnm_work *w = fnm_work();

	if (!w)
		return;
	w->flows_inserted++;
	if (worth > 1)
		w->flows_evicted++;
}

FNM_GLOBAL int fnm_flow_insert4(const struct fnm_context *c, const struct fnm_packet *p)
{
	__u64 hash;
	struct fnm_flow4 *best = NULL;
	__u32 least = 0xffffffffu;

	if (!c || !p)
		return 0;
	hash = fnm_flow_hash(c, p, 0);
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 index =
		    choice ? fnm_set_b(hash, fnm_flow4_mask) : fnm_set_a(hash, fnm_flow4_mask);
		struct fnm_flow4_set *set = bpf_map_lookup_elem(&flows4, &index);

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < FNM_WAYS; i++) {
			struct fnm_flow4 *f = &set->way[i];
			__u32 worth = fnm_same4(f, p) ? 0 : fnm_worth(c, f->ports, f->seen);

			if (worth < least) {
				least = worth;
				best = f;
			}
		}
	}
	if (!best)
		return 0;
	/* Without ports a row matches nothing while it is half written. */
	*(volatile __u32 *)&best->ports = 0;
	best->source = p->source.word[3];
	best->destination = p->destination.word[3];
	best->seen = c->seen;
	*(volatile __u32 *)&best->ports = p->ports;
	fnm_make_known(FNM_FILTER_FLOWS, hash);
	fnm_flow_written(least);
	return 1;
}

FNM_GLOBAL int fnm_flow_insert6(const struct fnm_context *c, const struct fnm_packet *p)
{
	__u64 hash;
	struct fnm_flow6 *best = NULL;
	__u32 least = 0xffffffffu;

	if (!c || !p)
		return 0;
	hash = fnm_flow_hash(c, p, 1);
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 index =
		    choice ? fnm_set_b(hash, fnm_flow6_mask) : fnm_set_a(hash, fnm_flow6_mask);
		struct fnm_flow6_set *set = bpf_map_lookup_elem(&flows6, &index);

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < FNM_WAYS; i++) {
			struct fnm_flow6 *f = &set->way[i];
			__u32 worth = fnm_same6(f, p) ? 0 : fnm_worth(c, f->ports, f->seen);

			if (worth < least) {
				least = worth;
				best = f;
			}
		}
	}
	if (!best)
		return 0;
	*(volatile __u32 *)&best->ports = 0;
	__builtin_memcpy(best->source, p->source.word, sizeof(best->source));
	__builtin_memcpy(best->destination, p->destination.word, sizeof(best->destination));
	best->seen = c->seen;
	*(volatile __u32 *)&best->ports = p->ports;
	fnm_make_known(FNM_FILTER_FLOWS, hash);
	fnm_flow_written(least);
	return 1;
}

FNM_INLINE void fnm_flow_insert(const struct fnm_context *c, const struct fnm_packet *p)
{
	if (!fnm_may_insert(c))
		return;
	if (p->v6)
		fnm_flow_insert6(c, p);
	else
		fnm_flow_insert4(c, p);
}

FNM_INLINE int fnm_same_source(const struct fnm_source *s, const struct fnm_packet *p)
{
	return s->seen && fnm_same_address(&s->address, &p->source);
}

FNM_INLINE struct fnm_source *fnm_source_find(const struct fnm_context *c,
					      const struct fnm_packet *p)
{
	__u64 hash = fnm_hash_address(c->seed, p->source.word);

	if (!fnm_may_know(c, FNM_FILTER_SOURCES, hash))
		return NULL;
#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 index =
		    choice ? fnm_set_b(hash, fnm_source_mask) : fnm_set_a(hash, fnm_source_mask);
		struct fnm_source_set *set = bpf_map_lookup_elem(&sources, &index);

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < 2; i++) {
			struct fnm_source *s = &set->way[i];

			if (fnm_same_source(s, p))
				return fnm_age(c->seen, s->seen) <= c->source_idle ? s : NULL;
		}
	}
	return NULL;
}

/* True when the packet's source is proven and its bucket has a token, which is then taken. */
FNM_INLINE int fnm_source_admits(const struct fnm_context *c, const struct fnm_packet *p,
				 const struct fnm_tcp *tcp)
{
	struct fnm_source *s = fnm_source_find(c, p);

	if (!s)
		return 0;
	if (tcp->source_interval &&
	    !fnm_take(&s->tat, tcp->source_interval, tcp->source_burst, c->now * FNM_NS_PER_MS))
		return 0;
	if (s->seen != c->seen)
		s->seen = c->seen;
	return 1;
}

FNM_GLOBAL int fnm_source_insert(const struct fnm_context *c, const struct fnm_packet *p)
{
	struct fnm_source *best = NULL;
	__u32 least = 0xffffffffu;
	__u64 hash;

	if (!c || !p)
		return 0;
	hash = fnm_hash_address(c->seed, p->source.word);

#pragma unroll
	for (int choice = 0; choice < 2; choice++) {
		__u32 index =
		    choice ? fnm_set_b(hash, fnm_source_mask) : fnm_set_a(hash, fnm_source_mask);
		struct fnm_source_set *set = bpf_map_lookup_elem(&sources, &index);

		if (!set)
			continue;
#pragma unroll
		for (int i = 0; i < 2; i++) {
			struct fnm_source *s = &set->way[i];
			__u32 age = fnm_age(c->seen, s->seen), worth;

			if (fnm_same_source(s, p)) {
				/* Its bucket stays as empty as it is. One that had been forgotten
				 * may be in no filter any more. */
				s->seen = c->seen;
				fnm_make_known(FNM_FILTER_SOURCES, hash);
				return 1;
			}
			worth = !s->seen ? 0 : age > c->source_idle ? 1 : 0x40000000u - age;
			if (worth < least) {
				least = worth;
				best = s;
			}
		}
	}
	if (!best)
		return 0;
	*(volatile __u32 *)&best->seen = 0;
	best->address = p->source;
	best->tat = 0;
	*(volatile __u32 *)&best->seen = c->seen;
	fnm_make_known(FNM_FILTER_SOURCES, hash);
	FNM_WORKED(sources_inserted);
	if (least > 1)
		FNM_WORKED(sources_evicted);
	return 1;
}

#endif
