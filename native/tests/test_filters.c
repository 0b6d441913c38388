/* SPDX-License-Identifier: Apache-2.0 */
/* A filter never denies what is in a table, forgets what is not, and fits what it has to hold. */
#include "address.h"
#include "filters.h"
#include "load.h"
#include "log.h"
#include "tables.h"
#include "testing.h"

static struct open_flow flow_number(unsigned int number)
{
	struct open_flow flow = {.client_port = 1 + number % 60000, .server_port = 80};

	parse_address("192.0.2.10", &flow.server);
	flow.client = flow.server;
	flow.client.word[3] = number * 2654435761u;
	return flow;
}

static uint64_t hash_of(const struct memory *memory, unsigned int number)
{
	struct open_flow flow = flow_number(number);
	uint16_t ports[2] = {flow.client_port << 8 | flow.client_port >> 8, 80 << 8};
	uint32_t word;

	memcpy(&word, ports, sizeof(word));
	return fnm_hash_flow4(memory->engine->tables.control->seed, flow.client.word[3],
			      flow.server.word[3], word);
}

/* As the data plane asks. */
static bool may_know(const struct memory *memory, enum fnm_filter_kind kind, uint64_t hash)
{
	const struct fnm_control *control = memory->engine->tables.control;
	uint32_t now = control->filter_now[kind];
	uint32_t word = fnm_filter_word(hash, control->filter_mask[kind][now]);
	uint64_t bits = fnm_filter_bits(hash);

	return (memory->engine->tables.filters[kind * 2 + now].word[word] & bits) == bits;
}

static bool may_know_flow(const struct memory *memory, unsigned int number)
{
	return may_know(memory, FNM_FILTER_FLOWS, hash_of(memory, number));
}

static void load(struct memory *memory, unsigned int number)
{
	struct open_flow flow = flow_number(number);

	flow_load(memory->engine, &flow);
}

static void work_off(struct memory *memory)
{
	while (filters_work(memory->engine))
		;
}

/* One round from its beginning to its end; a flow comes in at every step. */
static void round_with_newcomers(struct memory *memory, unsigned int first)
{
	enum filter_phase phase;
	unsigned int steps = 0;

	memory->now_ms += FILTER_PERIOD_MS;
	do {
		filters_tick(memory->engine);
		load(memory, first + steps);
		work_off(memory);
		for (unsigned int i = 0; i <= steps; i++)
			CHECK(may_know_flow(memory, first + i));
		memory->now_ms += 500;
		phase = memory->engine->filters.phase;
		steps++;
	} while (phase != FILTER_AT_REST);
	CHECK(steps >= 3);
}

static void a_round_forgets_only_what_is_forgotten(void)
{
	struct memory *memory = memory_open();
	uint32_t before = memory->engine->tables.control->filter_now[FNM_FILTER_FLOWS];

	for (unsigned int i = 0; i < 100; i++)
		load(memory, i);
	memory->now_ms += 3700 * 1024;
	CHECK(may_know_flow(memory, 0));
	round_with_newcomers(memory, 1000);
	CHECK(memory->engine->tables.control->filter_now[FNM_FILTER_FLOWS] != before);
	CHECK(!may_know_flow(memory, 0) && !may_know_flow(memory, 99));
	round_with_newcomers(memory, 2000);
	CHECK(may_know_flow(memory, 1000) && may_know_flow(memory, 2000));
	memory_close(memory);
}

static void a_round_takes_every_table_into_account(void)
{
	struct memory *memory = memory_open();
	struct tables *tables = &memory->engine->tables;
	uint64_t sighting = 0x123456789abcdef0, source;
	struct fnm_flow6 *flow = &tables->flows6[77].way[2];
	uint32_t seen = fnm_seen(memory->now_ms + FILTER_PERIOD_MS);

	tables->sightings[5].way[3] = (struct fnm_sighting){.tag = (uint32_t)(sighting >> 32) | 1,
							    .seen = seen | FNM_SEEN_LEARNED};
	*flow = (struct fnm_flow6){{1, 2, 3, 4}, {5, 6, 7, 8}, 9, seen};
	tables->sources[1023].way[1] = (struct fnm_source){.address = {{1, 2, 3, 4}}, .seen = seen};
	source = fnm_hash_address(tables->control->seed, (__u32[]){1, 2, 3, 4});
	round_with_newcomers(memory, 0);
	CHECK(may_know(memory, FNM_FILTER_FLOWS, sighting));
	CHECK(may_know(memory, FNM_FILTER_FLOWS,
		       fnm_hash_flow6(tables->control->seed, flow->source, flow->destination, 9)));
	CHECK(may_know(memory, FNM_FILTER_SOURCES, source));
	CHECK(!may_know(memory, FNM_FILTER_SOURCES, source + (1ull << 40)));
	memory_close(memory);
}

static void a_filter_that_fills_up_grows_at_once(void)
{
	struct memory *memory = memory_open();
	struct fnm_control *control = memory->engine->tables.control;
	unsigned int steps = 0;

	/* More than one in three of the smallest filter's bits. */
	for (unsigned int i = 0; i < 10000; i++)
		filters_make_known(memory->engine, FNM_FILTER_FLOWS, hash_of(memory, i));
	for (unsigned int i = 0; i < 3000; i++)
		load(memory, 20000 + i);
	for (unsigned int i = 0; i < 3000; i++)
		memory->engine->tables.sightings[i / 4].way[i % 4] = (struct fnm_sighting){
		    .tag = i << 8 | 1, .seen = fnm_seen(memory->now_ms) | FNM_SEEN_LEARNED};
	memory->now_ms += FILTER_PAUSE_MS;
	do {
		filters_tick(memory->engine);
		work_off(memory);
		memory->now_ms += 1000;
	} while (++steps < 5 && memory->engine->filters.phase != FILTER_AT_REST);
	CHECK(steps < 5 && control->filter_now[FNM_FILTER_FLOWS] == 1);
	CHECK(control->filter_mask[FNM_FILTER_FLOWS][1] == fnm_filter_mask(5000));
	CHECK(fnm_filter_mask(5000) > fnm_filter_mask(0));
	CHECK(control->filter_mask[FNM_FILTER_SOURCES][1] == fnm_filter_mask(0));
	/* And at rest it stays at rest. */
	memory->now_ms += FILTER_PAUSE_MS;
	filters_tick(memory->engine);
	CHECK(memory->engine->filters.phase == FILTER_AT_REST);
	memory_close(memory);
}

static void a_restart_in_the_middle_keeps_what_is_known(void)
{
	struct memory *memory = memory_open();

	load(memory, 1);
	memory->now_ms += FILTER_PERIOD_MS;
	filters_tick(memory->engine);
	work_off(memory);
	CHECK(memory->engine->filters.phase == FILTER_DRAINING);
	memory_restart(memory);
	CHECK(may_know_flow(memory, 1));
	round_with_newcomers(memory, 10);
	CHECK(may_know_flow(memory, 1));
	memory_close(memory);
}

int main(void)
{
	log_mute();
	RUN(a_round_forgets_only_what_is_forgotten);
	RUN(a_round_takes_every_table_into_account);
	RUN(a_filter_that_fills_up_grows_at_once);
	RUN(a_restart_in_the_middle_keeps_what_is_known);
	return 0;
}
