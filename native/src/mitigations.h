/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a mitigation: put, renewed, replaced, deleted, expired.
 *
 * A slot is written completely before a policy names it. One that no policy names any more is kept
 * for a second, for the packets that are on their way, and only then used again.
 */
#ifndef SYNPROXYD_MITIGATIONS_H
#define SYNPROXYD_MITIGATIONS_H

#include "engine.h"
#include "portsets.h"
#include "refusal.h"

#define RETIRED_MS 1000

struct clock_sample { /* of the protected server */
	uint64_t monotonic_ms, cookie_ms, timestamp_ms;
};

struct wish { /* what a put asks for */
	const char *id;
	const char *delivery; /* NULL: not said */
	uint64_t revision, expires_ms, grace_ms;
	struct fnm_prefix target;
	struct fnm_slot slot; /* kind, mode, flags and the union; the rest is filled in here */
	struct ports ports;
	struct fnm_acl acl;
	struct clock_sample clock;
	bool has_keys, has_clock, check;
};

enum outcome { CREATED, REPLACED, RENEWED };

bool mitigation_put(struct engine *engine, struct wish *wish, enum outcome *outcome,
		    struct refusal *refusal);
/* found: false where there was none; the revision is remembered all the same */
bool mitigation_delete(struct engine *engine, const char *id, uint64_t revision, bool *found,
		       struct refusal *refusal);

uint16_t mitigation_find(const struct engine *engine, const char *id); /* NONE: not in force */
const char *mitigation_delivery(const struct engine *engine, uint16_t slot); /* NULL: unknown */
/* whether the deadline has passed, which ends it for the data plane as well */
bool mitigation_over(const struct engine *engine, uint16_t slot);
/* Removes what has expired and frees what was retired; to be called once a second. */
void mitigations_tick(struct engine *engine);

/* Makes everything out of what pinned maps hold, after a start. */
bool mitigations_load(struct engine *engine, struct refusal *refusal);

#endif
