/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <string.h>

#include "address.h"
#include "filters.h"
#include "load.h"
#include "tables.h"

#define LIVE_WORTH 0x40000000u

struct chosen {
	uint32_t worth;
	void *way;
};

static uint32_t ports_of(const struct open_flow *flow)
{
	uint16_t ports[2] = {htons(flow->client_port), htons(flow->server_port)};
	uint32_t word;

	memcpy(&word, ports, sizeof(word));
	return word;
}

/* How willingly a way is given up: empty first, then forgotten, then the longest unseen. */
static void consider(const struct engine *engine, struct chosen *best, void *way, uint32_t ports,
		     uint32_t seen, uint32_t now)
{
	const struct fnm_control *control = engine->tables.control;
	uint32_t idle = seen & FNM_SEEN_CLOSING ? control->flow_closing : control->flow_idle;
	uint32_t age = fnm_age(now, seen);
	uint32_t worth = !ports ? 1 : age > idle ? 2 : LIVE_WORTH - age;

	if (!best->way || worth < best->worth)
		*best = (struct chosen){worth, way};
}

static bool load4(struct engine *engine, const struct open_flow *flow, uint32_t now)
{
	uint32_t source = flow->client.word[3], destination = flow->server.word[3];
	uint32_t ports = ports_of(flow), mask = engine->tables.flow4_sets - 1;
	uint64_t hash = fnm_hash_flow4(engine->tables.control->seed, source, destination, ports);
	struct fnm_flow4_set *sets[2] = {&engine->tables.flows4[fnm_set_a(hash, mask)],
					 &engine->tables.flows4[fnm_set_b(hash, mask)]};
	struct chosen best = {0};
	struct fnm_flow4 *row;

	for (int i = 0; i < 2 * FNM_WAYS; i++) {
		row = &sets[i / FNM_WAYS]->way[i % FNM_WAYS];
		if (row->ports == ports && row->source == source &&
		    row->destination == destination) {
			row->seen = now;
			/* A row that had been forgotten may be in no filter any more. */
			filters_make_known(engine, FNM_FILTER_FLOWS, hash);
			return false;
		}
		consider(engine, &best, row, row->ports, row->seen, now);
	}
	row = best.way;
	/* Without ports a row matches nothing while it is half written. */
	__atomic_store_n(&row->ports, 0, __ATOMIC_SEQ_CST);
	row->source = source;
	row->destination = destination;
	row->seen = now;
	__atomic_store_n(&row->ports, ports, __ATOMIC_RELEASE);
	filters_make_known(engine, FNM_FILTER_FLOWS, hash);
	return best.worth > 2;
}

static bool load6(struct engine *engine, const struct open_flow *flow, uint32_t now)
{
	const uint32_t *source = flow->client.word, *destination = flow->server.word;
	uint32_t ports = ports_of(flow), mask = engine->tables.flow6_sets - 1;
	uint64_t hash = fnm_hash_flow6(engine->tables.control->seed, source, destination, ports);
	struct fnm_flow6_set *sets[2] = {&engine->tables.flows6[fnm_set_a(hash, mask)],
					 &engine->tables.flows6[fnm_set_b(hash, mask)]};
	struct chosen best = {0};
	struct fnm_flow6 *row;

	for (int i = 0; i < 2 * FNM_WAYS; i++) {
		row = &sets[i / FNM_WAYS]->way[i % FNM_WAYS];
		if (row->ports == ports && !memcmp(row->source, source, sizeof(row->source)) &&
		    !memcmp(row->destination, destination, sizeof(row->destination))) {
			row->seen = now;
			/* A row that had been forgotten may be in no filter any more. */
			filters_make_known(engine, FNM_FILTER_FLOWS, hash);
			return false;
		}
		consider(engine, &best, row, row->ports, row->seen, now);
	}
	row = best.way;
	__atomic_store_n(&row->ports, 0, __ATOMIC_SEQ_CST);
	memcpy(row->source, source, sizeof(row->source));
	memcpy(row->destination, destination, sizeof(row->destination));
	row->seen = now;
	__atomic_store_n(&row->ports, ports, __ATOMIC_RELEASE);
	filters_make_known(engine, FNM_FILTER_FLOWS, hash);
	return best.worth > 2;
}

bool flow_load(struct engine *engine, const struct open_flow *flow)
{
	uint32_t now = fnm_seen(engine_now(engine));

	return is_ipv4(&flow->client) ? load4(engine, flow, now) : load6(engine, flow, now);
}
