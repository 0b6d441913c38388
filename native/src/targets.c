/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "targets.h"

static const struct fnm_prefix *target_of(const struct engine *engine, uint16_t slot)
{
	return &engine->tables.books[slot].target;
}

static __u16 *chain(struct fnm_policy *policy, uint8_t kind)
{
	switch (kind) {
	case FNM_ACL:
		return policy->acl;
	case FNM_SORB:
		return policy->sorb;
	case FNM_TCP:
		return policy->tcp;
	default:
		return policy->watch;
	}
}

static bool append(struct fnm_policy *policy, uint8_t kind, uint16_t slot)
{
	__u16 *link = chain(policy, kind);

	for (int i = 0; i < FNM_CHAIN; i++)
		if (!link[i]) {
			link[i] = slot;
			return true;
		}
	return false;
}

/* false: somebody is left out, which targets_fit has ruled out */
static bool policy_of(const struct engine *engine, const struct fnm_prefix *target,
		      struct fnm_policy *policy)
{
	bool fits = true;

	memset(policy, 0, sizeof(*policy));
	for (size_t i = 0; i < engine->live; i++) {
		uint16_t slot = engine->order[i];

		if (prefix_covers(target_of(engine, slot), target))
			fits &= append(policy, engine->tables.slots[slot].kind, slot);
	}
	return fits;
}

static unsigned int crowd(const struct engine *engine, const struct fnm_prefix *target,
			  uint8_t kind, uint16_t replaced)
{
	unsigned int count = 0;

	for (size_t i = 0; i < engine->live; i++) {
		uint16_t slot = engine->order[i];

		count += slot != replaced && engine->tables.slots[slot].kind == kind &&
			 prefix_covers(target_of(engine, slot), target);
	}
	return count;
}

bool targets_fit(const struct engine *engine, const struct fnm_prefix *target, uint8_t kind,
		 uint16_t replaced, struct fnm_prefix *crowded)
{
	*crowded = *target;
	if (crowd(engine, target, kind, replaced) >= FNM_CHAIN)
		return false;
	for (size_t i = 0; i < engine->live; i++) {
		uint16_t slot = engine->order[i];

		*crowded = *target_of(engine, slot);
		if (slot != replaced && prefix_covers(target, crowded) &&
		    crowd(engine, crowded, kind, replaced) >= FNM_CHAIN)
			return false;
	}
	return true;
}

static struct fnm_prefix all_ipv4(void)
{
	struct fnm_prefix prefix;

	parse_prefix("0.0.0.0/0", &prefix);
	return prefix;
}

/* An IPv6 prefix so short that, for the trie, the IPv4 addresses lie in it as well. */
static bool shadows_ipv4(const struct fnm_prefix *target)
{
	struct fnm_prefix ipv4 = all_ipv4();
	__u32 mask[4];

	prefix_mask(target->bits, mask);
	for (int i = 0; i < 4; i++)
		if ((target->address.word[i] ^ ipv4.address.word[i]) & mask[i])
			return false;
	return target->bits < ipv4.bits;
}

static bool in_force(const struct engine *engine, const struct fnm_prefix *target)
{
	struct fnm_prefix ipv4 = all_ipv4();
	bool is_ipv4_root = prefix_equal(target, &ipv4);

	for (size_t i = 0; i < engine->live; i++) {
		const struct fnm_prefix *other = target_of(engine, engine->order[i]);

		if (prefix_equal(other, target) || (is_ipv4_root && shadows_ipv4(other)))
			return true;
	}
	return false;
}

/* Makes the data plane forget what it has looked up. */
static void new_epoch(struct engine *engine)
{
	__atomic_add_fetch(&engine->tables.control->epoch, 1, __ATOMIC_RELEASE);
}

static int compile_one(struct engine *engine, const struct fnm_prefix *target)
{
	struct fnm_policy policy;
	int error;

	if (!in_force(engine, target))
		error = engine->backend->policy_clear(engine->data, target);
	else if (!policy_of(engine, target, &policy))
		error = -E2BIG;
	else
		error = engine->backend->policy_set(engine->data, target, &policy);
	new_epoch(engine);
	return error;
}

static void set_bit(struct fnm_control *control, __u32 bit)
{
	__atomic_or_fetch(&control->prefilter[bit >> 6], 1ull << (bit & 63), __ATOMIC_RELEASE);
}

static void open_prefilter(struct engine *engine, const struct fnm_prefix *target)
{
	struct fnm_control *control = engine->tables.control;
	const __u32 *word = target->address.word;

	if (prefix_is_host(target)) {
		set_bit(control, fnm_prefilter_bit(word[0], word[1], word[2], word[3]));
		return;
	}
	for (int i = 0; i < FNM_PREFILTER; i++)
		__atomic_store_n(&control->prefilter[i], ~0ull, __ATOMIC_RELEASE);
	__atomic_store_n(&control->wide, 1, __ATOMIC_RELEASE);
}

/* The blank policy that keeps an IPv6 prefix from the IPv4 addresses comes before it, and goes
 * after it. */
static int compile_shadowing(struct engine *engine, const struct fnm_prefix *target)
{
	struct fnm_prefix ipv4 = all_ipv4();
	bool comes = in_force(engine, target);
	int error = compile_one(engine, comes ? &ipv4 : target);

	return error ? error : compile_one(engine, comes ? target : &ipv4);
}

/* Each CPU remembers what it has found, for as long as the epoch lasts. */
static void begin_epoch(struct engine *engine)
{
	__atomic_add_fetch(&engine->tables.control->epoch, 1, __ATOMIC_RELEASE);
}

int targets_compile(struct engine *engine, const struct fnm_prefix *target)
{
	int error;

	if (in_force(engine, target))
		open_prefilter(engine, target);
	error =
	    shadows_ipv4(target) ? compile_shadowing(engine, target) : compile_one(engine, target);
	for (size_t i = 0; i < engine->live && !error; i++) {
		const struct fnm_prefix *inner = target_of(engine, engine->order[i]);

		if (!prefix_equal(inner, target) && prefix_covers(target, inner))
			error = compile_one(engine, inner);
	}
	begin_epoch(engine);
	return error;
}

void targets_rebuild_prefilter(struct engine *engine)
{
	struct fnm_control *control = engine->tables.control;
	__u64 wanted[FNM_PREFILTER] = {0};

	for (size_t i = 0; i < engine->live; i++) {
		const struct fnm_prefix *target = target_of(engine, engine->order[i]);
		const __u32 *word = target->address.word;
		__u32 bit = fnm_prefilter_bit(word[0], word[1], word[2], word[3]);

		if (!prefix_is_host(target)) {
			open_prefilter(engine, target);
			return;
		}
		wanted[bit >> 6] |= 1ull << (bit & 63);
	}
	for (int i = 0; i < FNM_PREFILTER; i++)
		__atomic_store_n(&control->prefilter[i], wanted[i], __ATOMIC_RELEASE);
	__atomic_store_n(&control->wide, 0, __ATOMIC_RELEASE);
	begin_epoch(engine);
}

static int prune(struct engine *engine)
{
	struct fnm_prefix *found = calloc(4 * FNM_SLOTS, sizeof(*found));
	int count, error = 0;

	if (!found)
		return -ENOMEM;
	count = engine->backend->policy_list(engine->data, found, 4 * FNM_SLOTS);
	for (int i = 0; i < count && !error; i++)
		if (!in_force(engine, &found[i]))
			error = engine->backend->policy_clear(engine->data, &found[i]);
	new_epoch(engine);
	free(found);
	return count < 0 ? count : error;
}

int targets_rebuild(struct engine *engine)
{
	struct fnm_prefix ipv4 = all_ipv4();
	int error = 0;

	for (size_t i = 0; i < engine->live; i++)
		open_prefilter(engine, target_of(engine, engine->order[i]));
	if (in_force(engine, &ipv4))
		error = compile_one(engine, &ipv4);
	for (size_t i = 0; i < engine->live && !error; i++)
		error = compile_one(engine, target_of(engine, engine->order[i]));
	if (!error)
		error = prune(engine);
	if (!error)
		targets_rebuild_prefilter(engine);
	begin_epoch(engine);
	return error;
}
