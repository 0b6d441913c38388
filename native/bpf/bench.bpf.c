/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The engine, or with BENCH_BASELINE the yardstick, with entries for measuring by BPF_PROG_RUN.
 *
 * The kernel does not restore the packet between repeats: the second run would see the answer of
 * the first. So each run begins by restoring length and bytes, from another source, and a second
 * entry that does only this is measured to be subtracted.
 */
#ifdef BENCH_BASELINE
#define REF_NO_ENTRY
#include "baseline.bpf.c"
#define bench_judge ref_judge
#else
#define FNM_NO_ENTRY
#include "engine.bpf.c"
#define bench_judge fnm_judge
#endif

#include "../bench/bench.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_case);
} bench_cases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BENCH_ACKS);
	__type(key, __u32);
	__type(value, struct bench_ack);
} bench_acks SEC(".maps");

static __always_inline int bench_fold(__u32 sum)
{
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void bench_add(__be16 *word, __u32 what)
{
	*word = bpf_htons(bench_fold(bpf_ntohs(*word) + what));
}

/* Another source, so other checksums: the sequence number takes up what TCP's would change by. */
static __always_inline int bench_vary_client(struct xdp_md *ctx, const struct bench_case *c,
					     __u32 step)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 at = c->client_at;

	if (at > BENCH_FRAME - 20 || data + at + 2 > end || data + 34 > end)
		return -1;
	bench_add(data + at, step);
	if (((struct ethhdr *)data)->h_proto == bpf_htons(ETH_P_IP))
		bench_add(data + 24, 0xffff - step);
	return 0;
}

static __always_inline int bench_vary(struct xdp_md *ctx, const struct bench_case *c)
{
	__u32 at = c->vary_at, step = c->turn & c->vary_mask & 0x7fff;
	__be16 *tcp;

	if (!at || at > BENCH_FRAME - 8)
		return 0;
	tcp = (void *)(long)ctx->data + at;
	if ((void *)(tcp + 4) > (void *)(long)ctx->data_end)
		return -1;
	bench_add(&tcp[0], step);
	bench_add(&tcp[3], 0xffff - step);
	if (!c->clients)
		return 0;
	bench_add(&tcp[3], 0xffff - step);
	return bench_vary_client(ctx, c, step);
}

/* Another client with a valid cookie of its own. */
static __always_inline int bench_next_ack(struct xdp_md *ctx, const struct bench_case *c)
{
	__u32 index = c->turn & (BENCH_ACKS - 1), tcp = c->vary_at, client = c->client_at;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bench_ack *ack = bpf_map_lookup_elem(&bench_acks, &index);

	if (!ack || tcp > BENCH_FRAME - 20 || client > BENCH_FRAME - 20)
		return -1;
	if (data + tcp + 18 > end || data + client + 2 > end || data + 34 > end)
		return -1;
	*(__u32 *)(data + tcp + 8) = ack->ack;
	*(__u16 *)(data + tcp + 16) = ack->tcp_check;
	*(__u16 *)(data + client) = ack->client;
	if (((struct ethhdr *)data)->h_proto == bpf_htons(ETH_P_IP))
		((struct iphdr *)(data + 14))->check = ack->ip_check;
	return 0;
}

/* A function of its own, since the engine needs what there is of the stack. */
static __attribute__((noinline)) int bench_restore(struct xdp_md *ctx, int restore_only)
{
	__u32 key = 0, bytes, length;
	struct bench_case *c = bpf_map_lookup_elem(&bench_cases, &key);
	int change;

	if (!c)
		return -1;
	bytes = c->length;
	/* What is measured resizes once a run where its answer is of another length. */
	length = restore_only && c->turn & 1 ? c->left_over : bytes;
	change = (int)length - (int)(ctx->data_end - ctx->data);
	c->failed++;
	if (change && bpf_xdp_adjust_tail(ctx, change))
		return -1;
	if (length < bytes)
		bytes = length;
	if (bytes < 1 || bytes > BENCH_FRAME || bpf_xdp_store_bytes(ctx, 0, c->frame, bytes))
		return -1;
	if (c->acks ? bench_next_ack(ctx, c) : bench_vary(ctx, c))
		return -1;
	c->failed--;
	/* A locked instruction: the frame is in the cache then, as after a network card, and no
	 * longer in flight from stores of other widths than what reads it. */
	__sync_fetch_and_add(&c->turn, 1);
	return 0;
}

SEC("xdp")
int bench_run(struct xdp_md *ctx)
{
	if (bench_restore(ctx, 0))
		return XDP_ABORTED;
	return bench_judge(ctx);
}

SEC("xdp")
int bench_restore_only(struct xdp_md *ctx)
{
	return bench_restore(ctx, 1) ? XDP_ABORTED : XDP_DROP;
}

#ifndef BENCH_BASELINE
SEC("xdp")
int bench_clock(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct fnm_control *state = bpf_map_lookup_elem(&control, &zero);

	(void)ctx;
	if (state)
		state->clock_ms = bpf_jiffies64() * fnm_ms_mult >> 16;
	return XDP_PASS;
}
#endif

char bench_license[] SEC("license") = "GPL";
