/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include <bpf/bpf.h>

#include "kernel.h"

#define PROOF_MS 120

/* A coarse clock steps with the tick, and the kernel says by how much. */
uint32_t clock_hz(void)
{
	struct timespec step;

	if (clock_getres(CLOCK_MONOTONIC_COARSE, &step) || step.tv_sec || step.tv_nsec <= 0)
		return 0;
	return (1000000000 + step.tv_nsec / 2) / step.tv_nsec;
}

uint64_t clock_ms_mult(uint32_t hz)
{
	return (1000ull << 16) / hz;
}

static uint64_t to_ms(const struct timespec *time)
{
	return time->tv_sec * 1000ull + time->tv_nsec / 1000000;
}

uint64_t clock_coarse_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return to_ms(&now);
}

static int read_engine(const struct kernel *kernel, uint64_t *ms)
{
	unsigned char frame[64] = {0};
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .data_size_in = sizeof(frame),
		    .repeat = 1);

	if (bpf_prog_test_run_opts(kernel->clock_program, &run))
		return -errno;
	*ms = __atomic_load_n(&kernel->control->clock_ms, __ATOMIC_RELAXED);
	return 0;
}

/* Both clocks step in the same tick: a reading is good when no tick came between. */
int clock_refresh(struct kernel *kernel)
{
	for (int i = 0; i < 8; i++) {
		uint64_t before = clock_coarse_ms(), engine;
		int error = read_engine(kernel, &engine);

		if (error)
			return error;
		kernel->clock_offset = engine - before;
		if (clock_coarse_ms() == before)
			break;
	}
	return 0;
}

bool clock_proven(struct kernel *kernel, struct refusal *refusal)
{
	uint64_t from = clock_coarse_ms(), engine_from, engine_to, passed, counted;
	struct timespec pause = {0, PROOF_MS * 1000000};
	uint64_t tolerance = PROOF_MS / 10 + 2 * 1000 / kernel->hz;
	int error = read_engine(kernel, &engine_from);

	nanosleep(&pause, NULL);
	passed = clock_coarse_ms() - from;
	if (!error)
		error = read_engine(kernel, &engine_to);
	if (error)
		return refuse(refusal, E_INTERNAL, NULL, "the engine clock cannot be read: %d",
			      error);
	counted = engine_to - engine_from;
	/* A machine that stands still meanwhile stops both. */
	if (counted + tolerance >= passed && counted <= passed + tolerance + passed / 10)
		return true;
	return refuse(refusal, E_UNSUPPORTED, "report this kernel to the project",
		      "the engine clock went %" PRIu64 " ms in %" PRIu64 " ms; the kernel's HZ is "
		      "not %u",
		      counted, passed, kernel->hz);
}
