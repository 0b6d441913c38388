/* SPDX-License-Identifier: Apache-2.0 */
/* Why a request is refused: a word for the hub, a sentence and a remedy for a person. */
#ifndef SYNPROXYD_REFUSAL_H
#define SYNPROXYD_REFUSAL_H

#include <stdbool.h>

#define E_BAD_REQUEST "bad_request"
#define E_HELLO_FIRST "hello_first"
#define E_VERSION     "version"
#define E_DENIED      "denied"
#define E_STALE	      "stale"
#define E_UNSUPPORTED "unsupported"
#define E_FULL	      "full"
#define E_INTERNAL    "internal"

struct refusal {
	const char *error;
	const char *todo; /* or NULL */
	char message[320];
};

/* Returns false, so that a check can end with it. */
bool refuse(struct refusal *refusal, const char *error, const char *todo, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
