/* tokenize - first byte: vocabulary and flags; the rest is text. Any bytes become ids of the
 * vocabulary, and back they are the same bytes; the streaming detokenizer says the same as the
 * pieces. */
#include <errno.h>
#include <unistd.h>
#include "base/num.h"
#include "base/vec.h"
#include "text/tok.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/ggufgen.h"

const char fuzz_name[] = "tokenize";

/* Pre-tokenizers that differ; NULL is the SentencePiece vocabulary. All can spell every byte. */
static const char *const kinds[] = { NULL,      "gpt-2",        "smollm",      "llama-bpe",
	                             "qwen2",   "qwen35",       "tekken",      "gpt-4o",
	                             "falcon",  "deepseek-llm", "deepseek-v3", "default",
	                             "dbrx",    "deepseek-coder" };
static struct tok *toks[ARRAY_SIZE(kinds)];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct ggufgen_tiny tiny = { .n_layer = 1, .n_embd = 32, .spm = !kinds[i] };
		struct ggufgen *gen = ggufgen_tiny(&tiny);
		struct gguf *g = NULL;
		struct err err = { 0 };
		uint8_t *bytes;
		size_t n;

		if (kinds[i])
			ggufgen_str(gen, "tokenizer.ggml.pre", kinds[i]);
		bytes = ggufgen_bytes(gen, &n);
		FUZZ_CHECK(gguf_parse(&g, bytes, n, n, "tiny", &err) == 0, "%s", err.text);
		FUZZ_CHECK(tok_new(&toks[i], g, &err) == 0, "%s", err.text);
		gguf_free(g);
		free(bytes);
		ggufgen_free(gen);
	}
	return 0;
}

static void check_back(const struct tok *t, const struct tokens *ids, bool special,
                       const uint8_t *p, size_t n)
{
	struct sbuf out = { 0 }, pieces = { 0 };
	bool valid = utf8_valid((const char *)p, n);
	char piece[TOK_PIECE_MAX];
	struct detok d;

	detok_init(&d, t, special);
	for (size_t i = 0; i < ids->n; i++) {
		FUZZ_CHECK(ids->data[i] >= 0 && (uint32_t)ids->data[i] < tok_n_vocab(t), "id %d",
		           ids->data[i]);
		FUZZ_CHECK(detok_push(&d, ids->data[i], &out) == 0, "detok_push");
		FUZZ_CHECK(!valid || utf8_valid(out.p ? out.p : "", out.n),
		           "half a character came out");
		FUZZ_CHECK(sbuf_append(&pieces, piece,
		                       tok_piece(t, ids->data[i], special, piece)) == 0,
		           "no memory");
	}
	FUZZ_CHECK(detok_flush(&d, &out) == 0, "detok_flush");
	FUZZ_CHECK(out.n == n && (n == 0 || memcmp(out.p, p, n) == 0),
	           "%zu bytes came back as %zu", n, out.n);
	FUZZ_CHECK(pieces.n == n && (n == 0 || memcmp(pieces.p, p, n) == 0),
	           "%zu bytes are %zu in pieces", n, pieces.n);
	sbuf_deinit(&out);
	sbuf_deinit(&pieces);
}

/* SentencePiece writes U+2581 for a blank, and so cannot tell one from the other: expect blanks. */
static size_t with_blanks(uint8_t *dst, const uint8_t *p, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; k++) {
		bool mark = n - i >= 3 && memcmp(p + i, "\xe2\x96\x81", 3) == 0;

		dst[k] = mark ? ' ' : p[i];
		i += mark ? 3 : 1;
	}
	return k;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct tokens ids = { 0 }, few = { 0 };
	const struct tok *t;
	uint8_t *want;
	size_t n_want;
	unsigned flags, kind;
	int r;

	if (n == 0)
		return 0;
	kind = (p[0] & 0x3f) % ARRAY_SIZE(toks);
	t = toks[kind];
	flags = p[0] & 0x40 ? TOKENIZE_SPECIAL : 0;
	p++, n--;
	FUZZ_CHECK(tok_encode(t, (const char *)p, n, flags, 0, &ids) == 0, "tok_encode");
	FUZZ_CHECK(ids.n <= n, "%zu ids of %zu bytes", ids.n, n);
	/* control tokens have no text unless they are asked for */
	want = malloc(n + 1);
	FUZZ_CHECK(want, "no memory");
	memcpy(want, p, n);
	n_want = kinds[kind] ? n : with_blanks(want, p, n);
	check_back(t, &ids, flags != 0, want, n_want);
	free(want);
	if (ids.n > 1) {
		r = tok_encode(t, (const char *)p, n, flags, ids.n - 1, &few);
		FUZZ_CHECK(r == -E2BIG, "%d instead of -E2BIG", r);
	}
	mem_free(ids.data);
	mem_free(few.data);
	return 0;
}
