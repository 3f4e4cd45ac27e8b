/* logits - what can be said of a block of a row, and of a row by its blocks.
 *
 * Invariants:
 * 1. A NaN or +INFINITY in a block is not lost: its largest is NaN, so that whoever reads only that
 *    refuses the row as if it had read all of it.
 * 2. Sums go in ascending order of blocks: the same bits for any chunks and threads. */
#include "engine/logits.h"

#include <float.h>
#include <math.h>

enum { LANES = 16 };

/* Lanes so that the compiler can use vectors. */
float logits_block_max(const float *x, uint32_t n)
{
	float m[LANES], best = -INFINITY;
	uint32_t bad[LANES] = { 0 }, any = 0, i = 0;

	for (uint32_t l = 0; l < LANES; l++)
		m[l] = -INFINITY;
	for (; i + LANES <= n; i += LANES)
		for (uint32_t l = 0; l < LANES; l++) {
			m[l] = x[i + l] > m[l] ? x[i + l] : m[l];
			bad[l] |= !(x[i + l] <= FLT_MAX);
		}
	for (; i < n; i++) {
		m[0] = x[i] > m[0] ? x[i] : m[0];
		bad[0] |= !(x[i] <= FLT_MAX);
	}
	for (uint32_t l = 0; l < LANES; l++) {
		best = m[l] > best ? m[l] : best;
		any |= bad[l];
	}
	return any ? NAN : best;
}

double logits_lse(const double *v, uint32_t n)
{
	double best = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		best = v[i] > best ? v[i] : best;
	for (uint32_t i = 0; i < n; i++)
		sum += exp(v[i] - best);
	return best + log(sum);
}
