/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's SYN cookie, written once more, so that selftest has something to compare with. */
#ifndef SYNPROXYD_COOKIE_H
#define SYNPROXYD_COOKIE_H

#include "packets.h"

/* key: memory of syncookie_secret; mss_index: of the kernel's table */
uint32_t cookie_expected(const uint64_t key[2][2], const struct segment *syn, uint64_t minutes,
			 uint32_t mss_index);

#endif
