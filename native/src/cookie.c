/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <string.h>

#include "address.h"
#include "cookie.h"

#define COOKIE_BITS 24

struct sip {
	uint64_t v[4];
};

static uint64_t rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static void sip_rounds(struct sip *sip, int rounds)
{
	uint64_t *v = sip->v;

	while (rounds--) {
		v[0] += v[1];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[0] = rotate(v[0], 32);
		v[2] += v[3];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[2] = rotate(v[2], 32);
	}
}

/* SipHash-2-4 of a message whose length is a multiple of four. */
static uint64_t siphash(const uint64_t key[2], const unsigned char *message, size_t length)
{
	struct sip sip = {{key[0] ^ 0x736f6d6570736575ull, key[1] ^ 0x646f72616e646f6dull,
			   key[0] ^ 0x6c7967656e657261ull, key[1] ^ 0x7465646279746573ull}};
	uint64_t word;
	size_t at;

	for (at = 0; at + 8 <= length; at += 8) {
		memcpy(&word, message + at, 8);
		sip.v[3] ^= word;
		sip_rounds(&sip, 2);
		sip.v[0] ^= word;
	}
	word = 0;
	memcpy(&word, message + at, length - at);
	word |= (uint64_t)length << 56;
	sip.v[3] ^= word;
	sip_rounds(&sip, 2);
	sip.v[0] ^= word;
	sip.v[2] ^= 0xff;
	sip_rounds(&sip, 4);
	return sip.v[0] ^ sip.v[1] ^ sip.v[2] ^ sip.v[3];
}

static uint32_t hash4(const uint64_t key[2], const struct segment *syn, uint32_t count)
{
	/* The kernel packs the ports as they stand in the header, the source's in the high half. */
	uint32_t ports = (uint32_t)htons(syn->source_port) << 16 | htons(syn->destination_port);
	uint32_t message[4] = {syn->source.word[3], syn->destination.word[3], ports, count};

	return siphash(key, (unsigned char *)message, sizeof(message));
}

static uint32_t hash6(const uint64_t key[2], const struct segment *syn, uint32_t count)
{
	struct {
		struct fnm_address source, destination;
		uint32_t count;
		uint16_t source_port, destination_port;
	} message = {syn->source, syn->destination, count, htons(syn->source_port),
		     htons(syn->destination_port)};

	return siphash(key, (unsigned char *)&message, sizeof(message));
}

static uint32_t hash(const uint64_t key[2], const struct segment *syn, uint32_t count)
{
	return is_ipv4(&syn->source) ? hash4(key, syn, count) : hash6(key, syn, count);
}

uint32_t cookie_expected(const uint64_t key[2][2], const struct segment *syn, uint64_t minutes,
			 uint32_t mss_index)
{
	uint32_t count = minutes;

	return hash(key[0], syn, 0) + syn->sequence + (count << COOKIE_BITS) +
	       ((hash(key[1], syn, count) + mss_index) & ((1 << COOKIE_BITS) - 1));
}
