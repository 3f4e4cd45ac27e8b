/* vocab-gguf - a vocabulary source from the keys "tokenizer.ggml.*". Kinds are checked by the
 * getters, lengths and contents by vocab_new. */
#include <errno.h>
#include "text/vocab.h"

/* An id by key: *ret stays -1 when the key is absent. */
static int get_id(const struct gguf *g, const char *key, uint64_t n, int32_t *ret, struct err *err)
{
	uint32_t id = 0;
	int r = gguf_get_u32(g, key, &id, err);

	if (r == GGUF_E_ABSENT)
		return 0;
	if (r < 0)
		return r;
	if (id >= n)
		return err_set(err, -EBADMSG, "%s is %u, beyond the %llu tokens", key, id,
		               (unsigned long long)n);
	*ret = (int32_t)id;
	return 0;
}

static int get_flag(const struct gguf *g, const char *key, int *ret, struct err *err)
{
	bool value = false;
	int r = gguf_get_bool(g, key, &value, err);

	if (r == 0)
		*ret = value;
	return r < 0 ? r : 0;
}

static int get_name(const struct gguf *g, const char *key, char name[64], struct err *err)
{
	struct bytes b;
	int r = gguf_get_str(g, key, &b, err);

	name[0] = 0;
	if (r != 0)
		return r;
	if (b.n >= 64 || memchr(b.p, 0, b.n))
		return err_set(err, -EBADMSG, "%s has %zu bytes: not a name", key, b.n);
	memcpy(name, b.p, b.n);
	name[b.n] = 0;
	return 0;
}

static int get_arrays(const struct gguf *g, struct vocab_src *src, struct err *err)
{
	const void *p;
	uint64_t n;
	int r = gguf_get_arr(g, "tokenizer.ggml.tokens", GGUF_STR, &p, &n, err);

	if (r == GGUF_E_ABSENT)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.tokens is missing: the file has no vocabulary");
	if (r < 0)
		return r;
	src->text = p;
	src->n_text = n;
	r = gguf_get_arr(g, "tokenizer.ggml.scores", GGUF_F32, &p, &n, err);
	if (r < 0)
		return r;
	if (r == 0) {
		src->score = p;
		src->n_score = n;
	}
	r = gguf_get_arr(g, "tokenizer.ggml.token_type", GGUF_I32, &p, &n, err);
	if (r < 0)
		return r;
	if (r == 0) {
		src->type = p;
		src->n_type = n;
	}
	r = gguf_get_arr(g, "tokenizer.ggml.merges", GGUF_STR, &p, &n, err);
	if (r == 0) {
		src->merge = p;
		src->n_merge = n;
	}
	return r < 0 ? r : 0;
}

int vocab_from_gguf(struct vocab **ret, const struct gguf *g, struct err *err)
{
	static const char *const eog_keys[4] = {
		"tokenizer.ggml.eot_token_id",
		"tokenizer.ggml.eom_token_id",
		"tokenizer.ggml.fim_pad_token_id",
		"tokenizer.ggml.fim_rep_token_id",
	};
	struct vocab_src src = {
		.bos = -1,
		.eos = -1,
		.eog = { -1, -1, -1, -1 },
		.add_bos = -1,
		.add_space_prefix = -1,
	};
	char model[64], pre[64];
	int r = get_name(g, "tokenizer.ggml.model", model, err);

	if (r == GGUF_E_ABSENT)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.model is missing: the file has no vocabulary");
	if (r < 0 || (r = get_name(g, "tokenizer.ggml.pre", pre, err)) < 0 ||
	    (r = get_arrays(g, &src, err)) < 0)
		return r;
	src.model = model;
	src.pre = pre;
	if ((r = get_id(g, "tokenizer.ggml.bos_token_id", src.n_text, &src.bos, err)) < 0 ||
	    (r = get_id(g, "tokenizer.ggml.eos_token_id", src.n_text, &src.eos, err)) < 0)
		return r;
	for (int i = 0; i < 4; i++)
		if ((r = get_id(g, eog_keys[i], src.n_text, &src.eog[i], err)) < 0)
			return r;
	if ((r = get_flag(g, "tokenizer.ggml.add_bos_token", &src.add_bos, err)) < 0 ||
	    (r = get_flag(g, "tokenizer.ggml.add_space_prefix", &src.add_space_prefix, err)) < 0)
		return r;
	return vocab_new(ret, &src, err);
}
