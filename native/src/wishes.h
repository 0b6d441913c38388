/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a put request into a wish; the fields are those of docs/protocols.md. */
#ifndef SYNPROXYD_WISHES_H
#define SYNPROXYD_WISHES_H

#include "fields.h"
#include "mitigations.h"

#define EXPIRES_MOST_MS 604800000ull

bool id_valid(const char *id);
bool read_id_and_revision(const struct place *request, const char **id, uint64_t *revision);
bool wish_read(const struct place *request, struct wish *wish);
bool wish_read_tcp(const struct place *tcp, struct wish *wish);

#endif
