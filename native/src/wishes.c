/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "acls.h"
#include "address.h"
#include "rate.h"
#include "wishes.h"

bool id_valid(const char *id)
{
	static const char letters[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
	size_t length = strlen(id);

	return length && length <= BOOK_ID_MOST && strspn(id, letters) == length;
}

static bool read_delivery(const struct place *request, struct wish *wish)
{
	static const char letters[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
	size_t length;

	if (!take_string(request, "delivery", OPTIONAL, &wish->delivery))
		return false;
	if (!wish->delivery)
		return true;
	length = strlen(wish->delivery);
	return (length && length <= BOOK_ID_MOST && strspn(wish->delivery, letters) == length) ||
	       refuse(request->refusal, E_BAD_REQUEST, NULL,
		      "field \"delivery\" must be 1 to %d characters of A-Za-z0-9._:-",
		      BOOK_ID_MOST);
}

bool read_id_and_revision(const struct place *request, const char **id, uint64_t *revision)
{
	if (!take_string(request, "id", REQUIRED, id) ||
	    !take_integer(request, "revision", REQUIRED, 1, INT64_MAX, revision))
		return false;
	return id_valid(*id) ||
	       refuse(request->refusal, E_BAD_REQUEST, NULL,
		      "field \"id\" must be 1 to %d characters of A-Za-z0-9_-", BOOK_ID_MOST);
}

static bool read_target(const struct place *request, struct wish *wish)
{
	const char *text;

	if (!take_string(request, "target", REQUIRED, &text))
		return false;
	return parse_prefix(text, &wish->target) ||
	       refuse(request->refusal, E_BAD_REQUEST, NULL,
		      "field \"target\" must be a prefix without host bits, "
		      "as in 192.0.2.10/32 or 2001:db8::/64");
}

static bool read_ports_field(const struct place *place, struct wish *wish)
{
	json_t *list = NULL;

	if (!take_array(place, "ports", OPTIONAL, &list))
		return false;
	return ports_read(list, &wish->ports) ||
	       refuse(place->refusal, E_BAD_REQUEST, NULL,
		      "field \"%sports\" must be a list of ports and [low,high]", place->name);
}

static bool read_watch(const struct place *watch, struct wish *wish)
{
	static const char *const names[] = {"ports", NULL};

	return only_fields(watch, names) && read_ports_field(watch, wish);
}

static bool read_sorb(const struct place *place, struct wish *wish)
{
	static const char *const names[] = {"pps", "bps", "block_ms", NULL};
	struct fnm_sorb *sorb = &wish->slot.sorb;
	uint64_t pps = 0, bps = 0, block_ms = 600000;
	struct fnm_rate rate;

	if (!only_fields(place, names) ||
	    !take_integer(place, "pps", OPTIONAL, 1, RATE_PPS_MOST, &pps) ||
	    !take_integer(place, "bps", OPTIONAL, RATE_BPS_LEAST, RATE_BPS_MOST, &bps) ||
	    !take_integer(place, "block_ms", OPTIONAL, 1, EXPIRES_MOST_MS, &block_ms))
		return false;
	if (!pps && !bps)
		return refuse(place->refusal, E_BAD_REQUEST, NULL,
			      "field \"sorb.pps\" or \"sorb.bps\" is missing");
	if (pps) {
		rate = rate_of_packets(pps, RATE_SECOND_BURST);
		sorb->pps_interval = rate.interval;
		sorb->pps_burst = rate.burst;
	}
	if (bps) {
		sorb->bps_interval = rate_interval_of_bits(bps);
		sorb->bps_burst = rate_burst_of_bits(bps);
	}
	sorb->block_ms = block_ms;
	return true;
}

static bool read_tcp(const struct place *place, struct wish *wish)
{
	return wish_read_tcp(place, wish) && read_ports_field(place, wish);
}

static bool read_acl(const struct place *place, struct wish *wish)
{
	return acl_read(place, &wish->target, &wish->acl);
}

static const struct {
	const char *name;
	enum fnm_kind kind;
	bool (*read)(const struct place *place, struct wish *wish);
} kinds[] = {
    {"tcp", FNM_TCP, read_tcp},
    {"acl", FNM_ACL, read_acl},
    {"sorb", FNM_SORB, read_sorb},
    {"watch", FNM_WATCH, read_watch},
};

static bool read_kind(const struct place *request, struct wish *wish)
{
	const char *kind = "";
	struct place place;
	bool found = false;

	if (!take_string(request, "kind", REQUIRED, &kind))
		return false;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kind, kinds[i].name)) {
			if (has_field(request, kinds[i].name))
				return refuse(request->refusal, E_BAD_REQUEST, NULL,
					      "field \"%s\" does not go with this kind",
					      kinds[i].name);
			continue;
		}
		found = true;
		wish->slot.kind = kinds[i].kind;
		if (!take_object(request, kind, REQUIRED, &place) || !kinds[i].read(&place, wish))
			return false;
	}
	return found || refuse(request->refusal, E_BAD_REQUEST, NULL,
			       "field \"kind\" must be tcp, acl, sorb or watch");
}

bool wish_read(const struct place *request, struct wish *wish)
{
	static const char *const names[] = {"op",	  "seq",   "id",       "revision", "target",
					    "expires_ms", "kind",  "tcp",      "acl",	   "sorb",
					    "watch",	  "check", "delivery", NULL};

	memset(wish, 0, sizeof(*wish));
	wish->ports.all = true;
	return only_fields(request, names) &&
	       read_id_and_revision(request, &wish->id, &wish->revision) &&
	       read_delivery(request, wish) &&
	       take_bool(request, "check", OPTIONAL, &wish->check) &&
	       take_integer(request, "expires_ms", REQUIRED, 1, EXPIRES_MOST_MS,
			    &wish->expires_ms) &&
	       read_target(request, wish) && read_kind(request, wish);
}
