/* model - a loaded model: hyper-parameters, tensors bound to slots, vocabulary, template. Read-only
 * after load, refcounted, used from any thread; a request holds a reference for as long as it
 * touches anything here. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "base/err.h"
#include "format/packfile.h"
#include "format/weightmap.h"
#include "kernels/kvtype.h"
#include "kernels/qtype.h"
#include "model/slots.h"
#include "text/chat.h"
#include "text/tok.h"

/* What a layer is made of, as features; plan.c reads these, nobody switches on a family's name. */
enum norm_kind { NORM_RMS };
enum ffn_kind { FFN_SILU_GATED, FFN_GELU_GATED };
enum rope_kind { ROPE_NONE, ROPE_NORM, ROPE_NEOX };

struct hparams {
	uint32_t n_vocab, n_ctx_train, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff;
	float norm_eps;
	enum norm_kind norm;
	enum ffn_kind ffn;
	enum rope_kind rope;
	uint32_t n_rot;
	float rope_base, rope_base_local;       /* local: layers with a sliding window */
	/* positions are multiplied by this (1 = none; linear scaling: 1/factor); not in windowed
	 * layers of a model that has global ones, too */
	float rope_scale;
	/* 0 = none; a windowed layer sees the last `window` positions, own included */
	uint32_t window;
	/* layer il is global when (il + 1) % period == 0; 0 = all layers windowed if window */
	uint32_t window_period;
	/* token embeddings are multiplied by this (gemma: sqrt(n_embd)); 1 = none */
	float embd_scale;
	/* 1/sqrt(head_dim) unless the file says otherwise */
	float attn_scale;
	float attn_softcap, final_softcap;      /* 0 = none */
};

/* data NULL = absent (optional slot); 1-D ones are F32, F16 or BF16 */
struct weight {
	const uint8_t *data;                    /* row 0 in the mapping */
	enum qtype type;
	/* not PACK_NONE: data is groups of 16 rows (kernels/pack.h), 64-byte aligned, and row_bytes
	 * is a 16th of a group, so that row r's unit begins at data + r * row_bytes where r is a
	 * multiple of its rows; matrices only */
	enum pack_form packed;
	uint64_t n_in, n_out, row_bytes;        /* n_out rows of n_in; 1-D: n_out = 1 */
	const struct tensor *tensor;
};
struct layer {
	struct weight w[SLOT_LAYER_COUNT];
	bool windowed;
};
struct model {
	char *architecture, *name;              /* name: general.name or "" */
	const struct family *family;
	struct hparams hp;
	/* SLOT_OUTPUT is bound to the embedding when tied */
	struct weight w[SLOT_GLOBAL_COUNT];
	struct layer *layers;                   /* hp.n_layer */
	uint64_t n_params, n_bytes;             /* of all tensors */
	/* weight bytes one decoded token reads, at the least: of an output matrix that can be
	 * screened its first part */
	uint64_t bytes_per_token;
	struct tok *tok;
	struct jinja *jinja;                    /* NULL: no template in the file */
	/* why the template could not be compiled, or NULL */
	char *jinja_error;
	/* its tensors; the metadata is dropped once loaded */
	struct gguf *gguf;
	struct packfile *pack;                  /* where tensors lie; NULL: as in the GGUF */
	struct weightmap *map;
	unsigned refs;                          /* atomic, use model_ref/unref */
};
/* Can logits be left out where only the largest are wanted (engine/op-logits.c)? The matrix lies in
 * two parts then. A soft-cap could make ties of logits that differ. */
static inline bool model_screens(const struct model *m)
{
	return m->w[SLOT_OUTPUT].packed == PACK_SPLIT && m->hp.final_softcap == 0;
}
/* Bytes of the output matrix that every decoded token reads. */
uint64_t model_output_bytes(const struct model *m);
/* Load a GGUF or a packed file from an fd (not consumed). Every check of shapes and ranges happens
 * here. -EBADMSG, -ENOTSUP
 * (architecture or tensor type without kernel: names it), -ENOMEM. Does not read the weights'
 * pages. */
int model_load(struct model **ret, int fd, const char *name, struct err *err);
struct model *model_ref(struct model *m);
struct model *model_unref(struct model *m);
DEFINE_FREEP(struct model, model_unref)
/* The file was cut or written to under the mapping: drop what was computed since the last look. */
static inline bool model_poisoned(const struct model *m)
{
	return weightmap_poisoned(m->map);
}
/* The look itself, one fstat: after every step. */
static inline bool model_recheck(const struct model *m)
{
	return weightmap_recheck(m->map);
}

/* Bytes that serving needs beside the mapping. Per-thread scratch of the engine is not in it. */
struct footprint {
	uint64_t weights;                       /* mapped, shared */
	/* bytes a position over all layers; those with a window keep only so many (engine/kv.h) */
	uint64_t kv_per_token;
	/* bytes of one page over all layers and KV heads */
	uint64_t kv_page;
	/* for max_rows rows a step and max_logits logits rows */
	uint64_t activations;
};
void model_footprint(const struct hparams *hp, uint64_t weights, uint32_t max_rows,
                     uint32_t max_logits, enum kv_type kv_type, struct footprint *ret);
/* From a header alone (no load): for `estimate` and `show`. */
int model_hparams(struct hparams *ret, const struct gguf *g, struct err *err);
/* NaN/Inf in scales and floats, over all tensors; slow (reads the file). First fault: tensor name
 * and row in err. -EBADMSG. */
/* of tensor i of m->gguf only */
int model_verify_tensor(const struct model *m, size_t i, const atomic_bool *cancel,
                        struct err *err);
int model_verify(const struct model *m, const atomic_bool *cancel, struct err *err);
