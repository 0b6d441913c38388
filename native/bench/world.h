/* SPDX-License-Identifier: Apache-2.0 */
/* The programs under measurement, loaded and told what they protect. */
#ifndef BENCH_WORLD_H
#define BENCH_WORLD_H

#include <stdint.h>

#include <bpf/libbpf.h>

#include "../bpf/abi.h"
#include "frames.h"

/* last byte of the addresses 192.0.2.x and 2001:db8::x */
#define HOST_TCP    10
#define HOST_ACL1   11
#define HOST_ACL16  12
#define HOST_SORB   13
#define HOST_HASHED 98	/* unprotected, but its bit of the prefilter is set */
#define HOST_OTHER  99	/* unprotected */
#define HOST_MANY   256 /* hosts that fill the table of hosts, elsewhere */

#define SLOT_TCP 1

/* Rows of the tables, in sets; all powers of two. */
struct world_sizes {
	uint32_t flows4, flows6, sources, talkers, sightings;
};

extern const struct world_sizes world_shipped; /* what synproxyd makes unless told otherwise */

struct world {
	struct bpf_object *object;
	int engine; /* else the baseline */
	struct fnm_control *control;
	struct fnm_slot *slots;
	struct fnm_flow4_set *flows4;
	struct fnm_flow6_set *flows6;
	struct fnm_source_set *sources;
	struct fnm_filter *filters;
	struct world_sizes sizes;
	int counters; /* file descriptor */
	int cpus;
	double load_ms;
};

void die(const char *what, ...) __attribute__((format(printf, 1, 2), noreturn));

void world_open(struct world *world, const char *path, int engine, const struct world_sizes *sizes);
/* Any other object with per-CPU counters. */
void world_open_plain(struct world *world, const char *path, const char *counters);
void world_close(struct world *world);
int world_map(const struct world *world, const char *name);
int world_program(const struct world *world, const char *name);
void world_add_flow(struct world *world, const struct frame_spec *spec);
/* The filters are left as they are with so many other flows and sources in them. */
void world_forget_flows(struct world *world, uint32_t flows);
/* Packets with this reason (of the engine) or this counter (of the baseline). */
uint64_t world_count(const struct world *world, uint32_t which);
void pin_to_cpu(int cpu);

#endif
