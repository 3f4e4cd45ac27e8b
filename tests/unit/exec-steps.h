/* exec-steps - exec_step for tests: every row of logits is checked against what its blocks say. */
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/num.h"
#include "engine/ops.h"

/* What the blocks of a row of logits say, from the row. */
static inline void check_blocks(const struct logits_row *row, uint32_t n_vocab, bool lse)
{
	assert_true((row->lse != NULL) == lse);
	for (uint32_t b = 0; b < logits_blocks(n_vocab); b++) {
		uint32_t end = MIN((b + 1) * (uint32_t)LOGITS_BLOCK, n_vocab);
		float max = -INFINITY;
		double sum = 0;

		for (uint32_t i = b * LOGITS_BLOCK; i < end; i++) {
			max = fmaxf(max, row->x[i]);
			sum += exp((double)row->x[i]);
		}
		if (row->max[b] != max || (lse && !(fabs(row->lse[b] - log(sum)) < 1e-5)))
			fail_msg("block %u: says %g and %g, is %g and %g", b, (double)row->max[b],
			         lse ? row->lse[b] : 0, (double)max, log(sum));
	}
}

/* A step whose every other slice wants sums; its rows of logits lie together. */
static inline int step_of(struct exec *x, struct exec_slice *slices, size_t n, const float **ret,
                   struct err *err)
{
	uint32_t at = 0;
	int r;

	for (size_t i = 0; i < n; i++)
		slices[i].lse = i % 2 == 0;
	r = exec_step(x, slices, n, err);
	for (size_t i = 0; i < n && r == 0; i++)
		for (uint32_t k = 0; k < slices[i].n_logits && !slices[i].cancelled; k++) {
			struct logits_row row;

			exec_row(x, at, &row);
			*ret = at++ == 0 ? row.x : *ret;
			check_blocks(&row, x->m->hp.n_vocab, i % 2 == 0);
		}
	return r;
}
