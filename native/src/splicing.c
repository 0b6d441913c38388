/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "address.h"
#include "log.h"
#include "rate.h"
#include "splicing.h"
#include "tables.h"

#define PROBES_PPS     50
#define FIRST_PAUSE_MS 1000
#define LAST_PAUSE_MS  8000
#define ASKED_MOST     1000 /* in a tick */

void splicing_begin(struct engine *engine)
{
	struct fnm_rate rate = rate_of_packets(PROBES_PPS, RATE_SECOND_BURST);
	struct fnm_splicing *splicing = engine->tables.splicing;

	splicing->probe_interval = rate.interval;
	splicing->probe_burst = rate.burst;
}

static bool concerns(unsigned int kind, unsigned int mode)
{
	return kind == FNM_WATCH || (kind == FNM_TCP && mode == FNM_SPLICE);
}

static void mark_address(__u64 *bits, const __u32 *word)
{
	uint32_t bit = fnm_prefilter_bit(word[0], word[1], word[2], word[3]);

	bits[bit >> 6] |= 1ull << (bit & 63);
}

static void mark(__u64 *bits, const struct fnm_prefix *target)
{
	if (prefix_is_host(target))
		mark_address(bits, target->address.word);
	else
		memset(bits, 0xff, FNM_PREFILTER * sizeof(*bits));
}

static void open_bits(struct engine *engine, const __u64 *bits)
{
	for (int i = 0; i < FNM_PREFILTER; i++)
		__atomic_or_fetch(&engine->tables.splicing->translated[i], bits[i],
				  __ATOMIC_RELEASE);
}

void splicing_expect(struct engine *engine, const struct fnm_prefix *target, unsigned int kind,
		     unsigned int mode)
{
	__u64 bits[FNM_PREFILTER] = {0};

	if (!engine->facts.splice || !concerns(kind, mode))
		return;
	mark(bits, target);
	open_bits(engine, bits);
	__atomic_store_n(&engine->tables.control->splicing, 1, __ATOMIC_RELEASE);
}

void splicing_resume(struct engine *engine)
{
	for (size_t i = 0; i < engine->live; i++) {
		uint16_t slot = engine->order[i];
		struct fnm_slot *value = &engine->tables.slots[slot];

		/* Nobody would translate what a new client is told. */
		if (!engine->facts.splice && value->kind == FNM_TCP && value->mode == FNM_SPLICE)
			value->mode = FNM_RESET;
		splicing_expect(engine, &engine->tables.books[slot].target,
				engine->tables.slots[slot].kind, engine->tables.slots[slot].mode);
	}
}

static void mark_mitigations(const struct engine *engine, __u64 *bits)
{
	for (size_t i = 0; engine->facts.splice && i < engine->live; i++) {
		uint16_t slot = engine->order[i];

		if (concerns(engine->tables.slots[slot].kind, engine->tables.slots[slot].mode))
			mark(bits, &engine->tables.books[slot].target);
	}
}

/* Nothing but the client's own next segment would have the server asked again, and one that waits
 * for the server to speak sends none: after 1, 2, 4 and 8 s, as a client's stack would. */
static bool to_be_asked(const struct fnm_splice *row, uint32_t now_ms)
{
	uint32_t waited = row->asked_ms - row->opened_ms;
	uint32_t pause = waited > FIRST_PAUSE_MS ? waited : FIRST_PAUSE_MS;

	/* A tick may come a little early. */
	return row->state == FNM_SPLICE_ASKED && !row->ended && waited < LAST_PAUSE_MS - 1000 &&
	       now_ms - row->asked_ms >= pause - pause / 8 && now_ms - row->asked_ms < INT32_MAX;
}

static void ask_again(struct engine *engine, const struct fnm_splice *row)
{
	int error = engine->backend->ask_again(engine->data, row);

	if (!error || engine->splices.failed_to_ask == error)
		return;
	engine->splices.failed_to_ask = error;
	log_warning("splice.not_asked_again", "{s:s,s:s}", "message", strerror(-error), "todo",
		    "a server whose first SYN is lost is asked again only when the client speaks; "
		    "Linux 5.18 and later can do better");
}

bool splicing_lives(const struct engine *engine, const struct fnm_splice *row, uint32_t now)
{
	return row->ports &&
	       fnm_age(now, row->seen) <= fnm_splice_kept(row, engine->tables.control->flow_closing,
							  engine->facts.splice_idle);
}

static void count_row(struct splice_count *count, const struct fnm_splice *row)
{
	if (row->state == FNM_SPLICE_ASKED)
		count->asked++;
	else if (fnm_splice_over(row))
		count->closing++;
	else
		count->open++;
}

static void mark_flows(struct engine *engine, struct splice_count *count, __u64 *bits)
{
	uint32_t now = fnm_seen(engine_now(engine)), now_ms = engine_now(engine);
	unsigned int asked = 0;
	const struct tables *tables = &engine->tables;

	for (uint32_t i = 0; i < tables->splice_sets * FNM_SPLICE_WAYS; i++) {
		const struct fnm_splice *row =
		    &tables->splices[i / FNM_SPLICE_WAYS].way[i % FNM_SPLICE_WAYS];

		if (!splicing_lives(engine, row, now))
			continue;
		count_row(count, row);
		mark_address(bits, row->server.word);
		if (to_be_asked(row, now_ms) && asked++ < ASKED_MOST)
			ask_again(engine, row);
	}
}

static bool any(const __u64 *bits)
{
	for (int i = 0; i < FNM_PREFILTER; i++)
		if (bits[i])
			return true;
	return false;
}

/* A flow may have been entered, of a mitigation that has ended since, in a row that was looked at
 * before: so what was in force at the last look counts, too. */
void splicing_tick(struct engine *engine)
{
	__u64 wanted[FNM_PREFILTER] = {0}, expected[FNM_PREFILTER] = {0};
	struct splice_count *count = &engine->splices;

	if (!engine->tables.control->splicing)
		return;
	count->asked = count->open = count->closing = 0;
	mark_mitigations(engine, expected);
	mark_flows(engine, count, wanted);
	for (int i = 0; i < FNM_PREFILTER; i++)
		wanted[i] |= expected[i] | count->expected[i];
	memcpy(count->expected, expected, sizeof(expected));
	for (int i = 0; i < FNM_PREFILTER; i++)
		__atomic_store_n(&engine->tables.splicing->translated[i], wanted[i],
				 __ATOMIC_RELEASE);
	if (!any(wanted))
		__atomic_store_n(&engine->tables.control->splicing, 0, __ATOMIC_RELEASE);
}

bool splicing_possible(const struct engine *engine, const struct fnm_prefix *target,
		       struct refusal *refusal)
{
	char text[ADDRESS_TEXT];

	if (!engine->facts.splice)
		return refuse(
		    refusal, E_UNSUPPORTED,
		    "start synproxyd without --no-splice, and see its log; or use the "
		    "mode isn-sync or reset",
		    "the mode splice needs to see what leaves by the interface, and nothing "
		    "is attached there");
	if (engine->backend->elsewhere(engine->data, target))
		return refuse(
		    refusal, E_UNSUPPORTED,
		    "use the mode isn-sync, or reset, which need the way to the server alone; or "
		    "lead its answers through this machine's --interface",
		    "%s answers by another way than through here: clients went on with connections "
		    "whose SYN-ACK has not left by any interface of synproxyd",
		    format_prefix(target, text));
	return true;
}
