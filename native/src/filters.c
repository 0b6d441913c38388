/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "filters.h"
#include "splicing.h"
#include "tables.h"

#define SLICE 16384 /* sets: about a millisecond */
#define KINDS 2
/* fnm_filter_mask makes for one bit in five, twice the keys for one in three: worth another round.
 */
#define FULL_SHARE 3

typedef void (*found_function)(struct engine *engine, enum fnm_filter_kind kind, uint64_t hash);

static struct fnm_filter *filter_at(const struct engine *engine, enum fnm_filter_kind kind,
				    uint32_t generation)
{
	return &engine->tables.filters[kind * 2 + generation];
}

static uint32_t now_of(const struct engine *engine, enum fnm_filter_kind kind)
{
	return engine->tables.control->filter_now[kind] & 1;
}

static void set_bits(struct engine *engine, enum fnm_filter_kind kind, uint32_t generation,
		     uint64_t hash)
{
	uint32_t mask = engine->tables.control->filter_mask[kind][generation];
	__u64 *word = &filter_at(engine, kind, generation)->word[fnm_filter_word(hash, mask)];

	__atomic_or_fetch(word, fnm_filter_bits(hash), __ATOMIC_RELEASE);
}

void filters_make_known(struct engine *engine, enum fnm_filter_kind kind, uint64_t hash)
{
	set_bits(engine, kind, 0, hash);
	set_bits(engine, kind, 1, hash);
}

void filters_begin(struct engine *engine, bool fresh)
{
	struct fnm_control *control = engine->tables.control;

	/* A mask that is in use may not change: its bits would stand for other keys. */
	for (int kind = 0; kind < KINDS && fresh; kind++)
		control->filter_mask[kind][0] = control->filter_mask[kind][1] = fnm_filter_mask(0);
	engine->filters.since_ms = engine_now(engine);
}

/* ---- the tables, a slice at a time ---- */

static bool flow_alive(const struct engine *engine, uint32_t now, uint32_t seen)
{
	const struct fnm_control *control = engine->tables.control;
	uint32_t idle = seen & FNM_SEEN_CLOSING ? control->flow_closing : control->flow_idle;

	return fnm_age(now, seen) <= idle;
}

static void look_flow4(struct engine *engine, uint64_t index, uint32_t now, found_function found)
{
	const struct fnm_flow4_set *set = &engine->tables.flows4[index];
	uint32_t seed = engine->tables.control->seed;

	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_flow4 row = set->way[i];

		if (row.ports && flow_alive(engine, now, row.seen))
			found(engine, FNM_FILTER_FLOWS,
			      fnm_hash_flow4(seed, row.source, row.destination, row.ports));
	}
}

static void look_flow6(struct engine *engine, uint64_t index, uint32_t now, found_function found)
{
	const struct fnm_flow6_set *set = &engine->tables.flows6[index];
	uint32_t seed = engine->tables.control->seed;

	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_flow6 row = set->way[i];

		if (row.ports && flow_alive(engine, now, row.seen))
			found(engine, FNM_FILTER_FLOWS,
			      fnm_hash_flow6(seed, row.source, row.destination, row.ports));
	}
}

static void look_sighting(struct engine *engine, uint64_t index, uint32_t now, found_function found)
{
	const struct fnm_sighting_set *set = &engine->tables.sightings[index];

	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_sighting row = set->way[i];

		/* The tag is the upper half of the hash, which is all that a filter asks for; what
		 * has not shown progress is not asked for. */
		if (row.tag && row.seen & FNM_SEEN_LEARNED &&
		    fnm_age(now, row.seen) <= engine->tables.control->flow_idle)
			found(engine, FNM_FILTER_FLOWS, (uint64_t)row.tag << 32);
	}
}

static void look_splice(struct engine *engine, uint64_t index, uint32_t now, found_function found)
{
	const struct fnm_splice_set *set = &engine->tables.splices[index];

	for (int i = 0; i < FNM_SPLICE_WAYS; i++) {
		if (splicing_lives(engine, &set->way[i], now))
			found(engine, FNM_FILTER_FLOWS, (uint64_t)set->tag[i] << 32);
	}
}

static void look_source(struct engine *engine, uint64_t index, uint32_t now, found_function found)
{
	const struct fnm_source_set *set = &engine->tables.sources[index];

	for (int i = 0; i < 2; i++) {
		struct fnm_source row = set->way[i];

		if (row.seen && fnm_age(now, row.seen) <= engine->tables.control->source_idle)
			found(engine, FNM_FILTER_SOURCES,
			      fnm_hash_address(engine->tables.control->seed, row.address.word));
	}
}

/* true: at the end of all tables */
static bool walk(struct engine *engine, found_function found)
{
	const struct tables *tables = &engine->tables;
	const struct {
		uint64_t sets;
		void (*look)(struct engine *, uint64_t, uint32_t, found_function);
	} parts[] = {{tables->flow4_sets, look_flow4},
		     {tables->flow6_sets, look_flow6},
		     {tables->sighting_sets, look_sighting},
		     {tables->splice_sets, look_splice},
		     {tables->source_sets, look_source}};
	uint64_t at = engine->filters.next;
	uint32_t now = fnm_seen(engine_now(engine));
	unsigned int budget = SLICE;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		for (; at < parts[i].sets && budget; at++, budget--, engine->filters.next++)
			parts[i].look(engine, at, now, found);
		if (at < parts[i].sets)
			return false;
		at -= parts[i].sets;
	}
	return true;
}

/* ---- a round ---- */

static void count_key(struct engine *engine, enum fnm_filter_kind kind, uint64_t hash)
{
	(void)hash;
	engine->filters.keys[kind]++;
}

static void fill_in(struct engine *engine, enum fnm_filter_kind kind, uint64_t hash)
{
	set_bits(engine, kind, !now_of(engine, kind), hash);
}

static void enter(struct engine *engine, enum filter_phase phase)
{
	engine->filters.phase = phase;
	engine->filters.since_ms = engine_now(engine);
	engine->filters.next = 0;
}

static void clear(struct engine *engine)
{
	for (int kind = 0; kind < KINDS; kind++) {
		uint32_t other = !now_of(engine, kind);

		__atomic_store_n(&engine->tables.control->filter_mask[kind][other],
				 fnm_filter_mask(engine->filters.keys[kind]), __ATOMIC_SEQ_CST);
		memset(filter_at(engine, kind, other), 0, sizeof(struct fnm_filter));
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void look_at_other(struct engine *engine)
{
	for (int kind = 0; kind < KINDS; kind++)
		__atomic_store_n(&engine->tables.control->filter_now[kind], !now_of(engine, kind),
				 __ATOMIC_RELEASE);
}

bool filters_work(struct engine *engine)
{
	switch (engine->filters.phase) {
	case FILTER_COUNTING:
		if (!walk(engine, count_key))
			return true;
		clear(engine);
		enter(engine, FILTER_DRAINING);
		return false;
	case FILTER_FILLING:
		if (!walk(engine, fill_in))
			return true;
		look_at_other(engine);
		enter(engine, FILTER_AT_REST);
		return false;
	default:
		return false;
	}
}

static bool filling_up(const struct engine *engine, enum fnm_filter_kind kind)
{
	uint32_t now = now_of(engine, kind);
	uint32_t mask = engine->tables.control->filter_mask[kind][now];
	const struct fnm_filter *filter = filter_at(engine, kind, now);
	uint64_t set = 0;

	/* At its largest, another round would not make it better. */
	if (mask >= FNM_FILTER_WORDS - 1)
		return false;
	for (uint32_t i = 0; i <= mask; i++)
		set += __builtin_popcountll(filter->word[i]);
	return set * FULL_SHARE > (mask + 1) * 64ull;
}

void filters_tick(struct engine *engine)
{
	uint64_t passed = engine_now(engine) - engine->filters.since_ms;

	if (engine->filters.phase == FILTER_DRAINING && passed >= FILTER_DRAIN_MS)
		enter(engine, FILTER_FILLING);
	if (engine->filters.phase != FILTER_AT_REST || passed < FILTER_PAUSE_MS)
		return;
	if (passed < FILTER_PERIOD_MS && !filling_up(engine, FNM_FILTER_FLOWS) &&
	    !filling_up(engine, FNM_FILTER_SOURCES))
		return;
	memset(engine->filters.keys, 0, sizeof(engine->filters.keys));
	enter(engine, FILTER_COUNTING);
}
