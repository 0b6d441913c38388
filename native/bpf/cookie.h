/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * SYN cookies and timestamp cookies as a Linux server of kernel 4.13 or later computes them
 * (net/ipv4/syncookies.c, net/ipv6/syncookies.c, net/core/secure_seq.c).
 */
#ifndef FNM_COOKIE_H
#define FNM_COOKIE_H

#include "packet.h"
#include "siphash.h"

#define FNM_COOKIE_BITS 24
#define FNM_COOKIE_MASK ((1u << FNM_COOKIE_BITS) - 1)
#define FNM_COOKIE_AGES 2 /* minutes that are still taken */
#define FNM_MINUTE_MS	60000
#define FNM_TS_BITS	6
#define FNM_TS_SACK	(1u << 4)
#define FNM_TS_ECN	(1u << 5)
#define FNM_NO_WSCALE	0xf

/* Lowest MSS that an index stands for; the server will use no larger one. */
FNM_INLINE __u32 fnm_mss_index(__u32 mss, int v6)
{
	if (v6)
		return mss >= 8940 ? 3 : mss >= 1440 ? 2 : mss >= 1420 ? 1 : 0;
	return mss >= 1460 ? 3 : mss >= 1440 ? 2 : mss >= 1300 ? 1 : 0;
}

/* the ports as the kernel packs them: source << 16 | destination, each as it is in memory */
FNM_INLINE __u32 fnm_packed_ports(__u32 ports)
{
	return ports << 16 | ports >> 16;
}

/* What is hashed beside the names of the connection. */
struct fnm_cookie_input {
	__u32 count;
	__u32 bound; /* 4: to `seq`, by so many bytes more; 0 as a Linux server has it */
	__u32 seq;
};

FNM_INLINE __u32 fnm_cookie_hash_of(const __u64 *key, const struct fnm_packet *p,
				    const struct fnm_cookie_input in, const int v6)
{
	const __u32 *s = p->source.word, *d = p->destination.word;
	const __u64 *s2 = (const __u64 *)s, *d2 = (const __u64 *)d;
	struct fnm_sip sip;

	fnm_sip_start(&sip, key);
	if (!v6) {
		fnm_sip_word(&sip, (__u64)d[3] << 32 | s[3]);
		fnm_sip_word(&sip, (__u64)in.count << 32 | fnm_packed_ports(p->ports));
		return fnm_sip_end(&sip, in.seq, 16 + in.bound);
	}
	fnm_sip_word(&sip, s2[0]);
	fnm_sip_word(&sip, s2[1]);
	fnm_sip_word(&sip, d2[0]);
	fnm_sip_word(&sip, d2[1]);
	fnm_sip_word(&sip, (__u64)p->ports << 32 | in.count);
	return fnm_sip_end(&sip, in.seq, 40 + in.bound);
}

FNM_INLINE __u32 fnm_cookie_hash(const __u64 *key, const struct fnm_packet *p, __u32 count,
				 const int v6)
{
	const struct fnm_cookie_input in = {.count = count};

	return fnm_cookie_hash_of(key, p, in, v6);
}

/* The minute that was asked for last: a division costs as much as a table. */
struct fnm_minute {
	__u64 begins; /* ms of the server's clock */
	__u32 count;
	__u32 pad;
};

FNM_INLINE __u32 fnm_cookie_minute(const struct fnm_tcp *tcp, __u64 now_ms, struct fnm_minute *last)
{
	__u64 clock = now_ms + tcp->cookie_offset, count;

	if (clock - last->begins >= FNM_MINUTE_MS) {
		count = clock / FNM_MINUTE_MS;
		last->begins = count * FNM_MINUTE_MS;
		last->count = count;
	}
	return last->count;
}

/* Both hashes, less what is no hash. Kept from being mixed with each other and with what surrounds
 * them: the machine has ten registers, and spilling it costs as much as computing it. */
FNM_INLINE __u32 fnm_cookie_hashes(const __u64 (*key)[2], const struct fnm_packet *p, __u32 count,
				   __u32 index, const int v6)
{
	__u32 first = fnm_cookie_hash(key[0], p, 0, v6);

	asm volatile("" : "+r"(first) : : "memory");
	return first + (count << FNM_COOKIE_BITS) +
	       ((fnm_cookie_hash(key[1], p, count, v6) + index) & FNM_COOKIE_MASK);
}

static __attribute__((noinline)) __u32
fnm_cookie_hashes4(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 count, __u32 index)
{
	return fnm_cookie_hashes(tcp->cookie_key, p, count, index, 0);
}

static __attribute__((noinline)) __u32
fnm_cookie_hashes6(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 count, __u32 index)
{
	return fnm_cookie_hashes(tcp->cookie6_key, p, count, index, 1);
}

FNM_INLINE __u32 fnm_cookie_make(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 seq,
				 __u32 index, __u32 count, const int v6)
{

	return seq + (v6 ? fnm_cookie_hashes6(tcp, p, count, index)
			 : fnm_cookie_hashes4(tcp, p, count, index));
}

/* `seq` and `ack` as in the segment that answers the SYN-ACK. */
FNM_INLINE int fnm_cookie_valid(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 seq,
				__u32 ack, __u32 count, const int v6)
{
	const __u64(*key)[2] = v6 ? tcp->cookie6_key : tcp->cookie_key;
	__u32 cookie = ack - 1 - (seq - 1) - fnm_cookie_hash(key[0], p, 0, v6);
	/* The age tells most of what is forged, before the second hash. */
	__u32 age = (count - (cookie >> FNM_COOKIE_BITS)) & 0xff;

	if (age >= FNM_COOKIE_AGES)
		return 0;
	return ((cookie - fnm_cookie_hash(key[1], p, count - age, v6)) & FNM_COOKIE_MASK) < 4;
}

/* Offset of the timestamp clock towards this client; arguments in the server's direction. */
FNM_INLINE __u32 fnm_ts_hash(const struct fnm_tcp *tcp, const struct fnm_packet *p, int per_flow,
			     const int v6)
{
	const __u32 *s = p->source.word, *d = p->destination.word;
	__u64 ports = per_flow ? p->ports : 0;
	struct fnm_sip sip;
	__u64 hash;

	fnm_sip_start(&sip, tcp->ts_key);
	if (!v6) {
		fnm_sip_word(&sip, (__u64)s[3] << 32 | d[3]);
		hash = fnm_sip_end(&sip, ports, per_flow ? 12 : 8);
	} else {
		fnm_sip_word(&sip, (__u64)d[1] << 32 | d[0]);
		fnm_sip_word(&sip, (__u64)d[3] << 32 | d[2]);
		fnm_sip_word(&sip, (__u64)s[1] << 32 | s[0]);
		fnm_sip_word(&sip, (__u64)s[3] << 32 | s[2]);
		hash = fnm_sip_end(&sip, fnm_packed_ports(ports), per_flow ? 36 : 32);
	}
	return per_flow ? hash >> 32 : hash;
}

/* TSval that carries the options of the SYN; never ahead of the server's clock. */
FNM_INLINE __u32 fnm_ts_cookie(const struct fnm_tcp *tcp, __u16 flags, const struct fnm_packet *p,
			       __u32 options, __u64 now_ms, const int v6)
{
	__u64 clock = now_ms + tcp->ts_offset;
	__u64 ts = clock >> FNM_TS_BITS << FNM_TS_BITS | options;
	__u32 offset = 0;

	if (ts > clock)
		ts -= 1u << FNM_TS_BITS;
	if (!(flags & FNM_TCP_TS_NO_OFFSET))
		offset = fnm_ts_hash(tcp, p, flags & FNM_TCP_TS_PER_FLOW, v6);
	return (__u32)ts + offset;
}

#endif
