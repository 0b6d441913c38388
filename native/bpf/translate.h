/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Words of a segment from one numbering to the other, and the checksum after them.
 *
 * Sums are of 32-bit words as they are in memory; what goes is added as its complement (RFC 1624).
 */
#ifndef FNM_TRANSLATE_H
#define FNM_TRANSLATE_H

#include "answer.h"
#include "splices.h"

#define FNM_OPTION_SACK	     5
#define FNM_OPTION_TIMESTAMP 8

FNM_INLINE __u64 fnm_changed(__u32 old, __u32 new)
{
	return (__u64)(__u32)~old + new;
}

FNM_INLINE __u32 fnm_moved(__u32 network, __u32 by)
{
	return bpf_htonl(bpf_ntohl(network) + by);
}

/* A sum of such as one of 32 bits. */
FNM_INLINE __u32 fnm_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* The fourth word of a header with its window shifted, right where `by` is positive. */
FNM_INLINE __u32 fnm_scaled(__u32 word, __s32 by)
{
	__u32 control = bpf_ntohl(word), window = control & 0xffff;

	window = by > 0 ? window >> (by & 15) : window << (-by & 15);
	if (window > 0xffff)
		window = 0xffff;
	return bpf_htonl((control & 0xffff0000) | window);
}

/* Whether the checksum may still have to be completed: on a virtual link it may be the sum of the
 * pseudo header alone. A complete one looks like that once in 65,536 times. */
FNM_INLINE int fnm_ambiguous(const struct fnm_packet *p, const struct fnm_tcphdr *th)
{
	return fnm_partial &&
	       th->check == (__u16)~fnm_fold(fnm_sum_pseudo(p, p->end - p->l4, p->v6));
}

/* A checksum that is right whether or not somebody is going to complete it. Where that cannot be
 * told, the urgent pointer, which means nothing without URG, takes the difference. */
FNM_INLINE void fnm_mend(const struct fnm_packet *p, struct fnm_tcphdr *th, __u64 change)
{
	if (!fnm_ambiguous(p, th)) {
		th->check = fnm_fold((__u64)(__u16)~th->check + change);
		return;
	}
	if (!(p->flags & FNM_TCP_URG))
		th->urgent = ~fnm_fold((__u64)th->urgent + (__u32)~fnm_fold32(change));
}

/* Options may lie at any offset. */
FNM_INLINE void fnm_translate_word(__u8 *byte, __u32 at, __u32 by)
{
	__u32 value = (__u32)byte[at & 63] << 24 | byte[(at + 1) & 63] << 16 |
		      byte[(at + 2) & 63] << 8 | byte[(at + 3) & 63];

	value += by;
	byte[at & 63] = value >> 24;
	byte[(at + 1) & 63] = value >> 16;
	byte[(at + 2) & 63] = value >> 8;
	byte[(at + 3) & 63] = value;
}

/* What has to be moved by how much; a `*_by` of 0 leaves it. */
struct fnm_shift {
	__u32 tsval_by, tsecr_by, sack_by;
};

FNM_INLINE void fnm_translate_options(__u8 *byte, __u32 length, const struct fnm_shift *shift)
{
	__u32 at = 0;

#pragma clang loop unroll(disable)
	for (int turn = 0; turn < FNM_OPTIONS_MAX; turn++) {
		__u8 kind, size;

		at &= 63;
		if (at >= length)
			break;
		kind = byte[at & 63];
		if (kind == 0)
			break;
		if (kind == 1) {
			at++;
			continue;
		}
		size = byte[(at + 1) & 63];
		if (at + 1 >= length || size < 2 || at + size > length)
			break;
		if (kind == FNM_OPTION_TIMESTAMP && size == 10) {
			fnm_translate_word(byte, at + 2, shift->tsval_by);
			fnm_translate_word(byte, at + 6, shift->tsecr_by);
		} else if (kind == FNM_OPTION_SACK) {
#pragma unroll
			for (__u32 edge = 0; edge < 8; edge++) {
				if (6 + edge * 4 <= size)
					fnm_translate_word(byte, at + 2 + edge * 4, shift->sack_by);
			}
		}
		at += size;
	}
}

/* An option area as it has come in, and as it goes out. */
struct fnm_areas {
	__u8 old[40], new[64];
};

/* Options of a segment in any layout: the change of the sum, 0 for none. */
FNM_INLINE __u32 fnm_move_options(void *ctx, const enum fnm_hook hook, const struct fnm_packet *p,
				  const struct fnm_shift *shift)
{
	__u32 length = p->doff - sizeof(struct fnm_tcphdr), change;
	__u32 at = p->l4 + sizeof(struct fnm_tcphdr);
	struct fnm_areas areas = {};

	if (length < 4 || length > sizeof(areas.old) || fnm_load(ctx, hook, at, areas.old, length))
		return 0;
	__builtin_memcpy(areas.new, areas.old, sizeof(areas.old));
	fnm_translate_options(areas.new, length, shift);
	change = bpf_csum_diff((__be32 *)areas.old, sizeof(areas.old), (__be32 *)areas.new,
			       sizeof(areas.old), 0);
	asm volatile("" : "+r"(length));
	if (length < 4 || length > sizeof(areas.old) || fnm_store(ctx, hook, at, areas.new, length))
		return 0;
	return change;
}

#endif
