/* logits - a row of logits and what the output matrix' chunks said of it while it was in the cache:
 * the largest of every block, and the log of its sum of exponentials where somebody wants that. A
 * greedy or top-k choice then reads a 256th of the row and the few blocks that matter, and a
 * log-probability takes no further pass. Blocks are fixed, so what they say is the same for any
 * threads and chunks. Threads: any; a row is the caller's. */
#pragma once
#include <stdint.h>
#include "base/num.h"

enum { LOGITS_BLOCK = 256 };
struct logits_row {
	const float *x;                 /* [n_vocab] */
	/* [logits_blocks(n_vocab)]: largest of each block, NaN where one of it is NaN or +INFINITY;
	 * NULL: nobody looked yet */
	const float *max;
	/* the same number of logs of sums of exponentials; NULL: nobody wanted them */
	const double *lse;
};
static inline uint32_t logits_blocks(uint32_t n_vocab)
{
	return DIV_UP(n_vocab, (uint32_t)LOGITS_BLOCK);
}
/* Largest of n logits; NaN where one is NaN or +INFINITY, -INFINITY of none. */
float logits_block_max(const float *x, uint32_t n);
/* log(sum(exp(v))) of n values, in ascending order. Not finite where one is NaN or all are
 * -INFINITY. */
double logits_lse(const double *v, uint32_t n);
