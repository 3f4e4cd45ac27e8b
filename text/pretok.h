/* pretok - cut text into the words that byte-level BPE works on. One row of data a pre-tokenizer;
 * rows hold regular expressions applied in turn, each to the pieces that the ones before left:
 * matches and the gaps between them become pieces. Threads: read-only after build. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "base/err.h"

enum { PRETOK_REGEX_MAX = 6 };
struct pretok_row {
	const char *names;              /* values of tokenizer.ggml.pre, each followed by a blank */
	const char *regex[PRETOK_REGEX_MAX];
	/* a word that is a token is that token, whatever the merges say */
	bool ignore_merges;
	bool add_bos;                   /* unless the file says otherwise */
};
struct pretok;
/* name "" is "default". -ENOTSUP when unknown. *row is static. */
int pretok_new(struct pretok **ret, const struct pretok_row **row, const char *name,
               struct err *err);
struct pretok *pretok_free(struct pretok *p);
DEFINE_FREEP(struct pretok, pretok_free)

struct cuts {
	uint32_t *data;                 /* end offsets of the pieces, ascending; the last is n */
	size_t n, cap;
};
/* Cut valid UTF-8 text[0,n) (n < 2^31), replacing what `out` held; `tmp` is scratch. 0 or -ENOMEM.
 * Linear time. */
int pretok_cut(const struct pretok *p, const char *text, size_t n, struct cuts *out,
               struct cuts *tmp);
