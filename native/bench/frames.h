/* SPDX-License-Identifier: Apache-2.0 */
/* Frames as clients send them, with right checksums. */
#ifndef BENCH_FRAMES_H
#define BENCH_FRAMES_H

#include <stdint.h>

#include "bench.h"

#define FRAME_SHORTEST 60 /* a network card pads to this */

enum frame_extra { FRAME_PLAIN, FRAME_VLAN, FRAME_FRAGMENT, FRAME_HOP_BY_HOP };

struct frame_options {
	const char *name;
	uint8_t length;
	uint8_t bytes[40];
};

/* The options of a SYN, by who sends it; the first is Linux. */
extern const struct frame_options frame_syn_options[];
extern const unsigned frame_syn_layouts;
/* NOP, NOP, timestamps: what a segment after the SYN carries. */
extern const struct frame_options frame_timestamps;

struct frame_spec {
	int v6;
	enum frame_extra extra;
	uint8_t protocol; /* TCP or UDP */
	uint8_t flags;	  /* of TCP */
	uint8_t host;	  /* last byte of the destination: 192.0.2.x or 2001:db8::x */
	uint16_t client;  /* last two bytes of the source: 198.18.x.x or 2001:db8:1::xxxx */
	uint16_t sport, dport;
	uint32_t seq, ack;
	const struct frame_options *options;
};

struct frame {
	uint32_t length;
	uint32_t tcp;	 /* offset of the transport header */
	uint32_t client; /* offset of the last two bytes of the source */
	uint8_t bytes[BENCH_FRAME];
};

void frame_build(struct frame *frame, const struct frame_spec *spec);

/* Fill in source and destination, 16 bytes each, IPv4 mapped. */
void frame_addresses(const struct frame_spec *spec, uint8_t *source, uint8_t *destination);

uint32_t frame_sequence(const struct frame *frame);

#endif
