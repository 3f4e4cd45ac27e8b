/* op-logits - the output matrix: all logits of a row, or only those that a choice can fall on.
 *
 * Of a greedy or top-k choice the k largest logits are wanted, of tens of thousands. The matrix
 * lies in two parts for that (kernels/pack.h, PACK_SPLIT): the product with the upper five bits of
 * every code bounds a logit from above, and a row of the matrix whose bound is below k logits that
 * are known is out of the question. The lower bits are read, and the product computed, of groups
 * with another row only: of 3 in 1000 for a greedy choice among 262,144 tokens (Gemma 3), so that
 * 5/8 of the matrix are read.
 *
 * Invariants:
 * 1. What is computed is what the whole product gives, bit for bit, and what is left out is less
 *    than k logits that are there. So a choice among the k largest is the same, ties included,
 *    whichever rows the threads happen to leave out.
 * 2. A bound that is not finite rules nothing out: a NaN or +INFINITY is found as without bounds.
 * 3. A soft-cap could make ties of logits that differ: with one, all are computed. */
#include <math.h>
#include "base/num.h"
#include "engine/ops.h"
#include "kernels/pack.h"

enum {
	/* a screen that spares less than a third of the groups costs more than it saves */
	SPARED_LEAST = 3,
	REST = 31,                      /* steps without it then */
};

/* What is said of a row's blocks in [r0, r1), which a chunk has whole, while it has them in the
 * cache. */
static void digest(const struct exec *x, size_t t, bool lse, size_t r0, size_t r1)
{
	const struct act *a = &x->act;
	const float *row = a->logits + t * a->n_vocab;

	for (size_t r = r0; r < r1; r += LOGITS_BLOCK) {
		size_t n = MIN(r1 - r, (size_t)LOGITS_BLOCK);
		size_t at = t * a->n_blocks + r / LOGITS_BLOCK;
		float max = logits_block_max(row + r, (uint32_t)n);

		a->block_max[at] = max;
		if (lse && isfinite(max))
			x->k->logsumexp(row + r, n, &max, &a->block_lse[at]);
		else if (lse)
			a->block_lse[at] = (double)max;
	}
}

static void digest_rows(const struct exec *x, size_t r0, size_t r1)
{
	for (uint32_t k = 0; k < x->batch.n_slices; k++) {
		const struct batch_slice *s = &x->batch.slices[k];

		for (uint32_t t = s->row0; t < s->row0 + s->n; t++)
			digest(x, t, s->s->lse, r0, r1);
	}
}

static void logits_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	const struct plan_mat *mat = &arg->op->mat[0];
	float cap = x->m->hp.final_softcap;
	size_t r0, r1;

	op_chunk_rows(mat->n_out, LOGITS_BLOCK, i, arg->n_chunks, &r0, &r1);
	op_matmul(x, mat, r0, r1, x->act.x, mat->n_in, x->act.logits + r0, mat->n_out, thread);
	if (x->reading)
		return;
	for (size_t t = 0; t < x->batch.n_rows && cap > 0; t++)
		x->k->softcap(x->act.logits + t * mat->n_out + r0, cap, r1 - r0);
	digest_rows(x, r0, r1);
}

/* === With bounds === */
#define FOUR(x) x, x, x, x
static const float left_out[PACK_ROWS] = { FOUR(-INFINITY), FOUR(-INFINITY), FOUR(-INFINITY),
	                                   FOUR(-INFINITY) };

/* The k-th largest known logit of row t: what is less is none of the k largest. */
static float floor_of(const struct exec *x, size_t t)
{
	return atomic_load_explicit(&x->act.screen.floor[t], memory_order_relaxed);
}

/* Logits of row t join the k largest that this thread knows, smallest first. Threads may lose each
 * other's floors: any that was stored is a floor. */
static void keep_largest(const struct exec *x, struct act_screen_thread *s, size_t t,
                         const float *y, size_t n)
{
	uint32_t k = x->act.screen.top[t], *have = &s->n[t];
	float *best = s->largest + t * SCREEN_TOP;

	for (size_t i = 0; i < n; i++) {
		uint32_t at;

		if (*have == k ? !(y[i] > best[0]) : isnan(y[i]))
			continue;
		if (*have == k) {
			for (at = 0; at + 1 < k && best[at + 1] < y[i]; at++)
				best[at] = best[at + 1];
		} else {
			for (at = (*have)++; at > 0 && best[at - 1] > y[i]; at--)
				best[at] = best[at - 1];
		}
		best[at] = y[i];
	}
	if (*have == k && best[0] > floor_of(x, t))
		atomic_store_explicit(&x->act.screen.floor[t], best[0], memory_order_relaxed);
}

/* Can one of n logits, whose estimates stand at y and go, be among the k largest? What the matrix
 * has too few rows for stays out of y. */
static bool can_be_largest(const struct exec *x, const struct plan_mat *mat, const uint8_t *high,
                           size_t t, float *y, size_t n)
{
	const struct act_screen *s = &x->act.screen;
	size_t blocks = mat->n_in / 32;
	float last[PACK_ROWS] = { 0 };

	if (n < PACK_ROWS)
		y = memcpy(last, y, n * sizeof(*y));
	return x->k->screen(y, high, mat->n_in, s->t + t * blocks, s->e + t * blocks,
	                    floor_of(x, t));
}

/* Estimates of n rows of the matrix from r on to logits. */
static void screen_group(struct exec *x, const struct plan_mat *mat, const struct pack_parts *at,
                         size_t r, size_t n, struct act_thread *thread)
{
	struct act_screen_thread *s = &thread->screen;
	struct mm_args a = { .w = thread->joined, .row_bytes = mat->row_bytes,
		             .n_in = mat->n_in, .r1 = n, .n_tok = 1,
		             .scratch = thread->scratch };
	bool joined = false;

	for (size_t t = 0; t < x->batch.n_rows; t++) {
		float *y = x->act.logits + t * mat->n_out + r;
		struct q16 q16 = op_q16_from(x, x->batch.q[t]);

		if (!can_be_largest(x, mat, mat->data + at->high, t, y, n)) {
			memcpy(y, left_out, n * sizeof(*y));
			continue;
		}
		if (!joined)
			x->k->join(thread->joined, mat->data + at->high, mat->data + at->low,
			           mat->n_in);
		joined = true;
		a.y = y;
		a.q16 = &q16;
		x->k->mm_packed[QTYPE_Q8_0](&a);
		keep_largest(x, s, t, y, n);
		s->computed++;
	}
}

static void screen_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	const struct plan_mat *mat = &arg->op->mat[0];
	struct act_thread *scratch = &x->act.threads[thread];
	struct q16 q16 = op_q16_from(x, 0);
	size_t n_groups = DIV_UP(mat->n_out, (size_t)PACK_ROWS);
	struct mm_args a = { .ldy = mat->n_out, .row_bytes = pack_high_bytes(mat->n_in) / PACK_ROWS,
		             .n_in = mat->n_in, .n_tok = x->batch.n_rows, .q16 = &q16,
		             .scratch = scratch->scratch };
	size_t r0, r1;

	op_chunk_rows(mat->n_out, LOGITS_BLOCK, i, arg->n_chunks, &r0, &r1);
	for (size_t r = r0; r < r1; r += PACK_ROWS) {
		size_t n = MIN(r1 - r, (size_t)PACK_ROWS);
		struct pack_parts at = pack_parts(r / PACK_ROWS, n_groups, mat->n_in);

		a.w = mat->data + at.high;
		if (x->reading) {
			x->k->read_sum(a.w, pack_high_bytes(mat->n_in));
			continue;
		}
		a.y = x->act.logits + r;
		a.r1 = n;
		x->k->mm_packed[QTYPE_Q5_0](&a);
		screen_group(x, mat, &at, r, n, scratch);
	}
	if (!x->reading)
		digest_rows(x, r0, r1);
}

/* The largest of each row's logits suffice, and enough of the last such step was left out. */
static bool screens(struct exec *x)
{
	struct act_screen *s = &x->act.screen;

	if (!model_screens(x->m))
		return false;
	for (uint32_t k = 0; k < x->batch.n_slices; k++) {
		const struct batch_slice *b = &x->batch.slices[k];

		if (b->s->top == 0 || b->s->top > SCREEN_TOP)
			return false;
		for (uint32_t t = b->row0; t < b->row0 + b->n; t++) {
			if (x->batch.q[t + 1] - x->batch.q[t] != 1)
				return false;
			s->top[t] = b->s->top;
		}
	}
	if (s->rest == 0 || x->reading)
		return true;
	s->rest--;
	return false;
}

static void op_screen(struct exec *x, const struct plan_op *op, uint32_t n_chunks)
{
	const struct plan_mat *mat = &op->mat[0];
	struct act_screen *s = &x->act.screen;
	size_t blocks = mat->n_in / 32;
	uint64_t groups = DIV_UP(mat->n_out, (size_t)PACK_ROWS) * (uint64_t)x->batch.n_rows,
		 computed = 0;

	for (uint32_t t = 0; t < x->batch.n_rows && !x->reading; t++) {
		struct q16 q16 = op_q16_from(x, t);

		screen_terms(s->t + t * blocks, s->e + t * blocks, &q16);
		atomic_store_explicit(&s->floor[t], -INFINITY, memory_order_relaxed);
		for (uint32_t i = 0; i < x->act.n_threads; i++)
			x->act.threads[i].screen.n[t] = 0;
	}
	for (uint32_t i = 0; i < x->act.n_threads; i++)
		x->act.threads[i].screen.computed = 0;
	op_phase(x, op, screen_chunk, n_chunks);
	for (uint32_t i = 0; i < x->act.n_threads; i++)
		computed += x->act.threads[i].screen.computed;
	if (computed > groups - groups / SPARED_LEAST)
		s->rest = REST;
}

void op_logits(struct exec *x, const struct plan_op *op)
{
	const struct plan_mat *mat = &op->mat[0];
	uint32_t n = op_chunk_count(x, mat->n_out, LOGITS_BLOCK, mat->row_bytes * mat->n_out);

	if (screens(x))
		op_screen(x, op, n);
	else
		op_phase(x, op, logits_chunk, n);
}
