/* SPDX-License-Identifier: Apache-2.0 */
/* Every request is read strictly, and what is refused changes nothing. */
#include "log.h"
#include "testing.h"

#define TCP(body) PUT("a", 1, "192.0.2.1/32", "tcp", body)
#define ACL(body) PUT("a", 1, "192.0.2.1/32", "acl", "\"rules\":[{" body "}]")

static const char *const bad[] = {
    "",
    "null",
    "[]",
    "{",
    "{\"op\":\"list\"}x",
    "{\"op\":\"list\",\"op\":\"list\"}",
    "{\"op\":1}",
    "{\"op\":\"LIST\"}",
    "{}",
    "{\"op\":\"list\",\"seq\":\"1\"}",
    "{\"op\":\"list\",\"more\":1}",
    "{\"op\":\"\\ud800\"}",
    "{\"op\":\"put\"}",
    "{\"op\":\"delete\",\"id\":\"a\"}",
    "{\"op\":\"delete\",\"id\":\"a\",\"revision\":0}",
    "{\"op\":\"delete\",\"id\":\"a\",\"revision\":1.0}",
    "{\"op\":\"delete\",\"id\":\"a\",\"revision\":true}",
    "{\"op\":\"delete\",\"id\":\"a\",\"revision\":99999999999999999999}",
    "{\"op\":\"delete\",\"id\":\"\",\"revision\":1}",
    "{\"op\":\"delete\",\"id\":\"a b\",\"revision\":1}",
    "{\"op\":\"delete\",\"id\":\"0123456789012345678901234567890123456789012345678901234567890"
    "1234\",\"revision\":1}",
    WATCH("a", 1, "192.0.2.1"),
    WATCH("a", 1, "192.0.2.1/24"),
    WATCH("a", 1, "192.0.2.0/33"),
    WATCH("a", 1, "192.0.2.0/024"),
    WATCH("a", 1, "192.0.2.0/-1"),
    WATCH("a", 1, "192.0.2/24"),
    WATCH("a", 1, "::ffff:192.0.2.1/128"),
    WATCH("a", 1, "2001:db8::1/64"),
    WATCH("a", 1, "2001:db8::/129"),
    WATCH("a", 1, "/0"),
    WATCH("a", -1, "192.0.2.1/32"),
    PUT("a", 1, "192.0.2.1/32", "splice", ""),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"pps\":1"),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":80"),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":[65536]"),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":[-1]"),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":[[2,1]]"),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":[[1,2,3]]"),
    PUT("a", 1, "192.0.2.1/32", "watch", "\"ports\":[\"80\"]"),
    PUT("a", 1, "192.0.2.1/32", "sorb", ""),
    PUT("a", 1, "192.0.2.1/32", "sorb", "\"pps\":0"),
    PUT("a", 1, "192.0.2.1/32", "sorb", "\"pps\":10000001"),
    PUT("a", 1, "192.0.2.1/32", "sorb", "\"pps\":1,\"block_ms\":0"),
    PUT("a", 1, "192.0.2.1/32", "sorb", "\"bps\":7"),
    TCP(""),
    TCP("\"mode\":\"spliced\""),
    TCP("\"mode\":\"reset\",\"unknown_pps\":-1"),
    TCP("\"mode\":\"reset\",\"grace\":{\"for\":1}"),
    TCP("\"mode\":\"reset\",\"grace\":[]"),
    TCP("\"mode\":\"reset\",\"clock\":{}"),
    TCP("\"mode\":\"reset\",\"keys\":{}"),
    TCP("\"mode\":\"isn-sync\""),
    ACL(""),
    ACL("\"action\":\"reject\""),
    ACL("\"action\":\"drop\",\"pps\":1"),
    ACL("\"action\":\"limit\""),
    ACL("\"action\":\"drop\",\"protocol\":256"),
    ACL("\"action\":\"drop\",\"sources\":[\"2001:db8::/32\"]"),
    ACL("\"action\":\"drop\",\"sources\":[\"198.51.100.1/24\"]"),
    ACL("\"action\":\"drop\",\"length\":[1]"),
    ACL("\"action\":\"drop\",\"length\":[1,65536]"),
    ACL("\"action\":\"drop\",\"flags\":{\"mask\":2,\"value\":3}"),
    ACL("\"action\":\"drop\",\"protocol\":17,\"flags\":{\"mask\":2,\"value\":2}"),
    ACL("\"action\":\"drop\",\"protocol\":6,\"icmp_type\":[8,8]"),
    ACL("\"action\":\"drop\",\"protocol\":1,\"source_ports\":[53]"),
    PUT("a", 1, "192.0.2.1/32", "acl", "\"rules\":[]"),
    PUT("a", 1, "192.0.2.1/32", "acl", "\"rules\":[1]"),
    "{\"op\":\"put\",\"id\":\"a\",\"revision\":1,\"target\":\"192.0.2.1/32\",\"expires_ms\":1,"
    "\"kind\":\"watch\",\"watch\":{},\"sorb\":{\"pps\":1}}",
    "{\"op\":\"put\",\"id\":\"a\",\"revision\":1,\"target\":\"192.0.2.1/32\",\"expires_ms\":0,"
    "\"kind\":\"watch\",\"watch\":{}}",
    "{\"op\":\"put\",\"id\":\"a\",\"revision\":1,\"target\":\"192.0.2.1/32\","
    "\"expires_ms\":604800001,\"kind\":\"watch\",\"watch\":{}}",
    "{\"op\":\"load\",\"flows\":[[\"198.51.100.1\",1,\"192.0.2.1\"]]}",
    "{\"op\":\"load\",\"flows\":[[\"198.51.100.1\",0,\"192.0.2.1\",80]]}",
    "{\"op\":\"load\",\"flows\":[[\"198.51.100.1\",1,\"2001:db8::1\",80]]}",
    "{\"op\":\"load\",\"flows\":[[\"198.51.100.1\",1,\"192.0.2.1\",80,1]]}",
    "{\"op\":\"flows\",\"target\":\"192.0.2.1\"}",
    "{\"op\":\"flows\",\"limit\":-1}",
    "{\"op\":\"blocked\",\"id\":\"nobody\"}",
    "{\"op\":\"samples\",\"limit\":1025}",
    "{\"op\":\"sampling\",\"every\":4294967296}",
    "{\"op\":\"sampling\"}",
};

static void bad_requests_are_refused_and_change_nothing(void)
{
	struct memory *memory = memory_open();
	struct fnm_slot *slots = calloc(FNM_SLOTS, sizeof(*slots));

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *answer = ask(memory, bad[i]);

		if (!json_is_false(json_object_get(answer, "ok")))
			fprintf(stderr, "taken: %s\n", bad[i]);
		CHECK(json_is_false(json_object_get(answer, "ok")));
		CHECK(says(answer, "error", "bad_request"));
		CHECK(!memory->engine->live && !memory->policy_count);
	}
	CHECK(!memcmp(slots, memory->engine->tables.slots, FNM_SLOTS * sizeof(*slots)));
	free(slots);
	memory_close(memory);
}

static void greeting_comes_first(void)
{
	struct memory *memory = memory_open();
	struct session session = {0};
	const char *const list = "{\"op\":\"list\"}";
	const char *const old = "{\"op\":\"hello\",\"version\":2}";
	const char *const hello = "{\"op\":\"hello\",\"version\":1,\"seq\":7}";

	CHECK(says(protocol_answer(&session, memory->engine, list, strlen(list)), "error",
		   "hello_first"));
	CHECK(
	    says(protocol_answer(&session, memory->engine, old, strlen(old)), "error", "version"));
	CHECK(!session.greeted);
	json_t *answer = protocol_answer(&session, memory->engine, hello, strlen(hello));
	CHECK(json_integer_value(json_object_get(answer, "seq")) == 7);
	json_decref(answer);
	CHECK(session.greeted);
	memory_close(memory);
}

/* Errors name the place; what stands there may be a key. */
static void secrets_are_in_no_answer(void)
{
	static const char *const secret = "5ec4e75ec4e75ec4e75ec4e75ec4e75e";
	static const char *const requests[] = {
	    "{\"op\":\"put\",\"keys\":{\"cookie\":\"%s}",
	    "{\"op\":\"put\",\"keys\":{\"cookie\":%s}}",
	    "{\"op\":\"put\",\"keys\":{\"%s\":1,\"%s\":1}}",
	    "{\"op\":\"put\",\"id\":\"%s%s%s\",\"revision\":1}",
	    "{\"op\":\"%s\"}",
	    "{\"op\":\"put\",\"id\":\"a\",\"revision\":1,\"target\":\"%s\",\"expires_ms\":1}",
	};
	struct memory *memory = memory_open();
	char request[512];

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		json_t *answer;
		char *text;

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wformat-nonliteral"
		snprintf(request, sizeof(request), requests[i], secret, secret, secret);
#pragma clang diagnostic pop
		answer = ask(memory, request);
		text = json_dumps(answer, 0);
		CHECK(!strstr(text, "5ec4e75ec4e75"));
		free(text);
		json_decref(answer);
	}
	memory_close(memory);
}

int main(void)
{
	log_mute();
	RUN(bad_requests_are_refused_and_change_nothing);
	RUN(greeting_comes_first);
	RUN(secrets_are_in_no_answer);
	return 0;
}
