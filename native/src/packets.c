/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "address.h"
#include "packets.h"

#define ETHER	   14
#define TAG	   4
#define TCP_HEADER 20
#define UDP_HEADER 8

static const unsigned char addresses[12] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};

static void put16(unsigned char *at, uint16_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static void put32(unsigned char *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value);
}

static uint16_t get16(const unsigned char *at)
{
	return at[0] << 8 | at[1];
}

static uint32_t get32(const unsigned char *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static uint32_t sum(const unsigned char *at, size_t length, uint32_t sum)
{
	for (size_t i = 0; i + 1 < length; i += 2)
		sum += get16(at + i);
	return length % 2 ? sum + (at[length - 1] << 8) : sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static uint32_t pseudo(const struct segment *segment, uint8_t protocol, uint16_t length)
{
	size_t skip = is_ipv4(&segment->source) ? 12 : 0;
	const unsigned char *source = (const unsigned char *)&segment->source + skip;
	const unsigned char *destination = (const unsigned char *)&segment->destination + skip;

	return sum(source, 16 - skip, sum(destination, 16 - skip, protocol + length));
}

static unsigned char *ether(const struct segment *segment, struct frame *frame)
{
	unsigned char *at = frame->bytes;
	uint16_t type = is_ipv4(&segment->source) ? 0x0800 : 0x86dd;

	memset(frame, 0, sizeof(*frame));
	memcpy(at, addresses, sizeof(addresses));
	at += sizeof(addresses);
	if (segment->vlan) {
		put16(at, 0x8100);
		put16(at + 2, segment->vlan);
		at += TAG;
	}
	put16(at, type);
	return at + 2;
}

static unsigned char *ipv4(const struct segment *segment, unsigned char *at, uint8_t protocol,
			   uint16_t length)
{
	at[0] = 0x45;
	put16(at + 2, 20 + length);
	put16(at + 6, segment->fragment ? 0x2000 : 0x4000);
	at[8] = 64;
	at[9] = protocol;
	memcpy(at + 12, &segment->source.word[3], 4);
	memcpy(at + 16, &segment->destination.word[3], 4);
	put16(at + 10, fold(sum(at, 20, 0)));
	return at + 20;
}

static unsigned char *ipv6(const struct segment *segment, unsigned char *at, uint8_t protocol,
			   uint16_t length)
{
	at[0] = 0x60;
	put16(at + 4, length);
	at[6] = protocol;
	at[7] = 64;
	memcpy(at + 8, &segment->source, 16);
	memcpy(at + 24, &segment->destination, 16);
	return at + 40;
}

static unsigned char *network(const struct segment *segment, struct frame *frame, uint8_t protocol,
			      uint16_t length)
{
	unsigned char *at = ether(segment, frame);

	at = is_ipv4(&segment->source) ? ipv4(segment, at, protocol, length)
				       : ipv6(segment, at, protocol, length);
	frame->length = at - frame->bytes + length;
	put16(at, segment->source_port);
	put16(at + 2, segment->destination_port);
	return at;
}

void segment_build(const struct segment *segment, struct frame *frame)
{
	unsigned char *tcp = network(segment, frame, IPPROTO_TCP, TCP_HEADER);

	put32(tcp + 4, segment->sequence);
	put32(tcp + 8, segment->acknowledgement);
	tcp[12] = TCP_HEADER / 4 << 4;
	tcp[13] = segment->flags;
	put16(tcp + 14, 64240);
	put16(tcp + 16, fold(sum(tcp, TCP_HEADER, pseudo(segment, IPPROTO_TCP, TCP_HEADER))));
}

void datagram_build(const struct segment *segment, struct frame *frame)
{
	unsigned char *udp = network(segment, frame, IPPROTO_UDP, UDP_HEADER);

	put16(udp + 4, UDP_HEADER);
	put16(udp + 6, fold(sum(udp, UDP_HEADER, pseudo(segment, IPPROTO_UDP, UDP_HEADER))));
}

static const unsigned char *read_ipv4(const unsigned char *at, struct segment *segment,
				      uint16_t *length)
{
	uint16_t header = (at[0] & 15) * 4;

	segment->source = segment->destination = (struct fnm_address){{0, 0, htonl(0xffff), 0}};
	memcpy(&segment->source.word[3], at + 12, 4);
	memcpy(&segment->destination.word[3], at + 16, 4);
	*length = get16(at + 2) - header;
	return at[9] == IPPROTO_TCP && !fold(sum(at, header, 0)) ? at + header : NULL;
}

static const unsigned char *read_ipv6(const unsigned char *at, struct segment *segment,
				      uint16_t *length)
{
	memcpy(&segment->source, at + 8, 16);
	memcpy(&segment->destination, at + 24, 16);
	*length = get16(at + 4);
	return at[6] == IPPROTO_TCP ? at + 40 : NULL;
}

bool segment_read(const struct frame *frame, struct segment *segment)
{
	const unsigned char *at = frame->bytes + sizeof(addresses), *tcp;
	uint16_t length = 0;

	memset(segment, 0, sizeof(*segment));
	if (get16(at) == 0x8100) {
		segment->vlan = get16(at + 2);
		at += TAG;
	}
	at += 2;
	tcp = get16(at - 2) == 0x0800 ? read_ipv4(at, segment, &length)
				      : read_ipv6(at, segment, &length);
	if (!tcp || length < TCP_HEADER || tcp + length > frame->bytes + frame->length)
		return false;
	segment->source_port = get16(tcp);
	segment->destination_port = get16(tcp + 2);
	segment->sequence = get32(tcp + 4);
	segment->acknowledgement = get32(tcp + 8);
	segment->flags = tcp[13];
	return !fold(sum(tcp, length, pseudo(segment, IPPROTO_TCP, length)));
}
