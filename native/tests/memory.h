/* SPDX-License-Identifier: Apache-2.0 */
/* The engine on plain memory: no privileges, no kernel, a clock that the test moves. */
#ifndef TESTS_MEMORY_H
#define TESTS_MEMORY_H

#include "engine.h"

#define MEMORY_POLICIES 4096

struct memory {
	struct engine *engine;
	struct {
		struct fnm_prefix target;
		struct fnm_policy policy;
	} policies[MEMORY_POLICIES];
	size_t policy_count;
	size_t policy_room; /* how many fit; fewer than MEMORY_POLICIES for a test of a full map */
	struct fnm_counters counters[FNM_SLOTS];
	uint64_t now_ms;
	unsigned int asked_again;
	bool elsewhere; /* what the backend says of every target */
};

struct memory *memory_open(void);
void memory_close(struct memory *memory);
/* The policy that the data plane would find: exact hosts first, then the longest prefix. */
const struct fnm_policy *memory_find(const struct memory *memory, const char *address);
/* An engine that was killed and starts again on the same memory. */
void memory_restart(struct memory *memory);

#endif
