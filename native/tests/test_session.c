/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes become lines and answers, whatever the pieces they come in, and nothing grows without end.
 */
#include "log.h"
#include "session.h"
#include "testing.h"
#include "wiping.h"

static void feed(struct session *session, const char *bytes, size_t length)
{
	while (length) {
		size_t size;
		char *room = session_room(session, &size);

		if (!room)
			return;
		size = size < length ? size : length;
		memcpy(room, bytes, size);
		session_received(session, size);
		bytes += size;
		length -= size;
	}
}

static void work_off(struct session *session, struct engine *engine)
{
	while (session_busy(session))
		session_work(session, engine);
}

static unsigned int lines(const struct session *session)
{
	unsigned int count = 0;

	for (size_t i = session->out_sent; i < session->out_used; i++)
		count += session->out[i] == '\n';
	return count;
}

#define HELLO "{\"op\":\"hello\",\"version\":1}\n"

static void pieces_make_no_difference(void)
{
	static const char text[] = HELLO "{\"op\":\"stats\",\"seq\":1}\n{\"op\":\"flows\"}\n\nx\n";
	struct memory *memory = memory_open();

	for (size_t piece = 1; piece < sizeof(text); piece++) {
		struct session session = {0};

		for (size_t at = 0; at < sizeof(text) - 1; at += piece) {
			size_t left = sizeof(text) - 1 - at;

			feed(&session, text + at, left < piece ? left : piece);
			work_off(&session, memory->engine);
		}
		CHECK(lines(&session) == 5 && !session.closing && !session.in_used);
		session_free(&session);
	}
	memory_close(memory);
}

static void a_line_without_end_is_refused(void)
{
	struct memory *memory = memory_open();
	struct session session = {0};
	char *chunk = calloc(1, 65536);

	memset(chunk, 'x', 65536);
	for (int i = 0; i < 20 && !session.closing; i++) {
		feed(&session, chunk, 65536);
		work_off(&session, memory->engine);
	}
	CHECK(session.closing && lines(&session) == 1 && session.in_size <= 2 * LINE_MOST);
	session_free(&session);
	free(chunk);
	memory_close(memory);
}

static void one_that_does_not_read_is_not_served(void)
{
	struct memory *memory = memory_open();
	struct session session = {0};
	unsigned int asked = 0;

	feed(&session, HELLO, strlen(HELLO));
	work_off(&session, memory->engine);
	while (session_wants_input(&session) && asked++ < 100000) {
		feed(&session, HELLO, strlen(HELLO));
		work_off(&session, memory->engine);
	}
	CHECK(session.out_used - session.out_sent < OUT_HIGH + 4096);
	session.out_sent = session.out_used;
	CHECK(session_wants_input(&session));
	session_free(&session);
	memory_close(memory);
}

static void keys_do_not_stay_behind(void)
{
	static const char secret[] = "c0ffee00c0ffee00c0ffee00c0ffee00";
	struct memory *memory = memory_open();
	struct session session = {0};
	char line[256];

	feed(&session, HELLO, strlen(HELLO));
	snprintf(line, sizeof(line), "{\"op\":\"put\",\"keys\":{\"cookie\":\"%s\"}}\n", secret);
	feed(&session, line, strlen(line));
	work_off(&session, memory->engine);
	CHECK(!memmem(session.in, session.in_size, secret, 8));
	CHECK(!memmem(session.out, session.out_used, secret, 8));
	session_free(&session);
	memory_close(memory);
}

int main(void)
{
	wiping_begin();
	log_mute();
	RUN(pieces_make_no_difference);
	RUN(a_line_without_end_is_refused);
	RUN(one_that_does_not_read_is_not_served);
	RUN(keys_do_not_stay_behind);
	return 0;
}
