/* pretok - rows over pcre2, interpreted (the hardened daemon may not map writable code, so no JIT).
 *
 * 1. \s is spelled as Unicode's White_Space: pcre2 adds U+180E to its own \s.
 * 2. A piece is cut with itself as the whole subject: look-ahead never sees past it, as in chained
 *    splitters.
 * 3. No expression backtracks over more than one run of one class, so a cut is linear in the
 *    text. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>
#include "base/num.h"
#include "base/str.h"
#include "base/vec.h"
#include "text/pretok.h"

#define S "\\p{Z}\\t-\\r\\x{85}"        /* inside brackets */
#define SPACES_LAST "[" S "]+(?![^" S "])"
#define CONTRACTION "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" S "\\p{L}\\p{N}]+|" SPACES_LAST "|[" S "]+"
#define LINES "[" S "]*[\\r\\n]+|" SPACES_LAST "|[" S "]+"
#define LLAMA3(digits) CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" S "\\p{L}\\p{N}]+[\\r\\n]*|" LINES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* Words by letter case: lower ends a word, upper starts one. */
#define CASED(tail, digits) \
	"[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" tail "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" tail "|" \
	digits "| ?[^" S "\\p{L}\\p{N}]+[\\r\\n/]*|" LINES
#define CJK_CUT "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* Cased letters of Latin, Greek, Cyrillic, Armenian, Georgian and kin, as that model family lists
 * them. */
#define DEEPSEEK_LETTERS \
	"A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}" \
	"\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}" \
	"\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}" \
	"\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}" \
	"\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}" \
	"\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}" \
	"\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}" \
	"\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}" \
	"\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}" \
	"\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}" \
	"\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}" \
	"\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}" \
	"\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}" \
	"\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define ASCII_PUNCT "!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~"

static const struct pretok_row rows[] = {
	{ "gpt-2 phi-2 mpt olmo jais roberta-bpe gigachat trillion granite-docling exaone4 ", { GPT2 } },
	{ "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2 ", { "\\p{N}", GPT2 } },
	{ "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ", { LLAMA3("\\p{N}{1,3}") }, true, true },
	{ "dbrx smaug-bpe chatglm-bpe glm4 ", { LLAMA3("\\p{N}{1,3}") } },
	{ "qwen2 stablelm2 deepseek-r1-qwen megrez hunyuan ", { LLAMA3("\\p{N}") } },
	{ "qwen35 ", { CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" S "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|"
		LINES } },
	{ "tekken ", { CASED("", "\\p{N}") }, true, true },
	{ "gpt-4o llama4 ", { CASED("(?:" CONTRACTION ")?", "\\p{N}{1,3}") } },
	{ "deepseek-llm ", { "[\\r\\n]", "[" S "]?[" DEEPSEEK_LETTERS "]+",
		"[" S "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
		"[" S "]+\\z", CJK_CUT, "\\p{N}+" } },
	{ "deepseek-coder ", { "[\\r\\n]", "[" S "]?\\p{L}+", "[" S "]?\\p{P}+", CJK_CUT, "\\p{N}" } },
	{ "deepseek-v3 hunyuan-dense ", { "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
		"[" ASCII_PUNCT "][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINES } },
	{ "falcon ", { "[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]" } },
	{ "default ", { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
};

struct pretok {
	pcre2_general_context *mem;
	pcre2_code *code[PRETOK_REGEX_MAX];
	unsigned n;
};

static void *hook_alloc(PCRE2_SIZE n, void *arg)
{
	(void)arg;
	return mem_alloc(n);
}

static void hook_free(void *p, void *arg)
{
	(void)arg;
	mem_free(p);
}

static const struct pretok_row *find_row(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		for (const char *p = rows[i].names; *p; p = strchr(p, ' ') + 1)
			if (strncmp(p, name, len) == 0 && p[len] == ' ')
				return &rows[i];
	return NULL;
}

int pretok_new(struct pretok **ret, const struct pretok_row **row, const char *name,
               struct err *err)
{
	_cleanup_(pretok_freep) struct pretok *p = NULL;
	const struct pretok_row *found = find_row(*name ? name : "default");
	char shown[64];

	if (!found || strchr(name, ' '))
		return err_set(
			err, -ENOTSUP,
			"tokenizer.ggml.pre \"%s\" is not a known pre-tokenizer: text would be cut "
			"wrongly, so the model is refused",
			str_escape(shown, sizeof(shown), name, strlen(name)));
	p = mem_alloc(sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->mem = pcre2_general_context_create(hook_alloc, hook_free, NULL);
	if (!p->mem)
		return -ENOMEM;
	for (; p->n < PRETOK_REGEX_MAX && found->regex[p->n]; p->n++) {
		pcre2_compile_context *cc = pcre2_compile_context_create(p->mem);
		PCRE2_SIZE at = 0;
		int code = 0;

		if (!cc)
			return -ENOMEM;
		p->code[p->n] = pcre2_compile((PCRE2_SPTR)found->regex[p->n], PCRE2_ZERO_TERMINATED,
			PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, cc);
		pcre2_compile_context_free(cc);
		if (!p->code[p->n] && code == PCRE2_ERROR_HEAP_FAILED)
			return -ENOMEM;
		if (!p->code[p->n])
			return err_set(err, -EINVAL,
			               "pre-tokenizer %s: expression %u does not compile at %zu",
			               name, p->n, (size_t)at);
	}
	*row = found;
	*ret = STEAL(p);
	return 0;
}

struct pretok *pretok_free(struct pretok *p)
{
	if (!p)
		return NULL;
	for (unsigned i = 0; i < PRETOK_REGEX_MAX; i++)
		pcre2_code_free(p->code[i]);
	pcre2_general_context_free(p->mem);
	return mem_free(p);
}

/* Cut [begin, end) by one expression; appends end offsets. */
static int cut_piece(const pcre2_code *code, pcre2_match_data *md, pcre2_match_context *mc,
                     const char *text, uint32_t begin, uint32_t end, struct cuts *out)
{
	size_t n = end - begin, at = 0, last = 0;

	while (at < n) {
		const PCRE2_SIZE *span;
		int r = pcre2_match(code, (PCRE2_SPTR)text + begin, n, at,
		                    PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, md, mc);

		if (r == PCRE2_ERROR_NOMATCH)
			break;
		if (r < 0)
			return -ENOMEM;         /* heap or match limit: see invariant 3 */
		span = pcre2_get_ovector_pointer(md);
		if (span[0] > last && vec_push(out, begin + (uint32_t)span[0]) < 0)
			return -ENOMEM;
		if (vec_push(out, begin + (uint32_t)span[1]) < 0)
			return -ENOMEM;
		at = last = span[1];
	}
	return last < n ? vec_push(out, end) : 0;
}

int pretok_cut(const struct pretok *p, const char *text, size_t n, struct cuts *out,
               struct cuts *tmp)
{
	pcre2_match_data *md = pcre2_match_data_create(1, p->mem);
	pcre2_match_context *mc = pcre2_match_context_create(p->mem);
	int r = md && mc ? 0 : -ENOMEM;

	if (r == 0) {
		pcre2_set_match_limit(mc, UINT32_MAX);
		pcre2_set_depth_limit(mc, UINT32_MAX);
		pcre2_set_heap_limit(mc, 1 << 20);      /* KiB */
		out->n = 0;
		r = n ? vec_push(out, (uint32_t)n) : 0;
	}
	for (unsigned i = 0; r == 0 && i < p->n; i++) {
		struct cuts swap = *tmp;
		uint32_t begin = 0;

		*tmp = *out;
		*out = swap;
		out->n = 0;
		for (size_t k = 0; r == 0 && k < tmp->n; k++) {
			r = cut_piece(p->code[i], md, mc, text, begin, tmp->data[k], out);
			begin = tmp->data[k];
		}
	}
	pcre2_match_context_free(mc);
	pcre2_match_data_free(md);
	return r;
}
