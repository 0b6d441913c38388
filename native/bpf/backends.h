/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What servers have shown of themselves: the options of their SYN-ACKs, and whether they answer.
 *
 * Of a port that nothing is known of, or whose options were last seen half a minute ago, one SYN a
 * second goes to the server as it came, within a rate for all of them together. Its answer teaches
 * us, and is the right one for that client, whatever it is. A flood makes no more rows than that.
 */
#ifndef FNM_BACKENDS_H
#define FNM_BACKENDS_H

#include "flows.h"

#define FNM_PROBE_PAUSE_MS   1000
#define FNM_PROFILE_KEPT_MS  30000
#define FNM_SILENT_AFTER_MS  3000
#define FNM_SILENT_UNTIL_MS  13000
#define FNM_REFUSES_UNTIL_MS 10000
#define FNM_REFUSES_FOR_MS   1000
#define FNM_ELSEWHERE_MS     1000 /* a server answers within, or by another way */
#define FNM_TCP_OFFERS	     (FNM_TCP_SACK | FNM_TCP_WSCALE | FNM_TCP_TIMESTAMPS)

/* A moment as rows keep it; never 0, which means never. */
FNM_INLINE __u32 fnm_moment(__u64 now_ms)
{
	return (__u32)now_ms | 1;
}

FNM_INLINE __u32 fnm_since(__u64 now_ms, __u32 moment)
{
	__u32 passed = fnm_moment(now_ms) - moment;

	/* A little of the range is the future, as other CPUs see it. */
	return passed > 0xffff0000u ? 0 : passed;
}

FNM_INLINE __u32 fnm_backend_tag(__u64 hash)
{
	return (__u32)(hash >> 32) | 1;
}

FNM_INLINE void fnm_backend_name(struct fnm_backend_key *key, const struct fnm_packet *p)
{
	__builtin_memcpy(key->address, p->destination.word, sizeof(key->address));
	key->port = p->ports >> 16;
	key->pad = 0;
}

/* Of the server of a segment from client to server; NULL where nothing is known. */
FNM_INLINE struct fnm_backend *fnm_backend_of(const struct fnm_packet *p)
{
	struct fnm_backend_key key;

	fnm_backend_name(&key, p);
	return bpf_map_lookup_elem(&backends, &key);
}

/* FNM_TCP_* of the options that were read, and ECN by the flags that stand for it: both in a SYN,
 * ECE in a SYN-ACK. */
FNM_INLINE __u16 fnm_options_of(const struct fnm_packet *p, __u8 ecn)
{
	return (p->syn.sack ? FNM_TCP_SACK : 0) |
	       (p->syn.wscale != FNM_NO_WSCALE ? FNM_TCP_WSCALE : 0) |
	       (p->syn.timestamps ? FNM_TCP_TIMESTAMPS : 0) |
	       ((p->flags & ecn) == ecn ? FNM_TCP_ECN : 0);
}

/* Note that the server has been asked, unless it was before and has not answered. */
FNM_INLINE void fnm_backend_asked(struct fnm_backend *b, __u64 now_ms)
{
	if (!b->asked || fnm_since(now_ms, b->asked) >= FNM_SILENT_UNTIL_MS)
		b->asked = fnm_moment(now_ms);
}

FNM_INLINE int fnm_backend_silent(const struct fnm_backend *b, __u64 now_ms)
{
	__u32 passed = fnm_since(now_ms, b->asked);

	return b->asked && passed >= FNM_SILENT_AFTER_MS && passed < FNM_SILENT_UNTIL_MS;
}

/* It has refused lately. What a server thinks of one client is no verdict for all, so that this
 * one, and the one on its silence, do not last by themselves. */
FNM_INLINE int fnm_backend_refuses(const struct fnm_backend *b, __u64 now_ms)
{
	return b->state == FNM_BACKEND_CLOSED &&
	       fnm_since(now_ms, b->answered) < FNM_REFUSES_UNTIL_MS;
}

/* Whether a SYN with these offers would teach something. */
FNM_INLINE int fnm_backend_wants(const struct fnm_backend *b, __u16 offered, __u64 now_ms)
{
	if (b->probed && fnm_since(now_ms, b->probed) < FNM_PROBE_PAUSE_MS)
		return 0;
	if (fnm_backend_silent(b, now_ms))
		return 1;
	if (b->state != FNM_BACKEND_OPEN)
		return !b->answered || fnm_since(now_ms, b->answered) >= FNM_REFUSES_FOR_MS;
	if (offered & ~b->known)
		return 1;
	return (offered & FNM_TCP_OFFERS) == FNM_TCP_OFFERS &&
	       fnm_since(now_ms, b->profiled) >= FNM_PROFILE_KEPT_MS;
}

FNM_INLINE int fnm_backend_may_probe(__u64 now_ms)
{
	__u32 zero = 0;
	struct fnm_splicing *s = bpf_map_lookup_elem(&splicing, &zero);

	return s &&
	       fnm_take(&s->probe_tat, s->probe_interval, s->probe_burst, now_ms * FNM_NS_PER_MS);
}

/* Whether this SYN is to go to its server as it came. It has been read by fnm_read_syn; `b` is what
 * is known of the server, NULL for nothing. */
FNM_GLOBAL int fnm_backend_probe(const struct fnm_context *c, const struct fnm_packet *p,
				 __u64 hash, struct fnm_backend *b)
{
	struct fnm_backend fresh = {.wscale = FNM_NO_WSCALE};
	struct fnm_backend_key key;
	__u16 offered;

	if (!c || !p)
		return 0;
	offered = fnm_options_of(p, FNM_TCP_ECE | FNM_TCP_CWR);
	if (b && !fnm_backend_wants(b, offered, c->now))
		return 0;
	if (!fnm_backend_may_probe(c->now))
		return 0;
	if (!b) {
		fresh.asked = fresh.probed = fnm_moment(c->now);
		fresh.tag = fnm_backend_tag(hash);
		fresh.offered = offered;
		fnm_backend_name(&key, p);
		bpf_map_update_elem(&backends, &key, &fresh, BPF_NOEXIST);
		return 1;
	}
	/* An open port may well give no answer to a made-up source: a proven one has to ask. */
	if (b->state != FNM_BACKEND_OPEN)
		fnm_backend_asked(b, c->now);
	b->probed = fnm_moment(c->now);
	b->tag = fnm_backend_tag(hash);
	b->offered = offered;
	return 1;
}

/* A client goes on in a flow whose SYN was let through. Where its server's SYN-ACK has not been
 * seen by then, that has gone by another way, and so will all that would have to be translated. */
FNM_GLOBAL int fnm_backend_went_on(const struct fnm_context *c, const struct fnm_packet *p,
				   __u64 hash)
{
	struct fnm_backend *b;

	if (!c || !p)
		return 1;
	b = fnm_backend_of(p);
	if (!b || !b->asked || b->tag != fnm_backend_tag(hash))
		return 1;
	if (fnm_since(c->now, b->asked) < FNM_ELSEWHERE_MS)
		return 0;
	b->state = FNM_BACKEND_ASYMMETRIC;
	return 1;
}

/* A SYN-ACK of the server, of which `p->syn` holds the options and `p` is turned round: what was
 * not offered could not be taken. */
FNM_GLOBAL int fnm_backend_learn(const struct fnm_context *c, const struct fnm_packet *p,
				 __u32 offered, __u32 window_ttl)
{
	struct fnm_backend fresh = {.wscale = FNM_NO_WSCALE};
	struct fnm_backend_key key;
	struct fnm_backend *b;
	__u16 taken;

	if (!c || !p)
		return 0;
	fnm_backend_name(&key, p);
	b = bpf_map_lookup_elem(&backends, &key);
	if (!b) {
		bpf_map_update_elem(&backends, &key, &fresh, BPF_NOEXIST);
		b = bpf_map_lookup_elem(&backends, &key);
		if (!b)
			return 0;
	}
	taken = fnm_options_of(p, FNM_TCP_ECE);
	offered |= taken;
	b->known |= offered;
	b->flags = (b->flags & ~offered) | taken;
	if (p->syn.wscale != FNM_NO_WSCALE)
		b->wscale = p->syn.wscale;
	b->mss = p->syn.mss;
	b->window = window_ttl >> 8;
	b->ttl = window_ttl;
	b->answered = fnm_moment(c->now);
	if ((offered & FNM_TCP_OFFERS) == FNM_TCP_OFFERS)
		b->profiled = b->answered;
	b->asked = 0;
	b->state = FNM_BACKEND_OPEN;
	return 1;
}

/* The server refuses; `p` is turned round. Nothing new is entered: a scan must not fill the map. */
FNM_INLINE void fnm_backend_refused(const struct fnm_context *c, const struct fnm_packet *p)
{
	struct fnm_backend *b = fnm_backend_of(p);

	if (!b)
		return;
	b->answered = fnm_moment(c->now);
	b->asked = 0;
	b->state = FNM_BACKEND_CLOSED;
}

#endif
