/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the rules of an acl and multiplies their lists out into those of the data plane. */
#ifndef SYNPROXYD_ACLS_H
#define SYNPROXYD_ACLS_H

#include "engine.h"
#include "fields.h"

/* place: the object with "rules"; target: the family that sources must have */
bool acl_read(const struct place *place, const struct fnm_prefix *target, struct fnm_acl *acl);

/* whether they judge alike, whatever their buckets hold */
bool acl_equal(const struct fnm_acl *one, const struct fnm_acl *other);

/* index, or -1: no room */
int acl_find_unused(const struct engine *engine);

#endif
