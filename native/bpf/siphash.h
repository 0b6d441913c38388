/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * SipHash-2-4 (Aumasson, Bernstein 2012), over words that are already in registers.
 *
 * The kernel's helpers take no key, and cost more than this does.
 */
#ifndef FNM_SIPHASH_H
#define FNM_SIPHASH_H

#include "tables.h"

struct fnm_sip {
	__u64 v0, v1, v2, v3;
};

#define FNM_ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))

FNM_INLINE void fnm_sip_round(struct fnm_sip *s)
{
	s->v0 += s->v1;
	s->v1 = FNM_ROTL(s->v1, 13);
	s->v1 ^= s->v0;
	s->v0 = FNM_ROTL(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = FNM_ROTL(s->v3, 16);
	s->v3 ^= s->v2;
	s->v0 += s->v3;
	s->v3 = FNM_ROTL(s->v3, 21);
	s->v3 ^= s->v0;
	s->v2 += s->v1;
	s->v1 = FNM_ROTL(s->v1, 17);
	s->v1 ^= s->v2;
	s->v2 = FNM_ROTL(s->v2, 32);
}

FNM_INLINE void fnm_sip_start(struct fnm_sip *s, const __u64 *key)
{
	s->v0 = key[0] ^ 0x736f6d6570736575ull;
	s->v1 = key[1] ^ 0x646f72616e646f6dull;
	s->v2 = key[0] ^ 0x6c7967656e657261ull;
	s->v3 = key[1] ^ 0x7465646279746573ull;
}

FNM_INLINE void fnm_sip_word(struct fnm_sip *s, __u64 word)
{
	s->v3 ^= word;
	fnm_sip_round(s);
	fnm_sip_round(s);
	s->v0 ^= word;
}

/* `tail`: the bytes after the last whole word, little-endian; `length`: of the whole message. */
FNM_INLINE __u64 fnm_sip_end(struct fnm_sip *s, __u64 tail, __u64 length)
{
	fnm_sip_word(s, length << 56 | tail);
	s->v2 ^= 0xff;
	fnm_sip_round(s);
	fnm_sip_round(s);
	fnm_sip_round(s);
	fnm_sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

#endif
