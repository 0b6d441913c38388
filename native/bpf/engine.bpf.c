/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The programs that synproxyd loads. */
#include "judge.h"

#ifndef FNM_NO_ENTRY
SEC("xdp.frags")
int fnm_xdp(struct xdp_md *ctx)
{
	return fnm_judge(ctx);
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
