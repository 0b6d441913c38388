/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program where packets leave, in front of all others there: a link (tcx, Linux 6.6), or else a
 * filter of the interface's clsact (tc-bpf(8)). Either stays when the daemon ends: the link is
 * pinned, and the filter belongs to the interface.
 */
#ifndef SYNPROXYD_EGRESS_H
#define SYNPROXYD_EGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* 0 or a negative errno; one of ours that is there is replaced, without a gap. `pin`: of the link;
 * `linked`: whether it may be one, and then whether it is. */
int egress_attach(uint32_t ifindex, int program, const char *pin, bool *linked);
/* Take the filter off; the link goes with its pin. */
void egress_detach(uint32_t ifindex);

#endif
