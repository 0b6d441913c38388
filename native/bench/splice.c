/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients on one side of a gateway and a server on the other, which do what they are told.
 *
 * usage: bench-splice DIRECTORY CPU CLIENT_NAMESPACE SERVER_NAMESPACE
 *
 * Both have an interface eth0. Says "ready", then reads lines from its standard input and answers
 * each with a line of JSON:
 *
 *   open FIRST COUNT               handshakes of so many flows, as fast as it goes
 *   to-server FIRST COUNT SECONDS  segments of flows that are open, in turn, as fast as it goes
 *   to-client FIRST COUNT SECONDS
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "splice.h"
#include "world.h"

#define ENDLESS	 2000000000 /* repeats of one call; the alarm ends it */
#define ATTEMPTS 3
#define PAUSE_US 200

static volatile sig_atomic_t over;

struct side {
	int namespace, interface;
	struct bpf_link *link;
};

struct lab {
	struct world world;
	struct side client, server;
};

static void on_alarm(int number)
{
	(void)number;
	over = 1;
}

/* An alarm that repeats: one that comes between two calls would end nothing. */
static void alarm_in(double wanted)
{
	struct itimerval timer = {.it_interval.tv_usec = 10000};

	timer.it_value.tv_sec = (time_t)wanted;
	timer.it_value.tv_usec = (wanted - timer.it_value.tv_sec) * 1e6;
	setitimer(ITIMER_REAL, &timer, NULL);
}

static void no_alarm(void)
{
	const struct itimerval never = {0};

	setitimer(ITIMER_REAL, &never, NULL);
}

static void enter(const struct side *side)
{
	if (setns(side->namespace, CLONE_NEWNET))
		die("cannot enter a network namespace: %s", strerror(errno));
}

static void join(struct lab *lab, struct side *side, const char *name, const char *program)
{
	char path[512];

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	side->namespace = open(path, O_RDONLY | O_CLOEXEC);
	if (side->namespace < 0)
		die("%s: %s", path, strerror(errno));
	enter(side);
	side->interface = if_nametoindex("eth0");
	side->link = bpf_program__attach_xdp(
	    bpf_object__find_program_by_name(lab->world.object, program), side->interface);
	if (!side->link)
		die("cannot attach %s: %s", program, strerror(errno));
}

static struct splice_job read_job(const struct lab *lab)
{
	struct splice_job job;
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(world_map(&lab->world, "job"), &zero, &job))
		die("read of the job: %s", strerror(errno));
	return job;
}

static void write_job(const struct lab *lab, const struct splice_job *job)
{
	uint32_t zero = 0;

	if (bpf_map_update_elem(world_map(&lab->world, "job"), &zero, job, BPF_ANY))
		die("write of the job: %s", strerror(errno));
}

/* False when a signal has ended it. */
static int run(const struct lab *lab, const struct side *from, uint32_t length, int repeat)
{
	struct xdp_md context = {.ingress_ifindex = from->interface, .data_end = length};
	uint8_t empty[SPLICE_UNCUT_SYN] = {0};
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = empty, .data_size_in = length,
		    .ctx_in = &context, .ctx_size_in = sizeof(context), .repeat = repeat,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = SPLICE_BATCH);

	enter(from);
	if (!bpf_prog_test_run_opts(world_program(&lab->world, "splice_send"), &options))
		return 1;
	if (errno != EINTR)
		die("no more can be sent: %s", strerror(errno));
	return 0;
}

/* Until nothing more is opened: what was sent last may still be on its way. */
static uint64_t settled(const struct lab *lab)
{
	uint64_t before, now = world_count(&lab->world, SPLICE_OPENED);

	do {
		before = now;
		usleep(PAUSE_US);
		now = world_count(&lab->world, SPLICE_OPENED);
	} while (now != before);
	return now;
}

static double took(const struct lab *lab)
{
	struct splice_job job = read_job(lab);

	return (job.ended_ns - job.begun_ns) / 1e9;
}

/* What has been lost is tried again, and not counted. */
static double open_flows(const struct lab *lab, const struct splice_job *job, uint64_t *done)
{
	uint64_t before = world_count(&lab->world, SPLICE_OPENED), now = before;
	double first = 0;

	for (int i = 0; i < ATTEMPTS && now < before + job->count; i++) {
		run(lab, &lab->client, SPLICE_UNCUT_SYN, job->count);
		now = settled(lab);
		if (i)
			continue;
		first = took(lab);
		*done = now - before;
	}
	return first;
}

static double send_segments(const struct lab *lab, const struct splice_job *job, double wanted,
			    uint64_t *done)
{
	int to_server = job->kind == SPLICE_TO_SERVER;
	const struct side *from = to_server ? &lab->client : &lab->server;
	enum splice_seen there = to_server ? SPLICE_AT_SERVER : SPLICE_AT_CLIENT;
	uint64_t before = world_count(&lab->world, there);

	over = 0;
	alarm_in(wanted);
	/* A time there is only once there were two batches. */
	do
		run(lab, from, SPLICE_SEGMENT_FRAME, ENDLESS);
	while (!over || !took(lab));
	no_alarm();
	*done = world_count(&lab->world, there) - before;
	return took(lab);
}

static void obey(const struct lab *lab, struct splice_job *job, double wanted)
{
	static const char *const names[] = {"asked",	 "opened", "proxied", "at_server",
					    "at_client", "wrong",  "other"};
	uint64_t before[SPLICE_COUNTERS], done = 0;
	double duration;

	for (int i = 0; i < SPLICE_COUNTERS; i++)
		before[i] = world_count(&lab->world, i);
	write_job(lab, job);
	duration = job->kind == SPLICE_OPEN ? open_flows(lab, job, &done)
					    : send_segments(lab, job, wanted, &done);
	printf("{\"seconds\":%.6f,\"done\":%llu,\"sent\":%llu", duration, (unsigned long long)done,
	       (unsigned long long)read_job(lab).sent);
	for (int i = 0; i < SPLICE_COUNTERS; i++)
		printf(",\"%s\":%llu", names[i],
		       (unsigned long long)(world_count(&lab->world, i) - before[i]));
	puts("}");
	fflush(stdout);
}

static void serve(const struct lab *lab)
{
	char line[256], word[32];

	while (fgets(line, sizeof(line), stdin)) {
		struct splice_job job = {0};
		double wanted = 0;
		int read = sscanf(line, "%31s %u %u %lf", word, &job.first, &job.count, &wanted);

		if (read == 3 && !strcmp(word, "open"))
			job.kind = SPLICE_OPEN;
		else if (read == 4 && !strcmp(word, "to-server"))
			job.kind = SPLICE_TO_SERVER;
		else if (read == 4 && !strcmp(word, "to-client"))
			job.kind = SPLICE_TO_CLIENT;
		else
			die("this is not to be understood: %s", line);
		if (!job.count || job.first >= SPLICE_FLOWS || job.count > SPLICE_FLOWS - job.first)
			die("there are %d flows", SPLICE_FLOWS);
		obey(lab, &job, wanted);
	}
}

int main(int argc, char **argv)
{
	struct lab lab;
	char path[512];

	if (argc != 5)
		die("usage: bench-splice DIRECTORY CPU CLIENT_NAMESPACE SERVER_NAMESPACE");
	snprintf(path, sizeof(path), "%s/splice.bpf.o", argv[1]);
	pin_to_cpu(atoi(argv[2]));
	setpriority(PRIO_PROCESS, 0, -20); /* it is what is measured, whatever else runs here */
	signal(SIGALRM, on_alarm);
	world_open_plain(&lab.world, path, "seen");
	join(&lab, &lab.client, argv[3], "splice_client");
	join(&lab, &lab.server, argv[4], "splice_server");
	puts("ready");
	fflush(stdout);
	serve(&lab);
	bpf_link__destroy(lab.client.link);
	bpf_link__destroy(lab.server.link);
	world_close(&lab.world);
	return 0;
}
