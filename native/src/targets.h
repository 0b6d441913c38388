/* SPDX-License-Identifier: Apache-2.0 */
/* Compiles what is in force into the policies that the data plane looks up by destination. */
#ifndef SYNPROXYD_TARGETS_H
#define SYNPROXYD_TARGETS_H

#include "engine.h"
#include "refusal.h"

/* Whether no target would get more than FNM_CHAIN of a kind if `kind` came to `target` in the
 * place of the slot `replaced` (NONE: as a new one); names the target where it would. */
bool targets_fit(const struct engine *engine, const struct fnm_prefix *target, uint8_t kind,
		 uint16_t replaced, struct fnm_prefix *crowded);

/* Brings the policies of `target` and of every target in it up to date: 0 or a negative errno. */
int targets_compile(struct engine *engine, const struct fnm_prefix *target);

/* Makes all policies, the prefilter and `wide` what the books say. */
int targets_rebuild(struct engine *engine);

/* The prefilter never lacks a bit; only this clears those that are left over. */
void targets_rebuild_prefilter(struct engine *engine);

#endif
