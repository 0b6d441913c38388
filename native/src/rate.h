/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets in the data plane's form, from packets or bits a second. */
#ifndef SYNPROXYD_RATE_H
#define SYNPROXYD_RATE_H

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"

#define RATE_PPS_MOST  10000000ull
#define RATE_BPS_LEAST 1000ull
#define RATE_BPS_MOST  400000000000ull

#define RATE_CLOCK_STEP 10000000ull /* ns: HZ of 100 */

/* A tenth of a second's worth: more than a step of the clock, and little enough that a second holds
 * hardly more than the rate. */
#define RATE_SHORT_BURST  100000000ull
#define RATE_SECOND_BURST 1000000000ull

/* pps 0: none passes */
struct fnm_rate rate_of_packets(uint64_t pps, uint64_t burst);
uint64_t rate_interval_of_bits(uint64_t bps);
uint64_t rate_burst_of_bits(uint64_t bps);
/* whether they allow the same, whatever they hold */
bool rate_equal(const struct fnm_rate *one, const struct fnm_rate *other);
/* A bucket stays as full as it was where the rate is the same. */
void rate_carry(struct fnm_rate *to, const struct fnm_rate *from);

#endif
