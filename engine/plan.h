/* plan - what a step of one model does, as a list of ops made once from its hyper-parameters and
 * tensors.
 *
 * A row of the batch is a token. Ops read and write the named buffers of struct act (engine/act.h):
 *   H residual stream, X normed input, Q K V heads, ATT attention output, GATE and UP, Y output of
 * a linear op. The plan borrows the weights' mapping from the model and owns float copies of all
 * vectors (norms, biases), since they are small and the kernels want floats. */
#pragma once
#include "base/cleanup.h"
#include "kernels/kernels.h"
#include "model/model.h"

enum op_kind {
	OP_EMBED,       /* H = token embedding * scale; angles of every row's position */
	/* with `residual`: H += post ? norm(Y) * post : Y. Then X = norm(H) * norm_w, and its Q16
	 * form */
	OP_NORM,
	/* Q, K, V = mat[0..2] of X, + bias, norm of heads, rotation; K and V go to the pages */
	OP_QKV,
	/* drop rows whose logits nobody wants: last layer, after its keys and values are stored */
	OP_KEEP,
	OP_ATTN,        /* ATT = attention of Q over the sequence's pages, and its Q16 form */
	OP_LINEAR,      /* Y = mat[0] of `in` + bias */
	OP_GATED,       /* GATE = act(mat[0] of X) * (mat[1] of X), and its Q16 form */
	OP_LOGITS,      /* logits = mat[0] of X, capped */
	OP_COUNT
};
enum op_input { IN_X, IN_ATT, IN_GATE };

struct plan_mat {                       /* n_out rows of n_in; data NULL = absent */
	const uint8_t *data;
	enum qtype type;
	enum pack_form packed;          /* as in struct weight */
	size_t row_bytes, n_in, n_out;
	const float *bias;              /* n_out floats, or NULL */
};
struct plan_op {
	enum op_kind kind;
	uint32_t layer;
	bool layer_start;               /* cancelled slices are dropped before this op */
	/* QKV, ATTN: the layer sees a sliding window and turns by the local angles */
	bool windowed;
	bool residual;                  /* NORM */
	bool quantize;                  /* a consumer of what this op makes takes Q16 */
	enum op_input in;
	struct plan_mat mat[3];
	const float *post, *norm_w;     /* NORM: n_embd floats, NULL = absent */
	const float *q_norm, *k_norm;   /* QKV: head_dim floats, NULL = absent */
};
struct plan {
	struct plan_op *ops;
	size_t n_ops;
	struct plan_mat embd;
	const struct plan_mat *output;  /* of OP_LOGITS */
	/* n_rot / 2 angles a position, of global and windowed layers; NULL: no rotation */
	double *freq, *freq_local;
	float **vecs;                   /* owned copies */
	size_t n_vecs;
	size_t max_in;                  /* largest n_in of any matrix */
	/* weight bytes one full step reads, embedding rows left out; of an output matrix in two
	 * parts the first, which all rows need (op-logits.c) */
	uint64_t bytes;
};
/* The model must outlive the plan. -ENOMEM; -ENOTSUP for a shape the attention kernels cannot
 * do. */
int plan_new(struct plan **ret, const struct model *m, const struct kernels *k, struct err *err);
struct plan *plan_free(struct plan *p);
DEFINE_FREEP(struct plan, plan_free)
