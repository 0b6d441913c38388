/* SPDX-License-Identifier: Apache-2.0 */
/* Takes sampled packets out of the kernel's ring buffer, the newest SAMPLES_KEPT of them. */
#ifndef SYNPROXYD_RING_H
#define SYNPROXYD_RING_H

#include "engine.h"
#include "refusal.h"

struct ring;

struct ring *ring_open(struct engine *engine, int fd, struct refusal *refusal);
int ring_poll_fd(const struct ring *ring);
/* Takes what is there, but no more than keeps the loop going. */
void ring_take(struct ring *ring);
void ring_close(struct ring *ring);
void sample_keep(struct engine *engine, const struct fnm_sample *sample);

#endif
