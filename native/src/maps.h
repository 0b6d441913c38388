/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the maps or takes the pinned ones, and shows their memory to the engine. */
#ifndef SYNPROXYD_MAPS_H
#define SYNPROXYD_MAPS_H

#include "engine.h"
#include "options.h"
#include "refusal.h"
#include "skeleton.h"

enum map {
	MAP_CONTROL,
	MAP_SLOTS,
	MAP_HOSTS,
	MAP_PREFIXES,
	MAP_PORTSETS,
	MAP_ACLS,
	MAP_FLOWS4,
	MAP_FLOWS6,
	MAP_SOURCES,
	MAP_SIGHTINGS,
	MAP_TALKERS,
	MAP_FILTERS,
	MAP_CEILINGS,
	MAP_COUNTERS,
	MAP_WORK,
	MAP_SAMPLES,
	MAP_BOOKS,
	MAP_TOMBS,
	MAP_SPLICING,
	MAP_SPLICES,
	MAP_BACKENDS,
	MAP_HELD,
	MAPS
};

struct maps {
	int fd[MAPS];
	uint32_t entries[MAPS];
	uint64_t memory_bytes;
	bool kept; /* at least one was pinned already */
};

/* directory: of the pins, or NULL: maps that end with the process */
bool maps_open(struct maps *maps, const struct options *options, const char *directory,
	       struct refusal *refusal);
bool maps_show(const struct maps *maps, struct tables *tables, struct refusal *refusal);
/* Makes a program use these maps. */
bool maps_give(const struct maps *maps, struct program *program, struct refusal *refusal);
void maps_constants(const struct maps *maps, struct constants *constants);
void maps_close(struct maps *maps, struct tables *tables);

#endif
