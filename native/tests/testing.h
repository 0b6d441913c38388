/* SPDX-License-Identifier: Apache-2.0 */
/* What every test program needs: a check that names itself, and requests on plain memory. */
#ifndef TESTS_TESTING_H
#define TESTS_TESTING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "protocol.h"

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

#define RUN(test)                                                                                  \
	do {                                                                                       \
		test();                                                                            \
		printf("ok   %s\n", #test);                                                        \
	} while (0)

/* The answer to a request; the caller owns it. */
static inline json_t *ask(struct memory *memory, const char *request)
{
	struct session session = {.greeted = true};
	json_t *answer = protocol_answer(&session, memory->engine, request, strlen(request));

	while (session.scan) {
		struct scan *scan = session.scan;

		if (!scan_step(memory->engine, scan))
			continue;
		answer = protocol_scanned(memory->engine, scan);
		session.scan = NULL;
		scan_free(scan);
	}
	session_free(&session);
	return answer;
}

static inline bool says(json_t *answer, const char *field, const char *wanted)
{
	const char *value = json_string_value(json_object_get(answer, field));
	bool same = value && !strcmp(value, wanted);

	if (!same)
		fprintf(stderr, "%s: %s instead of %s (%s)\n", field, value ? value : "nothing",
			wanted, json_string_value(json_object_get(answer, "message")));
	json_decref(answer);
	return same;
}

#define OUTCOME(memory, request, wanted) CHECK(says(ask(memory, request), "outcome", wanted))
#define REFUSED(memory, request, wanted) CHECK(says(ask(memory, request), "error", wanted))

#define PUT(id, revision, target, kind, body)                                                      \
	"{\"op\":\"put\",\"id\":\"" id "\",\"revision\":" #revision ",\"target\":\"" target        \
	"\",\"expires_ms\":60000,\"kind\":\"" kind "\",\"" kind "\":{" body "}}"
#define WATCH(id, revision, target) PUT(id, revision, target, "watch", "")

#endif
