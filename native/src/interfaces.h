/* SPDX-License-Identifier: Apache-2.0 */
/* The programs on the interfaces that were named: loaded, attached or swapped, all or none. */
#ifndef SYNPROXYD_INTERFACES_H
#define SYNPROXYD_INTERFACES_H

#include "attach.h"
#include "engine.h"
#include "kernel.h"
#include "options.h"
#include "pins.h"

struct interfaces {
	const struct options *options;
	struct engine *engine;
	struct kernel *kernel;
	const struct pins *pins;
	struct attachment attachments[INTERFACES_MOST];
};

bool interfaces_attach(struct interfaces *all, struct refusal *refusal);

#endif
