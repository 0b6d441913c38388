/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "log.h"
#include "maps.h"

#define START_ANEW                                                                                 \
	"if every mitigation may end: synproxyd detach, then start again; "                        \
	"else start the version that ran before"

struct shape {
	uint32_t type, key, value, entries, flags;
};

static const struct {
	const char *name;
	size_t ways;	  /* of a set, in tables whose size is an option; else 0 */
	size_t rows;	  /* offset of that option */
	struct shape own; /* what no program declares */
} known[MAPS] = {
    [MAP_CONTROL] = {"control"},
    [MAP_SLOTS] = {"slots"},
    [MAP_HOSTS] = {"hosts"},
    [MAP_PREFIXES] = {"prefixes"},
    [MAP_PORTSETS] = {"portsets"},
    [MAP_ACLS] = {"acls"},
    [MAP_FLOWS4] = {"flows4", FNM_WAYS, offsetof(struct options, flows)},
    [MAP_FLOWS6] = {"flows6", FNM_WAYS, offsetof(struct options, flows6)},
    [MAP_SOURCES] = {"sources", 2, offsetof(struct options, sources)},
    [MAP_SIGHTINGS] = {"sightings", FNM_WAYS, offsetof(struct options, sightings)},
    [MAP_TALKERS] = {"talkers", FNM_WAYS, offsetof(struct options, talkers)},
    [MAP_FILTERS] = {"filters"},
    [MAP_CEILINGS] = {"ceilings"},
    [MAP_COUNTERS] = {"counters"},
    [MAP_WORK] = {"work"},
    [MAP_SAMPLES] = {"samples"},
    [MAP_SPLICING] = {"splicing"},
    [MAP_SPLICES] = {"splices", FNM_SPLICE_WAYS, offsetof(struct options, splices)},
    [MAP_BACKENDS] = {"backends"},
    [MAP_HELD] = {"held"},
    [MAP_BOOKS] = {"books",
		   .own = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct book), FNM_SLOTS, BPF_F_MMAPABLE}},
    [MAP_TOMBS] = {"tombs",
		   .own = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct tomb), BOOK_TOMBS, BPF_F_MMAPABLE}},
};

static uint32_t power_of_two(uint64_t least)
{
	uint32_t value = 1;

	while (value < least)
		value <<= 1;
	return value;
}

static bool declared(const struct bpf_object *object, enum map which, struct shape *shape)
{
	const struct bpf_map *map = bpf_object__find_map_by_name(object, known[which].name);

	if (!map) {
		*shape = known[which].own;
		return shape->entries;
	}
	*shape =
	    (struct shape){bpf_map__type(map), bpf_map__key_size(map), bpf_map__value_size(map),
			   bpf_map__max_entries(map), bpf_map__map_flags(map)};
	return true;
}

static uint32_t entries_wanted(const struct options *options, enum map which,
			       const struct shape *shape)
{
	uint64_t rows;
	uint32_t sets;

	if (!known[which].ways)
		return shape->entries;
	memcpy(&rows, (const char *)options + known[which].rows, sizeof(rows));
	sets = power_of_two(rows / known[which].ways);
	return sets > shape->entries ? sets : shape->entries;
}

static bool check_pinned(enum map which, const struct shape *shape, uint32_t wanted,
			 const struct bpf_map_info *info, const char *path, struct refusal *refusal)
{
	bool sized = known[which].ways;
	bool power = !(info->max_entries & (info->max_entries - 1));

	if (info->type != shape->type || info->key_size != shape->key ||
	    info->value_size != shape->value || info->map_flags != shape->flags ||
	    (sized ? !power || info->max_entries < shape->entries
		   : info->max_entries != shape->entries))
		return refuse(refusal, E_UNSUPPORTED, START_ANEW,
			      "the map pinned at %s has another layout (type %u, key %u, value %u, "
			      "%u entries)",
			      path, info->type, info->key_size, info->value_size,
			      info->max_entries);
	if (info->max_entries != wanted)
		log_warning("table.size_kept", "{s:s,s:i,s:i,s:s}", "table", known[which].name,
			    "sets", (int)info->max_entries, "wanted", (int)wanted, "todo",
			    "synproxyd detach, which ends every mitigation, before the next start "
			    "for another size");
	return true;
}

static bool make(enum map which, const struct shape *shape, uint32_t entries, const char *path,
		 int *fd, struct refusal *refusal)
{
	LIBBPF_OPTS(bpf_map_create_opts, create, .map_flags = shape->flags);

	*fd = bpf_map_create(shape->type, known[which].name, shape->key, shape->value, entries,
			     &create);
	if (*fd < 0)
		return refuse(
		    refusal, errno == ENOMEM ? E_FULL : E_INTERNAL,
		    errno == EPERM ? "run it as root, or with CAP_BPF and CAP_NET_ADMIN" : NULL,
		    "the map %s of %u entries: %s", known[which].name, entries, strerror(errno));
	if (path && bpf_obj_pin(*fd, path))
		return refuse(refusal, E_INTERNAL, NULL, "%s: %s", path, strerror(errno));
	return true;
}

static bool take_or_make(struct maps *maps, enum map which, const struct shape *shape,
			 uint32_t wanted, const char *directory, struct refusal *refusal)
{
	struct bpf_map_info info = {0};
	__u32 size = sizeof(info);
	char path[PATH_MAX];

	maps->entries[which] = wanted;
	if (!directory)
		return make(which, shape, wanted, NULL, &maps->fd[which], refusal);
	snprintf(path, sizeof(path), "%s/%s", directory, known[which].name);
	maps->fd[which] = bpf_obj_get(path);
	if (maps->fd[which] < 0 && errno == ENOENT)
		return make(which, shape, wanted, path, &maps->fd[which], refusal);
	if (maps->fd[which] < 0 || bpf_obj_get_info_by_fd(maps->fd[which], &info, &size))
		return refuse(refusal, E_INTERNAL, NULL, "%s: %s", path, strerror(errno));
	maps->entries[which] = info.max_entries;
	maps->kept = true;
	return check_pinned(which, shape, wanted, &info, path, refusal);
}

/* What the kernel charges for a map, from its description in /proc. */
static uint64_t charged(int fd)
{
	unsigned long long bytes = 0;
	char path[64], line[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "memlock: %llu", &bytes) == 1)
			break;
	if (file)
		fclose(file);
	return bytes;
}

bool maps_open(struct maps *maps, const struct options *options, const char *directory,
	       struct refusal *refusal)
{
	struct program *program = program_open();
	struct shape shape;
	bool good = program;

	memset(maps, 0, sizeof(*maps));
	for (int i = 0; i < MAPS; i++)
		maps->fd[i] = -1;
	if (!program)
		return refuse(refusal, E_INTERNAL, NULL, "the program cannot be opened: %s",
			      strerror(errno));
	for (int i = 0; i < MAPS && good; i++) {
		if (!declared(program_object(program), i, &shape))
			good = refuse(refusal, E_INTERNAL, NULL, "the program has no map %s",
				      known[i].name);
		else
			good = take_or_make(maps, i, &shape, entries_wanted(options, i, &shape),
					    directory, refusal);
		if (good)
			maps->memory_bytes += charged(maps->fd[i]);
	}
	program_close(program);
	return good;
}

static const struct {
	enum map map;
	size_t pointer, value;
} shown[] = {
#define SHOWN(map, field, type)                                                                    \
	{                                                                                          \
		map, offsetof(struct tables, field), sizeof(type)                                  \
	}
    SHOWN(MAP_CONTROL, control, struct fnm_control),
    SHOWN(MAP_SLOTS, slots, struct fnm_slot),
    SHOWN(MAP_PORTSETS, portsets, struct fnm_portset),
    SHOWN(MAP_ACLS, acls, struct fnm_acl),
    SHOWN(MAP_FLOWS4, flows4, struct fnm_flow4_set),
    SHOWN(MAP_FLOWS6, flows6, struct fnm_flow6_set),
    SHOWN(MAP_SOURCES, sources, struct fnm_source_set),
    SHOWN(MAP_SIGHTINGS, sightings, struct fnm_sighting_set),
    SHOWN(MAP_TALKERS, talkers, struct fnm_talker_set),
    SHOWN(MAP_FILTERS, filters, struct fnm_filter),
    SHOWN(MAP_BOOKS, books, struct book),
    SHOWN(MAP_TOMBS, tombs, struct tomb),
    SHOWN(MAP_SPLICING, splicing, struct fnm_splicing),
    SHOWN(MAP_SPLICES, splices, struct fnm_splice_set),
#undef SHOWN
};

#define SHOWN_MAPS (sizeof(shown) / sizeof(shown[0]))

_Static_assert(!(sizeof(struct fnm_slot) % 8) && !(sizeof(struct book) % 8) &&
		   !(sizeof(struct tomb) % 8) && !(sizeof(struct fnm_acl) % 8),
	       "elements of a mapped array lie at multiples of 8 bytes");

static size_t mapped_bytes(const struct maps *maps, size_t i)
{
	return maps->entries[shown[i].map] * shown[i].value;
}

bool maps_show(const struct maps *maps, struct tables *tables, struct refusal *refusal)
{
	for (size_t i = 0; i < SHOWN_MAPS; i++) {
		void *memory = mmap(NULL, mapped_bytes(maps, i), PROT_READ | PROT_WRITE, MAP_SHARED,
				    maps->fd[shown[i].map], 0);

		if (memory == MAP_FAILED)
			return refuse(refusal, E_INTERNAL, NULL, "mmap of the map %s: %s",
				      known[shown[i].map].name, strerror(errno));
		/* A core dump of somebody else's making must not hold keys. */
		madvise(memory, mapped_bytes(maps, i), MADV_DONTDUMP);
		memcpy((char *)tables + shown[i].pointer, &memory, sizeof(memory));
	}
	tables->flow4_sets = maps->entries[MAP_FLOWS4];
	tables->flow6_sets = maps->entries[MAP_FLOWS6];
	tables->source_sets = maps->entries[MAP_SOURCES];
	tables->sighting_sets = maps->entries[MAP_SIGHTINGS];
	tables->talker_sets = maps->entries[MAP_TALKERS];
	tables->splice_sets = maps->entries[MAP_SPLICES];
	return true;
}

/* What a CPU may forget with the program; everything else has to outlive it. */
static bool is_scratch(const struct bpf_map *map)
{
	return !strcmp(bpf_map__name(map), "recent") || !strcmp(bpf_map__name(map), "scratch") ||
	       !strcmp(bpf_map__name(map), "scratch_out");
}

static int place_of(const struct bpf_map *map)
{
	int i = 0;

	while (i < MAPS && strcmp(known[i].name, bpf_map__name(map)))
		i++;
	return i;
}

bool maps_give(const struct maps *maps, struct program *program, struct refusal *refusal)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, program_object(program))
	{
		int i = place_of(map);

		if (bpf_map__is_internal(map) || is_scratch(map))
			continue;
		if (i == MAPS)
			return refuse(refusal, E_INTERNAL, "report it to the project",
				      "nobody keeps the program's map %s", bpf_map__name(map));
		if (bpf_map__reuse_fd(map, maps->fd[i]))
			return refuse(refusal, E_INTERNAL, NULL, "the map %s: %s", known[i].name,
				      strerror(errno));
	}
	return true;
}

void maps_constants(const struct maps *maps, struct constants *constants)
{
	constants->flow4_sets = maps->entries[MAP_FLOWS4];
	constants->flow6_sets = maps->entries[MAP_FLOWS6];
	constants->source_sets = maps->entries[MAP_SOURCES];
	constants->sighting_sets = maps->entries[MAP_SIGHTINGS];
	constants->talker_sets = maps->entries[MAP_TALKERS];
	constants->splice_sets = maps->entries[MAP_SPLICES];
}

void maps_close(struct maps *maps, struct tables *tables)
{
	for (size_t i = 0; i < SHOWN_MAPS; i++) {
		void *memory;

		memcpy(&memory, (char *)tables + shown[i].pointer, sizeof(memory));
		if (memory)
			munmap(memory, mapped_bytes(maps, i));
	}
	memset(tables, 0, sizeof(*tables));
	for (int i = 0; i < MAPS; i++)
		if (maps->fd[i] >= 0)
			close(maps->fd[i]);
}
