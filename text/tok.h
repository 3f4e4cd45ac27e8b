/* tok - vocabulary and tokenizer, built from GGUF metadata; read-only after build, used from any
 * thread.
 *
 * Input is any bytes. Token pieces concatenated by detok give the input back for byte-complete
 * vocabularies. Ids equal llama.cpp's (oracle: llama-tokenize; `tokenizers` for byte-level BPE).
 * Time is O(n log n) in the input. */
#pragma once
#include <stdint.h>
#include "base/cleanup.h"
#include "base/err.h"
#include "base/str.h"
#include "format/gguf.h"

enum tok_attr { /* tokenizer.ggml.token_type as flags of one token */
	        TOK_NORMAL = 1,
	        TOK_UNKNOWN = 2,
	        TOK_CONTROL = 3,
	        TOK_USER_DEFINED = 4,
	        TOK_UNUSED = 5,
	        TOK_BYTE = 6,
};
struct tok;
int tok_new(struct tok **ret, const struct gguf *g, struct err *err);
struct tok *tok_free(struct tok *t);
DEFINE_FREEP(struct tok, tok_free)

uint32_t tok_n_vocab(const struct tok *t);
int32_t tok_bos(const struct tok *t);                   /* -1 when none */
int32_t tok_eos(const struct tok *t);
bool tok_add_bos(const struct tok *t);
/* eos, eot, and their kin: generation ends here */
bool tok_is_eog(const struct tok *t, int32_t id);
enum tok_attr tok_attr(const struct tok *t, int32_t id);
/* the vocabulary's own spelling (template use, display) */
struct bytes tok_text(const struct tok *t, int32_t id);
/* exact vocabulary spelling; -1 */
int32_t tok_find(const struct tok *t, const char *text, size_t n);

/* BOS: add where the vocabulary says so; SPECIAL: parse control tokens in text */
enum { TOKENIZE_BOS = 1, TOKENIZE_SPECIAL = 2 };
struct tokens {
	int32_t *data;
	size_t n, cap;
};
/* Append ids of text[0,n) to out (a VEC). max 0 = unbounded, else -E2BIG when more ids would be
 * needed. 0 or -ENOMEM. */
int tok_encode(const struct tok *t, const char *text, size_t n, unsigned flags, size_t max,
               struct tokens *out);

/* Bytes of one token as they appear in text; special tokens give "" unless special. Returns length
 * written to buf (at most TOK_PIECE_MAX), never fails for id < n_vocab. */
enum { TOK_PIECE_MAX = 4096 };
size_t tok_piece(const struct tok *t, int32_t id, bool special, char buf[TOK_PIECE_MAX]);

/* Streaming detokenizer: emits only whole UTF-8 sequences; an unfinished tail is held until it
 * completes, turns out invalid (then its bytes are emitted unchanged), or detok_flush. Leading
 * space rules of the vocabulary are applied. */
struct detok {
	const struct tok *tok;
	bool special, first;
	unsigned n_held;
	char held[8];
};
void detok_init(struct detok *d, const struct tok *t, bool special);
/* Append to out what token id makes visible. 0 or -ENOMEM. */
int detok_push(struct detok *d, int32_t id, struct sbuf *out);
int detok_flush(struct detok *d, struct sbuf *out);
