/* SPDX-License-Identifier: Apache-2.0 */
/* Reads JSON objects strictly: what is unknown, of another type or out of range is refused. */
#ifndef SYNPROXYD_FIELDS_H
#define SYNPROXYD_FIELDS_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "refusal.h"

struct place {
	json_t *object;
	char name[64]; /* "" at the top, else "tcp.grace." */
	struct refusal *refusal;
};

enum presence { OPTIONAL, REQUIRED };

/* refuses every field that is not among the names, of which the last is NULL */
bool only_fields(const struct place *place, const char *const *names);

/* Each returns false after a refusal; a field that is absent leaves the value as it was. */
bool take_integer(const struct place *place, const char *field, enum presence presence,
		  uint64_t least, uint64_t most, uint64_t *value);
bool take_bool(const struct place *place, const char *field, enum presence presence, bool *value);
bool take_string(const struct place *place, const char *field, enum presence presence,
		 const char **value);
bool take_array(const struct place *place, const char *field, enum presence presence,
		json_t **value);
bool take_object(const struct place *place, const char *field, enum presence presence,
		 struct place *value);
bool take_range(const struct place *place, const char *field, uint64_t most, bool *present,
		uint16_t range[2]);
bool take_hex(const struct place *place, const char *field, enum presence presence, bool *present,
	      void *bytes, size_t size);
bool has_field(const struct place *place, const char *field);

/* a port, or [low,high] */
bool read_ports(json_t *item, uint16_t range[2]);

#endif
