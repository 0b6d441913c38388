/* SPDX-License-Identifier: Apache-2.0 */
/* Which servers are looked at for spliced flows, and for how long; who is asked again, and when. */
#include "address.h"
#include "filters.h"
#include "log.h"
#include "splicing.h"
#include "tables.h"
#include "testing.h"

#define SPLICE(id, revision, target)                                                               \
	PUT(id, revision, target, "tcp", "\"mode\":\"splice\",\"grace\":{\"for_ms\":0}")

static bool translated(const struct memory *memory, const char *server)
{
	const struct tables *tables = &memory->engine->tables;
	struct fnm_address address;
	uint32_t bit;

	parse_address(server, &address);
	bit = fnm_prefilter_bit(address.word[0], address.word[1], address.word[2], address.word[3]);
	return tables->control->splicing &&
	       tables->splicing->translated[bit >> 6] >> (bit & 63) & 1;
}

static void pass(struct memory *memory, uint64_t ms)
{
	memory->now_ms += ms;
	mitigations_tick(memory->engine);
	splicing_tick(memory->engine);
}

static struct fnm_splice *enter(struct memory *memory, const char *server, uint32_t state)
{
	struct fnm_splice_set *set = &memory->engine->tables.splices[7];
	struct fnm_splice *row = &set->way[1];
	struct fnm_address address;

	parse_address(server, &address);
	memset(row, 0, sizeof(*row));
	memcpy(&row->server, &address, sizeof(row->server));
	memcpy(&row->client, &address, sizeof(row->client));
	row->ports = 0x50000400;
	row->seen = fnm_seen(memory->now_ms);
	row->state = state;
	row->opened_ms = row->asked_ms = (uint32_t)memory->now_ms | 1;
	set->tag[1] = 0xabcdef01;
	return row;
}

static void servers_are_looked_at_while_a_mitigation_lasts(void)
{
	struct memory *memory = memory_open();

	CHECK(!translated(memory, "192.0.2.10"));
	OUTCOME(memory, SPLICE("a", 1, "192.0.2.10/32"), "created");
	CHECK(translated(memory, "192.0.2.10") && !translated(memory, "192.0.2.11"));
	OUTCOME(memory, WATCH("w", 1, "2001:db8::/64"), "created");
	CHECK(translated(memory, "2001:db8::5") && translated(memory, "192.0.2.11"));
	pass(memory, 59000);
	CHECK(translated(memory, "192.0.2.10"));
	pass(memory, 1000);
	pass(memory, 1000);
	CHECK(!memory->engine->tables.control->splicing);
	memory_close(memory);
}

static void a_flow_outlives_its_mitigation(void)
{
	struct memory *memory = memory_open();
	struct fnm_splice *row;

	OUTCOME(memory, SPLICE("a", 1, "192.0.2.10/32"), "created");
	row = enter(memory, "192.0.2.10", FNM_SPLICE_OPEN);
	pass(memory, 1000);
	CHECK(memory->engine->splices.open == 1);
	pass(memory, 60000);
	pass(memory, 1000);
	CHECK(!memory->engine->live && translated(memory, "192.0.2.10"));
	memory_restart(memory);
	pass(memory, 1000);
	CHECK(translated(memory, "192.0.2.10"));
	row->ended = FNM_ENDED_CLIENT;
	pass(memory, 1000);
	CHECK(memory->engine->splices.open == 1);
	row->ended |= FNM_ENDED_SERVER;
	row->seen = fnm_seen(memory->now_ms);
	pass(memory, 1000);
	CHECK(memory->engine->splices.closing == 1 && translated(memory, "192.0.2.10"));
	pass(memory, 65000);
	CHECK(!translated(memory, "192.0.2.10") && !memory->engine->tables.control->splicing);
	memory_close(memory);
}

/* The look of a second ago does not know what was entered since. */
static void a_mitigation_counts_a_look_longer(void)
{
	struct memory *memory = memory_open();

	OUTCOME(memory, SPLICE("a", 1, "192.0.2.10/32"), "created");
	pass(memory, 1000);
	CHECK(says(ask(memory, "{\"op\":\"delete\",\"id\":\"a\",\"revision\":2}"), "outcome",
		   "deleted"));
	pass(memory, 1000);
	CHECK(translated(memory, "192.0.2.10"));
	pass(memory, 1000);
	CHECK(!translated(memory, "192.0.2.10"));
	memory_close(memory);
}

static void a_filter_that_is_made_anew_knows_spliced_flows(void)
{
	struct memory *memory = memory_open();
	const struct fnm_control *control = memory->engine->tables.control;
	uint64_t hash = 0xabcdef01ull << 32, bits = fnm_filter_bits(hash);
	uint32_t now, word;

	enter(memory, "192.0.2.10", FNM_SPLICE_OPEN);
	memory->now_ms += FILTER_PERIOD_MS;
	filters_tick(memory->engine);
	while (filters_work(memory->engine))
		;
	memory->now_ms += FILTER_DRAIN_MS;
	filters_tick(memory->engine);
	while (filters_work(memory->engine))
		;
	now = control->filter_now[FNM_FILTER_FLOWS];
	word = fnm_filter_word(hash, control->filter_mask[FNM_FILTER_FLOWS][now]);
	CHECK((memory->engine->tables.filters[now].word[word] & bits) == bits);
	memory_close(memory);
}

static void a_server_is_asked_again_with_longer_pauses(void)
{
	struct memory *memory = memory_open();
	struct fnm_splice *row;
	unsigned int before = 0, second, asked[4] = {0}, count = 0;

	OUTCOME(memory, SPLICE("a", 1, "192.0.2.10/32"), "created");
	row = enter(memory, "192.0.2.10", FNM_SPLICE_ASKED);
	for (second = 1; second <= 19; second++) {
		pass(memory, 1000);
		if (memory->asked_again == before)
			continue;
		before = memory->asked_again;
		CHECK(count < 4);
		asked[count++] = second;
		row->asked_ms = (uint32_t)memory->now_ms | 1; /* as the data plane does */
	}
	CHECK(count == 4 && asked[0] == 1 && asked[1] == 2 && asked[2] == 4 && asked[3] == 8);
	row->ended = FNM_ENDED_RESET;
	row->asked_ms = row->opened_ms;
	pass(memory, 1000);
	CHECK(memory->asked_again == 4);
	memory_close(memory);
}

static void the_mode_is_refused_where_it_cannot_be(void)
{
	struct memory *memory = memory_open();

	memory->elsewhere = true;
	REFUSED(memory, SPLICE("a", 1, "192.0.2.10/32"), "unsupported");
	memory->elsewhere = false;
	OUTCOME(memory, SPLICE("a", 1, "192.0.2.10/32"), "created");
	memory->elsewhere = true;
	/* What is in force is renewed: the data plane does what can be done. */
	OUTCOME(memory, SPLICE("a", 1, "192.0.2.10/32"), "renewed");
	memory->elsewhere = false;
	memory->engine->facts.splice = false;
	REFUSED(memory, SPLICE("b", 1, "192.0.2.11/32"), "unsupported");
	REFUSED(memory, PUT("c", 1, "192.0.2.12/32", "tcp", "\"mode\":\"spliced\""), "bad_request");
	REFUSED(memory,
		PUT("c", 1, "192.0.2.12/32", "tcp",
		    "\"mode\":\"splice\",\"clock\":{\"monotonic_ms\":1}"),
		"bad_request");
	CHECK(!translated(memory, "192.0.2.11"));
	memory_close(memory);
}

int main(void)
{
	log_mute();
	RUN(servers_are_looked_at_while_a_mitigation_lasts);
	RUN(a_flow_outlives_its_mitigation);
	RUN(a_mitigation_counts_a_look_longer);
	RUN(a_filter_that_is_made_anew_knows_spliced_flows);
	RUN(a_server_is_asked_again_with_longer_pauses);
	RUN(the_mode_is_refused_where_it_cannot_be);
	return 0;
}
