/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "daemon.h"
#include "pins.h"

int command_detach(const struct options *options)
{
	struct refusal refusal;
	bool found;

	if (!pins_remove_all(options->pin_dir, &found, &refusal)) {
		fprintf(stderr, "synproxyd: %s\n", refusal.message);
		if (refusal.todo)
			fprintf(stderr, "  what to do: %s\n", refusal.todo);
		return EXIT_REFUSED;
	}
	printf("%s\n", found ? "detached: every link, program and map is removed"
			     : "nothing of synproxyd is pinned there");
	return 0;
}
