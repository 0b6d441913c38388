/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the data plane and user space share: layout and meaning of every map.
 *
 * Conventions
 * - Addresses are 16 bytes in network order; IPv4 is ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
 * - Times are milliseconds of the engine clock: jiffies64 * 1000 / HZ. It stands still with the
 *   kernel only, needs no helper call, and `control.clock_ms` shows it after fnm_clock has run.
 * - Rates are token buckets in the form of GCRA (ITU-T I.371): `tat` is the theoretical arrival
 * time in nanoseconds of the engine clock; one packet moves it by `interval`, and a packet is over
 *   the rate when that leads it more than `burst` nanoseconds ahead of now. interval 0: no limit.
 * - What a bucket (set) of a table holds is found by hashing; nothing here is ever allocated by a
 *   packet, so memory is bounded whatever is sent.
 */
#ifndef FNM_ABI_H
#define FNM_ABI_H

#include <linux/types.h>

#include "reasons.h"
#include "splice_abi.h"

#define FNM_ABI 1 /* moves with every change of a layout below; part of the pin path */

#define FNM_SLOTS      2048 /* mitigations and watches at once; slot 0 is "none" and counts the rest */
#define FNM_PORTSETS   256   /* distinct lists of ports; 0 is "all" */
#define FNM_ACLS       1024  /* filters at once; 0 is "none" */
#define FNM_ACL_RULES  128   /* rules of one filter, after lists have been multiplied out */
#define FNM_ACL_LIMITS 64    /* rates of one filter */
#define FNM_CHAIN      4     /* countermeasures of one kind on one target */
#define FNM_PREFILTER  1024  /* words of 64 bits */
#define FNM_CEILINGS   65536 /* hashed source prefixes with a ceiling on answers */

enum fnm_kind { FNM_TCP = 1, FNM_ACL = 2, FNM_SORB = 3, FNM_WATCH = 4 };
enum fnm_mode { FNM_ISN_SYNC = 1, FNM_RESET = 2, FNM_SPLICE = 3 };

struct fnm_rate {
	__u64 interval; /* ns per packet (per byte << 10 where bytes are counted); 0: no limit */
	__u64 burst;	/* ns */
	__u64 tat;	/* ns; written by the data plane */
};

/* flags of a tcp slot */
#define FNM_TCP_SACK	   0x0001 /* the server takes SACK */
#define FNM_TCP_WSCALE	   0x0002 /* the server takes window scaling */
#define FNM_TCP_TIMESTAMPS 0x0004 /* the server takes timestamps */
#define FNM_TCP_ECN	   0x0008 /* the server takes ECN */
#define FNM_TCP_TS_PER_FLOW                                                                        \
	0x0010 /* timestamp offset by 4-tuple (165573e41f2f), else by host pair */
#define FNM_TCP_TS_NO_OFFSET 0x0020 /* tcp_timestamps=2: no offset */

struct fnm_tcp {
	__u64 cookie_key[2][2];	 /* syncookie_secret: two SipHash keys */
	__u64 cookie6_key[2][2]; /* syncookie6_secret */
	__u64 ts_key[2];	 /* net_secret with FNM_TCP_TS_PER_FLOW, else ts_secret */
	__u64 cookie_offset;	 /* server's jiffies in ms minus engine clock, lag included */
	__u64 ts_offset;	 /* server's timestamp clock likewise; 0 in mode splice */
	__u16 mss4, mss6;	 /* what the server announces */
	__u16 window;		 /* of the server's SYN-ACK, unscaled */
	__u8 wscale;		 /* 0 to 14 */
	__u8 ttl;		 /* TTL or hop limit */
	__u64 grace_until;	 /* engine ms; before it `grace` is asked, after it `unknown` */
	struct fnm_rate grace;
	struct fnm_rate unknown;
	struct fnm_rate learned; /* segments of flows that were seen to move before */
	struct fnm_rate syn_ack_in;
	struct fnm_rate icmp;
	__u64 source_interval, source_burst;   /* each proven source */
	__u64 ceiling_interval, ceiling_burst; /* answers to one /24 or /48 */
};

struct fnm_sorb {
	__u64 pps_interval, pps_burst;
	__u64 bps_interval, bps_burst; /* interval: ns per byte << 10 */
	__u64 block_ms;
};

struct fnm_slot {
	__u64 deadline;	  /* engine ms; at or after it the slot is as good as absent */
	__u32 generation; /* of this use of the slot; tells its rows in the sorb table */
	__u8 kind;	  /* enum fnm_kind */
	__u8 mode;	  /* enum fnm_mode */
	__u16 flags;
	__u16 portset; /* index in `portsets`; 0: every port */
	__u16 acl;     /* index in `acls` */
	__u32 pad;
	union {
		struct fnm_tcp tcp;
		struct fnm_sorb sorb;
	};
};

/* Value of `hosts` and `prefixes`: what guards one target, in the order in which it is asked.
 * A narrower target holds the slots of the wider ones that cover it. 0 ends a list. */
struct fnm_policy {
	__u16 acl[FNM_CHAIN];
	__u16 sorb[FNM_CHAIN];
	__u16 tcp[FNM_CHAIN];
	__u16 watch[FNM_CHAIN];
};

struct fnm_address {
	__u32 word[4];
};

struct fnm_prefix { /* key of the LPM trie `prefixes` */
	__u32 bits; /* IPv4: 96 + length */
	struct fnm_address address;
};

struct fnm_portset {
	__u64 bit[1024]; /* port p, host order: bit[p >> 6] >> (p & 63) */
};

enum fnm_acl_action { FNM_ACL_DROP = 0, FNM_ACL_PASS = 1, FNM_ACL_LIMIT = 2 };

/* which fields of a rule are to match */
#define FNM_M_SOURCE	   0x0001
#define FNM_M_PROTOCOL	   0x0002
#define FNM_M_SPORT	   0x0004
#define FNM_M_DPORT	   0x0008
#define FNM_M_LENGTH	   0x0010
#define FNM_M_FLAGS	   0x0020 /* implies TCP */
#define FNM_M_ICMP_TYPE	   0x0040
#define FNM_M_ICMP_CODE	   0x0080
#define FNM_M_FRAGMENT	   0x0100
#define FNM_M_NOT_FRAGMENT 0x0200
#define FNM_M_IPV4	   0x0400
#define FNM_M_IPV6	   0x0800

struct fnm_acl_rule {
	__u32 source[4], source_mask[4];
	__u32 match;	/* FNM_M_* */
	__u16 sport[2]; /* host order, both ends included */
	__u16 dport[2];
	__u16 length[2];	      /* IP packet length, headers included */
	__u8 protocol;		      /* IP protocol after extension headers */
	__u8 action;		      /* enum fnm_acl_action */
	__u8 flags_mask, flags_value; /* byte 13 of the TCP header */
	__u8 icmp_type[2];	      /* both ends included */
	__u8 icmp_code[2];
	__u8 limit; /* index in `limit` */
	__u8 pad[3];
};

struct fnm_acl {
	__u32 rules; /* how many */
	__u32 pad;
	struct fnm_acl_rule rule[FNM_ACL_RULES];
	struct fnm_rate limit[FNM_ACL_LIMITS];
};

/* flow tables: 4 ways a set, two sets a flow; ports == 0: empty */
#define FNM_WAYS	 4
#define FNM_SEEN_CLOSING 0x80000000u /* FIN or RST has been seen, and no data since */
#define FNM_SEEN_PROBE	 0x40000000u /* let in to see what its server answers */

struct fnm_flow4 {
	__u32 source, destination; /* network order */
	__u32 ports;		   /* first four bytes of the TCP header, as they are in memory */
	__u32 seen;		   /* engine ms >> 10, and FNM_SEEN_CLOSING */
};

struct fnm_flow4_set {
	struct fnm_flow4 way[FNM_WAYS];
};

struct fnm_flow6 {
	__u32 source[4], destination[4];
	__u32 ports;
	__u32 seen;
};

struct fnm_flow6_set {
	struct fnm_flow6 way[FNM_WAYS];
};

/* proven sources: 2 ways a set, two sets a source; seen == 0: empty */
struct fnm_source {
	struct fnm_address address;
	__u64 tat;  /* of its token bucket */
	__u32 seen; /* engine ms >> 10 */
	__u32 pad;
};

struct fnm_source_set {
	struct fnm_source way[2];
};

/* flows seen by a watch, or within the grace bucket: fingerprint only; tag == 0: empty */
#define FNM_SEEN_LEARNED 0x80000000u /* it has been seen to move forward */
#define FNM_SEEN_ANSWER	 0x40000000u /* so was only an answer to a SYN of the server's own */

struct fnm_sighting {
	__u32 tag;	/* of the 4-tuple; never 0 */
	__u32 ack, seq; /* the newest, host order */
	__u32 seen;	/* engine ms >> 10, and FNM_SEEN_LEARNED, FNM_SEEN_ANSWER */
};

struct fnm_sighting_set {
	struct fnm_sighting way[FNM_WAYS];
};

/* sources that a sorb counts; generation == 0: empty */
struct fnm_talker {
	struct fnm_address address; /* IPv6: also the /64, with `wide` set */
	__u32 generation;	    /* of the slot that counts it */
	__u32 wide;
	__u64 pps_tat, bps_tat;
	__u64 blocked_until; /* engine ms */
	__u64 seen;	     /* engine ms */
};

struct fnm_talker_set {
	struct fnm_talker way[FNM_WAYS];
};

/* value of the per-CPU map `counters`; index: slot, 0 for what no slot judged */
struct fnm_counters {
	__u64 packets[FNM_REASON_SLOTS];
	__u64 bytes_passed, bytes_dropped; /* IP length; answers count as dropped */
	__u64 pad[6];
};

/* per-CPU map `work`, one element: what the engine did besides judging */
struct fnm_work {
	__u64 flows_inserted, flows_evicted; /* evicted: a live flow had to go */
	__u64 flows_capped;		     /* not inserted: too many this second */
	__u64 sources_inserted, sources_evicted;
	__u64 talkers_inserted, talkers_untracked; /* untracked: passed without being counted */
	__u64 samples, samples_lost;
	__u64 resize_failed, loop_failed; /* loop: or the reading of options */
	__u64 second, inserted_in_second; /* insert cap: engine ms >> 10, inserts in it */
	__u64 sample_turn;
};

/* the one element of `control`; written by user space */
struct fnm_control {
	__u32 abi;
	__u32 wide;		  /* 1: `prefixes` holds something */
	__u32 sample_every;	  /* 1 of so many judged packets is sampled; 0: none */
	__u32 inserts_per_second; /* on each CPU */
	__u32 flow_idle;	  /* s; a flow unseen so long is forgotten */
	__u32 flow_closing;	  /* s; the same after FIN or RST */
	__u32 source_idle;	  /* s; a proven source unseen so long is forgotten */
	__u32 seed;  /* of the hash functions; random, the same for the life of the tables */
	__u32 epoch; /* grows with each change of `hosts`, `prefixes` or `wide` */
	__u32 filter_now[2];		/* generation of each filter that is looked at: 0 or 1 */
	__u32 filter_mask[2][2];	/* of each filter and generation: its words, less 1 */
	__u32 splicing;			/* 1: `splicing` is to be looked at */
	__u64 clock_ms;			/* written by fnm_clock */
	__u64 prefilter[FNM_PREFILTER]; /* bit of fnm_prefilter_bit(): a target may be there */
};

/*
 * Filters in front of the tables, so that what a flood sends finds out that it is unknown without
 * touching memory that is in no cache: a clear bit tells that the key is in no table.
 * `filters` holds two generations of each filter. Every insert sets its bits in both; user space
 * makes the other one anew from the tables (clears it, waits for packets under way, scans) and then
 * lets it be looked at. While nobody does, bits of forgotten keys stay: slower, never wrong.
 */
enum fnm_filter_kind { FNM_FILTER_FLOWS = 0, FNM_FILTER_SOURCES = 1 };
/* flows: and sightings, and spliced flows */

#define FNM_FILTER_WORDS 65536 /* of 64 bits: room for 262,144 keys and, less sharp, more */

struct fnm_filter { /* element of `filters` at kind * 2 + generation */
	__u64 word[FNM_FILTER_WORDS];
};

#define FNM_RECENT 256 /* entries of each CPU's map `recent` */

struct fnm_recent { /* what was found for a destination lately */
	struct fnm_address address;
	struct fnm_policy policy;
	__u64 epoch; /* (of control then, plus 1) * 2, plus 1 where there is a policy; 0: empty */
};

#define FNM_SAMPLE_BYTES 128

struct fnm_sample { /* record of the ring buffer `samples` */
	__u64 time_ms;
	__u32 ifindex;
	__u16 reason;
	__u16 slot;
	__u16 length;	/* of the frame */
	__u16 captured; /* bytes of `data` that are set */
	__u8 data[FNM_SAMPLE_BYTES];
};

/* Bit of an address in control.prefilter. Wide targets set every bit their addresses may have. */
static inline __attribute__((always_inline)) __u32 fnm_prefilter_bit(__u32 w0, __u32 w1, __u32 w2,
								     __u32 w3)
{
	__u64 x = ((__u64)(w0 ^ w2) << 32 | (w1 ^ w3)) * 0x9e3779b97f4a7c15ull;

	return (__u32)(x >> 48);
}

#endif
