/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "counters.h"

/* A shorter window would make a rate out of a handful of packets. */
#define WINDOW_LEAST_MS 500

#define WORD(name, verdict, words)    #name,
#define VERDICT(name, verdict, words) VERDICT_##verdict,

static const char *const reason_words[] = {FNM_REASONS(WORD)};
static const unsigned char verdicts[] = {FNM_REASONS(VERDICT)};

_Static_assert(FNM_R_COUNT <= FNM_REASON_SLOTS, "more reasons than counters");

const char *reason_word(unsigned int reason)
{
	return reason < FNM_R_COUNT ? reason_words[reason] : "unknown";
}

enum verdict reason_verdict(unsigned int reason)
{
	return reason < FNM_R_COUNT ? verdicts[reason] : VERDICT_PASS;
}

void counters_add(struct fnm_counters *sum, const struct fnm_counters *more)
{
	for (int i = 0; i < FNM_REASON_SLOTS; i++)
		sum->packets[i] += more->packets[i];
	sum->bytes_passed += more->bytes_passed;
	sum->bytes_dropped += more->bytes_dropped;
}

static int add_slot(const struct engine *engine, uint16_t slot, struct fnm_counters *sum)
{
	struct fnm_counters own;
	int error = engine->backend->counters(engine->data, slot, &own);

	if (error)
		return error;
	counters_add(sum, &own);
	counters_add(sum, &engine->tables.books[slot].before);
	return 0;
}

static uint16_t last_heir(const struct engine *engine, uint16_t slot)
{
	const struct book *books = engine->tables.books;

	for (int i = 0; i < FNM_SLOTS && books[slot].state == BOOK_RETIRED; i++)
		slot = books[slot].heir;
	return slot;
}

int counters_of(const struct engine *engine, uint16_t slot, struct fnm_counters *sum)
{
	int error;

	memset(sum, 0, sizeof(*sum));
	error = add_slot(engine, slot, sum);
	for (size_t i = 0; i < engine->retirees && !error; i++)
		if (last_heir(engine, engine->retired[i]) == slot)
			error = add_slot(engine, engine->retired[i], sum);
	return error;
}

int counters_of_all(const struct engine *engine, struct fnm_counters *sum)
{
	int error;

	memset(sum, 0, sizeof(*sum));
	error = add_slot(engine, NONE, sum);
	for (size_t i = 0; i < engine->live && !error; i++)
		error = add_slot(engine, engine->order[i], sum);
	for (size_t i = 0; i < engine->retirees && !error; i++)
		error = add_slot(engine, engine->retired[i], sum);
	return error;
}

static uint64_t per_second(uint64_t now, uint64_t before, uint64_t window_ms)
{
	uint64_t more = now > before ? now - before : 0;

	return more > UINT64_MAX / 1000 ? UINT64_MAX / window_ms : more * 1000 / window_ms;
}

static void measure(struct meter *meter, const struct fnm_counters *now, uint64_t window_ms)
{
	for (int i = 0; i < FNM_REASON_SLOTS; i++)
		meter->rate.packets[i] =
		    per_second(now->packets[i], meter->last.packets[i], window_ms);
	meter->rate.bytes_passed =
	    per_second(now->bytes_passed, meter->last.bytes_passed, window_ms);
	meter->rate.bytes_dropped =
	    per_second(now->bytes_dropped, meter->last.bytes_dropped, window_ms);
	meter->window_ms = window_ms;
}

void rates_tick(struct engine *engine)
{
	uint64_t now_ms = engine->backend->monotonic_ms(engine->data);
	struct fnm_counters now;

	for (size_t i = 0; i < engine->live; i++) {
		struct meter *meter = &engine->meters[engine->order[i]];

		if (meter->at_ms && now_ms - meter->at_ms < WINDOW_LEAST_MS)
			continue;
		if (counters_of(engine, engine->order[i], &now))
			continue;
		if (meter->at_ms)
			measure(meter, &now, now_ms - meter->at_ms);
		meter->last = now;
		meter->at_ms = now_ms;
	}
}

void rates_begin(struct engine *engine, uint16_t slot)
{
	struct meter *meter = &engine->meters[slot];

	memset(meter, 0, sizeof(*meter));
	meter->at_ms = engine->backend->monotonic_ms(engine->data);
}

void rates_move(struct engine *engine, uint16_t from, uint16_t to)
{
	engine->meters[to] = engine->meters[from];
}

void rates_of(const struct engine *engine, uint16_t slot, struct rates *rates, uint64_t *window_ms)
{
	const struct fnm_counters *rate = &engine->meters[slot].rate;
	uint64_t by_verdict[3] = {0};

	for (int i = 0; i < FNM_REASON_SLOTS; i++)
		by_verdict[reason_verdict(i)] += rate->packets[i];
	*rates = (struct rates){
	    .syn = rate->packets[FNM_R_cookie_sent] + rate->packets[FNM_R_cookie_limited] +
		   rate->packets[FNM_R_proven_syn],
	    .cookie_sent = rate->packets[FNM_R_cookie_sent],
	    .cookie_good = rate->packets[FNM_R_cookie_good] + rate->packets[FNM_R_reset_sent],
	    .cookie_bad = rate->packets[FNM_R_cookie_bad],
	    .dropped = by_verdict[VERDICT_DROP],
	    .answered = by_verdict[VERDICT_TX],
	    .passed = by_verdict[VERDICT_PASS],
	    .all = by_verdict[VERDICT_DROP] + by_verdict[VERDICT_TX] + by_verdict[VERDICT_PASS],
	    .bits = (rate->bytes_passed + rate->bytes_dropped) * 8,
	};
	*window_ms = engine->meters[slot].window_ms;
}
