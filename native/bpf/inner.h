/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * ICMP errors about spliced flows: the head of the packet that they quote is in the numbers of the
 * side from which they come, and a stack looks at these before it believes (RFC 5927).
 */
#ifndef FNM_INNER_H
#define FNM_INNER_H

#include "translate.h"

#define FNM_ICMP_HEAD  8
#define FNM_QUOTED_ACK 14 /* bytes of TCP that reach up to the flags */

FNM_INLINE int fnm_is_icmp_error(const struct fnm_packet *p)
{
	__u8 type = p->icmp_type;

	if (!fnm_is_icmp(p))
		return 0;
	return p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

/* The quoted packet's addresses and ports as `from` and where its TCP header is; 0 where it is no
 * TCP segment with as much as its sequence number. */
FNM_INLINE __u32 fnm_quoted(const struct fnm_packet *p, void *data, void *end,
			    struct fnm_packet *from)
{
	__u32 at = p->l4 + FNM_ICMP_HEAD, tcp;
	void *ip = fnm_at(data, at, FNM_MAX_L4);
	__u32 *ports;

	from->v6 = p->v6;
	if (!ip)
		return 0;
	if (p->v6) {
		struct ipv6hdr *ip6 = ip;

		if ((void *)(ip6 + 1) > end || ip6->nexthdr != IPPROTO_TCP)
			return 0;
		fnm_copy_address(&from->source, &ip6->saddr);
		fnm_copy_address(&from->destination, &ip6->daddr);
		tcp = at + sizeof(*ip6);
	} else {
		struct iphdr *ip4 = ip;

		if ((void *)(ip4 + 1) > end || ip4->ihl < 5 || ip4->protocol != IPPROTO_TCP ||
		    ip4->frag_off & bpf_htons(0x1fff))
			return 0;
		fnm_map_address(&from->source, ip4->saddr);
		fnm_map_address(&from->destination, ip4->daddr);
		tcp = at + ip4->ihl * 4;
	}
	ports = fnm_at(data, tcp, FNM_MAX_L4);
	if (!ports || (void *)(ports + 2) > end || tcp + 8 > p->end)
		return 0;
	from->ports = *ports;
	return tcp;
}

FNM_INLINE void fnm_turn_packet(struct fnm_packet *p)
{
	struct fnm_address was = p->source;

	p->source = p->destination;
	p->destination = was;
	p->ports = fnm_packed_ports(p->ports);
}

/* From the clients' side, about what the server has sent; true where it was translated. */
FNM_GLOBAL int fnm_inner_in(struct xdp_md *ctx, const struct fnm_context *c,
			    const struct fnm_packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct fnm_packet quoted = {};
	struct fnm_splice *f;
	__u32 tcp, *seq, old;
	__u16 *check;

	if (!c || !p)
		return 0;
	tcp = fnm_quoted(p, data, end, &quoted);
	if (!tcp || !fnm_same_address(&quoted.source, &p->destination))
		return 0;
	fnm_turn_packet(&quoted);
	f = fnm_splice_find(c, &quoted, fnm_hash_of(c, &quoted));
	if (!f || f->state != FNM_SPLICE_OPEN)
		return 0;
	check = fnm_at(data, p->l4 + 2, FNM_MAX_L4);
	seq = fnm_at(data, tcp + 4, FNM_MAX_L4);
	if (!check || (void *)(check + 1) > end || !seq || (void *)(seq + 1) > end)
		return 0;
	old = *seq;
	*seq = fnm_moved(old, -f->delta);
	*check = fnm_fold((__u64)(__u16) ~*check + fnm_changed(old, *seq));
	return 1;
}

/* From the servers' side, about what a client has sent; true where it is about a spliced flow. */
FNM_GLOBAL int fnm_inner_out(struct __sk_buff *skb, const struct fnm_context *c,
			     const struct fnm_packet *p, __u32 *by)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct fnm_packet quoted = {};
	struct fnm_splice *f;
	__u32 tcp, *ack, old, new;

	if (!c || !p || !by)
		return 0;
	tcp = fnm_quoted(p, data, end, &quoted);
	if (!tcp || !fnm_translated(&quoted.destination))
		return 0;
	f = fnm_splice_find(c, &quoted, fnm_hash_of(c, &quoted));
	if (!f || f->state != FNM_SPLICE_OPEN)
		return 0;
	*by = fnm_splice_slot(f);
	ack = fnm_at(data, tcp + 8, FNM_MAX_L4);
	if (!ack || (void *)ack + FNM_QUOTED_ACK - 8 > end || tcp + FNM_QUOTED_ACK > p->end ||
	    !(((__u8 *)ack)[5] & FNM_TCP_ACK))
		return 1;
	old = *ack;
	new = fnm_moved(old, f->delta);
	bpf_skb_store_bytes(skb, tcp + 8, &new, sizeof(new), 0);
	bpf_l4_csum_replace(skb, p->l4 + 2, old, new, sizeof(new));
	return 1;
}

#endif
