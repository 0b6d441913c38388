/* SPDX-License-Identifier: Apache-2.0 */
#include "rate.h"

#define NS	   1000000000ull
#define FULL_FRAME 1500

struct fnm_rate rate_of_packets(uint64_t pps, uint64_t burst)
{
	uint64_t interval = pps ? NS / pps : NS;

	/* A packet passes where the burst holds it; an interval of 0 would mean no limit. What
	 * comes a step of the clock late must not count against the rate. */
	if (!pps)
		burst = 0;
	else if (burst < interval + RATE_CLOCK_STEP)
		burst = interval + RATE_CLOCK_STEP;
	return (struct fnm_rate){.interval = interval, .burst = burst};
}

uint64_t rate_interval_of_bits(uint64_t bps)
{
	return (8 * NS << 10) / bps;
}

/* A rate below a frame a second must still let a frame pass. */
uint64_t rate_burst_of_bits(uint64_t bps)
{
	uint64_t frame = rate_interval_of_bits(bps) * FULL_FRAME >> 10;

	return frame > RATE_SECOND_BURST ? frame : RATE_SECOND_BURST;
}

bool rate_equal(const struct fnm_rate *one, const struct fnm_rate *other)
{
	return one->interval == other->interval && one->burst == other->burst;
}

void rate_carry(struct fnm_rate *to, const struct fnm_rate *from)
{
	if (rate_equal(to, from))
		to->tat = __atomic_load_n(&from->tat, __ATOMIC_RELAXED);
}
