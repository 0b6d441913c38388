/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Clients and a server that cost next to nothing, one on either side of a gateway.
 *
 * A flow is a number, from which its address, its ports and both sides' own numbers follow. So each
 * side knows what has to arrive, and counts only what arrives in its own numbering.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "splice.h"

#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16

#define WINDOW	   0xfaf0
#define TIMESTAMPS 0x0101080a /* NOP, NOP, kind, length */
#define SACK_STAMP 0x0402080a
#define MSS	   0x020405b4
#define WSCALE	   0x01030307

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SPLICE_FLOWS);
	__type(key, __u32);
	__type(value, struct splice_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct splice_job);
} job SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SPLICE_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

/* An Ethernet header is 14 bytes, so nothing after it is aligned. */
struct head {
	__u8 to[ETH_ALEN], from[ETH_ALEN];
	__be16 protocol;
	__be32 ip[5];
	__be32 tcp[8];
} __attribute__((packed));

struct syn_head {
	struct head head;
	__be32 more[2];
} __attribute__((packed));

struct segment {
	__u32 flow, flags, seq, ack, ts, echo;
	int to_server;
};

static __always_inline void count(enum splice_seen what)
{
	__u32 key = what;
	__u64 *counter = bpf_map_lookup_elem(&seen, &key);

	if (counter)
		(*counter)++;
}

static __always_inline __u32 client_isn(__u32 flow)
{
	return flow * 2654435761u + 0x01234567;
}

static __always_inline __u32 server_isn(__u32 flow)
{
	return flow * 2246822519u + 0x76543210;
}

static __always_inline __u32 client_ts(__u32 flow)
{
	return 0x00c10000 + flow;
}

static __always_inline __u32 server_ts(__u32 flow)
{
	return 0x05e20000 + flow;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline __u64 pseudo_sum(const struct head *h, __u32 bytes)
{
	return (__u64)h->ip[3] + h->ip[4] + bpf_htonl(IPPROTO_TCP) + bpf_htonl(bytes);
}

static __always_inline __u64 tcp_sum(const struct head *h)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += h->tcp[i];
	return sum;
}

/* Everything but the Ethernet addresses; a SYN has 20 bytes of options, all else has 12. */
static __always_inline int write(struct xdp_md *ctx, const struct segment *s)
{
	struct syn_head *syn = (void *)(long)ctx->data;
	struct head *h = &syn->head;
	__u32 bytes = s->flags & SYN ? 40 : 32;
	__u32 client = bpf_htonl(SPLICE_NETWORK | (s->flow & 0xffff));
	__u32 sport = SPLICE_SPORT + (s->flow >> 16);
	__u64 sum;

	if ((void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	h->protocol = bpf_htons(ETH_P_IP);
	h->ip[0] = bpf_htonl(0x45000014 + bytes);
	h->ip[1] = bpf_htonl(0x4000);
	h->ip[2] = bpf_htonl(64 << 24 | IPPROTO_TCP << 16);
	h->ip[3] = s->to_server ? client : bpf_htonl(SPLICE_SERVER);
	h->ip[4] = s->to_server ? bpf_htonl(SPLICE_SERVER) : client;
	sum = (__u64)h->ip[0] + h->ip[1] + h->ip[2] + h->ip[3] + h->ip[4];
	h->ip[2] |= (__u32)fold(sum) << 16;
	h->tcp[0] = bpf_htonl(s->to_server ? sport << 16 | SPLICE_PORT : SPLICE_PORT << 16 | sport);
	h->tcp[1] = bpf_htonl(s->seq);
	h->tcp[2] = bpf_htonl(s->ack);
	h->tcp[3] = bpf_htonl(bytes << 26 | s->flags << 16 | WINDOW);
	h->tcp[4] = 0;
	if (s->flags & SYN) {
		if ((void *)(syn + 1) > (void *)(long)ctx->data_end)
			return XDP_ABORTED;
		h->tcp[5] = bpf_htonl(MSS);
		h->tcp[6] = bpf_htonl(SACK_STAMP);
		h->tcp[7] = bpf_htonl(s->ts);
		syn->more[0] = bpf_htonl(s->echo);
		syn->more[1] = bpf_htonl(WSCALE);
		sum = (__u64)syn->more[0] + syn->more[1];
	} else {
		h->tcp[5] = bpf_htonl(TIMESTAMPS);
		h->tcp[6] = bpf_htonl(s->ts);
		h->tcp[7] = bpf_htonl(s->echo);
		sum = 0;
	}
	h->tcp[4] = fold(sum + pseudo_sum(h, bytes) + tcp_sum(h));
	return XDP_TX;
}

/* Send `s` back instead of what has come. */
static __always_inline int answer(struct xdp_md *ctx, const struct segment *s)
{
	int have = ctx->data_end - ctx->data;
	int want = s->flags & SYN ? SPLICE_SYN_FRAME : SPLICE_SEGMENT_FRAME;
	struct head *h;
	__u8 mac[ETH_ALEN];

	if (have != want && bpf_xdp_adjust_tail(ctx, want - have))
		return XDP_ABORTED;
	h = (void *)(long)ctx->data;
	if ((void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(mac, h->to, ETH_ALEN);
	__builtin_memcpy(h->to, h->from, ETH_ALEN);
	__builtin_memcpy(h->from, mac, ETH_ALEN);
	if (write(ctx, s) != XDP_TX)
		return XDP_ABORTED;
	/* With XDP_TX, a veth would wake its peer only where that has a program, too. */
	return bpf_redirect(ctx->ingress_ifindex, 0);
}

static __always_inline int send_next(struct xdp_md *ctx, struct splice_job *j)
{
	struct segment s = {.flags = ACK, .flow = j->first + j->at};
	struct splice_flow *f = bpf_map_lookup_elem(&flows, &s.flow);
	struct head *h;

	if (++j->at >= j->count)
		j->at = 0;
	if (!f)
		return XDP_ABORTED;
	if (j->kind == SPLICE_OPEN ? f->open : !f->open)
		return XDP_DROP;
	s.to_server = j->kind != SPLICE_TO_CLIENT;
	s.seq = client_isn(s.flow);
	s.ts = client_ts(s.flow);
	if (j->kind == SPLICE_OPEN) {
		s.flags = SYN;
	} else if (s.to_server) {
		s.seq++;
		s.ack = f->told_isn + 1;
		s.echo = f->told_ts;
	} else {
		s.ack = s.seq + 1;
		s.echo = s.ts;
		s.seq = server_isn(s.flow) + 1;
		s.ts = server_ts(s.flow);
	}
	if (s.flags & SYN && bpf_xdp_adjust_tail(ctx, SPLICE_SYN_FRAME - SPLICE_UNCUT_SYN))
		return XDP_ABORTED;
	h = (void *)(long)ctx->data;
	if ((void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	/* 02:00:00:00:NN:01 is a client or a server, :02 the gateway; see splice_lab.py. */
	__builtin_memset(h, 0, 2 * ETH_ALEN);
	h->to[0] = h->from[0] = 2;
	h->to[4] = h->from[4] = s.to_server ? 1 : 2;
	h->to[5] = 2;
	h->from[5] = 1;
	if (!(j->sent++ & (SPLICE_BATCH - 1))) {
		j->ended_ns = bpf_ktime_get_ns();
		if (!j->begun_ns)
			j->begun_ns = j->ended_ns;
	}
	return write(ctx, &s);
}

SEC("xdp")
int splice_send(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct splice_job *j = bpf_map_lookup_elem(&job, &zero);

	return j ? send_next(ctx, j) : XDP_ABORTED;
}

/* The flow of a segment from or to a client, NULL for anything else. */
static __always_inline struct splice_flow *flow_of(struct xdp_md *ctx, int to_server, __u32 *number)
{
	struct head *h = (void *)(long)ctx->data;
	__u32 client, ports;

	if ((void *)(h + 1) > (void *)(long)ctx->data_end || h->protocol != bpf_htons(ETH_P_IP) ||
	    (bpf_ntohl(h->ip[0]) >> 24) != 0x45 ||
	    (bpf_ntohl(h->ip[2]) >> 16 & 0xff) != IPPROTO_TCP)
		return NULL;
	client = bpf_ntohl(to_server ? h->ip[3] : h->ip[4]);
	ports = bpf_ntohl(h->tcp[0]);
	ports = (to_server ? ports >> 16 : ports & 0xffff) - SPLICE_SPORT;
	if (client >> 16 != SPLICE_NETWORK >> 16)
		return NULL;
	*number = ports << 16 | (client & 0xffff);
	return bpf_map_lookup_elem(&flows, number);
}

/* Count a segment that ought to have these numbers. */
static __always_inline int check(const struct head *h, const struct segment *s,
				 enum splice_seen right)
{
	if (bpf_ntohl(h->tcp[3]) >> 28 != 8 || bpf_ntohl(h->tcp[3]) >> 16 & (SYN | FIN | RST)) {
		count(SPLICE_OTHER);
		return XDP_DROP;
	}
	count(bpf_ntohl(h->tcp[1]) == s->seq && bpf_ntohl(h->tcp[2]) == s->ack &&
		      h->tcp[5] == bpf_htonl(TIMESTAMPS) && bpf_ntohl(h->tcp[6]) == s->ts &&
		      bpf_ntohl(h->tcp[7]) == s->echo && !fold(pseudo_sum(h, 32) + tcp_sum(h))
		  ? right
		  : SPLICE_WRONG);
	return XDP_DROP;
}

static __always_inline int note_opened(struct splice_flow *f, __u32 server_isn)
{
	__u32 zero = 0;
	struct splice_job *j = bpf_map_lookup_elem(&job, &zero);

	f->open = 1;
	count(SPLICE_OPENED);
	if (f->told_isn != server_isn)
		count(SPLICE_PROXIED);
	if (j)
		j->ended_ns = bpf_ktime_get_ns();
	return XDP_DROP;
}

SEC("xdp")
int splice_server(struct xdp_md *ctx)
{
	struct head *h = (void *)(long)ctx->data;
	struct segment s = {};
	struct splice_flow *f = flow_of(ctx, 1, &s.flow);
	__u32 flags;

	if (!f || (void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	flags = bpf_ntohl(h->tcp[3]) >> 16;
	s.seq = client_isn(s.flow);
	s.ts = client_ts(s.flow);
	if (flags & SYN) {
		count(bpf_ntohl(h->tcp[1]) == s.seq ? SPLICE_ASKED : SPLICE_WRONG);
		s.flags = SYN | ACK;
		s.ack = s.seq + 1;
		s.echo = s.ts;
		s.seq = server_isn(s.flow);
		s.ts = server_ts(s.flow);
		return answer(ctx, &s);
	}
	s.seq++;
	s.ack = server_isn(s.flow) + 1;
	s.echo = server_ts(s.flow);
	if (f->open || flags & (FIN | RST))
		return check(h, &s, SPLICE_AT_SERVER);
	/* The timestamps of the first are left out: SYNPROXY gets them wrong. */
	if (bpf_ntohl(h->tcp[1]) != s.seq || bpf_ntohl(h->tcp[2]) != s.ack) {
		count(SPLICE_WRONG);
		return XDP_DROP;
	}
	return note_opened(f, s.ack - 1);
}

SEC("xdp")
int splice_client(struct xdp_md *ctx)
{
	struct head *h = (void *)(long)ctx->data;
	struct segment s = {.to_server = 1, .flags = ACK};
	struct splice_flow *f = flow_of(ctx, 0, &s.flow);

	if (!f || (void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (bpf_ntohl(h->tcp[3]) >> 16 & SYN) {
		if (h->tcp[6] != bpf_htonl(SACK_STAMP) ||
		    bpf_ntohl(h->tcp[2]) != client_isn(s.flow) + 1) {
			count(SPLICE_WRONG);
			return XDP_DROP;
		}
		f->told_isn = bpf_ntohl(h->tcp[1]);
		f->told_ts = bpf_ntohl(h->tcp[7]);
		s.seq = client_isn(s.flow) + 1;
		s.ack = f->told_isn + 1;
		s.ts = client_ts(s.flow);
		s.echo = f->told_ts;
		return answer(ctx, &s);
	}
	s.seq = f->told_isn + 1;
	s.ack = client_isn(s.flow) + 1;
	s.ts = f->told_ts;
	s.echo = client_ts(s.flow);
	return check(h, &s, SPLICE_AT_CLIENT);
}

char LICENSE[] SEC("license") = "GPL";
