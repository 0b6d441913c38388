/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "notify.h"

static int descriptor = -1;
static struct sockaddr_un manager = {.sun_family = AF_UNIX};
static socklen_t manager_size;
static char told[256];

void notify_open(void)
{
	const char *path = getenv("NOTIFY_SOCKET");

	if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(manager.sun_path))
		return;
	memcpy(manager.sun_path, path, strlen(path));
	if (*path == '@') /* a name without a file */
		manager.sun_path[0] = 0;
	manager_size = offsetof(struct sockaddr_un, sun_path) + strlen(path);
	descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

void notify_close(void)
{
	if (descriptor >= 0)
		close(descriptor);
	descriptor = -1;
	*told = 0;
}

void notify(const char *state)
{
	if (descriptor >= 0)
		(void)!sendto(descriptor, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT,
			      (const struct sockaddr *)&manager, manager_size);
}

void notify_status(const char *format, ...)
{
	char text[sizeof(told)] = "STATUS=";
	size_t size = strlen(text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + size, sizeof(text) - size, format, arguments);
	va_end(arguments);
	if (!strcmp(text, told))
		return;
	memcpy(told, text, sizeof(told));
	notify(text);
}
