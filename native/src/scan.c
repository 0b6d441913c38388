/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "scan.h"
#include "tables.h"

#define SLICE 16384 /* sets: about a millisecond */

/* A row as it was when it was read once; the data plane goes on writing. */
struct moment {
	uint32_t seen; /* now, as the tables have it */
	uint64_t ms;
};

struct scan *scan_new(enum scan_kind kind, uint64_t limit, json_t *seq)
{
	struct scan *scan = calloc(1, sizeof(*scan));

	if (!scan)
		return NULL;
	scan->kind = kind;
	scan->limit = limit;
	scan->seq = json_incref(seq);
	scan->rows = json_array();
	return scan;
}

void scan_free(struct scan *scan)
{
	if (!scan)
		return;
	json_decref(scan->seq);
	json_decref(scan->rows);
	free(scan);
}

static bool alive(const struct engine *engine, const struct moment *now, uint32_t seen)
{
	const struct fnm_control *control = engine->tables.control;
	uint32_t idle = seen & FNM_SEEN_CLOSING ? control->flow_closing : control->flow_idle;

	return fnm_age(now->seen, seen) <= idle;
}

static void found_flow(const struct engine *engine, struct scan *scan, const struct moment *now,
		       const struct fnm_address *client, const struct fnm_address *server,
		       uint32_t ports, uint32_t seen)
{
	char from[ADDRESS_TEXT], to[ADDRESS_TEXT];
	struct fnm_prefix host = {128, *server};
	uint16_t port[2];

	if (!ports || !alive(engine, now, seen))
		return;
	scan->flows++;
	if (scan->kind != SCAN_FLOWS || !(scan->any_target || prefix_covers(&scan->target, &host)))
		return;
	if (scan->total++ >= scan->limit)
		return;
	memcpy(port, &ports, sizeof(port));
	json_array_append_new(scan->rows,
			      json_pack("[s,i,s,i,I]", format_address(client, from), ntohs(port[0]),
					format_address(server, to), ntohs(port[1]),
					(json_int_t)fnm_age(now->seen, seen) * 1024 / 1000));
}

static struct fnm_address mapped(uint32_t word)
{
	return (struct fnm_address){{0, 0, htonl(0xffff), word}};
}

static void look_flow4(const struct engine *engine, struct scan *scan, const struct moment *now,
		       uint64_t index)
{
	struct fnm_flow4_set set = engine->tables.flows4[index];

	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_address client = mapped(set.way[i].source);
		struct fnm_address server = mapped(set.way[i].destination);

		found_flow(engine, scan, now, &client, &server, set.way[i].ports, set.way[i].seen);
	}
}

static void look_flow6(const struct engine *engine, struct scan *scan, const struct moment *now,
		       uint64_t index)
{
	struct fnm_flow6_set set = engine->tables.flows6[index];
	uint64_t before = scan->flows;

	for (int i = 0; i < FNM_WAYS; i++) {
		struct fnm_address client, server;

		memcpy(&client, set.way[i].source, sizeof(client));
		memcpy(&server, set.way[i].destination, sizeof(server));
		found_flow(engine, scan, now, &client, &server, set.way[i].ports, set.way[i].seen);
	}
	scan->flows6 += scan->flows - before;
}

static void look_source(const struct engine *engine, struct scan *scan, const struct moment *now,
			uint64_t index)
{
	struct fnm_source_set set = engine->tables.sources[index];

	for (int i = 0; i < 2; i++)
		scan->sources += set.way[i].seen && fnm_age(now->seen, set.way[i].seen) <=
							engine->tables.control->source_idle;
}

static void look_talker(const struct engine *engine, struct scan *scan, const struct moment *now,
			uint64_t index)
{
	struct fnm_talker_set set = engine->tables.talkers[index];
	char text[ADDRESS_TEXT];

	for (int i = 0; i < FNM_WAYS; i++) {
		const struct fnm_talker *talker = &set.way[i];
		struct fnm_prefix site = {64, talker->address};

		if (talker->generation != scan->generation || talker->blocked_until <= now->ms ||
		    scan->total++ >= scan->limit)
			continue;
		json_array_append_new(
		    scan->rows, json_pack("[s,I]",
					  talker->wide ? format_prefix(&site, text)
						       : format_address(&talker->address, text),
					  (json_int_t)(talker->blocked_until - now->ms)));
	}
}

typedef void (*look_function)(const struct engine *, struct scan *, const struct moment *,
			      uint64_t);

struct part {
	uint64_t sets;
	look_function look;
};

static void parts_of(const struct engine *engine, enum scan_kind kind, struct part part[3])
{
	const struct tables *tables = &engine->tables;

	memset(part, 0, 3 * sizeof(part[0]));
	if (kind == SCAN_BLOCKED) {
		part[0] = (struct part){tables->talker_sets, look_talker};
		return;
	}
	part[0] = (struct part){tables->flow4_sets, look_flow4};
	part[1] = (struct part){tables->flow6_sets, look_flow6};
	if (kind == SCAN_COUNT)
		part[2] = (struct part){tables->source_sets, look_source};
}

bool scan_step(const struct engine *engine, struct scan *scan)
{
	uint64_t at = scan->next, now_ms = engine_now(engine);
	struct moment now = {fnm_seen(now_ms), now_ms};
	unsigned int budget = SLICE;
	struct part part[3];

	parts_of(engine, scan->kind, part);
	for (int i = 0; i < 3; i++) {
		for (; at < part[i].sets && budget; budget--, at++, scan->next++)
			part[i].look(engine, scan, &now, at);
		if (at < part[i].sets)
			return false;
		at -= part[i].sets;
	}
	return true;
}
