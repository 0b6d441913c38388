/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Hashing and replacement of the engine's own tables, the same code in the kernel and outside.
 *
 * A set-associative array instead of the kernel's LRU map: an insert there costs more than a whole
 * answered SYN, and here as much as a lookup. A key may lie in two sets, so that the tables fill up
 * evenly; the least recently seen way is the one that goes.
 */
#ifndef FNM_TABLES_H
#define FNM_TABLES_H

#include "abi.h"

#define FNM_INLINE static inline __attribute__((always_inline))

/* Checked by the verifier once, by itself and for any arguments; what it is given may be NULL. */
#define FNM_GLOBAL __attribute__((noinline))

/* Not cryptographic: what is hashed with it was proven before, or is bounded by the table. The
 * first two multiplications stand side by side, as latency is what they cost; the last two spread
 * what differs in few bits, as the addresses of a network do. */
FNM_INLINE __u64 fnm_mix(__u64 a, __u64 b)
{
	__u64 x = (a ^ 0x9e3779b97f4a7c15ull) * 0xd6e8feb86659fd93ull;
	__u64 y = (b ^ 0xc2b2ae3d27d4eb4full) * 0xff51afd7ed558ccdull;

	x ^= y << 32 | y >> 32;
	x ^= x >> 32;
	x *= 0xc4ceb9fe1a85ec53ull;
	x ^= x >> 29;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 32;
}

FNM_INLINE __u64 fnm_hash_flow4(__u32 seed, __u32 source, __u32 destination, __u32 ports)
{
	return fnm_mix((__u64)source << 32 | ports, (__u64)destination << 32 | seed);
}

FNM_INLINE __u64 fnm_hash_address(__u32 seed, const __u32 *word)
{
	__u64 a = ((const __u64 *)word)[0], b = ((const __u64 *)word)[1];

	return fnm_mix(a ^ (__u64)seed << 17, b);
}

FNM_INLINE __u64 fnm_hash_flow6(__u32 seed, const __u32 *source, const __u32 *destination,
				__u32 ports)
{
	return fnm_mix(fnm_hash_address(seed, source), fnm_hash_address(seed ^ ports, destination));
}

/* the two sets of a key */
FNM_INLINE __u32 fnm_set_a(__u64 hash, __u32 mask)
{
	return (__u32)hash & mask;
}

FNM_INLINE __u32 fnm_set_b(__u64 hash, __u32 mask)
{
	return (__u32)(hash >> 32) & mask;
}

/* A key's word in a filter and its three bits there: one cache line tells. Of the upper half of the
 * hash alone, which is what a sighting keeps of its flow. */
FNM_INLINE __u32 fnm_filter_word(__u64 hash, __u32 mask)
{
	return (__u32)(hash >> 33) & mask & (FNM_FILTER_WORDS - 1);
}

FNM_INLINE __u64 fnm_filter_bits(__u64 hash)
{
	__u32 x = (__u32)(hash >> 33) * 0x9e3779b1u;

	return 1ull << (x >> 26) | 1ull << (x >> 20 & 63) | 1ull << (x >> 14 & 63);
}

/* The mask of a filter for so many keys: 16 bits for each, of which three are set, so that one
 * stranger in 150 gets past it; and small as long as it can be. */
FNM_INLINE __u32 fnm_filter_mask(__u64 keys)
{
	__u32 words = 1024;

	while (words * 4ull < keys && words < FNM_FILTER_WORDS)
		words *= 2;
	return words - 1;
}

#define FNM_SEEN_TIME 0x3fffffffu /* the bits of `seen` that are time */

/* Seconds of the engine clock as the tables keep them; never 0, which means empty. */
FNM_INLINE __u32 fnm_seen(__u64 now_ms)
{
	return ((__u32)(now_ms >> 10) & FNM_SEEN_TIME) | 1;
}

#define FNM_SPLICE_ASKED_S 20 /* a server that has not answered so long does not */

FNM_INLINE __u32 fnm_splice_tag(__u64 hash)
{
	return (__u32)(hash >> 32) | 1;
}

/* Ended from both sides, or by a reset. */
FNM_INLINE int fnm_splice_over(const struct fnm_splice *f)
{
	const __u32 both = FNM_ENDED_CLIENT | FNM_ENDED_SERVER;

	return f->ended & FNM_ENDED_RESET || (f->ended & both) == both;
}

/* Seconds that a silent flow is kept; one that is over for what is still under way. */
FNM_INLINE __u32 fnm_splice_kept(const struct fnm_splice *f, __u32 closing, __u32 idle)
{
	if (f->state == FNM_SPLICE_ASKED)
		return FNM_SPLICE_ASKED_S;
	return fnm_splice_over(f) ? closing : idle;
}

/* Age of `seen` in units of 1.024 s, less one at most; half of the range counts as the future. */
FNM_INLINE __u32 fnm_age(__u32 now_seen, __u32 seen)
{
	__u32 age = (now_seen - seen) & FNM_SEEN_TIME;

	return age > FNM_SEEN_TIME / 2 ? 0 : age;
}

#endif
