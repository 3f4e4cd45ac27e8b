/* tok - the public face: special tokens first, the text between them by the vocabulary's kind.
 *
 * 1. On any failure `out` is as it was.
 * 2. A word kind's offsets are 32 bits: longer input is refused with -E2BIG before anything is
 *    allocated. */
#include "base/vec.h"
#include "text/tok-priv.h"

enum { TOK_INPUT_MAX = 512 << 20 };     /* bytes; escaping triples it at worst, still below 2^31 */

int tok_new(struct tok **ret, const struct gguf *g, struct err *err)
{
	_cleanup_(tok_freep) struct tok *t = mem_alloc(sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	r = vocab_from_gguf(&t->vocab, g, err);
	if (r < 0)
		return r;
	*ret = STEAL(t);
	return 0;
}

struct tok *tok_free(struct tok *t)
{
	if (t)
		vocab_free(t->vocab);
	return mem_free(t);
}

uint32_t tok_n_vocab(const struct tok *t)
{
	return t->vocab->n;
}

int32_t tok_bos(const struct tok *t)
{
	return t->vocab->bos;
}

int32_t tok_eos(const struct tok *t)
{
	return t->vocab->eos;
}

bool tok_add_bos(const struct tok *t)
{
	return t->vocab->add_bos;
}

static bool known(const struct tok *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->vocab->n;
}

bool tok_is_eog(const struct tok *t, int32_t id)
{
	return known(t, id) && t->vocab->eog[id];
}

enum tok_attr tok_attr(const struct tok *t, int32_t id)
{
	return known(t, id) ? (enum tok_attr)t->vocab->type[id] : TOK_UNUSED;
}

struct bytes tok_text(const struct tok *t, int32_t id)
{
	return known(t, id) ? vocab_text(t->vocab, (uint32_t)id) : (struct bytes){ "", 0 };
}

int32_t tok_find(const struct tok *t, const char *text, size_t n)
{
	return vocab_find(t->vocab, text, n);
}

int enc_emit(struct enc *e, int32_t id)
{
	if (e->out->n >= e->limit)
		return -E2BIG;
	return vec_push(e->out, id);
}

static int encode_text(struct enc *e, const char *text, size_t n, bool after_special)
{
	if (n == 0)
		return 0;
	if (e->v->model == VOCAB_SPM)
		return spm_encode(e, text, n, e->v->add_space_prefix && after_special);
	return bpe_encode(e, text, n);
}

int tok_encode(const struct tok *t, const char *text, size_t n, unsigned flags, size_t max,
               struct tokens *out)
{
	struct enc e = { .v = t->vocab, .out = out, .limit = SIZE_MAX, .merge.vocab = t->vocab };
	struct special_hits hits = { 0 };
	size_t before = out->n, at = 0;
	int r;

	if (n > TOK_INPUT_MAX)
		return -E2BIG;
	if (max && max < SIZE_MAX - before)
		e.limit = before + max;
	r = special_find(t->vocab, text, n, flags & TOKENIZE_SPECIAL, &hits);
	if (r == 0 && (flags & TOKENIZE_BOS) && t->vocab->add_bos && t->vocab->bos >= 0)
		r = enc_emit(&e, t->vocab->bos);
	for (size_t i = 0; r == 0 && i < hits.n; i++) {
		const struct special_hit *hit = &hits.data[i];

		r = encode_text(&e, text + at, hit->pos - at, true);
		if (r == 0)
			r = enc_emit(&e, hit->id);
		at = hit->pos + hit->len;
	}
	if (r == 0)
		r = encode_text(&e, text + at, n - at, true);
	if (r < 0)
		out->n = before;
	merge_deinit(&e.merge);
	vec_deinit(&e.cuts);
	vec_deinit(&e.tmp);
	sbuf_deinit(&e.word);
	vec_deinit(&hits);
	return r;
}
