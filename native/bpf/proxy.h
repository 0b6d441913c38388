/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The SYN proxy: what a TCP segment to a protected port meets. */
#ifndef FNM_PROXY_H
#define FNM_PROXY_H

#include "answer.h"
#include "sightings.h"
#include "splice_in.h"

FNM_INLINE int fnm_flags_bad(__u8 flags)
{
	__u8 main = flags & (FNM_TCP_FIN | FNM_TCP_SYN | FNM_TCP_RST | FNM_TCP_PSH | FNM_TCP_ACK |
			     FNM_TCP_URG);
	__u8 two = flags & (FNM_TCP_FIN | FNM_TCP_SYN | FNM_TCP_RST);
	__u8 xmas = FNM_TCP_FIN | FNM_TCP_PSH | FNM_TCP_URG;

	return !main || two & (two - 1) || (main & (xmas | FNM_TCP_ACK)) == xmas;
}

/* Sources that no genuine segment has (RFC 6890, RFC 1122 section 3.2.1.3). */
FNM_INLINE int fnm_source_bad(const struct fnm_packet *p)
{
	const __u32 *s = p->source.word, *d = p->destination.word;

	if (!(__u16)p->ports || !(p->ports >> 16))
		return 1;
	if (!p->v6) {
		__u8 first = s[3] & 0xff;

		return !first || first == 127 || first >= 224 || s[3] == d[3];
	}
	if ((s[0] & 0xff) == 0xff)
		return 1;
	if (!(s[0] | s[1]) && (s[2] == FNM_MAPPED || (!s[2] && bpf_ntohl(s[3]) <= 1)))
		return 1;
	return !((s[0] ^ d[0]) | (s[1] ^ d[1]) | (s[2] ^ d[2]) | (s[3] ^ d[3]));
}

/* What carries data is left to the server: only what we may answer has to be right here. */
FNM_GLOBAL int fnm_checksum_bad(struct xdp_md *ctx, const struct fnm_packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *at;
	__u64 sum = 0;

	if (!p)
		return 0;
	at = fnm_at(data, p->l3, FNM_MAX_L3);
	if (!p->v6 && at && (!fnm_sum_words(at, end, (p->l4 - p->l3) / 4, &sum) || fnm_fold(sum)))
		return 1;
	if (p->end != p->l4 + p->doff)
		return 0;
	sum = fnm_sum_pseudo(p, p->doff, p->v6);
	at = fnm_at(data, p->l4, FNM_MAX_L4);
	return at && (!fnm_sum_words(at, end, p->doff / 4, &sum) || fnm_fold(sum));
}

/* Answers that one /24 or /48 may draw: a reflected SYN is backscatter at somebody else. */
FNM_INLINE int fnm_ceiling(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u64 now)
{
	const __u32 *s = p->source.word;
	__u64 prefix = p->v6 ? (__u64)s[0] << 32 | (s[1] & bpf_htonl(0xffff0000))
			     : s[3] & bpf_htonl(0xffffff00);
	__u32 index = fnm_mix(prefix, 0) >> 48;
	__u64 *tat;

	if (!tcp->ceiling_interval)
		return 1;
	tat = bpf_map_lookup_elem(&ceilings, &index);
	return !tat ||
	       fnm_take(tat, tcp->ceiling_interval, tcp->ceiling_burst, now * FNM_NS_PER_MS);
}

#ifdef FNM_ORACLE
/* Test build: cookies of the kernel that this runs on, so that it can be the protected server. */
FNM_INLINE __u32 fnm_cookie(const struct fnm_tcp *tcp, const struct fnm_packet *p, void *data,
			    void *end, __u32 seq, __u32 index, __u32 count, const int v6)
{
	void *ip = fnm_at(data, p->l3, FNM_MAX_L3), *th = fnm_at(data, p->l4, FNM_MAX_L4);
	__s64 cookie = 0;

	(void)tcp, (void)seq, (void)index, (void)count;
	if (!ip || !th || ip + sizeof(struct ipv6hdr) > end)
		return 0;
		/* The helper's length must be a constant for the verifier. */
#pragma unroll
	for (__u32 length = 20; length <= 60; length += 4) {
		if (p->doff != length || th + length > end)
			continue;
		cookie = v6 ? bpf_tcp_raw_gen_syncookie_ipv6(ip, th, length)
			    : bpf_tcp_raw_gen_syncookie_ipv4(ip, th, length);
	}
	return cookie;
}

FNM_INLINE int fnm_valid(const struct fnm_tcp *tcp, const struct fnm_packet *p, void *data,
			 void *end, __u32 seq, __u32 ack, __u32 count, const int v6)
{
	void *ip = fnm_at(data, p->l3, FNM_MAX_L3), *th = fnm_tcp_of(p, data, end);

	(void)tcp, (void)seq, (void)ack, (void)count;
	if (!ip || !th || ip + (v6 ? 40 : 20) > end)
		return 0;
	if (v6)
		return !bpf_tcp_raw_check_syncookie_ipv6(ip, th);
	return !bpf_tcp_raw_check_syncookie_ipv4(ip, th);
}
#else
FNM_INLINE __u32 fnm_cookie(const struct fnm_tcp *tcp, const struct fnm_packet *p, void *data,
			    void *end, __u32 seq, __u32 index, __u32 count, const int v6)
{
	(void)data;
	(void)end;
	return fnm_cookie_make(tcp, p, seq, index, count, v6);
}

FNM_INLINE int fnm_valid(const struct fnm_tcp *tcp, const struct fnm_packet *p, void *data,
			 void *end, __u32 seq, __u32 ack, __u32 count, const int v6)
{
	(void)data;
	(void)end;
	return fnm_cookie_valid(tcp, p, seq, ack, count, v6);
}
#endif

/* The flags of the SYN-ACK: ECN only when the cookie can carry it (RFC 3168 section 6.1.1). */
FNM_INLINE int fnm_wants_ecn(const struct fnm_packet *p, const struct fnm_slot *slot)
{
	return slot->flags & FNM_TCP_ECN && fnm_asks_ecn(p);
}

FNM_INLINE int fnm_answer_syn(struct xdp_md *ctx, struct fnm_context *c, const struct fnm_packet *p,
			      const struct fnm_slot *slot, const int v6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct fnm_tcp *tcp = &slot->tcp;
	struct fnm_syn syn = p->syn;
	struct fnm_answer a = {};
	struct fnm_tcphdr *th;
	__u32 tsval = 0, seq, used;
	int sack, wscale;

	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	seq = bpf_ntohl(th->seq);
	if (slot->mode != FNM_ISN_SYNC || !(slot->flags & FNM_TCP_TIMESTAMPS))
		syn.timestamps = 0;
	sack = syn.sack && slot->flags & FNM_TCP_SACK;
	wscale = syn.wscale != FNM_NO_WSCALE && slot->flags & FNM_TCP_WSCALE;
	a.flags = FNM_TCP_SYN | FNM_TCP_ACK;
	if (syn.timestamps) {
		__u32 options = wscale ? syn.wscale : FNM_NO_WSCALE;

		if (sack)
			options |= FNM_TS_SACK;
		if (fnm_wants_ecn(p, slot)) {
			options |= FNM_TS_ECN;
			a.flags |= FNM_TCP_ECE;
		}
		tsval = fnm_ts_cookie(tcp, slot->flags, p, options, c->now, v6);
	}
	a.seq = fnm_cookie(tcp, p, data, end, seq, fnm_mss_index(syn.mss, v6),
			   fnm_cookie_minute(tcp, c->now, &c->minute), v6);
	a.ack = seq + 1;
	a.window = tcp->window;
	a.ttl = tcp->ttl;
	fnm_offer(&a, &syn, v6 ? tcp->mss6 : tcp->mss4, tsval, sack, wscale, tcp->wscale);
	used = sizeof(*th) + a.options * 4;
	a.padding = p->doff > used ? (p->doff - used) / 4 : 0;
	return fnm_write(ctx, p, &a, v6) ? FNM_R_cookie_sent : FNM_R_no_room;
}

FNM_GLOBAL int fnm_answer_syn4(struct xdp_md *ctx, struct fnm_context *c,
			       const struct fnm_packet *p, const struct fnm_slot *slot)
{
	return c && p && slot ? fnm_answer_syn(ctx, c, p, slot, 0) : FNM_R_no_state;
}

FNM_GLOBAL int fnm_answer_syn6(struct xdp_md *ctx, struct fnm_context *c,
			       const struct fnm_packet *p, const struct fnm_slot *slot)
{
	return c && p && slot ? fnm_answer_syn(ctx, c, p, slot, 1) : FNM_R_no_state;
}

/* The reason why a segment of a sighted flow passes; FNM_R_COUNT when it does not. */
FNM_INLINE int fnm_admit_sighted(const struct fnm_context *c, struct fnm_slot *slot, __u64 hash,
				 const struct fnm_tcphdr *th)
{
	switch (fnm_sighted(c, hash, th)) {
	case FNM_SIGHTED_LEARNED:
		return fnm_take_one(&slot->tcp.learned, c->now) ? FNM_R_learned_flow : FNM_R_COUNT;
	case FNM_SIGHTED_ANSWER:
		return fnm_take_one(&slot->tcp.syn_ack_in, c->now) ? FNM_R_syn_ack_in : FNM_R_COUNT;
	default:
		return FNM_R_COUNT;
	}
}

/* A segment that opens nothing and belongs to no known flow. */
FNM_INLINE int fnm_judge_unknown(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
				 struct fnm_slot *slot, __u64 hash, const int v6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcp *tcp = &slot->tcp;
	struct fnm_tcphdr *th;
	__u32 seq, ack;
	int reason;

	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	seq = bpf_ntohl(th->seq);
	ack = bpf_ntohl(th->ack);
	if (!(p->flags & FNM_TCP_ACK))
		return FNM_R_cookie_bad;
	if (slot->mode == FNM_SPLICE) {
		reason = fnm_splice_try(ctx, c, p, slot, hash);
		if (reason != FNM_R_COUNT)
			return reason;
		th = fnm_tcp_of(p, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
		if (!th)
			return FNM_R_bad_transport;
	} else if (fnm_valid(tcp, p, data, end, seq, ack,
			     fnm_cookie_minute(tcp, c->now, &c->minute), v6)) {
		fnm_source_insert(c, p);
		if (slot->mode != FNM_ISN_SYNC)
			return fnm_answer_reset(ctx, p, ack, tcp->ttl);
		fnm_flow_insert(c, p);
		return FNM_R_cookie_good;
	}
	reason = fnm_admit_sighted(c, slot, hash, th);
	if (reason != FNM_R_COUNT)
		return reason;
	if (fnm_source_admits(c, p, tcp)) {
		fnm_flow_insert(c, p);
		return FNM_R_proven_ack;
	}
	if (c->now < tcp->grace_until) {
		if (!fnm_take_one(&tcp->grace, c->now))
			return FNM_R_cookie_bad;
		fnm_sighting_note(c, hash, seq, ack, 0);
		return FNM_R_grace;
	}
	/* Here no rate means that nothing passes. */
	if (!tcp->unknown.interval || !fnm_take_one(&tcp->unknown, c->now))
		return FNM_R_cookie_bad;
	return FNM_R_unknown_ack;
}

FNM_INLINE int fnm_judge_syn_ack(const struct fnm_context *c, struct fnm_packet *p,
				 struct xdp_md *ctx, struct fnm_slot *slot, __u64 hash)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th;

	if (!fnm_take_one(&slot->tcp.syn_ack_in, c->now))
		return FNM_R_syn_ack_limited;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	fnm_sighting_note(c, hash, bpf_ntohl(th->seq), bpf_ntohl(th->ack),
			  FNM_SEEN_LEARNED | FNM_SEEN_ANSWER);
	return FNM_R_syn_ack_in;
}

/* RST of a flow that is not in the table: of one that was learned, or the answer to a SYN of the
 * server's own (RFC 9293 section 3.10.7.1: sequence number 0, with ACK). Else it is what those send
 * in whose name a flood comes. */
FNM_INLINE int fnm_judge_rst(struct xdp_md *ctx, const struct fnm_context *c,
			     const struct fnm_packet *p, struct fnm_slot *slot, __u64 hash)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th = fnm_tcp_of(p, data, end);
	int reason;

	if (!th)
		return FNM_R_bad_transport;
	reason = fnm_admit_sighted(c, slot, hash, th);
	if (reason != FNM_R_COUNT)
		return reason;
	if (!(p->flags & FNM_TCP_ACK) || th->seq)
		return FNM_R_rst_unknown;
	return fnm_take_one(&slot->tcp.syn_ack_in, c->now) ? FNM_R_syn_ack_in
							   : FNM_R_syn_ack_limited;
}

/* A SYN in a known flow is the server's affair (RFC 5961 section 4), but not as many as anybody
 * likes: one whose flow has ended opens another there. */
FNM_INLINE int fnm_admit_syn(const struct fnm_context *c, const struct fnm_packet *p,
			     struct fnm_tcp *tcp)
{
	return fnm_source_admits(c, p, tcp) ||
	       (tcp->unknown.interval && fnm_take_one(&tcp->unknown, c->now));
}

FNM_INLINE int fnm_judge_tcp(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			     struct fnm_slot *slot, const int v6)
{
	__u8 main = p->flags & (FNM_TCP_SYN | FNM_TCP_ACK | FNM_TCP_RST);
	__u64 hash;
	__u32 *seen;

	if (fnm_flags_bad(p->flags))
		return FNM_R_bad_flags;
	if (fnm_source_bad(p))
		return FNM_R_bad_source;
	if (fnm_verify && fnm_checksum_bad(ctx, p))
		return FNM_R_bad_checksum;
	hash = fnm_flow_hash(c, p, v6);
	seen = fnm_flow_find(c, p, hash, v6);
	if (seen && *seen & FNM_SEEN_PROBE && main != FNM_TCP_SYN &&
	    fnm_backend_went_on(c, p, hash))
		*seen &= ~FNM_SEEN_PROBE;
	if (seen && (main != FNM_TCP_SYN || fnm_admit_syn(c, p, &slot->tcp))) {
		fnm_flow_touch(c, p, seen);
		return FNM_R_known_flow;
	}
	if (main == FNM_TCP_SYN) {
		if (!seen && slot->mode != FNM_SPLICE && fnm_source_admits(c, p, &slot->tcp)) {
			fnm_flow_insert(c, p);
			return FNM_R_proven_syn;
		}
		if (!fnm_ceiling(&slot->tcp, p, c->now))
			return FNM_R_cookie_limited;
		fnm_read_syn(ctx, p, v6);
		if (slot->mode == FNM_SPLICE)
			return fnm_splice_syn(ctx, c, p, slot, hash);
		return v6 ? fnm_answer_syn6(ctx, c, p, slot) : fnm_answer_syn4(ctx, c, p, slot);
	}
	if (main == (FNM_TCP_SYN | FNM_TCP_ACK))
		return fnm_judge_syn_ack(c, p, ctx, slot, hash);
	if (main & FNM_TCP_RST)
		return fnm_judge_rst(ctx, c, p, slot, hash);
	return fnm_judge_unknown(ctx, c, p, slot, hash, v6);
}

#endif
