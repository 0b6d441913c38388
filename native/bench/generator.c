/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floods the other end of a veth with SYNs and counts what comes back.
 *
 * usage: bench-generator DIRECTORY INTERFACE CPU PER_SECOND SECONDS
 *
 * PER_SECOND 0 sends nothing, -1 as fast as it goes. Says "ready" when the sink is in place, and
 * at the end one line of JSON.
 */
#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "flood.h"
#include "world.h"

#define ENDLESS 2000000000 /* repeats of one call; the alarm ends it */

static volatile sig_atomic_t over;

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
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Sum of a header whose checksum, source and port are still to be filled in. */
static uint32_t open_sum(const uint8_t *check, const struct frame *frame)
{
	const uint8_t *source = frame->bytes + frame->client - 2;
	uint32_t sum = (~(check[0] << 8 | check[1])) & 0xffff;

	sum += 0xffff - (source[0] << 8 | source[1]);
	return sum + 0xffff - (source[2] << 8 | source[3]);
}

static void write_flood(struct world *world, double per_second)
{
	const struct frame_spec spec = {.protocol = 6,
					.host = HOST_TCP,
					.flags = 2,
					.dport = 80,
					.seq = 0x12345678,
					.options = &frame_syn_options[0]};
	struct flood flood = {.ns_per_batch = per_second > 0 ? FLOOD_BATCH * 1e9 / per_second : 0};
	struct frame frame;
	uint32_t zero = 0;

	frame_build(&frame, &spec);
	flood.length = frame.length;
	memcpy(flood.frame, frame.bytes, frame.length);
	flood.ip_sum = open_sum(frame.bytes + 24, &frame);
	flood.tcp_sum = open_sum(frame.bytes + frame.tcp + 16, &frame);
	if (bpf_map_update_elem(world_map(world, "flood"), &zero, &flood, BPF_ANY))
		die("write of the flood: %s", strerror(errno));
}

static void run_flood(struct world *world, int interface)
{
	struct xdp_md context = {.ingress_ifindex = interface};
	uint8_t empty[BENCH_FRAME] = {0};
	struct flood flood;
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(world_map(world, "flood"), &zero, &flood))
		die("read of the flood: %s", strerror(errno));
	context.data_end = flood.length;
	while (!over) {
		LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = empty,
			    .data_size_in = flood.length, .ctx_in = &context,
			    .ctx_size_in = sizeof(context), .repeat = ENDLESS,
			    .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = FLOOD_BATCH);

		if (bpf_prog_test_run_opts(world_program(world, "flood_send"), &options) &&
		    errno != EINTR)
			die("the flood stopped: %s", strerror(errno));
	}
}

static void report(const struct world *world, double took)
{
	struct flood flood;
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(world_map(world, "flood"), &zero, &flood))
		die("read of the flood: %s", strerror(errno));
	printf("{\"seconds\":%.6f,\"sent\":%llu,\"answered\":%llu,\"other\":%llu}\n", took,
	       (unsigned long long)flood.sent,
	       (unsigned long long)world_count(world, FLOOD_SYN_ACK),
	       (unsigned long long)world_count(world, FLOOD_OTHER));
}

int main(int argc, char **argv)
{
	struct world world;
	struct bpf_link *link;
	char path[512];
	int interface;
	double begun, rate, wanted;

	if (argc != 6)
		die("usage: bench-generator DIRECTORY INTERFACE CPU PER_SECOND SECONDS");
	snprintf(path, sizeof(path), "%s/flood.bpf.o", argv[1]);
	interface = if_nametoindex(argv[2]);
	if (!interface)
		die("there is no interface %s here", argv[2]);
	rate = atof(argv[4]);
	wanted = atof(argv[5]);
	pin_to_cpu(atoi(argv[3]));
	/* With a rate it stands for other machines, which take no time from this one; without one
	 * it is what is measured, whatever else runs here. */
	setpriority(PRIO_PROCESS, 0, rate < 0 ? -20 : 19);
	world_open_plain(&world, path, "seen");
	write_flood(&world, rate);
	link = bpf_program__attach_xdp(bpf_object__find_program_by_name(world.object, "flood_sink"),
				       interface);
	if (!link)
		die("cannot attach the sink to %s: %s", argv[2], strerror(errno));
	puts("ready");
	fflush(stdout);
	begun = seconds();
	alarm_in(wanted);
	if (rate)
		run_flood(&world, interface);
	while (!over)
		pause();
	report(&world, seconds() - begun);
	bpf_link__destroy(link);
	world_close(&world);
	return 0;
}
