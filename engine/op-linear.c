/* op-linear - matrix products in chunks of output rows.
 *
 * A chunk is a run of 16-row groups times all tokens: its weights are unpacked once and stay in L1
 * or L2 while the tokens pass. Chunks hold about CHUNK_BYTES of weights, but a product is cut into
 * at least CHUNKS_MIN a thread, and into a multiple of the threads, so that they end together; a
 * thread that lost its core delays one chunk. */
#include <math.h>
#include "base/num.h"
#include "engine/ops.h"

enum {
	ROW_GROUP = 16,
	CHUNK_BYTES = 64 << 10,
	CHUNKS_MIN = 4,
	/* activations that pass a panel at once: half of a small L2 */
	INPUT_BYTES = 256 << 10,
	PAIRS_LEAST = 32,               /* tokens that share an unpacked panel at least */
};

/* Tokens [t, t + n) that have one row each. */
static void matmul_plain(const struct exec *x, mm_fn product, struct mm_args *a, size_t t,
                         size_t n, float *y)
{
	size_t block = MAX(INPUT_BYTES / a->n_in / 16 * 16, (size_t)32);

	for (size_t end = t + n; t < end; t += a->n_tok) {
		struct q16 q16 = op_q16_from(x, x->batch.q[t]);

		a->q16 = &q16;
		a->y = y + t * a->ldy;
		a->n_tok = MIN(block, end - t);
		product(a);
	}
}

/* Tokens of two rows: their products meet in the thread's scratch, rows of the matrix in runs that
 * fit there. */
static void matmul_pairs(const struct exec *x, mm_fn product, struct mm_args *a, size_t t,
                         size_t n, float *y, float *pairs)
{
	size_t n_out = a->r1 - a->r0, width = MIN(n_out, (size_t)ACT_PAIRS / PAIRS_LEAST / 2);
	size_t block = MIN(MAX(INPUT_BYTES / a->n_in / 32 * 16, (size_t)PAIRS_LEAST),
	                   ACT_PAIRS / width / 2);
	struct mm_args b = *a;

	b.y = pairs;
	b.ldy = width;
	for (size_t end = t + n, now; t < end; t += now) {
		struct q16 q16 = op_q16_from(x, x->batch.q[t]);

		now = MIN(block, end - t);
		b.q16 = &q16;
		b.n_tok = 2 * now;
		for (size_t r = 0; r < n_out; r += width) {
			size_t rows = MIN(width, n_out - r);

			b.w = (const uint8_t *)a->w + r * a->row_bytes;
			b.r1 = rows;
			product(&b);
			for (size_t i = 0; i < now; i++) {
				float *out = y + (t + i) * a->ldy + r;

				memcpy(out, pairs + 2 * i * width, rows * sizeof(*out));
				x->k->add(out, pairs + (2 * i + 1) * width, rows);
			}
		}
	}
}

static void matmul_floats(mm_fn product, struct mm_args *a, const float *in, size_t t, size_t n,
                          float *y)
{
	a->x = in + t * a->ldx;
	a->y = y + t * a->ldy;
	a->n_tok = n;
	product(a);
}

/* Prompt rows where there are panels, for weights of all types: all tokens pass what is expanded
 * once. */
static void matmul_panels(const struct exec *x, const struct plan_mat *mat, struct mm_args *a,
                          size_t t, size_t n, float *y)
{
	size_t block = t / PANEL_TOKENS * PANEL_TOKENS;

	a->tiles = x->act.tiles + panel_in_bytes(a->n_in, block) / sizeof(*a->tiles);
	a->place = t - block;
	a->y = y + t * a->ldy;
	a->n_tok = n;
	(mat->packed ? x->k->panel_packed : x->k->panel)[mat->type](a);
}

/* Runs of rows that take the same path. */
static void matmul_runs(const struct exec *x, const struct plan_mat *mat, struct mm_args *a,
                        const float *in, float *y, float *pairs)
{
	mm_fn product = (mat->packed ? x->k->mm_packed : x->k->mm)[mat->type];
	const uint32_t *q = x->batch.q;

	for (size_t t = 0, n; t < x->batch.n_rows; t += n) {
		uint32_t step = q[t + 1] - q[t];

		for (n = 1; t + n < x->batch.n_rows && q[t + n + 1] - q[t + n] == step; n++)
			;
		if (step == 0)
			matmul_panels(x, mat, a, t, n, y);
		else if (qtype_table[mat->type].act != QACT_Q16)
			matmul_floats(product, a, in, t, n, y);
		else if (step == 2)
			matmul_pairs(x, product, a, t, n, y, pairs);
		else
			matmul_plain(x, product, a, t, n, y);
	}
}

void op_matmul(struct exec *x, const struct plan_mat *mat, size_t r0, size_t r1, const float *in,
               size_t ld, float *y, size_t ldy, uint32_t thread)
{
	const struct act_thread *scratch = &x->act.threads[thread];
	struct mm_args a = { .ldy = ldy,
		             .w = mat->data + r0 * mat->row_bytes,
		             .row_bytes = mat->row_bytes,
		             .n_in = mat->n_in,
		             .r1 = r1 - r0,
		             .ldx = ld,
		             .scratch = scratch->scratch };

	if (x->reading)
		x->k->read_sum(a.w, (r1 - r0) * mat->row_bytes);
	else
		matmul_runs(x, mat, &a, in, y, scratch->pairs);
}

/* A chunk's rows are a multiple of it. Panels take two groups at once. */
static size_t row_group(const struct exec *x)
{
	return x->batch.n_panel > 0 ? 2 * ROW_GROUP : ROW_GROUP;
}

static uint32_t chunk_count(const struct exec *x, size_t n_out, size_t group, size_t bytes)
{
	size_t groups = DIV_UP(n_out, group);
	size_t turns = MAX(bytes / CHUNK_BYTES / x->threads, (size_t)CHUNKS_MIN);

	return (uint32_t)MIN(groups, MIN(turns * x->threads, (size_t)UINT32_MAX / 2));
}

/* Rows of chunk i of n. */
static void chunk_rows(size_t n_out, size_t group, uint32_t i, uint32_t n, size_t *r0, size_t *r1)
{
	uint64_t groups = DIV_UP(n_out, group);

	*r0 = (size_t)(groups * i / n) * group;
	*r1 = MIN((size_t)(groups * (i + 1) / n) * group, n_out);
}

static void linear_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	const struct plan_mat *mat = &arg->op->mat[0];
	const float *in = arg->op->in == IN_ATT    ? x->act.att
	                  : arg->op->in == IN_GATE ? x->act.gate
	                                           : x->act.x;
	size_t r0, r1;

	chunk_rows(mat->n_out, row_group(x), i, arg->n_chunks, &r0, &r1);
	op_matmul(x, mat, r0, r1, in, mat->n_in, x->act.y + r0, mat->n_out, thread);
	if (mat->bias && !x->reading)
		for (size_t t = 0; t < x->batch.n_rows; t++)
			x->k->add(x->act.y + t * mat->n_out + r0, mat->bias + r0, r1 - r0);
}

void op_linear(struct exec *x, const struct plan_op *op)
{
	const struct plan_mat *mat = &op->mat[0];

	op_phase(x, op, linear_chunk,
	         chunk_count(x, mat->n_out, row_group(x), mat->row_bytes * mat->n_out));
}

static void gated_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	struct act *a = &x->act;
	const struct plan_mat *mat = arg->op->mat;
	size_t r0, r1;

	chunk_rows(a->n_ff, row_group(x), i, arg->n_chunks, &r0, &r1);
	op_matmul(x, &mat[0], r0, r1, a->x, a->n_embd, a->gate + r0, a->n_ff, thread);
	op_matmul(x, &mat[1], r0, r1, a->x, a->n_embd, a->up + r0, a->n_ff, thread);
	for (size_t t = 0; t < x->batch.n_rows && !x->reading; t++) {
		float *gate = a->gate + t * a->n_ff + r0;
		const float *up = a->up + t * a->n_ff + r0;

		if (x->m->hp.ffn == FFN_GELU_GATED)
			x->k->gelu_mul(gate, gate, up, r1 - r0);
		else
			x->k->silu_mul(gate, gate, up, r1 - r0);
	}
}

static void gated_quantize(struct exec *x, const struct plan_op *op, uint32_t r0, uint32_t r1)
{
	op_quantize(x, op, x->act.gate, x->act.n_ff, r0, r1);
}

void op_gated(struct exec *x, const struct plan_op *op)
{
	size_t bytes = (op->mat[0].row_bytes + op->mat[1].row_bytes) * x->act.n_ff;

	op_phase(x, op, gated_chunk, chunk_count(x, x->act.n_ff, row_group(x), bytes));
	if (!op_quantizes(x, op))
		return;
	op_bind(x, x->act.n_ff);
	op_rows(x, op, gated_quantize, x->act.n_ff);
}

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

static void logits_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	const struct plan_mat *mat = &arg->op->mat[0];
	float cap = x->m->hp.final_softcap;
	size_t r0, r1;

	chunk_rows(mat->n_out, LOGITS_BLOCK, i, arg->n_chunks, &r0, &r1);
	op_matmul(x, mat, r0, r1, x->act.x, mat->n_in, x->act.logits + r0, mat->n_out, thread);
	for (size_t t = 0; t < x->batch.n_rows && cap > 0 && !x->reading; t++)
		x->k->softcap(x->act.logits + t * mat->n_out + r0, cap, r1 - r0);
	for (uint32_t k = 0; k < x->batch.n_slices && !x->reading; k++) {
		const struct batch_slice *s = &x->batch.slices[k];

		for (uint32_t t = s->row0; t < s->row0 + s->n; t++)
			digest(x, t, s->s->lse, r0, r1);
	}
}

void op_logits(struct exec *x, const struct plan_op *op)
{
	const struct plan_mat *mat = &op->mat[0];

	op_phase(x, op, logits_chunk,
	         chunk_count(x, mat->n_out, LOGITS_BLOCK, mat->row_bytes * mat->n_out));
}
