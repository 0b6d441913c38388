/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "acls.h"
#include "address.h"
#include "counters.h"
#include "log.h"
#include "mitigations.h"
#include "rate.h"
#include "same.h"
#include "slots.h"
#include "splicing.h"
#include "targets.h"
#include "tombs.h"

/* The engine must not lead the server: a cookie's minute that has not begun there is refused, and
 * a timestamp from the future makes a client discard what follows (PAWS). */
#define COOKIE_LAG_MS	 2000
#define TIMESTAMP_LAG_MS 64

#define TRY_LATER "delete mitigations that are not needed, or try again when some have expired"

uint16_t mitigation_find(const struct engine *engine, const char *id)
{
	for (size_t i = 0; i < engine->live; i++)
		if (!strncmp(engine->tables.books[engine->order[i]].id, id, BOOK_ID_BYTES))
			return engine->order[i];
	return NONE;
}

bool mitigation_over(const struct engine *engine, uint16_t slot)
{
	return engine->tables.slots[slot].deadline <= engine_now(engine);
}

static bool system_failed(struct refusal *refusal, const char *what, int error)
{
	bool full = error == -E2BIG || error == -ENOSPC || error == -ENOMEM;

	return refuse(refusal, full ? E_FULL : E_INTERNAL, full ? TRY_LATER : NULL, "%s: %s", what,
		      full ? "no room is left" : strerror(-error));
}

static bool not_stale(const struct engine *engine, const char *id, uint16_t current,
		      uint64_t revision, struct refusal *refusal)
{
	uint64_t newest = current ? engine->tables.books[current].revision : 0;
	uint64_t deleted = tomb_revision(engine, id);

	if (newest > revision)
		return refuse(refusal, E_STALE, NULL, "revision %" PRIu64 " of \"%s\" is in force",
			      newest, id);
	if (deleted > revision)
		return refuse(refusal, E_STALE, NULL, "revision %" PRIu64 " of \"%s\" was deleted",
			      deleted, id);
	return true;
}

/* ---- what a put takes over from what is in force, and from the clocks ---- */

static void copy_keys(struct wish *wish, const struct fnm_slot *from)
{
	struct fnm_tcp *tcp = &wish->slot.tcp;

	memcpy(tcp->cookie_key, from->tcp.cookie_key, sizeof(tcp->cookie_key));
	memcpy(tcp->cookie6_key, from->tcp.cookie6_key, sizeof(tcp->cookie6_key));
	memcpy(tcp->ts_key, from->tcp.ts_key, sizeof(tcp->ts_key));
	wish->slot.flags |= from->flags & (FNM_TCP_TS_PER_FLOW | FNM_TCP_TS_NO_OFFSET);
}

static bool make_keys(struct fnm_tcp *tcp, struct refusal *refusal)
{
	size_t size = offsetof(struct fnm_tcp, cookie_offset);

	if (getrandom(tcp, size, 0) == (ssize_t)size)
		return true;
	return refuse(refusal, E_INTERNAL, NULL, "getrandom: %s", strerror(errno));
}

/* Keys and clock that are left out stay as they are; those of the other modes are our own. */
static bool adopt(const struct engine *engine, struct wish *wish, uint16_t current,
		  struct refusal *refusal)
{
	const struct fnm_slot *now = &engine->tables.slots[current];
	bool same_mode = current && now->kind == FNM_TCP && now->mode == wish->slot.mode;

	if (wish->slot.kind != FNM_TCP)
		return true;
	if (!same_mode && wish->slot.mode != FNM_ISN_SYNC)
		return make_keys(&wish->slot.tcp, refusal);
	if (!same_mode && (!wish->has_keys || !wish->has_clock))
		return refuse(refusal, E_BAD_REQUEST, NULL,
			      "field \"tcp.%s\" is missing, and \"%s\" has none in force",
			      wish->has_keys ? "clock" : "keys", wish->id);
	if (!wish->has_keys)
		copy_keys(wish, now);
	if (!wish->has_clock) {
		wish->slot.tcp.cookie_offset = now->tcp.cookie_offset;
		wish->slot.tcp.ts_offset = now->tcp.ts_offset;
	}
	return true;
}

static bool set_clock(const struct engine *engine, struct wish *wish, struct refusal *refusal)
{
	uint64_t now = engine->backend->monotonic_ms(engine->data);
	uint64_t then;

	if (!wish->has_clock || wish->slot.mode != FNM_ISN_SYNC)
		return true;
	if (wish->clock.monotonic_ms > now + 1000)
		return refuse(
		    refusal, E_BAD_REQUEST,
		    "take clock.monotonic_ms from CLOCK_MONOTONIC of the machine on which "
		    "synproxyd runs",
		    "field \"tcp.clock.monotonic_ms\" lies %" PRIu64 " ms in the future",
		    wish->clock.monotonic_ms - now);
	then = engine_now(engine) - (now - wish->clock.monotonic_ms);
	wish->slot.tcp.cookie_offset = wish->clock.cookie_ms - then - COOKIE_LAG_MS;
	wish->slot.tcp.ts_offset = wish->clock.timestamp_ms - then - TIMESTAMP_LAG_MS;
	return true;
}

static void carry_buckets(const struct engine *engine, struct wish *wish, uint16_t current)
{
	const struct fnm_slot *now = &engine->tables.slots[current];

	if (!current || now->kind != wish->slot.kind)
		return;
	if (now->kind == FNM_TCP) {
		rate_carry(&wish->slot.tcp.grace, &now->tcp.grace);
		rate_carry(&wish->slot.tcp.unknown, &now->tcp.unknown);
		rate_carry(&wish->slot.tcp.learned, &now->tcp.learned);
		rate_carry(&wish->slot.tcp.syn_ack_in, &now->tcp.syn_ack_in);
		rate_carry(&wish->slot.tcp.icmp, &now->tcp.icmp);
	}
}

static bool same_kind(const struct engine *engine, const struct wish *wish, uint16_t current)
{
	return current && engine->tables.slots[current].kind == wish->slot.kind;
}

const char *mitigation_delivery(const struct engine *engine, uint16_t slot)
{
	const char *delivery = engine->deliveries[slot];

	return *delivery ? delivery : NULL;
}

/* What is not said again stays as it was. */
static void note_delivery(struct engine *engine, const struct wish *wish, uint16_t slot,
			  uint16_t current)
{
	char *to = engine->deliveries[slot];

	if (wish->delivery)
		snprintf(to, BOOK_ID_BYTES, "%s", wish->delivery);
	else if (!current)
		*to = 0;
	else if (slot != current)
		memcpy(to, engine->deliveries[current], BOOK_ID_BYTES);
}

/* ---- renew ---- */

static void renew(struct engine *engine, const struct wish *wish, uint16_t current)
{
	struct fnm_slot *slot = &engine->tables.slots[current];

	if (slot->kind == FNM_TCP) {
		__atomic_store_n(&slot->tcp.cookie_offset, wish->slot.tcp.cookie_offset,
				 __ATOMIC_RELAXED);
		__atomic_store_n(&slot->tcp.ts_offset, wish->slot.tcp.ts_offset, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&slot->deadline, engine_now(engine) + wish->expires_ms, __ATOMIC_RELEASE);
	engine->tables.books[current].revision = wish->revision;
	note_delivery(engine, wish, current, current);
}

/* ---- create or replace ---- */

static bool has_room(const struct engine *engine, const struct wish *wish, uint16_t current,
		     struct refusal *refusal)
{
	struct fnm_prefix crowded;
	char text[ADDRESS_TEXT];

	if (slot_find_free(engine) == NONE)
		return refuse(refusal, E_FULL, TRY_LATER,
			      "all %d mitigations are in use, or were a second ago", FNM_SLOTS - 1);
	if (!portset_fits(engine, &wish->ports))
		return refuse(refusal, E_FULL, TRY_LATER,
			      "all %d different lists of ports are in use", FNM_PORTSETS - 1);
	if (wish->slot.kind == FNM_ACL && acl_find_unused(engine) < 0)
		return refuse(refusal, E_FULL, TRY_LATER,
			      "all %d acls are in use, or were a second ago", FNM_ACLS - 1);
	if (!targets_fit(engine, &wish->target, wish->slot.kind, current, &crowded))
		return refuse(refusal, E_FULL, TRY_LATER,
			      "%s has %d mitigations of this kind already, wider ones included",
			      format_prefix(&crowded, text), FNM_CHAIN);
	return true;
}

static uint64_t next_sequence(struct engine *engine)
{
	struct book *head = &engine->tables.books[NONE];

	/* Its low half is a generation, of which 0 means none. */
	if (!(__u32)++head->sequence)
		head->sequence++;
	return head->sequence;
}

static void write_book(struct engine *engine, const struct wish *wish, uint16_t slot,
		       uint16_t current)
{
	struct book *book = &engine->tables.books[slot];
	const struct book *old = &engine->tables.books[current];

	memset(book, 0, sizeof(*book));
	book->revision = wish->revision;
	book->target = wish->target;
	book->grace_ms = wish->grace_ms;
	book->sequence = current ? old->sequence : next_sequence(engine);
	book->created_ms = current ? old->created_ms : engine_now(engine);
	snprintf(book->id, sizeof(book->id), "%s", wish->id);
	note_delivery(engine, wish, slot, current);
}

static void write_slot(struct engine *engine, const struct wish *wish, uint16_t slot,
		       uint16_t current)
{
	struct fnm_slot *to = &engine->tables.slots[slot];
	const struct book *book = &engine->tables.books[slot];

	*to = wish->slot;
	to->deadline = engine_now(engine) + wish->expires_ms;
	/* Sources that are blocked stay so when only numbers change. */
	to->generation = same_kind(engine, wish, current) ? engine->tables.slots[current].generation
							  : (__u32)book->sequence;
	to->portset = portset_place(engine, &wish->ports);
	if (to->kind == FNM_TCP)
		to->tcp.grace_until = book->created_ms + book->grace_ms;
	if (to->kind == FNM_ACL) {
		to->acl = acl_find_unused(engine);
		engine->tables.acls[to->acl] = wish->acl;
	}
}

static int compile_both(struct engine *engine, uint16_t slot, uint16_t current)
{
	const struct book *books = engine->tables.books;
	int error = targets_compile(engine, &books[slot].target);

	if (!error && current && !prefix_equal(&books[slot].target, &books[current].target))
		error = targets_compile(engine, &books[current].target);
	return error;
}

static bool undo(struct engine *engine, uint16_t slot, uint16_t current, int error,
		 struct refusal *refusal)
{
	slot_withdraw(engine, slot, current);
	if (compile_both(engine, slot, current))
		log_error("policy.unclear", "{s:s}", "todo",
			  "restart synproxyd, which compiles every policy anew");
	return system_failed(refusal, "the policies of the targets", error);
}

static bool install(struct engine *engine, struct wish *wish, uint16_t current,
		    struct refusal *refusal)
{
	uint16_t slot = slot_find_free(engine);
	int error;

	carry_buckets(engine, wish, current);
	write_book(engine, wish, slot, current);
	write_slot(engine, wish, slot, current);
	splicing_expect(engine, &wish->target, wish->slot.kind, wish->slot.mode);
	error = slot_enlist(engine, slot, current);
	if (error)
		return system_failed(refusal, "the counters", error);
	error = compile_both(engine, slot, current);
	if (error)
		return undo(engine, slot, current, error, refusal);
	if (current) {
		rates_move(engine, current, slot);
		slot_retire(engine, current, slot);
		targets_rebuild_prefilter(engine);
	} else {
		rates_begin(engine, slot);
	}
	return true;
}

/* ---- end ---- */

static int end(struct engine *engine, uint16_t slot)
{
	struct fnm_prefix target = engine->tables.books[slot].target;
	int error;

	/* Over at once, even if a policy should not let go of it. */
	__atomic_store_n(&engine->tables.slots[slot].deadline, 0, __ATOMIC_RELEASE);
	slot_retire(engine, slot, NONE);
	error = targets_compile(engine, &target);
	targets_rebuild_prefilter(engine);
	return error;
}

static void expire(struct engine *engine, uint16_t slot)
{
	int error = end(engine, slot);

	log_info("mitigation.expired", "{s:s,s:s*}", "id", engine->tables.books[slot].id,
		 "delivery", mitigation_delivery(engine, slot));
	if (error)
		log_error("policy.unclear", "{s:s,s:s}", "id", engine->tables.books[slot].id,
			  "message", strerror(-error));
}

bool mitigation_put(struct engine *engine, struct wish *wish, enum outcome *outcome,
		    struct refusal *refusal)
{
	uint16_t current = mitigation_find(engine, wish->id);

	if (current && mitigation_over(engine, current)) {
		expire(engine, current);
		current = NONE;
	}
	if (!not_stale(engine, wish->id, current, wish->revision, refusal) ||
	    !adopt(engine, wish, current, refusal) || !set_clock(engine, wish, refusal))
		return false;
	if (wish->slot.kind == FNM_TCP && current)
		wish->slot.tcp.grace_until =
		    engine->tables.books[current].created_ms + wish->grace_ms;
	*outcome = !current ? CREATED : wish_unchanged(engine, wish, current) ? RENEWED : REPLACED;
	if (*outcome == RENEWED) {
		if (!wish->check)
			renew(engine, wish, current);
		return true;
	}
	if (wish->slot.kind == FNM_TCP && wish->slot.mode == FNM_SPLICE &&
	    !splicing_possible(engine, &wish->target, refusal))
		return false;
	return has_room(engine, wish, current, refusal) &&
	       (wish->check || install(engine, wish, current, refusal));
}

bool mitigation_delete(struct engine *engine, const char *id, uint64_t revision, bool *found,
		       struct refusal *refusal)
{
	uint16_t slot = mitigation_find(engine, id);
	int error = 0;

	*found = false;
	if (slot && mitigation_over(engine, slot)) {
		expire(engine, slot);
		slot = NONE;
	}
	if (slot && engine->tables.books[slot].revision > revision)
		return not_stale(engine, id, slot, revision, refusal);
	tomb_set(engine, id, revision);
	if (slot) {
		*found = true;
		error = end(engine, slot);
	}
	return !error || system_failed(refusal, "the policies of the targets", error);
}

void mitigations_tick(struct engine *engine)
{
	for (size_t i = engine->live; i-- > 0;)
		if (mitigation_over(engine, engine->order[i]))
			expire(engine, engine->order[i]);
	slots_free_retired(engine);
}

bool mitigations_load(struct engine *engine, struct refusal *refusal)
{
	int error;

	slots_load(engine);
	error = targets_rebuild(engine);
	if (error)
		return system_failed(refusal, "the policies of the targets", error);
	return true;
}
