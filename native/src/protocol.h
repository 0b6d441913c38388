/* SPDX-License-Identifier: Apache-2.0 */
/* One request, one answer: the operations of docs/protocols.md. */
#ifndef SYNPROXYD_PROTOCOL_H
#define SYNPROXYD_PROTOCOL_H

#include <jansson.h>

#include "fields.h"
#include "session.h"

#define PROTOCOL_VERSION 1

/* The answer, or NULL where session->scan will make it. */
json_t *protocol_answer(struct session *session, struct engine *engine, const char *line,
			size_t length);
/* The answer of a scan that has come to its end. */
json_t *protocol_scanned(struct engine *engine, struct scan *scan);
json_t *protocol_refused(const struct refusal *refusal);

/* operations that only read: answers.c */
json_t *answer_hello(const struct engine *engine);
json_t *answer_list(const struct engine *engine, const char *after, struct refusal *refusal);
json_t *answer_stats(const struct engine *engine, struct refusal *refusal);
json_t *answer_samples(const struct engine *engine, uint64_t limit);
const char *kind_word(unsigned int kind);

#endif
