/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control.h"
#include "log.h"
#include "session.h"

#define EVENTS_MOST 64

struct client {
	int fd; /* -1: free */
	struct session session;
	uint64_t stuck_since; /* ms; 0: the peer reads */
	bool busy;	      /* something is left to do without the peer */
	bool ended;	      /* the peer sends no more */
};

struct control {
	struct engine *engine;
	int listener, poll;
	bool deaf; /* no descriptor was left for who wants to connect */
	uid_t allowed[ALLOWED_USERS_MOST];
	unsigned int allowed_count;
	struct client clients[CLIENTS_MOST];
};

static uint64_t now_ms(const struct control *control)
{
	return control->engine->backend->monotonic_ms(control->engine->data);
}

/* ---- the socket ---- */

static bool address_of(const char *path, struct sockaddr_un *address, struct refusal *refusal)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address->sun_path))
		return refuse(refusal, E_BAD_REQUEST, "give a shorter path in --socket",
			      "%s is too long for a Unix socket", path);
	memcpy(address->sun_path, path, strlen(path) + 1);
	return true;
}

static bool replace_stale(const char *path, const struct sockaddr_un *address,
			  struct refusal *refusal)
{
	struct stat status;
	int probe, error;

	if (lstat(path, &status))
		return errno == ENOENT ||
		       refuse(refusal, E_INTERNAL, NULL, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(status.st_mode))
		return refuse(refusal, E_INTERNAL, "move it away, or give another path in --socket",
			      "%s exists and is no socket", path);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	error = connect(probe, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
	close(probe);
	if (error != ECONNREFUSED)
		return refuse(refusal, E_INTERNAL,
			      "stop the other synproxyd, or give another path in --socket",
			      "%s is served already", path);
	return !unlink(path) || refuse(refusal, E_INTERNAL, NULL, "%s: %s", path, strerror(errno));
}

static bool give_to_group(const char *path, const char *name, struct refusal *refusal)
{
	struct group *group;

	if (!name)
		return true;
	group = getgrnam(name);
	if (!group)
		return refuse(refusal, E_BAD_REQUEST, "make it with: groupadd --system NAME",
			      "there is no group %s", name);
	return !chown(path, -1, group->gr_gid) ||
	       refuse(refusal, E_INTERNAL, "run it with CAP_CHOWN, or as a member of that group",
		      "%s cannot be given to the group %s: %s", path, name, strerror(errno));
}

static bool bind_and_listen(int fd, const struct options *options,
			    const struct sockaddr_un *address, struct refusal *refusal)
{
	/* Nobody may connect between bind and chown. */
	mode_t before = umask(0177);
	int error = bind(fd, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;

	umask(before);
	if (error)
		return refuse(refusal, E_INTERNAL,
			      error == ENOENT ? "make its directory, or let systemd do so by "
						"RuntimeDirectory=synproxyd"
					      : NULL,
			      "%s: %s", options->socket, strerror(error));
	if (!give_to_group(options->socket, options->socket_group, refusal))
		return false;
	if (chmod(options->socket, 0660) || listen(fd, CLIENTS_MOST))
		return refuse(refusal, E_INTERNAL, NULL, "%s: %s", options->socket,
			      strerror(errno));
	return true;
}

static bool resolve_users(struct control *control, const struct options *options,
			  struct refusal *refusal)
{
	for (unsigned int i = 0; i < options->allow_users; i++) {
		struct passwd *user = getpwnam(options->allow_user[i]);

		if (!user)
			return refuse(refusal, E_BAD_REQUEST, "see the names with: getent passwd",
				      "there is no user %s", options->allow_user[i]);
		control->allowed[control->allowed_count++] = user->pw_uid;
	}
	return true;
}

static bool watch(const struct control *control, int fd, uint32_t events, uint32_t number, int how)
{
	struct epoll_event event = {.events = events, .data.u32 = number};

	return !epoll_ctl(control->poll, how, fd, &event);
}

static bool listen_on(struct control *control, const struct options *options,
		      struct refusal *refusal)
{
	struct sockaddr_un address;

	if (!address_of(options->socket, &address, refusal) ||
	    !replace_stale(options->socket, &address, refusal))
		return false;
	control->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	control->poll = epoll_create1(EPOLL_CLOEXEC);
	if (control->listener < 0 || control->poll < 0)
		return refuse(refusal, E_INTERNAL, NULL, "the control socket: %s", strerror(errno));
	return bind_and_listen(control->listener, options, &address, refusal) &&
	       watch(control, control->listener, EPOLLIN, CLIENTS_MOST, EPOLL_CTL_ADD);
}

struct control *control_open(struct engine *engine, const struct options *options,
			     struct refusal *refusal)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control) {
		refuse(refusal, E_INTERNAL, NULL, "no memory for the control socket");
		return NULL;
	}
	control->engine = engine;
	control->listener = control->poll = -1;
	for (int i = 0; i < CLIENTS_MOST; i++)
		control->clients[i].fd = -1;
	if (resolve_users(control, options, refusal) && listen_on(control, options, refusal))
		return control;
	control_close(control);
	return NULL;
}

int control_poll_fd(const struct control *control)
{
	return control->poll;
}

/* ---- clients ---- */

static void drop(struct client *client)
{
	close(client->fd);
	session_free(&client->session);
	*client = (struct client){.fd = -1};
}

static bool allowed(const struct control *control, int fd, uid_t *uid)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return false;
	*uid = peer.uid;
	for (unsigned int i = 0; i < control->allowed_count; i++)
		if (control->allowed[i] == peer.uid)
			return true;
	return peer.uid == 0;
}

static void flush(struct control *control, struct client *client)
{
	struct session *session = &client->session;
	ssize_t sent = 0;

	while (session->out_sent < session->out_used && sent >= 0) {
		sent = send(client->fd, session->out + session->out_sent,
			    session->out_used - session->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0) {
			session->out_sent += sent;
			client->stuck_since = 0;
		}
	}
	if (sent < 0 && errno != EAGAIN && errno != EINTR) {
		drop(client);
		return;
	}
	if (session->out_sent < session->out_used) {
		if (!client->stuck_since)
			client->stuck_since = now_ms(control);
		return;
	}
	session->out_sent = session->out_used = 0;
	free(session->out);
	session->out = NULL;
	if (session->closing || (client->ended && !session_busy(session)))
		drop(client);
}

static void rewatch(struct control *control, struct client *client)
{
	const struct session *session = &client->session;
	uint32_t events = session_wants_input(session) && !client->ended ? EPOLLIN : 0;

	if (session->out_used > session->out_sent)
		events |= EPOLLOUT;
	watch(control, client->fd, events, client - control->clients, EPOLL_CTL_MOD);
}

static void turn_away(int fd, const char *error, const char *message, const char *todo)
{
	struct session session = {0};

	session_turn_away(&session, error, message, todo);
	(void)!send(fd, session.out, session.out_used, MSG_NOSIGNAL | MSG_DONTWAIT);
	session_free(&session);
	close(fd);
}

static struct client *unused_client(struct control *control)
{
	for (int i = 0; i < CLIENTS_MOST; i++)
		if (control->clients[i].fd < 0)
			return &control->clients[i];
	return NULL;
}

static void welcome(struct control *control, int fd)
{
	struct client *client = unused_client(control);
	uid_t uid = -1;

	if (!allowed(control, fd, &uid)) {
		log_warning("client.denied", "{s:I}", "uid", (json_int_t)uid);
		turn_away(fd, E_DENIED, "your user is not served",
			  "run synproxyd with --allow-user NAME");
	} else if (!client) {
		log_warning("client.too_many", "{s:I}", "uid", (json_int_t)uid);
		turn_away(fd, E_FULL, "32 connections are open already",
			  "close those that are not needed, or try again later");
	} else {
		*client = (struct client){.fd = fd};
		watch(control, fd, EPOLLIN, client - control->clients, EPOLL_CTL_ADD);
	}
}

/* Who waits there stays: being told of him again and again would be all there is to do. */
static void listen_again(struct control *control, bool again)
{
	control->deaf = !again;
	watch(control, control->listener, again ? EPOLLIN : 0, CLIENTS_MOST, EPOLL_CTL_MOD);
}

static void accept_all(struct control *control)
{
	int fd;

	while ((fd = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		welcome(control, fd);
	if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
		return;
	log_warning("client.too_many", "{s:s}", "message", strerror(errno));
	listen_again(control, false);
}

static void receive(struct client *client)
{
	size_t size;
	char *room = session_room(&client->session, &size);
	ssize_t got;

	if (!room)
		return;
	got = recv(client->fd, room, size, MSG_DONTWAIT);
	if (got > 0)
		session_received(&client->session, got);
	else if (!got)
		client->ended = true;
	else if (errno != EAGAIN && errno != EINTR)
		client->session.closing = true;
}

/* One step of one client, so that a busy one leaves room for the others. */
static void serve(struct control *control, struct client *client)
{
	session_work(&client->session, control->engine);
	flush(control, client);
	if (client->fd < 0)
		return;
	client->busy = session_busy(&client->session);
	rewatch(control, client);
}

static void on_client(struct control *control, struct client *client, uint32_t events)
{
	if (client->fd < 0)
		return;
	if (events & EPOLLIN && session_wants_input(&client->session))
		receive(client);
	else if (events & (EPOLLERR | EPOLLHUP)) {
		drop(client);
		return;
	}
	serve(control, client);
}

bool control_work(struct control *control)
{
	struct epoll_event events[EVENTS_MOST];
	int count = epoll_wait(control->poll, events, EVENTS_MOST, 0);
	bool busy = false;

	for (int i = 0; i < CLIENTS_MOST; i++)
		if (control->clients[i].busy)
			serve(control, &control->clients[i]);
	for (int i = 0; i < count; i++) {
		if (events[i].data.u32 == CLIENTS_MOST)
			accept_all(control);
		else
			on_client(control, &control->clients[events[i].data.u32], events[i].events);
	}
	for (int i = 0; i < CLIENTS_MOST; i++)
		busy |= control->clients[i].busy;
	return busy;
}

void control_tick(struct control *control)
{
	uint64_t now = now_ms(control);

	if (control->deaf)
		listen_again(control, true);
	for (int i = 0; i < CLIENTS_MOST; i++) {
		struct client *client = &control->clients[i];

		if (client->fd >= 0 && client->stuck_since &&
		    now - client->stuck_since > SLOW_READER_MS) {
			log_warning("client.too_slow", NULL);
			drop(client);
		}
	}
}

void control_close(struct control *control)
{
	if (!control)
		return;
	for (int i = 0; i < CLIENTS_MOST; i++)
		if (control->clients[i].fd >= 0)
			drop(&control->clients[i]);
	if (control->listener >= 0)
		close(control->listener);
	if (control->poll >= 0)
		close(control->poll);
	free(control);
}
