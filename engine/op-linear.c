/* op-linear - matrix products in chunks of output rows.
 *
 * A chunk is a run of 16-row groups times all tokens: its weights are unpacked once and stay in L1
 * or L2 while the tokens pass. Chunks hold about CHUNK_BYTES of weights, but a product is cut into
 * at least CHUNKS_MIN a thread, and into a multiple of the threads, so that they end together; a
 * thread that lost its core delays one chunk. */
#include "base/num.h"
#include "engine/ops.h"
#include "kernels/pack.h"

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

/* Groups in two parts are put together for it, two at a time: what panels take at once. */
static void matmul_split(struct exec *x, const struct plan_mat *mat, size_t r0, size_t r1,
                         const float *in, size_t ld, float *y, size_t ldy, uint32_t thread)
{
	size_t group = PACK_ROWS * mat->row_bytes, n;
	size_t n_groups = DIV_UP(mat->n_out, (size_t)PACK_ROWS);
	uint8_t *joined = x->act.threads[thread].joined;
	struct plan_mat whole = *mat;

	whole.data = joined;
	whole.packed = PACK_R16;
	for (size_t r = r0; r < r1; r += n) {
		n = MIN(r1 - r, (size_t)ACT_JOINED * PACK_ROWS);
		for (size_t g = 0; g * PACK_ROWS < n; g++) {
			struct pack_parts at = pack_parts(r / PACK_ROWS + g, n_groups, mat->n_in);

			x->k->join(joined + g * group, mat->data + at.high, mat->data + at.low,
			           mat->n_in);
		}
		op_matmul(x, &whole, 0, n, in, ld, y + (r - r0), ldy, thread);
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
	else if (mat->packed == PACK_SPLIT)
		matmul_split(x, mat, r0, r1, in, ld, y, ldy, thread);
	else
		matmul_runs(x, mat, &a, in, y, scratch->pairs);
}

/* A chunk's rows are a multiple of it. Panels take two groups at once. */
static size_t row_group(const struct exec *x)
{
	return x->batch.n_panel > 0 ? 2 * ROW_GROUP : ROW_GROUP;
}

uint32_t op_chunk_count(const struct exec *x, size_t n_out, size_t group, size_t bytes)
{
	size_t groups = DIV_UP(n_out, group);
	size_t turns = MAX(bytes / CHUNK_BYTES / x->threads, (size_t)CHUNKS_MIN);

	return (uint32_t)MIN(groups, MIN(turns * x->threads, (size_t)UINT32_MAX / 2));
}

void op_chunk_rows(size_t n_out, size_t group, uint32_t i, uint32_t n, size_t *r0, size_t *r1)
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

	op_chunk_rows(mat->n_out, row_group(x), i, arg->n_chunks, &r0, &r1);
	op_matmul(x, mat, r0, r1, in, mat->n_in, x->act.y + r0, mat->n_out, thread);
	if (mat->bias && !x->reading)
		for (size_t t = 0; t < x->batch.n_rows; t++)
			x->k->add(x->act.y + t * mat->n_out + r0, mat->bias + r0, r1 - r0);
}

void op_linear(struct exec *x, const struct plan_op *op)
{
	const struct plan_mat *mat = &op->mat[0];

	op_phase(x, op, linear_chunk,
	         op_chunk_count(x, mat->n_out, row_group(x), mat->row_bytes * mat->n_out));
}

static void gated_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	struct act *a = &x->act;
	const struct plan_mat *mat = arg->op->mat;
	size_t r0, r1;

	op_chunk_rows(a->n_ff, row_group(x), i, arg->n_chunks, &r0, &r1);
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

	op_phase(x, op, gated_chunk, op_chunk_count(x, x->act.n_ff, row_group(x), bytes));
	if (!op_quantizes(x, op))
		return;
	op_bind(x, x->act.n_ff);
	op_rows(x, op, gated_quantize, x->act.n_ff);
}
