/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon.h"
#include "peer.h"

static json_int_t number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static const char *text(const json_t *object, const char *name)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value ? value : "-";
}

static void show_interfaces(const json_t *hello)
{
	size_t index;
	json_t *one;

	printf("synproxyd %s, pid %" JSON_INTEGER_FORMAT "\n", text(hello, "daemon"),
	       number(hello, "pid"));
	json_array_foreach(json_object_get(hello, "interfaces"), index, one) printf(
	    "  %-15s %s mode, checksums %s\n", text(one, "name"), text(one, "mode"),
	    json_is_true(json_object_get(one, "verify_checksums")) ? "verified" : "not verified");
}

static void show_packets(const char *indent, const json_t *packets)
{
	const char *reason;
	json_t *count;

	json_object_foreach((json_t *)packets, reason, count)
	    printf("%s%-18s %" JSON_INTEGER_FORMAT "\n", indent, reason, json_integer_value(count));
}

static void show_mitigation(const json_t *one)
{
	const json_t *rates = json_object_get(one, "rates");

	printf("%-24s %-6s %-9s %-24s ends in %" JSON_INTEGER_FORMAT " s\n", text(one, "id"),
	       text(one, "kind"), text(one, "mode"), text(one, "target"),
	       number(one, "expires_ms") / 1000);
	if (json_object_get(one, "delivery"))
		printf("  delivery %s\n", text(one, "delivery"));
	printf("  now: %" JSON_INTEGER_FORMAT " pps, %" JSON_INTEGER_FORMAT
	       " dropped, %" JSON_INTEGER_FORMAT " answered, %" JSON_INTEGER_FORMAT
	       " passed, %" JSON_INTEGER_FORMAT " bit/s\n",
	       number(rates, "pps"), number(rates, "dropped_pps"), number(rates, "answered_pps"),
	       number(rates, "passed_pps"), number(rates, "bps"));
	show_packets("    ", json_object_get(one, "packets"));
}

static bool show_list(struct peer *peer, struct refusal *refusal)
{
	const char *after = NULL;
	json_t *answer = NULL, *next, *one;
	size_t index;

	do {
		next =
		    peer_ask(peer, json_pack("{s:s,s:s*}", "op", "list", "after", after), refusal);
		json_decref(answer);
		answer = next;
		json_array_foreach(json_object_get(answer, "mitigations"), index, one)
		    show_mitigation(one);
		after = json_string_value(json_object_get(answer, "more_after"));
	} while (after);
	json_decref(next);
	return next;
}

static bool show_stats(struct peer *peer, struct refusal *refusal)
{
	json_t *stats = peer_ask(peer, json_pack("{s:s}", "op", "stats"), refusal);
	const json_t *splices = json_object_get(stats, "splices");

	if (!stats)
		return false;
	printf("%" JSON_INTEGER_FORMAT " mitigations, %" JSON_INTEGER_FORMAT
	       " flows, %" JSON_INTEGER_FORMAT " proven sources, %" JSON_INTEGER_FORMAT
	       " MiB of maps\n"
	       "spliced flows: %" JSON_INTEGER_FORMAT " open, %" JSON_INTEGER_FORMAT
	       " asked, %" JSON_INTEGER_FORMAT " closing\n",
	       number(stats, "mitigations"), number(stats, "flows"), number(stats, "sources"),
	       number(stats, "memory_bytes") >> 20, number(splices, "open"),
	       number(splices, "asked"), number(splices, "closing"));
	show_packets("  ", json_object_get(stats, "packets"));
	json_decref(stats);
	return true;
}

int command_status(const struct options *options)
{
	struct refusal refusal;
	struct peer peer;
	json_t *hello = NULL;
	bool good = peer_open(&peer, options->socket, &hello, &refusal);

	if (good) {
		show_interfaces(hello);
		good = show_stats(&peer, &refusal) && show_list(&peer, &refusal);
	}
	json_decref(hello);
	peer_close(&peer);
	if (good)
		return 0;
	fprintf(stderr, "synproxyd: %s\n", refusal.message);
	if (refusal.todo)
		fprintf(stderr, "  what to do: %s\n", refusal.todo);
	return EXIT_REFUSED;
}
