/* SPDX-License-Identifier: Apache-2.0 */
/* Frames for selftest: made, and taken apart again. */
#ifndef SYNPROXYD_PACKETS_H
#define SYNPROXYD_PACKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

#define FRAME_MOST 256

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

struct segment { /* of TCP; host order but for the addresses */
	struct fnm_address source, destination;
	uint16_t source_port, destination_port;
	uint32_t sequence, acknowledgement;
	uint8_t flags;
	uint16_t vlan; /* 0: untagged */
	bool fragment; /* IPv4 only */
};

struct frame {
	unsigned char bytes[FRAME_MOST];
	uint32_t length;
};

void segment_build(const struct segment *segment, struct frame *frame);
void datagram_build(const struct segment *segment, struct frame *frame); /* UDP */
/* false: not a TCP segment of the family that is expected, or a checksum is wrong */
bool segment_read(const struct frame *frame, struct segment *segment);

#endif
