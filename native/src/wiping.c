/* SPDX-License-Identifier: Apache-2.0 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "wiping.h"

/* The usable size, not the size asked for: it is known without a header of our own. */
static void wipe_and_free(void *memory)
{
	if (memory)
		explicit_bzero(memory, malloc_usable_size(memory));
	free(memory);
}

void wiping_begin(void)
{
	json_set_alloc_funcs(malloc, wipe_and_free);
	/* Now, as it opens /dev/urandom, which is out of reach later. */
	json_object_seed(0);
}
