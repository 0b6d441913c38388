/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <string.h>

#include "address.h"
#include "rate.h"
#include "wishes.h"

#define MSS_LEAST  88 /* Linux accepts no less */
#define CLOCK_MOST (1ull << 62)

static bool read_mode(const struct place *tcp, struct wish *wish)
{
	const char *mode;

	if (!take_string(tcp, "mode", REQUIRED, &mode))
		return false;
	if (!strcmp(mode, "isn-sync"))
		wish->slot.mode = FNM_ISN_SYNC;
	else if (!strcmp(mode, "reset"))
		wish->slot.mode = FNM_RESET;
	else if (!strcmp(mode, "splice"))
		wish->slot.mode = FNM_SPLICE;
	else
		return refuse(tcp->refusal, E_BAD_REQUEST, NULL,
			      "field \"tcp.mode\" must be isn-sync, splice or reset");
	return true;
}

static bool read_rates(const struct place *place, struct wish *wish)
{
	uint64_t unknown = 1000, learned = 50000, syn_ack = 10000, icmp = 1000, source = 100,
		 ceiling = 0;
	struct fnm_tcp *tcp = &wish->slot.tcp;
	struct fnm_rate of_source, of_prefix;

	if (!take_integer(place, "unknown_pps", OPTIONAL, 0, RATE_PPS_MOST, &unknown) ||
	    !take_integer(place, "learned_pps", OPTIONAL, 0, RATE_PPS_MOST, &learned) ||
	    !take_integer(place, "syn_ack_pps", OPTIONAL, 0, RATE_PPS_MOST, &syn_ack) ||
	    !take_integer(place, "icmp_pps", OPTIONAL, 0, RATE_PPS_MOST, &icmp) ||
	    !take_integer(place, "source_pps", OPTIONAL, 0, RATE_PPS_MOST, &source) ||
	    !take_integer(place, "ceiling_pps", OPTIONAL, 0, RATE_PPS_MOST, &ceiling))
		return false;
	tcp->unknown = rate_of_packets(unknown, RATE_SHORT_BURST);
	tcp->learned = rate_of_packets(learned, RATE_SHORT_BURST);
	tcp->syn_ack_in = rate_of_packets(syn_ack, RATE_SHORT_BURST);
	tcp->icmp = rate_of_packets(icmp, RATE_SHORT_BURST);
	/* A browser opens its connections all at once. */
	of_source = rate_of_packets(source, RATE_SECOND_BURST);
	tcp->source_interval = of_source.interval;
	tcp->source_burst = of_source.burst;
	if (ceiling) {
		of_prefix = rate_of_packets(ceiling, RATE_SHORT_BURST);
		tcp->ceiling_interval = of_prefix.interval;
		tcp->ceiling_burst = of_prefix.burst;
	}
	return true;
}

static bool read_grace(const struct place *tcp, struct wish *wish)
{
	static const char *const names[] = {"for_ms", "pps", NULL};
	uint64_t for_ms = 60000, pps = 20000;
	struct place grace;

	if (!take_object(tcp, "grace", OPTIONAL, &grace))
		return false;
	if (grace.object &&
	    (!only_fields(&grace, names) ||
	     !take_integer(&grace, "for_ms", OPTIONAL, 0, EXPIRES_MOST_MS, &for_ms) ||
	     !take_integer(&grace, "pps", OPTIONAL, 0, RATE_PPS_MOST, &pps)))
		return false;
	wish->grace_ms = for_ms;
	wish->slot.tcp.grace = rate_of_packets(pps, RATE_SHORT_BURST);
	return true;
}

static bool read_profile_flags(const struct place *profile, struct wish *wish)
{
	bool sack = false, timestamps = false, ecn = false;
	__u16 *flags = &wish->slot.flags;

	if (!take_bool(profile, "sack", REQUIRED, &sack) ||
	    !take_bool(profile, "timestamps", REQUIRED, &timestamps) ||
	    !take_bool(profile, "ecn", REQUIRED, &ecn))
		return false;
	*flags |= (sack ? FNM_TCP_SACK : 0) | (timestamps ? FNM_TCP_TIMESTAMPS : 0) |
		  (ecn ? FNM_TCP_ECN : 0);
	if (has_field(profile, "wscale"))
		*flags |= FNM_TCP_WSCALE;
	return true;
}

static bool read_profile(const struct place *tcp, struct wish *wish)
{
	static const char *const names[] = {"mss4", "mss6",	  "window", "wscale", "ttl",
					    "sack", "timestamps", "ecn",    NULL};
	enum presence needed = wish->slot.mode == FNM_ISN_SYNC ? REQUIRED : OPTIONAL;
	bool ipv4 = prefix_is_ipv4(&wish->target);
	uint64_t mss4 = 1460, mss6 = 1440, window = 65535, wscale = 0, ttl = 64;
	/* What nearly every server takes; its own SYN-ACKs tell soon. */
	bool assumed = wish->slot.mode == FNM_SPLICE;
	struct place profile;

	if (!take_object(tcp, "profile", needed, &profile))
		return false;
	if (profile.object && (!only_fields(&profile, names) ||
			       !take_integer(&profile, "mss4", ipv4, MSS_LEAST, 65535, &mss4) ||
			       !take_integer(&profile, "mss6", !ipv4, MSS_LEAST, 65535, &mss6) ||
			       !take_integer(&profile, "window", REQUIRED, 1, 65535, &window) ||
			       !take_integer(&profile, "wscale", OPTIONAL, 0, 14, &wscale) ||
			       !take_integer(&profile, "ttl", REQUIRED, 1, 255, &ttl) ||
			       !read_profile_flags(&profile, wish)))
		return false;
	if (assumed && !profile.object) {
		wish->slot.flags |= FNM_TCP_SACK | FNM_TCP_TIMESTAMPS | FNM_TCP_WSCALE;
		wscale = 7;
	}
	wish->slot.tcp.mss4 = mss4;
	wish->slot.tcp.mss6 = mss6;
	wish->slot.tcp.window = window;
	wish->slot.tcp.wscale = wscale;
	wish->slot.tcp.ttl = ttl;
	return true;
}

static bool read_scheme(const struct place *keys, struct wish *wish, bool *needs_key)
{
	const char *scheme;

	if (!take_string(keys, "timestamp_scheme", REQUIRED, &scheme))
		return false;
	*needs_key = strcmp(scheme, "none");
	if (!strcmp(scheme, "flow"))
		wish->slot.flags |= FNM_TCP_TS_PER_FLOW;
	else if (!*needs_key)
		wish->slot.flags |= FNM_TCP_TS_NO_OFFSET;
	else if (strcmp(scheme, "host"))
		return refuse(keys->refusal, E_BAD_REQUEST, NULL,
			      "field \"tcp.keys.timestamp_scheme\" must be flow, host or none");
	return true;
}

/* The servers' memory is little-endian, as every machine is on which this has been tried. */
static void little_endian(__u64 *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		words[i] = le64toh(words[i]);
}

static bool read_keys(const struct place *tcp, struct wish *wish)
{
	static const char *const names[] = {"cookie", "cookie6", "timestamp", "timestamp_scheme",
					    NULL};
	struct fnm_tcp *into = &wish->slot.tcp;
	bool ipv4 = prefix_is_ipv4(&wish->target), needs_timestamp, present;
	struct place keys;

	if (!take_object(tcp, "keys", OPTIONAL, &keys))
		return false;
	wish->has_keys = keys.object;
	if (!keys.object)
		return true;
	if (!only_fields(&keys, names) || !read_scheme(&keys, wish, &needs_timestamp) ||
	    !take_hex(&keys, "cookie", ipv4, &present, into->cookie_key,
		      sizeof(into->cookie_key)) ||
	    !take_hex(&keys, "cookie6", !ipv4, &present, into->cookie6_key,
		      sizeof(into->cookie6_key)) ||
	    !take_hex(&keys, "timestamp", needs_timestamp, &present, into->ts_key,
		      sizeof(into->ts_key)))
		return false;
	little_endian(&into->cookie_key[0][0], 4);
	little_endian(&into->cookie6_key[0][0], 4);
	little_endian(into->ts_key, 2);
	return true;
}

static bool read_clock(const struct place *tcp, struct wish *wish)
{
	static const char *const names[] = {"monotonic_ms", "cookie_ms", "timestamp_ms", NULL};
	struct clock_sample *into = &wish->clock;
	struct place clock;

	if (!take_object(tcp, "clock", OPTIONAL, &clock))
		return false;
	wish->has_clock = clock.object;
	return !clock.object ||
	       (only_fields(&clock, names) &&
		take_integer(&clock, "monotonic_ms", REQUIRED, 0, CLOCK_MOST,
			     &into->monotonic_ms) &&
		take_integer(&clock, "cookie_ms", REQUIRED, 0, CLOCK_MOST, &into->cookie_ms) &&
		take_integer(&clock, "timestamp_ms", REQUIRED, 0, CLOCK_MOST, &into->timestamp_ms));
}

bool wish_read_tcp(const struct place *tcp, struct wish *wish)
{
	static const char *const names[] = {"mode",	   "ports",	  "grace",   "unknown_pps",
					    "syn_ack_pps", "icmp_pps",	  "profile", "source_pps",
					    "keys",	   "ceiling_pps", "clock",   "learned_pps",
					    NULL};

	if (!only_fields(tcp, names) || !read_mode(tcp, wish))
		return false;
	if (wish->slot.mode != FNM_ISN_SYNC && (has_field(tcp, "keys") || has_field(tcp, "clock")))
		return refuse(
		    tcp->refusal, E_BAD_REQUEST, NULL,
		    "fields \"tcp.keys\" and \"tcp.clock\" go with the mode isn-sync only");
	return read_rates(tcp, wish) && read_grace(tcp, wish) && read_profile(tcp, wish) &&
	       read_keys(tcp, wish) && read_clock(tcp, wish);
}
