/* exec - walks the plan. The engine thread runs the ops in order; each op is a phase of the pool,
 * work done in place, or both (engine/ops.h).
 *
 * Invariants:
 * 1. What a row gets is a function of its own sequence's tokens: matrix kernels treat tokens alike
 *    for any batch and row range, row work is by row, attention is fixed by position (batch.h). So
 *    batches, chunks of a prompt, cancelled neighbours and threads change no bit.
 * 2. Nothing is allocated after exec_new. */
#include "engine/exec.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/ops.h"

enum {
	/* queries that meet a page together: their state stays in L2 */
	ATTN_QUERIES = 64,
	ATTN_BLOCK_MAX = 32,            /* tokens */
	ATTN_PARTS = 512,
};

static const op_fn ops[OP_COUNT] = {
	[OP_EMBED] = op_embed,
	[OP_NORM] = op_norm,
	[OP_QKV] = op_qkv,
	[OP_KEEP] = op_keep,
	[OP_ATTN] = op_attn,
	[OP_LINEAR] = op_linear,
	[OP_GATED] = op_gated,
	[OP_LOGITS] = op_logits,
};

int exec_new(struct exec **ret, struct model *m, const struct kernels *k, struct pool *pool,
             uint32_t max_rows, uint32_t max_logits, struct err *err)
{
	_cleanup_(exec_freep) struct exec *x = NULL;
	const struct hparams *hp = &m->hp;
	const struct plan_mat *out;
	struct act_shape shape;
	int r;

	if (max_rows == 0)
		return err_set(err, -EINVAL, "an executor needs room for one row at least");
	x = mem_alloc(sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->m = model_ref(m);
	x->k = k;
	x->pool = pool;
	x->threads = pool_threads(pool);
	x->max_rows = max_rows;
	x->max_logits = max_logits;
	r = plan_new(&x->plan, m, k, err);
	if (r < 0)
		return r;
	out = x->plan->output;
	shape = (struct act_shape){
		.max_rows = max_rows,
		.max_logits = max_logits,
		.threads = x->threads,
		.block = CLAMP(ATTN_QUERIES / (hp->n_head / hp->n_head_kv), 1u,
		               (uint32_t)ATTN_BLOCK_MAX),
		/* One token over the whole context can be split; 64 over 2,000 positions. */
		.max_parts = MAX(hp->n_ctx_train / SEG_POSITIONS + 1, (uint32_t)ATTN_PARTS),
		.max_in = x->plan->max_in,
		.panels = k->panel_in != NULL,
		.split_in = out->packed == PACK_SPLIT ? out->n_in : 0,
		.split_group = PACK_ROWS * out->row_bytes,
	};
	r = batch_init(&x->batch, max_rows, shape.max_parts, hp->window, shape.block);
	if (r < 0)
		return r;
	x->batch.panels = shape.panels;
	r = act_init(&x->act, hp, &shape);
	if (r < 0)
		return r;
	if (model_poisoned(m))
		return err_set(err, -EIO, "%s: the model's file was cut while in use", m->name);
	*ret = STEAL(x);
	return 0;
}

struct exec *exec_free(struct exec *x)
{
	if (!x)
		return NULL;
	act_deinit(&x->act);
	batch_deinit(&x->batch);
	plan_free(x->plan);
	model_unref(x->m);
	return mem_free(x);
}

static int check_step(const struct exec *x, const struct exec_slice *slices, size_t n_slices,
                      struct err *err)
{
	uint64_t rows = 0, logits = 0;

	for (size_t i = 0; i < n_slices; i++) {
		rows += slices[i].n;
		logits += slices[i].n_logits;
		if (slices[i].n_logits > slices[i].n)
			return err_set(err, -EINVAL, "a slice of %u tokens wants %u rows of logits",
			               slices[i].n, slices[i].n_logits);
	}
	if (rows == 0 || rows > x->max_rows || logits > x->max_logits)
		return err_set(err, -EINVAL,
		               "a step of %llu rows and %llu rows of logits; room is for %u and %u",
		               (unsigned long long)rows, (unsigned long long)logits, x->max_rows,
		               x->max_logits);
	for (size_t i = 1; i < n_slices; i++)
		if (kv_seq_type(slices[i].kv) != kv_seq_type(slices[0].kv))
			return err_set(err, -EINVAL, "a step over pages of two types");
	return 0;
}

static bool all_cancelled(const struct exec_slice *slices, size_t n_slices)
{
	for (size_t i = 0; i < n_slices; i++)
		if (!slices[i].cancelled && slices[i].n > 0)
			return false;
	return true;
}

int exec_step(struct exec *x, struct exec_slice *slices, size_t n_slices, struct err *err)
{
	struct batch *b = &x->batch;
	int r = check_step(x, slices, n_slices, err);

	if (r < 0)
		return r;
	batch_begin(b, slices, n_slices);
	for (size_t i = 0; i < x->plan->n_ops && b->n_rows > 0; i++) {
		const struct plan_op *op = &x->plan->ops[i];

		if (op->layer_start)
			batch_drop_cancelled(b, op_move_row, x);
		if (b->n_rows > 0)
			ops[op->kind](x, op);
	}
	if (model_recheck(x->m))
		return err_set(err, -EIO, "%s: the model's file was cut or written to while in use",
		               x->m->name);
	if (all_cancelled(slices, n_slices))
		return -ECANCELED;
	return 0;
}

void exec_row(const struct exec *x, uint32_t i, struct logits_row *ret)
{
	const struct act *a = &x->act;
	size_t at = (size_t)i * a->n_blocks;
	const struct batch_slice *s = x->batch.slices, *last = s + x->batch.n_slices - 1;
	bool lse;

	while (s < last && i >= s->row0 + s->n)
		s++;
	lse = s->s->lse;
	*ret = (struct logits_row){ .x = a->logits + (size_t)i * a->n_vocab,
		                    .max = a->block_max + at,
		                    .lse = lse ? a->block_lse + at : NULL };
}

uint64_t exec_read_step(struct exec *x)
{
	const int32_t token = 0;
	struct exec_slice slice = { .tokens = &token, .n = 1, .n_logits = 1,
		                    .top = 1 };

	/* A decode step of one row at position 0, without its arithmetic. */
	x->reading = true;
	batch_begin(&x->batch, &slice, 1);
	for (size_t i = 0; i < x->plan->n_ops; i++)
		ops[x->plan->ops[i].kind](x, &x->plan->ops[i]);
	x->reading = false;
	return x->plan->bytes;
}

uint64_t exec_bytes(const struct exec *x)
{
	return sizeof(*x) + x->act.bytes + batch_bytes(&x->batch);
}
