/* hparams - the one place where a model's numbers are read from metadata and judged.
 *
 * Invariants, which everything above builds on without asking again:
 *  1. Every field is inside its range below, so no product of a few of them overflows 64 bits.
 *  2. n_head is a multiple of n_head_kv; head_dim and n_rot are even, n_rot <= head_dim.
 *  3. Every float is finite.
 *  4. A number that the file does not have is computed or defaulted as the reference
 *     implementations do; one that is there but makes no sense is an error, never replaced. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/num.h"
#include "model/family.h"

enum {
	CTX_MAX = 1 << 24,
	VOCAB_MAX = 1 << 24,
	EMBD_MAX = 1 << 20,
	LAYERS_MAX = 1024,
	HEADS_MAX = 4096,
	HEAD_DIM_MAX = 1024,
	FF_MAX = 1 << 22,
	PERIOD_MAX = LAYERS_MAX,
};

struct reading {
	const struct gguf *g;
	const struct family *family;
	struct hparams *hp;
	struct err *err;
	char key[128];                  /* the one read last, with its prefix */
};

static const char *key(struct reading *r, const char *suffix)
{
	snprintf(r->key, sizeof(r->key), "%s.%s", r->family->name, suffix);
	return r->key;
}
static int missing(const struct reading *r)
{
	return err_set(r->err, -EBADMSG, "key '%s' is missing", r->key);
}
static int judge_u32(const struct reading *r, uint32_t v, uint32_t min, uint32_t max)
{
	if (v < min || v > max)
		return err_set(r->err, -EBADMSG,
		               "key '%s' is %" PRIu32 ", %" PRIu32 " to %" PRIu32 " is possible",
		               r->key, v, min, max);
	return 0;
}
/* 0, GGUF_E_ABSENT (then *ret keeps its default) or an error. */
static int may_u32(struct reading *r, const char *suffix, uint32_t min, uint32_t max, uint32_t *ret)
{
	uint32_t v;
	int e = gguf_get_u32(r->g, key(r, suffix), &v, r->err);

	if (e == 0)
		e = judge_u32(r, v, min, max);
	if (e == 0)
		*ret = v;
	return e;
}
static int need_u32(struct reading *r, const char *suffix, uint32_t min, uint32_t max,
                    uint32_t *ret)
{
	int e = may_u32(r, suffix, min, max, ret);

	return e == GGUF_E_ABSENT ? missing(r) : e;
}
static int may_f32(struct reading *r, const char *suffix, float min, float max, float *ret)
{
	float v;
	int e = gguf_get_f32(r->g, key(r, suffix), &v, r->err);

	if (e == 0 && !(v >= min && v <= max))          /* NaN fails, too */
		return err_set(r->err, -EBADMSG, "key '%s' is %g, %g to %g is possible", r->key,
		               (double)v, (double)min, (double)max);
	if (e == 0)
		*ret = v;
	return e;
}

/* A count that may stand once or for every layer; layers that differ are another kind of model. */
static int layered_u32(struct reading *r, const char *suffix, uint32_t max, uint32_t *ret)
{
	const struct gguf_value *v = gguf_find(r->g, key(r, suffix));
	const uint32_t *item;

	if (!v || !v->array)
		return may_u32(r, suffix, 1, max, ret);
	if (v->kind != GGUF_U32 && v->kind != GGUF_I32)
		return err_set(r->err, -EBADMSG, "key '%s' is an array of %s, integers are needed",
		               r->key, gguf_kind_name(v->kind));
	if (v->n < r->hp->n_layer)
		return err_set(r->err, -EBADMSG,
		               "key '%s' has %" PRIu64 " values for %" PRIu32 " layers", r->key,
		               v->n, r->hp->n_layer);
	item = v->data;
	for (uint32_t i = 0; i < r->hp->n_layer; i++)
		if (item[i] != item[0])
			return err_set(r->err, -ENOTSUP,
			               "key '%s' differs between layers (%" PRIu32
			               " in layer 0, %" PRIu32 " in layer %" PRIu32
			               "), which is not supported",
			               r->key, item[0], item[i], i);
	*ret = item[0];
	return judge_u32(r, item[0], 1, max);
}

static int read_sizes(struct reading *r)
{
	struct hparams *hp = r->hp;
	const void *tokens;
	uint64_t n_tokens = 0;
	int e;

	if ((e = need_u32(r, "context_length", 1, CTX_MAX, &hp->n_ctx_train)) != 0 ||
	    (e = need_u32(r, "embedding_length", 1, EMBD_MAX, &hp->n_embd)) != 0 ||
	    (e = need_u32(r, "block_count", 1, LAYERS_MAX, &hp->n_layer)) != 0)
		return e;
	e = layered_u32(r, "feed_forward_length", FF_MAX, &hp->n_ff);
	if (e != 0)
		return e == GGUF_E_ABSENT ? missing(r) : e;
	e = gguf_get_arr(r->g, "tokenizer.ggml.tokens", GGUF_STR, &tokens, &n_tokens, r->err);
	if (e == GGUF_E_ABSENT)
		return err_set(
			r->err, -EBADMSG,
			"key 'tokenizer.ggml.tokens' is missing: the file has no vocabulary");
	if (e == 0 && (n_tokens < 1 || n_tokens > VOCAB_MAX))
		return err_set(r->err, -EBADMSG,
		               "the vocabulary has %" PRIu64 " tokens, 1 to %d are possible",
		               n_tokens, VOCAB_MAX);
	hp->n_vocab = (uint32_t)n_tokens;
	return e;
}

static int read_heads(struct reading *r)
{
	struct hparams *hp = r->hp;
	uint32_t value_length;
	int e = layered_u32(r, "attention.head_count", HEADS_MAX, &hp->n_head);

	if (e != 0)
		return e == GGUF_E_ABSENT ? missing(r) : e;
	hp->n_head_kv = hp->n_head;
	e = layered_u32(r, "attention.head_count_kv", HEADS_MAX, &hp->n_head_kv);
	if (e < 0)
		return e;
	if (hp->n_head % hp->n_head_kv != 0)
		return err_set(r->err, -EBADMSG,
		               "%" PRIu32 " attention heads are no multiple of %" PRIu32
		               " key and value heads",
		               hp->n_head, hp->n_head_kv);
	e = may_u32(r, "attention.key_length", 2, HEAD_DIM_MAX, &hp->head_dim);
	if (e == GGUF_E_ABSENT) {
		if (hp->n_embd % hp->n_head != 0 || hp->n_embd / hp->n_head > HEAD_DIM_MAX)
			return err_set(r->err, -EBADMSG,
			               "an embedding of %" PRIu32
			               " cannot be divided among %" PRIu32
			               " heads, and key '%s' is missing",
			               hp->n_embd, hp->n_head, r->key);
		hp->head_dim = hp->n_embd / hp->n_head;
		e = 0;
	}
	if (e < 0)
		return e;
	if (hp->head_dim < 2 || hp->head_dim % 2 != 0)
		return err_set(r->err, -EBADMSG,
		               "attention heads of %" PRIu32 " elements: an even number is needed",
		               hp->head_dim);
	value_length = hp->head_dim;
	e = may_u32(r, "attention.value_length", 1, HEAD_DIM_MAX, &value_length);
	if (e < 0)
		return e;
	if (value_length != hp->head_dim)
		return err_set(r->err, -ENOTSUP,
		               "values of %" PRIu32 " elements a head beside keys of %" PRIu32
		               " are not supported",
		               value_length, hp->head_dim);
	return 0;
}

static int read_rope_scaling(struct reading *r)
{
	struct bytes type = { "linear", 6 };
	float factor = 1.0f;
	char shown[48];
	int e = gguf_get_str(r->g, key(r, "rope.scaling.type"), &type, r->err);

	if (e < 0)
		return e;
	if (type.n == 4 && memcmp(type.p, "none", 4) == 0)
		return 0;
	if (type.n != 6 || memcmp(type.p, "linear", 6) != 0)
		return err_set(
			r->err, -ENOTSUP,
			"position scaling of type '%s' is not supported, only 'linear' and factors"
			" in the file are",
			str_escape(shown, sizeof(shown), type.p, type.n));
	/* Files from before the typed keys say rope.scale_linear. A factor of 0 means none, as
	 * llama.cpp reads it. */
	e = may_f32(r, "rope.scaling.factor", 0.0f, 1e6f, &factor);
	if (e == GGUF_E_ABSENT)
		e = may_f32(r, "rope.scale_linear", 0.0f, 1e6f, &factor);
	if (e < 0)
		return e;
	if (factor != 0.0f && factor < 1e-3f)
		return err_set(r->err, -EBADMSG,
		               "key '%s' is %g, which scales positions beyond sense", r->key,
		               (double)factor);
	r->hp->rope_scale = factor != 0.0f ? 1.0f / factor : 1.0f;
	return 0;
}
static int read_rope(struct reading *r)
{
	struct hparams *hp = r->hp;
	int e;

	hp->n_rot = hp->head_dim;
	e = may_u32(r, "rope.dimension_count", 2, hp->head_dim, &hp->n_rot);
	if (e < 0)
		return e;
	if (hp->n_rot % 2 != 0)
		return err_set(r->err, -EBADMSG,
		               "key '%s' is %" PRIu32 ", an even number is needed", r->key,
		               hp->n_rot);
	hp->rope_base = 10000.0f;
	e = may_f32(r, "rope.freq_base", 1.0f, 1e12f, &hp->rope_base);
	if (e < 0)
		return e;
	hp->rope_scale = 1.0f;
	e = read_rope_scaling(r);
	if (e < 0)
		return e;
	hp->rope_base_local = r->family->rope_base_local > 0 ? r->family->rope_base_local
	                                                     : hp->rope_base;
	e = r->family->window ? may_f32(r, "rope.freq_base_swa", 1.0f, 1e12f, &hp->rope_base_local)
	                      : 0;
	return e < 0 ? e : 0;
}

/* The pattern as one flag a layer (true: windowed), which some files have instead of a period. */
static int period_of_flags(struct reading *r, const struct gguf_value *v)
{
	const uint8_t *windowed = v->data;

	if (v->kind != GGUF_BOOL || v->n < r->hp->n_layer)
		return err_set(r->err, -EBADMSG,
		               "key '%s' is an array of %" PRIu64 " %s, a flag for each of %" PRIu32
		               " layers is needed",
		               r->key, v->n, gguf_kind_name(v->kind), r->hp->n_layer);
	for (uint32_t period = 1; period <= r->hp->n_layer + 1; period++) {
		uint32_t il = 0;

		while (il < r->hp->n_layer && windowed[il] == ((il + 1) % period != 0))
			il++;
		if (il == r->hp->n_layer) {
			r->hp->window_period = period;
			return 0;
		}
	}
	return err_set(
		r->err, -ENOTSUP,
		"key '%s': windowed and global layers do not alternate regularly, which is not"
		" supported",
		r->key);
}
static int read_window(struct reading *r)
{
	const struct gguf_value *v;
	int e;

	if (!r->family->window)
		return 0;
	e = need_u32(r, "attention.sliding_window", 0, CTX_MAX, &r->hp->window);
	if (e < 0)
		return e;
	r->hp->window_period = r->family->window_period;
	v = gguf_find(r->g, key(r, "attention.sliding_window_pattern"));
	if (v && v->array)
		return period_of_flags(r, v);
	e = may_u32(r, "attention.sliding_window_pattern", 0, PERIOD_MAX, &r->hp->window_period);
	return e < 0 ? e : 0;
}

static int read_scales(struct reading *r)
{
	struct hparams *hp = r->hp;
	bool by_embd = r->family->scale_by_embd_layers &&
	               hp->n_layer == r->family->scale_by_embd_layers;
	float attn_scale = 0.0f;
	int e = may_f32(r, "attention.layer_norm_rms_epsilon", 1e-30f, 1.0f, &hp->norm_eps);

	if (e != 0)
		return e == GGUF_E_ABSENT ? missing(r) : e;
	hp->embd_scale = r->family->embd_sqrt ? sqrtf((float)hp->n_embd) : 1.0f;
	e = may_f32(r, "attention.scale", 0.0f, 1e6f, &attn_scale);
	if (e < 0)
		return e;
	hp->attn_scale = attn_scale > 0.0f ? attn_scale
	                 : by_embd         ? 1.0f / sqrtf((float)hp->n_embd / (float)hp->n_head)
	                                   : 1.0f / sqrtf((float)hp->head_dim);
	e = may_f32(r, "attn_logit_softcapping", 0.0f, 1e6f, &hp->attn_softcap);
	if (e >= 0)
		e = may_f32(r, "final_logit_softcapping", 0.0f, 1e6f, &hp->final_softcap);
	return e < 0 ? e : 0;
}

/* Features that would change results and are not built: better no answer than a wrong one. */
static int refuse_unbuilt(struct reading *r)
{
	uint32_t experts = 0, used = 0;
	bool causal = true;
	int e = may_u32(r, "expert_count", 0, UINT32_MAX, &experts);

	if (e >= 0)
		e = may_u32(r, "expert_used_count", 0, UINT32_MAX, &used);
	if (e < 0)
		return e;
	if (used > experts)
		return err_set(r->err, -EBADMSG,
		               "key '%s' is %" PRIu32 ", but there are only %" PRIu32 " experts",
		               r->key, used, experts);
	if (experts > 0)
		return err_set(r->err, -ENOTSUP,
		               "a mixture of %" PRIu32 " experts is not supported", experts);
	e = gguf_get_bool(r->g, key(r, "attention.causal"), &causal, r->err);
	if (e < 0)
		return e;
	if (!causal)
		return err_set(r->err, -ENOTSUP,
		               "this model's attention is not causal: it cannot generate text");
	return 0;
}

static int find_family(const struct gguf *g, const struct family **ret, struct err *err)
{
	struct bytes name;
	char shown[64], known[128];
	int e = gguf_get_str(g, "general.architecture", &name, err);

	if (e == GGUF_E_ABSENT)
		return err_set(err, -EBADMSG, "key 'general.architecture' is missing");
	if (e < 0)
		return e;
	*ret = family_find(name);
	family_list(known, sizeof(known));
	if (!*ret)
		return err_set(err, -ENOTSUP, "architecture '%s' is not supported; %s are",
		               str_escape(shown, sizeof(shown), name.p, name.n), known);
	return 0;
}

int model_hparams(struct hparams *ret, const struct gguf *g, struct err *err)
{
	static int (*const steps[])(struct reading *) = {
		refuse_unbuilt, read_sizes, read_heads, read_rope, read_window, read_scales,
	};
	struct hparams hp = { 0 };
	struct reading r = { .g = g, .hp = &hp, .err = err };
	int e = find_family(g, &r.family, err);

	if (e < 0)
		return e;
	hp.norm = r.family->norm;
	hp.ffn = r.family->ffn;
	hp.rope = r.family->rope;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		e = steps[i](&r);
		if (e < 0)
			return e;
	}
	*ret = hp;
	return 0;
}
