/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Clients' segments of flows that are in the table of spliced ones: the numbers of the server are
 * put into what a client acknowledges.
 */
#ifndef FNM_SPLICED_H
#define FNM_SPLICED_H

#include "policy.h"
#include "splice_in.h"

FNM_GLOBAL int fnm_options_in(struct xdp_md *ctx, const struct fnm_packet *p,
			      const struct fnm_splice *f)
{
	struct fnm_shift shift = {};

	if (!p || !f)
		return 0;
	shift.sack_by = -f->delta;
	shift.tsecr_by = f->flags & FNM_TCP_TIMESTAMPS ? -f->ts_delta : 0;
	return fnm_move_options(ctx, FNM_AT_XDP, p, &shift);
}

/* A segment of an open flow, to the server. */
FNM_GLOBAL int fnm_splice_forward(struct xdp_md *ctx, const struct fnm_packet *p,
				  const struct fnm_splice *f)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th;
	__u64 change = 0;
	__u32 *w, old;

	if (!p || !f)
		return FNM_R_no_state;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	w = (__u32 *)th;
	if (p->doff == 32 && (void *)(w + 8) <= end && w[5] == FNM_WORD(1, 1, 8, 10)) {
		if (f->flags & FNM_TCP_TIMESTAMPS) {
			old = w[7];
			w[7] = fnm_moved(old, -f->ts_delta);
			change += fnm_changed(old, w[7]);
		}
	} else if (p->doff > sizeof(*th)) {
		change += (__u32)fnm_options_in(ctx, p, f);
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		th = fnm_tcp_of(p, data, end);
		if (!th)
			return FNM_R_bad_transport;
		w = (__u32 *)th;
	}
	if (p->flags & FNM_TCP_ACK) {
		old = w[2];
		w[2] = fnm_moved(old, -f->delta);
		change += fnm_changed(old, w[2]);
	}
	if (f->to_server) {
		old = w[3];
		w[3] = fnm_scaled(old, f->to_server);
		change += fnm_changed(old, w[3]);
	}
	fnm_mend(p, th, change);
	return FNM_R_splice_client;
}

/* A segment of a flow whose server has not answered yet. */
FNM_GLOBAL int fnm_splice_wait(struct xdp_md *ctx, struct fnm_context *c,
			       const struct fnm_packet *p, struct fnm_splice *f, __u64 hash)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th;
	struct fnm_held *h;
	__u32 ahead;
	int kept = 0;

	if (!c || !p || !f)
		return FNM_R_no_state;
	th = fnm_tcp_of(p, data, end);
	if (!th)
		return FNM_R_bad_transport;
	/* Another connection than the one that was asked for. */
	if (p->flags & FNM_TCP_ACK && bpf_ntohl(th->ack) != f->cookie_isn + 1)
		return FNM_R_COUNT;
	if (p->flags & FNM_TCP_RST) {
		if (bpf_ntohl(th->seq) - (f->client_isn + 1) <= 0xffff)
			__sync_fetch_and_or(&f->ended, FNM_ENDED_RESET);
		return FNM_R_splice_early;
	}
	ahead = bpf_ntohl(th->seq) - (f->client_isn + 1);
	if (ahead <= FNM_HELD_BYTES && (p->end > p->l4 + p->doff || p->flags & FNM_TCP_FIN))
		kept = fnm_hold(ctx, c, p, hash, ahead << 16 | fnm_held_most(f));
	if (kept && *(volatile __u32 *)&f->state == FNM_SPLICE_OPEN) {
		/* The server has answered meanwhile, and whoever saw that may not have seen this.
		 */
		h = fnm_held_of(c, hash, ahead ? 1 : 0);
		if (!h)
			return FNM_R_splice_held;
		fnm_held_drop(h);
		return fnm_splice_forward(ctx, p, f);
	}
	if (fnm_since(c->now, f->asked_ms) < FNM_ASK_AGAIN_MS)
		return kept ? FNM_R_splice_held : FNM_R_splice_early;
	f->asked_ms = fnm_moment(c->now);
	fnm_splice_touch(c, f);
	return fnm_splice_ask(ctx, c, p, f);
}

/* The ACK that opens another flow with the addresses and ports of one that is over, or that never
 * came about; FNM_R_COUNT where it is none. */
FNM_INLINE int fnm_splice_anew(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			       const struct fnm_policy *policy, const struct fnm_splice *f,
			       __u64 hash, __u32 *by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th = fnm_tcp_of(p, data, end);
	__u32 index = policy ? fnm_proxy_of(policy, p, c->now, 0) : 0;
	struct fnm_slot *slot = index ? bpf_map_lookup_elem(&slots, &index) : NULL;
	int reason;

	if (!th || !slot || slot->mode != FNM_SPLICE ||
	    (p->flags & (FNM_TCP_ACK | FNM_TCP_RST)) != FNM_TCP_ACK)
		return FNM_R_COUNT;
	/* Sent again, it is of the old one still: its request must not be made a second time. */
	if (bpf_ntohl(th->seq) == f->client_isn + 1 && bpf_ntohl(th->ack) == f->cookie_isn + 1)
		return FNM_R_COUNT;
	c->by = index;
	reason = fnm_splice_try(ctx, c, p, slot, hash);
	if (reason != FNM_R_COUNT)
		*by = index;
	return reason;
}

/* A segment of a client to a server of which spliced flows may exist; -1 where it is of none. */
FNM_INLINE int fnm_splice_client(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
				 const struct fnm_policy *policy, __u32 *by)
{
	__u64 hash = fnm_hash_of(c, p);
	struct fnm_splice *f = fnm_splice_find(c, p, hash);
	int reason;

	if (!f)
		return -1;
	if ((p->flags & (FNM_TCP_SYN | FNM_TCP_ACK)) == FNM_TCP_SYN) {
		/* The server says what it thinks of a SYN in a connection (RFC 9293, 3.10.7.4). */
		if (f->state != FNM_SPLICE_OPEN || fnm_splice_over(f))
			return -1;
		*by = fnm_splice_slot(f);
		return FNM_R_splice_client;
	}
	*by = fnm_splice_slot(f);
	if (f->state != FNM_SPLICE_OPEN) {
		reason = fnm_splice_wait(ctx, c, p, f, hash);
		if (reason != FNM_R_COUNT)
			return reason;
		reason = fnm_splice_anew(ctx, c, p, policy, f, hash, by);
		return reason != FNM_R_COUNT ? reason : FNM_R_splice_early;
	}
	if (fnm_splice_over(f)) {
		reason = fnm_splice_anew(ctx, c, p, policy, f, hash, by);
		if (reason != FNM_R_COUNT)
			return reason;
	}
	fnm_splice_touch(c, f);
	fnm_splice_ends(p, f, FNM_ENDED_CLIENT);
	return fnm_splice_forward(ctx, p, f);
}

#endif
