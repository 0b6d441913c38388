/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "address.h"
#include "kernel.h"

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

static uint64_t engine_ms(void *data)
{
	const struct kernel *kernel = data;

	return clock_coarse_ms() + kernel->clock_offset;
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
