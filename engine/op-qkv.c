/* op-qkv - queries, keys and values of one layer in a single phase, a chunk a head.
 *
 * A chunk owns whole heads, so bias, head norm, rotation and the store into the pages follow in it
 * while the rows are in cache: no phase of their own. KV heads come first, having two matrices'
 * rows.
 * With KV4 rows go to 8-bit tiles: of the sequence for its last two pages, which the next steps add
 * to or take back, else of the step. A page that is full gets its closed form from there at once.
 * Invariant: a chunk of KV head g writes the pages of head g only; two chunks never share a
 * page. */
#include "engine/ops.h"

static void rotate(const struct exec *x, const struct plan_op *op, float *v, size_t row)
{
	const struct hparams *hp = &x->m->hp;
	const float *cs = (op->windowed ? x->act.cs_local : x->act.cs) + row * x->act.n_rot;

	if (!x->plan->freq)
		return;
	if (hp->rope == ROPE_NEOX)
		x->k->rope_neox(v, 1, hp->head_dim, hp->n_rot, cs);
	else
		x->k->rope_norm(v, 1, hp->head_dim, hp->n_rot, cs);
}

static void finish_head(const struct exec *x, const struct plan_op *op, const float *bias,
                        const float *norm, float *v, size_t row)
{
	const struct hparams *hp = &x->m->hp;

	if (bias)
		x->k->add(v, bias, hp->head_dim);
	if (norm)
		x->k->rms_norm(v, v, norm, hp->head_dim, hp->norm_eps);
	rotate(x, op, v, row);
}

static void query_head(struct exec *x, const struct plan_op *op, uint32_t head, uint32_t thread)
{
	const struct hparams *hp = &x->m->hp;
	const struct plan_mat *mat = &op->mat[0];
	size_t hd = hp->head_dim, group = hp->n_head / hp->n_head_kv, r0 = head * hd;
	float *q = x->act.q + ((head / group) * x->max_rows * group + head % group) * hd;

	op_matmul(x, mat, r0, r0 + hd, x->act.x, x->act.n_embd, q, group * hd, thread);
	for (size_t row = 0; row < x->batch.n_rows && !x->reading; row++)
		finish_head(x, op, mat->bias ? mat->bias + r0 : NULL, op->q_norm,
		            q + row * group * hd, row);
}

void *op_open_tile(const struct exec *x, const struct batch_slice *s, uint32_t page, uint32_t layer,
                   uint32_t head)
{
	if (page + 1 >= s->page1)
		return kv_seq_open(s->s->kv, page, layer, head);
	return x->act.stage +
	       ((size_t)(s->stage + page - s->page0) * x->m->hp.n_head_kv + head) *
	               x->act.stage_tile;
}

/* The page that the slice goes on with is the sequence's: to the step's, where it has to leave. */
static void open_first(const struct exec *x, const struct batch_slice *s, uint32_t layer,
                       uint32_t head)
{
	void *from = kv_seq_open(s->s->kv, s->page0, layer, head);
	void *to = op_open_tile(x, s, s->page0, layer, head);

	if (to != from && s->s->pos0 % KV_PAGE != 0)
		memcpy(to, from, x->act.stage_tile);
}

static void store_row(const struct exec *x, const struct batch_slice *s, uint32_t pos,
                      uint32_t layer, uint32_t head, const float *k, const float *v)
{
	const struct kv_seq *kv = s->s->kv;
	uint32_t page = pos / KV_PAGE, at = pos % KV_PAGE;
	size_t hd = x->m->hp.head_dim;
	void *kp = kv_seq_k(kv, page, layer, head), *vp = kv_seq_v(kv, page, layer, head);
	char *tile;

	if (kv_seq_type(kv) != KV_KV4) {
		x->k->kv_store[kv_seq_type(kv)](kp, vp, at, hd, k, v);
		return;
	}
	tile = op_open_tile(x, s, page, layer, head);
	x->k->kv_store[KV_KV8](tile, tile + kv_k_bytes(KV_KV8, hd), at, hd, k, v);
	if (at == KV_PAGE - 1)
		x->k->kv_close(kp, vp, tile, tile + kv_k_bytes(KV_KV8, hd), hd);
}

static void store_slice(struct exec *x, const struct plan_op *op, const struct batch_slice *s,
                        uint32_t head)
{
	const struct plan_mat *km = &op->mat[1], *vm = &op->mat[2];
	size_t hd = x->m->hp.head_dim;
	const float *k_bias = km->bias ? km->bias + head * hd : NULL;
	const float *v_bias = vm->bias ? vm->bias + head * hd : NULL;

	if (kv_seq_type(s->s->kv) == KV_KV4)
		open_first(x, s, op->layer, head);
	for (uint32_t i = 0; i < s->n; i++) {
		size_t row = s->row0 + i;
		float *k = x->act.k + row * x->act.n_kv + head * hd;
		float *v = x->act.v + row * x->act.n_kv + head * hd;

		finish_head(x, op, k_bias, op->k_norm, k, row);
		if (v_bias)
			x->k->add(v, v_bias, hd);
		op_turn(x, v);
		store_row(x, s, s->pos0 + i, op->layer, head, k, v);
	}
}

static void kv_head(struct exec *x, const struct plan_op *op, uint32_t head, uint32_t thread)
{
	const struct act *a = &x->act;
	size_t hd = x->m->hp.head_dim, r0 = head * hd;

	op_matmul(x, &op->mat[1], r0, r0 + hd, a->x, a->n_embd, a->k + r0, a->n_kv, thread);
	op_matmul(x, &op->mat[2], r0, r0 + hd, a->x, a->n_embd, a->v + r0, a->n_kv, thread);
	for (uint32_t i = 0; i < x->batch.n_slices && !x->reading; i++)
		store_slice(x, op, &x->batch.slices[i], head);
}

static void qkv_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	uint32_t n_kv = arg->x->m->hp.n_head_kv;

	if (i < n_kv)
		kv_head(arg->x, arg->op, i, thread);
	else
		query_head(arg->x, arg->op, i - n_kv, thread);
}

void op_qkv(struct exec *x, const struct plan_op *op)
{
	op_phase(x, op, qkv_chunk, x->m->hp.n_head_kv + x->m->hp.n_head);
}
