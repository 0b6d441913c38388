/* SPDX-License-Identifier: Apache-2.0 */
/* Deleted ids: a put that was overtaken by its delete must not bring the mitigation back. */
#ifndef SYNPROXYD_TOMBS_H
#define SYNPROXYD_TOMBS_H

#include "engine.h"

uint64_t tomb_revision(const struct engine *engine, const char *id); /* 0: none */
void tomb_set(struct engine *engine, const char *id, uint64_t revision);

#endif
