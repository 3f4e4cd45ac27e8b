/* tok-priv - what the parts of the tokenizer share: one running tok_encode. */
#pragma once
#include "text/merge.h"
#include "text/pretok.h"
#include "text/tok.h"

struct tok {
	struct vocab *vocab;
};
struct enc {
	const struct vocab *v;
	struct tokens *out;
	size_t limit;                   /* of out->n; -E2BIG beyond */
	struct merge merge;
	struct cuts cuts, tmp;
	struct sbuf word;
};
int enc_emit(struct enc *e, int32_t id);                        /* 0, -ENOMEM, -E2BIG */
/* Text without special tokens, n < 2^31. The SentencePiece kind escapes blanks and, with `prefix`,
 * puts one before. */
int bpe_encode(struct enc *e, const char *text, size_t n);
int spm_encode(struct enc *e, const char *text, size_t n, bool prefix);

struct special_hit {                    /* text[pos, pos + len) is token id */
	size_t pos;
	uint32_t len;
	int32_t id;
};
struct special_hits {
	struct special_hit *data;
	size_t n, cap;
};
/* Where special tokens stand in text, in order, without overlap: longer spellings take their places
 * first, of equal length the leftmost. User-defined ones always, the others only with `control`. 0
 * or -ENOMEM. */
int special_find(const struct vocab *v, const char *text, size_t n, bool control,
                 struct special_hits *ret);
