/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the engine's objects are pinned: DIR/v<ABI>/, and in it maps/ and a link and a program for
 * each interface. It is what outlives the daemon.
 */
#ifndef SYNPROXYD_PINS_H
#define SYNPROXYD_PINS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "refusal.h"

struct pins {
	char directory[PATH_MAX - 256]; /* DIR/v<ABI> */
	char maps[PATH_MAX - 128];
	int lock; /* fd; held as long as the daemon runs */
};

/* Where they are, or would be, without touching anything; false: the path is too long. */
bool pins_name(struct pins *pins, const char *pin_dir);
/* Makes the directories and takes the lock; refuses where another ABI's state is. */
bool pins_open(struct pins *pins, const char *pin_dir, struct refusal *refusal);
void pins_close(struct pins *pins);
/* Path of an object that belongs to an interface; `what` is "link" or "program". */
void pins_path(const struct pins *pins, const char *what, const char *interface, char *path,
	       size_t size);
/* Removes what is pinned for interfaces that are not among the names. */
void pins_drop_others(const struct pins *pins, const char *const *interface, unsigned int count);
/* Removes what a start that failed has made. */
/* A filter where packets leave is held by its interface; the pin of its program only tells that
 * there is one. 0 or a negative errno. */
int pins_mark_egress(const struct pins *pins, const char *interface, int program);
/* The filter alone, or whatever is there. */
void pins_drop_filter(const struct pins *pins, const char *interface, uint32_t ifindex);
void pins_drop_egress(const struct pins *pins, const char *interface, uint32_t ifindex);
void pins_undo(const struct pins *pins);
/* Removes everything under DIR that this program has pinned, of any ABI. */
bool pins_remove_all(const char *pin_dir, bool *found, struct refusal *refusal);
/* whether a path, or the nearest directory above it that is there, is on a bpf file system */
bool pins_on_bpffs(const char *path);

#endif
