/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From a frame to addresses, protocol and transport header; knows no countermeasure. */
#ifndef FNM_PACKET_H
#define FNM_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "tables.h"

#define FNM_MAX_TAGS	   2
#define FNM_MAX_L3	   (sizeof(struct ethhdr) + FNM_MAX_TAGS * sizeof(struct fnm_vlan))
#define FNM_MAX_L4	   0x4fff /* far beyond what extension headers reach; for the verifier */
#define FNM_MAX_EXTENSIONS 6
#define FNM_MAPPED	   bpf_htonl(0x0000ffff)

enum fnm_fragment { FNM_WHOLE = 0, FNM_FIRST = 1, FNM_LATER = 2 };

struct fnm_syn {
	__u32 mss;
	__u32 tsval, tsecr; /* network order */
	__u8 wscale;	    /* FNM_NO_WSCALE: not offered */
	__u8 sack;
	__u8 timestamps;
};

struct fnm_packet {
	struct fnm_address source, destination;
	__u32 l3, l4; /* offsets from the start of the frame */
	__u32 end;    /* offset of the end of the IP packet */
	__u32 length; /* of the IP packet */
	__u32 ports;  /* first four bytes of the transport header as they are in memory */
	__u8 v6;
	__u8 protocol; /* after extension headers */
	__u8 fragment;
	__u8 ecn;  /* IP ECN field */
	__u8 doff; /* of TCP, in bytes */
	__u8 flags;
	__u8 reserved; /* byte 12 of the TCP header */
	__u8 icmp_type, icmp_code;
	struct fnm_syn syn; /* set by fnm_read_syn */
} __attribute__((aligned(8)));

/* In halves, as it is read in halves: a load across two fresh stores has to wait for both. */
FNM_INLINE void fnm_map_address(struct fnm_address *a, __be32 ip4)
{
	((__u64 *)a->word)[0] = 0;
	((__u64 *)a->word)[1] = (__u64)ip4 << 32 | FNM_MAPPED;
}

FNM_INLINE void fnm_copy_address(struct fnm_address *a, const struct in6_addr *ip6)
{
	const __u32 *word = (const __u32 *)ip6;

	((__u64 *)a->word)[0] = (__u64)word[1] << 32 | word[0];
	((__u64 *)a->word)[1] = (__u64)word[3] << 32 | word[2];
}

FNM_INLINE int fnm_same_address(const struct fnm_address *a, const struct fnm_address *b)
{
	const __u64 *x = (const __u64 *)a->word, *y = (const __u64 *)b->word;

	return x[1] == y[1] && x[0] == y[0];
}

FNM_INLINE int fnm_is_mapped(const struct fnm_address *a)
{
	return !(a->word[0] | a->word[1]) && a->word[2] == FNM_MAPPED;
}

struct fnm_vlan {
	__be16 tci, protocol;
};

/* `data` + `offset`, or NULL when that is beyond `most`. What the verifier finds out about a value
 * holds for the register that was looked at: both must not be computed a second time. */
FNM_INLINE void *fnm_at(void *data, __u32 offset, __u32 most)
{
	asm volatile("" : "+r"(offset));
	if (offset > most)
		return NULL;
	data += offset;
	asm volatile("" : "+r"(data));
	return data;
}

FNM_INLINE int fnm_is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* Find the IP header and the destination; false for what is no IP. Reads nothing beyond that. */
FNM_INLINE int fnm_find_ip(struct fnm_packet *p, void *data, void *end)
{
	__u32 l3 = sizeof(struct ethhdr);
	__be16 protocol;

	if (data + sizeof(struct ethhdr) > end)
		return 0;
	protocol = ((struct ethhdr *)data)->h_proto;
#pragma unroll
	for (int i = 0; i < FNM_MAX_TAGS; i++) {
		struct fnm_vlan *tag = data + l3;

		if (!fnm_is_vlan(protocol))
			break;
		if ((void *)(tag + 1) > end)
			return 0;
		protocol = tag->protocol;
		l3 += sizeof(*tag);
	}
	p->l3 = l3;
	p->length = 0;
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return 0;
		p->v6 = 0;
		fnm_map_address(&p->destination, ip->daddr);
		return 1;
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return 0;
		p->v6 = 1;
		fnm_copy_address(&p->destination, &ip->daddr);
		return 1;
	}
	return 0;
}

/* What a program is given, and how it is asked for its length. */
enum fnm_hook { FNM_AT_XDP = 0, FNM_AT_TC = 1 };

/* 0 where the frame holds them. */
FNM_INLINE long fnm_load(void *ctx, const enum fnm_hook hook, __u32 at, void *to, __u32 length)
{
	return hook == FNM_AT_TC ? bpf_skb_load_bytes(ctx, at, to, length)
				 : bpf_xdp_load_bytes(ctx, at, to, length);
}

FNM_INLINE long fnm_store(void *ctx, const enum fnm_hook hook, __u32 at, void *from, __u32 length)
{
	return hook == FNM_AT_TC ? bpf_skb_store_bytes(ctx, at, from, length, 0)
				 : bpf_xdp_store_bytes(ctx, at, from, length);
}

/* True when the frame holds `length` bytes from `l3` on, counting what is beyond the linear part.
 */
FNM_INLINE int fnm_frame_holds(void *ctx, const enum fnm_hook hook, void *data, void *end, __u32 l3,
			       __u32 length)
{
	/* Compared as pointers: the verifier takes no difference of two as 32 bits. */
	if (data + l3 + length <= end)
		return 1;
	if (hook == FNM_AT_TC)
		return l3 + length <= ((struct __sk_buff *)ctx)->len;
	return l3 + length <= bpf_xdp_get_buff_len(ctx);
}

FNM_INLINE int fnm_parse_ip4(void *ctx, const enum fnm_hook hook, struct fnm_packet *p, void *data,
			     void *end)
{
	struct iphdr *ip = fnm_at(data, p->l3, FNM_MAX_L3);
	__u32 header, offset;

	if (!ip || (void *)(ip + 1) > end)
		return FNM_R_bad_ip;
	header = ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || p->length < header ||
	    !fnm_frame_holds(ctx, hook, data, end, p->l3, p->length))
		return FNM_R_bad_ip;
	fnm_map_address(&p->source, ip->saddr);
	p->protocol = ip->protocol;
	p->ecn = ip->tos & 3;
	offset = bpf_ntohs(ip->frag_off) & 0x3fff;
	p->fragment = !offset ? FNM_WHOLE : offset & 0x1fff ? FNM_LATER : FNM_FIRST;
	p->l4 = p->l3 + header;
	p->end = p->l3 + p->length;
	return -1;
}

struct fnm_extension {
	__u8 next, length;
	__be16 offset; /* of a fragment header */
};

FNM_INLINE int fnm_is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH;
}

/* Walk the extension headers (RFC 8200 section 4); a reason to drop, or -1. */
FNM_INLINE int fnm_walk_extensions(struct fnm_packet *p, void *data, void *end)
{
	__u32 at = p->l4;
	__u8 next = p->protocol;

	for (int i = 0; i < FNM_MAX_EXTENSIONS; i++) {
		struct fnm_extension *ext;
		__u32 size;

		if (!fnm_is_extension(next) || p->fragment == FNM_LATER)
			break;
		ext = fnm_at(data, at, FNM_MAX_L4);
		if (!ext || (void *)(ext + 1) > end)
			return FNM_R_ext_headers;
		size = (ext->length + 1) * 8;
		if (next == IPPROTO_FRAGMENT) {
			__u32 offset = bpf_ntohs(ext->offset);

			size = 8;
			/* An atomic fragment (RFC 6946) is a whole packet. */
			if (offset & 0xfff8)
				p->fragment = FNM_LATER;
			else if (offset & 1)
				p->fragment = FNM_FIRST;
		} else if (next == IPPROTO_AH) {
			size = (ext->length + 2) * 4;
		}
		next = ext->next;
		at += size;
		if (at > p->end)
			return FNM_R_ext_headers;
	}
	p->protocol = next;
	p->l4 = at;
	if (fnm_is_extension(next) && p->fragment != FNM_LATER)
		return FNM_R_ext_headers;
	return -1;
}

FNM_INLINE int fnm_parse_ip6(void *ctx, const enum fnm_hook hook, struct fnm_packet *p, void *data,
			     void *end)
{
	struct ipv6hdr *ip = fnm_at(data, p->l3, FNM_MAX_L3);

	if (!ip || (void *)(ip + 1) > end)
		return FNM_R_bad_ip;
	p->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (ip->version != 6 || !fnm_frame_holds(ctx, hook, data, end, p->l3, p->length))
		return FNM_R_bad_ip;
	/* A mapped destination is on no wire (RFC 4942 section 2.2), and would be judged by what
	 * guards the IPv4 address, which need have no keys for IPv6. */
	if (fnm_is_mapped(&p->destination))
		return FNM_R_bad_ip;
	fnm_copy_address(&p->source, &ip->saddr);
	p->protocol = ip->nexthdr;
	p->ecn = ip->flow_lbl[0] >> 4 & 3;
	p->fragment = FNM_WHOLE;
	p->l4 = p->l3 + sizeof(*ip);
	p->end = p->l3 + p->length;
	if (!fnm_is_extension(p->protocol))
		return -1;
	return fnm_walk_extensions(p, data, end);
}

#define FNM_TCP_FIN 0x01
#define FNM_TCP_SYN 0x02
#define FNM_TCP_RST 0x04
#define FNM_TCP_PSH 0x08
#define FNM_TCP_ACK 0x10
#define FNM_TCP_URG 0x20
#define FNM_TCP_ECE 0x40
#define FNM_TCP_CWR 0x80
#define FNM_TCP_AE  0x01 /* in byte 12 */

struct fnm_tcphdr { /* linux/tcp.h has the flags as bit fields, here they are one byte */
	__be16 source, destination;
	__be32 seq, ack;
	__u8 doff, flags;
	__be16 window;
	__sum16 check;
	__be16 urgent;
};

/* Read the transport header of a whole packet; a reason to drop, or -1. */
FNM_INLINE int fnm_parse_transport(struct fnm_packet *p, void *data, void *end)
{
	void *at;

	p->ports = 0;
	if (p->fragment != FNM_WHOLE)
		return -1;
	at = fnm_at(data, p->l4, FNM_MAX_L4);
	if (!at)
		return FNM_R_ext_headers;
	if (p->protocol == IPPROTO_TCP) {
		struct fnm_tcphdr *tcp = at;

		if ((void *)(tcp + 1) > end || p->l4 + sizeof(*tcp) > p->end)
			return FNM_R_bad_transport;
		p->ports = *(__u32 *)tcp;
		p->doff = (tcp->doff >> 4) * 4;
		p->reserved = tcp->doff;
		p->flags = tcp->flags;
		if (p->doff < sizeof(*tcp) || p->l4 + p->doff > p->end)
			return FNM_R_bad_transport;
		return -1;
	}
	if (p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP) {
		if (at + 8 > end || p->l4 + 8 > p->end)
			return FNM_R_bad_transport;
		p->ports = *(__u32 *)at;
		return -1;
	}
	if (p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		if (at + 4 > end || p->l4 + 4 > p->end)
			return FNM_R_bad_transport;
		p->icmp_type = *(__u8 *)at;
		p->icmp_code = *(__u8 *)(at + 1);
	}
	return -1;
}

/* Everything behind what fnm_find_ip has found; a reason to drop, or -1. */
FNM_INLINE int fnm_parse(void *ctx, const enum fnm_hook hook, struct fnm_packet *p, void *data,
			 void *end)
{
	int reason =
	    p->v6 ? fnm_parse_ip6(ctx, hook, p, data, end) : fnm_parse_ip4(ctx, hook, p, data, end);

	return reason != -1 ? reason : fnm_parse_transport(p, data, end);
}

/* Whether a SYN asks for ECN (RFC 3168 section 6.1.1; AccECN with the bit AE). */
FNM_INLINE int fnm_asks_ecn(const struct fnm_packet *p)
{
	return (p->flags & (FNM_TCP_ECE | FNM_TCP_CWR)) == (FNM_TCP_ECE | FNM_TCP_CWR) &&
	       (!p->ecn || p->reserved & FNM_TCP_AE);
}

/* The TCP header of a packet that was parsed, NULL when it is not in the linear part. */
FNM_INLINE struct fnm_tcphdr *fnm_tcp_of(const struct fnm_packet *p, void *data, void *end)
{
	struct fnm_tcphdr *tcp = fnm_at(data, p->l4, FNM_MAX_L4);

	return tcp && (void *)(tcp + 1) <= end ? tcp : NULL;
}

FNM_INLINE int fnm_is_icmp(const struct fnm_packet *p)
{
	return p->fragment == FNM_WHOLE && p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* ports in host order */
FNM_INLINE __u16 fnm_sport(const struct fnm_packet *p)
{
	return bpf_ntohs((__u16)p->ports);
}

FNM_INLINE __u16 fnm_dport(const struct fnm_packet *p)
{
	return bpf_ntohs((__u16)(p->ports >> 16));
}

#endif
