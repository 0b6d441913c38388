/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Layout of what the translating mode keeps: spliced flows, what servers have shown of themselves,
 * and the first data of clients whose server has not answered yet.
 *
 * Times here are the low 32 bits of engine milliseconds; 0 means never.
 */
#ifndef FNM_SPLICE_ABI_H
#define FNM_SPLICE_ABI_H

#include <linux/types.h>

#define FNM_BACKENDS	16384
#define FNM_HELD	2048 /* segments kept at once */
#define FNM_HELD_BYTES	1460
#define FNM_HELD_ROOM	1536 /* three times what bpf_csum_diff takes */
#define FNM_SPLICE_WAYS 4

enum fnm_splice_state {
	FNM_SPLICE_ASKED = 1, /* a SYN has gone to the server */
	FNM_SPLICE_OPEN = 2   /* the server has answered, and everything is translated */
};

/* who has ended it */
#define FNM_ENDED_CLIENT 1
#define FNM_ENDED_SERVER 2
#define FNM_ENDED_RESET	 4

/* `to_client` = `seq` of the server + delta; `to_server` = `ack` of the client - delta. The same
 * holds of timestamps with ts_delta. Client's own numbers are left alone. */
struct fnm_splice {
	struct {
		__u32 word[4];
	} client, server;
	__u32 ports;		      /* of the client's segments, as in memory; 0: free */
	__u32 seen;		      /* engine ms >> 10 */
	__u32 state;		      /* enum fnm_splice_state */
	__u32 claim;		      /* 1: somebody writes it */
	__u32 client_isn, cookie_isn; /* host order */
	__u32 delta, ts_delta;
	__u32 ts_cookie; /* TSval of our SYN-ACK */
	__u32 client_ts; /* TSval of the segment that opened it */
	__u32 opened_ms; /* when the server was asked first */
	__u32 asked_ms;	 /* and last */
	__u32 generation;
	__u16 slot; /* that opened it, in its `generation` */
	__u16 window, mss;
	__u16 flags;	 /* FNM_TCP_SACK, _WSCALE, _TIMESTAMPS, _ECN: agreed with the client */
	__u8 wscale;	 /* of the client */
	__u8 own_wscale; /* that the client was told */
	__s8 to_client;	 /* windows are shifted right by so much; negative: left */
	__s8 to_server;
	__u32 ended; /* FNM_ENDED_* */
};

struct fnm_splice_set {
	__u32 tag[FNM_SPLICE_WAYS]; /* of each way's hash; tells most of what is not there */
	__u32 pad[4];
	struct fnm_splice way[FNM_SPLICE_WAYS];
};

/* the one element of `splicing` */
struct fnm_splicing {
	__u64 translated[1024]; /* as `prefilter`: servers of which a spliced flow may exist, or
				   whose SYN-ACKs are to be learned */
	__u64 probe_interval, probe_burst, probe_tat; /* struct fnm_rate */
};

enum fnm_backend_state {
	FNM_BACKEND_UNKNOWN = 0,
	FNM_BACKEND_OPEN = 1,
	FNM_BACKEND_CLOSED = 2,	   /* it refuses */
	FNM_BACKEND_ASYMMETRIC = 3 /* its answers go by another way than through us */
};

struct fnm_backend_key {
	__u32 address[4];
	__u16 port; /* as in the segment */
	__u16 pad;
};

struct fnm_backend {
	__u32 asked;	/* the oldest SYN that it has not answered */
	__u32 probed;	/* when a client's own SYN was last let through to it */
	__u32 answered; /* its last SYN-ACK, or RST that refuses */
	__u32 profiled; /* its last SYN-ACK to a SYN that offered everything */
	__u32 tag;	/* of the client whose SYN was let through */
	__u16 mss, window;
	__u16 offered;	    /* by that SYN: FNM_TCP_* */
	__u16 known, flags; /* which of FNM_TCP_* are known, and which of those it takes */
	__u8 state, wscale, ttl, pad[3];
};

struct fnm_held {
	__u32 tag; /* of the flow's hash; 0: free */
	__u32 at;
	__u32 sum; /* of the data, one's complement; of an even length */
	__u16 length;
	__u8 flags; /* FIN and PSH of the segment */
	__u8 pad;
	__u8 data[FNM_HELD_ROOM];
};

#endif
