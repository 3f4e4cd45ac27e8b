/* tok-spm - SentencePiece-style BPE: blanks become U+2581, code points are symbols, the pair whose
 * union has the best score merges first; a symbol that is no token falls back to its bytes.
 *
 * 1. Invalid UTF-8 is taken byte by byte: each byte is a symbol, so it survives by byte fallback.
 * 2. A union longer than the longest spelling is never looked up: look-ups are O(1) in the word's
 *    length. */
#include <errno.h>
#include "text/tok-priv.h"

#define BLANK "\xe2\x96\x81"

/* Ascending unsigned order = descending score. */
static uint32_t score_key(float score)
{
	union { float f; uint32_t u; } x = { .f = score + 0.0f };       /* -0 becomes 0 */
	uint32_t ascending = x.u & 0x80000000u ? ~x.u : x.u | 0x80000000u;

	return ~ascending;
}

static bool spm_pair(const struct merge *m, int32_t left, int32_t right, uint32_t start,
                     uint32_t end, uint32_t *ret_key, int32_t *ret_id)
{
	int32_t id = vocab_find(m->vocab, m->text + start, end - start);

	(void)left, (void)right;
	if (id < 0)
		return false;
	*ret_key = score_key(m->vocab->score[id]);
	*ret_id = id;
	return true;
}

static int escape(struct enc *e, const char *text, size_t n, bool prefix)
{
	size_t blanks = prefix, at = 0;
	char *p;

	for (size_t i = 0; i < n; i++)
		blanks += text[i] == ' ';
	p = mem_realloc(e->word.p, n + 2 * blanks + prefix + 1);
	if (!p)
		return -ENOMEM;
	e->word.p = p;
	if (prefix) {
		memcpy(p, BLANK, 3);
		at = 3;
	}
	for (size_t i = 0; i < n; i++) {
		if (text[i] == ' ') {
			memcpy(p + at, BLANK, 3);
			at += 3;
		} else {
			p[at++] = text[i];
		}
	}
	e->word.n = at;
	return 0;
}

static int emit_symbol(struct enc *e, uint32_t s)
{
	uint32_t start = e->merge.sym.data[s].start, end = merge_end(&e->merge, s);
	int r = 0;

	if (e->merge.sym.data[s].id >= 0)
		return enc_emit(e, e->merge.sym.data[s].id);
	for (uint32_t i = start; r == 0 && i < end; i++) {
		int32_t id = e->v->byte_id[(uint8_t)e->merge.text[i]];

		if (id < 0)
			id = e->v->unk;
		if (id >= 0)
			r = enc_emit(e, id);
	}
	return r;
}

int spm_encode(struct enc *e, const char *text, size_t n, bool prefix)
{
	int r = escape(e, text, n, prefix);
	struct merge *m = &e->merge;

	if (r < 0)
		return r;
	m->text = e->word.p;
	m->len = (uint32_t)e->word.n;
	m->sym.n = 0;
	for (size_t at = 0; at < m->len;) {
		uint32_t cp;
		unsigned len = utf8_decode(m->text + at, m->len - at, &cp);

		if (len == 0)
			len = 1;
		if (merge_add(m, (uint32_t)at, vocab_find(e->v, m->text + at, len)) < 0)
			return -ENOMEM;
		at += len;
	}
	if (merge_run(m, spm_pair) < 0)
		return -ENOMEM;
	for (uint32_t s = 0; r == 0 && s != MERGE_NONE && m->len; s = m->sym.data[s].next)
		r = emit_symbol(e, s);
	return r;
}
