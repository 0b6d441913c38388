/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "filters.h"
#include "splicing.h"
#include "state.h"

static bool set_control(struct engine *engine, const struct options *options,
			struct refusal *refusal)
{
	struct fnm_control *control = engine->tables.control;
	bool fresh = control->abi != FNM_ABI;

	/* The seed decides where rows lie, and stays as long as they do. */
	if (fresh && getrandom(&control->seed, sizeof(control->seed), 0) != sizeof(control->seed))
		return refuse(refusal, E_INTERNAL, NULL, "getrandom: %s", strerror(errno));
	control->flow_idle = options->flow_idle;
	control->flow_closing = options->flow_closing;
	control->source_idle = options->source_idle;
	control->inserts_per_second = options->inserts_per_second;
	engine->facts.splice_idle = options->splice_idle;
	splicing_begin(engine);
	filters_begin(engine, fresh);
	__atomic_store_n(&control->abi, FNM_ABI, __ATOMIC_RELEASE);
	return true;
}

bool state_open(struct engine *engine, struct kernel *kernel, const struct options *options,
		const char *directory, struct refusal *refusal)
{
	engine->backend = &kernel_backend;
	engine->data = kernel;
	kernel->clock_program = -1;
	kernel->hz = clock_hz();
	if (!kernel->hz)
		return refuse(refusal, E_UNSUPPORTED, NULL,
			      "the kernel does not tell the step of CLOCK_MONOTONIC_COARSE");
	engine->facts.hz = kernel->hz;
	if (!maps_open(&kernel->maps, options, directory, refusal) ||
	    !maps_show(&kernel->maps, &engine->tables, refusal))
		return false;
	engine->facts.memory_bytes = kernel->maps.memory_bytes;
	return kernel_begin(kernel, engine->tables.control, refusal) &&
	       set_control(engine, options, refusal);
}

struct program *state_program(const struct kernel *kernel, const struct state_settings *settings,
			      struct refusal *refusal)
{
	struct constants constants = {.ms_mult = clock_ms_mult(kernel->hz),
				      .verify_checksums = settings->verify_checksums,
				      .partial_checksums = settings->partial_checksums,
				      .splice_idle = settings->splice_idle};
	struct program *program = program_open();
	int error;

	if (!program) {
		refuse(refusal, E_INTERNAL, NULL, "the program cannot be opened: %s",
		       strerror(errno));
		return NULL;
	}
	maps_constants(&kernel->maps, &constants);
	program_set(program, &constants);
	if (!maps_give(&kernel->maps, program, refusal)) {
		program_close(program);
		return NULL;
	}
	error = program_load(program);
	if (!error)
		return program;
	refuse(refusal, error == -EPERM ? E_INTERNAL : E_UNSUPPORTED,
	       error == -EPERM ? "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
			       : "run synproxyd check, which says what this kernel lacks",
	       "the kernel does not load the program: %s", strerror(-error));
	program_close(program);
	return NULL;
}

void state_close(struct engine *engine, struct kernel *kernel)
{
	maps_close(&kernel->maps, &engine->tables);
	kernel_end(kernel);
}
