/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic on counters, and the words for their reasons. */
#ifndef SYNPROXYD_COUNTERS_H
#define SYNPROXYD_COUNTERS_H

#include "engine.h"

enum verdict { VERDICT_PASS, VERDICT_TX, VERDICT_DROP };

const char *reason_word(unsigned int reason); /* "unknown" beyond the list */
enum verdict reason_verdict(unsigned int reason);

void counters_add(struct fnm_counters *sum, const struct fnm_counters *more);
/* what was counted for a mitigation since its first put, by whichever slot */
int counters_of(const struct engine *engine, uint16_t slot, struct fnm_counters *sum);
int counters_of_all(const struct engine *engine, struct fnm_counters *sum);

struct rates {
	uint64_t syn, cookie_sent, cookie_good, cookie_bad, dropped, answered, passed, all, bits;
};

/* Reads the counters of what is in force; to be called once a second. */
void rates_tick(struct engine *engine);
void rates_begin(struct engine *engine, uint16_t slot);
/* A replacement goes on where the slot before it was. */
void rates_move(struct engine *engine, uint16_t from, uint16_t to);
void rates_of(const struct engine *engine, uint16_t slot, struct rates *rates, uint64_t *window_ms);

#endif
