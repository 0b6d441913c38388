/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filters in front of the tables: what is in no table is told by a bit that is in the cache.
 *
 * The data plane only sets bits. Here they are made anew, so that what was forgotten leaves them,
 * and of the size that the tables' filling asks for: the generation that nobody looks at is
 * cleared, then, when no packet can be under way that has read the mask before, filled from the
 * tables, and looked at from there on.
 */
#ifndef SYNPROXYD_FILTERS_H
#define SYNPROXYD_FILTERS_H

#include "engine.h"

#define FILTER_DRAIN_MS	 1000  /* for packets under way */
#define FILTER_PAUSE_MS	 5000  /* between two rounds, also when the filters fill up */
#define FILTER_PERIOD_MS 60000 /* a round for what was forgotten */

/* fresh: the maps have just been made, so that no bit is set yet */
void filters_begin(struct engine *engine, bool fresh);
/* Begins a round where one is due; to be called once a second. */
void filters_tick(struct engine *engine);
/* Does a slice of the round; true: there is more to do at once. */
bool filters_work(struct engine *engine);
/* To be called after the row of that key is written. */
void filters_make_known(struct engine *engine, enum fnm_filter_kind kind, uint64_t hash);

#endif
