/* plan - features to ops.
 *
 * Five phases a layer on the pool: QKV, attention, output projection, gate with up, down. The
 * row-wise work between them (residual, norms, quantizing) is part of OP_NORM, OP_ATTN and
 * OP_GATED; for a single row it is done in place by the engine thread.
 * Invariants:
 * 1. Nothing here asks for a family's name: an absent slot is an absent feature.
 * 2. The residual of a layer's down projection is added by the next OP_NORM, so that at a layer's
 *    start H and Y are all the state a row has; cancelling compacts those two and no more. */
#include "engine/plan.h"

#include <errno.h>
#include <math.h>
#include "base/mem.h"
#include "base/num.h"

enum { HEAD_DIM_MAX = 512 };            /* attn_page's limit */

struct build {
	const struct model *m;
	const struct kernels *k;
	struct plan *p;
};

static int vec_copy(struct build *b, const float **ret, const struct weight *w)
{
	float *v;

	*ret = NULL;
	if (!w->data)
		return 0;
	v = mem_aligned(64, align_up(w->n_in * sizeof(*v), 64));
	if (!v)
		return -ENOMEM;
	b->p->vecs[b->p->n_vecs++] = v;
	b->k->dequant[w->type](v, w->data, w->n_in);
	*ret = v;
	return 0;
}

static struct plan_mat mat_of(struct build *b, const struct weight *w)
{
	if (!w->data)
		return (struct plan_mat){ 0 };
	b->p->max_in = MAX(b->p->max_in, (size_t)w->n_in);
	return (struct plan_mat){ .data = w->data, .type = w->type, .packed = w->packed,
		.row_bytes = w->row_bytes, .n_in = w->n_in, .n_out = w->n_out };
}

static bool takes_q16(const struct plan_mat *mat)
{
	return mat->data && qtype_table[mat->type].act == QACT_Q16;
}

static struct plan_op *add_op(struct build *b, enum op_kind kind, uint32_t layer)
{
	struct plan_op *op = &b->p->ops[b->p->n_ops++];

	*op = (struct plan_op){ .kind = kind, .layer = layer };
	return op;
}

/* Ops that a consumer follows know by then whether it takes Q16. */
static struct plan_op *add_linear(struct build *b, uint32_t layer, enum op_input in,
                                  const struct weight *w)
{
	struct plan_op *op = add_op(b, OP_LINEAR, layer);

	op->in = in;
	op->mat[0] = mat_of(b, w);
	op[-1].quantize = takes_q16(&op->mat[0]);
	b->p->bytes += op->mat[0].row_bytes * op->mat[0].n_out;
	return op;
}

static int add_norm(struct build *b, struct plan_op **ret, uint32_t layer, bool residual,
                    const struct weight *post, const struct weight *norm)
{
	struct plan_op *op = add_op(b, OP_NORM, layer);
	int r;

	op->residual = residual;
	r = vec_copy(b, &op->norm_w, norm);
	if (r == 0 && post)
		r = vec_copy(b, &op->post, post);
	*ret = op;
	return r;
}

static int add_qkv(struct build *b, uint32_t il, const struct layer *l, struct plan_op *norm)
{
	static const struct {
		enum slot_layer w, bias;
	} slots[3] = {
		{ SLOT_ATTN_Q, SLOT_ATTN_Q_BIAS },
		{ SLOT_ATTN_K, SLOT_ATTN_K_BIAS },
		{ SLOT_ATTN_V, SLOT_ATTN_V_BIAS },
	};
	struct plan_op *op = add_op(b, OP_QKV, il);
	int r = 0;

	op->windowed = l->windowed;
	for (unsigned i = 0; i < 3 && r == 0; i++) {
		op->mat[i] = mat_of(b, &l->w[slots[i].w]);
		norm->quantize |= takes_q16(&op->mat[i]);
		b->p->bytes += op->mat[i].row_bytes * op->mat[i].n_out;
		r = vec_copy(b, &op->mat[i].bias, &l->w[slots[i].bias]);
	}
	if (r == 0)
		r = vec_copy(b, &op->q_norm, &l->w[SLOT_ATTN_Q_NORM]);
	if (r == 0)
		r = vec_copy(b, &op->k_norm, &l->w[SLOT_ATTN_K_NORM]);
	return r;
}

static int add_layer(struct build *b, uint32_t il)
{
	const struct model *m = b->m;
	const struct layer *l = &m->layers[il];
	const struct weight *post = il > 0 ? &m->layers[il - 1].w[SLOT_FFN_POST_NORM] : NULL;
	struct plan_op *norm, *op;
	int r;

	r = add_norm(b, &norm, il, il > 0, post, &l->w[SLOT_ATTN_NORM]);
	if (r < 0)
		return r;
	norm->layer_start = true;
	r = add_qkv(b, il, l, norm);
	if (r < 0)
		return r;
	if (il + 1 == m->hp.n_layer)
		add_op(b, OP_KEEP, il);
	op = add_op(b, OP_ATTN, il);
	op->windowed = l->windowed;
	op = add_linear(b, il, IN_ATT, &l->w[SLOT_ATTN_OUT]);
	r = vec_copy(b, &op->mat[0].bias, &l->w[SLOT_ATTN_OUT_BIAS]);
	if (r < 0)
		return r;

	r = add_norm(b, &norm, il, true, &l->w[SLOT_ATTN_POST_NORM], &l->w[SLOT_FFN_NORM]);
	if (r < 0)
		return r;
	op = add_op(b, OP_GATED, il);
	op->mat[0] = mat_of(b, &l->w[SLOT_FFN_GATE]);
	op->mat[1] = mat_of(b, &l->w[SLOT_FFN_UP]);
	norm->quantize = takes_q16(&op->mat[0]) || takes_q16(&op->mat[1]);
	b->p->bytes += op->mat[0].row_bytes * op->mat[0].n_out +
	               op->mat[1].row_bytes * op->mat[1].n_out;
	add_linear(b, il, IN_GATE, &l->w[SLOT_FFN_DOWN]);
	return 0;
}

/* Angles a position: rope_scale * base^(-2i / n_rot), by the file's factors. In double, since
 * position times angle is reduced modulo 2 pi: at position 100,000 a float would be off by 1e-2. */
static int add_freqs(struct build *b, double **ret, double base, double scale, const float *factors)
{
	uint32_t n_rot = b->m->hp.n_rot;
	double *f = mem_allocn(n_rot / 2, sizeof(*f));

	if (!f)
		return -ENOMEM;
	for (uint32_t i = 0; i < n_rot / 2; i++)
		f[i] = scale * pow(base, -2.0 * i / n_rot) / (factors ? (double)factors[i] : 1.0);
	*ret = f;
	return 0;
}

/* Where windowed and global layers alternate, the windowed ones turn by their own base, and the
 * file's scaling (made to reach beyond the window) is not theirs. */
static int add_rope(struct build *b)
{
	const struct hparams *hp = &b->m->hp;
	bool mixed = hp->window && hp->window_period;
	double local = hp->rope_base_local > 0 ? (double)hp->rope_base_local
	                                       : (double)hp->rope_base;
	const float *factors;
	int r;

	if (hp->rope == ROPE_NONE || hp->n_rot < 2)
		return 0;
	r = vec_copy(b, &factors, &b->m->w[SLOT_ROPE_FREQS]);
	if (r == 0)
		r = add_freqs(b, &b->p->freq, (double)hp->rope_base, (double)hp->rope_scale,
		              factors);
	if (r == 0 && hp->window)
		r = add_freqs(b, &b->p->freq_local, local, mixed ? 1.0 : (double)hp->rope_scale,
		              mixed ? NULL : factors);
	return r;
}

static int add_all(struct build *b)
{
	const struct model *m = b->m;
	struct plan_op *norm, *op;
	int r;

	b->p->embd = mat_of(b, &m->w[SLOT_TOKEN_EMBD]);
	r = add_rope(b);
	if (r < 0)
		return r;
	add_op(b, OP_EMBED, 0);
	for (uint32_t il = 0; il < m->hp.n_layer; il++) {
		r = add_layer(b, il);
		if (r < 0)
			return r;
	}
	r = add_norm(b, &norm, m->hp.n_layer, true,
	             &m->layers[m->hp.n_layer - 1].w[SLOT_FFN_POST_NORM], &m->w[SLOT_OUTPUT_NORM]);
	if (r < 0)
		return r;
	norm->layer_start = true;
	op = add_op(b, OP_LOGITS, m->hp.n_layer);
	op->mat[0] = mat_of(b, &m->w[SLOT_OUTPUT]);
	norm->quantize = takes_q16(&op->mat[0]);
	b->p->output = &op->mat[0];
	b->p->bytes += model_output_bytes(m);
	return 0;
}

int plan_new(struct plan **ret, const struct model *m, const struct kernels *k, struct err *err)
{
	enum { OPS_LAYER = 8, VECS_LAYER = SLOT_LAYER_COUNT, OPS_EXTRA = 4, VECS_EXTRA = 4 };
	_cleanup_(plan_freep) struct plan *p = mem_alloc(sizeof(*p));
	const struct hparams *hp = &m->hp;
	struct build b = { .m = m, .k = k, .p = p };
	int r;

	if (!p)
		return -ENOMEM;
	if (hp->head_dim % 16 != 0 || hp->head_dim == 0 || hp->head_dim > HEAD_DIM_MAX ||
	    hp->n_head_kv == 0 || hp->n_head % hp->n_head_kv != 0)
		return err_set(
			err, -ENOTSUP,
			"%s: attention with %u heads, %u KV heads of %u elements is not supported "
			"(head size: a multiple of 16 up to %d)",
			m->name, hp->n_head, hp->n_head_kv, hp->head_dim, HEAD_DIM_MAX);
	p->ops = mem_allocn((size_t)hp->n_layer * OPS_LAYER + OPS_EXTRA, sizeof(*p->ops));
	p->vecs = mem_allocn((size_t)hp->n_layer * VECS_LAYER + VECS_EXTRA, sizeof(*p->vecs));
	if (!p->ops || !p->vecs)
		return -ENOMEM;
	r = add_all(&b);
	if (r < 0)
		return r;
	*ret = STEAL(p);
	return 0;
}

struct plan *plan_free(struct plan *p)
{
	if (!p)
		return NULL;
	for (size_t i = 0; i < p->n_vecs; i++)
		mem_free(p->vecs[i]);
	mem_free(p->vecs);
	mem_free(p->freq);
	mem_free(p->freq_local);
	mem_free(p->ops);
	return mem_free(p);
}
