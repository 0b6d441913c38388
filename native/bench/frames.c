/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "frames.h"

#define MAC_BYTES 12
#define TCP_BYTES 20
#define UDP_BYTES 8

const struct frame_options frame_syn_options[] = {
    {"linux", 20, {2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}},
    {"windows", 12, {2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2}},
    {"apple", 24, {2, 4, 5, 180, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0}},
    {"mss only", 4, {2, 4, 5, 180}},
    {"none", 0, {0}},
    {"odd order", 20, {8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 3, 3, 7, 1, 2, 4, 5, 180}},
    {"40 bytes", 40, {2,  4,  5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
		      30, 20, 0, 129, 1, 2, 3, 4,  5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}},
};
const unsigned frame_syn_layouts = sizeof(frame_syn_options) / sizeof(frame_syn_options[0]);
const struct frame_options frame_timestamps = {
    "timestamps", 12, {1, 1, 8, 10, 1, 2, 3, 4, 1, 2, 3, 4}};

static const uint8_t macs[MAC_BYTES] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value);
}

static uint32_t sum(uint32_t start, const uint8_t *bytes, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		start += i & 1 ? bytes[i] : bytes[i] << 8;
	return start;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

void frame_addresses(const struct frame_spec *spec, uint8_t *source, uint8_t *destination)
{
	static const uint8_t source6[16] = {0x20, 1, 0xd, 0xb8, 0, 1};
	static const uint8_t destination6[16] = {0x20, 1, 0xd, 0xb8};
	static const uint8_t source4[16] = {[10] = 0xff, [11] = 0xff, 198, 18};
	static const uint8_t destination4[16] = {[10] = 0xff, [11] = 0xff, 192, 0, 2};

	memcpy(source, spec->v6 ? source6 : source4, 16);
	memcpy(destination, spec->v6 ? destination6 : destination4, 16);
	destination[15] = spec->host;
	put16(source + 14, spec->client);
}

/* Sum of the pseudo header; the ffff of a mapped IPv4 address adds nothing to it. */
static uint32_t pseudo(const uint8_t *source, const uint8_t *destination, uint32_t length,
		       uint8_t protocol)
{
	return sum(sum(length + protocol, source, 16), destination, 16);
}

static uint32_t write_segment(uint8_t *at, const struct frame_spec *spec)
{
	uint32_t options = spec->options ? spec->options->length : 0;

	put16(at, spec->sport);
	put16(at + 2, spec->dport);
	if (spec->protocol == IPPROTO_UDP) {
		put16(at + 4, UDP_BYTES + 20);
		return UDP_BYTES + 20;
	}
	put32(at + 4, spec->seq);
	put32(at + 8, spec->ack);
	at[12] = (TCP_BYTES + options) << 2;
	at[13] = spec->flags;
	put16(at + 14, 64240);
	if (options)
		memcpy(at + TCP_BYTES, spec->options->bytes, options);
	return TCP_BYTES + options;
}

static uint32_t write_ip4(uint8_t *at, const struct frame_spec *spec, uint32_t length)
{
	uint8_t source[16], destination[16];

	frame_addresses(spec, source, destination);
	at[0] = 0x45;
	put16(at + 2, 20 + length);
	put16(at + 4, 0x1234);
	put16(at + 6, spec->extra == FRAME_FRAGMENT ? 0x2000 : 0x4000);
	at[8] = 57;
	at[9] = spec->protocol;
	memcpy(at + 12, source + 12, 4);
	memcpy(at + 16, destination + 12, 4);
	put16(at + 10, fold(sum(0, at, 20)));
	return 20;
}

static uint32_t write_ip6(uint8_t *at, const struct frame_spec *spec, uint32_t length)
{
	uint32_t extension = spec->extra == FRAME_HOP_BY_HOP ? 8 : 0;

	at[0] = 0x60;
	put16(at + 4, length + extension);
	at[6] = extension ? IPPROTO_HOPOPTS : spec->protocol;
	at[7] = 57;
	frame_addresses(spec, at + 8, at + 24);
	if (extension) {
		at[40] = spec->protocol;
		at[42] = 1; /* PadN of four bytes */
		at[43] = 4;
	}
	return 40 + extension;
}

void frame_build(struct frame *frame, const struct frame_spec *spec)
{
	uint8_t segment[TCP_BYTES + 40] = {0}, source[16], destination[16];
	uint32_t at = MAC_BYTES, length = write_segment(segment, spec);

	memset(frame, 0, sizeof(*frame));
	frame_addresses(spec, source, destination);
	put16(segment + (spec->protocol == IPPROTO_UDP ? 6 : 16),
	      fold(sum(pseudo(source, destination, length, spec->protocol), segment, length)));
	memcpy(frame->bytes, macs, MAC_BYTES);
	if (spec->extra == FRAME_VLAN) {
		put16(frame->bytes + at, 0x8100);
		put16(frame->bytes + at + 2, 42);
		at += 4;
	}
	put16(frame->bytes + at, spec->v6 ? 0x86dd : 0x0800);
	at += 2;
	frame->client = at + (spec->v6 ? 22 : 14);
	at += spec->v6 ? write_ip6(frame->bytes + at, spec, length)
		       : write_ip4(frame->bytes + at, spec, length);
	frame->tcp = at;
	memcpy(frame->bytes + at, segment, length);
	frame->length = at + length < FRAME_SHORTEST ? FRAME_SHORTEST : at + length;
}

uint32_t frame_sequence(const struct frame *frame)
{
	return get32(frame->bytes + frame->tcp + 4);
}
