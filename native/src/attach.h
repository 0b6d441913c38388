/* SPDX-License-Identifier: Apache-2.0 */
/* Puts the program on an interface by a pinned link, or swaps the one that is there. */
#ifndef SYNPROXYD_ATTACH_H
#define SYNPROXYD_ATTACH_H

#include "pins.h"

enum swap { ATTACHED, SWAPPED, REATTACHED };

struct attachment {
	uint32_t ifindex;
	bool generic;
	enum swap swap;
	int link; /* fd */
};

/* What is on an interface; empty strings where nothing is. */
struct present {
	uint32_t program_id, link_id; /* 0: none */
	char name[64];
	bool generic;
};

bool attach_present(uint32_t ifindex, struct present *present);
bool attach(struct attachment *attachment, const struct pins *pins, const char *interface,
	    int program, bool allow_generic, struct refusal *refusal);
/* whether the interface of this link has gone away */
bool attach_gone(const struct attachment *attachment);
/* whether the program that is present is held by the link that is pinned for this interface; asking
 * for its name would take more rights than the daemon has */
bool attach_is_ours(const struct pins *pins, const char *interface, uint32_t ifindex,
		    const struct present *present);
bool attach_refuse_foreign(const char *interface, const struct present *present,
			   struct refusal *refusal);

#endif
