/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of ports, shared by every slot that names the same one. */
#ifndef SYNPROXYD_PORTSETS_H
#define SYNPROXYD_PORTSETS_H

#include <jansson.h>

#include "engine.h"

struct ports {
	bool all;
	struct fnm_portset set;
};

/* false: an item is neither a port nor a range */
bool ports_read(json_t *list, struct ports *ports);

/* Index of the list, written when it is new, or -1: no room. `uses` is not changed. */
int portset_place(struct engine *engine, const struct ports *ports);
/* the same without writing */
bool portset_fits(const struct engine *engine, const struct ports *ports);
bool portset_is(const struct engine *engine, uint16_t index, const struct ports *ports);

#endif
