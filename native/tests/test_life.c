/* SPDX-License-Identifier: Apache-2.0 */
/* Put, renew, replace, delete, expire: idempotent, in order, and without a gap. */
#include "counters.h"
#include "log.h"
#include "mitigations.h"
#include "slots.h"
#include "testing.h"

static uint16_t only_slot(const struct memory *memory)
{
	CHECK(memory->engine->live == 1);
	return memory->engine->order[0];
}

static struct fnm_slot *slot_of(const struct memory *memory)
{
	return &memory->engine->tables.slots[only_slot(memory)];
}

static void pass_time(struct memory *memory, uint64_t ms)
{
	memory->now_ms += ms;
	mitigations_tick(memory->engine);
}

static void the_same_again_changes_only_the_deadline(void)
{
	struct memory *memory = memory_open();
	uint16_t slot;

	OUTCOME(memory, PUT("a", 1, "192.0.2.1/32", "tcp", "\"mode\":\"reset\",\"ports\":[80]"),
		"created");
	slot = only_slot(memory);
	memory->counters[slot].packets[FNM_R_cookie_sent] = 5;
	slot_of(memory)->tcp.unknown.tat = 77;
	memory->now_ms += 1000;
	OUTCOME(memory, PUT("a", 2, "192.0.2.1/32", "tcp", "\"mode\":\"reset\",\"ports\":[80,80]"),
		"renewed");
	CHECK(only_slot(memory) == slot && slot_of(memory)->deadline == memory->now_ms + 60000);
	CHECK(slot_of(memory)->tcp.unknown.tat == 77);
	CHECK(memory->counters[slot].packets[FNM_R_cookie_sent] == 5);
	REFUSED(memory, PUT("a", 1, "192.0.2.1/32", "tcp", "\"mode\":\"reset\""), "stale");
	memory_close(memory);
}

static void a_replacement_keeps_age_counters_and_buckets(void)
{
	struct memory *memory = memory_open();
	struct fnm_counters sum;
	uint16_t old, new;

	OUTCOME(memory, PUT("a", 1, "192.0.2.1/32", "tcp", "\"mode\":\"reset\""), "created");
	old = only_slot(memory);
	memory->counters[old].packets[FNM_R_cookie_sent] = 5;
	slot_of(memory)->tcp.unknown.tat = 77;
	memory->now_ms += 1000;
	OUTCOME(memory, PUT("a", 2, "192.0.2.1/32", "tcp", "\"mode\":\"reset\",\"ports\":[80]"),
		"replaced");
	new = only_slot(memory);
	CHECK(new != old &&slot_of(memory)->tcp.unknown.tat == 77);
	CHECK(slot_of(memory)->tcp.grace_until == 1000000 + 60000);
	CHECK(memory->engine->tables.books[new].created_ms == 1000000);
	CHECK(!memcmp(slot_of(memory)->tcp.cookie_key,
		      memory->engine->tables.slots[old].tcp.cookie_key, 32));
	/* A packet on its way is still counted by the old slot. */
	memory->counters[old].packets[FNM_R_cookie_sent]++;
	memory->counters[new].packets[FNM_R_cookie_sent] = 2;
	CHECK(!counters_of(memory->engine, new, &sum) && sum.packets[FNM_R_cookie_sent] == 8);
	pass_time(memory, RETIRED_MS);
	CHECK(!memory->engine->retirees);
	CHECK(!counters_of(memory->engine, new, &sum) && sum.packets[FNM_R_cookie_sent] == 8);
	CHECK(!counters_of_all(memory->engine, &sum) && sum.packets[FNM_R_cookie_sent] == 8);
	memory_close(memory);
}

static void a_slot_is_free_only_after_a_second(void)
{
	struct memory *memory = memory_open();
	uint16_t slot;

	OUTCOME(memory, PUT("a", 1, "192.0.2.1/32", "tcp", "\"mode\":\"reset\""), "created");
	slot = only_slot(memory);
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"a\",\"revision\":1}", "deleted");
	CHECK(memory->engine->tables.books[slot].state == BOOK_RETIRED);
	CHECK(!memory->engine->tables.slots[slot].deadline);
	pass_time(memory, RETIRED_MS - 1);
	CHECK(memory->engine->tables.books[slot].state == BOOK_RETIRED);
	pass_time(memory, 1);
	CHECK(memory->engine->tables.books[slot].state == BOOK_FREE);
	CHECK(!memory->engine->tables.slots[slot].tcp.cookie_key[0][0]);
	memory_close(memory);
}

static void a_deadline_ends_it_once_and_for_all(void)
{
	struct memory *memory = memory_open();
	struct fnm_counters sum;

	OUTCOME(memory, WATCH("a", 1, "192.0.2.1/32"), "created");
	memory->counters[only_slot(memory)].packets[FNM_R_watched] = 3;
	pass_time(memory, 60000);
	CHECK(!memory->engine->live && !memory->policy_count);
	pass_time(memory, RETIRED_MS);
	CHECK(!counters_of_all(memory->engine, &sum) && sum.packets[FNM_R_watched] == 3);
	/* An old revision may come back after the end, but not after a delete. */
	OUTCOME(memory, WATCH("a", 1, "192.0.2.1/32"), "created");
	CHECK(!memory->counters[only_slot(memory)].packets[FNM_R_watched]);
	memory->now_ms += 60000;
	OUTCOME(memory, WATCH("a", 1, "192.0.2.1/32"), "created");
	memory_close(memory);
}

static void a_delete_is_remembered_for_ten_minutes(void)
{
	struct memory *memory = memory_open();

	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"a\",\"revision\":5}", "absent");
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"a\",\"revision\":3}", "absent");
	REFUSED(memory, WATCH("a", 4, "192.0.2.1/32"), "stale");
	OUTCOME(memory, WATCH("a", 5, "192.0.2.1/32"), "created");
	REFUSED(memory, "{\"op\":\"delete\",\"id\":\"a\",\"revision\":4}", "stale");
	pass_time(memory, BOOK_TOMB_MS);
	OUTCOME(memory, WATCH("a", 4, "192.0.2.1/32"), "created");
	memory_close(memory);
}

static void a_check_changes_nothing(void)
{
	struct memory *memory = memory_open();
	static const char request[] =
	    "{\"op\":\"put\",\"id\":\"a\",\"revision\":1,\"target\":\"192.0.2.1/32\","
	    "\"expires_ms\":1000,\"kind\":\"watch\",\"watch\":{\"ports\":[1]},\"check\":true}";

	OUTCOME(memory, request, "would_create");
	CHECK(!memory->engine->live && !memory->policy_count && !memory->engine->portset_uses[1]);
	OUTCOME(memory, WATCH("a", 1, "192.0.2.1/32"), "created");
	OUTCOME(memory, request, "would_replace");
	CHECK(slot_of(memory)->deadline == memory->now_ms + 60000);
	memory_close(memory);
}

#define HEX16 "000102030405060708090a0b0c0d0e0f"
#define ISN_SYNC                                                                                   \
	"\"mode\":\"isn-sync\",\"profile\":{\"mss4\":1460,\"window\":65160,\"wscale\":7,"          \
	"\"ttl\":64,\"sack\":true,\"timestamps\":true,\"ecn\":false}"
#define KEYS                                                                                       \
	",\"keys\":{\"cookie\":\"" HEX16 HEX16 "\",\"timestamp\":\"" HEX16                         \
	"\",\"timestamp_scheme\":\"host\"}"

static void keys_and_clock_stay_until_new_ones_come(void)
{
	struct memory *memory = memory_open();
	uint16_t slot;

	REFUSED(memory, PUT("a", 1, "192.0.2.1/32", "tcp", ISN_SYNC), "bad_request");
	REFUSED(memory, PUT("a", 1, "192.0.2.1/32", "tcp", ISN_SYNC KEYS), "bad_request");
	OUTCOME(memory,
		PUT("a", 1, "192.0.2.1/32", "tcp",
		    ISN_SYNC KEYS ",\"clock\":{\"monotonic_ms\":999000,\"cookie_ms\":5000000,"
				  "\"timestamp_ms\":4711}"),
		"created");
	slot = only_slot(memory);
	/* A second ago the engine clock stood at 999000. */
	CHECK(slot_of(memory)->tcp.cookie_offset == 5000000 - 999000 - 2000);
	CHECK(slot_of(memory)->tcp.ts_offset == (uint64_t)4711 - 999000 - 64);
	CHECK(slot_of(memory)->tcp.cookie_key[1][1] == 0x0f0e0d0c0b0a0908);
	CHECK(slot_of(memory)->tcp.ts_key[0] == 0x0706050403020100);
	OUTCOME(memory, PUT("a", 2, "192.0.2.1/32", "tcp", ISN_SYNC), "renewed");
	OUTCOME(memory,
		PUT("a", 3, "192.0.2.1/32", "tcp",
		    ISN_SYNC ",\"clock\":{\"monotonic_ms\":1000000,\"cookie_ms\":5000900,"
			     "\"timestamp_ms\":5711}"),
		"renewed");
	CHECK(only_slot(memory) == slot);
	CHECK(slot_of(memory)->tcp.cookie_offset == 5000900 - 1000000 - 2000);
	OUTCOME(memory, PUT("a", 4, "192.0.2.1/32", "tcp", ISN_SYNC ",\"ports\":[443]"),
		"replaced");
	CHECK(slot_of(memory)->tcp.cookie_key[1][1] == 0x0f0e0d0c0b0a0908);
	REFUSED(memory,
		PUT("a", 5, "192.0.2.1/32", "tcp",
		    ISN_SYNC ",\"clock\":{\"monotonic_ms\":1002000,\"cookie_ms\":1,"
			     "\"timestamp_ms\":1}"),
		"bad_request");
	memory_close(memory);
}

static void lists_of_ports_are_shared_and_freed(void)
{
	struct memory *memory = memory_open();

	OUTCOME(memory, PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":[80,443]"), "created");
	OUTCOME(memory, PUT("b", 1, "192.0.2.2/32", "watch", "\"ports\":[443,[80,80]]"), "created");
	OUTCOME(memory, PUT("c", 1, "192.0.2.3/32", "watch", "\"ports\":[]"), "created");
	CHECK(memory->engine->portset_uses[1] == 2 && !memory->engine->portset_uses[2]);
	CHECK(memory->engine->tables.portsets[1].bit[1] == 1ull << 16);
	CHECK(memory->engine->tables.portsets[1].bit[6] == 1ull << 59);
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"a\",\"revision\":1}", "deleted");
	OUTCOME(memory, "{\"op\":\"delete\",\"id\":\"b\",\"revision\":1}", "deleted");
	CHECK(memory->engine->portset_uses[1] == 2);
	pass_time(memory, RETIRED_MS);
	CHECK(!memory->engine->portset_uses[1]);
	memory_close(memory);
}

static void every_slot_can_be_used_and_no_more(void)
{
	struct memory *memory = memory_open();
	char request[256];

	for (int i = 1; i < FNM_SLOTS; i++) {
		snprintf(request, sizeof(request),
			 "{\"op\":\"put\",\"id\":\"m-%d\",\"revision\":1,\"target\":"
			 "\"10.0.%d.%d/32\",\"expires_ms\":60000,\"kind\":\"watch\",\"watch\":{}}",
			 i, i >> 8, i & 255);
		OUTCOME(memory, request, "created");
	}
	REFUSED(memory, WATCH("more", 1, "192.0.2.1/32"), "full");
	/* The list comes in parts that fit into a line each. */
	json_t *answer = ask(memory, "{\"op\":\"list\"}");
	size_t seen = json_array_size(json_object_get(answer, "mitigations"));

	while (json_object_get(answer, "more_after")) {
		CHECK(json_dumpb(answer, NULL, 0, JSON_COMPACT) < LINE_MOST);
		snprintf(request, sizeof(request), "{\"op\":\"list\",\"after\":\"%s\"}",
			 json_string_value(json_object_get(answer, "more_after")));
		json_decref(answer);
		answer = ask(memory, request);
		seen += json_array_size(json_object_get(answer, "mitigations"));
	}
	json_decref(answer);
	CHECK(seen == FNM_SLOTS - 1);
	memory_close(memory);
}

int main(void)
{
	log_mute();
	RUN(the_same_again_changes_only_the_deadline);
	RUN(a_replacement_keeps_age_counters_and_buckets);
	RUN(a_slot_is_free_only_after_a_second);
	RUN(a_deadline_ends_it_once_and_for_all);
	RUN(a_delete_is_remembered_for_ten_minutes);
	RUN(a_check_changes_nothing);
	RUN(keys_and_clock_stay_until_new_ones_come);
	RUN(lists_of_ports_are_shared_and_freed);
	RUN(every_slot_can_be_used_and_no_more);
	return 0;
}
