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
/* An instance of the program on these maps. */
struct program *state_program(const struct kernel *kernel, bool verify_checksums,
			      struct refusal *refusal);
void state_close(struct engine *engine, struct kernel *kernel);

#endif
