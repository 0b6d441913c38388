/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "fields.h"
#include "portsets.h"

/* A word at a time: a line holds a hundred thousand ranges, and everybody waits meanwhile. */
static void add_range(struct fnm_portset *set, unsigned int low, unsigned int high)
{
	for (unsigned int word = low >> 6; word <= high >> 6; word++) {
		__u64 bits = ~0ull;

		if (word == low >> 6)
			bits &= ~0ull << (low & 63);
		if (word == high >> 6)
			bits &= ~0ull >> (63 - (high & 63));
		set->bit[word] |= bits;
	}
}

bool ports_read(json_t *list, struct ports *ports)
{
	uint16_t range[2];
	size_t index;
	json_t *item;

	memset(ports, 0, sizeof(*ports));
	ports->all = !json_array_size(list);
	json_array_foreach(list, index, item)
	{
		if (!read_ports(item, range))
			return false;
		add_range(&ports->set, range[0], range[1]);
	}
	return true;
}

bool portset_is(const struct engine *engine, uint16_t index, const struct ports *ports)
{
	if (ports->all || !index)
		return ports->all && !index;
	return !memcmp(&engine->tables.portsets[index], &ports->set, sizeof(ports->set));
}

static int find(const struct engine *engine, const struct ports *ports)
{
	int unused = -1;

	if (ports->all)
		return NONE;
	for (int i = FNM_PORTSETS - 1; i > NONE; i--) {
		if (!engine->portset_uses[i])
			unused = i;
		else if (portset_is(engine, i, ports))
			return i;
	}
	return unused;
}

bool portset_fits(const struct engine *engine, const struct ports *ports)
{
	return find(engine, ports) >= 0;
}

int portset_place(struct engine *engine, const struct ports *ports)
{
	int index = find(engine, ports);

	if (index > NONE && !engine->portset_uses[index])
		engine->tables.portsets[index] = ports->set;
	return index;
}
