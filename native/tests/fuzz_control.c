/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes one connection's bytes on an engine of plain memory. What is in force afterwards must be
 * consistent, and a restart must find the same.
 */
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "counters.h"
#include "fuzz_control.h"
#include "log.h"
#include "memory.h"
#include "mitigations.h"
#include "session.h"
#include "wiping.h"

static struct memory *memory;

static void must(bool condition)
{
	if (!condition)
		abort();
}

static void begin(void)
{
	if (!memory) {
		wiping_begin();
		log_mute();
		memory = memory_open();
	}
}

static bool named(const struct engine *engine, const struct fnm_policy *policy, uint16_t slot)
{
	const __u16 *link = (const __u16 *)policy;

	(void)engine;
	for (size_t i = 0; i < sizeof(*policy) / sizeof(*link); i++)
		if (link[i] == slot)
			return true;
	return false;
}

/* Every mitigation in force is named by the policy of its target, and no policy names another. */
static void check_policies(const struct engine *engine)
{
	for (size_t i = 0; i < memory->policy_count; i++) {
		const __u16 *link = (const __u16 *)&memory->policies[i].policy;

		for (int n = 0; n < 4 * FNM_CHAIN; n++)
			must(!link[n] || engine->tables.books[link[n]].state == BOOK_LIVE);
	}
	for (size_t i = 0; i < engine->live; i++) {
		const struct book *book = &engine->tables.books[engine->order[i]];
		bool found = false;

		for (size_t n = 0; n < memory->policy_count && !found; n++)
			found = prefix_equal(&memory->policies[n].target, &book->target) &&
				named(engine, &memory->policies[n].policy, engine->order[i]);
		must(found && book->state == BOOK_LIVE);
		must(mitigation_find(engine, book->id) == engine->order[i]);
	}
}

static void give(struct session *session, const unsigned char *bytes, size_t length)
{
	size_t size;
	char *room = session_room(session, &size);

	if (!room || !length)
		return;
	size = size < length ? size : length;
	memcpy(room, bytes, size);
	session_received(session, size);
	while (session_busy(session)) {
		session_work(session, memory->engine);
		session->out_sent = session->out_used;
	}
	give(session, bytes + size, session->closing ? 0 : length - size);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t length)
{
	struct session session = {.greeted = true};

	begin();
	/* The first byte is time that passes, so that deadlines and tombs end as well. */
	if (length) {
		memory->now_ms += bytes[0] * 700ull;
		mitigations_tick(memory->engine);
		rates_tick(memory->engine);
		give(&session, bytes + 1, length - 1);
	}
	check_policies(memory->engine);
	if (length && bytes[0] % 16 == 0) {
		memory_restart(memory);
		check_policies(memory->engine);
	}
	session_free(&session);
	return 0;
}
