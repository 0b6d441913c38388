/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a cookie of the translating mode carries: nobody but us reads it, so that it can hold more
 * than the kernel's four MSS values.
 *
 * Eight bits in the sequence number. With timestamps all of them are the MSS, in steps of four, and
 * the other options are in the TSval as in the kernel's; without, three are the MSS, one is SACK
 * and four the window scale. The second hash is another one for each, so that neither passes for
 * the other; and it is bound to the client's first sequence number, as in a connection in which
 * each side has said as much as the other the two numbers are as far apart as at its beginning.
 * Of 2^32 acknowledgement numbers 512 are good at any time.
 */
#ifndef FNM_SPLICE_COOKIE_H
#define FNM_SPLICE_COOKIE_H

#include "cookie.h"

#define FNM_COOKIE_TIMESTAMPS 0x80000000u /* in the minute, for the hash */
#define FNM_COOKIE_DATA	      256
#define FNM_MSS_LEAST	      216  /* stands for all below 536 */
#define FNM_MSS_JUMBO4	      8960 /* of links that carry 9000 bytes */
#define FNM_MSS_JUMBO6	      8940
#define FNM_TS_KEPT_MS	      122880

/* What a client has been told, or is to be. */
struct fnm_offers {
	__u32 mss; /* of the client */
	__u8 wscale, sack, timestamps, ecn;
};

FNM_INLINE __u32 fnm_mss_code(__u32 mss)
{
	__u32 code;

	if (mss < 536)
		return 0;
	if (mss < 1460)
		return 1 + (mss - 536) / 4;
	if (mss >= FNM_MSS_JUMBO6)
		return mss >= FNM_MSS_JUMBO4 ? 255 : 254;
	code = 232 + (mss - 1460) / 350;
	return code > 253 ? 253 : code;
}

FNM_INLINE __u32 fnm_mss_of_code(__u32 code)
{
	if (!code)
		return FNM_MSS_LEAST;
	if (code >= 254)
		return code == 255 ? FNM_MSS_JUMBO4 : FNM_MSS_JUMBO6;
	return code <= 232 ? 536 + 4 * (code - 1) : 1460 + 350 * (code - 232);
}

FNM_INLINE __u32 fnm_mss_code3(__u32 mss)
{
	return mss >= 1460   ? 7
	       : mss >= 1440 ? 6
	       : mss >= 1380 ? 5
	       : mss >= 1300 ? 4
	       : mss >= 1220 ? 3
	       : mss >= 1024 ? 2
	       : mss >= 536  ? 1
			     : 0;
}

FNM_INLINE __u32 fnm_mss_of_code3(__u32 code)
{
	return code == 7   ? 1460
	       : code == 6 ? 1440
	       : code == 5 ? 1380
	       : code == 4 ? 1300
	       : code == 3 ? 1220
	       : code == 2 ? 1024
	       : code == 1 ? 536
			   : FNM_MSS_LEAST;
}

#define FNM_NO_DATA 0xffffffffu

FNM_INLINE __u32 fnm_splice_hash(const __u64 *key, const struct fnm_packet *p, __u32 count,
				 __u32 isn, const int v6)
{
	const struct fnm_cookie_input in = {.count = count, .bound = sizeof(isn), .seq = isn};

	return fnm_cookie_hash_of(key, p, in, v6);
}

/* The first sequence number of the SYN-ACK. `isn` is the client's. */
FNM_INLINE __u32 fnm_splice_cookie(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 isn,
				   __u32 data, __u32 count, const int v6)
{
	const __u64(*key)[2] = v6 ? tcp->cookie6_key : tcp->cookie_key;
	__u32 first = fnm_cookie_hash(key[0], p, 0, v6);

	return isn + first + (count << FNM_COOKIE_BITS) +
	       ((fnm_splice_hash(key[1], p, count, isn, v6) + data) & FNM_COOKIE_MASK);
}

/* What was put into it; more than could be, or FNM_NO_DATA, where it is none of ours. */
FNM_INLINE __u32 fnm_splice_data(const struct fnm_tcp *tcp, const struct fnm_packet *p, __u32 isn,
				 __u32 number, __u32 count, const int v6)
{
	const __u64(*key)[2] = v6 ? tcp->cookie6_key : tcp->cookie_key;
	__u32 cookie = number - isn - fnm_cookie_hash(key[0], p, 0, v6);
	__u32 age = (count - (cookie >> FNM_COOKIE_BITS)) & 0xff;

	if (age >= FNM_COOKIE_AGES)
		return FNM_NO_DATA;
	return (cookie - fnm_splice_hash(key[1], p, count - age, isn, v6)) & FNM_COOKIE_MASK;
}

/* The eight bits. */
FNM_INLINE __u32 fnm_offers_data(const struct fnm_offers *o)
{
	if (o->timestamps)
		return fnm_mss_code(o->mss);
	return fnm_mss_code3(o->mss) << 5 | (__u32) !!o->sack << 4 | o->wscale;
}

/* The low bits of the TSval. */
FNM_INLINE __u32 fnm_offers_timestamp(const struct fnm_offers *o)
{
	return o->wscale | (o->sack ? FNM_TS_SACK : 0) | (o->ecn ? FNM_TS_ECN : 0);
}

/* What was offered, from a cookie's data and, with timestamps, the TSecr less its offset, in host
 * order; false where that is none of ours. */
FNM_INLINE int fnm_offers_read(struct fnm_offers *o, __u32 data, int timestamps, __u32 echoed,
			       __u64 now_ms)
{
	o->timestamps = timestamps;
	if (!timestamps) {
		o->mss = fnm_mss_of_code3(data >> 5);
		o->sack = data >> 4 & 1;
		o->wscale = data & 15;
		o->ecn = 0;
		return 1;
	}
	o->mss = fnm_mss_of_code(data);
	o->sack = !!(echoed & FNM_TS_SACK);
	o->ecn = !!(echoed & FNM_TS_ECN);
	o->wscale = echoed & 15;
	return (__u32)now_ms - echoed <= FNM_TS_KEPT_MS;
}

#endif
