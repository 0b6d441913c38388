/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The programs that synproxyd loads. */
#include "splice_out.h"

#ifndef FNM_NO_ENTRY
SEC("xdp.frags")
int fnm_xdp(struct xdp_md *ctx)
{
	return fnm_judge(ctx);
}

/* What leaves by the interface. */
SEC("tc")
int fnm_egress(struct __sk_buff *skb)
{
	return fnm_judge_out(skb);
}

/* Shows the engine clock; run by user space through BPF_PROG_RUN. */
SEC("xdp")
int fnm_clock(struct xdp_md *ctx)
{
	struct fnm_control *c;
	__u32 zero = 0;

	(void)ctx;
	c = bpf_map_lookup_elem(&control, &zero);
	if (c)
		c->clock_ms = bpf_jiffies64() * fnm_ms_mult >> 16;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
#endif
