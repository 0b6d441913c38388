/* SPDX-License-Identifier: Apache-2.0 */
/* Nanoseconds of an addition that waits for the one before: the length of a cycle, by which figures
 * of two machines can be told apart. The best of several rounds. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define ROUNDS 10
#define ADDS   20000000

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

int main(void)
{
	double best = 1e9;
	uint64_t sum = 1;

	for (int round = 0; round < ROUNDS; round++) {
		double begun = now_ns(), each;

		for (int i = 0; i < ADDS; i++) {
			sum += sum;
			__asm__ volatile("" : "+r"(sum));
		}
		each = (now_ns() - begun) / ADDS;
		best = each < best ? each : best;
	}
	printf("%.3f\n", best);
	return 0;
}
