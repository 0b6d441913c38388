/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nanoseconds a packet, of the program alone: engine and baseline side by side by BPF_PROG_RUN.
 *
 * usage: bench-program DIRECTORY CPU ROUNDS REPEAT [CASE...|answers]
 *
 * One line of JSON a case, of all or of those that begin so; `answers` shows instead what both
 * programs say to each SYN. Rounds of both programs take turns, each with a run that only restores
 * the packet, which is subtracted. Counters prove that each packet met the fate that is measured.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "baseline.h"
#include "world.h"

#define FLOW_SETS  (1 << 18)
#define FLOW6_SETS (1 << 16)
#define OTHERS	   8192
#define MAX_ROUNDS 1000
#define TRIES	   3
#define NONE	   (-1)

enum preparation { PLAIN, KNOWN, VALID_ACK, OLD_ACK };

struct test {
	char name[48];
	enum preparation preparation;
	uint32_t flows;	   /* how many are used in turn: a power of two */
	int engine_reason; /* which counter has to move */
	int baseline_counter;
	struct frame_spec spec;
};

struct rig {
	struct world world;
	int run, restore, clock, cases, acks;
	struct bench_case plan;
	double whole[MAX_ROUNDS], restoring[MAX_ROUNDS]; /* ns a packet */
	uint64_t judged;				 /* as is measured, by the counters */
};

static struct rig engine, baseline;
static int repeat_count, rounds;
static char **wanted; /* ends with NULL */

static void rig_open(struct rig *rig, const char *directory, int is_engine)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/bench-%s.bpf.o", directory,
		 is_engine ? "engine" : "baseline");
	world_open(&rig->world, path, is_engine, &world_shipped);
	rig->run = world_program(&rig->world, "bench_run");
	rig->restore = world_program(&rig->world, "bench_restore_only");
	rig->clock = is_engine ? world_program(&rig->world, "bench_clock") : NONE;
	rig->cases = world_map(&rig->world, "bench_cases");
	rig->acks = world_map(&rig->world, "bench_acks");
}

/* Average ns of `times` runs; what the last one left is in `left`. */
static uint32_t prog_run(int program, const struct bench_case *plan, int times, struct frame *left)
{
	LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = plan->frame,
		    .data_size_in = plan->length, .repeat = times);

	if (left) {
		options.data_out = left->bytes;
		options.data_size_out = sizeof(left->bytes);
	}
	if (bpf_prog_test_run_opts(program, &options))
		die("BPF_PROG_RUN: %s", strerror(errno));
	if (left)
		left->length = options.data_size_out;
	return options.duration;
}

static void write_plan(struct rig *rig)
{
	uint32_t zero = 0;

	if (bpf_map_update_elem(rig->cases, &zero, &rig->plan, BPF_ANY))
		die("write of the case: %s", strerror(errno));
}

static void plan_frame(struct rig *rig, const struct frame_spec *spec, struct frame *frame)
{
	frame_build(frame, spec);
	memset(&rig->plan, 0, sizeof(rig->plan));
	memcpy(rig->plan.frame, frame->bytes, frame->length);
	rig->plan.length = frame->length;
	rig->plan.left_over = frame->length;
}

/* The answer to one SYN. */
static void answer(struct rig *rig, const struct frame_spec *spec, struct frame *reply)
{
	struct frame syn;

	plan_frame(rig, spec, &syn);
	write_plan(rig);
	prog_run(rig->run, &rig->plan, 1, reply);
	reply->tcp = syn.tcp;
}

static void make_ack(struct rig *rig, const struct test *test, uint32_t index)
{
	struct frame_spec syn = test->spec, ack = test->spec;
	struct frame reply, frame;
	struct bench_ack element = {};

	syn.flags = 2;
	syn.seq = test->spec.seq - 1;
	syn.options = &frame_syn_options[0];
	syn.client = ack.client = index;
	answer(rig, &syn, &reply);
	ack.ack = frame_sequence(&reply) + 1;
	frame_build(&frame, &ack);
	memcpy(&element.ack, frame.bytes + frame.tcp + 8, 4);
	memcpy(&element.tcp_check, frame.bytes + frame.tcp + 16, 2);
	memcpy(&element.client, frame.bytes + frame.client, 2);
	memcpy(&element.ip_check, frame.bytes + 24, 2);
	if (bpf_map_update_elem(rig->acks, &index, &element, BPF_ANY))
		die("write of an ACK: %s", strerror(errno));
}

static void make_acks(struct rig *rig, const struct test *test)
{
	struct fnm_slot *slot = rig->world.engine ? &rig->world.slots[SLOT_TCP] : NULL;
	uint64_t back = test->preparation == OLD_ACK ? 60000 : 0;

	if (slot)
		slot->tcp.cookie_offset -= back;
	for (uint32_t i = 0; i < BENCH_ACKS; i++)
		make_ack(rig, test, i);
	if (slot)
		slot->tcp.cookie_offset += back;
}

/* Who is known besides while strangers come. */
static uint32_t others(const struct test *test)
{
	return test->preparation == PLAIN ? OTHERS : test->flows;
}

static void prepare(struct rig *rig, const struct test *test)
{
	struct frame frame, left;

	rig->judged = 0;
	world_forget_flows(&rig->world, others(test));
	if (test->preparation == VALID_ACK || test->preparation == OLD_ACK)
		make_acks(rig, test);
	plan_frame(rig, &test->spec, &frame);
	if (rig->clock != NONE)
		prog_run(rig->clock, &rig->plan, 1, NULL);
	if (test->preparation == KNOWN) {
		struct frame_spec flow = test->spec;

		for (uint32_t i = 0; i < test->flows; i++, flow.sport++)
			world_add_flow(&rig->world, &flow);
	}
	rig->plan.client_at = frame.client;
	rig->plan.acks = test->preparation == VALID_ACK || test->preparation == OLD_ACK;
	rig->plan.vary_at = test->spec.protocol == 6 ? frame.tcp : 0;
	rig->plan.vary_mask = test->flows - 1;
	rig->plan.clients = test->preparation != KNOWN && test->spec.extra != FRAME_VLAN;
	write_plan(rig);
	if (rig->plan.acks)
		return;
	prog_run(rig->run, &rig->plan, 1, &left);
	rig->plan.left_over = left.length;
	write_plan(rig);
}

static void check_restored(struct rig *rig)
{
	struct bench_case found;
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(rig->cases, &zero, &found))
		die("read of the case: %s", strerror(errno));
	if (found.failed)
		die("%u frames could not be restored", found.failed);
}

/* One round; 0 when not every packet met its fate. */
static int measure(struct rig *rig, const struct test *test, int round, uint64_t *missed)
{
	int which = rig->world.engine ? test->engine_reason : test->baseline_counter;
	uint64_t before;

	if (rig->plan.acks) {
		world_forget_flows(&rig->world, others(test));
		write_plan(rig);
	}
	rig->restoring[round] = prog_run(rig->restore, &rig->plan, repeat_count, NULL);
	if (rig->plan.acks)
		write_plan(rig);
	before = world_count(&rig->world, which);
	rig->whole[round] = prog_run(rig->run, &rig->plan, repeat_count, NULL);
	before = world_count(&rig->world, which) - before;
	*missed = repeat_count - before;
	rig->judged += before;
	check_restored(rig);
	return !*missed;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(const double *ns, int count, double share)
{
	double sorted[MAX_ROUNDS];

	memcpy(sorted, ns, sizeof(*sorted) * count);
	qsort(sorted, count, sizeof(*sorted), by_value);
	return sorted[(int)(share * (count - 1))];
}

/* What noise adds to restoring must not be taken from the rest: each has its own minimum. */
static double net(const struct rig *rig, int from, int count, double share)
{
	return quantile(rig->whole + from, count, share) -
	       quantile(rig->restoring + from, count, share);
}

/* Minima of groups of rounds tell how far the figure can be trusted. */
static void print_rig(const char *name, const struct rig *rig)
{
	int group = rounds >= 20 ? rounds / 5 : rounds;

	printf(",\"%s\":{\"judged\":%llu,\"min\":%.0f,\"median\":%.0f,\"groups\":[", name,
	       (unsigned long long)rig->judged, net(rig, 0, rounds, 0), net(rig, 0, rounds, 0.5));
	for (int i = 0; i + group <= rounds; i += group)
		printf("%s%.0f", i ? "," : "", net(rig, i, group, 0));
	printf("]}");
}

static int try_test(const struct test *test, uint64_t *missed, const char **whose)
{
	int both = test->baseline_counter != NONE;

	prepare(&engine, test);
	if (both)
		prepare(&baseline, test);
	for (int round = 0; round < rounds; round++) {
		*whose = "the engine";
		if (!measure(&engine, test, round, missed))
			return 0;
		*whose = "the baseline";
		if (both && !measure(&baseline, test, round, missed))
			return 0;
	}
	return 1;
}

static int is_wanted(const char *name)
{
	for (char **begin = wanted; *begin; begin++) {
		if (!strncmp(name, *begin, strlen(*begin)))
			return 1;
	}
	return !*wanted;
}

static void run_test(const struct test *test)
{
	uint64_t missed = 0;
	const char *whose = "";
	int tries = 1;

	if (!is_wanted(test->name))
		return;
	/* A minute that turns between cookie and ACK spoils a try. */
	while (!try_test(test, &missed, &whose)) {
		if (tries++ == TRIES)
			die("%s: %s judged %llu of %d packets otherwise", test->name, whose,
			    (unsigned long long)missed, repeat_count);
	}
	printf("{\"case\":\"%s\",\"runs\":%d,\"repeat\":%d", test->name, rounds, repeat_count);
	print_rig("engine", &engine);
	if (test->baseline_counter != NONE)
		print_rig("baseline", &baseline);
	printf("}\n");
	fflush(stdout);
}

static void tests_of_family(int v6)
{
	const struct frame_spec base = {.v6 = v6,
					.protocol = 6,
					.host = HOST_TCP,
					.sport = 1024,
					.dport = 80,
					.seq = 0x12345678,
					.client = 7};
	const char *family = v6 ? "IPv6" : "IPv4";
	struct test test;

	for (unsigned i = 0; i < frame_syn_layouts; i++) {
		test = (struct test){.flows = 1 << 15,
				     .engine_reason = FNM_R_cookie_sent,
				     .baseline_counter = REF_ANSWERED,
				     .spec = base};
		test.spec.flags = 2;
		test.spec.options = &frame_syn_options[i];
		snprintf(test.name, sizeof(test.name), "syn %s %s", frame_syn_options[i].name,
			 family);
		run_test(&test);
	}
#define TEST(text, ...)                                                                            \
	do {                                                                                       \
		test = (struct test){.flows = 1 << 15, .baseline_counter = NONE, .spec = base};    \
		test.spec.flags = 0x10;                                                            \
		test.spec.options = &frame_timestamps;                                             \
		snprintf(test.name, sizeof(test.name), "%s %s", text, family);                     \
		__VA_ARGS__;                                                                       \
		run_test(&test);                                                                   \
	} while (0)
	TEST("ack valid", test.preparation = VALID_ACK, test.engine_reason = FNM_R_cookie_good,
	     test.baseline_counter = REF_GOOD_COOKIE);
	TEST("ack valid old minute", test.preparation = OLD_ACK,
	     test.engine_reason = FNM_R_cookie_good);
	TEST("ack bad", test.spec.ack = 0x9abcdef0, test.engine_reason = FNM_R_cookie_bad,
	     test.baseline_counter = REF_BAD_COOKIE);
	TEST("known flow", test.preparation = KNOWN, test.flows = 1024,
	     test.engine_reason = FNM_R_known_flow);
	TEST("known flow of 32k", test.preparation = KNOWN, test.engine_reason = FNM_R_known_flow);
	TEST("rst", test.spec.flags = 4, test.engine_reason = FNM_R_rst_unknown);
	TEST("unprotected", test.spec.host = HOST_OTHER, test.engine_reason = FNM_R_unprotected,
	     test.baseline_counter = NONE);
	TEST("unprotected, hashed", test.spec.host = HOST_HASHED,
	     test.engine_reason = FNM_R_unprotected);
	TEST("syn linux vlan", test.spec.flags = 2, test.spec.extra = FRAME_VLAN,
	     test.spec.options = &frame_syn_options[0], test.engine_reason = FNM_R_cookie_sent);
	if (v6)
		TEST("syn linux hop-by-hop", test.spec.flags = 2,
		     test.spec.extra = FRAME_HOP_BY_HOP, test.spec.options = &frame_syn_options[0],
		     test.engine_reason = FNM_R_cookie_sent);
	else
		TEST("fragment", test.spec.extra = FRAME_FRAGMENT,
		     test.engine_reason = FNM_R_fragment);
	TEST("acl 1 rule", test.spec.protocol = 17, test.spec.sport = 53,
	     test.spec.host = HOST_ACL1, test.engine_reason = FNM_R_acl_drop);
	TEST("acl 16 rules", test.spec.protocol = 17, test.spec.sport = 53,
	     test.spec.host = HOST_ACL16, test.engine_reason = FNM_R_acl_drop);
	TEST("sorb", test.spec.protocol = 17, test.spec.host = HOST_SORB,
	     test.engine_reason = FNM_R_not_concerned);
#undef TEST
}

static void print_bytes(const char *name, const struct frame *frame)
{
	printf(",\"%s\":\"", name);
	for (uint32_t i = 0; i < frame->length; i++)
		printf("%02x", frame->bytes[i]);
	printf("\"");
}

/* What both say to each SYN, for somebody else to check. */
static void print_answers(struct rig *rig, int v6)
{
	for (unsigned i = 0; i < frame_syn_layouts; i++) {
		struct frame_spec spec = {.v6 = v6,
					  .protocol = 6,
					  .host = HOST_TCP,
					  .client = 7,
					  .sport = 1024 + i,
					  .dport = 80,
					  .seq = 0xfffffff0 + i,
					  .flags = 2,
					  .options = &frame_syn_options[i]};
		struct frame syn, reply;

		frame_build(&syn, &spec);
		answer(rig, &spec, &reply);
		printf("{\"program\":\"%s\",\"layout\":\"%s\",\"v6\":%s",
		       rig->world.engine ? "engine" : "baseline", spec.options->name,
		       v6 ? "true" : "false");
		print_bytes("syn", &syn);
		print_bytes("answer", &reply);
		printf("}\n");
	}
}

int main(int argc, char **argv)
{
	int answers = argc == 6 && !strcmp(argv[5], "answers");

	if (argc < 5)
		die("usage: bench-program DIRECTORY CPU ROUNDS REPEAT [CASE...|answers]");
	wanted = argv + 5;
	rounds = atoi(argv[3]);
	repeat_count = atoi(argv[4]);
	if (rounds < 1 || rounds > MAX_ROUNDS || repeat_count < 1 || repeat_count > BENCH_ACKS)
		die("rounds: 1 to %d; repeat: 1 to %d", MAX_ROUNDS, BENCH_ACKS);
	pin_to_cpu(atoi(argv[2]));
	rig_open(&engine, argv[1], 1);
	rig_open(&baseline, argv[1], 0);
	for (int v6 = 0; v6 < 2; v6++) {
		if (answers) {
			print_answers(&engine, v6);
			print_answers(&baseline, v6);
		} else {
			tests_of_family(v6);
		}
	}
	world_close(&engine.world);
	world_close(&baseline.world);
	return 0;
}
