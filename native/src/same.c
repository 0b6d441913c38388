/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "acls.h"
#include "address.h"
#include "portsets.h"
#include "rate.h"
#include "same.h"

static bool equal_tcp(const struct fnm_tcp *one, const struct fnm_tcp *other)
{
	struct fnm_tcp a = *one, b = *other;
	bool same;

	if (!rate_equal(&a.grace, &b.grace) || !rate_equal(&a.unknown, &b.unknown) ||
	    !rate_equal(&a.learned, &b.learned) || !rate_equal(&a.syn_ack_in, &b.syn_ack_in) ||
	    !rate_equal(&a.icmp, &b.icmp))
		return false;
	a.grace = b.grace = a.unknown = b.unknown = (struct fnm_rate){0};
	a.syn_ack_in = b.syn_ack_in = a.icmp = b.icmp = (struct fnm_rate){0};
	a.learned = b.learned = (struct fnm_rate){0};
	/* These two words follow the server's clock, and are written without a new slot. */
	a.cookie_offset = b.cookie_offset = a.ts_offset = b.ts_offset = 0;
	same = !memcmp(&a, &b, sizeof(a));
	explicit_bzero(&a, sizeof(a));
	explicit_bzero(&b, sizeof(b));
	return same;
}

bool wish_unchanged(const struct engine *engine, const struct wish *wish, uint16_t current)
{
	const struct fnm_slot *now = &engine->tables.slots[current];
	const struct fnm_slot *then = &wish->slot;

	if (!prefix_equal(&engine->tables.books[current].target, &wish->target) ||
	    now->kind != then->kind || now->mode != then->mode || now->flags != then->flags ||
	    !portset_is(engine, now->portset, &wish->ports))
		return false;
	if (then->kind == FNM_TCP)
		return equal_tcp(&now->tcp, &then->tcp);
	if (then->kind == FNM_SORB)
		return !memcmp(&now->sorb, &then->sorb, sizeof(now->sorb));
	return then->kind != FNM_ACL || acl_equal(&engine->tables.acls[now->acl], &wish->acl);
}
