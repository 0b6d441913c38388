/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which servers' packets are looked at for spliced flows: those of mitigations that splice or
 * watch, and of flows that such a mitigation has left behind, as long as one lives.
 */
#ifndef SYNPROXYD_SPLICING_H
#define SYNPROXYD_SPLICING_H

#include "engine.h"
#include "mitigations.h"

void splicing_begin(struct engine *engine);
/* What is in force from before. */
void splicing_resume(struct engine *engine);
/* To be called before the mitigation is in force. */
void splicing_expect(struct engine *engine, const struct fnm_prefix *target, unsigned int kind,
		     unsigned int mode);
/* Whether the row is of a flow that goes on; `now` as the tables have it. */
bool splicing_lives(const struct engine *engine, const struct fnm_splice *row, uint32_t now);
/* Count the flows, and let go of servers that have none. */
void splicing_tick(struct engine *engine);
/* Whether the mode can be had for that target, and if not, why. */
bool splicing_possible(const struct engine *engine, const struct fnm_prefix *target,
		       struct refusal *refusal);

#endif
