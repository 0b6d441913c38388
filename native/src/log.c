/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

static bool muted;
static unsigned long count_info, count_warning, count_error;

void log_mute(void)
{
	muted = true;
}

static void now_text(char *text, size_t size)
{
	struct timespec now;
	struct tm utc;
	size_t length;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	length = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(text + length, size - length, ".%03ldZ", now.tv_nsec / 1000000);
}

/* Never waits: a line that nobody takes is lost. A pipe that polls as writable has room for
 * PIPE_BUF bytes; O_NONBLOCK would change the terminal for everybody who shares it. */
static void write_text(const char *text, size_t length)
{
	struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (send(STDERR_FILENO, text, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
	    errno != ENOTSOCK)
		return;
	if (poll(&out, 1, 0) == 1 && out.revents == POLLOUT)
		(void)!write(STDERR_FILENO, text, length);
}

static void write_line(json_t *line)
{
	char text[PIPE_BUF];
	size_t length = json_dumpb(line, text, sizeof(text) - 1, JSON_COMPACT);

	if (length && length < sizeof(text)) {
		text[length] = '\n';
		write_text(text, length + 1);
	}
	json_decref(line);
}

static void log_fields(const char *level, const char *event, json_t *fields)
{
	char time_text[40];
	json_t *line;

	now_text(time_text, sizeof(time_text));
	line = json_pack("{s:s,s:s,s:s}", "time", time_text, "level", level, "event", event);
	if (fields)
		json_object_update_new(line, fields);
	write_line(line);
}

static void log_packed(const char *level, const char *event, const char *format, va_list arguments)
{
	json_t *fields = NULL;

	if (muted)
		return;
	if (format)
		fields = json_vpack_ex(NULL, 0, format, arguments);
	log_fields(level, event, fields);
}

#define LOG_AT(level)                                                                              \
	void log_##level(const char *event, const char *fields, ...)                               \
	{                                                                                          \
		va_list arguments;                                                                 \
                                                                                                   \
		count_##level++;                                                                   \
		va_start(arguments, fields);                                                       \
		log_packed(#level, event, fields, arguments);                                      \
		va_end(arguments);                                                                 \
	}

unsigned long log_warnings(void)
{
	return count_warning;
}

unsigned long log_errors(void)
{
	return count_error;
}

LOG_AT(info)
LOG_AT(warning)
LOG_AT(error)

void log_refusal(const char *event, const struct refusal *refusal)
{
	log_error(event, "{s:s,s:s,s:s*}", "error", refusal->error, "message", refusal->message,
		  "todo", refusal->todo);
}
