/* ops - the functions behind a plan's ops, and the executor's state that they share. Engine thread
 * only, but for the chunk functions, which the pool calls: these write only what their chunk
 * owns. */
#pragma once
#include "engine/act.h"
#include "engine/batch.h"
#include "engine/exec.h"
#include "engine/plan.h"

struct exec {
	struct model *m;                /* a reference */
	const struct kernels *k;
	struct pool *pool;
	uint32_t threads, max_rows, max_logits;
	struct plan *plan;
	struct act act;
	struct batch batch;
	struct q16 q16;                 /* input of the op at hand, bound to act.q16_mem */
	bool reading;                   /* exec_read_step: weights are read, nothing is computed */
};
struct op_arg {                         /* of one phase */
	struct exec *x;
	const struct plan_op *op;
	uint32_t n_chunks;
};
typedef void (*op_fn)(struct exec *x, const struct plan_op *op);
void op_embed(struct exec *x, const struct plan_op *op);
void op_norm(struct exec *x, const struct plan_op *op);
void op_qkv(struct exec *x, const struct plan_op *op);
void op_keep(struct exec *x, const struct plan_op *op);
void op_attn(struct exec *x, const struct plan_op *op);
void op_linear(struct exec *x, const struct plan_op *op);
void op_gated(struct exec *x, const struct plan_op *op);
void op_logits(struct exec *x, const struct plan_op *op);

/* One phase: chunks [0, n) of fn, in place when there is only one. */
void op_phase(struct exec *x, const struct plan_op *op, pool_fn fn, uint32_t n_chunks);
/* Rows [r0, r1) of the batch. */
typedef void (*op_rows_fn)(struct exec *x, const struct plan_op *op, uint32_t r0, uint32_t r1);
/* Run fn over all rows: in place when that is less work than waking the pool, else in chunks.
 * width: floats a row. */
void op_rows(struct exec *x, const struct plan_op *op, op_rows_fn fn, size_t width);
/* y[t * ldy + r - r0] = rows [r0, r1) of mat times the batch's input: x->q16 or the rows of `in`
 * (ld floats apart), as the matrix' type wants. r0 is a multiple of 16 where mat is packed. */
void op_matmul(struct exec *x, const struct plan_mat *mat, size_t r0, size_t r1, const float *in,
               size_t ld, float *y, size_t ldy, uint32_t thread);
/* Chunks to cut n_out rows of a matrix of so many bytes into, each a multiple of `group` rows; and
 * the rows of chunk i of n. */
uint32_t op_chunk_count(const struct exec *x, size_t n_out, size_t group, size_t bytes);
void op_chunk_rows(size_t n_out, size_t group, uint32_t i, uint32_t n, size_t *r0, size_t *r1);
/* KV4: the KV8 tile of a page that slice s writes, between OP_QKV and OP_ATTN of one layer. */
void *op_open_tile(const struct exec *x, const struct batch_slice *s, uint32_t page, uint32_t layer,
                   uint32_t head);
/* What a page of 4 bits holds of a value is the head times an orthogonal matrix, its own inverse,
 * which spreads outliers of single dimensions over all that share a factor: values are turned
 * before they are stored, what attention makes of them is turned back. Nothing with other pages.
 * Keys have a factor for each dimension, and are not better for it. */
static inline void op_turn(const struct exec *x, float *head)
{
	if (x->batch.turned)
		x->k->hadamard(head, x->m->hp.head_dim);
}
/* x->q16 from row `row` on. */
struct q16 op_q16_from(const struct exec *x, size_t row);
/* Rows [r0, r1) of src (ld floats apart) to the forms in which they enter products, as their paths
 * want: x->q16 where a consumer takes that, the tiles of panel products. */
void op_quantize(struct exec *x, const struct plan_op *op, const float *src, size_t ld,
                 uint32_t r0, uint32_t r1);
bool op_quantizes(const struct exec *x, const struct plan_op *op);      /* is there any to make? */
/* Bind x->q16 for the batch's rows of k elements. */
void op_bind(struct exec *x, size_t k);
/* Move row src of what lives across ops to row dst: batch_move_fn of arg = exec. */
void op_move_row(void *arg, uint32_t dst, uint32_t src);
