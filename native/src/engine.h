/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's picture of the data plane: memory it shares with it, and what needs a system call.
 *
 * Everything that decides works on this, so that tests and the fuzzer run the same code on plain
 * memory, and selftest runs it on maps of its own.
 */
#ifndef SYNPROXYD_ENGINE_H
#define SYNPROXYD_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "book.h"

struct tables {
	struct fnm_control *control;
	struct fnm_slot *slots;
	struct fnm_portset *portsets;
	struct fnm_acl *acls;
	struct fnm_flow4_set *flows4;
	struct fnm_flow6_set *flows6;
	struct fnm_source_set *sources;
	struct fnm_sighting_set *sightings;
	struct fnm_talker_set *talkers;
	struct fnm_filter *filters; /* four: two kinds, two generations */
	struct book *books;
	struct tomb *tombs;
	struct fnm_splicing *splicing;
	struct fnm_splice_set *splices;
	uint32_t flow4_sets, flow6_sets, source_sets, sighting_sets, talker_sets,
	    splice_sets; /* powers of two */
};

/* Each returns 0 or a negative errno. */
struct backend {
	int (*policy_set)(void *data, const struct fnm_prefix *target,
			  const struct fnm_policy *policy);
	int (*policy_clear)(void *data, const struct fnm_prefix *target); /* absent is no error */
	/* how many targets there are, the first `most` of which go to `targets` */
	int (*policy_list)(void *data, struct fnm_prefix *targets, size_t most);
	int (*counters)(void *data, uint32_t slot, struct fnm_counters *sum);
	int (*counters_clear)(void *data, uint32_t slot);
	int (*work)(void *data, struct fnm_work *sum);
	/* Put the ACK that has opened it to the data plane once more, as if the client had. */
	int (*ask_again)(void *data, const struct fnm_splice *row);
	/* whether a server there is known to answer by another way than through here */
	bool (*elsewhere)(void *data, const struct fnm_prefix *target);
	uint64_t (*engine_ms)(void *data);
	uint64_t (*monotonic_ms)(void *data);
};

#define SAMPLES_KEPT 1024

struct sample_ring {
	struct fnm_sample kept[SAMPLES_KEPT];
	char ids[SAMPLES_KEPT][BOOK_ID_BYTES]; /* a slot may have another use later */
	uint64_t written;
};

struct meter {
	uint64_t at_ms; /* when `last` was read; 0: never */
	uint64_t window_ms;
	struct fnm_counters last, rate; /* rate: a second */
};

struct interface_facts {
	char name[16];
	uint32_t ifindex;
	bool generic, verify_checksums;
	bool gone; /* the interface, and the program with it */
	uint64_t instructions, verified_instructions;
};

#define INTERFACES_MOST 16

struct facts { /* what hello and stats tell, found out at the start */
	uint32_t hz;
	uint64_t memory_bytes;
	uint64_t started_ms;
	size_t interfaces;
	struct interface_facts interface[INTERFACES_MOST];
	bool splice; /* what leaves is seen, too */
	uint32_t splice_idle;
};

struct table_count {			 /* of occupied rows; counting them takes a while */
	uint64_t flows, flows6, sources; /* flows: of both families */
	uint64_t at_ms;			 /* 0: never */
};

struct splice_count { /* of live rows, at the last tick */
	uint64_t asked, open, closing;
	int failed_to_ask;	       /* the error that was told of last */
	__u64 expected[FNM_PREFILTER]; /* bits of the mitigations that were in force then */
};

enum filter_phase { FILTER_AT_REST, FILTER_COUNTING, FILTER_DRAINING, FILTER_FILLING };

struct filter_round {
	enum filter_phase phase;
	uint64_t since_ms; /* engine clock; of this phase */
	uint64_t next;	   /* set to look at next, all tables in a row */
	uint64_t keys[2];  /* of each enum fnm_filter_kind */
};

struct engine {
	struct tables tables;
	const struct backend *backend;
	void *data; /* of the backend */
	struct facts facts;
	uint16_t order[FNM_SLOTS]; /* slots in force, oldest mitigation first */
	size_t live;
	uint16_t retired[FNM_SLOTS]; /* slots that wait to be freed, longest first */
	size_t retirees;
	uint16_t portset_uses[FNM_PORTSETS];
	bool acl_used[FNM_ACLS];
	uint16_t next_slot; /* where the search for a free one begins */
	struct meter meters[FNM_SLOTS];
	/* of the detector's call each goes back to; "" where nobody said. Not pinned: after a
	 * restart the next put tells it again. */
	char deliveries[FNM_SLOTS][BOOK_ID_BYTES];
	struct sample_ring samples;
	struct table_count count;
	struct filter_round filters;
	struct splice_count splices;
};

#define NONE 0 /* slot, portset and acl that stand for none */

static inline uint64_t engine_now(const struct engine *engine)
{
	return engine->backend->engine_ms(engine->data);
}

#endif
