/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * TCP options of a SYN as Linux reads them (tcp_parse_options): what is malformed ends the reading,
 * an option of a wrong length is skipped, the last of two counts.
 */
#ifndef FNM_OPTIONS_H
#define FNM_OPTIONS_H

#include "cookie.h"
#include "flows.h"

#define FNM_OPTIONS_MAX	 40
#define FNM_WSCALE_MAX	 14
#define FNM_DEFAULT_MSS4 536
#define FNM_DEFAULT_MSS6 1220

FNM_INLINE __u8 fnm_wscale(__u8 offered)
{
	return offered > FNM_WSCALE_MAX ? FNM_WSCALE_MAX : offered;
}

/* Of `length` bytes at `byte`, beyond which all is 0 up to the end of 64. */
FNM_INLINE void fnm_scan_options(struct fnm_syn *syn, const __u8 *byte, __u32 length)
{
	__u32 at = 0;

#pragma clang loop unroll(disable)
	for (int turn = 0; turn < FNM_OPTIONS_MAX; turn++) {
		__u8 kind, size;

		at &= 63; /* the same bounds at each turn: the verifier sees that it is one case */
		if (at >= length)
			break;
		kind = byte[at & 63];
		if (kind == 0)
			break;
		if (kind == 1) {
			at++;
			continue;
		}
		size = byte[(at + 1) & 63];
		if (at + 1 >= length || size < 2 || at + size > length)
			break;
		if (kind == 2 && size == 4) {
			__u32 mss = byte[(at + 2) & 63] << 8 | byte[(at + 3) & 63];

			if (mss)
				syn->mss = mss;
		} else if (kind == 3 && size == 3) {
			syn->wscale = fnm_wscale(byte[(at + 2) & 63]);
		} else if (kind == 4 && size == 2) {
			syn->sack = 1;
		} else if (kind == 8 && size == 10) {
			syn->timestamps = 1;
			syn->tsval = (__u32)byte[(at + 5) & 63] << 24 | byte[(at + 4) & 63] << 16 |
				     byte[(at + 3) & 63] << 8 | byte[(at + 2) & 63];
			syn->tsecr = (__u32)byte[(at + 9) & 63] << 24 | byte[(at + 8) & 63] << 16 |
				     byte[(at + 7) & 63] << 8 | byte[(at + 6) & 63];
		}
		at += size;
	}
}

/* Any layout; false when the options could not be read. */
FNM_GLOBAL int fnm_read_options(struct xdp_md *ctx, struct fnm_packet *p)
{
	__u8 byte[64] = {}; /* the options, the rest 0: end of options */
	__u32 length;

	if (!p)
		return 0;
	length = p->doff - sizeof(struct fnm_tcphdr);
	if (length < 4 || length > FNM_OPTIONS_MAX)
		return 0;
	if (FNM_FAULT(FNM_FAULT_LOOP) ||
	    bpf_xdp_load_bytes(ctx, p->l4 + sizeof(struct fnm_tcphdr), byte, length))
		return 0;
	fnm_scan_options(&p->syn, byte, length);
	return 1;
}

#define FNM_WORD(a, b, c, d) bpf_htonl((__u32)(a) << 24 | (b) << 16 | (c) << 8 | (d))

/* The layouts that nearly all SYNs have; false: it is another one. */
FNM_INLINE int fnm_read_common(struct fnm_packet *p, void *data, void *end)
{
	struct fnm_syn *syn = &p->syn;
	__u32 *o;

	if (p->doff == sizeof(struct fnm_tcphdr))
		return 1;
	if (p->l4 > 0x4fff)
		return 0;
	o = data + p->l4 + sizeof(struct fnm_tcphdr);
	if ((void *)(o + 1) > end)
		return 0;
	if ((o[0] & FNM_WORD(255, 255, 0, 0)) != FNM_WORD(2, 4, 0, 0) ||
	    !(o[0] & FNM_WORD(0, 0, 255, 255)))
		return 0;
	if (p->doff == 24) {
		syn->mss = bpf_ntohl(o[0]) & 0xffff;
		return 1;
	}
	if (p->doff == 40) { /* Linux, Android: MSS SACK TS NOP WS */
		if ((void *)(o + 5) > end || o[1] != FNM_WORD(4, 2, 8, 10) ||
		    (o[4] & FNM_WORD(255, 255, 255, 0)) != FNM_WORD(1, 3, 3, 0))
			return 0;
		syn->mss = bpf_ntohl(o[0]) & 0xffff;
		syn->sack = 1;
		syn->timestamps = 1;
		syn->tsval = o[2];
		syn->wscale = fnm_wscale(bpf_ntohl(o[4]));
		return 1;
	}
	if (p->doff == 32) { /* Windows: MSS NOP WS NOP NOP SACK */
		if ((void *)(o + 3) > end ||
		    (o[1] & FNM_WORD(255, 255, 255, 0)) != FNM_WORD(1, 3, 3, 0) ||
		    o[2] != FNM_WORD(1, 1, 4, 2))
			return 0;
		syn->mss = bpf_ntohl(o[0]) & 0xffff;
		syn->wscale = fnm_wscale(bpf_ntohl(o[1]));
		syn->sack = 1;
		return 1;
	}
	if (p->doff == 44) { /* Apple: MSS NOP WS NOP NOP TS SACK EOL */
		if ((void *)(o + 6) > end ||
		    (o[1] & FNM_WORD(255, 255, 255, 0)) != FNM_WORD(1, 3, 3, 0) ||
		    o[2] != FNM_WORD(1, 1, 8, 10) || o[5] != FNM_WORD(4, 2, 0, 0))
			return 0;
		syn->mss = bpf_ntohl(o[0]) & 0xffff;
		syn->wscale = fnm_wscale(bpf_ntohl(o[1]));
		syn->timestamps = 1;
		syn->tsval = o[3];
		syn->sack = 1;
		return 1;
	}
	return 0;
}

/* Timestamps of a segment that is no SYN; other options count for nothing there. */
FNM_INLINE void fnm_read_timestamps(struct xdp_md *ctx, struct fnm_packet *p)
{
	const struct fnm_syn nothing = {.wscale = FNM_NO_WSCALE};
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 *o;

	p->syn = nothing;
	if (p->doff == sizeof(struct fnm_tcphdr))
		return;
	o = fnm_at(data, p->l4 + sizeof(struct fnm_tcphdr), FNM_MAX_L4);
	if (p->doff == 32 && o && (void *)(o + 3) <= end && o[0] == FNM_WORD(1, 1, 8, 10)) {
		p->syn.timestamps = 1;
		p->syn.tsval = o[1];
		p->syn.tsecr = o[2];
		return;
	}
	if (!fnm_read_options(ctx, p))
		FNM_WORKED(loop_failed);
}

/* What the SYN offers. Without its options the cookie is still one that the server takes. */
FNM_INLINE void fnm_read_syn(struct xdp_md *ctx, struct fnm_packet *p, const int v6)
{
	const struct fnm_syn nothing = {.mss = v6 ? FNM_DEFAULT_MSS6 : FNM_DEFAULT_MSS4,
					.wscale = FNM_NO_WSCALE};
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	p->syn = nothing;
	if (fnm_read_common(p, data, end))
		return;
	p->syn = nothing;
	if (!fnm_read_options(ctx, p))
		FNM_WORKED(loop_failed);
}

#endif
