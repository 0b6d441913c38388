/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The way of one packet: is its destination protected, what is it, which countermeasure decides. */
#ifndef FNM_JUDGE_H
#define FNM_JUDGE_H

#include "inner.h"
#include "proxy.h"
#include "sorb.h"
#include "spliced.h"

FNM_INLINE int fnm_action(__u32 reason)
{
	if (FNM_REASONS_OF(PASS) >> reason & 1)
		return XDP_PASS;
	return FNM_REASONS_OF(TX) >> reason & 1 ? XDP_TX : XDP_DROP;
}

FNM_GLOBAL int fnm_run_filters(const struct fnm_context *c, const struct fnm_packet *p,
			       const struct fnm_policy *policy, __u32 *by)
{
	if (!c || !p || !policy || !by)
		return FNM_GO_ON;
#pragma unroll
	for (int i = 0; i < FNM_CHAIN; i++) {
		struct fnm_slot *slot = fnm_live_slot(policy->acl[i], c->now);
		int reason;

		if (!slot)
			continue;
		reason = fnm_filter(c, p, slot->acl);
		if (reason != FNM_GO_ON) {
			*by = policy->acl[i];
			return reason;
		}
	}
	return FNM_GO_ON;
}

FNM_GLOBAL int fnm_run_sorbs(const struct fnm_context *c, const struct fnm_packet *p,
			     const struct fnm_policy *policy, __u32 *by)
{
	if (!c || !p || !policy || !by)
		return FNM_GO_ON;
#pragma unroll
	for (int i = 0; i < FNM_CHAIN; i++) {
		struct fnm_slot *slot = fnm_live_slot(policy->sorb[i], c->now);
		int reason;

		if (!slot)
			continue;
		reason = fnm_absorb(c, p, slot);
		if (reason != FNM_GO_ON) {
			*by = policy->sorb[i];
			return reason;
		}
	}
	return FNM_GO_ON;
}

FNM_INLINE int fnm_run_proxies(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			       const struct fnm_policy *policy, __u32 *by)
{
	int tcp = p->protocol == IPPROTO_TCP, whole = p->fragment == FNM_WHOLE;
	struct fnm_slot *slot;
	__u32 index;

	if (!tcp && !fnm_is_icmp_error(p))
		return FNM_GO_ON;
	index = fnm_proxy_of(policy, p, c->now, !tcp || !whole);
	slot = index ? bpf_map_lookup_elem(&slots, &index) : NULL;
	if (!slot)
		return FNM_GO_ON;
	*by = c->by = index;
	if (!tcp)
		return !fnm_take_one(&slot->tcp.icmp, c->now) ? FNM_R_icmp_limited
		       : c->inner_translated		      ? FNM_R_splice_icmp
							      : FNM_R_icmp_error;
	if (!whole)
		return FNM_R_fragment;
	return p->v6 ? fnm_judge_tcp(ctx, c, p, slot, 1) : fnm_judge_tcp(ctx, c, p, slot, 0);
}

/* In peace, too, it is learned what the server answers, and by which way. */
FNM_INLINE void fnm_watch_probes(struct xdp_md *ctx, const struct fnm_context *c,
				 struct fnm_packet *p, int is_syn, __u64 hash)
{
	__u32 *seen;

	if (!p->ports)
		return;
	if (is_syn) {
		fnm_read_syn(ctx, p, p->v6);
		if (fnm_backend_probe(c, p, hash, fnm_backend_of(p)))
			fnm_probe_enter(c, p, hash);
		return;
	}
	seen = p->v6 ? fnm_flow_find(c, p, hash, 1) : fnm_flow_find(c, p, hash, 0);
	if (seen && *seen & FNM_SEEN_PROBE && fnm_backend_went_on(c, p, hash))
		*seen &= ~FNM_SEEN_PROBE;
}

/* Learn flows while nothing is enforced; what is malformed is the server's affair. */
FNM_GLOBAL int fnm_watch(struct xdp_md *ctx, const struct fnm_context *c, struct fnm_packet *p,
			 const struct fnm_policy *policy, __u32 *by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_tcphdr *th;
	__u8 main;

	if (!c || !p || !policy || !by)
		return FNM_GO_ON;
	main = p->flags & (FNM_TCP_SYN | FNM_TCP_ACK | FNM_TCP_RST);
	if (p->protocol != IPPROTO_TCP || p->fragment != FNM_WHOLE)
		return FNM_GO_ON;
#pragma unroll
	for (int i = 0; i < FNM_CHAIN; i++) {
		struct fnm_slot *slot = fnm_live_slot(policy->watch[i], c->now);
		__u64 hash;

		if (!slot || !fnm_port_in(slot->portset, fnm_dport(p)))
			continue;
		*by = policy->watch[i];
		hash = fnm_hash_of(c, p);
		if (fnm_translated(&p->destination))
			fnm_watch_probes(ctx, c, p, main == FNM_TCP_SYN, hash);
		th = main == FNM_TCP_ACK ? fnm_tcp_of(p, data, end) : NULL;
		if (!th)
			return FNM_R_watched;
		fnm_sighting_note(c, hash, bpf_ntohl(th->seq), bpf_ntohl(th->ack), 0);
		return FNM_R_watched;
	}
	return FNM_GO_ON;
}

/* What no countermeasure has decided: the verdict on the policy as a whole. */
FNM_INLINE int fnm_undecided(struct xdp_md *ctx, const struct fnm_context *c, struct fnm_packet *p,
			     const struct fnm_policy *policy, int malformed, __u32 *by)
{
	__u32 enforcing = fnm_enforcing(policy, c->now);
	int reason = FNM_GO_ON;

	if (enforcing && malformed != FNM_GO_ON) {
		*by = enforcing;
		return malformed;
	}
	if (malformed == FNM_GO_ON && *(const __u64 *)policy->watch)
		reason = fnm_watch(ctx, c, p, policy, by);
	if (reason != FNM_GO_ON)
		return reason;
	*by = enforcing;
	return enforcing ? FNM_R_not_concerned : FNM_R_unprotected;
}

/* What belongs to a spliced flow is translated whether or not a mitigation is in force: no client
 * could go on without. FNM_GO_ON where it is none. */
FNM_INLINE int fnm_spliced(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			   const struct fnm_policy *policy, __u32 *by)
{
	if (p->fragment != FNM_WHOLE)
		return FNM_GO_ON;
	if (p->protocol == IPPROTO_TCP)
		return fnm_splice_client(ctx, c, p, policy, by);
	if (fnm_is_icmp_error(p))
		c->inner_translated = fnm_inner_in(ctx, c, p);
	return FNM_GO_ON;
}

FNM_INLINE int fnm_filtered(const struct fnm_context *c, const struct fnm_packet *p,
			    const struct fnm_policy *policy, __u32 *by)
{
	int reason = FNM_GO_ON;

	if (*(const __u64 *)policy->acl)
		reason = fnm_run_filters(c, p, policy, by);
	if (reason == FNM_GO_ON && *(const __u64 *)policy->sorb)
		reason = fnm_run_sorbs(c, p, policy, by);
	return reason;
}

/* `policy` is NULL where only spliced flows may be concerned. */
FNM_INLINE int fnm_verdict(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			   const struct fnm_policy *policy, int translated, __u32 *by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int malformed = fnm_parse(ctx, FNM_AT_XDP, p, data, end);
	int reason = FNM_GO_ON, spliced;

	c->inner_translated = 0;
	if (malformed != FNM_GO_ON)
		return policy ? fnm_undecided(ctx, c, p, policy, malformed, by) : FNM_R_unprotected;
	if (policy)
		reason = fnm_filtered(c, p, policy, by);
	if (translated && (reason == FNM_GO_ON || reason == FNM_R_acl_pass)) {
		spliced = fnm_spliced(ctx, c, p, policy, by);
		if (spliced != FNM_GO_ON)
			return spliced;
	}
	if (reason != FNM_GO_ON)
		return reason;
	if (!policy)
		return c->inner_translated ? FNM_R_splice_icmp : FNM_R_unprotected;
	if (*(const __u64 *)policy->tcp)
		reason = fnm_run_proxies(ctx, c, p, policy, by);
	return reason != FNM_GO_ON ? reason : fnm_undecided(ctx, c, p, policy, FNM_GO_ON, by);
}

/* Keep the head of the packet as it came: an answer is written over it. */
FNM_GLOBAL int fnm_capture(struct xdp_md *ctx, struct fnm_sample *s)
{
	__u32 length = bpf_xdp_get_buff_len(ctx), captured = length;

	if (!s)
		return 0;
	if (captured > FNM_SAMPLE_BYTES)
		captured = FNM_SAMPLE_BYTES;
	asm volatile(""
		     : "+r"(captured)); /* for the verifier, the bound must be of this register */
	if (captured < 1 || captured > FNM_SAMPLE_BYTES ||
	    bpf_xdp_load_bytes(ctx, 0, s->data, captured))
		captured = 0;
	s->length = length;
	s->captured = captured;
	s->ifindex = ctx->ingress_ifindex;
	return 1;
}

FNM_INLINE void fnm_show(struct fnm_sample *s, __u64 now, __u32 slot, __u32 reason)
{
	s->time_ms = now;
	s->reason = reason;
	s->slot = slot;
	if (FNM_FAULT(FNM_FAULT_SAMPLE) || bpf_ringbuf_output(&samples, s, sizeof(*s), 0))
		FNM_WORKED(samples_lost);
	else
		FNM_WORKED(samples);
}

FNM_INLINE void fnm_count(__u32 slot, __u32 reason, __u32 length, int action)
{
	struct fnm_counters *n = bpf_map_lookup_elem(&counters, &slot);

	if (!n || reason >= FNM_REASON_SLOTS)
		return;
	n->packets[reason]++;
	if (action == XDP_PASS)
		n->bytes_passed += length;
	else
		n->bytes_dropped += length;
}

/* Whether this packet's turn has come to be shown. */
FNM_INLINE int fnm_sampled(__u32 every)
{
	struct fnm_work *w = every ? fnm_work() : NULL;

	if (!w || ++w->sample_turn < every)
		return 0;
	w->sample_turn = 0;
	return 1;
}

/* Kept off the stack, of which three functions in a row would take more than there is. */
struct fnm_scratch {
	struct fnm_packet packet;
	struct fnm_context context;
	struct fnm_sample sample;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fnm_scratch);
} scratch SEC(".maps");

FNM_INLINE void fnm_begin(struct fnm_context *c, const struct fnm_control *control)
{
	c->now = bpf_jiffies64() * fnm_ms_mult >> 16;
	c->seen = fnm_seen(c->now);
	c->seed = control->seed;
	c->flow_idle = control->flow_idle;
	c->flow_closing = control->flow_closing;
	c->source_idle = control->source_idle;
	c->inserts_per_second = control->inserts_per_second;
#pragma unroll
	for (int kind = 0; kind < 2; kind++) {
		__u32 generation = control->filter_now[kind] & 1;

		c->filter[kind] = kind * 2 + generation;
		c->filter_mask[kind] = control->filter_mask[kind][generation];
	}
}

/* The verdict on one packet. */
FNM_INLINE int fnm_judge(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_control *settings;
	struct fnm_scratch *s;
	struct fnm_policy *policy;
	__u32 zero = 0, by = 0;
	int reason, action, sampled, translated;

	settings = bpf_map_lookup_elem(&control, &zero);
	s = bpf_map_lookup_elem(&scratch, &zero);
	if (!settings || !s) {
		fnm_count(0, FNM_R_no_state, 0, XDP_PASS);
		return XDP_PASS;
	}
	if (!fnm_find_ip(&s->packet, data, end)) {
		fnm_count(0, FNM_R_not_ip, 0, XDP_PASS);
		return XDP_PASS;
	}
	policy = fnm_policy_of(settings, &s->packet);
	translated = settings->splicing ? fnm_translated(&s->packet.destination) : 0;
	if (!policy && !translated) {
		fnm_count(0, FNM_R_unprotected, 0, XDP_PASS);
		return XDP_PASS;
	}
	fnm_begin(&s->context, settings);
	sampled = fnm_sampled(settings->sample_every) && fnm_capture(ctx, &s->sample);
	reason = fnm_verdict(ctx, &s->context, &s->packet, policy, translated, &by);
	action = fnm_action(reason);
	fnm_count(by, reason, s->packet.length, action);
	if (sampled && reason != FNM_R_unprotected)
		fnm_show(&s->sample, s->context.now, by, reason);
	return action;
}

#endif
