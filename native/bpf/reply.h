/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Segments in a client's name, written over what its server has sent: the packet is turned round,
 * and its checksum follows by helpers that know whether it is there yet.
 */
#ifndef FNM_REPLY_H
#define FNM_REPLY_H

#include "held.h"

#define FNM_CHECK_AT 16 /* of TCP */

/* Sum of a header's words but for its checksum. */
FNM_INLINE __u64 fnm_sum_header(struct fnm_tcphdr *th, void *end, __u32 words)
{
	__u64 sum = 0;

	fnm_sum_words(th, end, words, &sum);
	return sum + (__u32) ~(__u32)th->check;
}

FNM_INLINE void fnm_turn_frame(struct __sk_buff *skb)
{
	__u8 mac[12], turned[12];

	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return;
	__builtin_memcpy(turned, mac + 6, 6);
	__builtin_memcpy(turned + 6, mac, 6);
	bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0);
}

/* The IP header of a packet from the client, with so many bytes behind it. */
FNM_INLINE int fnm_turn_head(struct __sk_buff *skb, const struct fnm_packet *p, __u32 tcp_bytes)
{
	__u32 old = p->end - p->l3, new = p->l4 - p->l3 + tcp_bytes;
	__u32 addresses[8];
	__u16 length;

	if (p->v6) {
		length = bpf_htons(new - sizeof(struct ipv6hdr));
		__builtin_memcpy(addresses, &p->source, 16);
		__builtin_memcpy(addresses + 4, &p->destination, 16);
		bpf_skb_store_bytes(skb, p->l3 + 4, &length, sizeof(length), 0);
		return !bpf_skb_store_bytes(skb, p->l3 + 8, addresses, 32, 0);
	}
	length = bpf_htons(new);
	addresses[0] = p->source.word[3];
	addresses[1] = p->destination.word[3];
	bpf_l3_csum_replace(skb, p->l3 + 10, bpf_htons(old), length, sizeof(length));
	bpf_skb_store_bytes(skb, p->l3 + 2, &length, sizeof(length), 0);
	return !bpf_skb_store_bytes(skb, p->l3 + 12, addresses, 8, 0);
}

/* Write a segment of the client's over what is there: `a`, and what is held. `there` is the sum of
 * the data that are there. The packet is then to be given to the host as if it had come in. */
FNM_GLOBAL int fnm_reply(struct __sk_buff *skb, struct fnm_packet *p, const struct fnm_answer *a,
			 struct fnm_held *h, __u32 there)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 words, bytes, length = 0, header[8] = {};
	struct fnm_tcphdr *th;
	__u64 change;

	if (!p || !a)
		return FNM_R_no_state;
	words = a->options ? 8 : 5;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	change = (__u32)~fnm_fold32(fnm_sum_header(th, end, p->doff / 4) + there);
	if (h)
		length = h->length;
	if (length > FNM_HELD_BYTES)
		length = 0;
	bytes = words * 4 + length;
	header[0] = p->ports;
	header[1] = bpf_htonl(a->seq);
	header[2] = bpf_htonl(a->ack);
	header[3] = bpf_htonl(words << 28 | (__u32)a->flags << 16 | a->window);
	header[4] = th->check;
	header[5] = a->option[0];
	header[6] = a->option[1];
	header[7] = a->option[2];
#pragma unroll
	for (__u32 i = 0; i < 8; i++) {
		if (i != 4 && i < words)
			change += header[i];
	}
	if (h && length)
		change += h->sum;
	if (bpf_skb_change_tail(skb, p->l4 + bytes, 0))
		return FNM_R_no_room;
	if (bpf_skb_store_bytes(skb, p->l4, header, words == 8 ? 32 : 20, 0) ||
	    !fnm_turn_head(skb, p, bytes))
		return FNM_R_no_room;
	asm volatile("" : "+r"(length));
	if (h && length >= 1 && length <= FNM_HELD_BYTES &&
	    bpf_skb_store_bytes(skb, p->l4 + words * 4, h->data, length, 0))
		return FNM_R_no_room;
	bpf_l4_csum_replace(skb, p->l4 + FNM_CHECK_AT, 0, fnm_fold32(change), 0);
	bpf_l4_csum_replace(skb, p->l4 + FNM_CHECK_AT, bpf_htons(p->end - p->l4), bpf_htons(bytes),
			    BPF_F_PSEUDO_HDR | sizeof(__u16));
	p->end = p->l4 + bytes;
	p->doff = words * 4;
	return FNM_R_splice_answered;
}

/* The client has nothing to do with what the server has there. */
FNM_INLINE int fnm_reply_reset(struct __sk_buff *skb, struct fnm_packet *p, __u32 seq)
{
	struct fnm_answer a = {.seq = seq, .flags = FNM_TCP_RST};

	if (p->end != p->l4 + p->doff)
		return FNM_R_splice_over; /* its sum would have to be taken; it comes again */
	fnm_turn_frame(skb);
	return fnm_reply(skb, p, &a, NULL, 0);
}

#endif
