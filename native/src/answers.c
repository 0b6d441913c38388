/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "address.h"
#include "counters.h"
#include "log.h"
#include "mitigations.h"
#include "protocol.h"

#define LIST_BYTES_MOST (900 << 10)

const char *kind_word(unsigned int kind)
{
	static const char *const words[] = {
	    [FNM_TCP] = "tcp", [FNM_ACL] = "acl", [FNM_SORB] = "sorb", [FNM_WATCH] = "watch"};

	return kind >= FNM_TCP && kind <= FNM_WATCH ? words[kind] : "unknown";
}

static const char *mode_word(const struct fnm_slot *slot)
{
	if (slot->kind != FNM_TCP)
		return NULL;
	return slot->mode == FNM_ISN_SYNC ? "isn-sync"
	       : slot->mode == FNM_SPLICE ? "splice"
					  : "reset";
}

static const char *attach_word(const struct interface_facts *interface)
{
	return interface->generic ? "generic" : "native";
}

json_t *answer_hello(const struct engine *engine)
{
	const struct facts *facts = &engine->facts;
	json_t *interfaces = json_array(), *modes = json_pack("[s,s]", "isn-sync", "reset");

	for (size_t i = 0; i < facts->interfaces; i++) {
		const struct interface_facts *one = &facts->interface[i];

		json_array_append_new(interfaces,
				      json_pack("{s:s,s:I,s:s,s:b}", "name", one->name, "ifindex",
						(json_int_t)one->ifindex, "mode", attach_word(one),
						"verify_checksums", one->verify_checksums));
	}
	if (facts->splice)
		json_array_insert_new(modes, 1, json_string("splice"));
	return json_pack("{s:b,s:i,s:s,s:i,s:I,s:i,s:I,s:o,s:[s,s,s,s],s:o,s:b,s:{s:i,s:i}}", "ok",
			 1, "version", PROTOCOL_VERSION, "daemon", VERSION, "abi", FNM_ABI, "hz",
			 (json_int_t)facts->hz, "pid", getpid(), "started_ms",
			 (json_int_t)facts->started_ms, "interfaces", interfaces, "kinds", "tcp",
			 "acl", "sorb", "watch", "tcp_modes", modes, "delivery", 1, "limits",
			 "mitigations", FNM_SLOTS - 1, "per_target", FNM_CHAIN);
}

static json_t *packets_of(const struct fnm_counters *counters)
{
	json_t *packets = json_object();

	for (unsigned int i = 0; i < FNM_R_COUNT; i++)
		if (counters->packets[i])
			json_object_set_new(packets, reason_word(i),
					    json_integer(counters->packets[i]));
	return packets;
}

static json_t *rates_object(const struct engine *engine, uint16_t slot)
{
	uint64_t window;
	struct rates r;

	rates_of(engine, slot, &r, &window);
	return json_pack(
	    "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "window_ms", (json_int_t)window, "syn_pps",
	    (json_int_t)r.syn, "cookie_sent_pps", (json_int_t)r.cookie_sent, "cookie_good_pps",
	    (json_int_t)r.cookie_good, "cookie_bad_pps", (json_int_t)r.cookie_bad, "dropped_pps",
	    (json_int_t)r.dropped, "answered_pps", (json_int_t)r.answered, "passed_pps",
	    (json_int_t)r.passed, "pps", (json_int_t)r.all, "bps", (json_int_t)r.bits);
}

static json_t *mitigation_object(const struct engine *engine, uint16_t slot,
				 struct refusal *refusal)
{
	const struct book *book = &engine->tables.books[slot];
	const struct fnm_slot *value = &engine->tables.slots[slot];
	uint64_t now = engine_now(engine);
	struct fnm_counters counters;
	char target[ADDRESS_TEXT];
	int error = counters_of(engine, slot, &counters);

	if (error) {
		refuse(refusal, E_INTERNAL, NULL, "the counters: %s", strerror(-error));
		return NULL;
	}
	return json_pack("{s:s,s:s*,s:I,s:s,s:s,s:s*,s:I,s:I,s:o,s:{s:I,s:I},s:o}", "id", book->id,
			 "delivery", mitigation_delivery(engine, slot), "revision",
			 (json_int_t)book->revision, "target", format_prefix(&book->target, target),
			 "kind", kind_word(value->kind), "mode", mode_word(value), "expires_ms",
			 (json_int_t)(value->deadline - now), "age_ms",
			 (json_int_t)(now - book->created_ms), "packets", packets_of(&counters),
			 "bytes", "passed", (json_int_t)counters.bytes_passed, "dropped",
			 (json_int_t)counters.bytes_dropped, "rates", rates_object(engine, slot));
}

/* Where in the order of age the list goes on. An id that has ended meanwhile cannot be found: from
 * the start, then, so that none is left out. */
static size_t place_after(const struct engine *engine, const char *after)
{
	uint16_t slot = after ? mitigation_find(engine, after) : NONE;

	for (size_t i = 0; slot && i < engine->live; i++)
		if (engine->order[i] == slot)
			return i + 1;
	return 0;
}

json_t *answer_list(const struct engine *engine, const char *after, struct refusal *refusal)
{
	json_t *mitigations = json_array(), *answer, *one;
	const char *last = NULL;
	size_t bytes = 0, i;

	for (i = place_after(engine, after); i < engine->live && bytes < LIST_BYTES_MOST; i++) {
		if (mitigation_over(engine, engine->order[i]))
			continue;
		one = mitigation_object(engine, engine->order[i], refusal);
		if (!one) {
			json_decref(mitigations);
			return NULL;
		}
		bytes += json_dumpb(one, NULL, 0, JSON_COMPACT) + 1;
		json_array_append_new(mitigations, one);
		last = engine->tables.books[engine->order[i]].id;
	}
	answer = json_pack("{s:b,s:o}", "ok", 1, "mitigations", mitigations);
	if (i < engine->live && last)
		json_object_set_new(answer, "more_after", json_string(last));
	return answer;
}

static json_t *work_object(const struct fnm_work *work)
{
	return json_pack(
	    "{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "flows_inserted",
	    (json_int_t)work->flows_inserted, "flows_evicted", (json_int_t)work->flows_evicted,
	    "flows_capped", (json_int_t)work->flows_capped, "sources_inserted",
	    (json_int_t)work->sources_inserted, "sources_evicted",
	    (json_int_t)work->sources_evicted, "talkers_inserted",
	    (json_int_t)work->talkers_inserted, "talkers_untracked",
	    (json_int_t)work->talkers_untracked, "samples", (json_int_t)work->samples,
	    "samples_lost", (json_int_t)work->samples_lost, "resize_failed",
	    (json_int_t)work->resize_failed, "loop_failed", (json_int_t)work->loop_failed);
}

/* Those that are attached; hello tells of all that should be. */
static json_t *programs_array(const struct facts *facts)
{
	json_t *programs = json_array();

	for (size_t i = 0; i < facts->interfaces; i++) {
		const struct interface_facts *one = &facts->interface[i];

		if (one->gone)
			continue;
		json_array_append_new(
		    programs,
		    json_pack("{s:s,s:s,s:I,s:I}", "interface", one->name, "mode", attach_word(one),
			      "instructions", (json_int_t)one->instructions,
			      "verified_instructions", (json_int_t)one->verified_instructions));
	}
	return programs;
}

static json_t *splices_object(const struct engine *engine)
{
	const struct splice_count *count = &engine->splices;

	return json_pack("{s:I,s:I,s:I,s:I}", "asked", (json_int_t)count->asked, "open",
			 (json_int_t)count->open, "closing", (json_int_t)count->closing, "rows",
			 (json_int_t)engine->tables.splice_sets * FNM_SPLICE_WAYS);
}

/* Rows that there is room for; a table is nearly full long before, as a row has few places. */
static json_t *limits_object(const struct tables *tables)
{
	return json_pack("{s:I,s:I,s:I,s:I}", "flows4", (json_int_t)tables->flow4_sets * FNM_WAYS,
			 "flows6", (json_int_t)tables->flow6_sets * FNM_WAYS, "sources",
			 (json_int_t)tables->source_sets * 2, "mitigations",
			 (json_int_t)(FNM_SLOTS - 1));
}

json_t *answer_stats(const struct engine *engine, struct refusal *refusal)
{
	struct fnm_counters counters;
	struct fnm_work work;
	int error = counters_of_all(engine, &counters);

	if (!error)
		error = engine->backend->work(engine->data, &work);
	if (error) {
		refuse(refusal, E_INTERNAL, NULL, "the counters: %s", strerror(-error));
		return NULL;
	}
	return json_pack(
	    "{s:b,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:{s:I,s:I},s:o,s:o,s:o,s:{s:I,s:I}}", "ok", 1,
	    "packets", packets_of(&counters), "work", work_object(&work), "flows",
	    (json_int_t)engine->count.flows, "flows6", (json_int_t)engine->count.flows6, "sources",
	    (json_int_t)engine->count.sources, "memory_bytes",
	    (json_int_t)engine->facts.memory_bytes, "mitigations", (json_int_t)engine->live,
	    "bytes", "passed", (json_int_t)counters.bytes_passed, "dropped",
	    (json_int_t)counters.bytes_dropped, "programs", programs_array(&engine->facts),
	    "splices", splices_object(engine), "limits", limits_object(&engine->tables), "logged",
	    "warning", (json_int_t)log_warnings(), "error", (json_int_t)log_errors());
}

static const char *interface_name(const struct facts *facts, uint32_t ifindex)
{
	for (size_t i = 0; i < facts->interfaces; i++)
		if (facts->interface[i].ifindex == ifindex)
			return facts->interface[i].name;
	return "unknown";
}

static json_t *sample_object(const struct engine *engine, uint64_t number)
{
	size_t place = number % SAMPLES_KEPT;
	const struct fnm_sample *sample = &engine->samples.kept[place];
	const char *id = engine->samples.ids[place];
	size_t captured = sample->captured < FNM_SAMPLE_BYTES ? sample->captured : FNM_SAMPLE_BYTES;
	char hex[2 * FNM_SAMPLE_BYTES + 1] = "";

	for (size_t i = 0; i < captured; i++)
		snprintf(hex + 2 * i, 3, "%02x", sample->data[i]);
	return json_pack("{s:I,s:s,s:s,s:s*,s:i,s:s}", "age_ms",
			 (json_int_t)(engine_now(engine) - sample->time_ms), "interface",
			 interface_name(&engine->facts, sample->ifindex), "reason",
			 reason_word(sample->reason), "id", *id ? id : NULL, "length",
			 (int)sample->length, "header", hex);
}

json_t *answer_samples(const struct engine *engine, uint64_t limit)
{
	uint64_t written = engine->samples.written;
	uint64_t kept = written < SAMPLES_KEPT ? written : SAMPLES_KEPT;
	json_t *samples = json_array();
	struct fnm_work work = {0};

	engine->backend->work(engine->data, &work);
	for (uint64_t i = written - (kept < limit ? kept : limit); i < written; i++)
		json_array_append_new(samples, sample_object(engine, i));
	return json_pack("{s:b,s:I,s:o}", "ok", 1, "lost", (json_int_t)work.samples_lost, "samples",
			 samples);
}
