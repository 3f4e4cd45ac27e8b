/* weights - the table of shapes, and the binding of tensors to slots by it.
 *
 * A slot's shape is a formula over the hyper-parameters; a tensor fits exactly or the model is
 * refused, so that no kernel ever gets a row that is shorter than it believes. Tensors that no slot
 * asks for are left alone, except biases: leaving one out would give wrong answers without a
 * word. */
#include "model/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "kernels/pack.h"
#include "model/family.h"

enum dim { D_ONE, D_EMBD, D_VOCAB, D_Q, D_KV, D_HEAD, D_FF, D_ROT_HALF };
struct shape {
	uint8_t in, out;                /* enum dim; out D_ONE: a vector */
};
static const struct shape global_shapes[SLOT_GLOBAL_COUNT] = {
	[SLOT_TOKEN_EMBD] = { D_EMBD, D_VOCAB }, [SLOT_OUTPUT_NORM] = { D_EMBD, D_ONE },
	[SLOT_OUTPUT] = { D_EMBD, D_VOCAB }, [SLOT_ROPE_FREQS] = { D_ROT_HALF, D_ONE },
};
static const struct shape layer_shapes[SLOT_LAYER_COUNT] = {
	[SLOT_ATTN_NORM] = { D_EMBD, D_ONE },   [SLOT_ATTN_POST_NORM] = { D_EMBD, D_ONE },
	[SLOT_ATTN_Q] = { D_EMBD, D_Q },        [SLOT_ATTN_Q_BIAS] = { D_Q, D_ONE },
	[SLOT_ATTN_Q_NORM] = { D_HEAD, D_ONE }, [SLOT_ATTN_K] = { D_EMBD, D_KV },
	[SLOT_ATTN_K_BIAS] = { D_KV, D_ONE },   [SLOT_ATTN_K_NORM] = { D_HEAD, D_ONE },
	[SLOT_ATTN_V] = { D_EMBD, D_KV },       [SLOT_ATTN_V_BIAS] = { D_KV, D_ONE },
	[SLOT_ATTN_OUT] = { D_Q, D_EMBD },      [SLOT_ATTN_OUT_BIAS] = { D_EMBD, D_ONE },
	[SLOT_FFN_NORM] = { D_EMBD, D_ONE },    [SLOT_FFN_POST_NORM] = { D_EMBD, D_ONE },
	[SLOT_FFN_GATE] = { D_EMBD, D_FF },     [SLOT_FFN_UP] = { D_EMBD, D_FF },
	[SLOT_FFN_DOWN] = { D_FF, D_EMBD },
};

struct binding {
	struct model *m;
	bool *used;                     /* by tensor index */
	struct err *err;
};

static uint64_t dim_of(const struct hparams *hp, enum dim d)
{
	switch (d) {
	case D_ONE: return 1;
	case D_EMBD: return hp->n_embd;
	case D_VOCAB: return hp->n_vocab;
	case D_Q: return (uint64_t)hp->n_head * hp->head_dim;
	case D_KV: return (uint64_t)hp->n_head_kv * hp->head_dim;
	case D_HEAD: return hp->head_dim;
	case D_FF: return hp->n_ff;
	case D_ROT_HALF: return hp->n_rot / 2;
	}
	return 0;
}

/* Where a tensor lies in the mapped file; the sizes are checked, none overflows. false: outside of
 * it. */
static bool place(const struct model *m, const struct tensor *t, struct weight *w)
{
	const struct packfile_tensor *p = m->pack ? &m->pack->tensors[t - m->gguf->tensors] : NULL;
	uint64_t offset = p ? p->offset : t->offset, bytes = p ? p->bytes : t->n_bytes;

	if (!qtype_row_bytes(t->type, t->dim[0], &w->row_bytes) ||
	    offset + bytes > weightmap_size(m->map))
		return false;
	w->data = weightmap_data(m->map) + offset;
	w->packed = p ? p->packed : PACK_NONE;
	if (w->packed)
		w->row_bytes = p->group_bytes / PACK_ROWS;
	return true;
}

static int bind(struct binding *b, struct weight *w, const char *name, const struct shape *shape,
                bool optional)
{
	struct model *m = b->m;
	uint64_t n_in = dim_of(&m->hp, shape->in), n_out = dim_of(&m->hp, shape->out);
	const struct tensor *t = gguf_tensor(m->gguf, name);
	const struct qtype_info *info;

	if (!t)
		return optional ? 0 : err_set(b->err, -EBADMSG, "tensor '%s' is missing", name);
	if (t->dim[0] != n_in || t->dim[1] != n_out || t->dim[2] != 1 || t->dim[3] != 1)
		return err_set(b->err, -EBADMSG,
		               "tensor '%s' is of %" PRIu64 " x %" PRIu64 " x %" PRIu64
		               " x %" PRIu64 " elements, %" PRIu64 " x %" PRIu64 " are needed",
		               name, t->dim[0], t->dim[1], t->dim[2], t->dim[3], n_in, n_out);
	info = &qtype_table[t->type];
	if (info->act == QACT_NONE || (n_out == 1 && info->act != QACT_F32))
		return err_set(b->err, -ENOTSUP,
		               "tensor '%s' has type %s, for which no kernel is built%s", name,
		               info->name, info->act == QACT_NONE ? "" : " (vectors are floats)");
	*w = (struct weight){ .type = t->type, .n_in = n_in, .n_out = n_out, .tensor = t };
	if (!place(m, t, w))
		return err_set(b->err, -EBADMSG, "tensor '%s' lies outside the file", name);
	b->used[t - m->gguf->tensors] = true;
	return 0;
}

static int bind_layer(struct binding *b, uint32_t il)
{
	const struct hparams *hp = &b->m->hp;
	struct layer *l = &b->m->layers[il];
	char name[80];
	int r;

	l->windowed = hp->window && (hp->window_period == 0 || (il + 1) % hp->window_period != 0);
	for (const struct slot_row *row = b->m->family->layers; row->name; row++) {
		snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s", il, row->name);
		r = bind(b, &l->w[row->slot], name, &layer_shapes[row->slot], row->optional);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Angles are divided by these: each must be a sensible number. */
static int check_rope_freqs(const struct binding *b)
{
	const struct weight *w = &b->m->w[SLOT_ROPE_FREQS];
	float f;

	if (!w->data)
		return 0;
	if (w->type != QTYPE_F32)
		return err_set(b->err, -ENOTSUP, "tensor '%s' has type %s, F32 is needed",
		               w->tensor->name, qtype_name(w->type));
	for (uint64_t i = 0; i < w->n_in; i++) {
		memcpy(&f, w->data + i * sizeof(f), sizeof(f));
		if (!(f > 0.0f && isfinite(f)))
			return err_set(b->err, -EBADMSG, "tensor '%s': factor %" PRIu64 " is %g",
			               w->tensor->name, i, (double)f);
	}
	return 0;
}
static int check_unused(const struct binding *b)
{
	const struct gguf *g = b->m->gguf;

	for (size_t i = 0; i < g->n_tensors; i++) {
		const char *name = g->tensors[i].name, *dot = strrchr(name, '.');
		char shown[80];

		if (b->used[i])
			continue;
		str_escape(shown, sizeof(shown), name, strlen(name));
		if (dot && strcmp(dot, ".bias") == 0)
			return err_set(b->err, -ENOTSUP,
			               "tensor '%s': %s models with this bias are not supported",
			               shown, b->m->architecture);
		log_msg(LOG_L_DEBUG, "tensor '%s' is not used by architecture %s", shown,
		        b->m->architecture);
	}
	return 0;
}

uint64_t model_output_bytes(const struct model *m)
{
	const struct weight *w = &m->w[SLOT_OUTPUT];

	return model_screens(m) ? DIV_UP(w->n_out, PACK_ROWS) * pack_high_bytes(w->n_in)
	                        : w->row_bytes * w->n_out;
}

static void sum_up(struct model *m)
{
	const struct weight *embd = &m->w[SLOT_TOKEN_EMBD];
	/* of the embedding: one row; the output matrix counts below */
	uint64_t read = embd->row_bytes + model_output_bytes(m);

	for (size_t i = 0; i < m->gguf->n_tensors; i++) {
		m->n_params += m->gguf->tensors[i].n_elems;
		m->n_bytes += m->gguf->tensors[i].n_bytes;
	}
	for (unsigned s = 0; s < SLOT_GLOBAL_COUNT; s++)
		if (s != SLOT_TOKEN_EMBD && s != SLOT_OUTPUT)
			read += m->w[s].row_bytes * m->w[s].n_out;
	for (uint32_t il = 0; il < m->hp.n_layer; il++)
		for (unsigned s = 0; s < SLOT_LAYER_COUNT; s++)
			read += m->layers[il].w[s].row_bytes * m->layers[il].w[s].n_out;
	m->bytes_per_token = read;
}

int weights_bind(struct model *m, struct err *err)
{
	_cleanup_mem_ bool *used = mem_allocn(MAX(m->gguf->n_tensors, 1u), sizeof(*used));
	struct binding b = { .m = m, .used = used, .err = err };
	int r;

	m->layers = mem_allocn(m->hp.n_layer, sizeof(*m->layers));
	if (!used || !m->layers)
		return err_set(err, -ENOMEM, "not enough memory for %" PRIu32 " layers",
		               m->hp.n_layer);
	for (const struct slot_row *row = m->family->globals; row->name; row++) {
		r = bind(&b, &m->w[row->slot], row->name, &global_shapes[row->slot], row->optional);
		if (r < 0)
			return r;
	}
	if (!m->w[SLOT_OUTPUT].data)
		m->w[SLOT_OUTPUT] = m->w[SLOT_TOKEN_EMBD];
	for (uint32_t il = 0; il < m->hp.n_layer; il++) {
		r = bind_layer(&b, il);
		if (r < 0)
			return r;
	}
	r = check_rope_freqs(&b);
	if (r == 0)
		r = check_unused(&b);
	if (r < 0)
		return r;
	sum_up(m);
	return 0;
}
