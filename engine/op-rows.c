/* op-rows - what is done row by row: embedding, residual, norms, quantizing.
 *
 * A decode step has one row, or a few: then the whole op is less work than a phase of the pool
 * costs (1-2 us), and the engine thread does it in place. */
#include <math.h>
#include "base/num.h"
#include "engine/ops.h"
#include "kernels/pack.h"

enum { ROWS_INLINE = 8192 };            /* floats: about 4 us of norm and quantizing */

struct rows_arg {
	struct op_arg op;
	op_rows_fn fn;
};

void op_phase(struct exec *x, const struct plan_op *op, pool_fn fn, uint32_t n_chunks)
{
	struct op_arg arg = { x, op, n_chunks };

	if (n_chunks == 1)
		fn(&arg, 0, 0);
	else
		pool_run(x->pool, fn, &arg, n_chunks);
}

static void rows_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct rows_arg *a = p;
	uint64_t n = a->op.x->batch.n_rows;

	(void)thread;
	a->fn(a->op.x, a->op.op, (uint32_t)(n * i / a->op.n_chunks),
	      (uint32_t)(n * (i + 1) / a->op.n_chunks));
}

void op_rows(struct exec *x, const struct plan_op *op, op_rows_fn fn, size_t width)
{
	uint32_t n = x->batch.n_rows;
	struct rows_arg arg = { { x, op, MIN(n, x->threads * 4) }, fn };

	if (x->reading)
		return;
	if (n == 1 || n * width <= ROWS_INLINE)
		fn(x, op, 0, n);
	else
		pool_run(x->pool, rows_chunk, &arg, arg.op.n_chunks);
}

/* Angles are reduced and rounded once, from double: see plan.c. */
static void angles(float *cs, const double *freq, size_t n_rot, uint32_t pos)
{
	for (size_t i = 0; i < n_rot / 2; i++) {
		double a = freq[i] * pos;

		cs[2 * i] = (float)cos(a);
		cs[2 * i + 1] = (float)sin(a);
	}
}

/* A packed row is put back into the residual's buffer, free here: row_bytes fit its floats. */
static void embed_token(struct exec *x, size_t r, float *h)
{
	const struct plan_mat *mat = &x->plan->embd;
	size_t token = (size_t)x->batch.token[r], unit = PACK_ROWS * pack_unit_groups(mat->packed);
	size_t in_unit = mat->packed ? token % unit : 0, first = token - in_unit;
	const uint8_t *row = mat->data + first * mat->row_bytes;

	if (mat->packed) {
		float *y = x->act.y + r * x->act.n_embd;

		unpack_row(y, mat->type, mat->packed, row, MIN(mat->n_out - first, unit), in_unit,
		           mat->n_in);
		row = (const uint8_t *)y;
	}
	x->k->dequant[mat->type](h, row, mat->n_in);
}

static void embed_rows(struct exec *x, const struct plan_op *op, uint32_t r0, uint32_t r1)
{
	const struct plan *p = x->plan;
	struct act *a = &x->act;

	(void)op;
	for (size_t r = r0; r < r1; r++) {
		float *h = a->h + r * a->n_embd;

		embed_token(x, r, h);
		if (x->m->hp.embd_scale != 1)
			x->k->scale(h, x->m->hp.embd_scale, a->n_embd);
		if (p->freq)
			angles(a->cs + r * a->n_rot, p->freq, a->n_rot, x->batch.pos[r]);
		if (p->freq_local)
			angles(a->cs_local + r * a->n_rot, p->freq_local, a->n_rot,
			       x->batch.pos[r]);
	}
}

void op_embed(struct exec *x, const struct plan_op *op)
{
	/* A sine costs as much as 16 elements of a norm. */
	op_rows(x, op, embed_rows, x->act.n_embd + 32 * x->act.n_rot);
}

void op_bind(struct exec *x, size_t k)
{
	q16_bind(&x->q16, x->act.q16_mem, k, x->batch.q[x->batch.n_rows]);
}

struct q16 op_q16_from(const struct exec *x, size_t row)
{
	const struct q16 *q = &x->q16;
	size_t blocks = q->k / 16;

	return (struct q16){ q->q + row * q->k, q->s + row * blocks, q->t + row * blocks,
		             q->sum + row * blocks, q->k };
}

void op_quantize(struct exec *x, const struct plan_op *op, const float *src, size_t ld,
                 uint32_t r0, uint32_t r1)
{
	const uint32_t *q = x->batch.q;

	for (size_t r = r0; r < r1; r++) {
		struct q16 out = op_q16_from(x, q[r]);

		if (q[r + 1] == q[r])
			x->k->panel_in(x->act.tiles, src + r * ld, x->q16.k, r);
		else if (!op->quantize)
			continue;
		else if (q[r + 1] - q[r] == 2)
			x->k->actq_pair(&out, src + r * ld, 0);
		else
			x->k->actq(&out, src + r * ld, ld, 0, 1);
	}
}

bool op_quantizes(const struct exec *x, const struct plan_op *op)
{
	return op->quantize || x->batch.panels;
}

static void norm_rows(struct exec *x, const struct plan_op *op, uint32_t r0, uint32_t r1)
{
	struct act *a = &x->act;
	float eps = x->m->hp.norm_eps;

	for (size_t r = r0; r < r1; r++) {
		float *h = a->h + r * a->n_embd, *y = a->y + r * a->n_embd;

		if (op->residual && op->post)
			x->k->rms_norm(y, y, op->post, a->n_embd, eps);
		if (op->residual)
			x->k->add(h, y, a->n_embd);
		x->k->rms_norm(a->x + r * a->n_embd, h, op->norm_w, a->n_embd, eps);
	}
	if (op_quantizes(x, op))
		op_quantize(x, op, a->x, a->n_embd, r0, r1);
}

void op_norm(struct exec *x, const struct plan_op *op)
{
	if (op_quantizes(x, op))
		op_bind(x, x->act.n_embd);
	op_rows(x, op, norm_rows, x->act.n_embd);
}

void op_move_row(void *arg, uint32_t dst, uint32_t src)
{
	struct exec *x = arg;
	struct act *a = &x->act;
	const struct hparams *hp = &x->m->hp;
	size_t group = (size_t)hp->n_head / hp->n_head_kv * hp->head_dim;

	memcpy(a->h + dst * a->n_embd, a->h + src * a->n_embd, a->n_embd * sizeof(*a->h));
	memcpy(a->y + dst * a->n_embd, a->y + src * a->n_embd, a->n_embd * sizeof(*a->y));
	memcpy(a->cs + dst * a->n_rot, a->cs + src * a->n_rot, a->n_rot * sizeof(*a->cs));
	if (hp->window)
		memcpy(a->cs_local + dst * a->n_rot, a->cs_local + src * a->n_rot,
		       a->n_rot * sizeof(*a->cs_local));
	for (size_t i = 0; i < hp->n_head_kv; i++) {
		float *q = a->q + i * x->max_rows * group;

		memcpy(q + dst * group, q + src * group, group * sizeof(*q));
	}
}

void op_keep(struct exec *x, const struct plan_op *op)
{
	(void)op;
	if (!x->reading)
		batch_keep_logits(&x->batch, op_move_row, x);
}
