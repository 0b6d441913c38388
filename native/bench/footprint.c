/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine costs before the first packet.
 *
 * usage: bench-footprint DIRECTORY FLOWS
 *
 * One line of JSON: instructions, verified instructions, bytes of machine code, milliseconds of
 * loading, and the memory of the maps with room for FLOWS flows of each family.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "world.h"

#define FLOWS_MAX (1 << 26)

/* The kernel tells it only here. */
static unsigned long long map_memory(int fd)
{
	char path[64], line[256];
	unsigned long long bytes = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "r");
	if (!file)
		die("cannot read %s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "memlock: %llu", &bytes) == 1)
			break;
	}
	fclose(file);
	return bytes;
}

static void print_program(int fd)
{
	struct bpf_prog_info info = {};
	uint32_t size = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &size))
		die("the kernel says nothing about the program: %s", strerror(errno));
	printf("\"instructions\":%u,\"verified\":%u,\"machine_code_bytes\":%u",
	       info.xlated_prog_len / 8, info.verified_insns, info.jited_prog_len);
}

static uint32_t sets_for(uint32_t flows)
{
	uint32_t sets = FNM_WAYS;

	while (sets * FNM_WAYS < flows)
		sets *= 2;
	return sets;
}

int main(int argc, char **argv)
{
	struct world_sizes sizes = world_shipped;
	unsigned long long bytes = 0;
	struct world world;
	struct bpf_map *map;
	uint32_t flows;
	char path[512];

	if (argc != 3)
		die("usage: bench-footprint DIRECTORY FLOWS");
	flows = atoi(argv[2]);
	if (flows < 1 || flows > FLOWS_MAX)
		die("flows: 1 to %d", FLOWS_MAX);
	sizes.flows4 = sizes.flows6 = sets_for(flows);
	snprintf(path, sizeof(path), "%s/engine.bpf.o", argv[1]);
	world_open(&world, path, 1, &sizes);
	bpf_object__for_each_map(map, world.object) bytes += map_memory(bpf_map__fd(map));
	printf("{\"flows\":%u,", flows);
	print_program(world_program(&world, "fnm_xdp"));
	printf(",\"load_ms\":%.1f,\"map_bytes\":%llu}\n", world.load_ms, bytes);
	world_close(&world);
	return 0;
}
