/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server and its clients, to be seen while they are under attack.
 *
 * usage: bench-service server CPU ADDRESS PORT STREAM_PORT
 *        bench-service client CPU ADDRESS PORT STREAM_PORT PER_SECOND SECONDS
 *
 * The server answers a request on PORT with 1 kB, and on STREAM_PORT sends STREAM_BYTES_PER_SECOND
 * for as long as somebody reads. The client opens PER_SECOND connections a second whatever becomes
 * of the earlier ones, each from another source address, and reads one stream meanwhile. Both say
 * "ready" when they are; the client ends with one line of JSON, the server with its standard input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "world.h"

#define REPLY_BYTES		1024
#define STREAM_BYTES_PER_SECOND (16 << 20)
#define STREAM_PIECE		16384
#define BACKLOG			4096
#define EVENTS			256
#define PATIENCE_MS		5000	    /* a visit that takes longer has failed */
#define SOURCES			0xc6120100u /* 198.18.1.0 and up */
#define SOURCE_COUNT		4096

struct visit {
	int fd;			 /* -1: over */
	double begun, connected; /* ms; connected 0: not yet */
	uint32_t bytes;
};

static struct sockaddr_in server, stream_server;

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void check(int result, const char *what)
{
	if (result < 0)
		die("%s: %s", what, strerror(errno));
}

static struct sockaddr_in address_of(const char *text, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
		die("%s is no IPv4 address", text);
	return address;
}

static void watch(int poll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	check(epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static int listen_at(const struct sockaddr_in *address, int flags)
{
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0), one = 1;

	check(fd, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	check(bind(fd, (const struct sockaddr *)address, sizeof(*address)), "bind");
	check(listen(fd, BACKLOG), "listen");
	return fd;
}

static void *send_stream(void *argument)
{
	static const char piece[STREAM_PIECE];
	int fd = (int)(intptr_t)argument;
	double begun = milliseconds(), sent = 0;

	while (send(fd, piece, sizeof(piece), MSG_NOSIGNAL) > 0) {
		double ahead;

		sent += sizeof(piece);
		ahead = sent / STREAM_BYTES_PER_SECOND * 1e3 - (milliseconds() - begun);
		if (ahead > 1)
			usleep(ahead * 1e3);
	}
	close(fd);
	return NULL;
}

static void *serve_streams(void *argument)
{
	int listener = (int)(intptr_t)argument, fd;
	pthread_t thread;

	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (pthread_create(&thread, NULL, send_stream, (void *)(intptr_t)fd))
			die("no thread for a stream");
		pthread_detach(thread);
	}
	return NULL;
}

static void serve_one(int poll, int fd)
{
	static const char reply[REPLY_BYTES];
	char request[256];

	if (read(fd, request, sizeof(request)) > 0)
		(void)!send(fd, reply, sizeof(reply), MSG_NOSIGNAL);
	epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL);
	close(fd);
}

static int run_server(void)
{
	int poll = epoll_create1(0), fd;
	int listener = listen_at(&server, SOCK_NONBLOCK), streams = listen_at(&stream_server, 0);
	struct epoll_event events[EVENTS];
	pthread_t thread;

	check(poll, "epoll");
	if (pthread_create(&thread, NULL, serve_streams, (void *)(intptr_t)streams))
		die("no thread for the streams");
	watch(poll, listener, EPOLLIN, listener);
	watch(poll, STDIN_FILENO, EPOLLIN, STDIN_FILENO);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(poll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.u64 == STDIN_FILENO)
				return 0;
			if (events[i].data.u64 != (uint64_t)listener) {
				serve_one(poll, events[i].data.u64);
				continue;
			}
			while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
				watch(poll, fd, EPOLLIN, fd);
		}
	}
}

static volatile uint64_t stream_bytes;

static void *read_stream(void *argument)
{
	static char piece[STREAM_PIECE];
	int fd = (int)(intptr_t)argument;
	ssize_t got;

	while ((got = read(fd, piece, sizeof(piece))) > 0)
		stream_bytes += got;
	return NULL;
}

static void open_stream(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t thread;

	check(fd, "socket");
	check(connect(fd, (struct sockaddr *)&stream_server, sizeof(stream_server)),
	      "the long flow cannot connect");
	if (pthread_create(&thread, NULL, read_stream, (void *)(intptr_t)fd))
		die("no thread for the long flow");
}

static void begin_visit(int poll, struct visit *visit, uint32_t number)
{
	struct sockaddr_in source = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	check(fd, "socket");
	source.sin_addr.s_addr = htonl(SOURCES + number % SOURCE_COUNT);
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	check(bind(fd, (struct sockaddr *)&source, sizeof(source)), "bind of a client");
	visit->fd = fd;
	visit->begun = milliseconds();
	if (connect(fd, (struct sockaddr *)&server, sizeof(server)) && errno != EINPROGRESS) {
		close(fd);
		visit->fd = -1;
		return;
	}
	watch(poll, fd, EPOLLOUT, number);
}

static void end_visit(struct visit *visit)
{
	close(visit->fd);
	visit->fd = -1;
}

static void go_on(int poll, struct visit *visit, uint32_t number)
{
	struct epoll_event reading = {.events = EPOLLIN, .data.u64 = number};
	char piece[REPLY_BYTES];
	ssize_t got;

	if (!visit->connected) {
		int error = 0;
		socklen_t size = sizeof(error);

		getsockopt(visit->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			end_visit(visit);
			return;
		}
		visit->connected = milliseconds();
		if (send(visit->fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL) < 0)
			end_visit(visit);
		else
			epoll_ctl(poll, EPOLL_CTL_MOD, visit->fd, &reading);
		return;
	}
	got = read(visit->fd, piece, sizeof(piece));
	if (got > 0)
		visit->bytes += got;
	else if (got == 0 || errno != EAGAIN)
		end_visit(visit);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void report(const struct visit *visits, uint32_t count, double stream_rate)
{
	double *connect_ms = calloc(count + 1, sizeof(*connect_ms));
	uint32_t served = 0, connected = 0;

	for (uint32_t i = 0; i < count; i++) {
		served += visits[i].bytes == REPLY_BYTES;
		if (visits[i].connected)
			connect_ms[connected++] = visits[i].connected - visits[i].begun;
	}
	qsort(connect_ms, connected, sizeof(*connect_ms), by_value);
	printf("{\"opened\":%u,\"served\":%u,\"connected\":%u,\"p50_ms\":%.4f,\"p99_ms\":%.4f,"
	       "\"stream_bytes_per_s\":%.0f}\n",
	       count, served, connected, connected ? connect_ms[connected / 2] : 0,
	       connected ? connect_ms[(uint32_t)(connected * 0.99)] : 0, stream_rate);
	free(connect_ms);
}

static int any_open(const struct visit *visits, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (visits[i].fd >= 0)
			return 1;
	}
	return 0;
}

static void handle(int poll, struct visit *visits, int wait_ms)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(poll, events, EVENTS, wait_ms);

	for (int i = 0; i < count; i++)
		go_on(poll, &visits[events[i].data.u64], events[i].data.u64);
}

static int run_client(double per_second, double seconds)
{
	uint32_t count = per_second * seconds, opened = 0;
	struct visit *visits = calloc(count, sizeof(*visits));
	int poll = epoll_create1(0);
	double begun, stream_rate;
	char byte;

	check(poll, "epoll");
	if (!visits)
		die("no memory for %u visits", count);
	open_stream();
	puts("ready");
	fflush(stdout);
	check(read(STDIN_FILENO, &byte, 1), "read of the signal to begin");
	begun = milliseconds();
	stream_bytes = 0;
	while (opened < count) {
		double due = begun + opened * 1e3 / per_second, now = milliseconds();

		if (now >= due) {
			begin_visit(poll, &visits[opened], opened);
			opened++;
		}
		handle(poll, visits, now < due ? (int)(due - now) : 0);
	}
	stream_rate = stream_bytes / (milliseconds() - begun) * 1e3;
	while (milliseconds() < begun + seconds * 1e3 + PATIENCE_MS && any_open(visits, count))
		handle(poll, visits, 10);
	report(visits, count, stream_rate);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 6)
		die("usage: bench-service server|client CPU ADDRESS PORT STREAM_PORT [PER_SECOND "
		    "SECONDS]");
	pin_to_cpu(atoi(argv[2]));
	signal(SIGPIPE, SIG_IGN);
	server = address_of(argv[3], argv[4]);
	stream_server = address_of(argv[3], argv[5]);
	if (!strcmp(argv[1], "server"))
		return run_server();
	if (argc != 8)
		die("client wants PER_SECOND and SECONDS");
	return run_client(atof(argv[6]), atof(argv[7]));
}
