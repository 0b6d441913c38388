/* SPDX-License-Identifier: Apache-2.0 */
/* What the cases of selftest work with. */
#ifndef SYNPROXYD_SELFTEST_H
#define SYNPROXYD_SELFTEST_H

#include "counters.h"
#include "packets.h"
#include "session.h"
#include "state.h"

struct bench { /* the engine on maps of its own, and what came of the last packet */
	struct engine *engine;
	struct kernel kernel;
	struct program *program;
	struct session session;
	struct frame sent, answer;
	uint32_t verdict;
	struct fnm_counters before;
	bool good;
	char why[160];
};

bool fail(struct bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A request to the control protocol, which has to be taken. */
void order(struct bench *bench, const char *request);
void send_segment(struct bench *bench, const struct segment *segment);
void send_datagram(struct bench *bench, const struct segment *segment);
/* Verdict and counter of what was sent last. */
void expect(struct bench *bench, enum fnm_reason reason);
/* The answer to it: ports, addresses, tag and checksums have to be right. */
void expect_answer(struct bench *bench, const struct segment *to, uint8_t flags,
		   struct segment *answer);
struct segment segment_from(const char *source, const char *destination, uint8_t flags);
struct segment ack_of(const struct segment *syn, const struct segment *syn_ack);

struct selftest_case {
	const char *words;
	void (*work)(struct bench *bench);
};

extern const struct selftest_case selftest_cases[];
extern const size_t selftest_case_count;

#endif
