/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "tombs.h"

static struct tomb *find(const struct engine *engine, const char *id)
{
	uint64_t now = engine_now(engine);

	for (size_t i = 0; i < BOOK_TOMBS; i++) {
		struct tomb *tomb = &engine->tables.tombs[i];

		if (tomb->until_ms > now && !strncmp(tomb->id, id, sizeof(tomb->id)))
			return tomb;
	}
	return NULL;
}

/* The one that ends first goes, which is an empty one as long as there is one. */
static struct tomb *oldest(const struct engine *engine)
{
	struct tomb *best = engine->tables.tombs;

	for (size_t i = 1; i < BOOK_TOMBS; i++)
		if (engine->tables.tombs[i].until_ms < best->until_ms)
			best = &engine->tables.tombs[i];
	return best;
}

uint64_t tomb_revision(const struct engine *engine, const char *id)
{
	const struct tomb *tomb = find(engine, id);

	return tomb ? tomb->revision : 0;
}

void tomb_set(struct engine *engine, const char *id, uint64_t revision)
{
	struct tomb *tomb = find(engine, id);

	if (tomb && tomb->revision > revision)
		revision = tomb->revision;
	if (!tomb)
		tomb = oldest(engine);
	tomb->until_ms = 0;
	snprintf(tomb->id, sizeof(tomb->id), "%s", id);
	tomb->revision = revision;
	tomb->until_ms = engine_now(engine) + BOOK_TOMB_MS;
}
