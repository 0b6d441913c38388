/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "protocol.h"
#include "session.h"

#define ROOM 4096

void session_free(struct session *session)
{
	/* An unfinished line may hold keys as well as a whole one. */
	if (session->in)
		explicit_bzero(session->in, session->in_size);
	free(session->in);
	free(session->out);
	scan_free(session->scan);
	memset(session, 0, sizeof(*session));
}

/* Not realloc, which would leave a copy of the bytes behind. */
static bool grow(struct session *session)
{
	size_t size = session->in_size ? 2 * session->in_size : ROOM;
	char *in = malloc(size);

	if (!in)
		return false;
	if (session->in) {
		memcpy(in, session->in, session->in_used);
		explicit_bzero(session->in, session->in_size);
		free(session->in);
	}
	session->in = in;
	session->in_size = size;
	return true;
}

static void move_to_front(struct session *session)
{
	size_t left = session->in_used - session->in_start;

	memmove(session->in, session->in + session->in_start, left);
	explicit_bzero(session->in + left, session->in_used - left);
	session->in_start = 0;
	session->in_used = left;
}

char *session_room(struct session *session, size_t *size)
{
	if (session->in_used == session->in_size && session->in_start)
		move_to_front(session);
	else if (session->in_used == session->in_size && !grow(session))
		session->closing = true;
	*size = session->in_size - session->in_used;
	return *size ? session->in + session->in_used : NULL;
}

void session_received(struct session *session, size_t size)
{
	session->in_used += size;
}

static void put_out(struct session *session, const char *text, size_t length)
{
	char *out = realloc(session->out, session->out_used + length + 1);

	if (!out) {
		session->closing = true;
		return;
	}
	memcpy(out + session->out_used, text, length);
	out[session->out_used + length] = '\n';
	session->out = out;
	session->out_used += length + 1;
}

static void answer(struct session *session, json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

	if (text)
		put_out(session, text, strlen(text));
	else
		session->closing = true;
	free(text);
	json_decref(object);
}

void session_turn_away(struct session *session, const char *error, const char *message,
		       const char *todo)
{
	struct refusal refusal;

	refuse(&refusal, error, todo, "%s", message);
	answer(session, protocol_refused(&refusal));
	session->closing = true;
}

static void forget(struct session *session, size_t length)
{
	explicit_bzero(session->in + session->in_start, length);
	session->in_start += length;
	session->searched = 0;
	if (session->in_start == session->in_used)
		session->in_start = session->in_used = 0;
}

static void finish_scan(struct session *session, struct engine *engine)
{
	struct scan *scan = session->scan;

	if (!scan_step(engine, scan))
		return;
	session->scan = NULL;
	answer(session, protocol_scanned(engine, scan));
	scan_free(scan);
}

/* Length of the next line, with its end; 0: it is not complete. */
static size_t line_length(struct session *session)
{
	size_t left = session->in_used - session->in_start;
	char *line = session->in + session->in_start;
	char *end = left > session->searched
			? memchr(line + session->searched, '\n', left - session->searched)
			: NULL;

	session->searched = end ? (size_t)(end - line) : left;
	return end ? session->searched + 1 : 0;
}

static bool too_long(const struct session *session)
{
	return session->searched > LINE_MOST;
}

static void next_line(struct session *session, struct engine *engine)
{
	size_t length = line_length(session);
	json_t *object;

	if (too_long(session)) {
		session_turn_away(session, E_BAD_REQUEST, "a line is longer than 1 MiB", NULL);
		return;
	}
	if (!length)
		return;
	object = protocol_answer(session, engine, session->in + session->in_start, length - 1);
	forget(session, length);
	if (!session->scan)
		answer(session, object);
}

static bool full(const struct session *session)
{
	return session->out_used - session->out_sent > OUT_HIGH;
}

bool session_wants_input(const struct session *session)
{
	return !session->closing && !session->scan && !full(session);
}

bool session_busy(struct session *session)
{
	return !session->closing && !full(session) &&
	       (session->scan || line_length(session) || too_long(session));
}

void session_work(struct session *session, struct engine *engine)
{
	if (session->closing || full(session))
		return;
	if (session->scan)
		finish_scan(session, engine);
	else
		next_line(session, engine);
}
