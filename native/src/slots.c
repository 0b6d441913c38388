/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "counters.h"
#include "log.h"
#include "mitigations.h"
#include "slots.h"

uint16_t slot_find_free(const struct engine *engine)
{
	for (unsigned int i = 0; i < FNM_SLOTS; i++) {
		uint16_t slot = (engine->next_slot + i) % FNM_SLOTS;

		if (slot != NONE && engine->tables.books[slot].state == BOOK_FREE)
			return slot;
	}
	return NONE;
}

static void set_state(struct engine *engine, uint16_t slot, enum book_state state)
{
	__atomic_store_n(&engine->tables.books[slot].state, state, __ATOMIC_RELEASE);
}

static void hold(struct engine *engine, uint16_t slot)
{
	const struct fnm_slot *held = &engine->tables.slots[slot];

	if (held->portset < FNM_PORTSETS)
		engine->portset_uses[held->portset]++;
	if (held->acl < FNM_ACLS)
		engine->acl_used[held->acl] = true;
}

static void let_go(struct engine *engine, uint16_t slot)
{
	const struct fnm_slot *held = &engine->tables.slots[slot];

	if (held->portset < FNM_PORTSETS)
		engine->portset_uses[held->portset]--;
	if (held->acl < FNM_ACLS)
		engine->acl_used[held->acl] = false;
}

static size_t place_in_order(const struct engine *engine, uint16_t slot)
{
	size_t i = 0;

	while (i < engine->live && engine->order[i] != slot)
		i++;
	return i;
}

static void leave_order(struct engine *engine, uint16_t slot)
{
	size_t i = place_in_order(engine, slot);

	if (i == engine->live)
		return;
	engine->live--;
	memmove(&engine->order[i], &engine->order[i + 1],
		(engine->live - i) * sizeof(engine->order[0]));
}

int slot_enlist(struct engine *engine, uint16_t slot, uint16_t instead)
{
	int error = engine->backend->counters_clear(engine->data, slot);

	if (error)
		return error;
	hold(engine, slot);
	engine->next_slot = (slot + 1) % FNM_SLOTS;
	if (instead == NONE)
		engine->order[engine->live++] = slot;
	else
		engine->order[place_in_order(engine, instead)] = slot;
	set_state(engine, slot, BOOK_LIVE);
	return 0;
}

void slot_withdraw(struct engine *engine, uint16_t slot, uint16_t instead)
{
	if (instead != NONE)
		engine->order[place_in_order(engine, slot)] = instead;
	slot_retire(engine, slot, instead);
}

void slot_retire(struct engine *engine, uint16_t slot, uint16_t heir)
{
	struct book *book = &engine->tables.books[slot];

	leave_order(engine, slot);
	book->retired_ms = engine_now(engine);
	book->heir = heir;
	set_state(engine, slot, BOOK_RETIRED);
	engine->retired[engine->retirees++] = slot;
}

static void release(struct engine *engine, uint16_t slot)
{
	struct book *book = &engine->tables.books[slot];
	struct fnm_counters own;
	int error = engine->backend->counters(engine->data, slot, &own);

	if (error)
		log_error("counters.lost", "{s:s,s:s}", "id", book->id, "message",
			  strerror(-error));
	else
		counters_add(&engine->tables.books[book->heir].before, &own);
	counters_add(&engine->tables.books[book->heir].before, &book->before);
	let_go(engine, slot);
	set_state(engine, slot, BOOK_FREE);
	/* Keys of a server have no business in memory that nobody uses. */
	explicit_bzero(&engine->tables.slots[slot].tcp, sizeof(struct fnm_tcp));
}

void slots_free_retired(struct engine *engine)
{
	uint64_t now = engine_now(engine);
	size_t done = 0;

	while (done < engine->retirees &&
	       engine->tables.books[engine->retired[done]].retired_ms + RETIRED_MS <= now)
		release(engine, engine->retired[done++]);
	engine->retirees -= done;
	memmove(engine->retired, engine->retired + done,
		engine->retirees * sizeof(engine->retired[0]));
}

static int by_age(const void *one, const void *other, void *books)
{
	__u64 a = ((struct book *)books)[*(const uint16_t *)one].sequence;
	__u64 b = ((struct book *)books)[*(const uint16_t *)other].sequence;

	return (a > b) - (a < b);
}

static int by_retirement(const void *one, const void *other, void *books)
{
	__u64 a = ((struct book *)books)[*(const uint16_t *)one].retired_ms;
	__u64 b = ((struct book *)books)[*(const uint16_t *)other].retired_ms;

	return (a > b) - (a < b);
}

/* A daemon that was killed while it replaced a slot leaves both in force: the newer revision stays.
 */
static void retire_doubles(struct engine *engine)
{
	const struct book *books = engine->tables.books;

	for (size_t i = 1; i < engine->live;) {
		uint16_t one = engine->order[i - 1], other = engine->order[i];

		if (books[one].sequence != books[other].sequence)
			i++;
		else if (books[one].revision < books[other].revision)
			slot_retire(engine, one, other);
		else
			slot_retire(engine, other, one);
	}
}

void slots_load(struct engine *engine)
{
	struct book *books = engine->tables.books;

	for (unsigned int slot = 1; slot < FNM_SLOTS; slot++) {
		if (books[slot].state == BOOK_LIVE)
			engine->order[engine->live++] = slot;
		else if (books[slot].state == BOOK_RETIRED)
			engine->retired[engine->retirees++] = slot;
		else
			continue;
		hold(engine, slot);
	}
	qsort_r(engine->order, engine->live, sizeof(engine->order[0]), by_age, books);
	qsort_r(engine->retired, engine->retirees, sizeof(engine->retired[0]), by_retirement,
		books);
	retire_doubles(engine);
}
