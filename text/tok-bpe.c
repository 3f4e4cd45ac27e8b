/* tok-bpe - byte-level BPE: cut into words, then merge each word's bytes by rank.
 *
 * 1. Every byte is a symbol of its own to start with, so any input is encoded; bytes that are not
 *    UTF-8 form words of their own, which the pre-tokenizer never sees.
 * 2. A byte for which the vocabulary has no token is dropped: there is no id that could stand for
 *    it. */
#include <errno.h>
#include "text/tok-priv.h"

static bool bpe_pair(const struct merge *m, int32_t left, int32_t right, uint32_t start,
                     uint32_t end, uint32_t *ret_key, int32_t *ret_id)
{
	const struct vocab_merge *found = left < 0 || right < 0
	                                          ? NULL
	                                          : vocab_merge_find(m->vocab, left, right);

	(void)start, (void)end;
	if (!found)
		return false;
	*ret_key = found->rank;
	*ret_id = found->id;
	return true;
}

/* The word as the vocabulary spells it, if that is a token. */
static int find_whole(struct enc *e, const char *p, size_t n, int32_t *ret)
{
	*ret = -1;
	if (n > e->v->text_max)
		return 0;
	e->word.n = 0;
	for (size_t i = 0; i < n; i++) {
		char cp[4];
		unsigned len = utf8_encode(vocab_byte_to_cp((uint8_t)p[i]), cp);

		if (sbuf_append(&e->word, cp, len) < 0)
			return -ENOMEM;
	}
	*ret = vocab_find(e->v, e->word.p, e->word.n);
	return 0;
}

static int encode_word(struct enc *e, const char *p, size_t n)
{
	int32_t whole = -1;
	int r = 0;

	if (e->v->ignore_merges && (r = find_whole(e, p, n, &whole)) < 0)
		return r;
	if (whole >= 0)
		return enc_emit(e, whole);
	e->merge.text = p;
	e->merge.len = (uint32_t)n;
	e->merge.sym.n = 0;
	for (size_t i = 0; i < n; i++)
		if (merge_add(&e->merge, (uint32_t)i, e->v->byte_id[(uint8_t)p[i]]) < 0)
			return -ENOMEM;
	if (merge_run(&e->merge, bpe_pair) < 0)
		return -ENOMEM;
	for (uint32_t s = 0; r == 0 && s != MERGE_NONE; s = e->merge.sym.data[s].next)
		if (e->merge.sym.data[s].id >= 0)
			r = enc_emit(e, e->merge.sym.data[s].id);
	return r;
}

/* Length of the run at p that is UTF-8 throughout (valid) or not at all. */
static size_t run_length(const char *p, size_t n, bool *ret_valid)
{
	uint32_t cp;
	size_t at = 0;

	*ret_valid = utf8_decode(p, n, &cp) > 0;
	while (at < n) {
		unsigned len = utf8_decode(p + at, n - at, &cp);

		if ((len > 0) != *ret_valid)
			break;
		at += len ? len : 1;
	}
	return at;
}

int bpe_encode(struct enc *e, const char *text, size_t n)
{
	int r = 0;

	for (size_t at = 0, run; r == 0 && at < n; at += run) {
		uint32_t begin = 0;
		bool valid;

		run = run_length(text + at, n - at, &valid);
		if (!valid) {
			r = encode_word(e, text + at, run);
			continue;
		}
		r = pretok_cut(e->v->pre, text + at, run, &e->cuts, &e->tmp);
		for (size_t i = 0; r == 0 && i < e->cuts.n; i++) {
			r = encode_word(e, text + at + begin, e->cuts.data[i] - begin);
			begin = e->cuts.data[i];
		}
	}
	return r;
}
