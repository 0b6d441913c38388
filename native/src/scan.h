/* SPDX-License-Identifier: Apache-2.0 */
/* Walks through big tables a slice at a time, so that everybody else is served meanwhile. */
#ifndef SYNPROXYD_SCAN_H
#define SYNPROXYD_SCAN_H

#include <jansson.h>

#include "engine.h"

enum scan_kind { SCAN_FLOWS, SCAN_BLOCKED, SCAN_COUNT };

struct scan {
	enum scan_kind kind;
	json_t *seq;  /* of the request, or NULL */
	json_t *rows; /* not with SCAN_COUNT */
	uint64_t total, limit;
	uint64_t flows, flows6, sources; /* SCAN_COUNT; flows: of both families */
	uint64_t next;			 /* set to look at next, all tables in a row */
	struct fnm_prefix target;
	bool any_target;
	uint32_t generation;
};

struct scan *scan_new(enum scan_kind kind, uint64_t limit, json_t *seq);
void scan_free(struct scan *scan);
/* Looks at one slice; true: at the end. */
bool scan_step(const struct engine *engine, struct scan *scan);

#endif
