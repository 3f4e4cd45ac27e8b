/* tok-special - find special tokens in text.
 *
 * 1. Walking the sorted list of spellings byte by byte narrows a range: no step looks at tokens
 *    that do not match so far, and a byte that starts no special token costs one table look-up.
 * 2. Places are given by length: the longest spellings first, each class from left to right. Since
 *    every taken place is at least as long as the one on trial, two overlap exactly when an end of
 *    the trial lies in a taken one. */
#include "base/num.h"
#include "base/vec.h"
#include "text/tok-priv.h"

struct start {                          /* a position where at least one special token matches */
	size_t pos;
	uint32_t longest;
};
struct finder {
	const struct vocab *v;
	bool control;
	uint32_t first[257];            /* range of v->special by first byte */
	uint8_t *taken;                 /* [n] 1 where a chosen token lies */
	struct { struct start *data; size_t n, cap; } starts;
	uint32_t longest;               /* of all starts */
	uint8_t lengths[VOCAB_TEXT_MAX + 1];    /* 1 where some spelling has that length */
};

static bool wanted(const struct finder *f, uint32_t id)
{
	return f->control || f->v->type[id] == TOK_USER_DEFINED;
}

/* First index in [lo, hi) whose byte at depth is >= byte (0..256); all share the bytes before. */
static uint32_t bound(const struct vocab *v, uint32_t lo, uint32_t hi, size_t depth, unsigned byte)
{
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if ((uint8_t)vocab_text(v, v->special[mid]).p[depth] < byte)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Walk spellings that are a prefix of p[0,n); returns the id whose length is exactly len (0: the
 * longest), or -1. */
static int32_t match(const struct finder *f, const char *p, size_t n, uint32_t len,
                     uint32_t *ret_len)
{
	const struct vocab *v = f->v;
	uint32_t lo = f->first[(uint8_t)*p], hi = f->first[(uint8_t)*p + 1];
	int32_t best = -1;

	for (size_t depth = 1; lo < hi; depth++) {
		/* All of [lo, hi) begin with p[0, depth); the one that ends here sorts first. */
		if (vocab_text(v, v->special[lo]).n == depth) {
			if (wanted(f, v->special[lo]) && (len == 0 || len == depth)) {
				best = (int32_t)v->special[lo];
				*ret_len = (uint32_t)depth;
			}
			lo++;
		}
		if (depth == n || depth == len)
			break;
		lo = bound(v, lo, hi, depth, (uint8_t)p[depth]);
		hi = bound(v, lo, hi, depth, (uint8_t)p[depth] + 1u);
	}
	return best;
}

static int find_starts(struct finder *f, const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct start s = { .pos = i };

		if (f->first[(uint8_t)text[i]] == f->first[(uint8_t)text[i] + 1])
			continue;
		if (match(f, text + i, n - i, 0, &s.longest) < 0)
			continue;
		if (vec_push(&f->starts, s) < 0)
			return -ENOMEM;
		f->longest = MAX(f->longest, s.longest);
	}
	return 0;
}

static int take_length(struct finder *f, const char *text, uint32_t len, struct special_hits *ret)
{
	for (size_t i = 0; i < f->starts.n; i++) {
		const struct start *s = &f->starts.data[i];
		struct special_hit hit = { s->pos, len, -1 };
		uint32_t got;

		if (s->longest < len || f->taken[s->pos] || f->taken[s->pos + len - 1])
			continue;
		hit.id = match(f, text + s->pos, len, len, &got);
		if (hit.id < 0)
			continue;
		if (vec_push(ret, hit) < 0)
			return -ENOMEM;
		memset(f->taken + s->pos, 1, len);
	}
	return 0;
}

static int hit_order(const void *a, const void *b)
{
	const struct special_hit *x = a, *y = b;

	return (x->pos > y->pos) - (x->pos < y->pos);
}

int special_find(const struct vocab *v, const char *text, size_t n, bool control,
                 struct special_hits *ret)
{
	_cleanup_mem_ struct finder *f = mem_alloc(sizeof(*f));
	int r;

	ret->n = 0;
	if (!f)
		return -ENOMEM;
	f->v = v;
	f->control = control;
	for (uint32_t byte = 0, i = 0; byte < 256; byte++) {
		while (i < v->n_special && (uint8_t)vocab_text(v, v->special[i]).p[0] == byte)
			i++;
		f->first[byte + 1] = i;
	}
	r = find_starts(f, text, n);
	if (r == 0 && f->starts.n) {
		f->taken = mem_alloc(n);
		if (!f->taken)
			r = -ENOMEM;
		/* Shorter spellings have their turn where the longest one lost its place. */
		for (uint32_t i = 0; i < v->n_special; i++)
			f->lengths[vocab_text(v, v->special[i]).n] = 1;
		for (uint32_t len = f->longest; r == 0 && len > 0; len--)
			if (f->lengths[len])
				r = take_length(f, text, len, ret);
		if (ret->n)
			qsort(ret->data, ret->n, sizeof(*ret->data), hit_order);
	}
	mem_free(f->taken);
	vec_deinit(&f->starts);
	return r;
}
