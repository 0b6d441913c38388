/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd hears, at a path and under a name that is no file; and that it is never waited for.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "notify.h"
#include "testing.h"

/* The manager's end of `name`, whose first byte may be the @ of an abstract one. */
static int manager(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(fd >= 0 && strlen(name) < sizeof(address.sun_path));
	memcpy(address.sun_path, name, strlen(name));
	if (*name == '@')
		address.sun_path[0] = 0;
	CHECK(!bind(fd, (const struct sockaddr *)&address,
		    offsetof(struct sockaddr_un, sun_path) + strlen(name)));
	CHECK(!setenv("NOTIFY_SOCKET", name, 1));
	return fd;
}

static bool heard(int fd, const char *wanted)
{
	char text[512];
	ssize_t length = recv(fd, text, sizeof(text) - 1, 0);

	if (length < 0)
		return !wanted && errno == EAGAIN;
	text[length] = 0;
	return wanted && !strcmp(text, wanted);
}

static void hears(const char *name)
{
	int fd = manager(name);

	notify_open();
	notify(NOTIFY_READY);
	CHECK(heard(fd, "READY=1"));
	notify_status("%d in force", 1);
	notify_status("%d in force", 1);
	notify_status("%d in force", 2);
	CHECK(heard(fd, "STATUS=1 in force") && heard(fd, "STATUS=2 in force"));
	CHECK(heard(fd, NULL));
	notify_close();
	notify(NOTIFY_ALIVE);
	CHECK(heard(fd, NULL));
	close(fd);
}

static void a_manager_at_a_path_hears_each_state_once(void)
{
	char folder[] = "/tmp/fnm-notify-XXXXXX", name[64];

	CHECK(mkdtemp(folder));
	snprintf(name, sizeof(name), "%s/socket", folder);
	hears(name);
	CHECK(!unlink(name) && !rmdir(folder));
}

static void a_manager_without_a_file_hears_the_same(void)
{
	char name[64];

	snprintf(name, sizeof(name), "@fnm-notify-%d", getpid());
	hears(name);
}

static void what_is_too_long_is_cut_and_what_is_no_address_is_nobody(void)
{
	char name[64], longest[1024];
	int fd;

	snprintf(name, sizeof(name), "@fnm-long-%d", getpid());
	fd = manager(name);
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	notify_open();
	notify_status("%s", longest);
	CHECK(recv(fd, longest, sizeof(longest), 0) == 255);
	notify_close();
	close(fd);
	CHECK(!unsetenv("NOTIFY_SOCKET"));
	notify_open();
	notify(NOTIFY_READY);
	notify_close();
	memset(longest, '/', sizeof(longest) - 1);
	CHECK(!setenv("NOTIFY_SOCKET", longest, 1));
	notify_open();
	notify(NOTIFY_READY);
	notify_close();
	CHECK(!setenv("NOTIFY_SOCKET", "relative", 1));
	notify_open();
	notify(NOTIFY_READY);
	notify_close();
}

static void a_manager_that_does_not_read_is_not_waited_for(void)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "@fnm-full-%d", getpid());
	fd = manager(name);
	notify_open();
	for (int i = 0; i < 10000; i++)
		notify(NOTIFY_ALIVE);
	CHECK(heard(fd, "WATCHDOG=1"));
	notify_close();
	close(fd);
	/* And one that is gone is no error. */
	notify_open();
	notify(NOTIFY_ALIVE);
	notify_close();
}

int main(void)
{
	RUN(a_manager_at_a_path_hears_each_state_once);
	RUN(a_manager_without_a_file_hears_the_same);
	RUN(what_is_too_long_is_cut_and_what_is_no_address_is_nobody);
	RUN(a_manager_that_does_not_read_is_not_waited_for);
	return 0;
}
