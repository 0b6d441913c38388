/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "filters.h"
#include "memory.h"
#include "mitigations.h"

#define SETS 1024

static size_t place_of(const struct memory *memory, const struct fnm_prefix *target)
{
	size_t i = 0;

	while (i < memory->policy_count && !prefix_equal(&memory->policies[i].target, target))
		i++;
	return i;
}

static int policy_set(void *data, const struct fnm_prefix *target, const struct fnm_policy *policy)
{
	struct memory *memory = data;
	size_t i = place_of(memory, target);

	if (i >= memory->policy_room)
		return -E2BIG;
	memory->policies[i].target = *target;
	memory->policies[i].policy = *policy;
	if (i == memory->policy_count)
		memory->policy_count++;
	return 0;
}

static int policy_clear(void *data, const struct fnm_prefix *target)
{
	struct memory *memory = data;
	size_t i = place_of(memory, target);

	if (i < memory->policy_count)
		memory->policies[i] = memory->policies[--memory->policy_count];
	return 0;
}

static int policy_list(void *data, struct fnm_prefix *targets, size_t most)
{
	const struct memory *memory = data;
	size_t i;

	for (i = 0; i < memory->policy_count && i < most; i++)
		targets[i] = memory->policies[i].target;
	return i;
}

static int counters(void *data, uint32_t slot, struct fnm_counters *sum)
{
	const struct memory *memory = data;

	*sum = memory->counters[slot];
	return 0;
}

static int counters_clear(void *data, uint32_t slot)
{
	struct memory *memory = data;

	memset(&memory->counters[slot], 0, sizeof(memory->counters[slot]));
	return 0;
}

static int work(void *data, struct fnm_work *sum)
{
	memset(sum, 0, sizeof(*sum));
	return 0;
}

static int ask_again(void *data, const struct fnm_splice *row)
{
	((struct memory *)data)->asked_again++;
	return 0;
}

static bool elsewhere(void *data, const struct fnm_prefix *target)
{
	return ((const struct memory *)data)->elsewhere;
}

static uint64_t clock_ms(void *data)
{
	return ((const struct memory *)data)->now_ms;
}

static const struct backend backend = {
    .policy_set = policy_set,
    .policy_clear = policy_clear,
    .policy_list = policy_list,
    .counters = counters,
    .counters_clear = counters_clear,
    .work = work,
    .ask_again = ask_again,
    .elsewhere = elsewhere,
    .engine_ms = clock_ms,
    .monotonic_ms = clock_ms,
};

static void *zeroed(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (!memory)
		abort();
	return memory;
}

static void connect_engine(struct memory *memory, const struct tables *tables)
{
	memory->engine = zeroed(1, sizeof(*memory->engine));
	memory->engine->tables = *tables;
	memory->engine->backend = &backend;
	memory->engine->data = memory;
	memory->engine->facts.splice = true;
	memory->engine->facts.splice_idle = 3600;
}

struct memory *memory_open(void)
{
	struct memory *memory = zeroed(1, sizeof(*memory));
	struct tables tables = {
	    .control = zeroed(1, sizeof(struct fnm_control)),
	    .slots = zeroed(FNM_SLOTS, sizeof(struct fnm_slot)),
	    .portsets = zeroed(FNM_PORTSETS, sizeof(struct fnm_portset)),
	    .acls = zeroed(FNM_ACLS, sizeof(struct fnm_acl)),
	    .flows4 = zeroed(SETS, sizeof(struct fnm_flow4_set)),
	    .flows6 = zeroed(SETS, sizeof(struct fnm_flow6_set)),
	    .sources = zeroed(SETS, sizeof(struct fnm_source_set)),
	    .sightings = zeroed(SETS, sizeof(struct fnm_sighting_set)),
	    .filters = zeroed(4, sizeof(struct fnm_filter)),
	    .talkers = zeroed(SETS, sizeof(struct fnm_talker_set)),
	    .books = zeroed(FNM_SLOTS, sizeof(struct book)),
	    .tombs = zeroed(BOOK_TOMBS, sizeof(struct tomb)),
	    .splicing = zeroed(1, sizeof(struct fnm_splicing)),
	    .splices = zeroed(SETS, sizeof(struct fnm_splice_set)),
	    .splice_sets = SETS,
	    .flow4_sets = SETS,
	    .flow6_sets = SETS,
	    .source_sets = SETS,
	    .sighting_sets = SETS,
	    .talker_sets = SETS,
	};

	connect_engine(memory, &tables);
	tables.control->flow_idle = tables.control->source_idle = 3600;
	tables.control->flow_closing = 60;
	memory->policy_room = MEMORY_POLICIES;
	memory->now_ms = 1000000;
	filters_begin(memory->engine, true);
	return memory;
}

void memory_close(struct memory *memory)
{
	const struct tables *tables = &memory->engine->tables;

	free(tables->control);
	free(tables->slots);
	free(tables->portsets);
	free(tables->acls);
	free(tables->flows4);
	free(tables->flows6);
	free(tables->sources);
	free(tables->sightings);
	free(tables->filters);
	free(tables->talkers);
	free(tables->books);
	free(tables->tombs);
	free(tables->splicing);
	free(tables->splices);
	free(memory->engine);
	free(memory);
}

void memory_restart(struct memory *memory)
{
	struct tables tables = memory->engine->tables;
	struct refusal refusal;

	free(memory->engine);
	connect_engine(memory, &tables);
	filters_begin(memory->engine, false);
	if (!mitigations_load(memory->engine, &refusal))
		abort();
}

const struct fnm_policy *memory_find(const struct memory *memory, const char *address)
{
	struct fnm_prefix host = {.bits = 128};
	const struct fnm_policy *best = NULL;
	unsigned int bits = 0;

	if (!parse_address(address, &host.address))
		abort();
	for (size_t i = 0; i < memory->policy_count; i++) {
		const struct fnm_prefix *target = &memory->policies[i].target;
		__u32 mask[4];
		bool fits = true;

		/* As the trie sees it, which knows nothing of families. */
		prefix_mask(target->bits, mask);
		for (int w = 0; w < 4; w++)
			fits &= !((target->address.word[w] ^ host.address.word[w]) & mask[w]);
		if (fits && (!best || target->bits >= bits)) {
			best = &memory->policies[i].policy;
			bits = target->bits;
		}
	}
	return best;
}
