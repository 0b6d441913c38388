/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The yardstick of the benchmarks: a SYN proxy made the usual way, from what the kernel offers.
 *
 * Cookie, its check, checksums, resizing, the walk over the options, the clock and the lookup of
 * known flows are helper calls and kernel functions; every packet goes the straight way, nothing
 * is slower than it has to be. The cookies are this machine's own, so it is of use only in front
 * of this machine's own SYNPROXY. Knows no VLAN tags and no IPv6 extension headers.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../bench/baseline.h"

#define REF_TCP_MAX   60
#define REF_CONFIRMED (1ul << 3) /* IPS_CONFIRMED */

/* 1: the kernel has bpf_xdp_ct_lookup (5.18) */
const volatile __u32 ref_conntrack = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ref_config);
} ref_configs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REF_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} ref_counters SEC(".maps");

struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

struct bpf_ct_opts {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

extern struct nf_conn *bpf_xdp_ct_lookup(struct xdp_md *ctx, struct bpf_sock_tuple *tuple,
					 __u32 tuple_size, struct bpf_ct_opts *options,
					 __u32 options_size) __ksym __weak;
extern void bpf_ct_release(struct nf_conn *flow) __ksym __weak;

struct ref_packet {
	struct ethhdr *eth;
	struct iphdr *ip4; /* whichever of the two it is */
	struct ipv6hdr *ip6;
	struct tcphdr *tcp;
	__u32 tcp_length; /* of the header */
};

struct ref_options {
	void *tcp, *data_end;
	__u32 next, end; /* offsets in the TCP header */
	__u32 tsval;
	__u8 wscale; /* 15: not offered */
	__u8 sack, timestamps;
};

static __always_inline int ref_count(enum ref_counter which, int verdict)
{
	__u32 key = which;
	__u64 *counter = bpf_map_lookup_elem(&ref_counters, &key);

	if (counter)
		(*counter)++;
	return verdict;
}

/* Verdict for what is not ours, or -1 with the headers found. */
static __always_inline int ref_parse(struct xdp_md *ctx, struct ref_packet *p, const int v6)
{
	void *end = (void *)(long)ctx->data_end;

	p->eth = (void *)(long)ctx->data;
	p->ip4 = (void *)(p->eth + 1);
	p->ip6 = (void *)(p->eth + 1);
	if (!v6) {
		p->tcp = (void *)(p->ip4 + 1);
		if ((void *)p->tcp > end || p->ip4->version != 4)
			return XDP_DROP;
		if (p->ip4->protocol != IPPROTO_TCP)
			return XDP_PASS;
		if (p->ip4->ihl != 5 || p->ip4->frag_off & bpf_htons(0x3fff))
			return XDP_DROP;
	} else {
		p->tcp = (void *)(p->ip6 + 1);
		if ((void *)p->tcp > end || p->ip6->version != 6)
			return XDP_DROP;
		if (p->ip6->nexthdr != IPPROTO_TCP)
			return XDP_PASS;
	}
	if ((void *)(p->tcp + 1) > end)
		return XDP_DROP;
	p->tcp_length = p->tcp->doff * 4;
	return p->tcp_length < sizeof(*p->tcp) ? XDP_DROP : -1;
}

static __always_inline int ref_is_known(struct xdp_md *ctx, struct ref_packet *p, const int v6)
{
	struct bpf_ct_opts options = {.netns_id = -1, .l4proto = IPPROTO_TCP};
	struct bpf_sock_tuple tuple = {};
	struct nf_conn *flow;
	unsigned long status;
	__u32 size;

	if (!ref_conntrack)
		return 0;
	if (!v6) {
		tuple.ipv4.saddr = p->ip4->saddr;
		tuple.ipv4.daddr = p->ip4->daddr;
		tuple.ipv4.sport = p->tcp->source;
		tuple.ipv4.dport = p->tcp->dest;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &p->ip6->saddr, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &p->ip6->daddr, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = p->tcp->source;
		tuple.ipv6.dport = p->tcp->dest;
		size = sizeof(tuple.ipv6);
	}
	flow = bpf_xdp_ct_lookup(ctx, &tuple, size, &options, sizeof(options));
	if (!flow)
		return 0;
	status = flow->status;
	bpf_ct_release(flow);
	return !!(status & REF_CONFIRMED);
}

static __always_inline __u16 ref_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16) ~((sum & 0xffff) + (sum >> 16));
}

/* Sum of the pseudo header of a segment of `length` bytes. */
static __always_inline __u64 ref_pseudo(struct ref_packet *p, __u32 length, const int v6)
{
	__u64 sum = bpf_htons(length) + bpf_htons(IPPROTO_TCP);

	if (!v6)
		return sum + p->ip4->saddr + p->ip4->daddr;
#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)p->ip6->saddr.s6_addr32[i] + p->ip6->daddr.s6_addr32[i];
	return sum;
}

/* One turn of bpf_loop is one option. 1 ends it. */
static long ref_option(__u32 turn, void *context)
{
	struct ref_options *o = context;
	__u32 offset = o->next & 63, size;
	__u8 *at = o->tcp + offset;

	(void)turn;
	if (offset >= o->end || (void *)(at + 1) > o->data_end || at[0] == 0)
		return 1;
	if (at[0] == 1) {
		o->next = offset + 1;
		return 0;
	}
	if (offset + 2 > o->end || (void *)(at + 2) > o->data_end)
		return 1;
	size = at[1];
	if (size < 2 || offset + size > o->end)
		return 1;
	if (at[0] == 3 && size == 3) {
		if ((void *)(at + 3) > o->data_end)
			return 1;
		o->wscale = at[2] > 14 ? 14 : at[2] & 15;
	} else if (at[0] == 4 && size == 2) {
		o->sack = 1;
	} else if (at[0] == 8 && size == 10) {
		if ((void *)(at + 10) > o->data_end)
			return 1;
		__builtin_memcpy(&o->tsval, at + 2, 4);
		o->timestamps = 1;
	}
	o->next = (offset + size) & 63;
	return 0;
}

/* What a cookie cannot carry goes into the low bits of the timestamp, which may not lead. */
static __always_inline __u32 ref_timestamp(struct ref_options *o, int ecn)
{
	__u32 now = bpf_ktime_get_ns() / 1000000;
	__u32 stamp = (now & ~0x3fu) | o->wscale | o->sack << 4 | (__u32)ecn << 5;

	return stamp > now ? stamp - 0x40 : stamp;
}

/* Writes the options of the answer, returns their length. */
static __always_inline __u32 ref_write_options(struct ref_packet *p, struct ref_options *o,
					       const struct ref_config *c, int ecn, const int v6)
{
	__be32 *to = (__be32 *)(p->tcp + 1);

	to[0] = bpf_htonl(0x02040000 | (v6 ? c->mss6 : c->mss4));
	if (!o->timestamps)
		return 4;
	to[1] = o->sack ? bpf_htonl(0x0402080a) : bpf_htonl(0x0101080a);
	to[2] = bpf_htonl(ref_timestamp(o, ecn));
	to[3] = o->tsval;
	if (o->wscale == 15)
		return 16;
	to[4] = bpf_htonl(0x01030300 | c->wscale);
	return 20;
}

static __always_inline void ref_turn_ip(struct ref_packet *p, const struct ref_config *c,
					__u32 length, const int v6)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, p->eth->h_dest, ETH_ALEN);
	__builtin_memcpy(p->eth->h_dest, p->eth->h_source, ETH_ALEN);
	__builtin_memcpy(p->eth->h_source, mac, ETH_ALEN);
	if (!v6) {
		__be32 address = p->ip4->saddr;

		p->ip4->saddr = p->ip4->daddr;
		p->ip4->daddr = address;
		p->ip4->tos = 0;
		p->ip4->id = 0;
		p->ip4->frag_off = bpf_htons(0x4000);
		p->ip4->ttl = c->ttl;
		p->ip4->tot_len = bpf_htons(sizeof(*p->ip4) + length);
		p->ip4->check = 0;
		p->ip4->check = ref_fold(bpf_csum_diff(0, 0, (void *)p->ip4, sizeof(*p->ip4), 0));
	} else {
		struct in6_addr address = p->ip6->saddr;

		p->ip6->saddr = p->ip6->daddr;
		p->ip6->daddr = address;
		*(__be32 *)p->ip6 = bpf_htonl(6u << 28);
		p->ip6->hop_limit = c->ttl;
		p->ip6->payload_len = bpf_htons(length);
	}
}

/* IPv4 and TCP checksum of the SYN as it came; there is room for REF_TCP_MAX bytes. */
static __always_inline int ref_sums_are_right(struct ref_packet *p, const int v6)
{
	__s64 sum;

	if (!v6) {
		sum = bpf_csum_diff(0, 0, (void *)p->ip4, sizeof(*p->ip4), 0);
		if (sum < 0 || ref_fold(sum))
			return 0;
	}
	sum = bpf_csum_diff(0, 0, (void *)p->tcp, p->tcp_length, 0);
	return sum >= 0 && !ref_fold(sum + ref_pseudo(p, p->tcp_length, v6));
}

static __always_inline int ref_answer(struct xdp_md *ctx, struct ref_packet *p, const int v6)
{
	const struct ref_config *config;
	struct ref_options options = {.wscale = 15};
	__u32 key = 0, payload, length;
	__be16 port;
	__s64 cookie;
	int ecn;

	config = bpf_map_lookup_elem(&ref_configs, &key);
	if (!config)
		return ref_count(REF_FAILED, XDP_PASS);
	payload =
	    v6 ? bpf_ntohs(p->ip6->payload_len) : bpf_ntohs(p->ip4->tot_len) - sizeof(*p->ip4);
	if (payload != p->tcp_length)
		return ref_count(REF_BAD, XDP_DROP);
	if (bpf_xdp_adjust_tail(ctx, REF_TCP_MAX - (int)p->tcp_length))
		return ref_count(REF_FAILED, XDP_DROP);
	if (ref_parse(ctx, p, v6) >= 0 || p->tcp_length > REF_TCP_MAX)
		return ref_count(REF_FAILED, XDP_DROP);
	if ((void *)p->tcp + REF_TCP_MAX > (void *)(long)ctx->data_end)
		return ref_count(REF_FAILED, XDP_DROP);
	if (!ref_sums_are_right(p, v6))
		return ref_count(REF_BAD, XDP_DROP);
	if (!v6)
		cookie = bpf_tcp_raw_gen_syncookie_ipv4(p->ip4, p->tcp, p->tcp_length);
	else
		cookie = bpf_tcp_raw_gen_syncookie_ipv6(p->ip6, p->tcp, p->tcp_length);
	if (cookie < 0)
		return ref_count(REF_FAILED, XDP_DROP);

	options.tcp = p->tcp;
	options.next = sizeof(*p->tcp);
	options.end = p->tcp_length;
	options.data_end = (void *)(long)ctx->data_end;
	bpf_loop(REF_TCP_MAX - sizeof(*p->tcp), ref_option, &options, 0);

	ecn = p->tcp->ece && p->tcp->cwr;
	length = sizeof(*p->tcp) + ref_write_options(p, &options, config, ecn, v6);
	port = p->tcp->source;
	p->tcp->source = p->tcp->dest;
	p->tcp->dest = port;
	p->tcp->ack_seq = bpf_htonl(bpf_ntohl(p->tcp->seq) + 1);
	p->tcp->seq = bpf_htonl((__u32)cookie);
	((__u8 *)p->tcp)[12] = length << 2;
	((__u8 *)p->tcp)[13] = 0x12 | (options.timestamps && ecn ? 0x40 : 0);
	p->tcp->window = 0;
	p->tcp->urg_ptr = 0;
	p->tcp->check = 0;
	ref_turn_ip(p, config, length, v6);
	p->tcp->check =
	    ref_fold(bpf_csum_diff(0, 0, (void *)p->tcp, length, 0) + ref_pseudo(p, length, v6));
	if (bpf_xdp_adjust_tail(ctx, (int)length - REF_TCP_MAX))
		return ref_count(REF_FAILED, XDP_DROP);
	return ref_count(REF_ANSWERED, XDP_TX);
}

static __always_inline int ref_check(struct ref_packet *p, const int v6)
{
	int error;

	if (!v6)
		error = bpf_tcp_raw_check_syncookie_ipv4(p->ip4, p->tcp);
	else
		error = bpf_tcp_raw_check_syncookie_ipv6(p->ip6, p->tcp);
	return error ? ref_count(REF_BAD_COOKIE, XDP_DROP) : ref_count(REF_GOOD_COOKIE, XDP_PASS);
}

static __always_inline int ref_is_protected(__be16 port)
{
	const struct ref_config *config;
	__u32 key = 0;

	config = bpf_map_lookup_elem(&ref_configs, &key);
	if (!config)
		return 0;
	for (int i = 0; i < REF_PORTS; i++) {
		if (!config->ports[i])
			return 0;
		if (config->ports[i] == bpf_ntohs(port))
			return 1;
	}
	return 0;
}

static __always_inline int ref_judge_ip(struct xdp_md *ctx, const int v6)
{
	struct ref_packet p;
	int verdict = ref_parse(ctx, &p, v6);

	if (verdict >= 0)
		return ref_count(verdict == XDP_PASS ? REF_OTHER : REF_BAD, verdict);
	if (ref_is_known(ctx, &p, v6))
		return ref_count(REF_KNOWN, XDP_PASS);
	if (!ref_is_protected(p.tcp->dest))
		return ref_count(REF_OTHER, XDP_PASS);
	if (p.tcp->fin || p.tcp->rst || p.tcp->syn == p.tcp->ack)
		return ref_count(REF_BAD, XDP_DROP);
	return p.tcp->syn ? ref_answer(ctx, &p, v6) : ref_check(&p, v6);
}

static __always_inline int ref_judge(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return ref_count(REF_BAD, XDP_DROP);
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return ref_judge_ip(ctx, 0);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return ref_judge_ip(ctx, 1);
	return ref_count(REF_OTHER, XDP_PASS);
}

#ifndef REF_NO_ENTRY
SEC("xdp")
int ref_entry(struct xdp_md *ctx)
{
	return ref_judge(ctx);
}

char ref_license[] SEC("license") = "GPL";
#endif
