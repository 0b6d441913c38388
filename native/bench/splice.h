/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What splice.bpf.c and the program that runs it share. */
#ifndef BENCH_SPLICE_H
#define BENCH_SPLICE_H

#include <linux/types.h>

#define SPLICE_FLOWS   (1 << 17)
#define SPLICE_NETWORK 0xc6120000u /* clients are 198.18.0.0/16, a flow each and again */
#define SPLICE_SERVER  0xc000020au /* 192.0.2.10 */
#define SPLICE_PORT    80
#define SPLICE_SPORT   40000 /* of the first 65536 flows; the next have the next */

#define SPLICE_SYN_FRAME     74
#define SPLICE_SEGMENT_FRAME 66
/* Frames are sent from pages that come back as somebody has left them, and take their length from
 * there unless the sender changes it: a SYN is cut to what it should be. */
#define SPLICE_UNCUT_SYN 76

/* Element of `flows`. */
struct splice_flow {
	__u32 open;		 /* its ACK has come to the server, in the server's numbers */
	__u32 told_isn, told_ts; /* what the client was told in the SYN-ACK */
};

enum splice_kind { SPLICE_OPEN, SPLICE_TO_SERVER, SPLICE_TO_CLIENT };

/* The one element of `job`. */
struct splice_job {
	__u32 kind;
	__u32 first, count, at; /* flows that take turns */
	__u64 sent;
	/* When it began and ended; the system call that sends lasts 20 ms longer than it sends. */
	__u64 begun_ns, ended_ns;
};

#define SPLICE_BATCH 64

enum splice_seen {
	SPLICE_ASKED,	  /* SYNs that came to the server */
	SPLICE_OPENED,	  /* first ACKs there */
	SPLICE_PROXIED,	  /* of them: those whose client knows the server by another number */
	SPLICE_AT_SERVER, /* later segments, all of which must be in the server's numbers */
	SPLICE_AT_CLIENT, /* segments in the numbers that the client was told */
	SPLICE_WRONG,	  /* in other numbers, or with a wrong checksum */
	SPLICE_OTHER,	  /* RST, FIN and what is no segment of 32 bytes */
	SPLICE_COUNTERS
};

#endif
