/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What flood.bpf.c and the programs that run it share. */
#ifndef BENCH_FLOOD_H
#define BENCH_FLOOD_H

#include "bench.h"

#define FLOOD_BATCH 64
/* Sources of the flood are 16.0.0.0/4. */
#define FLOOD_SOURCE 0x10000000u
#define FLOOD_MASK   0xf0000000u

/* The one element of `flood`. */
struct flood {
	__u32 length;
	__u32 ip_sum, tcp_sum; /* of the frame without source address and source port */
	__u32 turn, waiting;
	__u32 pad;
	__u64 ns_per_batch; /* 0: as fast as it goes */
	__u64 begun;
	__u64 sent, batches;
	__u8 frame[BENCH_FRAME];
};

enum flood_seen {
	FLOOD_SYN_ACK, /* answers to the flood */
	FLOOD_OTHER,   /* what else came back to its sources */
	FLOOD_JUDGED,  /* frames that a program of ours dropped or sent back */
	FLOOD_COUNTERS
};

#endif
