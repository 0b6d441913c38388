/* SPDX-License-Identifier: Apache-2.0 */
/* Policies hold what guards a target, in the order of age, and the prefilter never lacks a bit. */
#include "address.h"
#include "log.h"
#include "mitigations.h"
#include "targets.h"
#include "testing.h"

static const char *first(const struct memory *memory, const char *address, int place)
{
	const struct fnm_policy *policy = memory_find(memory, address);

	if (!policy || !policy->watch[place])
		return "";
	return memory->engine->tables.books[policy->watch[place]].id;
}

static bool filtered(const struct memory *memory, const char *address)
{
	struct fnm_address a;
	__u32 bit;

	parse_address(address, &a);
	bit = fnm_prefilter_bit(a.word[0], a.word[1], a.word[2], a.word[3]);
	return memory->engine->tables.control->prefilter[bit >> 6] >> (bit & 63) & 1;
}

static void narrower_targets_hold_the_wider_ones(void)
{
	struct memory *memory = memory_open();

	OUTCOME(memory, WATCH("host", 1, "192.0.2.1/32"), "created");
	CHECK(filtered(memory, "192.0.2.1") && !filtered(memory, "192.0.2.77"));
	CHECK(!memory->engine->tables.control->wide);
	OUTCOME(memory, WATCH("net", 1, "192.0.2.0/24"), "created");
	CHECK(filtered(memory, "192.0.2.77") && memory->engine->tables.control->wide);
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), "host"));
	CHECK(!strcmp(first(memory, "192.0.2.1", 1), "net"));
	CHECK(!strcmp(first(memory, "192.0.2.2", 0), "net"));
	CHECK(!memory_find(memory, "192.0.3.1"));
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"host\",\"revision\":1}", "deleted");
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), "net"));
	CHECK(!strcmp(first(memory, "192.0.2.1", 1), ""));
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"net\",\"revision\":1}", "deleted");
	CHECK(!memory->policy_count && !filtered(memory, "192.0.2.1"));
	CHECK(!memory->engine->tables.control->wide);
	memory_close(memory);
}

/* A CPU would go by what it remembers. */
static void every_change_begins_an_epoch(void)
{
	static const char *const changes[] = {
	    WATCH("a", 1, "192.0.2.1/32"),
	    WATCH("b", 1, "192.0.2.0/24"),
	    PUT("a", 2, "192.0.2.1/32", "watch", "\"ports\":[1]"),
	    "{\"op\":\"delete\",\"id\":\"b\",\"revision\":1}",
	};
	struct memory *memory = memory_open();
	__u32 *epoch = &memory->engine->tables.control->epoch;

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		__u32 before = *epoch;

		json_decref(ask(memory, changes[i]));
		CHECK(*epoch > before);
	}
	memory->now_ms += 60000;
	__u32 before = *epoch;

	mitigations_tick(memory->engine);
	CHECK(!memory->engine->live && *epoch > before);
	memory_close(memory);
}

static void families_do_not_mix(void)
{
	struct memory *memory = memory_open();

	OUTCOME(memory, WATCH("six", 1, "::/0"), "created");
	CHECK(!strcmp(first(memory, "2001:db8::1", 0), "six"));
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), ""));
	OUTCOME(memory, WATCH("four", 1, "0.0.0.0/0"), "created");
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), "four"));
	CHECK(!strcmp(first(memory, "192.0.2.1", 1), ""));
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"four\",\"revision\":1}", "deleted");
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), ""));
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"six\",\"revision\":1}", "deleted");
	CHECK(!memory->policy_count);
	memory_close(memory);
}

static void a_chain_is_bounded_for_every_target_in_it(void)
{
	struct memory *memory = memory_open();

	OUTCOME(memory, WATCH("a", 1, "192.0.2.1/32"), "created");
	OUTCOME(memory, WATCH("b", 1, "192.0.2.1/32"), "created");
	OUTCOME(memory, WATCH("c", 1, "192.0.2.0/25"), "created");
	OUTCOME(memory, WATCH("d", 1, "192.0.2.0/24"), "created");
	REFUSED(memory, WATCH("e", 1, "192.0.0.0/16"), "full");
	REFUSED(memory, WATCH("e", 1, "192.0.2.1/32"), "full");
	OUTCOME(memory, PUT("e", 1, "192.0.0.0/16", "sorb", "\"pps\":1"), "created");
	OUTCOME(memory, WATCH("f", 1, "192.0.2.128/25"), "created");
	/* The one that is replaced makes room for what replaces it. */
	OUTCOME(memory, PUT("d", 2, "192.0.0.0/16", "watch", "\"ports\":[1]"), "replaced");
	OUTCOME(memory, WATCH("g", 1, "192.0.3.1/32"), "created");
	CHECK(!strcmp(first(memory, "192.0.3.1", 0), "d"));
	CHECK(!strcmp(first(memory, "192.0.3.1", 1), "g"));
	memory_close(memory);
}

static void a_restart_rebuilds_what_was_in_force(void)
{
	struct memory *memory = memory_open();
	struct fnm_prefix foreign;
	struct fnm_policy policy = {.watch = {9}};

	OUTCOME(memory, WATCH("a", 3, "192.0.2.1/32"), "created");
	OUTCOME(memory, WATCH("b", 1, "2001:db8::/32"), "created");
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"old\",\"revision\":5}", "absent");
	parse_prefix("203.0.113.1/32", &foreign);
	memory->engine->backend->policy_set(memory, &foreign, &policy);
	memory->policy_count--; /* the first policy is lost, as if it had been killed before */
	memory->policies[0] = memory->policies[1];
	memory->policies[1].target = foreign;
	memory->policies[1].policy = policy;
	memory->policy_count = 2;
	memory_restart(memory);
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), "a"));
	CHECK(!strcmp(first(memory, "2001:db8::1", 0), "b"));
	CHECK(!memory_find(memory, "203.0.113.1") && memory->policy_count == 2);
	OUTCOME(memory, WATCH("a", 3, "192.0.2.1/32"), "renewed");
	REFUSED(memory, WATCH("a", 2, "192.0.2.1/32"), "stale");
	REFUSED(memory, WATCH("old", 4, "192.0.2.1/32"), "stale");
	memory_close(memory);
}

static void a_full_map_leaves_everything_as_it_was(void)
{
	struct memory *memory = memory_open();

	memory->policy_room = 1;
	OUTCOME(memory, WATCH("a", 1, "192.0.2.1/32"), "created");
	REFUSED(memory, WATCH("b", 1, "192.0.2.2/32"), "full");
	CHECK(memory->engine->live == 1 && !memory_find(memory, "192.0.2.2"));
	CHECK(!strcmp(first(memory, "192.0.2.1", 0), "a"));
	OUTCOME(memory, WATCH("c", 1, "192.0.2.1/32"), "created");
	memory_close(memory);
}

int main(void)
{
	log_mute();
	RUN(narrower_targets_hold_the_wider_ones);
	RUN(every_change_begins_an_epoch);
	RUN(families_do_not_mix);
	RUN(a_chain_is_bounded_for_every_target_in_it);
	RUN(a_restart_rebuilds_what_was_in_force);
	RUN(a_full_map_leaves_everything_as_it_was);
	return 0;
}
