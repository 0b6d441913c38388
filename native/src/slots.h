/* SPDX-License-Identifier: Apache-2.0 */
/* Slots: which are free, in force, or waiting to be freed, and what they hold on to. */
#ifndef SYNPROXYD_SLOTS_H
#define SYNPROXYD_SLOTS_H

#include "engine.h"

uint16_t slot_find_free(const struct engine *engine); /* NONE: every one is in use */

/* Puts a slot, written but for its counters, into the order of age; `instead` of one or NONE. */
int slot_enlist(struct engine *engine, uint16_t slot, uint16_t instead);
/* Takes a slot out of the order; its counters go to `heir`, or to those of everything past. */
void slot_retire(struct engine *engine, uint16_t slot, uint16_t heir);
/* Undoes slot_enlist where no policy has come to name the slot for good. */
void slot_withdraw(struct engine *engine, uint16_t slot, uint16_t instead);
/* Frees those that have been retired for RETIRED_MS. */
void slots_free_retired(struct engine *engine);
/* Fills the order, the retired and the uses from the books. */
void slots_load(struct engine *engine);

#endif
