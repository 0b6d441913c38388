/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "address.h"
#include "load.h"
#include "log.h"
#include "mitigations.h"
#include "protocol.h"
#include "wishes.h"

#define LOAD_MOST     10000
#define ROWS_MOST     8000 /* an answer of so many IPv6 flows still fits into a line */
#define COUNT_KEPT_MS 10000

struct request {
	struct session *session;
	struct engine *engine;
	struct place place;
};

static bool no_more_fields(const struct request *request)
{
	static const char *const names[] = {"op", "seq", NULL};

	return only_fields(&request->place, names);
}

static json_t *op_hello(struct request *request)
{
	static const char *const names[] = {"op", "seq", "version", NULL};
	uint64_t version = 0;

	if (!only_fields(&request->place, names) ||
	    !take_integer(&request->place, "version", REQUIRED, 0, INT64_MAX, &version))
		return NULL;
	if (version != PROTOCOL_VERSION) {
		refuse(request->place.refusal, E_VERSION,
		       "install a hub and a synproxyd that go together",
		       "this synproxyd speaks version %d of the protocol, not %" PRIu64,
		       PROTOCOL_VERSION, version);
		return NULL;
	}
	request->session->greeted = true;
	return answer_hello(request->engine);
}

static json_t *op_put(struct request *request)
{
	static const char *const outcomes[][2] = {[CREATED] = {"created", "would_create"},
						  [REPLACED] = {"replaced", "would_replace"},
						  [RENEWED] = {"renewed", "would_renew"}};
	static struct wish wish; /* too big for the stack; wiped before the function ends */
	enum outcome outcome = CREATED;
	json_t *answer = NULL;
	const char *word;

	if (wish_read(&request->place, &wish) &&
	    mitigation_put(request->engine, &wish, &outcome, request->place.refusal)) {
		word = outcomes[outcome][wish.check];
		answer = json_pack("{s:b,s:s,s:I,s:s}", "ok", 1, "id", wish.id, "revision",
				   (json_int_t)wish.revision, "outcome", word);
		if (!wish.check && outcome != RENEWED)
			log_info("mitigation.put", "{s:s,s:I,s:s,s:s,s:s*}", "id", wish.id,
				 "revision", (json_int_t)wish.revision, "kind",
				 kind_word(wish.slot.kind), "outcome", word, "delivery",
				 wish.delivery);
	}
	explicit_bzero(&wish, sizeof(wish));
	return answer;
}

static json_t *op_delete(struct request *request)
{
	static const char *const names[] = {"op", "seq", "id", "revision", NULL};
	const char *id = NULL;
	uint64_t revision = 0;
	bool found = false;
	uint16_t slot;

	if (!only_fields(&request->place, names) ||
	    !read_id_and_revision(&request->place, &id, &revision))
		return NULL;
	slot = mitigation_find(request->engine, id);
	if (!mitigation_delete(request->engine, id, revision, &found, request->place.refusal))
		return NULL;
	if (found)
		log_info("mitigation.deleted", "{s:s,s:I,s:s*}", "id", id, "revision",
			 (json_int_t)revision, "delivery",
			 mitigation_delivery(request->engine, slot));
	return json_pack("{s:b,s:s,s:s}", "ok", 1, "id", id, "outcome",
			 found ? "deleted" : "absent");
}

static json_t *op_list(struct request *request)
{
	static const char *const names[] = {"op", "seq", "after", NULL};
	const char *after = NULL;

	if (!only_fields(&request->place, names) ||
	    !take_string(&request->place, "after", OPTIONAL, &after))
		return NULL;
	return answer_list(request->engine, after, request->place.refusal);
}

static bool begin_scan(struct request *request, enum scan_kind kind, uint64_t limit)
{
	json_t *seq = json_object_get(request->place.object, "seq");

	request->session->scan = scan_new(kind, limit, seq);
	return request->session->scan ||
	       refuse(request->place.refusal, E_INTERNAL, NULL, "no memory for the answer");
}

static json_t *op_stats(struct request *request)
{
	struct engine *engine = request->engine;
	uint64_t now = engine->backend->monotonic_ms(engine->data);

	if (!no_more_fields(request))
		return NULL;
	if (engine->count.at_ms && now - engine->count.at_ms < COUNT_KEPT_MS)
		return answer_stats(engine, request->place.refusal);
	begin_scan(request, SCAN_COUNT, 0);
	return NULL;
}

static json_t *op_flows(struct request *request)
{
	static const char *const names[] = {"op", "seq", "target", "limit", NULL};
	struct fnm_prefix target = {0};
	uint64_t limit = 1000;
	const char *text = NULL;

	if (!only_fields(&request->place, names) ||
	    !take_string(&request->place, "target", OPTIONAL, &text) ||
	    !take_integer(&request->place, "limit", OPTIONAL, 0, ROWS_MOST, &limit))
		return NULL;
	if (text && !parse_prefix(text, &target)) {
		refuse(request->place.refusal, E_BAD_REQUEST, NULL,
		       "field \"target\" must be a prefix without host bits");
		return NULL;
	}
	if (begin_scan(request, SCAN_FLOWS, limit)) {
		request->session->scan->target = target;
		request->session->scan->any_target = !text;
	}
	return NULL;
}

static json_t *op_blocked(struct request *request)
{
	static const char *const names[] = {"op", "seq", "id", "limit", NULL};
	uint64_t limit = 1000;
	const char *id = NULL;
	uint16_t slot;

	if (!only_fields(&request->place, names) ||
	    !take_string(&request->place, "id", REQUIRED, &id) ||
	    !take_integer(&request->place, "limit", OPTIONAL, 0, ROWS_MOST, &limit))
		return NULL;
	slot = id_valid(id) ? mitigation_find(request->engine, id) : NONE;
	if (!slot || request->engine->tables.slots[slot].kind != FNM_SORB) {
		refuse(request->place.refusal, E_BAD_REQUEST, NULL,
		       "field \"id\" must name a sorb that is in force");
		return NULL;
	}
	if (begin_scan(request, SCAN_BLOCKED, limit))
		request->session->scan->generation = request->engine->tables.slots[slot].generation;
	return NULL;
}

static bool read_flow(json_t *row, struct open_flow *flow)
{
	const char *client, *server;
	json_int_t client_port, server_port;

	if (!json_is_array(row) ||
	    json_unpack(row, "[s,I,s,I!]", &client, &client_port, &server, &server_port))
		return false;
	flow->client_port = client_port;
	flow->server_port = server_port;
	return client_port > 0 && client_port < 65536 && server_port > 0 && server_port < 65536 &&
	       parse_address(client, &flow->client) && parse_address(server, &flow->server) &&
	       is_ipv4(&flow->client) == is_ipv4(&flow->server);
}

static json_t *op_load(struct request *request)
{
	static const char *const names[] = {"op", "seq", "flows", NULL};
	struct open_flow flow;
	json_int_t evicted = 0;
	json_t *rows = NULL, *row;
	size_t index;

	if (!only_fields(&request->place, names) ||
	    !take_array(&request->place, "flows", REQUIRED, &rows))
		return NULL;
	/* All of them or none: a half-read list would be reported as refused. */
	json_array_foreach(rows, index, row) if (index >= LOAD_MOST || !read_flow(row, &flow))
	{
		refuse(request->place.refusal, E_BAD_REQUEST, NULL,
		       "field \"flows[%zu]\" must be [client,port,server,port], "
		       "addresses of one family, and one of at most %d",
		       index, LOAD_MOST);
		return NULL;
	}
	json_array_foreach(rows, index, row) if (read_flow(row, &flow)) evicted +=
	    flow_load(request->engine, &flow);
	return json_pack("{s:b,s:I,s:I}", "ok", 1, "loaded", (json_int_t)json_array_size(rows),
			 "evicted", evicted);
}

static json_t *op_samples(struct request *request)
{
	static const char *const names[] = {"op", "seq", "limit", NULL};
	uint64_t limit = 100;

	if (!only_fields(&request->place, names) ||
	    !take_integer(&request->place, "limit", OPTIONAL, 1, SAMPLES_KEPT, &limit))
		return NULL;
	return answer_samples(request->engine, limit);
}

static json_t *op_sampling(struct request *request)
{
	static const char *const names[] = {"op", "seq", "every", NULL};
	uint64_t every = 0;

	if (!only_fields(&request->place, names) ||
	    !take_integer(&request->place, "every", REQUIRED, 0, UINT32_MAX, &every))
		return NULL;
	__atomic_store_n(&request->engine->tables.control->sample_every, (uint32_t)every,
			 __ATOMIC_RELAXED);
	return json_pack("{s:b}", "ok", 1);
}

static const struct {
	const char *name;
	json_t *(*handle)(struct request *request);
} operations[] = {
    {"hello", op_hello},     {"put", op_put},		{"delete", op_delete},	 {"list", op_list},
    {"stats", op_stats},     {"flows", op_flows},	{"blocked", op_blocked}, {"load", op_load},
    {"samples", op_samples}, {"sampling", op_sampling},
};

static json_t *dispatch(struct request *request)
{
	struct refusal *refusal = request->place.refusal;
	const char *op;

	if (!take_string(&request->place, "op", REQUIRED, &op))
		return NULL;
	if (!request->session->greeted && strcmp(op, "hello")) {
		refuse(refusal, E_HELLO_FIRST, NULL, "a connection begins with hello");
		return NULL;
	}
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		if (!strcmp(op, operations[i].name))
			return operations[i].handle(request);
	refuse(refusal, E_BAD_REQUEST, NULL, "field \"op\" names no operation of this synproxyd");
	return NULL;
}

json_t *protocol_refused(const struct refusal *refusal)
{
	return json_pack("{s:b,s:s,s:s,s:s*}", "ok", 0, "error", refusal->error, "message",
			 refusal->message, "todo", refusal->todo);
}

/* jansson's text ends with what it was looking at, and that may be a key. */
static void refuse_json(struct refusal *refusal, const json_error_t *error)
{
	const char *near = strstr(error->text, " near ");
	int length = near ? (int)(near - error->text) : (int)strcspn(error->text, "'\"");

	refuse(refusal, E_BAD_REQUEST, NULL, "no JSON at byte %d: %.*s", error->position, length,
	       error->text);
}

static json_t *with_seq(json_t *answer, json_t *seq)
{
	if (answer && seq)
		json_object_set(answer, "seq", seq);
	return answer;
}

static json_t *answer_object(struct request *request)
{
	json_t *seq = json_object_get(request->place.object, "seq");
	json_t *answer;

	if (seq && !json_is_number(seq)) {
		refuse(request->place.refusal, E_BAD_REQUEST, NULL,
		       "field \"seq\" must be a number");
		return protocol_refused(request->place.refusal);
	}
	answer = dispatch(request);
	if (!answer && request->session->scan)
		return NULL;
	return with_seq(answer ? answer : protocol_refused(request->place.refusal), seq);
}

json_t *protocol_answer(struct session *session, struct engine *engine, const char *line,
			size_t length)
{
	struct refusal refusal = {.error = E_INTERNAL, .message = "no memory for the answer"};
	json_error_t error;
	json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
	struct request request = {session, engine, {object, "", &refusal}};
	json_t *answer;

	if (!object) {
		refuse_json(&refusal, &error);
		answer = protocol_refused(&refusal);
	} else if (!json_is_object(object)) {
		refuse(&refusal, E_BAD_REQUEST, NULL, "a request must be an object");
		answer = protocol_refused(&refusal);
	} else {
		answer = answer_object(&request);
	}
	explicit_bzero(&error, sizeof(error));
	json_decref(object);
	return answer;
}

json_t *protocol_scanned(struct engine *engine, struct scan *scan)
{
	struct refusal refusal;
	json_t *answer;

	if (scan->kind == SCAN_COUNT) {
		engine->count.flows = scan->flows;
		engine->count.flows6 = scan->flows6;
		engine->count.sources = scan->sources;
		engine->count.at_ms = engine->backend->monotonic_ms(engine->data);
		answer = answer_stats(engine, &refusal);
		return with_seq(answer ? answer : protocol_refused(&refusal), scan->seq);
	}
	answer = json_pack("{s:b,s:I,s:O}", "ok", 1, "total", (json_int_t)scan->total,
			   scan->kind == SCAN_FLOWS ? "flows" : "sources", scan->rows);
	return with_seq(answer, scan->seq);
}
