/* SPDX-License-Identifier: Apache-2.0 */
/* One connection's bytes, in and out: lines, their order, and their bounds. No sockets. */
#ifndef SYNPROXYD_SESSION_H
#define SYNPROXYD_SESSION_H

#include "engine.h"
#include "scan.h"

#define LINE_MOST (1 << 20)

#define OUT_HIGH (64 << 10) /* with so much unread, no further request is looked at */

struct session {
	char *in;
	size_t in_start, in_used, in_size; /* what is not answered lies between start and used */
	size_t searched;		   /* from start on: bytes that hold no line end */
	char *out;
	size_t out_used, out_sent;
	struct scan *scan; /* answers the request before; the next one waits */
	bool greeted;
	bool closing; /* after what is in `out` */
};

void session_free(struct session *session);
/* Room for the next bytes: at least one, as long as the session is not closing. */
char *session_room(struct session *session, size_t *size);
/* `size` bytes have come into that room. */
void session_received(struct session *session, size_t size);
/* Answers one request, or does a part of a long one. */
void session_work(struct session *session, struct engine *engine);
/* whether session_work has something to do */
bool session_busy(struct session *session);
bool session_wants_input(const struct session *session);
/* Tells a peer why it is not served; the session is closing afterwards. */
void session_turn_away(struct session *session, const char *error, const char *message,
		       const char *todo);

#endif
