/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives the fuzzer's entry with mutations of good requests, the same ones for the same seed, where
 * there is no libFuzzer.
 *
 * usage: mutate-control ROUNDS [SEED]
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_control.h"

#define BYTES_MOST 4096

static const char *const seeds[] = {
    "{\"op\":\"hello\",\"version\":1}\n",
    "{\"op\":\"put\",\"id\":\"a\",\"revision\":3,\"target\":\"192.0.2.10/32\",\"expires_ms\":"
    "900000,\"kind\":\"tcp\",\"tcp\":{\"mode\":\"reset\",\"ports\":[80,443,[8000,8099]],"
    "\"grace\":{\"for_ms\":60000,\"pps\":20000},\"unknown_pps\":1000}}\n",
    "{\"op\":\"put\",\"id\":\"b\",\"revision\":1,\"target\":\"2001:db8::/64\",\"expires_ms\":"
    "9000,\"kind\":\"tcp\",\"tcp\":{\"mode\":\"isn-sync\",\"profile\":{\"mss6\":1440,"
    "\"window\":65160,\"wscale\":7,\"ttl\":64,\"sack\":true,\"timestamps\":true,\"ecn\":false},"
    "\"keys\":{\"cookie6\":\"000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\""
    ",\"timestamp\":\"000102030405060708090a0b0c0d0e0f\",\"timestamp_scheme\":\"flow\"},"
    "\"clock\":{\"monotonic_ms\":1000,\"cookie_ms\":4295000000,\"timestamp_ms\":4711}}}\n",
    "{\"op\":\"put\",\"id\":\"c\",\"revision\":1,\"target\":\"192.0.2.0/24\",\"expires_ms\":60,"
    "\"kind\":\"acl\",\"acl\":{\"rules\":[{\"action\":\"limit\",\"protocol\":17,\"sources\":"
    "[\"198.51.100.0/24\"],\"source_ports\":[53,[123,125]],\"length\":[0,65535],\"pps\":100},"
    "{\"action\":\"drop\",\"flags\":{\"mask\":2,\"value\":2}}]}}\n",
    "{\"op\":\"put\",\"id\":\"d\",\"revision\":1,\"target\":\"192.0.2.10/32\",\"expires_ms\":"
    "60000,\"kind\":\"sorb\",\"sorb\":{\"pps\":100,\"bps\":8000000,\"block_ms\":600000}}\n",
    "{\"op\":\"put\",\"id\":\"e\",\"revision\":1,\"target\":\"::/0\",\"expires_ms\":60000,"
    "\"kind\":\"watch\",\"watch\":{\"ports\":[1]},\"check\":false}\n",
    "{\"op\":\"delete\",\"id\":\"a\",\"revision\":4}\n",
    "{\"op\":\"list\",\"seq\":1.5}\n{\"op\":\"stats\"}\n",
    "{\"op\":\"flows\",\"target\":\"192.0.2.0/24\",\"limit\":10}\n",
    "{\"op\":\"load\",\"flows\":[[\"198.51.100.7\",40000,\"192.0.2.10\",80]]}\n",
    "{\"op\":\"blocked\",\"id\":\"d\"}\n{\"op\":\"samples\"}\n{\"op\":\"sampling\",\"every\":9}"
    "\n",
};

#define SEEDS (sizeof(seeds) / sizeof(seeds[0]))

static uint64_t state;

static uint32_t random_below(uint32_t limit) /* xorshift64* */
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 0x2545f4914f6cdd1dull >> 32) % limit;
}

static size_t add_seed(unsigned char *bytes, size_t length)
{
	const char *seed = seeds[random_below(SEEDS)];
	size_t more = strlen(seed);

	if (length + more > BYTES_MOST)
		return length;
	memcpy(bytes + length, seed, more);
	return length + more;
}

static size_t mutate(unsigned char *bytes, size_t length)
{
	static const char interesting[] = "\"{}[]:,0123456789-./ abde\n\\";
	size_t at = random_below(length), span;

	switch (random_below(5)) {
	case 0:
		bytes[at] = random_below(256);
		return length;
	case 1:
		bytes[at] = interesting[random_below(sizeof(interesting) - 1)];
		return length;
	case 2: /* cut */
		span = random_below(8) + 1;
		if (at + span >= length)
			return length;
		memmove(bytes + at, bytes + at + span, length - at - span);
		return length - span;
	case 3: /* double */
		span = random_below(16) + 1;
		if (at + span > length || length + span > BYTES_MOST)
			return length;
		memmove(bytes + at + span, bytes + at, length - at);
		return length + span;
	default: /* another id, so that many are in force */
		bytes[at] =
		    bytes[at] >= 'a' && bytes[at] <= 'z' ? 'a' + random_below(26) : bytes[at];
		return length;
	}
}

int main(int argc, char **argv)
{
	unsigned char bytes[BYTES_MOST + 1];
	long rounds = argc > 1 ? atol(argv[1]) : 1000;

	state = argc > 2 ? strtoull(argv[2], NULL, 10) * 2 + 1 : 0x9e3779b97f4a7c15;
	for (long i = 0; i < rounds; i++) {
		size_t length = 1;

		bytes[0] = random_below(256) & random_below(256);
		for (uint32_t n = random_below(6) + 1; n; n--)
			length = add_seed(bytes, length);
		for (uint32_t n = random_below(6); n; n--)
			length = mutate(bytes, length);
		LLVMFuzzerTestOneInput(bytes, length);
	}
	printf("ok   %ld rounds\n", rounds);
	return 0;
}
