/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The way of one packet: is its destination protected, what is it, which countermeasure decides. */
#ifndef FNM_JUDGE_H
#define FNM_JUDGE_H

#include "proxy.h"
#include "sorb.h"

FNM_INLINE int fnm_action(__u32 reason)
{
	/* Reasons of one verdict stand together, but for those that came later. */
	if (reason == FNM_R_no_state || reason <= FNM_R_icmp_error)
		return XDP_PASS;
	return reason <= FNM_R_reset_sent ? XDP_TX : XDP_DROP;
}

FNM_INLINE struct fnm_slot *fnm_live_slot(__u32 index, __u64 now)
{
	struct fnm_slot *slot;

	if (!index)
		return NULL;
	slot = bpf_map_lookup_elem(&slots, &index);
	return slot && slot->deadline > now ? slot : NULL;
}

/* The tables themselves: a call each, and the trie walks. */
FNM_GLOBAL int fnm_look_up(const struct fnm_address *address, struct fnm_recent *r, __u32 wide)
{
	struct fnm_policy *policy;
	struct fnm_prefix key;

	if (!address || !r)
		return 0;
	key.bits = 128;
	key.address = *address;
	r->address = *address;
	policy = bpf_map_lookup_elem(&hosts, &key.address);
	if (!policy && wide)
		policy = bpf_map_lookup_elem(&prefixes, &key);
	if (!policy)
		return 0;
	r->policy = *policy;
	return 1;
}

/* What guards the destination, NULL for nothing. A CPU remembers what it has found: an attack is
 * on few destinations. */
FNM_INLINE struct fnm_policy *fnm_policy_of(const struct fnm_control *settings,
					    const struct fnm_packet *p)
{
	const __u32 *d = p->destination.word;
	__u32 bit = fnm_prefilter_bit(d[0], d[1], d[2], d[3]);
	__u32 index = bit & (FNM_RECENT - 1);
	__u64 epoch = ((__u64)settings->epoch + 1) * 2;
	struct fnm_recent *r;

	if (!(settings->prefilter[bit >> 6 & (FNM_PREFILTER - 1)] >> (bit & 63) & 1))
		return NULL;
	r = bpf_map_lookup_elem(&recent, &index);
	if (!r)
		return NULL;
	if ((r->epoch & ~1ull) != epoch || !fnm_same_address(&r->address, &p->destination)) {
		r->epoch = 0;
		r->epoch = epoch | !!fnm_look_up(&p->destination, r, settings->wide);
	}
	return r->epoch & 1 ? &r->policy : NULL;
}

FNM_INLINE __u32 fnm_first_live(const __u16 *chain, __u64 now)
{
	if (!*(const __u64 *)chain)
		return 0;
#pragma unroll
	for (int i = 0; i < FNM_CHAIN; i++) {
		if (fnm_live_slot(chain[i], now))
			return chain[i];
	}
	return 0;
}

/* The slot that stands for the whole policy; 0 when nothing of it is in force. */
FNM_INLINE __u32 fnm_enforcing(const struct fnm_policy *policy, __u64 now)
{
	__u32 slot = fnm_first_live(policy->acl, now);

	if (!slot)
		slot = fnm_first_live(policy->sorb, now);
	return slot ? slot : fnm_first_live(policy->tcp, now);
}

FNM_INLINE int fnm_port_in(__u16 index, __u16 port)
{
	__u32 key = index;
	struct fnm_portset *set;

	if (!index)
		return 1;
	set = bpf_map_lookup_elem(&portsets, &key);
	return set && set->bit[port >> 6 & 1023] >> (port & 63) & 1;
}

FNM_INLINE int fnm_is_icmp_error(const struct fnm_packet *p)
{
	__u8 type = p->icmp_type;

	if (!fnm_is_icmp(p))
		return 0;
	return p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
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

/* The index of the proxy that judges the packet, 0 for none. */
FNM_INLINE __u32 fnm_proxy_of(const struct fnm_policy *policy, const struct fnm_packet *p,
			      __u64 now, int any_port)
{
	for (int i = 0; i < FNM_CHAIN && policy->tcp[i]; i++) {
		struct fnm_slot *slot = fnm_live_slot(policy->tcp[i], now);

		if (slot && (any_port || fnm_port_in(slot->portset, fnm_dport(p))))
			return policy->tcp[i];
	}
	return 0;
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
	*by = index;
	if (!tcp)
		return fnm_take_one(&slot->tcp.icmp, c->now) ? FNM_R_icmp_error
							     : FNM_R_icmp_limited;
	if (!whole)
		return FNM_R_fragment;
	return p->v6 ? fnm_judge_tcp(ctx, c, p, slot, 1) : fnm_judge_tcp(ctx, c, p, slot, 0);
}

/* Learn flows while nothing is enforced; what is malformed is the server's affair. */
FNM_GLOBAL int fnm_watch(struct xdp_md *ctx, const struct fnm_context *c,
			 const struct fnm_packet *p, const struct fnm_policy *policy, __u32 *by)
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
		th = main == FNM_TCP_ACK ? fnm_tcp_of(p, data, end) : NULL;
		if (!th)
			return FNM_R_watched;
		hash = p->v6 ? fnm_flow_hash(c, p, 1) : fnm_flow_hash(c, p, 0);
		fnm_sighting_note(c, hash, bpf_ntohl(th->seq), bpf_ntohl(th->ack), 0);
		return FNM_R_watched;
	}
	return FNM_GO_ON;
}

FNM_INLINE int fnm_parse(struct xdp_md *ctx, struct fnm_packet *p, void *data, void *end)
{
	int reason = p->v6 ? fnm_parse_ip6(ctx, p, data, end) : fnm_parse_ip4(ctx, p, data, end);

	return reason != FNM_GO_ON ? reason : fnm_parse_transport(p, data, end);
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

FNM_INLINE int fnm_decide(struct xdp_md *ctx, struct fnm_context *c, struct fnm_packet *p,
			  const struct fnm_policy *policy, __u32 *by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	int malformed = fnm_parse(ctx, p, data, end);
	int reason = FNM_GO_ON;

	if (malformed != FNM_GO_ON)
		return fnm_undecided(ctx, c, p, policy, malformed, by);
	if (*(const __u64 *)policy->acl)
		reason = fnm_run_filters(c, p, policy, by);
	if (reason == FNM_GO_ON && *(const __u64 *)policy->sorb)
		reason = fnm_run_sorbs(c, p, policy, by);
	if (reason == FNM_GO_ON && *(const __u64 *)policy->tcp)
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
	int reason, action, sampled;

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
	if (!policy) {
		fnm_count(0, FNM_R_unprotected, 0, XDP_PASS);
		return XDP_PASS;
	}
	fnm_begin(&s->context, settings);
	sampled = fnm_sampled(settings->sample_every) && fnm_capture(ctx, &s->sample);
	reason = fnm_decide(ctx, &s->context, &s->packet, policy, &by);
	action = fnm_action(reason);
	fnm_count(by, reason, s->packet.length, action);
	if (sampled && reason != FNM_R_unprotected)
		fnm_show(&s->sample, s->context.now, by, reason);
	return action;
}

#endif
