/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What bench.bpf.c and the programs that run it share. */
#ifndef BENCH_H
#define BENCH_H

#include <linux/types.h>

#define BENCH_FRAME 128

/* The one element of `bench_case`. */
struct bench_case {
	__u32 length;	 /* of the frame that each run begins with */
	__u32 left_over; /* length that the program under test leaves behind */
	__u32 vary_at;	 /* offset of the TCP header whose source port is varied; 0: none */
	__u32 vary_mask; /* how many source ports are used, less one */
	__u32 acks;	 /* 1: each run takes the next of `bench_acks` instead */
	__u32 client_at; /* offset of the last two bytes of the source address */
	__u32 clients;	 /* 1: the source address is varied, too */
	__u32 turn;	 /* written by the program */
	__u32 failed;	 /* frames that could not be restored */
	__u8 frame[BENCH_FRAME];
};

#define BENCH_ACKS 16384

/* Element of `bench_acks`: what makes the frame the valid ACK of another client. */
struct bench_ack {
	__u32 ack; /* all as they are in the frame */
	__u16 client;
	__u16 tcp_check, ip_check;
	__u16 pad;
};

#endif
