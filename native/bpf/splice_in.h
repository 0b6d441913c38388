/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The translating proxy where clients' segments come in: it answers their SYNs, and makes the SYN
 * for the server out of the ACK that proves a client.
 *
 * All of it happens at the outer edge. The stack, its filters and the server see one connection, in
 * the server's numbers.
 */
#ifndef FNM_SPLICE_IN_H
#define FNM_SPLICE_IN_H

#include "held.h"
#include "splice_cookie.h"
#include "translate.h"

#define FNM_ASK_AGAIN_MS 200
#define FNM_TS_BYTES	 12 /* of the option, with what it is padded by */

FNM_INLINE int fnm_takes(const struct fnm_slot *slot, const struct fnm_backend *b, __u16 flag)
{
	return (b && b->known & flag ? b->flags : slot->flags) & flag;
}

FNM_INLINE void fnm_splice_offers(struct fnm_offers *o, const struct fnm_packet *p,
				  const struct fnm_slot *slot, const struct fnm_backend *b)
{
	const struct fnm_syn *syn = &p->syn;

	o->mss = syn->mss;
	o->timestamps = syn->timestamps && fnm_takes(slot, b, FNM_TCP_TIMESTAMPS);
	o->sack = syn->sack && fnm_takes(slot, b, FNM_TCP_SACK);
	o->wscale = syn->wscale != FNM_NO_WSCALE && fnm_takes(slot, b, FNM_TCP_WSCALE)
			? syn->wscale
			: FNM_NO_WSCALE;
	o->ecn = o->timestamps && fnm_takes(slot, b, FNM_TCP_ECN) && fnm_asks_ecn(p);
}

/* Options in the order in which Linux writes them. */
FNM_INLINE void fnm_splice_options(struct fnm_answer *a, const struct fnm_offers *o, __u32 mss,
				   __u32 tsval, __u32 tsecr, __u8 wscale)
{
	const struct fnm_syn syn = {.timestamps = 1, .tsval = tsecr};
	int scaled = o->wscale != FNM_NO_WSCALE;

	if (o->timestamps) {
		fnm_offer(a, &syn, mss, tsval, o->sack, scaled, wscale);
		return;
	}
	a->option[0] = bpf_htonl(0x02040000 | mss);
	a->options = 1;
	if (o->sack) {
		a->option[1] = FNM_WORD(1, 1, 4, 2);
		a->options = 2;
	}
	if (!scaled)
		return;
	if (o->sack)
		a->option[2] = bpf_htonl(0x01030300 | wscale);
	else
		a->option[1] = bpf_htonl(0x01030300 | wscale);
	a->options++;
}

FNM_INLINE __u32 fnm_splice_make(struct fnm_context *c, const struct fnm_packet *p,
				 const struct fnm_tcp *tcp, const struct fnm_offers *o, __u32 isn)
{
	__u32 count = fnm_cookie_minute(tcp, c->now, &c->minute) |
		      (o->timestamps ? FNM_COOKIE_TIMESTAMPS : 0);
	__u32 data = fnm_offers_data(o);

	return p->v6 ? fnm_splice_cookie(tcp, p, isn, data, count, 1)
		     : fnm_splice_cookie(tcp, p, isn, data, count, 0);
}

/* Of our own clock, per pair of hosts: a port that is used again sees no older one (PAWS). */
FNM_INLINE __u32 fnm_splice_ts(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 options,
			       __u64 now)
{
	return p->v6 ? fnm_ts_cookie(tcp, 0, p, options, now, 1)
		     : fnm_ts_cookie(tcp, 0, p, options, now, 0);
}

FNM_INLINE __u32 fnm_splice_ts_offset(const struct fnm_tcp *tcp, const struct fnm_packet *p)
{
	return p->v6 ? fnm_ts_hash(tcp, p, 0, 1) : fnm_ts_hash(tcp, p, 0, 0);
}

/* A window of two full segments: so many are kept where the server has not answered yet. */
FNM_INLINE __u16 fnm_first_window(__u32 window, __u32 mss, const struct fnm_offers *o)
{
	__u32 two;

	if (mss > o->mss)
		mss = o->mss;
	if (mss < FNM_MSS_LEAST)
		mss = FNM_MSS_LEAST;
	two = 2 * (mss - (o->timestamps ? FNM_TS_BYTES : 0));
	if (two > 0xffff)
		two = 0xffff;
	return window < two ? window : two;
}

/* `b` is what is known of the server, NULL for nothing. */
FNM_GLOBAL int fnm_splice_answer(struct xdp_md *ctx, struct fnm_context *c,
				 const struct fnm_packet *p, const struct fnm_slot *slot,
				 const struct fnm_backend *b)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_answer a = {.flags = FNM_TCP_SYN | FNM_TCP_ACK};
	struct fnm_offers o;
	struct fnm_tcphdr *th;
	__u32 mss, tsval = 0, used;

	if (!c || !p || !slot)
		return FNM_R_no_state;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	if (b && !b->answered)
		b = NULL;
	fnm_splice_offers(&o, p, slot, b);
	mss = b ? b->mss : p->v6 ? slot->tcp.mss6 : slot->tcp.mss4;
	if (o.timestamps)
		tsval = fnm_splice_ts(&slot->tcp, p, fnm_offers_timestamp(&o), c->now);
	if (o.ecn)
		a.flags |= FNM_TCP_ECE;
	a.ack = bpf_ntohl(th->seq) + 1;
	a.seq = fnm_splice_make(c, p, &slot->tcp, &o, a.ack - 1);
	a.window = fnm_first_window(b ? b->window : slot->tcp.window, mss, &o);
	a.ttl = b ? b->ttl : slot->tcp.ttl;
	fnm_splice_options(&a, &o, mss, tsval, p->syn.tsval,
			   b && b->flags & FNM_TCP_WSCALE ? b->wscale : slot->tcp.wscale);
	used = sizeof(*th) + a.options * 4;
	a.padding = p->doff > used ? (p->doff - used) / 4 : 0;
	return fnm_write_or(ctx, p, &a, FNM_R_cookie_sent);
}

FNM_GLOBAL int fnm_splice_refuse(struct xdp_md *ctx, const struct fnm_packet *p, __u32 ack,
				 __u32 ttl)
{
	struct fnm_answer a = {.ack = ack, .flags = FNM_TCP_RST | FNM_TCP_ACK, .ttl = ttl};

	if (!p)
		return FNM_R_no_state;
	return fnm_write_or(ctx, p, &a, FNM_R_splice_refused);
}

/* The flow of a SYN that is let through, so that what follows passes, too. */
FNM_GLOBAL int fnm_probe_enter(const struct fnm_context *c, const struct fnm_packet *p, __u64 hash)
{
	__u32 *seen;

	if (!c || !p)
		return 0;
	fnm_flow_insert(c, p);
	seen = p->v6 ? fnm_flow_find(c, p, hash, 1) : fnm_flow_find(c, p, hash, 0);
	if (seen)
		*seen |= FNM_SEEN_PROBE;
	return 1;
}

/* A SYN; `p->syn` is read. */
FNM_INLINE int fnm_splice_syn(struct xdp_md *ctx, struct fnm_context *c, const struct fnm_packet *p,
			      const struct fnm_slot *slot, __u64 hash)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_backend *b = fnm_backend_of(p);
	struct fnm_tcphdr *th;

	/* Nothing can be translated there: clients prove themselves, and pass with their next SYN.
	 */
	if (b && b->state == FNM_BACKEND_ASYMMETRIC && fnm_source_admits(c, p, &slot->tcp)) {
		fnm_flow_insert(c, p);
		return FNM_R_proven_syn;
	}
	if (fnm_backend_probe(c, p, hash, b)) {
		fnm_probe_enter(c, p, hash);
		return FNM_R_splice_probe;
	}
	if (b && b->state != FNM_BACKEND_ASYMMETRIC) {
		if (fnm_backend_silent(b, c->now))
			return FNM_R_splice_silent;
		th = fnm_tcp_of(p, data, end);
		if (!th)
			return FNM_R_bad_transport;
		if (fnm_backend_refuses(b, c->now))
			return fnm_splice_refuse(ctx, p, bpf_ntohl(th->seq) + 1, slot->tcp.ttl);
	}
	return fnm_splice_answer(ctx, c, p, slot, b);
}

#define FNM_NO_ECN4 bpf_htonl(0xfffc0000)
#define FNM_NO_ECN6 bpf_htonl(0xffcfffff)

/* The IP header of a SYN: of another length, and not to be marked (RFC 3168 section 6.1.1). */
FNM_INLINE void fnm_syn_ip(const struct fnm_packet *p, void *ip, __u32 tcp_length)
{
	__u32 length = p->l4 - p->l3 + tcp_length, *word = ip, old = *word;
	struct iphdr *ip4 = ip;

	if (p->v6) {
		*word = old & FNM_NO_ECN6;
		((struct ipv6hdr *)ip)->payload_len = bpf_htons(length - sizeof(struct ipv6hdr));
		return;
	}
	*word = (old & FNM_NO_ECN4 & bpf_htonl(0xffff0000)) | bpf_htonl(length);
	ip4->check = fnm_fold((__u64)(__u16)~ip4->check + (__u32)~old + *word);
}

/* A SYN's checksum, so that it is right whether or not somebody completes it: see fnm_mend. */
FNM_INLINE void fnm_close_syn(const struct fnm_packet *p, __u32 *tcp, __u32 tcp_length, __u64 sum,
			      int ambiguous)
{
	__u64 pseudo = fnm_sum_pseudo(p, tcp_length, p->v6);
	__u32 half;

	if (!ambiguous) {
		tcp[4] = fnm_fold(pseudo + sum);
		return;
	}
	half = (__u16)~fnm_fold(pseudo);
	tcp[4] = half | (__u32)fnm_fold(pseudo + sum + half) << 16;
}

/* Room in front: a virtual link hands over frames that have none behind. What was in front of TCP
 * moves there; where the checksum is still to be made, its place may not change. */
FNM_GLOBAL int fnm_grow_in_front(struct xdp_md *ctx, struct fnm_context *c, __u32 l4, __u32 by)
{
	if (!c || l4 < 1 || l4 > sizeof(c->headers) || by > FNM_OPTIONS_MAX)
		return 0;
	if (bpf_xdp_adjust_head(ctx, -(int)by))
		return 0;
	asm volatile("" : "+r"(l4));
	return l4 >= 1 && l4 <= sizeof(c->headers) &&
	       !bpf_xdp_load_bytes(ctx, by, c->headers, l4) &&
	       !bpf_xdp_store_bytes(ctx, 0, c->headers, l4);
}

/* Make the SYN for the server out of a segment of the client. */
FNM_GLOBAL int fnm_splice_ask(struct xdp_md *ctx, struct fnm_context *c, const struct fnm_packet *p,
			      const struct fnm_splice *f)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_answer a = {.flags = FNM_TCP_SYN};
	struct fnm_offers o;
	__u32 have, window, tcp_length;
	struct fnm_tcphdr *th;
	int ambiguous;
	void *ip;
	__u64 sum = 0;

	if (!c || !p || !f)
		return FNM_R_no_state;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	ambiguous = fnm_ambiguous(p, th);
	o.timestamps = !!(f->flags & FNM_TCP_TIMESTAMPS);
	o.sack = !!(f->flags & FNM_TCP_SACK);
	o.wscale = f->wscale;
	a.seq = f->client_isn;
	if (f->flags & FNM_TCP_ECN)
		a.flags |= FNM_TCP_ECE | FNM_TCP_CWR;
	window = f->wscale == FNM_NO_WSCALE ? f->window : (__u32)f->window << (f->wscale & 15);
	a.window = window > 0xffff ? 0xffff : window;
	fnm_splice_options(&a, &o, f->mss, f->client_ts, 0, f->wscale);
	tcp_length = (5 + a.options) * 4;
	have = end - data;
	if (p->end > have)
		have = bpf_xdp_get_buff_len(ctx);
	if (!fnm_resize(ctx, have, p->l4 + tcp_length) &&
	    (ambiguous || p->l4 + tcp_length < have ||
	     !fnm_grow_in_front(ctx, c, p->l4, p->l4 + tcp_length - have))) {
		FNM_WORKED(resize_failed);
		return FNM_R_no_room;
	}
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = fnm_at(data, p->l3, FNM_MAX_L3);
	th = fnm_tcp_of(p, data, end);
	if (!ip || !th || ip + sizeof(struct ipv6hdr) > end)
		return FNM_R_no_room;
	fnm_syn_ip(p, ip, tcp_length);
	if (!fnm_write_tcp((__u32 *)th, end, &a, p->ports, &sum))
		return FNM_R_no_room;
	fnm_close_syn(p, (__u32 *)th, tcp_length, sum, ambiguous);
	return FNM_R_splice_open;
}

FNM_INLINE void fnm_splice_row(const struct fnm_context *c, const struct fnm_packet *p,
			       const struct fnm_slot *slot, const struct fnm_offers *o,
			       struct fnm_splice *row)
{
	__builtin_memcpy(&row->client, &p->source, sizeof(row->client));
	__builtin_memcpy(&row->server, &p->destination, sizeof(row->server));
	row->ports = p->ports;
	row->opened_ms = row->asked_ms = fnm_moment(c->now);
	row->generation = slot->generation;
	row->slot = c->by;
	row->mss = o->mss;
	row->wscale = o->wscale;
	row->flags = (o->sack ? FNM_TCP_SACK : 0) |
		     (o->wscale != FNM_NO_WSCALE ? FNM_TCP_WSCALE : 0) |
		     (o->timestamps ? FNM_TCP_TIMESTAMPS : 0) | (o->ecn ? FNM_TCP_ECN : 0);
}

/* Data that fit behind the server's longer header, too. */
FNM_INLINE __u32 fnm_held_most(const struct fnm_splice *f)
{
	__u32 most = f->mss - (f->flags & FNM_TCP_TIMESTAMPS ? FNM_TS_BYTES : 0);

	return most < FNM_HELD_BYTES ? most : FNM_HELD_BYTES;
}

/* A segment that may carry a cookie: `reason` of what came of it, FNM_R_COUNT where it has none. */
FNM_GLOBAL int fnm_splice_try(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			      const struct fnm_slot *slot, __u64 hash)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_splice *row;
	struct fnm_backend *b;
	struct fnm_offers o;
	struct fnm_tcphdr *th;
	__u32 seq, ack, count, cookie, echoed = 0;

	if (!c || !p || !slot)
		return FNM_R_COUNT;
	row = &c->row;
	__builtin_memset(row, 0, sizeof(*row));
	fnm_read_timestamps(ctx, p);
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	seq = bpf_ntohl(th->seq);
	ack = bpf_ntohl(th->ack);
	row->window = bpf_ntohs(th->window);
	count = fnm_cookie_minute(&slot->tcp, c->now, &c->minute) |
		(p->syn.timestamps ? FNM_COOKIE_TIMESTAMPS : 0);
	cookie = p->v6 ? fnm_splice_data(&slot->tcp, p, seq - 1, ack - 1, count, 1)
		       : fnm_splice_data(&slot->tcp, p, seq - 1, ack - 1, count, 0);
	if (cookie >= FNM_COOKIE_DATA)
		return FNM_R_COUNT;
	if (p->syn.timestamps)
		echoed = bpf_ntohl(p->syn.tsecr) - fnm_splice_ts_offset(&slot->tcp, p);
	if (!fnm_offers_read(&o, cookie, p->syn.timestamps, echoed, c->now))
		return FNM_R_COUNT;
	b = fnm_backend_of(p);
	if (b && b->state == FNM_BACKEND_ASYMMETRIC) {
		fnm_source_insert(c, p);
		return fnm_answer_reset(ctx, p, ack, slot->tcp.ttl);
	}
	row->client_isn = seq - 1;
	row->cookie_isn = ack - 1;
	row->ts_cookie = bpf_ntohl(p->syn.tsecr);
	row->client_ts = bpf_ntohl(p->syn.tsval);
	row->own_wscale =
	    b && b->answered && b->flags & FNM_TCP_WSCALE ? b->wscale : slot->tcp.wscale;
	fnm_splice_row(c, p, slot, &o, row);
	if (!fnm_splice_insert(c, p, hash, row))
		return FNM_R_splice_full;
	fnm_held_forget(hash);
	if (p->end > p->l4 + p->doff || p->flags & FNM_TCP_FIN)
		fnm_hold(ctx, c, p, hash, fnm_held_most(row));
	if (b)
		fnm_backend_asked(b, c->now);
	return fnm_splice_ask(ctx, c, p, row);
}

#endif
