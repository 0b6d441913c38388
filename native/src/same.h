/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a wish is what is in force already, so that it is renewed and not replaced. */
#ifndef SYNPROXYD_SAME_H
#define SYNPROXYD_SAME_H

#include "mitigations.h"

bool wish_unchanged(const struct engine *engine, const struct wish *wish, uint16_t current);

#endif
