/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include "address.h"
#include "daemon.h"
#include "mitigations.h"
#include "protocol.h"
#include "selftest.h"

#define SMALL_TABLES 4096

bool fail(struct bench *bench, const char *format, ...)
{
	va_list arguments;

	if (!bench->good)
		return false;
	bench->good = false;
	va_start(arguments, format);
	vsnprintf(bench->why, sizeof(bench->why), format, arguments);
	va_end(arguments);
	return false;
}

void order(struct bench *bench, const char *request)
{
	json_t *answer = protocol_answer(&bench->session, bench->engine, request, strlen(request));

	if (!json_is_true(json_object_get(answer, "ok")))
		fail(bench, "refused: %s", json_string_value(json_object_get(answer, "message")));
	json_decref(answer);
}

static void run(struct bench *bench)
{
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = bench->sent.bytes,
		    .data_size_in = bench->sent.length, .data_out = bench->answer.bytes,
		    .data_size_out = FRAME_MOST, .repeat = 1);

	counters_of_all(bench->engine, &bench->before);
	if (bpf_prog_test_run_opts(program_xdp_fd(bench->program), &run))
		fail(bench, "BPF_PROG_RUN: %s", strerror(errno));
	bench->verdict = run.retval;
	bench->answer.length = run.data_size_out;
}

void send_segment(struct bench *bench, const struct segment *segment)
{
	segment_build(segment, &bench->sent);
	run(bench);
}

void send_datagram(struct bench *bench, const struct segment *segment)
{
	datagram_build(segment, &bench->sent);
	run(bench);
}

void expect(struct bench *bench, enum fnm_reason reason)
{
	static const char *const words[] = {"ABORTED", "DROP", "PASS", "TX", "REDIRECT"};
	static const uint32_t actions[] = {
	    [VERDICT_PASS] = XDP_PASS, [VERDICT_TX] = XDP_TX, [VERDICT_DROP] = XDP_DROP};
	uint32_t wanted = actions[reason_verdict(reason)];
	struct fnm_counters after;

	if (bench->verdict != wanted)
		fail(bench, "verdict %s instead of %s",
		     bench->verdict < 5 ? words[bench->verdict] : "unknown", words[wanted]);
	counters_of_all(bench->engine, &after);
	if (after.packets[reason] != bench->before.packets[reason] + 1)
		fail(bench, "not counted as %s", reason_word(reason));
}

void expect_answer(struct bench *bench, const struct segment *to, uint8_t flags,
		   struct segment *answer)
{
	if (!segment_read(&bench->answer, answer)) {
		fail(bench, "the answer is malformed or has a wrong checksum");
		return;
	}
	if (answer->flags != flags || answer->vlan != to->vlan ||
	    answer->source_port != to->destination_port ||
	    answer->destination_port != to->source_port ||
	    memcmp(&answer->source, &to->destination, sizeof(answer->source)) ||
	    memcmp(&answer->destination, &to->source, sizeof(answer->source)))
		fail(bench, "the answer goes astray, or has wrong flags");
}

struct segment segment_from(const char *source, const char *destination, uint8_t flags)
{
	struct segment segment = {.source_port = 40000,
				  .destination_port = 80,
				  .sequence = 1000,
				  .acknowledgement = flags & TCP_ACK ? 77 : 0,
				  .flags = flags};

	parse_address(source, &segment.source);
	parse_address(destination, &segment.destination);
	return segment;
}

struct segment ack_of(const struct segment *syn, const struct segment *syn_ack)
{
	struct segment ack = *syn;

	ack.flags = TCP_ACK;
	ack.sequence = syn->sequence + 1;
	ack.acknowledgement = syn_ack->sequence + 1;
	return ack;
}

static bool set_up(struct bench *bench, const struct options *options, struct refusal *refusal)
{
	struct options small = *options;

	small.flows = small.flows6 = small.sources = SMALL_TABLES;
	small.talkers = small.sightings = SMALL_TABLES;
	bench->session.greeted = true;
	if (!state_open(bench->engine, &bench->kernel, &small, NULL, refusal))
		return false;
	bench->program =
	    state_program(&bench->kernel,
			  &(struct state_settings){.verify_checksums = options->verify == VERIFY_ON,
						   .splice_idle = options->splice_idle},
			  refusal);
	if (!bench->program)
		return false;
	bench->kernel.clock_program = dup(program_clock_fd(bench->program));
	if (clock_refresh(&bench->kernel))
		return refuse(refusal, E_INTERNAL, NULL, "the engine clock cannot be read");
	return mitigations_load(bench->engine, refusal);
}

static unsigned int run_cases(struct bench *bench)
{
	unsigned int failed = 0;

	for (size_t i = 0; i < selftest_case_count; i++) {
		bench->good = true;
		clock_refresh(&bench->kernel);
		selftest_cases[i].work(bench);
		printf("%-4s %s%s%s\n", bench->good ? "ok" : "no", selftest_cases[i].words,
		       bench->good ? "" : ": ", bench->good ? "" : bench->why);
		failed += !bench->good;
	}
	return failed;
}

int command_selftest(const struct options *options)
{
	struct bench *bench = calloc(1, sizeof(*bench));
	struct refusal refusal;
	unsigned int failed = 1;

	if (!bench)
		return EXIT_REFUSED;
	bench->engine = calloc(1, sizeof(*bench->engine));
	if (bench->engine && set_up(bench, options, &refusal))
		failed = run_cases(bench);
	else if (bench->engine)
		printf("no   %s%s%s\n", refusal.message, refusal.todo ? "; " : "",
		       refusal.todo ? refusal.todo : "");
	if (bench->program)
		program_close(bench->program);
	if (bench->engine)
		state_close(bench->engine, &bench->kernel);
	session_free(&bench->session);
	free(bench->engine);
	free(bench);
	return failed ? EXIT_REFUSED : 0;
}
