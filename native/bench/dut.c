/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts a program on an interface and leaves it there until its standard input is closed.
 *
 * usage: bench-dut DIRECTORY INTERFACE drop|swap|baseline|engine|oracle [WSCALE]
 *
 * Says "ready" when it is in place. oracle is the engine with the cookies of this kernel, so that
 * a listener here is its protected server; WSCALE is what that server announces.
 */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "baseline.h"
#include "flood.h"
#include "world.h"

#define OTHER_FLOWS 8192 /* that are known while the flood comes */
#define FLOW_SETS   (1 << 18)
#define FLOW6_SETS  1024
#define LAG_MS	    64 /* the timestamp clock must never lead */

static const char *open_it(struct world *world, const char *directory, const char *kind)
{
	char path[512];

	if (!strcmp(kind, "drop") || !strcmp(kind, "swap")) {
		snprintf(path, sizeof(path), "%s/flood.bpf.o", directory);
		world_open_plain(world, path, "seen");
		return !strcmp(kind, "drop") ? "dut_drop" : "dut_swap";
	}
	if (strcmp(kind, "baseline") && strcmp(kind, "engine") && strcmp(kind, "oracle"))
		die("drop, swap, baseline, engine or oracle, not %s", kind);
	snprintf(path, sizeof(path), "%s/%s.bpf.o", directory, kind);
	world_open(world, path, strcmp(kind, "baseline") != 0, &world_shipped);
	world_forget_flows(world, OTHER_FLOWS);
	return world->engine ? "fnm_xdp" : "ref_entry";
}

/* The server is this kernel, with tcp_timestamps=2: its clock has no offset of its own. */
static void be_this_kernel(struct world *world, int wscale)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .repeat = 1);
	struct fnm_slot *slot = &world->slots[SLOT_TCP];
	uint8_t frame[BENCH_FRAME] = {0};
	struct timespec now;

	options.data_in = frame;
	options.data_size_in = sizeof(frame);
	if (bpf_prog_test_run_opts(world_program(world, "fnm_clock"), &options))
		die("cannot read the engine clock: %s", strerror(errno));
	clock_gettime(CLOCK_MONOTONIC, &now);
	slot->tcp.ts_offset =
	    now.tv_sec * 1000ull + now.tv_nsec / 1000000 - world->control->clock_ms - LAG_MS;
	slot->tcp.wscale = wscale;
	slot->flags = FNM_TCP_SACK | FNM_TCP_WSCALE | FNM_TCP_TIMESTAMPS | FNM_TCP_TS_NO_OFFSET;
}

static void report(const struct world *world, const char *kind)
{
	const char *separator = "";

	printf("{");
#define SHOW(name, which)                                                                          \
	printf("%s\"%s\":%llu", separator, name, (unsigned long long)world_count(world, which));   \
	separator = ","
#define REASON(name, verdict, words) SHOW(#name, FNM_R_##name);
	if (world->engine) {
		FNM_REASONS(REASON)
	} else if (!strcmp(kind, "baseline")) {
		SHOW("answered", REF_ANSWERED);
		SHOW("good_cookie", REF_GOOD_COOKIE);
		SHOW("bad_cookie", REF_BAD_COOKIE);
		SHOW("known", REF_KNOWN);
	} else {
		SHOW("judged", FLOOD_JUDGED);
	}
#undef REASON
#undef SHOW
	printf("}\n");
}

int main(int argc, char **argv)
{
	struct world world;
	struct bpf_link *link;
	const char *name;
	char byte;

	if (argc != 4 && argc != 5)
		die("usage: bench-dut DIRECTORY INTERFACE KIND [WSCALE]");
	name = open_it(&world, argv[1], argv[3]);
	if (argc == 5)
		be_this_kernel(&world, atoi(argv[4]));
	link = bpf_program__attach_xdp(bpf_object__find_program_by_name(world.object, name),
				       if_nametoindex(argv[2]));
	if (!link)
		die("cannot attach %s to %s: %s", name, argv[2], strerror(errno));
	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	report(&world, argv[3]);
	bpf_link__destroy(link);
	world_close(&world);
	return 0;
}
