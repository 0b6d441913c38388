/* SPDX-License-Identifier: Apache-2.0 */
/* Rates, buckets, the rules of an acl, and the flow tables. */
#include <time.h>

#include "acls.h"
#include "address.h"
#include "counters.h"
#include "load.h"
#include "log.h"
#include "mitigations.h"
#include "portsets.h"
#include "rate.h"
#include "testing.h"

static void rates_are_of_a_second_whatever_the_window(void)
{
	struct memory *memory = memory_open();
	struct rates rates;
	uint64_t window;
	uint16_t slot;

	OUTCOME(memory, PUT("a", 1, "192.0.2.1/32", "tcp", "\"mode\":\"reset\""), "created");
	slot = memory->engine->order[0];
	memory->counters[slot].packets[FNM_R_cookie_sent] = 100;
	memory->now_ms += 400;
	rates_tick(memory->engine);
	rates_of(memory->engine, slot, &rates, &window);
	CHECK(!window && !rates.all);
	memory->now_ms += 1600;
	memory->counters[slot].packets[FNM_R_cookie_sent] = 1000;
	memory->counters[slot].packets[FNM_R_cookie_bad] = 500;
	memory->counters[slot].packets[FNM_R_known_flow] = 200;
	memory->counters[slot].bytes_passed = 1000;
	memory->counters[slot].bytes_dropped = 3000;
	rates_tick(memory->engine);
	rates_of(memory->engine, slot, &rates, &window);
	CHECK(window == 2000 && rates.cookie_sent == 500 && rates.syn == 500);
	CHECK(rates.answered == 500 && rates.dropped == 250 && rates.passed == 100);
	CHECK(rates.all == 850 && rates.bits == 16000);
	memory->now_ms += 1000;
	rates_tick(memory->engine);
	rates_of(memory->engine, slot, &rates, &window);
	CHECK(window == 1000 && !rates.all && !rates.bits);
	memory_close(memory);
}

static void rates_go_on_over_a_replacement(void)
{
	struct memory *memory = memory_open();
	struct rates rates;
	uint64_t window;

	OUTCOME(memory, PUT("a", 1, "192.0.2.1/32", "tcp", "\"mode\":\"reset\""), "created");
	memory->counters[memory->engine->order[0]].packets[FNM_R_cookie_sent] = 1000;
	memory->now_ms += 1000;
	rates_tick(memory->engine);
	OUTCOME(memory, PUT("a", 2, "192.0.2.1/32", "tcp", "\"mode\":\"reset\",\"ports\":[1]"),
		"replaced");
	rates_of(memory->engine, memory->engine->order[0], &rates, &window);
	CHECK(rates.cookie_sent == 1000);
	memory->counters[memory->engine->order[0]].packets[FNM_R_cookie_sent] = 300;
	memory->now_ms += 1000;
	rates_tick(memory->engine);
	rates_of(memory->engine, memory->engine->order[0], &rates, &window);
	CHECK(rates.cookie_sent == 300);
	memory_close(memory);
}

/* The data plane's own arithmetic: what a bucket lets pass in so many seconds. */
static uint64_t passed(struct fnm_rate rate, uint64_t seconds, uint64_t step_ns, uint64_t offered)
{
	uint64_t count = 0;

	for (uint64_t now = 0; now < seconds * 1000000000; now += step_ns)
		for (uint64_t i = 0; i < offered; i++) {
			uint64_t next = (rate.tat > now ? rate.tat : now) + rate.interval;

			if (next - now > rate.burst)
				break;
			rate.tat = next;
			count++;
		}
	return count;
}

static void a_bucket_passes_its_rate(void)
{
	static const uint64_t rates[] = {1, 7, 100, 1000, 20000, 1000000};

	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		uint64_t pps = rates[i], most = pps * 10 + pps / 10 + 2;
		uint64_t count =
		    passed(rate_of_packets(pps, RATE_SHORT_BURST), 10, 10000000, pps / 50 + 2);

		CHECK(count >= pps * 10 - pps / 10 - 1 && count <= most);
	}
	CHECK(!passed(rate_of_packets(0, RATE_SHORT_BURST), 10, 10000000, 5));
	CHECK(rate_of_packets(RATE_PPS_MOST, 0).interval == 100);
	/* Bits: a frame of 1500 bytes always passes, and as many as the rate holds. */
	CHECK(rate_interval_of_bits(8000000) == 1000 << 10);
	CHECK(rate_interval_of_bits(RATE_BPS_MOST) > 0);
	CHECK(rate_interval_of_bits(1000) * 1500 >> 10 <= rate_burst_of_bits(1000));
}

static void read_acl(const char *target, const char *body, struct fnm_acl *acl, bool *good,
		     struct refusal *refusal)
{
	struct place place = {
	    .object = json_loads(body, 0, NULL), .name = "acl.", .refusal = refusal};
	struct fnm_prefix prefix;

	CHECK(place.object && parse_prefix(target, &prefix));
	*good = acl_read(&place, &prefix, acl);
	json_decref(place.object);
}

static void lists_in_a_rule_are_multiplied_out(void)
{
	static struct fnm_acl acl;
	struct refusal refusal;
	bool good;

	read_acl("192.0.2.0/24",
		 "{\"rules\":[{\"action\":\"limit\",\"pps\":10,\"protocol\":17,"
		 "\"sources\":[\"198.51.100.0/24\",\"203.0.113.7/32\"],\"source_ports\":[53,[1,9]],"
		 "\"destination_ports\":[80,81,82]},{\"action\":\"drop\",\"fragments\":false}]}",
		 &acl, &good, &refusal);
	CHECK(good && acl.rules == 13);
	for (int i = 0; i < 12; i++) {
		CHECK(acl.rule[i].action == FNM_ACL_LIMIT && !acl.rule[i].limit);
		CHECK(acl.rule[i].match ==
		      (FNM_M_SOURCE | FNM_M_PROTOCOL | FNM_M_SPORT | FNM_M_DPORT));
	}
	CHECK(acl.rule[0].sport[0] == 53 && acl.rule[0].sport[1] == 53);
	CHECK(acl.rule[0].dport[0] == 80 && acl.rule[2].dport[1] == 82);
	CHECK(acl.rule[3].sport[0] == 1 && acl.rule[3].sport[1] == 9);
	CHECK(acl.rule[6].source_mask[3] == 0xffffffff && acl.rule[6].source_mask[0] == 0xffffffff);
	CHECK(acl.rule[0].source_mask[3] == 0x00ffffff);
	CHECK(acl.rule[12].action == FNM_ACL_DROP && acl.rule[12].match == FNM_M_NOT_FRAGMENT);
	CHECK(acl.limit[0].interval == 100000000);
}

static void too_many_rules_are_told(void)
{
	static struct fnm_acl acl;
	struct refusal refusal;
	bool good;

	read_acl("192.0.2.0/24",
		 "{\"rules\":[{\"action\":\"drop\","
		 "\"source_ports\":[1,2,3,4,5,6,7,8,9,10,11,12],"
		 "\"destination_ports\":[1,2,3,4,5,6,7,8,9,10,11]}]}",
		 &acl, &good, &refusal);
	CHECK(!good && strstr(refusal.message, "128") && refusal.todo);
}

static void loaded_flows_are_found_and_none_twice(void)
{
	struct memory *memory = memory_open();
	json_t *answer;

	for (int i = 0; i < 2; i++) {
		answer =
		    ask(memory,
			"{\"op\":\"load\",\"flows\":[[\"198.51.100.7\",40000,\"192.0.2.10\",80],"
			"[\"2001:db8:1::7\",40000,\"2001:db8:2::10\",443]]}");
		CHECK(json_integer_value(json_object_get(answer, "loaded")) == 2);
		json_decref(answer);
	}
	answer = ask(memory, "{\"op\":\"flows\"}");
	CHECK(json_integer_value(json_object_get(answer, "total")) == 2);
	json_decref(answer);
	memory->now_ms += 10240;
	answer = ask(memory, "{\"op\":\"flows\",\"target\":\"2001:db8:2::/48\",\"limit\":5}");
	json_t *row = json_array_get(json_object_get(answer, "flows"), 0);

	CHECK(json_integer_value(json_object_get(answer, "total")) == 1);
	CHECK(!strcmp(json_string_value(json_array_get(row, 0)), "2001:db8:1::7"));
	CHECK(json_integer_value(json_array_get(row, 3)) == 443);
	CHECK(json_integer_value(json_array_get(row, 4)) >= 9);
	json_decref(answer);
	memory->now_ms += 3700000;
	answer = ask(memory, "{\"op\":\"flows\"}");
	CHECK(!json_integer_value(json_object_get(answer, "total")));
	json_decref(answer);
	memory_close(memory);
}

static void a_full_table_gives_up_the_longest_unseen(void)
{
	struct memory *memory = memory_open();
	struct open_flow flow = {.client_port = 1, .server_port = 80};
	unsigned int evicted = 0;

	parse_address("192.0.2.10", &flow.server);
	for (unsigned int i = 0; i < 8192; i++) {
		flow.client = flow.server;
		flow.client.word[3] = i;
		flow.client_port = 1 + i % 60000;
		evicted += flow_load(memory->engine, &flow);
		memory->now_ms += 2;
	}
	/* 4096 rows: at least as many had to go, and hardly more. */
	CHECK(evicted >= 4096 && evicted < 5000);
	memory_close(memory);
}

/* The longest line that there may be holds so many. */
static void many_ranges_of_ports_take_no_time(void)
{
	static struct ports ports;
	struct {
		unsigned int low, high;
	} edges[] = {{0, 0}, {63, 64}, {65, 190}, {65535, 65535}};
	json_t *list = json_array();
	clock_t begin;

	for (int i = 0; i < 87000; i++)
		json_array_append_new(list, json_pack("[i,i]", 0, 65535));
	begin = clock();
	CHECK(ports_read(list, &ports) && !ports.all);
	CHECK(clock() - begin < 2 * CLOCKS_PER_SEC);
	for (int i = 0; i < 1024; i++)
		CHECK(ports.set.bit[i] == ~0ull);
	json_decref(list);
	list = json_array();
	for (int i = 0; i < 4; i++)
		json_array_append_new(list, json_pack("[i,i]", edges[i].low, edges[i].high));
	CHECK(ports_read(list, &ports));
	for (unsigned int port = 0; port <= 65535; port++) {
		bool wanted = false;

		for (int i = 0; i < 4; i++)
			wanted |= port >= edges[i].low && port <= edges[i].high;
		CHECK((ports.set.bit[port >> 6] >> (port & 63) & 1) == wanted);
	}
	json_decref(list);
}

int main(void)
{
	log_mute();
	RUN(rates_are_of_a_second_whatever_the_window);
	RUN(rates_go_on_over_a_replacement);
	RUN(a_bucket_passes_its_rate);
	RUN(lists_in_a_rule_are_multiplied_out);
	RUN(too_many_rules_are_told);
	RUN(loaded_flows_are_found_and_none_twice);
	RUN(a_full_table_gives_up_the_longest_unseen);
	RUN(many_ranges_of_ports_take_no_time);
	return 0;
}
