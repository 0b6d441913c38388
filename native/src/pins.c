/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/magic.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "abi.h"
#include "egress.h"
#include "log.h"
#include "pins.h"

#define LOCK_PAUSE_MS 50
#define LOCK_TRIES    20

#define MOUNT_BPFFS "mount -t bpf bpf /sys/fs/bpf, or name another bpf file system in --pin-dir"

bool pins_on_bpffs(const char *path)
{
	char near[PATH_MAX];
	struct statfs file_system;

	snprintf(near, sizeof(near), "%s", path);
	while (statfs(near, &file_system)) {
		if (errno != ENOENT || !strcmp(near, "/") || !strcmp(near, "."))
			return false;
		memmove(near, dirname(near), strlen(near) + 1);
	}
	return file_system.f_type == BPF_FS_MAGIC;
}

static bool make_directory(const char *path, struct refusal *refusal)
{
	if (!mkdir(path, 0700) || errno == EEXIST)
		return true;
	return refuse(refusal, E_INTERNAL,
		      errno == EACCES ? "run it as root, who owns the bpf file system" : NULL,
		      "mkdir %s: %s", path, strerror(errno));
}

static bool is_version(const char *name)
{
	return name[0] == 'v' && name[1] && strspn(name + 1, "0123456789") == strlen(name + 1);
}

static bool no_other_version(const char *pin_dir, const char *own, struct refusal *refusal)
{
	DIR *directory = opendir(pin_dir);
	struct dirent *entry;
	char other[16] = "";

	while (directory && (entry = readdir(directory)))
		if (is_version(entry->d_name) && strcmp(entry->d_name, own))
			snprintf(other, sizeof(other), "%.15s", entry->d_name);
	if (directory)
		closedir(directory);
	if (!*other)
		return true;
	return refuse(
	    refusal, E_UNSUPPORTED,
	    "if every mitigation of it may end: stop it and run synproxyd detach with the "
	    "same --pin-dir; else start the version that ran before",
	    "%s/%s holds the state of a synproxyd with another ABI (ours is %s), which may "
	    "be attached",
	    pin_dir, other, own);
}

/* One that has just been killed may take a moment to end. */
static bool lock_soon(int fd)
{
	struct timespec pause = {0, LOCK_PAUSE_MS * 1000000};

	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB); i++) {
		if (errno != EWOULDBLOCK || i == LOCK_TRIES)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static bool take_lock(struct pins *pins, const char *pin_dir, struct refusal *refusal)
{
	pins->lock = open(pin_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pins->lock >= 0 && lock_soon(pins->lock))
		return true;
	if (pins->lock >= 0 && errno == EWOULDBLOCK)
		return refuse(refusal, E_INTERNAL,
			      "stop the other one, or give this one a --pin-dir and interfaces of "
			      "its own",
			      "another synproxyd is running on %s", pin_dir);
	return refuse(refusal, E_INTERNAL, NULL, "%s: %s", pin_dir, strerror(errno));
}

bool pins_name(struct pins *pins, const char *pin_dir)
{
	char own[16];

	pins->lock = -1;
	snprintf(own, sizeof(own), "v%d", FNM_ABI);
	if (strlen(pin_dir) >= sizeof(pins->directory) - sizeof(own))
		return false;
	snprintf(pins->directory, sizeof(pins->directory), "%s/%s", pin_dir, own);
	snprintf(pins->maps, sizeof(pins->maps), "%s/maps", pins->directory);
	return true;
}

bool pins_open(struct pins *pins, const char *pin_dir, struct refusal *refusal)
{
	if (!pins_name(pins, pin_dir))
		return refuse(refusal, E_BAD_REQUEST, NULL, "--pin-dir is too long");
	if (!pins_on_bpffs(pin_dir))
		return refuse(refusal, E_UNSUPPORTED, MOUNT_BPFFS,
			      "%s is not on a bpf file system, so nothing can be pinned there",
			      pin_dir);
	return make_directory(pin_dir, refusal) && take_lock(pins, pin_dir, refusal) &&
	       no_other_version(pin_dir, strrchr(pins->directory, '/') + 1, refusal) &&
	       make_directory(pins->directory, refusal) && make_directory(pins->maps, refusal);
}

void pins_close(struct pins *pins)
{
	if (pins->lock >= 0)
		close(pins->lock);
	pins->lock = -1;
}

/* The bpf file system allows no dot in a name, and names of interfaces may have one. */
static void file_name(const char *what, const char *interface, char *name, size_t size)
{
	size_t used = snprintf(name, size, "%s-", what);

	for (; *interface && used + 4 < size; interface++)
		if (*interface == '.' || *interface == '%')
			used +=
			    snprintf(name + used, size - used, "%%%02x", (unsigned char)*interface);
		else
			name[used++] = *interface;
	name[used] = 0;
}

void pins_path(const struct pins *pins, const char *what, const char *interface, char *path,
	       size_t size)
{
	char name[80];

	file_name(what, interface, name, sizeof(name));
	snprintf(path, size, "%s/%s", pins->directory, name);
}

/* The interface of a file, which has a prefix before it. */
static void interface_of(const char *file, char *interface, size_t size)
{
	size_t used = 0;
	unsigned int code;

	file = strchr(file, '-') + 1;
	for (; *file && used + 1 < size; file++)
		if (*file == '%' && sscanf(file + 1, "%2x", &code) == 1) {
			interface[used++] = code;
			file += 2;
		} else {
			interface[used++] = *file;
		}
	interface[used] = 0;
}

static bool is_egress(const char *name)
{
	return !strncmp(name, "egress-", 7);
}

static void detach_egress(const char *name)
{
	char interface[32];
	uint32_t ifindex;

	interface_of(name, interface, sizeof(interface));
	ifindex = if_nametoindex(interface);
	if (ifindex)
		egress_detach(ifindex);
}

int pins_mark_egress(const struct pins *pins, const char *interface, int program)
{
	char path[PATH_MAX];

	pins_path(pins, "egress", interface, path, sizeof(path));
	unlink(path);
	return bpf_obj_pin(program, path) ? -errno : 0;
}

void pins_drop_filter(const struct pins *pins, const char *interface, uint32_t ifindex)
{
	char path[PATH_MAX];

	pins_path(pins, "egress", interface, path, sizeof(path));
	if (!unlink(path))
		egress_detach(ifindex);
}

void pins_drop_egress(const struct pins *pins, const char *interface, uint32_t ifindex)
{
	char path[PATH_MAX];

	pins_path(pins, "way", interface, path, sizeof(path));
	unlink(path);
	pins_drop_filter(pins, interface, ifindex);
}

static bool wanted(const char *name, const char *const *interface, unsigned int count)
{
	static const char *const kinds[] = {"link", "program", "egress", "way"};
	char file[80];

	for (unsigned int i = 0; i < count; i++)
		for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
			file_name(kinds[kind], interface[i], file, sizeof(file));
			if (!strcmp(name, file))
				return true;
		}
	return false;
}

void pins_drop_others(const struct pins *pins, const char *const *interface, unsigned int count)
{
	DIR *directory = opendir(pins->directory);
	struct dirent *entry;

	while (directory && (entry = readdir(directory))) {
		if (!strchr(entry->d_name, '-'))
			continue;
		if (wanted(entry->d_name, interface, count))
			continue;
		if (is_egress(entry->d_name))
			detach_egress(entry->d_name);
		if (!unlinkat(dirfd(directory), entry->d_name, 0))
			log_info("interface.released", "{s:s}", "pin", entry->d_name);
	}
	if (directory)
		closedir(directory);
}

static bool remove_files(const char *path, bool *found, struct refusal *refusal)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	bool good = true;

	if (!directory)
		return errno == ENOENT ||
		       refuse(refusal, E_INTERNAL, NULL, "%s: %s", path, strerror(errno));
	while (good && (entry = readdir(directory))) {
		if (entry->d_type == DT_DIR)
			continue;
		*found = true;
		if (is_egress(entry->d_name))
			detach_egress(entry->d_name);
		if (unlinkat(dirfd(directory), entry->d_name, 0))
			good = refuse(refusal, E_INTERNAL, NULL, "%s/%s: %s", path, entry->d_name,
				      strerror(errno));
	}
	closedir(directory);
	return good;
}

static bool remove_version(const char *pin_dir, const char *name, bool *found,
			   struct refusal *refusal)
{
	char path[PATH_MAX], maps[PATH_MAX];

	snprintf(path, sizeof(path), "%.3900s/%s", pin_dir, name);
	snprintf(maps, sizeof(maps), "%.3900s/%s/maps", pin_dir, name);
	/* Links first: what they attach still works until it is gone. */
	if (!remove_files(path, found, refusal) || !remove_files(maps, found, refusal))
		return false;
	rmdir(maps);
	return !rmdir(path) ||
	       refuse(refusal, E_INTERNAL, "look what else is there: it is not synproxyd's",
		      "%s cannot be removed: %s", path, strerror(errno));
}

static bool remove_versions(const char *pin_dir, bool *found, struct refusal *refusal)
{
	DIR *directory = opendir(pin_dir);
	struct dirent *entry;
	bool good = directory;

	while (good && (entry = readdir(directory)))
		if (is_version(entry->d_name))
			good = remove_version(pin_dir, entry->d_name, found, refusal);
	if (directory)
		closedir(directory);
	return good;
}

void pins_undo(const struct pins *pins)
{
	char parent[PATH_MAX];
	struct refusal refusal;
	bool found = false;

	snprintf(parent, sizeof(parent), "%s", pins->directory);
	remove_version(dirname(parent), strrchr(pins->directory, '/') + 1, &found, &refusal);
	rmdir(parent);
}

bool pins_remove_all(const char *pin_dir, bool *found, struct refusal *refusal)
{
	struct pins pins = {.lock = -1};
	struct stat status;
	bool good;

	*found = false;
	if (stat(pin_dir, &status) && errno == ENOENT)
		return true;
	if (!pins_on_bpffs(pin_dir))
		return refuse(refusal, E_UNSUPPORTED, MOUNT_BPFFS, "%s is not on a bpf file system",
			      pin_dir);
	good = take_lock(&pins, pin_dir, refusal) && remove_versions(pin_dir, found, refusal);
	pins_close(&pins);
	if (good)
		rmdir(pin_dir);
	return good;
}
