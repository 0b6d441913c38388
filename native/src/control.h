/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: who may connect, how many, and how long they may keep an answer waiting. */
#ifndef SYNPROXYD_CONTROL_H
#define SYNPROXYD_CONTROL_H

#include <sys/types.h>

#include "engine.h"
#include "options.h"
#include "refusal.h"

#define CLIENTS_MOST   32
#define SLOW_READER_MS 10000

struct control;

/* Listens; a socket file that nobody serves is replaced, one that is served is refused. */
struct control *control_open(struct engine *engine, const struct options *options,
			     struct refusal *refusal);
int control_poll_fd(const struct control *control);
/* Serves what is ready; true: something is left to do at once. */
bool control_work(struct control *control);
/* Closes those who do not read; to be called once a second. */
void control_tick(struct control *control);
void control_close(struct control *control);

#endif
