/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>

#include "../bpf/tables.h"
#include "baseline.h"
#include "world.h"

#define FOREVER	   (1ull << 62)
#define SLOT_ACL1  2
#define SLOT_ACL16 3
#define SLOT_SORB  4

const struct world_sizes world_shipped = {
    .flows4 = 262144 / FNM_WAYS,
    .flows6 = 131072 / FNM_WAYS,
    .sources = 262144 / 2,
    .talkers = 131072 / FNM_WAYS,
    .sightings = 262144 / FNM_WAYS,
};

void die(const char *what, ...)
{
	va_list arguments;

	va_start(arguments, what);
	vfprintf(stderr, what, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("cannot run on CPU %d: %s", cpu, strerror(errno));
}

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

int world_map(const struct world *world, const char *name)
{
	int fd = bpf_object__find_map_fd_by_name(world->object, name);

	if (fd < 0)
		die("the object has no map %s", name);
	return fd;
}

int world_program(const struct world *world, const char *name)
{
	struct bpf_program *program = bpf_object__find_program_by_name(world->object, name);

	if (!program)
		die("the object has no program %s", name);
	return bpf_program__fd(program);
}

static struct bpf_map *find_map(struct bpf_object *object, const char *name)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, name);

	if (!map)
		die("the object has no map %s", name);
	return map;
}

/* Set a constant of the program before it is loaded. */
static void set_constant(struct bpf_object *object, const char *name, uint64_t value)
{
	struct bpf_map *rodata = find_map(object, ".rodata");
	struct btf *btf = bpf_object__btf(object);
	const struct btf_type *section;
	size_t size;
	char *memory = (char *)bpf_map__initial_value(rodata, &size);
	int id = btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC);

	if (id < 0 || !memory)
		die("the object has no constants");
	section = btf__type_by_id(btf, id);
	for (int i = 0; i < btf_vlen(section); i++) {
		const struct btf_var_secinfo *variable = btf_var_secinfos(section) + i;
		const struct btf_type *type = btf__type_by_id(btf, variable->type);

		if (!strcmp(btf__name_by_offset(btf, type->name_off), name)) {
			memcpy(memory + variable->offset, &value, variable->size);
			return;
		}
	}
	die("the object has no constant %s", name);
}

static void *map_memory(const struct world *world, const char *name, size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE);
	void *memory = mmap(NULL, (size + page - 1) / page * page, PROT_READ | PROT_WRITE,
			    MAP_SHARED, world_map(world, name), 0);

	if (memory == MAP_FAILED)
		die("mmap of map %s: %s", name, strerror(errno));
	return memory;
}

static void update(const struct world *world, const char *map, const void *key, const void *value)
{
	if (bpf_map_update_elem(world_map(world, map), key, value, BPF_ANY))
		die("write to map %s: %s", map, strerror(errno));
}

static int kernel_has(const char *function)
{
	struct btf *btf = btf__load_vmlinux_btf();
	int found = btf && btf__find_by_name_kind(btf, function, BTF_KIND_FUNC) >= 0;

	btf__free(btf);
	return found;
}

static void protect(struct world *world, int host, int acl, int sorb, int tcp)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct frame_spec spec = {.v6 = v6, .host = host};
		struct fnm_policy policy = {.acl = {acl}, .sorb = {sorb}, .tcp = {tcp}};
		struct fnm_address source, to;
		uint32_t bit;

		frame_addresses(&spec, (uint8_t *)&source, (uint8_t *)&to);
		bit = fnm_prefilter_bit(to.word[0], to.word[1], to.word[2], to.word[3]);
		world->control->prefilter[bit / 64] |= 1ull << bit % 64;
		if (acl || sorb || tcp)
			update(world, "hosts", &to, &policy);
	}
}

/* Other protected hosts, so that the table of hosts is not empty. */
static void protect_others(struct world *world)
{
	for (uint32_t i = 0; i < HOST_MANY; i++) {
		struct fnm_address to = {{0, 0, htobe32(0xffff), htobe32(0xc6120000 + i * 7)}};
		struct fnm_policy policy = {.tcp = {SLOT_TCP}};

		update(world, "hosts", &to, &policy);
	}
}

static void write_filter(struct world *world, uint32_t index, uint32_t rules)
{
	static struct fnm_acl acl;

	memset(&acl, 0, sizeof(acl));
	acl.rules = rules;
	for (uint32_t i = 0; i < rules; i++) {
		struct fnm_acl_rule *rule = &acl.rule[i];

		rule->match = FNM_M_PROTOCOL | FNM_M_SPORT;
		rule->protocol = 17;
		rule->action = FNM_ACL_DROP;
		rule->sport[0] = rule->sport[1] = i + 1 == rules ? 53 : 20000 + i;
	}
	update(world, "acls", &index, &acl);
}

static void write_tcp_slot(struct fnm_slot *slot)
{
	slot->deadline = FOREVER;
	slot->generation = 1;
	slot->kind = FNM_TCP;
	slot->mode = FNM_ISN_SYNC;
	slot->flags = FNM_TCP_SACK | FNM_TCP_WSCALE | FNM_TCP_TIMESTAMPS | FNM_TCP_TS_PER_FLOW;
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < 2; j++) {
			slot->tcp.cookie_key[i][j] = 0x0123456789abcdefull * (2 * i + j + 1);
			slot->tcp.cookie6_key[i][j] = 0xfedcba9876543211ull * (2 * i + j + 1);
		}
	}
	slot->tcp.ts_key[0] = 0x243f6a8885a308d3ull;
	slot->tcp.ts_key[1] = 0x13198a2e03707344ull;
	slot->tcp.mss4 = 1460;
	slot->tcp.mss6 = 1440;
	slot->tcp.window = 65160;
	slot->tcp.wscale = 7;
	slot->tcp.ttl = 64;
	slot->tcp.cookie_offset = 1000ull * 60 * 60000;
}

static void set_up_engine(struct world *world)
{
	const struct world_sizes *sizes = &world->sizes;
	struct fnm_control *control = map_memory(world, "control", sizeof(*control));

	world->control = control;
	world->slots = map_memory(world, "slots", sizeof(*world->slots) * FNM_SLOTS);
	world->flows4 = map_memory(world, "flows4", sizeof(*world->flows4) * sizes->flows4);
	world->flows6 = map_memory(world, "flows6", sizeof(*world->flows6) * sizes->flows6);
	world->sources = map_memory(world, "sources", sizeof(*world->sources) * sizes->sources);
	world->filters = map_memory(world, "filters", sizeof(*world->filters) * 4);
	control->abi = FNM_ABI;
	control->inserts_per_second = UINT32_MAX;
	control->flow_idle = 1 << 20;
	control->flow_closing = 60;
	control->source_idle = 600;
	control->seed = 0x9e3779b9;
	write_tcp_slot(&world->slots[SLOT_TCP]);
	write_filter(world, 1, 1);
	write_filter(world, 2, 16);
	for (uint32_t i = 1; i <= 2; i++) {
		struct fnm_slot *slot = &world->slots[SLOT_TCP + i];

		slot->deadline = FOREVER;
		slot->generation = 1 + i;
		slot->kind = FNM_ACL;
		slot->acl = i;
	}
	world->slots[SLOT_SORB].deadline = FOREVER;
	world->slots[SLOT_SORB].generation = SLOT_SORB;
	world->slots[SLOT_SORB].kind = FNM_SORB;
	world->slots[SLOT_SORB].sorb.pps_interval = 1;
	world->slots[SLOT_SORB].sorb.pps_burst = 1000000000;
	world->slots[SLOT_SORB].sorb.block_ms = 1000;
	protect(world, HOST_TCP, 0, 0, SLOT_TCP);
	protect(world, HOST_ACL1, SLOT_ACL1, 0, 0);
	protect(world, HOST_ACL16, SLOT_ACL16, 0, 0);
	protect(world, HOST_SORB, 0, SLOT_SORB, 0);
	protect(world, HOST_HASHED, 0, 0, 0);
	protect_others(world);
}

static void set_up_baseline(struct world *world)
{
	struct ref_config config = {
	    .mss4 = 1460, .mss6 = 1440, .wscale = 7, .ttl = 64, .ports = {80}};
	uint32_t zero = 0;

	update(world, "ref_configs", &zero, &config);
}

static void size_table(struct bpf_object *object, const char *map, const char *mask, uint32_t sets)
{
	bpf_map__set_max_entries(find_map(object, map), sets);
	set_constant(object, mask, sets - 1);
}

static void size_engine(struct bpf_object *object, const struct world_sizes *sizes)
{
	size_table(object, "flows4", "fnm_flow4_mask", sizes->flows4);
	size_table(object, "flows6", "fnm_flow6_mask", sizes->flows6);
	size_table(object, "sources", "fnm_source_mask", sizes->sources);
	size_table(object, "talkers", "fnm_talker_mask", sizes->talkers);
	size_table(object, "sightings", "fnm_sighting_mask", sizes->sightings);
}

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

void world_open(struct world *world, const char *path, int engine, const struct world_sizes *sizes)
{
	double begun = milliseconds();

	memset(world, 0, sizeof(*world));
	libbpf_set_print(quiet);
	world->engine = engine;
	world->sizes = *sizes;
	world->object = bpf_object__open_file(path, NULL);
	if (!world->object)
		die("cannot open %s: %s; make -C native/bench builds it", path, strerror(errno));
	if (engine)
		size_engine(world->object, sizes);
	else
		set_constant(world->object, "ref_conntrack", kernel_has("bpf_xdp_ct_lookup"));
	if (bpf_object__load(world->object))
		die("the kernel refuses %s: %s", path, strerror(errno));
	world->load_ms = milliseconds() - begun;
	world->cpus = libbpf_num_possible_cpus();
	world->counters = world_map(world, engine ? "counters" : "ref_counters");
	if (engine)
		set_up_engine(world);
	else
		set_up_baseline(world);
}

void world_open_plain(struct world *world, const char *path, const char *counters)
{
	memset(world, 0, sizeof(*world));
	libbpf_set_print(quiet);
	world->object = bpf_object__open_file(path, NULL);
	if (!world->object || bpf_object__load(world->object))
		die("cannot load %s: %s; make -C native/bench builds it", path, strerror(errno));
	world->cpus = libbpf_num_possible_cpus();
	world->counters = world_map(world, counters);
}

void world_close(struct world *world)
{
	bpf_object__close(world->object);
}

static void pass_filter(struct world *world, int kind, uint64_t hash)
{
	for (int i = 0; i < 2; i++) {
		uint32_t word = fnm_filter_word(hash, world->control->filter_mask[kind][i]);

		world->filters[kind * 2 + i].word[word] |= fnm_filter_bits(hash);
	}
}

/* Into the emptier of the two sets. */
static void add_flow6(struct world *world, const struct fnm_address *from,
		      const struct fnm_address *to, uint32_t ports, uint32_t seen)
{
	uint64_t hash = fnm_hash_flow6(world->control->seed, from->word, to->word, ports);
	uint32_t mask = world->sizes.flows6 - 1;

	pass_filter(world, FNM_FILTER_FLOWS, hash);
	for (int i = 0; i < 2 * FNM_WAYS; i++) {
		uint32_t set = i & 1 ? fnm_set_b(hash, mask) : fnm_set_a(hash, mask);
		struct fnm_flow6 *way = &world->flows6[set].way[i / 2];

		if (way->ports)
			continue;
		memcpy(way->source, from, sizeof(*from));
		memcpy(way->destination, to, sizeof(*to));
		way->ports = ports;
		way->seen = seen;
		return;
	}
}

void world_add_flow(struct world *world, const struct frame_spec *spec)
{
	uint32_t ports = htobe16(spec->sport) | (uint32_t)htobe16(spec->dport) << 16;
	uint32_t seen = fnm_seen(world->control->clock_ms), mask = world->sizes.flows4 - 1;
	struct fnm_address from, to;
	uint64_t hash;

	frame_addresses(spec, (uint8_t *)&from, (uint8_t *)&to);
	if (spec->v6) {
		add_flow6(world, &from, &to, ports, seen);
		return;
	}
	hash = fnm_hash_flow4(world->control->seed, from.word[3], to.word[3], ports);
	pass_filter(world, FNM_FILTER_FLOWS, hash);
	for (int i = 0; i < 2 * FNM_WAYS; i++) {
		uint32_t set = i & 1 ? fnm_set_b(hash, mask) : fnm_set_a(hash, mask);
		struct fnm_flow4 *way = &world->flows4[set].way[i / 2];

		if (way->ports)
			continue;
		*way = (struct fnm_flow4){from.word[3], to.word[3], ports, seen};
		return;
	}
}

void world_forget_flows(struct world *world, uint32_t flows)
{
	if (!world->engine)
		return;
	memset(world->filters, 0, sizeof(*world->filters) * 4);
	for (int i = 0; i < 4; i++)
		world->control->filter_mask[i / 2][i % 2] = fnm_filter_mask(flows);
	for (uint64_t key = 1; key <= flows; key++) {
		pass_filter(world, FNM_FILTER_FLOWS, fnm_mix(key, 1));
		pass_filter(world, FNM_FILTER_SOURCES, fnm_mix(key, 2));
	}
	memset(world->flows4, 0, sizeof(*world->flows4) * world->sizes.flows4);
	memset(world->flows6, 0, sizeof(*world->flows6) * world->sizes.flows6);
	memset(world->sources, 0, sizeof(*world->sources) * world->sizes.sources);
}

static uint64_t count_engine(const struct world *world, uint32_t reason)
{
	struct fnm_counters each[world->cpus];
	uint64_t total = 0;

	for (uint32_t slot = 0; slot <= SLOT_SORB; slot++) {
		if (bpf_map_lookup_elem(world->counters, &slot, each))
			die("read of the counters: %s", strerror(errno));
		for (int cpu = 0; cpu < world->cpus; cpu++)
			total += each[cpu].packets[reason];
	}
	return total;
}

uint64_t world_count(const struct world *world, uint32_t which)
{
	uint64_t each[world->cpus], total = 0;

	if (world->engine)
		return count_engine(world, which);
	if (bpf_map_lookup_elem(world->counters, &which, each))
		die("read of the counters: %s", strerror(errno));
	for (int cpu = 0; cpu < world->cpus; cpu++)
		total += each[cpu];
	return total;
}
