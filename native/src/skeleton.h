/* SPDX-License-Identifier: Apache-2.0 */
/* The program that is compiled in; one instance for each interface, as its constants differ. */
#ifndef SYNPROXYD_SKELETON_H
#define SYNPROXYD_SKELETON_H

#include <stdbool.h>
#include <stdint.h>

#include <bpf/libbpf.h>

struct program;

struct constants {
	uint64_t ms_mult;
	bool verify_checksums;
	bool partial_checksums;
	uint32_t flow4_sets, flow6_sets, source_sets, sighting_sets, talker_sets, splice_sets;
	uint32_t splice_idle;
};

struct program *program_open(void); /* NULL: errno */
void program_set(struct program *program, const struct constants *constants);
struct bpf_object *program_object(const struct program *program);
int program_load(struct program *program); /* 0 or a negative errno */
int program_xdp_fd(const struct program *program);
int program_egress_fd(const struct program *program);
int program_clock_fd(const struct program *program);
void program_close(struct program *program);

#endif
