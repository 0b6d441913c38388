/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fields.h"

#define NAME_SHOWN 24 /* no field's name is longer; a key that has strayed there is */

/* A name from the wire may be anything. */
static const char *shown(const char *name, char *text, size_t size)
{
	size_t length = strlen(name);

	if (length > NAME_SHOWN) {
		snprintf(text, size, "(%zu characters)", length);
		return text;
	}
	for (size_t i = 0; i <= length; i++)
		text[i] =
		    !name[i] || (name[i] > ' ' && name[i] <= '~' && name[i] != '"') ? name[i] : '?';
	return text;
}

static bool known(const char *key, const char *const *names)
{
	for (; *names; names++)
		if (!strcmp(key, *names))
			return true;
	return false;
}

bool only_fields(const struct place *place, const char *const *names)
{
	const char *key;
	json_t *value;
	char text[40];

	json_object_foreach(place->object, key, value) if (!known(key, names)) return refuse(
	    place->refusal, E_BAD_REQUEST, NULL, "unknown field \"%s%s\"", place->name,
	    shown(key, text, sizeof(text)));
	return true;
}

static bool missing(const struct place *place, const char *field, enum presence presence)
{
	if (presence == OPTIONAL)
		return true;
	return refuse(place->refusal, E_BAD_REQUEST, NULL, "field \"%s%s\" is missing", place->name,
		      field);
}

static bool wrong(const struct place *place, const char *field, const char *wanted)
{
	return refuse(place->refusal, E_BAD_REQUEST, NULL, "field \"%s%s\" must be %s", place->name,
		      field, wanted);
}

bool has_field(const struct place *place, const char *field)
{
	return json_object_get(place->object, field);
}

bool take_integer(const struct place *place, const char *field, enum presence presence,
		  uint64_t least, uint64_t most, uint64_t *value)
{
	json_t *item = json_object_get(place->object, field);
	char wanted[80];

	if (!item)
		return missing(place, field, presence);
	if (json_is_integer(item) && json_integer_value(item) >= 0 &&
	    (uint64_t)json_integer_value(item) >= least &&
	    (uint64_t)json_integer_value(item) <= most) {
		*value = json_integer_value(item);
		return true;
	}
	snprintf(wanted, sizeof(wanted), "a whole number from %" PRIu64 " to %" PRIu64, least,
		 most);
	return wrong(place, field, wanted);
}

bool take_bool(const struct place *place, const char *field, enum presence presence, bool *value)
{
	json_t *item = json_object_get(place->object, field);

	if (!item)
		return missing(place, field, presence);
	if (!json_is_boolean(item))
		return wrong(place, field, "true or false");
	*value = json_is_true(item);
	return true;
}

bool take_string(const struct place *place, const char *field, enum presence presence,
		 const char **value)
{
	json_t *item = json_object_get(place->object, field);

	if (!item)
		return missing(place, field, presence);
	if (!json_is_string(item))
		return wrong(place, field, "a string");
	*value = json_string_value(item);
	return true;
}

bool take_array(const struct place *place, const char *field, enum presence presence,
		json_t **value)
{
	json_t *item = json_object_get(place->object, field);

	if (!item)
		return missing(place, field, presence);
	if (!json_is_array(item))
		return wrong(place, field, "a list");
	*value = item;
	return true;
}

bool take_object(const struct place *place, const char *field, enum presence presence,
		 struct place *value)
{
	json_t *item = json_object_get(place->object, field);

	value->object = NULL;
	value->refusal = place->refusal;
	snprintf(value->name, sizeof(value->name), "%.40s%.20s.", place->name, field);
	if (!item)
		return missing(place, field, presence);
	if (!json_is_object(item))
		return wrong(place, field, "an object");
	value->object = item;
	return true;
}

static bool pair(json_t *item, uint64_t most, uint16_t range[2])
{
	json_int_t low, high;

	if (!json_is_array(item) || json_array_size(item) != 2 ||
	    !json_is_integer(json_array_get(item, 0)) || !json_is_integer(json_array_get(item, 1)))
		return false;
	low = json_integer_value(json_array_get(item, 0));
	high = json_integer_value(json_array_get(item, 1));
	if (low < 0 || low > high || high > (json_int_t)most)
		return false;
	range[0] = low;
	range[1] = high;
	return true;
}

bool take_range(const struct place *place, const char *field, uint64_t most, bool *present,
		uint16_t range[2])
{
	json_t *item = json_object_get(place->object, field);
	char wanted[80];

	*present = item;
	if (!item || pair(item, most, range))
		return true;
	snprintf(wanted, sizeof(wanted), "[low,high], both from 0 to %" PRIu64, most);
	return wrong(place, field, wanted);
}

static int hex_digit(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	if (digit >= 'A' && digit <= 'F')
		return digit - 'A' + 10;
	return -1;
}

static bool read_hex(const char *text, unsigned char *bytes, size_t size)
{
	if (strlen(text) != 2 * size)
		return false;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = high << 4 | low;
	}
	return true;
}

bool take_hex(const struct place *place, const char *field, enum presence presence, bool *present,
	      void *bytes, size_t size)
{
	json_t *item = json_object_get(place->object, field);
	char wanted[40];

	*present = item;
	if (!item)
		return missing(place, field, presence);
	if (json_is_string(item) && read_hex(json_string_value(item), bytes, size))
		return true;
	snprintf(wanted, sizeof(wanted), "%zu hex digits", 2 * size);
	return wrong(place, field, wanted);
}

bool read_ports(json_t *item, uint16_t range[2])
{
	if (json_is_integer(item)) {
		json_int_t port = json_integer_value(item);

		range[0] = range[1] = (uint16_t)port;
		return port >= 0 && port <= 65535;
	}
	return pair(item, 65535, range);
}
