/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon knows of a slot and the data plane does not ask. It is kept in pinned maps of
 * its own, so that a restart or an upgrade knows what is in force. No key material.
 */
#ifndef SYNPROXYD_BOOK_H
#define SYNPROXYD_BOOK_H

#include "abi.h"

#define BOOK_ID_MOST  64
#define BOOK_ID_BYTES 72
#define BOOK_TOMBS    4096
#define BOOK_TOMB_MS  600000ull

enum book_state {
	BOOK_FREE = 0,
	BOOK_LIVE = 1,
	BOOK_RETIRED = 2, /* no policy names it; a packet on its way may still use it */
};

/* Element 0 belongs to no mitigation: `sequence` is the newest one given out, and the counters
 * are what mitigations that have ended had counted. */
struct book {
	__u64 sequence; /* order of age; a replacement keeps it */
	__u64 revision;
	__u64 created_ms; /* engine clock; first put */
	__u64 retired_ms;
	__u64 grace_ms;
	struct fnm_prefix target;
	__u16 state; /* enum book_state */
	__u16 heir;  /* slot that takes over the counters of a retired one */
	char id[BOOK_ID_BYTES];
	struct fnm_counters before; /* counted for this id by slots that are free again */
};

struct tomb { /* of an id that was deleted */
	char id[BOOK_ID_BYTES];
	__u64 revision;
	__u64 until_ms; /* engine clock; 0: empty */
};

#endif
