/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A SYN flood, the sink that counts what comes back, and the two simplest devices under test.
 *
 * The flood runs in live-frame mode of BPF_PROG_RUN; each frame has a new source, each batch waits
 * until it is due, so that one long system call keeps a rate.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flood.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flood);
} flood SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOOD_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static __always_inline void count(enum flood_seen what)
{
	__u32 key = what;
	__u64 *counter = bpf_map_lookup_elem(&seen, &key);

	if (counter)
		(*counter)++;
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* True when the batch that begins with this frame is due. */
static __always_inline int is_due(struct flood *f)
{
	__u64 now;

	if (!f->ns_per_batch)
		return 1;
	now = bpf_ktime_get_ns();
	if (!f->begun)
		f->begun = now;
	return f->batches * f->ns_per_batch <= now - f->begun;
}

SEC("xdp")
int flood_send(struct xdp_md *ctx)
{
	__u32 zero = 0, source, port, length;
	struct flood *f = bpf_map_lookup_elem(&flood, &zero);
	struct iphdr *ip;
	struct tcphdr *tcp;

	if (!f)
		return XDP_ABORTED;
	if (!(f->turn++ & (FLOOD_BATCH - 1))) {
		f->waiting = !is_due(f);
		f->batches += !f->waiting;
	}
	if (f->waiting)
		return XDP_DROP;
	length = f->length & (BENCH_FRAME - 1);
	if (!length || bpf_xdp_store_bytes(ctx, 0, f->frame, length))
		return XDP_ABORTED;
	ip = (void *)(long)ctx->data + sizeof(struct ethhdr);
	tcp = (void *)(ip + 1);
	if ((void *)(tcp + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	f->sent++;
	source = (__u32)f->sent * 2654435761u;
	port = 1024 + (source >> 16 & 0x7fff);
	source = FLOOD_SOURCE | (source & ~FLOOD_MASK);
	ip->saddr = bpf_htonl(source);
	tcp->source = bpf_htons(port);
	ip->check = bpf_htons(fold(f->ip_sum + (source >> 16) + (source & 0xffff)));
	tcp->check = bpf_htons(fold(f->tcp_sum + (source >> 16) + (source & 0xffff) + port));
	return XDP_TX;
}

SEC("xdp")
int flood_sink(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > (void *)(long)ctx->data_end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if ((ip->daddr & bpf_htonl(FLOOD_MASK)) != bpf_htonl(FLOOD_SOURCE))
		return XDP_PASS;
	count(ip->protocol == IPPROTO_TCP && tcp->syn && tcp->ack ? FLOOD_SYN_ACK : FLOOD_OTHER);
	return XDP_DROP;
}

SEC("xdp")
int dut_drop(struct xdp_md *ctx)
{
	(void)ctx;
	count(FLOOD_JUDGED);
	return XDP_DROP;
}

/* Sends back what came, as it came but for the Ethernet and the IP addresses. */
SEC("xdp")
int dut_swap(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	__u8 mac[ETH_ALEN];
	__be32 address;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	address = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = address;
	count(FLOOD_JUDGED);
	return XDP_TX;
}

char LICENSE[] SEC("license") = "GPL";
