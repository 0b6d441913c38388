/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <string.h>

#include "acls.h"
#include "address.h"
#include "rate.h"

#define TOO_MANY                                                                                   \
	"write fewer sources and ports in a rule, or ranges and wider prefixes instead of lists"

struct expansion {
	const struct place *place; /* of the rule */
	const struct fnm_prefix *target;
	struct fnm_acl_rule rule; /* what all of them share */
	struct fnm_acl *acl;
	json_t *sources, *source_ports, *destination_ports; /* NULL: any */
};

static bool bad(const struct expansion *x, const char *field, const char *wanted)
{
	return refuse(x->place->refusal, E_BAD_REQUEST, NULL, "field \"%s%s\" must be %s",
		      x->place->name, field, wanted);
}

static bool read_source(const struct expansion *x, json_t *item, struct fnm_acl_rule *rule)
{
	struct fnm_prefix prefix;

	if (!json_is_string(item) || !parse_prefix(json_string_value(item), &prefix))
		return bad(x, "sources", "a list of prefixes without host bits");
	if (prefix_is_ipv4(&prefix) != prefix_is_ipv4(x->target))
		return bad(x, "sources", "of the same family as the target");
	memcpy(rule->source, prefix.address.word, sizeof(rule->source));
	prefix_mask(prefix.bits, rule->source_mask);
	rule->match |= FNM_M_SOURCE;
	return true;
}

static bool emit(const struct expansion *x, const struct fnm_acl_rule *rule)
{
	struct fnm_acl *acl = x->acl;

	if (acl->rules == FNM_ACL_RULES)
		return refuse(x->place->refusal, E_BAD_REQUEST, TOO_MANY,
			      "field \"acl.rules\" makes more than %d rules once its lists of "
			      "sources and ports are multiplied out",
			      FNM_ACL_RULES);
	acl->rule[acl->rules++] = *rule;
	return true;
}

static bool each_destination_port(const struct expansion *x, struct fnm_acl_rule rule)
{
	size_t index;
	json_t *item;

	if (!json_array_size(x->destination_ports))
		return emit(x, &rule);
	rule.match |= FNM_M_DPORT;
	json_array_foreach(x->destination_ports, index, item)
	{
		if (!read_ports(item, rule.dport))
			return bad(x, "destination_ports", "a list of ports and [low,high]");
		if (!emit(x, &rule))
			return false;
	}
	return true;
}

static bool each_source_port(const struct expansion *x, struct fnm_acl_rule rule)
{
	size_t index;
	json_t *item;

	if (!json_array_size(x->source_ports))
		return each_destination_port(x, rule);
	rule.match |= FNM_M_SPORT;
	json_array_foreach(x->source_ports, index, item)
	{
		if (!read_ports(item, rule.sport))
			return bad(x, "source_ports", "a list of ports and [low,high]");
		if (!each_destination_port(x, rule))
			return false;
	}
	return true;
}

static bool each_source(const struct expansion *x)
{
	size_t index;
	json_t *item;

	if (!json_array_size(x->sources))
		return each_source_port(x, x->rule);
	json_array_foreach(x->sources, index, item)
	{
		struct fnm_acl_rule rule = x->rule;

		if (!read_source(x, item, &rule) || !each_source_port(x, rule))
			return false;
	}
	return true;
}

static bool read_action(const struct place *place, struct fnm_acl *acl, uint64_t *limits,
			struct fnm_acl_rule *rule)
{
	const char *action = NULL;
	uint64_t pps = 0;

	if (!take_string(place, "action", REQUIRED, &action) ||
	    !take_integer(place, "pps", OPTIONAL, 1, RATE_PPS_MOST, &pps))
		return false;
	if (!strcmp(action, "limit") != !!pps)
		return refuse(place->refusal, E_BAD_REQUEST, NULL,
			      "field \"%spps\" goes with the action \"limit\", and with it only",
			      place->name);
	if (!strcmp(action, "drop"))
		rule->action = FNM_ACL_DROP;
	else if (!strcmp(action, "pass"))
		rule->action = FNM_ACL_PASS;
	else if (pps && *limits == FNM_ACL_LIMITS)
		return refuse(place->refusal, E_BAD_REQUEST, NULL,
			      "field \"acl.rules\" has more than %d limits", FNM_ACL_LIMITS);
	else if (pps) {
		rule->action = FNM_ACL_LIMIT;
		rule->limit = (*limits)++;
		acl->limit[rule->limit] = rate_of_packets(pps, RATE_SHORT_BURST);
	} else {
		return refuse(place->refusal, E_BAD_REQUEST, NULL,
			      "field \"%saction\" must be drop, pass or limit", place->name);
	}
	return true;
}

static bool read_protocol(const struct place *place, struct fnm_acl_rule *rule)
{
	uint64_t protocol;

	if (!has_field(place, "protocol"))
		return true;
	if (!take_integer(place, "protocol", REQUIRED, 0, 255, &protocol))
		return false;
	rule->protocol = protocol;
	rule->match |= FNM_M_PROTOCOL;
	return true;
}

static bool read_flags(const struct place *place, struct fnm_acl_rule *rule)
{
	static const char *const names[] = {"mask", "value", NULL};
	struct place flags;
	uint64_t mask = 0, value = 0;

	if (!take_object(place, "flags", OPTIONAL, &flags))
		return false;
	if (!flags.object)
		return true;
	if (!only_fields(&flags, names) || !take_integer(&flags, "mask", REQUIRED, 1, 255, &mask) ||
	    !take_integer(&flags, "value", REQUIRED, 0, 255, &value))
		return false;
	if (value & ~mask)
		return refuse(place->refusal, E_BAD_REQUEST, NULL,
			      "field \"%svalue\" has bits that its mask has not", flags.name);
	rule->flags_mask = mask;
	rule->flags_value = value;
	rule->match |= FNM_M_FLAGS;
	return true;
}

static bool read_icmp(const struct place *place, struct fnm_acl_rule *rule)
{
	uint16_t type[2] = {0}, code[2] = {0};
	bool has_type, has_code;

	if (!take_range(place, "icmp_type", 255, &has_type, type) ||
	    !take_range(place, "icmp_code", 255, &has_code, code))
		return false;
	for (int i = 0; i < 2; i++) {
		rule->icmp_type[i] = type[i];
		rule->icmp_code[i] = code[i];
	}
	rule->match |= (has_type ? FNM_M_ICMP_TYPE : 0) | (has_code ? FNM_M_ICMP_CODE : 0);
	return true;
}

static bool read_shape(const struct place *place, struct fnm_acl_rule *rule)
{
	bool has_length, fragments = false;

	if (!take_range(place, "length", 65535, &has_length, rule->length) ||
	    !take_bool(place, "fragments", OPTIONAL, &fragments))
		return false;
	if (has_length)
		rule->match |= FNM_M_LENGTH;
	if (has_field(place, "fragments"))
		rule->match |= fragments ? FNM_M_FRAGMENT : FNM_M_NOT_FRAGMENT;
	return true;
}

/* A combination that no packet can have is a mistake, and would protect from nothing. */
static bool possible(const struct expansion *x)
{
	const struct fnm_acl_rule *rule = &x->rule;
	bool by_protocol = rule->match & FNM_M_PROTOCOL;
	bool ports = json_array_size(x->source_ports) || json_array_size(x->destination_ports);

	if (by_protocol && rule->match & FNM_M_FLAGS && rule->protocol != IPPROTO_TCP)
		return bad(x, "protocol", "6 (TCP) where \"flags\" is given");
	if (by_protocol && rule->match & (FNM_M_ICMP_TYPE | FNM_M_ICMP_CODE) &&
	    rule->protocol != IPPROTO_ICMP && rule->protocol != IPPROTO_ICMPV6)
		return bad(x, "protocol", "1 or 58 where an ICMP type or code is given");
	if (by_protocol && ports &&
	    (rule->protocol == IPPROTO_ICMP || rule->protocol == IPPROTO_ICMPV6))
		return bad(x, "protocol", "one with ports where ports are given");
	return true;
}

static bool read_rule(const struct place *place, const struct fnm_prefix *target,
		      struct fnm_acl *acl, uint64_t *limits)
{
	static const char *const names[] = {"action", "protocol",  "sources",	"source_ports",
					    "length", "fragments", "flags",	"destination_ports",
					    "pps",    "icmp_type", "icmp_code", NULL};
	struct expansion x = {.place = place, .target = target, .acl = acl};

	return only_fields(place, names) && read_action(place, acl, limits, &x.rule) &&
	       read_protocol(place, &x.rule) && read_flags(place, &x.rule) &&
	       read_icmp(place, &x.rule) && read_shape(place, &x.rule) &&
	       take_array(place, "sources", OPTIONAL, &x.sources) &&
	       take_array(place, "source_ports", OPTIONAL, &x.source_ports) &&
	       take_array(place, "destination_ports", OPTIONAL, &x.destination_ports) &&
	       possible(&x) && each_source(&x);
}

bool acl_read(const struct place *place, const struct fnm_prefix *target, struct fnm_acl *acl)
{
	static const char *const names[] = {"rules", NULL};
	uint64_t limits = 0;
	json_t *rules = NULL, *item;
	size_t index;

	memset(acl, 0, sizeof(*acl));
	if (!only_fields(place, names) || !take_array(place, "rules", REQUIRED, &rules))
		return false;
	if (!json_array_size(rules))
		return refuse(place->refusal, E_BAD_REQUEST, NULL, "field \"acl.rules\" is empty");
	json_array_foreach(rules, index, item)
	{
		struct place rule = {.object = item, .refusal = place->refusal};

		snprintf(rule.name, sizeof(rule.name), "acl.rules[%zu].", index);
		if (!json_is_object(item))
			return refuse(place->refusal, E_BAD_REQUEST, NULL,
				      "field \"acl.rules[%zu]\" must be an object", index);
		if (!read_rule(&rule, target, acl, &limits))
			return false;
	}
	return true;
}

bool acl_equal(const struct fnm_acl *one, const struct fnm_acl *other)
{
	if (one->rules != other->rules ||
	    memcmp(one->rule, other->rule, one->rules * sizeof(one->rule[0])))
		return false;
	for (int i = 0; i < FNM_ACL_LIMITS; i++)
		if (!rate_equal(&one->limit[i], &other->limit[i]))
			return false;
	return true;
}

int acl_find_unused(const struct engine *engine)
{
	for (int i = 1; i < FNM_ACLS; i++)
		if (!engine->acl_used[i])
			return i;
	return -1;
}
