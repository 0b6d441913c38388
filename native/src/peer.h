/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of the control socket, for `synproxyd status`. */
#ifndef SYNPROXYD_PEER_H
#define SYNPROXYD_PEER_H

#include <stdio.h>

#include <jansson.h>

#include "refusal.h"

struct peer {
	FILE *stream;
	char *line;
	size_t size;
};

/* Connects and greets. */
bool peer_open(struct peer *peer, const char *path, json_t **hello, struct refusal *refusal);
/* Sends a request, whose reference it takes; NULL: refused. */
json_t *peer_ask(struct peer *peer, json_t *request, struct refusal *refusal);
void peer_close(struct peer *peer);

#endif
