/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "address.h"
#include "kernel.h"
#include "packets.h"

#define ANSWERS_COUNT_MS 600000u

static int failed(int result)
{
	return result ? -errno : 0;
}

static int policy_set(void *data, const struct fnm_prefix *target, const struct fnm_policy *policy)
{
	const struct kernel *kernel = data;

	if (prefix_is_host(target))
		return failed(bpf_map_update_elem(kernel->maps.fd[MAP_HOSTS], &target->address,
						  policy, BPF_ANY));
	return failed(bpf_map_update_elem(kernel->maps.fd[MAP_PREFIXES], target, policy, BPF_ANY));
}

static int policy_clear(void *data, const struct fnm_prefix *target)
{
	const struct kernel *kernel = data;
	int error = prefix_is_host(target)
			? failed(bpf_map_delete_elem(kernel->maps.fd[MAP_HOSTS], &target->address))
			: failed(bpf_map_delete_elem(kernel->maps.fd[MAP_PREFIXES], target));

	return error == -ENOENT ? 0 : error;
}

static size_t list_hosts(const struct kernel *kernel, struct fnm_prefix *targets, size_t most)
{
	struct fnm_address key, *previous = NULL;
	size_t count = 0;

	while (count < most && !bpf_map_get_next_key(kernel->maps.fd[MAP_HOSTS], previous, &key)) {
		targets[count] = (struct fnm_prefix){128, key};
		previous = &targets[count++].address;
	}
	return count;
}

static size_t list_prefixes(const struct kernel *kernel, struct fnm_prefix *targets, size_t most)
{
	struct fnm_prefix *previous = NULL;
	size_t count = 0;

	while (count < most &&
	       !bpf_map_get_next_key(kernel->maps.fd[MAP_PREFIXES], previous, &targets[count]))
		previous = &targets[count++];
	return count;
}

static int policy_list(void *data, struct fnm_prefix *targets, size_t most)
{
	size_t hosts = list_hosts(data, targets, most);

	return hosts + list_prefixes(data, targets + hosts, most - hosts);
}

static int counters(void *data, uint32_t slot, struct fnm_counters *sum)
{
	const struct kernel *kernel = data;
	const struct fnm_counters *of_cpu = kernel->per_cpu;
	__u64 *words = (__u64 *)sum;

	memset(sum, 0, sizeof(*sum));
	if (bpf_map_lookup_elem(kernel->maps.fd[MAP_COUNTERS], &slot, kernel->per_cpu))
		return -errno;
	for (int cpu = 0; cpu < kernel->cpus; cpu++)
		for (size_t i = 0; i < sizeof(*sum) / sizeof(*words); i++)
			words[i] += ((const __u64 *)&of_cpu[cpu])[i];
	return 0;
}

static int counters_clear(void *data, uint32_t slot)
{
	struct kernel *kernel = data;

	memset(kernel->per_cpu, 0, kernel->cpus * sizeof(struct fnm_counters));
	return failed(
	    bpf_map_update_elem(kernel->maps.fd[MAP_COUNTERS], &slot, kernel->per_cpu, BPF_EXIST));
}

static int work(void *data, struct fnm_work *sum)
{
	const struct kernel *kernel = data;
	const struct fnm_work *of_cpu = kernel->per_cpu;
	__u64 *words = (__u64 *)sum;
	__u32 zero = 0;

	memset(sum, 0, sizeof(*sum));
	if (bpf_map_lookup_elem(kernel->maps.fd[MAP_WORK], &zero, kernel->per_cpu))
		return -errno;
	for (int cpu = 0; cpu < kernel->cpus; cpu++)
		for (size_t i = 0; i < sizeof(*sum) / sizeof(*words); i++)
			words[i] += ((const __u64 *)&of_cpu[cpu])[i];
	return 0;
}

static void client_ack(const struct fnm_splice *row, struct frame *frame)
{
	uint16_t ports[2];
	struct segment segment = {.sequence = row->client_isn + 1,
				  .acknowledgement = row->cookie_isn + 1,
				  .flags = TCP_ACK};

	memcpy(ports, &row->ports, sizeof(ports));
	memcpy(&segment.source, &row->client, sizeof(segment.source));
	memcpy(&segment.destination, &row->server, sizeof(segment.destination));
	segment.source_port = ntohs(ports[0]);
	segment.destination_port = ntohs(ports[1]);
	segment_build(&segment, frame);
}

static int ask_again(void *data, const struct fnm_splice *row)
{
	const struct kernel *kernel = data;
	struct xdp_md context = {.ingress_ifindex = kernel->judge_ifindex};
	struct frame frame;
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame.bytes, .ctx_in = &context,
		    .ctx_size_in = sizeof(context), .repeat = 1, .batch_size = 1,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES);

	client_ack(row, &frame);
	memcpy(frame.bytes, kernel->judge_address, sizeof(kernel->judge_address));
	run.data_size_in = context.data_end = frame.length;
	return failed(bpf_prog_test_run_opts(kernel->judge_program, &run));
}

static uint64_t engine_ms(void *data)
{
	const struct kernel *kernel = data;

	return clock_coarse_ms() + kernel->clock_offset;
}

static bool elsewhere(void *data, const struct fnm_prefix *target)
{
	const struct kernel *kernel = data;
	int fd = kernel->maps.fd[MAP_BACKENDS];
	struct fnm_backend_key key, *previous = NULL;
	struct fnm_backend backend;
	struct fnm_prefix host = {.bits = 128};
	uint32_t now = engine_ms(data);
	bool found = false;

	for (int i = 0; i < FNM_BACKENDS && !bpf_map_get_next_key(fd, previous, &key); i++) {
		previous = &key;
		memcpy(&host.address, key.address, sizeof(host.address));
		if (!prefix_covers(target, &host) || bpf_map_lookup_elem(fd, &key, &backend))
			continue;
		/* One port that is seen to answer refutes another, which may only be filtered. */
		if (backend.answered && now - backend.answered < ANSWERS_COUNT_MS)
			return false;
		found |= backend.state == FNM_BACKEND_ASYMMETRIC;
	}
	return found;
}

static uint64_t monotonic_ms(void *data)
{
	(void)data;
	return clock_coarse_ms();
}

const struct backend kernel_backend = {
    .policy_set = policy_set,
    .policy_clear = policy_clear,
    .policy_list = policy_list,
    .counters = counters,
    .counters_clear = counters_clear,
    .work = work,
    .ask_again = ask_again,
    .elsewhere = elsewhere,
    .engine_ms = engine_ms,
    .monotonic_ms = monotonic_ms,
};

_Static_assert(sizeof(struct fnm_work) <= sizeof(struct fnm_counters) &&
		   !(sizeof(struct fnm_counters) % 8),
	       "one buffer serves both per-CPU maps");

bool kernel_begin(struct kernel *kernel, struct fnm_control *control, struct refusal *refusal)
{
	kernel->control = control;
	kernel->cpus = libbpf_num_possible_cpus();
	if (kernel->cpus < 1)
		return refuse(refusal, E_INTERNAL, "mount /sys",
			      "the number of CPUs cannot be read from /sys/devices/system/cpu");
	kernel->per_cpu = calloc(kernel->cpus, sizeof(struct fnm_counters));
	if (!kernel->per_cpu)
		return refuse(refusal, E_INTERNAL, NULL, "no memory for %d CPUs", kernel->cpus);
	return true;
}

void kernel_end(struct kernel *kernel)
{
	free(kernel->per_cpu);
	kernel->per_cpu = NULL;
}
