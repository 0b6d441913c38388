/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The first data of a client whose server has not answered yet: kept until it has, so that nobody
 * waits for a retransmission. A client that has proven itself has two segments here, which is what
 * its window lets it send, for seconds; they lie where its hash says, and where that is taken they
 * are lost as any may be.
 */
#ifndef FNM_HELD_H
#define FNM_HELD_H

#include "backends.h"
#include "translate.h"

#define FNM_HELD_KEPT_MS 3000
#define FNM_HELD_WRITTEN 2 /* no tag: those are odd */
#define FNM_HELD_PIECE	 512

#define FNM_HELD_EACH 2

FNM_INLINE struct fnm_held *fnm_held_place(__u64 hash, __u32 which)
{
	__u32 index = ((__u32)hash & (FNM_HELD / FNM_HELD_EACH - 1)) * FNM_HELD_EACH + which;

	return bpf_map_lookup_elem(&held, &index);
}

/* Sum of the first `length` bytes, those that make it a multiple of four being 0. */
FNM_INLINE __u32 fnm_held_sum(struct fnm_held *h, __u32 length)
{
	__u32 total = (length + 3) & ~3u;
	__s64 sum = 0;

#pragma unroll
	for (__u32 i = 0; i < FNM_HELD_ROOM / FNM_HELD_PIECE; i++) {
		__u32 piece = total > i * FNM_HELD_PIECE ? total - i * FNM_HELD_PIECE : 0;

		if (piece > FNM_HELD_PIECE)
			piece = FNM_HELD_PIECE;
		asm volatile("" : "+r"(piece));
		if (piece && piece <= FNM_HELD_PIECE)
			sum = bpf_csum_diff(NULL, 0, (__be32 *)(h->data + i * FNM_HELD_PIECE),
					    piece & ~3u, sum);
	}
	return sum;
}

FNM_INLINE int fnm_held_read(struct xdp_md *ctx, struct fnm_held *h, __u32 from, __u32 length)
{
	asm volatile("" : "+r"(length));
	if (length < 1 || length > FNM_HELD_BYTES)
		return !length;
	if (bpf_xdp_load_bytes(ctx, from, h->data, length))
		return 0;
#pragma unroll
	for (int i = 0; i < 3; i++)
		h->data[length + i] = 0;
	return 1;
}

/* Keep `length` bytes from `from` on; true when they are kept now, or were before. */
FNM_GLOBAL int fnm_hold_part(struct xdp_md *ctx, const struct fnm_context *c, __u64 hash,
			     __u32 which, __u32 from_length)
{
	__u32 from = from_length >> 16, length = from_length & 0xffff;
	struct fnm_held *h = fnm_held_place(hash, which);
	__u32 tag = fnm_splice_tag(hash), old;

	if (!c || !h || length > FNM_HELD_BYTES)
		return 0;
	old = h->tag;
	if (old == FNM_HELD_WRITTEN)
		return 0;
	if (old && fnm_since(c->now, h->at) < FNM_HELD_KEPT_MS)
		return old == tag;
	if (__sync_val_compare_and_swap(&h->tag, old, FNM_HELD_WRITTEN) != old)
		return 0;
	h->at = fnm_moment(c->now);
	h->flags = 0;
	if (!fnm_held_read(ctx, h, from, length)) {
		__sync_lock_test_and_set(&h->tag, 0);
		return 0;
	}
	h->length = length;
	h->sum = fnm_held_sum(h, length);
	__sync_lock_test_and_set(&h->tag, tag);
	return 1;
}

/* What is kept of a flow, NULL for nothing. */
FNM_INLINE struct fnm_held *fnm_held_of(const struct fnm_context *c, __u64 hash, __u32 which)
{
	struct fnm_held *h = fnm_held_place(hash, which);

	return h && h->tag == fnm_splice_tag(hash) && fnm_since(c->now, h->at) < FNM_HELD_KEPT_MS
		   ? h
		   : NULL;
}

/* Whether what is kept, in one part or two, is what was sent: a checksum is made anew for it. */
FNM_INLINE int fnm_held_good(struct xdp_md *ctx, const struct fnm_packet *p,
			     const struct fnm_held *first, const struct fnm_held *second)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th = fnm_tcp_of(p, data, end);
	__u16 more;
	__u64 sum;

	if (!th)
		return 0;
	if (fnm_ambiguous(p, th))
		return 1;
	sum = fnm_sum_pseudo(p, p->end - p->l4, p->v6) + first->sum;
	if (second) {
		more = ~fnm_fold(second->sum);
		/* After an odd number of bytes each one stands in the other half. */
		sum += first->length & 1 ? (__u16)(more << 8 | more >> 8) : more;
	}
	return fnm_sum_words(th, end, p->doff / 4, &sum) && !fnm_fold(sum);
}

FNM_INLINE void fnm_held_drop(struct fnm_held *h)
{
	__sync_lock_test_and_set(&h->tag, 0);
}

/* What another connection of that name has left. */
FNM_GLOBAL int fnm_held_forget(__u64 hash)
{
#pragma unroll
	for (__u32 which = 0; which < FNM_HELD_EACH; which++) {
		struct fnm_held *h = fnm_held_place(hash, which);

		if (h && h->tag == fnm_splice_tag(hash))
			fnm_held_drop(h);
	}
	return 0;
}

/* Keep what a segment carries, `ahead` bytes after the client's first: the first segment, or one
 * that follows it; in pieces of `most` bytes, as a link may have put segments together. One that is
 * kept already stays as it is. */
FNM_GLOBAL int fnm_hold(struct xdp_md *ctx, const struct fnm_context *c, const struct fnm_packet *p,
			__u64 hash, __u32 ahead_most)
{
	__u32 ahead = ahead_most >> 16, most = ahead_most & 0xffff, which = ahead ? 1 : 0;
	struct fnm_held *first, *second = NULL;
	__u32 from, whole, length;

	if (!c || !p)
		return 0;
	from = p->l4 + p->doff;
	whole = p->end > from ? p->end - from : 0;
	length = whole < most ? whole : most;
	if (ahead) {
		first = fnm_held_of(c, hash, 0);
		if (!first || first->length != ahead)
			return 0;
	}
	/* A second part is of the first as it was: one that is kept anew may be longer. */
	if (!which && !fnm_held_of(c, hash, 0))
		fnm_held_forget(hash);
	if (!fnm_hold_part(ctx, c, hash, which, from << 16 | length))
		return 0;
	first = fnm_held_of(c, hash, which);
	if (!first || first->length != length)
		return 1;
	if (length < whole) {
		/* What is in neither part could not be told from what was damaged. */
		if (which || whole - length > most ||
		    !fnm_hold_part(ctx, c, hash, 1, (from + length) << 16 | (whole - length)))
			second = NULL;
		else
			second = fnm_held_of(c, hash, 1);
		if (!second || second->length != whole - length) {
			fnm_held_drop(first);
			return 0;
		}
	}
	if (!fnm_held_good(ctx, p, first, second)) {
		fnm_held_drop(first);
		if (second)
			fnm_held_drop(second);
		return 0;
	}
	if (second)
		second->flags = p->flags & (FNM_TCP_FIN | FNM_TCP_PSH);
	else
		first->flags = p->flags & (FNM_TCP_FIN | FNM_TCP_PSH);
	return 1;
}

#endif
