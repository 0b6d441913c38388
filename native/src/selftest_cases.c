/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <linux/bpf.h>

#include "address.h"
#include "cookie.h"
#include "filters.h"
#include "selftest.h"

#define STRICT "\"grace\":{\"for_ms\":0},\"unknown_pps\":0,\"syn_ack_pps\":1,\"icmp_pps\":0"
#define PUT(id, target, kind, body)                                                                \
	"{\"op\":\"put\",\"id\":\"" id "\",\"revision\":1,\"target\":\"" target                    \
	"\",\"expires_ms\":60000,\"kind\":\"" kind "\",\"" kind "\":{" body "}}"

static void case_unprotected(struct bench *bench)
{
	struct segment segment = segment_from("198.51.100.1", "192.0.2.99", TCP_SYN);

	send_segment(bench, &segment);
	expect(bench, FNM_R_unprotected);
	send_datagram(bench, &segment);
	expect(bench, FNM_R_unprotected);
}

static void case_reset(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.1", "192.0.2.1", TCP_SYN), answer, ack;

	order(bench, PUT("reset", "192.0.2.1/32", "tcp", "\"mode\":\"reset\"," STRICT));
	send_segment(bench, &syn);
	expect(bench, FNM_R_cookie_sent);
	expect_answer(bench, &syn, TCP_SYN | TCP_ACK, &answer);
	if (answer.acknowledgement != syn.sequence + 1)
		fail(bench, "the SYN-ACK acknowledges another number");
	ack = ack_of(&syn, &answer);
	send_segment(bench, &ack);
	expect(bench, FNM_R_reset_sent);
	expect_answer(bench, &ack, TCP_RST, &answer);
	syn.source_port++;
	send_segment(bench, &syn);
	expect(bench, FNM_R_proven_syn);
}

static void case_bad_cookie(struct bench *bench)
{
	struct segment ack = segment_from("198.51.100.2", "192.0.2.1", TCP_ACK);

	send_segment(bench, &ack);
	expect(bench, FNM_R_cookie_bad);
}

static void case_flags(struct bench *bench)
{
	struct segment segment = segment_from("198.51.100.2", "192.0.2.1", TCP_SYN | TCP_FIN);

	send_segment(bench, &segment);
	expect(bench, FNM_R_bad_flags);
	segment.flags = TCP_RST;
	send_segment(bench, &segment);
	expect(bench, FNM_R_rst_unknown);
}

static void case_fragment(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.2", "192.0.2.1", TCP_SYN);

	syn.fragment = true;
	send_segment(bench, &syn);
	expect(bench, FNM_R_fragment);
}

static void case_vlan(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.3", "192.0.2.1", TCP_SYN), answer;

	syn.vlan = 100;
	send_segment(bench, &syn);
	expect(bench, FNM_R_cookie_sent);
	expect_answer(bench, &syn, TCP_SYN | TCP_ACK, &answer);
}

#define COOKIE_KEY "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define PROFILE                                                                                    \
	"\"profile\":{\"mss4\":1460,\"mss6\":1440,\"window\":65160,\"wscale\":7,\"ttl\":64,"       \
	"\"sack\":true,\"timestamps\":true,\"ecn\":false}"
#define KEYS                                                                                       \
	"\"keys\":{\"cookie\":\"" COOKIE_KEY "\",\"cookie6\":\"" COOKIE_KEY                        \
	"\",\"timestamp\":\"000102030405060708090a0b0c0d0e0f\",\"timestamp_scheme\":\"flow\"}"
#define SERVER_MS 600000000ull /* of the server's clock, well within a minute */

static const uint64_t cookie_key[2][2] = {{0x0706050403020100, 0x0f0e0d0c0b0a0908},
					  {0x1716151413121110, 0x1f1e1d1c1b1a1918}};

static void put_isn_sync(struct bench *bench, const char *id, const char *target)
{
	char request[1024];
	uint64_t now = bench->engine->backend->monotonic_ms(bench->engine->data);

	snprintf(request, sizeof(request),
		 "{\"op\":\"put\",\"id\":\"%s\",\"revision\":1,\"target\":\"%s\","
		 "\"expires_ms\":60000,\"kind\":\"tcp\",\"tcp\":{\"mode\":\"isn-sync\"," STRICT
		 "," PROFILE "," KEYS ",\"clock\":{\"monotonic_ms\":%llu,\"cookie_ms\":%llu,"
		 "\"timestamp_ms\":4711}}}",
		 id, target, (unsigned long long)now, SERVER_MS + 30000);
	order(bench, request);
}

/* mss_index: of the kernel's table, for a SYN without an MSS option */
static void shake_hands(struct bench *bench, const struct segment *syn, uint32_t mss_index)
{
	struct segment answer, ack;

	send_segment(bench, syn);
	expect(bench, FNM_R_cookie_sent);
	expect_answer(bench, syn, TCP_SYN | TCP_ACK, &answer);
	if (answer.sequence != cookie_expected(cookie_key, syn, SERVER_MS / 60000, mss_index))
		fail(bench, "the sequence number is not the server's cookie");
	ack = ack_of(syn, &answer);
	send_segment(bench, &ack);
	expect(bench, FNM_R_cookie_good);
	if (bench->answer.length != bench->sent.length ||
	    memcmp(bench->answer.bytes, bench->sent.bytes, bench->sent.length))
		fail(bench, "the ACK was changed on its way");
	ack.sequence += 100;
	send_segment(bench, &ack);
	expect(bench, FNM_R_known_flow);
}

static void case_isn_sync4(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.4", "192.0.2.2", TCP_SYN);

	put_isn_sync(bench, "sync4", "192.0.2.2/32");
	shake_hands(bench, &syn, 0);
}

static void case_isn_sync6(struct bench *bench)
{
	struct segment syn = segment_from("2001:db8:1::4", "2001:db8:2::2", TCP_SYN);

	put_isn_sync(bench, "sync6", "2001:db8:2::/64");
	shake_hands(bench, &syn, 0);
}

static void splice(struct bench *bench, const char *client, const char *server)
{
	struct segment syn = segment_from(client, server, TCP_SYN), answer, ack, asked;

	send_segment(bench, &syn);
	expect(bench, FNM_R_splice_probe);
	syn.source_port++;
	send_segment(bench, &syn);
	expect(bench, FNM_R_cookie_sent);
	expect_answer(bench, &syn, TCP_SYN | TCP_ACK, &answer);
	ack = ack_of(&syn, &answer);
	send_segment(bench, &ack);
	expect(bench, FNM_R_splice_open);
	if (!segment_read(&bench->answer, &asked) || asked.flags != TCP_SYN ||
	    asked.sequence != syn.sequence || asked.source_port != syn.source_port ||
	    memcmp(&asked.destination, &syn.destination, sizeof(asked.destination)))
		fail(bench, "the ACK has not become the client's SYN for the server");
	send_segment(bench, &ack);
	expect(bench, FNM_R_splice_early);
}

static void case_splice(struct bench *bench)
{
	bench->engine->facts.splice = true;
	order(bench, PUT("splice4", "192.0.2.18/32", "tcp", "\"mode\":\"splice\"," STRICT));
	order(bench, PUT("splice6", "2001:db8:3::/64", "tcp", "\"mode\":\"splice\"," STRICT));
	splice(bench, "198.51.100.11", "192.0.2.18");
	splice(bench, "2001:db8:1::11", "2001:db8:3::2");
}

/* No packet is under way here, so that nothing has to be waited for. */
static void make_filters_anew(struct bench *bench)
{
	struct filter_round *round = &bench->engine->filters;

	round->since_ms -= FILTER_PERIOD_MS;
	filters_tick(bench->engine);
	while (filters_work(bench->engine))
		;
	round->since_ms -= FILTER_DRAIN_MS;
	filters_tick(bench->engine);
	while (filters_work(bench->engine))
		;
	if (round->phase != FILTER_AT_REST)
		fail(bench, "the round does not come to its end");
}

static void expect_flow_and_stranger(struct bench *bench, const char *client, const char *stranger,
				     const char *server)
{
	struct segment segment = segment_from(client, server, TCP_ACK);

	send_segment(bench, &segment);
	expect(bench, FNM_R_known_flow);
	segment = segment_from(stranger, server, TCP_ACK);
	send_segment(bench, &segment);
	expect(bench, FNM_R_cookie_bad);
}

static void case_filters(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.1", "192.0.2.1", TCP_SYN);

	for (int generation = 0; generation < 2; generation++) {
		make_filters_anew(bench);
		expect_flow_and_stranger(bench, "198.51.100.4", "198.51.100.77", "192.0.2.2");
		expect_flow_and_stranger(bench, "2001:db8:1::4", "2001:db8:1::77", "2001:db8:2::2");
		syn.source_port = 50000 + generation;
		send_segment(bench, &syn);
		expect(bench, FNM_R_proven_syn);
	}
}

static void case_acl(struct bench *bench)
{
	struct segment segment = segment_from("198.51.100.5", "192.0.2.3", 0);

	order(bench, PUT("acl", "192.0.2.3/32", "acl",
			 "\"rules\":[{\"action\":\"drop\",\"protocol\":17,"
			 "\"source_ports\":[53,[123,125]]},"
			 "{\"action\":\"limit\",\"pps\":10,\"protocol\":17,"
			 "\"destination_ports\":[9]},{\"action\":\"pass\",\"protocol\":17}]"));
	segment.source_port = 124;
	send_datagram(bench, &segment);
	expect(bench, FNM_R_acl_drop);
	segment.source_port = 126;
	send_datagram(bench, &segment);
	expect(bench, FNM_R_acl_pass);
	segment.destination_port = 9;
	for (int i = 0; i < 20; i++)
		send_datagram(bench, &segment);
	expect(bench, FNM_R_acl_limited);
}

static void case_sorb(struct bench *bench)
{
	struct segment segment = segment_from("198.51.100.6", "192.0.2.4", 0);

	order(bench, PUT("sorb", "192.0.2.0/29", "sorb", "\"pps\":10,\"block_ms\":30000"));
	for (int i = 0; i < 11; i++)
		send_datagram(bench, &segment);
	expect(bench, FNM_R_sorb_over);
	send_datagram(bench, &segment);
	expect(bench, FNM_R_sorb_blocked);
	parse_address("198.51.100.7", &segment.source);
	send_datagram(bench, &segment);
	if (bench->verdict != XDP_PASS)
		fail(bench, "another source is blocked as well");
}

static void case_watch(struct bench *bench)
{
	struct segment segment = segment_from("198.51.100.8", "192.0.2.16", TCP_ACK);

	order(bench, PUT("watch", "192.0.2.16/32", "watch", "\"ports\":[80]"));
	send_segment(bench, &segment);
	expect(bench, FNM_R_watched);
}

static void case_deadline(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.9", "192.0.2.17", TCP_SYN);
	struct timespec pause = {0, 60000000};

	order(bench, "{\"op\":\"put\",\"id\":\"short\",\"revision\":1,\"target\":\"192.0.2.17/32\","
		     "\"expires_ms\":30,\"kind\":\"tcp\",\"tcp\":{\"mode\":\"reset\"}}");
	send_segment(bench, &syn);
	expect(bench, FNM_R_cookie_sent);
	nanosleep(&pause, NULL);
	send_segment(bench, &syn);
	if (bench->verdict != XDP_PASS)
		fail(bench, "it is judged after the deadline");
}

static void case_delete(struct bench *bench)
{
	struct segment syn = segment_from("198.51.100.10", "192.0.2.1", TCP_SYN);

	order(bench, "{\"op\":\"delete\",\"id\":\"reset\",\"revision\":2}");
	send_segment(bench, &syn);
	if (bench->verdict != XDP_PASS)
		fail(bench, "it is judged after the mitigation was deleted");
}

const struct selftest_case selftest_cases[] = {
    {"what nothing protects passes", case_unprotected},
    {"reset: SYN, cookie, RST, proven source", case_reset},
    {"ACK without a valid cookie", case_bad_cookie},
    {"flags that no stack sends, RST of no flow", case_flags},
    {"fragment of a TCP segment", case_fragment},
    {"answer within the VLAN of the SYN", case_vlan},
    {"isn-sync over IPv4: the server's own cookie", case_isn_sync4},
    {"isn-sync over IPv6, target a prefix", case_isn_sync6},
    {"splice: a SYN that teaches, cookie, SYN for the server", case_splice},
    {"filters made anew know who is known", case_filters},
    {"acl: drop, pass, limit", case_acl},
    {"sorb: threshold and block of one source", case_sorb},
    {"watch: counted and passed", case_watch},
    {"a deadline ends it without the daemon", case_deadline},
    {"a delete ends it", case_delete},
};

const size_t selftest_case_count = sizeof(selftest_cases) / sizeof(selftest_cases[0]);
