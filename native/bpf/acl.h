/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Filters: the first rule that fits decides; what none fits goes on. */
#ifndef FNM_ACL_H
#define FNM_ACL_H

#include "flows.h"

#define FNM_GO_ON (-1)

struct fnm_acl_walk {
	const struct fnm_packet *packet;
	struct fnm_acl *acl;
	__u64 now;
	int verdict;
};

FNM_INLINE int fnm_within(__u32 value, __u32 low, __u32 high)
{
	return value >= low && value <= high;
}

FNM_INLINE int fnm_source_fits(const struct fnm_acl_rule *r, const struct fnm_packet *p)
{
	const __u32 *a = p->source.word;

	return !(((a[0] ^ r->source[0]) & r->source_mask[0]) |
		 ((a[1] ^ r->source[1]) & r->source_mask[1]) |
		 ((a[2] ^ r->source[2]) & r->source_mask[2]) |
		 ((a[3] ^ r->source[3]) & r->source_mask[3]));
}

FNM_INLINE int fnm_has_ports(const struct fnm_packet *p)
{
	return p->fragment == FNM_WHOLE &&
	       (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP ||
		p->protocol == IPPROTO_SCTP);
}

FNM_INLINE int fnm_rule_fits(const struct fnm_acl_rule *r, const struct fnm_packet *p)
{
	__u32 m = r->match;

	if (m & FNM_M_IPV4 && p->v6)
		return 0;
	if (m & FNM_M_IPV6 && !p->v6)
		return 0;
	if (m & FNM_M_PROTOCOL && r->protocol != p->protocol)
		return 0;
	if (m & FNM_M_SOURCE && !fnm_source_fits(r, p))
		return 0;
	if (m & FNM_M_FRAGMENT && p->fragment == FNM_WHOLE)
		return 0;
	if (m & FNM_M_NOT_FRAGMENT && p->fragment != FNM_WHOLE)
		return 0;
	if (m & FNM_M_LENGTH && !fnm_within(p->length, r->length[0], r->length[1]))
		return 0;
	if (m & (FNM_M_SPORT | FNM_M_DPORT)) {
		if (!fnm_has_ports(p))
			return 0;
		if (m & FNM_M_SPORT && !fnm_within(fnm_sport(p), r->sport[0], r->sport[1]))
			return 0;
		if (m & FNM_M_DPORT && !fnm_within(fnm_dport(p), r->dport[0], r->dport[1]))
			return 0;
	}
	if (m & FNM_M_FLAGS && (p->protocol != IPPROTO_TCP || p->fragment != FNM_WHOLE ||
				(p->flags & r->flags_mask) != r->flags_value))
		return 0;
	if (m & (FNM_M_ICMP_TYPE | FNM_M_ICMP_CODE)) {
		if (!fnm_is_icmp(p))
			return 0;
		if (m & FNM_M_ICMP_TYPE &&
		    !fnm_within(p->icmp_type, r->icmp_type[0], r->icmp_type[1]))
			return 0;
		if (m & FNM_M_ICMP_CODE &&
		    !fnm_within(p->icmp_code, r->icmp_code[0], r->icmp_code[1]))
			return 0;
	}
	return 1;
}

static long fnm_try_rule(__u32 turn, void *context)
{
	struct fnm_acl_walk *walk = context;
	struct fnm_acl_rule *r;
	__u32 limit;

	if (turn >= FNM_ACL_RULES)
		return 1;
	r = &walk->acl->rule[turn];
	if (!fnm_rule_fits(r, walk->packet))
		return 0;
	if (r->action == FNM_ACL_PASS) {
		walk->verdict = FNM_R_acl_pass;
	} else if (r->action == FNM_ACL_DROP) {
		walk->verdict = FNM_R_acl_drop;
	} else {
		limit = r->limit;
		if (limit >= FNM_ACL_LIMITS)
			return 1;
		if (!fnm_take_one(&walk->acl->limit[limit], walk->now))
			walk->verdict = FNM_R_acl_limited;
	}
	return 1;
}

/* A reason, or FNM_GO_ON. */
FNM_GLOBAL int fnm_filter(const struct fnm_context *c, const struct fnm_packet *p, __u32 index)
{
	struct fnm_acl_walk walk = {.packet = p, .verdict = FNM_GO_ON};

	if (!c || !p)
		return FNM_GO_ON;
	walk.now = c->now;
	walk.acl = bpf_map_lookup_elem(&acls, &index);
	if (!walk.acl)
		return FNM_GO_ON;
	if (FNM_FAULT(FNM_FAULT_LOOP) || bpf_loop(walk.acl->rules, fnm_try_rule, &walk, 0) < 0)
		FNM_WORKED(loop_failed);
	return walk.verdict;
}

#endif
