/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The translating proxy where what servers send goes out: it answers their SYN-ACKs in the name of
 * the client, and puts the numbers that the client was told into what follows. What servers answer
 * to SYNs of any kind is learned on the way.
 *
 * Packets here may be of any length, and their checksums not be there yet: they are changed by
 * helpers that know.
 */
#ifndef FNM_SPLICE_OUT_H
#define FNM_SPLICE_OUT_H

#include <linux/pkt_cls.h>

#include "judge.h"
#include "reply.h"

/* Options of a SYN-ACK into `p->syn`. */
FNM_GLOBAL int fnm_read_syn_ack(struct __sk_buff *skb, struct fnm_packet *p)
{
	__u8 byte[64] = {};
	__u32 length;

	if (!p)
		return 0;
	p->syn = (struct fnm_syn){.mss = p->v6 ? FNM_DEFAULT_MSS6 : FNM_DEFAULT_MSS4,
				  .wscale = FNM_NO_WSCALE};
	length = p->doff - sizeof(struct fnm_tcphdr);
	asm volatile("" : "+r"(length));
	if (length < 4 || length > FNM_OPTIONS_MAX)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4 + sizeof(struct fnm_tcphdr), byte, length))
		return 0;
	fnm_scan_options(&p->syn, byte, length);
	return 1;
}

/* Learn from a SYN-ACK to a SYN that came with `offered`. */
FNM_GLOBAL int fnm_learn(struct __sk_buff *skb, const struct fnm_context *c,
			 const struct fnm_packet *p, __u32 offered)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct fnm_tcphdr *th;
	__u32 window;
	__u8 *ip;

	if (!c || !p)
		return 0;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return 0;
	window = bpf_ntohs(th->window);
	ip = fnm_at(data, p->l3, FNM_MAX_L3);
	if (!ip || (void *)(ip + 20) > end)
		return 0;
	return fnm_backend_learn(c, p, offered, window << 8 | (p->v6 ? ip[7] : ip[8]));
}

/* What the server's words are worth from now on; the flow is open after that. */
FNM_INLINE void fnm_splice_join(const struct fnm_packet *p, struct fnm_splice *f, __u32 seq)
{
	int client_scales = f->flags & FNM_TCP_WSCALE, server_scales;

	server_scales = p->syn.wscale != FNM_NO_WSCALE;
	f->delta = f->cookie_isn - seq;
	if (f->flags & FNM_TCP_TIMESTAMPS && p->syn.timestamps)
		f->ts_delta = f->ts_cookie - bpf_ntohl(p->syn.tsval);
	else
		f->flags &= ~FNM_TCP_TIMESTAMPS;
	f->to_client = (client_scales ? f->own_wscale : 0) - (server_scales ? p->syn.wscale : 0);
	f->to_server = client_scales && !server_scales ? -f->wscale : 0;
	__sync_lock_test_and_set(&f->state, FNM_SPLICE_OPEN);
}

/* What is held goes to the server; its end of file is the client's. */
FNM_INLINE int fnm_reply_held(struct __sk_buff *skb, struct fnm_packet *p, struct fnm_splice *f,
			      struct fnm_answer *a, struct fnm_held *h, __u32 there)
{
	int reason;

	a->flags = FNM_TCP_ACK | (h ? h->flags : 0);
	if (a->flags & FNM_TCP_FIN)
		__sync_fetch_and_or(&f->ended, FNM_ENDED_CLIENT);
	reason = fnm_reply(skb, p, a, h, there);
	if (h)
		fnm_held_drop(h);
	return reason;
}

/* The ACK of a SYN-ACK, with what the client has sent meanwhile. */
FNM_INLINE int fnm_reply_ack(struct __sk_buff *skb, const struct fnm_context *c,
			     struct fnm_packet *p, struct fnm_splice *f, __u64 hash)
{
	struct fnm_held *first = fnm_held_of(c, hash, 0), *second;
	struct fnm_answer a = {.seq = f->client_isn + 1, .ack = f->cookie_isn - f->delta + 1};
	__u32 window = f->window, there, length;
	int reason;

	if (f->to_server < 0)
		window <<= -f->to_server & 15;
	a.window = window > 0xffff ? 0xffff : window;
	if (f->flags & FNM_TCP_TIMESTAMPS) {
		a.option[0] = FNM_WORD(1, 1, 8, 10);
		a.option[1] = bpf_htonl(f->client_ts);
		a.option[2] = p->syn.tsval;
		a.options = 3;
	}
	second = first ? fnm_held_of(c, hash, 1) : NULL;
	fnm_turn_frame(skb);
	if (!second || !first)
		return fnm_reply_held(skb, p, f, &a, first, 0);
	there = first->sum;
	length = first->length;
	reason = fnm_reply_held(skb, p, f, &a, first, 0);
	if (reason != FNM_R_splice_answered ||
	    bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS)) {
		fnm_held_drop(second);
		return reason;
	}
	a.seq += length;
	return fnm_reply_held(skb, p, f, &a, second, there);
}

/* A SYN-ACK in a spliced flow. */
FNM_INLINE int fnm_splice_syn_ack(struct __sk_buff *skb, const struct fnm_context *c,
				  struct fnm_packet *p, struct fnm_splice *f, __u32 seq, __u32 ack,
				  __u64 hash)
{
	if (ack != f->client_isn + 1 || p->end != p->l4 + p->doff)
		return FNM_R_splice_over;
	fnm_read_syn_ack(skb, p);
	if (f->state == FNM_SPLICE_ASKED) {
		if (f->ended & FNM_ENDED_RESET)
			return fnm_reply_reset(skb, p, ack);
		fnm_learn(skb, c, p, f->flags);
		fnm_splice_join(p, f, seq);
	} else if (seq != f->cookie_isn - f->delta) {
		return FNM_R_splice_over;
	}
	fnm_splice_touch(c, f);
	return fnm_reply_ack(skb, c, p, f, hash);
}

/* What the server answers, other than by a SYN-ACK, to a SYN of ours. */
FNM_INLINE int fnm_splice_no(struct __sk_buff *skb, const struct fnm_context *c,
			     struct fnm_packet *p, struct fnm_splice *f, __u32 seq, __u32 ack)
{
	__u32 old = bpf_htonl(seq), told = bpf_htonl(f->cookie_isn + 1);

	if (!(p->flags & FNM_TCP_RST)) {
		/* It knows another connection by that name, and asks (RFC 9293, 3.5.1). */
		f->asked_ms = fnm_moment(c->now - FNM_ASK_AGAIN_MS);
		return p->flags & FNM_TCP_ACK ? fnm_reply_reset(skb, p, ack) : FNM_R_splice_over;
	}
	if (!(p->flags & FNM_TCP_ACK) || ack != f->client_isn + 1)
		return FNM_R_splice_over;
	fnm_backend_refused(c, p);
	__sync_fetch_and_or(&f->ended, FNM_ENDED_RESET);
	__sync_lock_test_and_set(&f->state, FNM_SPLICE_OPEN);
	bpf_skb_store_bytes(skb, p->l4 + 4, &told, sizeof(told), 0);
	bpf_l4_csum_replace(skb, p->l4 + FNM_CHECK_AT, old, told, sizeof(told));
	return FNM_R_splice_server;
}

FNM_GLOBAL int fnm_options_out(struct __sk_buff *skb, const struct fnm_packet *p,
			       const struct fnm_splice *f)
{
	struct fnm_shift shift = {};

	if (!p || !f)
		return 0;
	shift.tsval_by = f->ts_delta;
	return fnm_move_options(skb, FNM_AT_TC, p, &shift);
}

/* A segment of an open flow, to the client. */
FNM_GLOBAL int fnm_splice_back(struct __sk_buff *skb, const struct fnm_packet *p,
			       const struct fnm_splice *f)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct fnm_tcphdr *th;
	__u32 *w, head[6];
	__u64 change;

	if (!p || !f)
		return FNM_R_no_state;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	w = (__u32 *)th;
	head[0] = fnm_moved(w[1], f->delta);
	head[1] = w[2];
	head[2] = f->to_client ? fnm_scaled(w[3], f->to_client) : w[3];
	change = fnm_changed(w[1], head[0]) + fnm_changed(w[3], head[2]);
	if (p->doff == 32 && (void *)(w + 8) <= end && w[5] == FNM_WORD(1, 1, 8, 10) &&
	    f->flags & FNM_TCP_TIMESTAMPS) {
		head[3] = w[4];
		head[4] = w[5];
		head[5] = fnm_moved(w[6], f->ts_delta);
		change += fnm_changed(w[6], head[5]);
		bpf_skb_store_bytes(skb, p->l4 + 4, head, 24, 0);
	} else {
		bpf_skb_store_bytes(skb, p->l4 + 4, head, 12, 0);
		if (p->doff > sizeof(*th) && f->flags & FNM_TCP_TIMESTAMPS)
			change += (__u32)fnm_options_out(skb, p, f);
	}
	bpf_l4_csum_replace(skb, p->l4 + FNM_CHECK_AT, 0, fnm_fold32(change), 0);
	return FNM_R_splice_server;
}

/* A segment of the server that is of no spliced flow: what it answers to a SYN teaches. */
FNM_INLINE int fnm_splice_native(struct __sk_buff *skb, const struct fnm_context *c,
				 struct fnm_packet *p, __u32 seq, __u64 hash)
{
	struct fnm_backend *b = fnm_backend_of(p);
	int asked = b && b->tag == fnm_backend_tag(hash);

	if ((p->flags & (FNM_TCP_SYN | FNM_TCP_ACK)) == (FNM_TCP_SYN | FNM_TCP_ACK)) {
		fnm_read_syn_ack(skb, p);
		fnm_learn(skb, c, p, asked ? b->offered : 0);
	} else if (asked && b->asked && b->state != FNM_BACKEND_OPEN && p->flags & FNM_TCP_RST &&
		   !seq) {
		fnm_backend_refused(c, p);
	}
	return FNM_GO_ON;
}

/* A segment of the server, turned round in `p`; FNM_GO_ON where it is of no spliced flow. */
FNM_INLINE int fnm_splice_server(struct __sk_buff *skb, const struct fnm_context *c,
				 struct fnm_packet *p, __u32 *by)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u64 hash = fnm_hash_of(c, p);
	struct fnm_splice *f = fnm_splice_find(c, p, hash);
	struct fnm_tcphdr *th = fnm_tcp_of(p, data, end);
	__u32 seq, ack;

	if (!th)
		return FNM_GO_ON;
	seq = bpf_ntohl(th->seq);
	ack = bpf_ntohl(th->ack);
	if (!f)
		return fnm_splice_native(skb, c, p, seq, hash);
	*by = fnm_splice_slot(f);
	if ((p->flags & (FNM_TCP_SYN | FNM_TCP_ACK)) == (FNM_TCP_SYN | FNM_TCP_ACK)) {
		if (f->state == FNM_SPLICE_ASKED || ack == f->client_isn + 1)
			return fnm_splice_syn_ack(skb, c, p, f, seq, ack, hash);
		/* To a SYN that was passed on: the server had forgotten the flow, and has another
		 * one now, which needs no translation. */
		f->ports = 0;
		fnm_flow_insert(c, p);
		return fnm_splice_native(skb, c, p, seq, hash);
	}
	if (f->state == FNM_SPLICE_ASKED)
		return fnm_splice_no(skb, c, p, f, seq, ack);
	fnm_splice_touch(c, f);
	fnm_splice_ends(p, f, FNM_ENDED_SERVER);
	return fnm_splice_back(skb, p, f);
}

struct fnm_scratch_out {
	struct fnm_packet packet;
	struct fnm_context context;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fnm_scratch_out);
} scratch_out SEC(".maps");

FNM_INLINE int fnm_leaves(struct __sk_buff *skb, struct fnm_context *c, struct fnm_packet *p,
			  __u32 *by)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (!fnm_find_ip(p, data, end) || fnm_parse(skb, FNM_AT_TC, p, data, end) != FNM_GO_ON ||
	    p->fragment != FNM_WHOLE)
		return FNM_GO_ON;
	if (fnm_is_icmp_error(p))
		return fnm_inner_out(skb, c, p, by) ? FNM_R_splice_icmp : FNM_GO_ON;
	if (p->protocol != IPPROTO_TCP || !fnm_translated(&p->source))
		return FNM_GO_ON;
	fnm_turn_packet(p);
	return fnm_splice_server(skb, c, p, by);
}

/* The verdict on a packet that is about to leave. */
FNM_INLINE int fnm_judge_out(struct __sk_buff *skb)
{
	struct fnm_control *settings;
	struct fnm_scratch_out *s;
	__u32 zero = 0, by = 0;
	int reason, action;

	settings = bpf_map_lookup_elem(&control, &zero);
	if (!settings || !settings->splicing)
		return TC_ACT_UNSPEC;
	s = bpf_map_lookup_elem(&scratch_out, &zero);
	if (!s)
		return TC_ACT_UNSPEC;
	fnm_begin(&s->context, settings);
	reason = fnm_leaves(skb, &s->context, &s->packet, &by);
	if (reason == FNM_GO_ON)
		return TC_ACT_UNSPEC;
	action = fnm_action(reason);
	fnm_count(by, reason, s->packet.length, action);
	if (action == XDP_TX)
		return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
	return action == XDP_PASS ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

#endif
