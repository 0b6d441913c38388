/* SPDX-License-Identifier: Apache-2.0 */
/* Sets up the engine on pinned maps, or on maps of its own. */
#ifndef SYNPROXYD_STATE_H
#define SYNPROXYD_STATE_H

#include "engine.h"
#include "kernel.h"
#include "options.h"

/* directory: of pinned maps, or NULL */
bool state_open(struct engine *engine, struct kernel *kernel, const struct options *options,
		const char *directory, struct refusal *refusal);
/* What is different from one interface to the other. */
struct state_settings {
	bool verify_checksums;
	bool partial_checksums; /* they may still have to be filled in */
	uint32_t splice_idle;
};

/* An instance of the program on these maps. */
struct program *state_program(const struct kernel *kernel, const struct state_settings *settings,
			      struct refusal *refusal);
void state_close(struct engine *engine, struct kernel *kernel);

#endif
