/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Answers, written over the packet that they answer: SYN-ACK with a cookie, and RST.
 *
 * Addresses and VLAN tags stay where they are in the frame, only turned round. Checksums are summed
 * up anew from the words written, because what came in may carry a partial one.
 */
#ifndef FNM_ANSWER_H
#define FNM_ANSWER_H

#include "options.h"

#define FNM_ETH_MIN 60 /* octets of a frame without checksum; shorter ones are padded anyway */

struct fnm_answer {
	__u32 seq, ack;	 /* host order */
	__u32 option[5]; /* network order */
	__u8 options;	 /* words of `option` that count */
	__u8 padding;	 /* words of end-of-options after them */
	__u8 flags;
	__u8 ttl;
	__u16 window;
};

FNM_INLINE __u16 fnm_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Sum of up to 15 words from `at`; false when they are not all in the linear part. */
FNM_INLINE int fnm_sum_words(void *at, void *end, __u32 words, __u64 *sum)
{
#pragma unroll
	for (__u32 i = 0; i < 15; i++) {
		__u32 *word = (__u32 *)at + i;

		if (i >= words)
			break;
		if ((void *)(word + 1) > end)
			return 0;
		*sum += *word;
	}
	return 1;
}

/* Give the frame the length of the answer; what is no longer than a minimal frame stays. */
FNM_INLINE int fnm_resize(struct xdp_md *ctx, __u32 have, __u32 need)
{
	if (have <= FNM_ETH_MIN && need <= have)
		return 1;
	if (have > FNM_ETH_MIN && need < FNM_ETH_MIN)
		need = FNM_ETH_MIN;
	if (need == have)
		return 1;
	if (FNM_FAULT(FNM_FAULT_RESIZE))
		return 0;
	return !bpf_xdp_adjust_tail(ctx, (int)need - (int)have);
}

FNM_INLINE void fnm_turn_ethernet(void *data)
{
	__u64 first = *(__u64 *)data;
	__u32 last = *(__u32 *)(data + 8);

	*(__u64 *)data = first >> 48 | (__u64)last << 16 | first << 48;
	*(__u32 *)(data + 8) = first >> 16;
}

FNM_INLINE void fnm_write_ip4(void *at, const struct fnm_packet *p, __u32 tcp_length, __u8 ttl)
{
	__u32 *word = at;
	__u32 first = bpf_htonl(0x45000000 | (sizeof(struct iphdr) + tcp_length));
	__u32 second = bpf_htonl(0x4000); /* identification 0, don't fragment */
	__u32 third = bpf_htonl((__u32)ttl << 24 | IPPROTO_TCP << 16);
	__u32 from = p->destination.word[3], to = p->source.word[3];

	word[0] = first;
	word[1] = second;
	word[2] = third | (__u32)fnm_fold((__u64)first + second + third + from + to) << 16;
	word[3] = from;
	word[4] = to;
}

FNM_INLINE void fnm_write_ip6(void *at, const struct fnm_packet *p, __u32 tcp_length, __u8 ttl)
{
	__u32 *word = at;

	word[0] = bpf_htonl(0x60000000);
	word[1] = bpf_htonl(tcp_length << 16 | IPPROTO_TCP << 8 | ttl);
	__builtin_memcpy(&word[2], &p->destination, sizeof(p->destination));
	__builtin_memcpy(&word[6], &p->source, sizeof(p->source));
}

FNM_INLINE __u64 fnm_sum_addresses(const struct fnm_packet *p, const int v6)
{
	const __u32 *s = p->source.word, *d = p->destination.word;

	if (!v6)
		return (__u64)s[3] + d[3];
	return (__u64)s[0] + s[1] + s[2] + s[3] + d[0] + d[1] + d[2] + d[3];
}

/* Of the pseudo header of a segment of so many bytes. */
FNM_INLINE __u64 fnm_sum_pseudo(const struct fnm_packet *p, __u32 bytes, const int v6)
{
	return fnm_sum_addresses(p, v6) + bpf_htonl(IPPROTO_TCP) + bpf_htonl(bytes);
}

/* Write the segment but for its checksum, of which `sum` becomes the sum; the first five words are
 * known to be there. */
FNM_INLINE int fnm_write_tcp(__u32 *tcp, void *end, const struct fnm_answer *a, __u32 ports,
			     __u64 *sum)
{
	__u32 words = 5 + a->options + a->padding;
	__u32 seq = bpf_htonl(a->seq), ack = bpf_htonl(a->ack);
	__u32 control = bpf_htonl(words << 28 | (__u32)a->flags << 16 | a->window);

	*sum += (__u64)ports + seq + ack + control;
	tcp[0] = ports;
	tcp[1] = seq;
	tcp[2] = ack;
	tcp[3] = control;
	if (a->options) {
		if ((void *)(tcp + 6) > end)
			return 0;
		tcp[5] = a->option[0];
		*sum += a->option[0];
	}
	if (a->options >= 4) {
		if ((void *)(tcp + 9) > end)
			return 0;
		tcp[6] = a->option[1];
		tcp[7] = a->option[2];
		tcp[8] = a->option[3];
		*sum += (__u64)a->option[1] + a->option[2] + a->option[3];
	} else if (a->options > 1) {
		if ((void *)(tcp + 7) > end)
			return 0;
		tcp[6] = a->option[1];
		*sum += a->option[1];
		if (a->options > 2) {
			if ((void *)(tcp + 8) > end)
				return 0;
			tcp[7] = a->option[2];
			*sum += a->option[2];
		}
	}
	if (a->options == 5) {
		if ((void *)(tcp + 10) > end)
			return 0;
		tcp[9] = a->option[4];
		*sum += a->option[4];
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; a->padding && i < FNM_OPTIONS_MAX / 4; i++) {
		__u32 *pad = tcp + 5 + i;

		if (i >= a->options + a->padding)
			break;
		if ((void *)(pad + 1) > end)
			return 0;
		if (i >= a->options)
			*pad = 0;
	}
	return 1;
}

/* Write the whole answer; false when the frame cannot hold it. */
FNM_INLINE int fnm_write(struct xdp_md *ctx, const struct fnm_packet *p, const struct fnm_answer *a,
			 const int v6)
{
	__u32 ip_length = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 words = 5 + a->options + a->padding;
	__u32 tcp_length = words * 4, l3 = p->l3;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 have = end - data, need = l3 + ip_length + tcp_length;
	__u32 *tcp;
	__u64 sum;
	void *ip;

	if (p->end > have) /* more than the linear part: the rest must go, too */
		have = bpf_xdp_get_buff_len(ctx);
	if (!fnm_resize(ctx, have, need)) {
		FNM_WORKED(resize_failed);
		return 0;
	}
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = fnm_at(data, l3, FNM_MAX_L3);
	tcp = ip + ip_length;
	if (!ip || data + sizeof(struct ethhdr) > end || (void *)(tcp + 5) > end)
		return 0;
	fnm_turn_ethernet(data);
	if (v6)
		fnm_write_ip6(ip, p, tcp_length, a->ttl);
	else
		fnm_write_ip4(ip, p, tcp_length, a->ttl);
	sum = fnm_sum_pseudo(p, tcp_length, v6);
	if (!fnm_write_tcp(tcp, end, a, fnm_packed_ports(p->ports), &sum))
		return 0;
	tcp[4] = fnm_fold(sum); /* urgent pointer 0 */
	return 1;
}

/* `done`, or that there was no room for it. */
FNM_INLINE int fnm_write_or(struct xdp_md *ctx, const struct fnm_packet *p,
			    const struct fnm_answer *a, int done)
{
	return (p->v6 ? fnm_write(ctx, p, a, 1) : fnm_write(ctx, p, a, 0)) ? done : FNM_R_no_room;
}

FNM_GLOBAL int fnm_answer_reset(struct xdp_md *ctx, const struct fnm_packet *p, __u32 seq,
				__u32 ttl)
{
	struct fnm_answer a = {.seq = seq, .flags = FNM_TCP_RST, .ttl = ttl};

	if (!p)
		return FNM_R_no_state;
	return fnm_write_or(ctx, p, &a, FNM_R_reset_sent);
}

/* The options of the SYN-ACK, in the order in which Linux writes them. */
FNM_INLINE void fnm_offer(struct fnm_answer *a, const struct fnm_syn *syn, __u32 mss, __u32 tsval,
			  int sack, int wscale, __u8 own_wscale)
{
	a->option[0] = bpf_htonl(0x02040000 | mss);
	a->options = 1;
	if (!syn->timestamps)
		return;
	a->option[1] = sack ? FNM_WORD(4, 2, 8, 10) : FNM_WORD(1, 1, 8, 10);
	a->option[2] = bpf_htonl(tsval);
	a->option[3] = syn->tsval;
	a->options = 4;
	if (!wscale)
		return;
	a->option[4] = bpf_htonl(0x01030300 | own_wscale);
	a->options = 5;
}

#endif
