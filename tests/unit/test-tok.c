/* test-tok - vocabularies that lie, tiny ones whose ids can be worked out by hand, time bounds, and
 * the golden table of llama.cpp's ids for the real models (QLLM_MODELS names their folder). */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "base/num.h"
#include "base/vec.h"
#include "text/tok-priv.h"

enum { SRC_MAX = 600 };
struct maker {                          /* a vocabulary under construction */
	struct vocab_src src;
	struct bytes text[SRC_MAX], merge[SRC_MAX];
	int32_t type[SRC_MAX];
	float score[SRC_MAX];
	char bytes[256][8];
};

static int32_t add(struct maker *m, const char *text, int32_t type, float score)
{
	uint64_t i = m->src.n_text++;

	m->text[i] = (struct bytes){ text, strlen(text) };
	m->type[i] = type;
	m->score[i] = score;
	m->src.n_type = m->src.n_score = m->src.n_text;
	return (int32_t)i;
}

static void add_merge(struct maker *m, const char *merge)
{
	m->merge[m->src.n_merge++] = (struct bytes){ merge, strlen(merge) };
}

static void maker_init(struct maker *m, const char *model, const char *pre)
{
	memset(m, 0, sizeof(*m));
	m->src = (struct vocab_src){ .model = model,
		                     .pre = pre,
		                     .text = m->text,
		                     .type = m->type,
		                     .score = m->score,
		                     .merge = m->merge,
		                     .bos = -1,
		                     .eos = -1,
		                     .eog = { -1, -1, -1, -1 },
		                     .add_bos = -1,
		                     .add_space_prefix = -1 };
}

/* 256 bytes (ids = byte values), he = 256, ll = 257, hell = 258, hello = 259, Ġw = 260, <s> = 261,
 * <u> = 262 */
static void maker_bpe(struct maker *m)
{
	maker_init(m, "gpt2", "gpt-2");
	for (unsigned b = 0; b < 256; b++) {
		m->bytes[b][utf8_encode(vocab_byte_to_cp((uint8_t)b), m->bytes[b])] = 0;
		add(m, m->bytes[b], TOK_NORMAL, 0);
	}
	add(m, "he", TOK_NORMAL, 0);
	add(m, "ll", TOK_NORMAL, 0);
	add(m, "hell", TOK_NORMAL, 0);
	add(m, "hello", TOK_NORMAL, 0);
	add(m, "\u0120w", TOK_NORMAL, 0);
	m->src.bos = add(m, "<s>", TOK_CONTROL, 0);
	add(m, "<u>", TOK_USER_DEFINED, 0);
	m->src.eos = add(m, "<|im_end|>", TOK_NORMAL, 0);
	add_merge(m, "h e");
	add_merge(m, "l l");
	add_merge(m, "he ll");
	add_merge(m, "hell o");
	add_merge(m, "\u0120 w");
}

/* <unk> 0, <s> 1, </s> 2, bytes 3..258, ▁ 259, a 260, b 261, ab 262, ▁a 263, ▁ab 264, é 265, <b>
 * 266, <b><b> 267 */
static void maker_spm(struct maker *m)
{
	maker_init(m, "llama", "");
	add(m, "<unk>", TOK_UNKNOWN, 0);
	m->src.bos = add(m, "<s>", TOK_CONTROL, 0);
	m->src.eos = add(m, "</s>", TOK_CONTROL, 0);
	for (unsigned b = 0; b < 256; b++) {
		snprintf(m->bytes[b], 8, "<0x%02X>", b);
		add(m, m->bytes[b], TOK_BYTE, 0);
	}
	add(m, "\u2581", TOK_NORMAL, -10);
	add(m, "a", TOK_NORMAL, -11);
	add(m, "b", TOK_NORMAL, -12);
	add(m, "ab", TOK_NORMAL, -1);
	add(m, "\u2581a", TOK_NORMAL, -2);
	add(m, "\u2581ab", TOK_NORMAL, -3);
	add(m, "\u00e9", TOK_NORMAL, -13);
	add(m, "<b>", TOK_USER_DEFINED, 0);
	add(m, "<b><b>", TOK_USER_DEFINED, 0);
}

static void expect_error(struct maker *m, int code, const char *says)
{
	struct vocab *v = NULL;
	struct err err = { 0 };
	int64_t live = mem_live_blocks();

	assert_int_equal(vocab_new(&v, &m->src, &err), code);
	assert_null(v);
	if (!strstr(err.text, says))
		fail_msg("\"%s\" does not say \"%s\"", err.text, says);
	assert_int_equal(mem_live_blocks(), live);
}

static void assert_ids(const struct tok *t, const char *text, size_t n, unsigned flags,
                       const int32_t *ids, size_t n_ids)
{
	struct tokens out = { 0 };

	assert_int_equal(tok_encode(t, text, n, flags, 0, &out), 0);
	assert_int_equal(out.n, n_ids);
	if (n_ids)
		assert_memory_equal(out.data, ids, n_ids * sizeof(*ids));
	mem_free(out.data);
}
#define ASSERT_IDS(t, text, flags, ...) \
	assert_ids(t, text, sizeof(text) - 1, flags, (const int32_t[]){ __VA_ARGS__ }, \
		sizeof((const int32_t[]){ __VA_ARGS__ }) / sizeof(int32_t))

static struct sbuf decode(const struct tok *t, const struct tokens *ids, bool special)
{
	struct sbuf out = { 0 };
	struct detok d;

	detok_init(&d, t, special);
	for (size_t i = 0; i < ids->n; i++) {
		assert_int_equal(detok_push(&d, ids->data[i], &out), 0);
		assert_true(d.n_held <= 3);
	}
	assert_int_equal(detok_flush(&d, &out), 0);
	return out;
}

static void test_byte_alphabet(void **state)
{
	bool seen[0x200] = { 0 };

	(void)state;
	for (int b = 0; b < 256; b++) {
		uint32_t cp = vocab_byte_to_cp((uint8_t)b);

		assert_true(cp < 0x200 && cp > 0x20 && !seen[cp]);
		seen[cp] = true;
		assert_int_equal(vocab_cp_to_byte(cp), b);
	}
	assert_int_equal(vocab_cp_to_byte(0x144), -1);
	assert_int_equal(vocab_cp_to_byte(' '), -1);
	assert_int_equal(vocab_byte_to_cp(' '), 0x120);
	assert_int_equal(vocab_byte_to_cp('\n'), 0x10a);
	assert_int_equal(vocab_byte_to_cp(0xad), 0x143);
}

static void test_bpe_by_hand(void **state)
{
	static struct maker m;
	struct tok t = { 0 };

	(void)state;
	maker_bpe(&m);
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	ASSERT_IDS(&t, "hello", 0, 259);
	ASSERT_IDS(&t, "hellhello", 0, 258, 259);
	ASSERT_IDS(&t, "lll", 0, 257, 'l');             /* leftmost first */
	ASSERT_IDS(&t, "hello wo", 0, 259, 260, 'o');
	ASSERT_IDS(&t, "a  w", 0, 'a', ' ', 260);        /* the last blank goes with the word */
	ASSERT_IDS(&t, "\xff\x80h", 0, 0xff, 0x80, 'h');
	ASSERT_IDS(&t, "<s>", TOKENIZE_SPECIAL, 261);
	ASSERT_IDS(&t, "<s>", 0, '<', 's', '>');
	ASSERT_IDS(&t, "<u>x<u", 0, 262, 'x', '<', 'u');
	/* an ordinary word in the file, control all the same */
	ASSERT_IDS(&t, "<|im_end|>", TOKENIZE_SPECIAL, 263);
	assert_int_equal(tok_attr(&t, 263), TOK_CONTROL);
	assert_true(tok_is_eog(&t, 263) && !tok_is_eog(&t, 261) && !tok_is_eog(&t, -1) &&
	            !tok_is_eog(&t, 1000000));
	assert_ids(&t, "", 0, TOKENIZE_BOS, NULL, 0);
	vocab_free(t.vocab);

	m.src.add_bos = 1;
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	ASSERT_IDS(&t, "hello", TOKENIZE_BOS, 261, 259);
	ASSERT_IDS(&t, "hello", 0, 259);
	vocab_free(t.vocab);
}

static void test_spm_by_hand(void **state)
{
	static struct maker m;
	struct tok t = { 0 };

	(void)state;
	maker_spm(&m);
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	/* ▁ + ab: ab has the best score, then ▁ab */
	ASSERT_IDS(&t, "ab", 0, 264);
	ASSERT_IDS(&t, "a b", 0, 263, 259, 261);
	ASSERT_IDS(&t, "b\u00e9\u00e8", TOKENIZE_BOS, 1, 259, 261, 265, 3 + 0xc3, 3 + 0xa8);
	ASSERT_IDS(&t, "a\xff", 0, 263, 3 + 0xff);
	/* the longest spelling takes its place first */
	ASSERT_IDS(&t, "<b><b><b>", 0, 267, 266);
	ASSERT_IDS(&t, "<s>ab</s>", TOKENIZE_SPECIAL, 1, 264, 2);
	vocab_free(t.vocab);

	m.src.add_space_prefix = 0;
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	ASSERT_IDS(&t, "ab", 0, 262);
	ASSERT_IDS(&t, " a", 0, 263);
	vocab_free(t.vocab);
}

static void test_special_places(void **state)
{
	static struct maker m;
	struct tok t = { 0 };

	(void)state;
	maker_bpe(&m);
	add(&m, "abcd", TOK_USER_DEFINED, 0);           /* 264 */
	add(&m, "xab", TOK_USER_DEFINED, 0);            /* 265 */
	add(&m, "ab", TOK_USER_DEFINED, 0);             /* 266 */
	add(&m, "aa", TOK_USER_DEFINED, 0);             /* 267 */
	add(&m, "ab", TOK_USER_DEFINED, 0);             /* 268: equal spelling, never chosen */
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	ASSERT_IDS(&t, "xabcd", 0, 'x', 264);            /* longest before leftmost */
	ASSERT_IDS(&t, "xabc", 0, 265, 'c');
	ASSERT_IDS(&t, "aaaaa", 0, 267, 267, 'a');
	ASSERT_IDS(&t, "aab", 0, 267, 'b');
	ASSERT_IDS(&t, "abcab", 0, 266, 'c', 266);
	assert_int_equal(tok_find(&t, "ab", 2), 266);
	assert_int_equal(tok_text(&t, 268).n, 2);
	vocab_free(t.vocab);
}

static void test_bad_vocabularies(void **state)
{
	static struct maker m;
	static char huge[1 << 20];
	struct tok t = { 0 };

	(void)state;
	maker_bpe(&m);
	m.src.model = "bert";
	expect_error(&m, -ENOTSUP, "\"bert\"");
	maker_bpe(&m);
	m.src.pre = "no-such-cut";
	expect_error(&m, -ENOTSUP, "no-such-cut");
	maker_bpe(&m);
	m.src.n_type--;
	expect_error(&m, -EBADMSG, "token_type has 263 entries for 264 tokens");
	maker_spm(&m);
	m.src.n_score++;
	expect_error(&m, -EBADMSG, "scores has 269 entries for 268 tokens");
	maker_spm(&m);
	m.src.score = NULL;
	expect_error(&m, -EBADMSG, "scores is missing");
	maker_spm(&m);
	m.score[7] = __builtin_nanf("");
	expect_error(&m, -EBADMSG, "scores[7]");
	maker_spm(&m);
	m.type[9] = 7;
	expect_error(&m, -EBADMSG, "token_type[9] is 7");
	maker_spm(&m);
	m.src.bos = 268;
	expect_error(&m, -EBADMSG, "268");
	maker_spm(&m);
	m.src.eog[0] = 1 << 30;
	expect_error(&m, -EBADMSG, "1073741824");
	static const char *const bytes[] = { "<0x-1>", "<0xZZ>", "<0x1>", "<0x001>",
		                             "<0x 1>", "0x41",   "" };

	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++) {
		maker_spm(&m);
		m.text[100] = (struct bytes){ bytes[i], strlen(bytes[i]) };
		expect_error(&m, -EBADMSG, "tokens[100]");
	}
	static const char *const merges[] = {
		"he", "he ", " he", "", " ", "he qq", "qq he", "he he"
	};

	for (size_t i = 0; i < ARRAY_SIZE(merges); i++) {
		maker_bpe(&m);
		add_merge(&m, merges[i]);
		expect_error(&m, -EBADMSG, "merges[5]");
	}
	maker_bpe(&m);
	m.src.merge = NULL;
	expect_error(&m, -EBADMSG, "merges is missing");
	maker_bpe(&m);
	memset(huge, 'a', sizeof(huge));
	m.text[200] = (struct bytes){ huge, sizeof(huge) };
	expect_error(&m, -EBADMSG, "tokens[200]");
	maker_bpe(&m);
	m.src.n_text = 0;
	expect_error(&m, -EBADMSG, "0 tokens");

	/* Allowed: an empty spelling, equal spellings, an equal merge. */
	maker_bpe(&m);
	add(&m, "", TOK_NORMAL, 0);
	add(&m, "hello", TOK_NORMAL, 0);
	add(&m, "", TOK_USER_DEFINED, 0);
	add_merge(&m, "h e");
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	ASSERT_IDS(&t, "hello", TOKENIZE_SPECIAL, 259);
	vocab_free(t.vocab);
}

static void test_limits(void **state)
{
	static struct maker m;
	struct tok t = { 0 };
	struct tokens out = { 0 };

	(void)state;
	maker_bpe(&m);
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	assert_int_equal(tok_encode(&t, "abc", 3, 0, 3, &out), 0);
	assert_int_equal(out.n, 3);
	assert_int_equal(tok_encode(&t, "abcd", 4, 0, 3, &out), -E2BIG);
	assert_int_equal(out.n, 3);                     /* as it was */
	assert_int_equal(tok_encode(&t, "d", 1, 0, 3, &out), 0);
	assert_int_equal(out.data[3], 'd');             /* appended */
	mem_free(out.data);
	vocab_free(t.vocab);
}

/* A piece at a time, nothing that is shown ends inside a code point; bad bytes pass unchanged. */
static void test_detok_streams_whole_code_points(void **state)
{
	static const struct { const char *in; const char *shown[8]; } cases[] = {
		{ "\xe2\x82\xac.", { "", "", "\xe2\x82\xac", "." } },
		{ "\xe2\x82x", { "", "", "\xe2\x82x" } },
		{ "\xf0\x9f\x98\x80", { "", "", "", "\xf0\x9f\x98\x80" } },
		{ "\xff" "a\x80", { "\xff", "a", "\x80" } },
		{ "\xc3\xc3\xa9", { "", "\xc3", "\xc3\xa9" } },
		{ "\xed\xa0\x80", { "", "\xed\xa0", "\x80" } },
	};
	static struct maker m;
	struct tok t = { 0 };

	(void)state;
	maker_bpe(&m);
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
		struct detok d;

		detok_init(&d, &t, false);
		for (size_t i = 0; cases[c].in[i]; i++) {
			struct sbuf out = { 0 };

			assert_int_equal(detok_push(&d, (uint8_t)cases[c].in[i], &out), 0);
			assert_string_equal(out.p ? out.p : "", cases[c].shown[i]);
			sbuf_deinit(&out);
		}
	}
	struct sbuf out = { 0 };
	struct detok d;

	detok_init(&d, &t, false);
	assert_int_equal(detok_push(&d, 0xe2, &out), 0);
	assert_int_equal(detok_push(&d, 261, &out), 0);         /* <s> prints nothing */
	assert_int_equal(detok_flush(&d, &out), 0);
	assert_string_equal(out.p, "\xe2");
	sbuf_deinit(&out);
	vocab_free(t.vocab);
}

static void test_detok_leading_blank(void **state)
{
	static struct maker m;
	struct tok t = { 0 };
	static const struct { const char *text; bool special; } cases[] = {
		{ "ab ab", false }, { "  ab", false },   { " ", false },
		{ "", false },      { "b\xffz", false },
	};

	(void)state;
	maker_spm(&m);
	assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct tokens ids = { 0 };
		struct sbuf out;

		assert_int_equal(
			tok_encode(&t, cases[i].text, strlen(cases[i].text), TOKENIZE_BOS, 0, &ids),
			0);
		out = decode(&t, &ids, cases[i].special);
		assert_string_equal(out.p ? out.p : "", cases[i].text);
		sbuf_deinit(&out);
		mem_free(ids.data);
	}
	vocab_free(t.vocab);
}

/* 1 MB without a blank. Quadratic merging would take hours; the bound is generous for
 * sanitizers. */
static void test_long_words_take_linear_time(void **state)
{
	enum { N = 1000000 };
	static struct maker m;
	static char text[N];
	void (*const makers[])(struct maker *) = { maker_bpe, maker_spm };

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(makers); k++) {
		struct tok t = { 0 };

		makers[k](&m);
		/* else text after a special token gets a blank, as in llama.cpp */
		m.src.add_space_prefix = 0;
		assert_int_equal(vocab_new(&t.vocab, &m.src, NULL), 0);
		for (int kind = 0; kind < 4; kind++) {
			struct tokens ids = { 0 };
			clock_t begin = clock();
			struct sbuf out;

			for (size_t i = 0; i < N; i++)
				text[i] = kind == 0   ? 'l'
				          : kind == 1 ? "hello"[i % 5]
				          : kind == 2 ? "<b>"[i % 3]
				                      : (char)(i * 2654435761u >> 9);
			assert_int_equal(tok_encode(&t, text, N, TOKENIZE_SPECIAL, 0, &ids), 0);
			assert_true(ids.n > 0);
			assert_true((clock() - begin) / CLOCKS_PER_SEC < 30);
			out = decode(&t, &ids, true);
			assert_int_equal(out.n, N);
			assert_memory_equal(out.p, text, N);
			sbuf_deinit(&out);
			mem_free(ids.data);
		}
		vocab_free(t.vocab);
	}
}

static void test_every_allocation_may_fail(void **state)
{
	static struct maker m;
	static const char text[] = "hello w\xff <s>12 <u> \u00e9 ab";
	void (*const makers[])(struct maker *) = { maker_bpe, maker_spm };

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(makers); k++) {
		bool done = false;

		makers[k](&m);
		for (unsigned nth = 0; !done; nth++) {
			int64_t live = mem_live_blocks();
			struct tokens ids = { 0 };
			struct tok t = { 0 };
			int r;

			mem_fault_arm(nth, false);
			r = vocab_new(&t.vocab, &m.src, NULL);
			if (r == 0)
				r = tok_encode(&t, text, sizeof(text) - 1, TOKENIZE_SPECIAL, 0,
				               &ids);
			done = !mem_fault_fired();
			assert_int_equal(r, done ? 0 : -ENOMEM);
			vocab_free(t.vocab);
			mem_free(ids.data);
			assert_int_equal(mem_live_blocks(), live);
		}
	}
}

/* ---- a GGUF header in memory, and the real models ---- */

static void put(struct sbuf *b, const void *p, size_t n)
{
	assert_int_equal(sbuf_append(b, p, n), 0);
}

static void put_u32(struct sbuf *b, uint32_t x)
{
	put(b, &x, 4);
}

static void put_str(struct sbuf *b, const char *s)
{
	uint64_t n = strlen(s);

	put(b, &n, 8);
	put(b, s, n);
}

static void put_array(struct sbuf *b, const char *key, uint32_t type, uint64_t n)
{
	put_str(b, key);
	put_u32(b, 9);
	put_u32(b, type);
	put(b, &n, 8);
}

enum { BAD_NONE, BAD_SCORES_U8, BAD_BOS, BAD_MODEL_KIND, BAD_TYPE_SHORT, BAD_COUNT };
static void make_gguf(struct sbuf *b, int bad)
{
	static const char *const tokens[] = { "<unk>", "<s>", "</s>", "a", "ab" };
	uint64_t n_kv = 6, zero = 0;

	put(b, "GGUF", 4);
	put_u32(b, 3);
	put(b, &zero, 8);
	put(b, &n_kv, 8);
	put_str(b, "tokenizer.ggml.model");
	if (bad == BAD_MODEL_KIND) {
		put_u32(b, 4);
		put_u32(b, 1);
	} else {
		put_u32(b, 8);
		put_str(b, "llama");
	}
	put_array(b, "tokenizer.ggml.tokens", 8, 5);
	for (int i = 0; i < 5; i++)
		put_str(b, tokens[i]);
	put_array(b, "tokenizer.ggml.scores", bad == BAD_SCORES_U8 ? 0 : 6, 5);
	for (int i = 0; i < 5; i++) {
		float score = (float)-i;

		put(b, &score, bad == BAD_SCORES_U8 ? 1 : 4);
	}
	put_array(b, "tokenizer.ggml.token_type", 5, bad == BAD_TYPE_SHORT ? 4 : 5);
	for (uint32_t i = 0; i < (bad == BAD_TYPE_SHORT ? 4 : 5); i++)
		put_u32(b, (const uint32_t[]){ 2, 3, 3, 1, 1 }[i]);
	put_str(b, "tokenizer.ggml.bos_token_id");
	put_u32(b, 4);
	put_u32(b, bad == BAD_BOS ? 5 : 1);
	put_str(b, "tokenizer.ggml.eos_token_id");
	put_u32(b, 4);
	put_u32(b, 2);
	while (b->n % 32)
		put(b, "", 1);
}

static void test_gguf_metadata(void **state)
{
	static const char *const says[BAD_COUNT] = { NULL, "tokenizer.ggml.scores",
		                                     "tokenizer.ggml.bos_token_id",
		                                     "tokenizer.ggml.model",
		                                     "token_type has 4 entries for 5" };

	(void)state;
	for (int bad = 0; bad < BAD_COUNT; bad++) {
		struct sbuf b = { 0 };
		struct err err = { 0 };
		struct gguf *g = NULL;
		struct tok *t = NULL;

		make_gguf(&b, bad);
		assert_int_equal(gguf_parse(&g, b.p, b.n, b.n, "tiny", &err), 0);
		assert_int_equal(tok_new(&t, g, &err), bad ? -EBADMSG : 0);
		if (bad) {
			assert_non_null(strstr(err.text, says[bad]));
		} else {
			gguf_free(g);           /* nothing of it is borrowed */
			g = NULL;
			assert_int_equal(tok_n_vocab(t), 5);
			assert_int_equal(tok_bos(t), 1);
			assert_int_equal(tok_eos(t), 2);
			assert_true(tok_is_eog(t, 2) && tok_add_bos(t));
			/* no token for the blank's 3 bytes */
			ASSERT_IDS(t, "ab", TOKENIZE_BOS, 1, 0, 0, 0, 4);
		}
		tok_free(t);
		gguf_free(g);
		sbuf_deinit(&b);
	}
}

static size_t from_base64(const char *s, char *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	size_t n = 0, have = 0;

	for (; *s && *s != '='; s++) {
		bits = bits << 6 | (uint32_t)(strchr(digits, *s) - digits);
		have += 6;
		if (have >= 8)
			out[n++] = (char)(bits >> (have -= 8));
	}
	return n;
}

/* What can come back: bytes without a token are lost (SmolLM2 lacks 21), a literal U+2581 is a
 * blank to SentencePiece. */
static size_t expected_back(const struct tok *t, const char *p, size_t n, char *out)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		if (t->vocab->model == VOCAB_SPM && n - i >= 3 && memcmp(p + i, "\u2581", 3) == 0) {
			out[at++] = ' ';
			i += 2;
		} else if (t->vocab->byte_id[(uint8_t)p[i]] >= 0) {
			out[at++] = p[i];
		}
	}
	return at;
}

static void check_golden(const struct tok *t, const char *name, json_t *c)
{
	static char raw[1 << 16], back[1 << 16];
	size_t n = from_base64(json_string_value(json_object_get(c, "bytes")), raw);
	json_t *want = json_object_get(c, name);

	for (int special = 0; special < 2; special++) {
		json_t *ids = json_object_get(want, special ? "special" : "plain");
		struct tokens out = { 0 };
		struct sbuf text;

		assert_int_equal(tok_encode(t, raw, n, special ? TOKENIZE_SPECIAL : 0, 0, &out), 0);
		if (want) {
			assert_int_equal(out.n, json_array_size(ids));
			for (size_t i = 0; i < out.n; i++)
				assert_int_equal(out.data[i],
				                 json_integer_value(json_array_get(ids, i)));
		}
		text = decode(t, &out, true);
		assert_int_equal(text.n, expected_back(t, raw, n, back));
		assert_memory_equal(text.p ? text.p : "", back, text.n);
		sbuf_deinit(&text);
		mem_free(out.data);
	}
}

static void test_golden_ids_of_real_models(void **state)
{
	static const char *const names[] = { "smollm2", "gemma3" };
	const char *dir = getenv("QLLM_MODELS"), *src = getenv("QLLM_SRCDIR");
	char path[4096];
	json_t *cases;

	(void)state;
	if (!dir)
		skip();
	snprintf(path, sizeof(path), "%s/tests/golden/tok-strings.json", src ? src : ".");
	cases = json_load_file(path, 0, NULL);
	assert_true(json_array_size(cases) >= 150);
	for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
		struct gguf *g = NULL;
		struct err err = { 0 };
		struct tok *t = NULL;
		int fd;

		snprintf(path, sizeof(path), "%s/%s.gguf", dir, names[k]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		assert_int_equal(gguf_open(&g, fd, names[k], &err), 0);
		assert_int_equal(tok_new(&t, g, &err), 0);
		for (size_t i = 0; i < json_array_size(cases); i++)
			check_golden(t, names[k], json_array_get(cases, i));
		tok_free(t);
		gguf_free(g);
		close(fd);
	}
	json_decref(cases);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_alphabet),
		cmocka_unit_test(test_bpe_by_hand),
		cmocka_unit_test(test_spm_by_hand),
		cmocka_unit_test(test_special_places),
		cmocka_unit_test(test_bad_vocabularies),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_detok_streams_whole_code_points),
		cmocka_unit_test(test_detok_leading_blank),
		cmocka_unit_test(test_long_words_take_linear_time),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_gguf_metadata),
		cmocka_unit_test(test_golden_ids_of_real_models),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
