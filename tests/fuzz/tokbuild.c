/* tokbuild - a vocabulary in short: eight bytes of numbers, then lines of tokens (one byte of type
 * and score, then the spelling), an empty line, and lines of merges. It goes through a GGUF header
 * as in a file. A vocabulary that is accepted must serve: every id has a piece, spellings are found
 * again, and texts made of the spellings themselves are tokenized. */
#include "text/tok.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/ggufgen.h"

const char fuzz_name[] = "tokbuild";
enum { LINES_MAX = 512, LINE_MAX = 5000 };

struct lines {
	char *s[LINES_MAX];
	int32_t type[LINES_MAX];
	float score[LINES_MAX];
	uint64_t n;
};

static const float scores[] = { 0, -1, -2.5f, 1, 1e30f, -1e30f, -0.0f, 3 };

/* Reads lines until an empty one; typed: the first byte tells type and score. */
static void read_lines(struct fuzz_in *in, struct lines *l, bool typed)
{
	while (fuzz_more(in) && l->n < LINES_MAX) {
		const uint8_t *end = memchr(in->p, '\n', in->n);
		size_t n = end ? (size_t)(end - in->p) : in->n;
		uint8_t head = typed && n ? in->p[0] : 0;
		size_t skip = typed && n ? 1 : 0;

		if (n > 0) {
			l->type[l->n] = (head & 15) % 8;
			l->score[l->n] = scores[head >> 4 & 7];
			l->s[l->n++] = strndup((const char *)in->p + skip,
			                       n - skip < LINE_MAX ? n - skip : LINE_MAX);
		}
		in->p += end ? n + 1 : n;
		in->n -= end ? n + 1 : n;
		if (n == 0)
			return;
	}
}

static void free_lines(struct lines *l)
{
	for (uint64_t i = 0; i < l->n; i++)
		free(l->s[i]);
}

static struct ggufgen *make(struct fuzz_in *in)
{
	static const char *const pres[] = { "gpt-2", "default", "llama-bpe", "qwen2", "unheard-of",
		                            "",      "tekken",  "smollm" };
	static const char *const models[] = { "gpt2", "llama", "bert", "gpt2" };
	static struct lines tokens, merges;
	struct ggufgen *g = ggufgen_new(1);
	uint8_t head[8];

	tokens.n = merges.n = 0;
	fuzz_take(in, head, sizeof(head));
	read_lines(in, &tokens, true);
	read_lines(in, &merges, false);
	ggufgen_str(g, "tokenizer.ggml.model", models[head[0] & 3]);
	ggufgen_str(g, "tokenizer.ggml.pre", pres[head[0] >> 2 & 7]);
	ggufgen_strs(g, "tokenizer.ggml.tokens", (const char *const *)tokens.s, tokens.n);
	/* arrays that are absent, or shorter than they should be */
	if (!(head[1] & 1))
		ggufgen_arr(g, "tokenizer.ggml.token_type", GGUF_I32, tokens.type,
		            tokens.n - (head[1] & 2 && tokens.n));
	if (!(head[1] & 4))
		ggufgen_arr(g, "tokenizer.ggml.scores", GGUF_F32, tokens.score,
		            tokens.n - (head[1] & 8 && tokens.n));
	if (!(head[1] & 16))
		ggufgen_strs(g, "tokenizer.ggml.merges", (const char *const *)merges.s, merges.n);
	if (head[2] != 255)
		ggufgen_u32(g, "tokenizer.ggml.bos_token_id", head[2]);
	if (head[3] != 255)
		ggufgen_u32(g, "tokenizer.ggml.eos_token_id", head[3]);
	if (head[4] != 255)
		ggufgen_u32(g, "tokenizer.ggml.eot_token_id", head[4]);
	if (head[5] & 1)
		ggufgen_bool(g, "tokenizer.ggml.add_bos_token", head[5] & 2);
	if (head[5] & 4)
		ggufgen_bool(g, "tokenizer.ggml.add_space_prefix", head[5] & 8);
	free_lines(&tokens);
	free_lines(&merges);
	return g;
}

static void try_text(const struct tok *t, const char *p, size_t n)
{
	struct tokens ids = { 0 };
	struct sbuf out = { 0 };
	struct detok d;

	FUZZ_CHECK(tok_encode(t, p, n, TOKENIZE_BOS | TOKENIZE_SPECIAL, 0, &ids) == 0, "encode");
	detok_init(&d, t, true);
	for (size_t i = 0; i < ids.n; i++) {
		FUZZ_CHECK(ids.data[i] >= 0 && (uint32_t)ids.data[i] < tok_n_vocab(t), "id %d",
		           ids.data[i]);
		FUZZ_CHECK(detok_push(&d, ids.data[i], &out) == 0, "detok");
	}
	FUZZ_CHECK(detok_flush(&d, &out) == 0, "detok");
	mem_free(ids.data);
	sbuf_deinit(&out);
}

static void serve(const struct tok *t)
{
	struct sbuf all = { 0 };
	char piece[TOK_PIECE_MAX];
	struct bytes s;

	for (uint32_t id = 0; id < tok_n_vocab(t); id++) {
		s = tok_text(t, (int32_t)id);
		FUZZ_CHECK(tok_piece(t, (int32_t)id, false, piece) <= TOK_PIECE_MAX, "%u", id);
		FUZZ_CHECK(tok_piece(t, (int32_t)id, true, piece) <= TOK_PIECE_MAX, "%u", id);
		if (s.n > 0) {
			int32_t found = tok_find(t, s.p, s.n);

			FUZZ_CHECK(found >= 0, "token %u is not found", id);
			s = tok_text(t, found);
			FUZZ_CHECK(s.n == tok_text(t, (int32_t)id).n, "token %u is not itself", id);
		}
		if (all.n < 1 << 14)
			(void)sbuf_append(&all, s.p, s.n);
		(void)tok_attr(t, (int32_t)id);
		(void)tok_is_eog(t, (int32_t)id);
	}
	FUZZ_CHECK(tok_bos(t) < (int32_t)tok_n_vocab(t), "bos %d", tok_bos(t));
	FUZZ_CHECK(tok_eos(t) < (int32_t)tok_n_vocab(t), "eos %d", tok_eos(t));
	try_text(t, all.p ? all.p : "", all.n);
	try_text(t, " Hello\r\n  w\xc3\xb6rld 123\xff<s>\0x", 26);
	sbuf_deinit(&all);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct fuzz_in in = { p, n };
	struct ggufgen *gen = make(&in);
	struct gguf *g = NULL;
	struct tok *t = NULL;
	struct err err = { 0 };
	size_t n_bytes;
	uint8_t *bytes = ggufgen_bytes(gen, &n_bytes);
	int r = gguf_parse(&g, bytes, n_bytes, n_bytes, "vocabulary", &err);

	if (r == 0)
		r = tok_new(&t, g, &err);
	FUZZ_CHECK(r == 0 || (r < 0 && err.text[0]), "%d without a sentence", r);
	if (r == 0)
		serve(t);
	tok_free(t);
	gguf_free(g);
	free(bytes);
	ggufgen_free(gen);
	return 0;
}
