/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's backend in the kernel: maps by system call, and the engine clock. */
#ifndef SYNPROXYD_KERNEL_H
#define SYNPROXYD_KERNEL_H

#include "engine.h"
#include "maps.h"

struct kernel {
	struct maps maps;
	int clock_program; /* fd */
	int judge_program; /* fd; the first interface's */
	uint32_t judge_ifindex;
	unsigned char judge_address[6];
	uint32_t hz;
	int64_t clock_offset; /* engine ms minus CLOCK_MONOTONIC_COARSE in ms */
	int cpus;
	void *per_cpu; /* room for one element of `counters` or `work` */
	struct fnm_control *control;
};

extern const struct backend kernel_backend;

bool kernel_begin(struct kernel *kernel, struct fnm_control *control, struct refusal *refusal);
void kernel_end(struct kernel *kernel);

/* clock.c: HZ of the running kernel, 0 where it cannot be told */
uint32_t clock_hz(void);
uint64_t clock_ms_mult(uint32_t hz);
/* Ties the engine clock to CLOCK_MONOTONIC_COARSE; 0 or a negative errno. */
int clock_refresh(struct kernel *kernel);
/* Whether the engine clock goes as fast as HZ lets expect. */
bool clock_proven(struct kernel *kernel, struct refusal *refusal);
uint64_t clock_coarse_ms(void);

#endif
