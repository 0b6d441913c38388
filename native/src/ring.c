/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/libbpf.h>

#include "ring.h"

struct ring {
	struct ring_buffer *buffer;
	struct engine *engine;
	unsigned int budget; /* records that this round may still take */
};

void sample_keep(struct engine *engine, const struct fnm_sample *sample)
{
	struct sample_ring *ring = &engine->samples;
	size_t place = ring->written++ % SAMPLES_KEPT;
	bool judged = sample->slot && sample->slot < FNM_SLOTS &&
		      engine->tables.books[sample->slot].state != BOOK_FREE;

	ring->kept[place] = *sample;
	snprintf(ring->ids[place], sizeof(ring->ids[place]), "%s",
		 judged ? engine->tables.books[sample->slot].id : "");
}

static int take(void *context, void *data, size_t size)
{
	struct ring *ring = context;

	if (size >= sizeof(struct fnm_sample))
		sample_keep(ring->engine, data);
	/* An error ends the round; the record is consumed all the same. */
	return --ring->budget ? 0 : -EAGAIN;
}

struct ring *ring_open(struct engine *engine, int fd, struct refusal *refusal)
{
	struct ring *ring = calloc(1, sizeof(*ring));

	if (ring) {
		ring->engine = engine;
		ring->buffer = ring_buffer__new(fd, take, ring, NULL);
	}
	if (ring && ring->buffer)
		return ring;
	refuse(refusal, E_INTERNAL, NULL, "the ring buffer of samples: %s", strerror(errno));
	free(ring);
	return NULL;
}

int ring_poll_fd(const struct ring *ring)
{
	return ring_buffer__epoll_fd(ring->buffer);
}

void ring_take(struct ring *ring)
{
	ring->budget = SAMPLES_KEPT;
	ring_buffer__consume(ring->buffer);
}

void ring_close(struct ring *ring)
{
	if (!ring)
		return;
	ring_buffer__free(ring->buffer);
	free(ring);
}
