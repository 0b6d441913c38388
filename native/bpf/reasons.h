/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Why a packet got its verdict: one list, which is the index of the per-CPU counters, the word in
 * samples and statistics, and the source of hub/engines/native/reasons.py (native/tools/reasons).
 *
 * FNM_REASON(name, verdict, words for the operator)
 * verdict: PASS to the kernel, TX back out, DROP.
 *
 * New reasons go to the end of the list: the numbers are part of the pinned state.
 */
#ifndef FNM_REASONS_H
#define FNM_REASONS_H

#define FNM_REASONS(FNM_REASON)                                                                    \
	FNM_REASON(unprotected, PASS, "no countermeasure is in force for the destination")         \
	FNM_REASON(not_ip, PASS, "neither IPv4 nor IPv6")                                          \
	FNM_REASON(not_concerned, PASS, "no countermeasure on the destination judges this kind")   \
	FNM_REASON(watched, PASS, "counted and learned, nothing is enforced")                      \
	FNM_REASON(acl_pass, PASS, "an acl rule passes it past every other countermeasure")        \
	FNM_REASON(known_flow, PASS, "belongs to a flow in the flow table")                        \
	FNM_REASON(learned_flow, PASS, "belongs to a flow that was open before protection began")  \
	FNM_REASON(cookie_good, PASS, "ACK with a valid SYN cookie")                               \
	FNM_REASON(proven_syn, PASS, "SYN of a proven source, within its bucket")                  \
	FNM_REASON(proven_ack, PASS, "segment of a proven source, within its bucket")              \
	FNM_REASON(grace, PASS, "unknown segment within the grace time and its bucket")            \
	FNM_REASON(unknown_ack, PASS, "unknown segment within the bucket for such")                \
	FNM_REASON(syn_ack_in, PASS, "answer to a SYN of the server's own, or what follows it")    \
	FNM_REASON(icmp_error, PASS, "ICMP error, path MTU discovery among them")                  \
	FNM_REASON(cookie_sent, TX, "SYN answered with a cookie")                                  \
	FNM_REASON(reset_sent, TX, "valid cookie answered with RST; the source is proven now")     \
	FNM_REASON(bad_ip, DROP, "IP header or length is malformed")                               \
	FNM_REASON(bad_transport, DROP, "TCP, UDP or ICMP header is cut off or malformed")         \
	FNM_REASON(bad_flags, DROP, "combination of TCP flags that no stack sends")                \
	FNM_REASON(bad_source, DROP, "source address or port that cannot be genuine")              \
	FNM_REASON(bad_checksum, DROP, "IP or TCP checksum is wrong")                              \
	FNM_REASON(fragment, DROP, "fragment of a TCP segment")                                    \
	FNM_REASON(ext_headers, DROP, "IPv6 extension headers beyond what is walked")              \
	FNM_REASON(cookie_bad, DROP, "segment of no known flow and without a valid cookie")        \
	FNM_REASON(rst_unknown, DROP, "RST of no known flow")                                      \
	FNM_REASON(syn_ack_limited, DROP, "the same beyond the bucket for such")                   \
	FNM_REASON(icmp_limited, DROP, "ICMP error beyond the bucket for such")                    \
	FNM_REASON(cookie_limited, DROP, "SYN from a prefix that gets no more answers now")        \
	FNM_REASON(acl_drop, DROP, "an acl rule drops it")                                         \
	FNM_REASON(acl_limited, DROP, "beyond the limit of an acl rule")                           \
	FNM_REASON(sorb_over, DROP, "source exceeds its threshold and is blocked from now on")     \
	FNM_REASON(sorb_blocked, DROP, "source is blocked")                                        \
	FNM_REASON(no_room, DROP, "the frame could not be resized for the answer")                 \
	FNM_REASON(no_state, PASS, "a table of the engine itself could not be read")               \
	FNM_REASON(splice_open, PASS, "ACK with a valid SYN cookie, made the SYN for the server")  \
	FNM_REASON(splice_client, PASS, "translated from a client of a spliced flow")              \
	FNM_REASON(splice_server, PASS, "translated from the server of a spliced flow")            \
	FNM_REASON(splice_icmp, PASS, "ICMP error on a spliced flow, translated")                  \
	FNM_REASON(splice_probe, PASS, "SYN let through to learn what the server answers")         \
	FNM_REASON(splice_answered, TX, "SYN-ACK of the server, answered for the client")          \
	FNM_REASON(splice_refused, TX, "SYN to a port that the server refuses, answered with RST") \
	FNM_REASON(splice_held, DROP, "first data, kept until the server has answered")            \
	FNM_REASON(splice_early, DROP, "segment of a flow whose server has not answered yet")      \
	FNM_REASON(splice_silent, DROP, "SYN to a port on which the server does not answer")       \
	FNM_REASON(splice_full, DROP, "no room for another spliced flow")                          \
	FNM_REASON(splice_over, DROP, "segment that no longer fits its spliced flow")

enum fnm_reason {
#define FNM_ENUM(name, verdict, words) FNM_R_##name,
	FNM_REASONS(FNM_ENUM)
#undef FNM_ENUM
	    FNM_R_COUNT
};

/* The reasons of one verdict, a bit each. */
#define FNM_VERDICT_PASS 1
#define FNM_VERDICT_TX	 2
#define FNM_VERDICT_DROP 3
#define FNM_BIT_PASS(name, verdict, words)                                                         \
	(FNM_VERDICT_##verdict == FNM_VERDICT_PASS ? 1ull << FNM_R_##name : 0) |
#define FNM_BIT_TX(name, verdict, words)                                                           \
	(FNM_VERDICT_##verdict == FNM_VERDICT_TX ? 1ull << FNM_R_##name : 0) |
#define FNM_REASONS_OF(verdict) (FNM_REASONS(FNM_BIT_##verdict) 0ull)

#define FNM_REASON_SLOTS 64 /* room for more reasons without a new layout of the counters */

#endif
