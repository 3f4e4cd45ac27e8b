/* jinja-lex - a template's tokens. Outside tags everything is data; whitespace control happens here
 * and nowhere else:
 *
 * 1. trim_blocks: the newline right after a block or comment tag goes; lstrip_blocks: blanks
 *    between a line's start and a block or comment tag go. "-" takes all white space on its side,
 *    "+" switches the automatism off.
 * 2. Inside a tag, an end mark counts only when no bracket is open, as in {{ {"a": {}} }}.
 * 3. One trailing newline of the template is dropped (done by the caller along with line ends). */
#include <errno.h>
#include "base/vec.h"
#include "text/jinja-priv.h"

struct lex {
	const char *p;
	size_t n, at;
	uint32_t line;
	/* the text before `at` ended in a newline, or there was none */
	bool line_start;
	struct jtoks toks;
	struct arena *mem;
	struct err *err;
};

static int fail(struct lex *l, uint32_t line, const char *what)
{
	return err_set(l->err, -EINVAL, "chat template, line %u: %s", line, what);
}

static int push(struct lex *l, enum jtok_kind kind, uint32_t line, struct bytes s)
{
	struct jtok t = { kind, line, s };

	return vec_push(&l->toks, t);
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool at_text(const struct lex *l, size_t at, const char *s)
{
	size_t n = strlen(s);

	return l->n - at >= n && memcmp(l->p + at, s, n) == 0;
}

static void advance(struct lex *l, size_t to)
{
	for (; l->at < to; l->at++)
		l->line += l->p[l->at] == '\n';
}

static void skip_space(struct lex *l)
{
	size_t to = l->at;

	while (to < l->n && is_space(l->p[to]))
		to++;
	advance(l, to);
}

/* What follows a tag's end: all white space after "-", one newline after a block or comment. */
static void after_tag(struct lex *l, bool strip, bool trim)
{
	if (strip)
		skip_space(l);
	else if (trim && l->at < l->n && l->p[l->at] == '\n')
		advance(l, l->at + 1);
	l->line_start = l->at > 0 && l->p[l->at - 1] == '\n';
}

/* Emit data [begin, end) before a tag that opens with `sign`. */
static int push_data(struct lex *l, size_t begin, size_t end, uint32_t line, char sign, bool block)
{
	if (sign == '-') {
		while (end > begin && is_space(l->p[end - 1]))
			end--;
	} else if (sign != '+' && block) {
		size_t cut = end;

		while (cut > begin && is_space(l->p[cut - 1]) && l->p[cut - 1] != '\n')
			cut--;
		if (cut > begin ? l->p[cut - 1] == '\n' : l->line_start)
			end = cut;
	}
	return end > begin ? push(l, JT_DATA, line, (struct bytes){ l->p + begin, end - begin })
	                   : 0;
}

/* ---- inside tags ---- */

static bool name_start(char c)
{
	return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static int hex_value(const char *p, unsigned n, uint32_t *ret)
{
	*ret = 0;
	for (unsigned i = 0; i < n; i++) {
		char c = p[i];

		if (digit(c))
			*ret = *ret * 16 + (uint32_t)(c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			*ret = *ret * 16 + (uint32_t)((c | 32) - 'a' + 10);
		else
			return -EINVAL;
	}
	return 0;
}

/* One escape at p (past the backslash) into out; returns bytes read, 0 when unknown: then the
 * backslash stays. */
static size_t unescape(const char *p, size_t n, char *out, size_t *out_n)
{
	static const char from[] = "ntr\\'\"abfv0", to[] = "\n\t\r\\'\"\a\b\f\v";
	const char *at = n ? strchr(from, *p) : NULL;
	unsigned digits = n == 0 ? 0 : *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
	uint32_t cp, low;

	if (digits && n > digits && hex_value(p + 1, digits, &cp) == 0) {
		/* A pair of surrogates, as JSON spells it, is one code point. */
		if (cp >= 0xd800 && cp < 0xdc00 && n >= 11 && p[5] == '\\' && p[6] == 'u' &&
		    hex_value(p + 7, 4, &low) == 0 && low >= 0xdc00 && low < 0xe000) {
			*out_n += utf8_encode(0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00),
			                      out + *out_n);
			return 11;
		}
		*out_n += utf8_encode(cp, out + *out_n);
		return digits + 1;
	}
	if (n && *p == '\n')            /* a continued line */
		return 1;
	if (!at || !*p)
		return 0;
	out[(*out_n)++] = to[at - from];
	return 1;
}

static int lex_string(struct lex *l)
{
	char quote = l->p[l->at];
	uint32_t line = l->line;
	size_t begin = l->at + 1, end = begin, n = 0;
	char *out;

	while (end < l->n && l->p[end] != quote)
		end += l->p[end] == '\\' ? 2 : 1;
	if (end >= l->n)
		return fail(l, line, "a string has no end");
	out = arena_alloc(l->mem, end - begin + 1);
	if (!out)
		return -ENOMEM;
	for (size_t i = begin; i < end;) {
		size_t used = 0;

		/* An escape never gets longer than its spelling: \x is 4 bytes for at most 2, \u 6
		 * for 3, \U 10 for 4. */
		if (l->p[i] == '\\')
			used = unescape(l->p + i + 1, end - i - 1, out, &n);
		if (used) {
			i += used + 1;
		} else {
			out[n++] = l->p[i++];
		}
	}
	advance(l, end + 1);
	return push(l, JT_STR, line, (struct bytes){ out, n });
}

static int lex_number(struct lex *l)
{
	size_t begin = l->at, end = begin;
	bool real = false;

	while (end < l->n && (digit(l->p[end]) || l->p[end] == '_'))
		end++;
	if (end + 1 < l->n && l->p[end] == '.' && digit(l->p[end + 1])) {
		real = true;
		for (end++; end < l->n && digit(l->p[end]);)
			end++;
	}
	if (end < l->n && (l->p[end] | 32) == 'e') {
		size_t e = end + 1;

		if (e < l->n && (l->p[e] == '+' || l->p[e] == '-'))
			e++;
		if (e < l->n && digit(l->p[e])) {
			real = true;
			for (end = e; end < l->n && digit(l->p[end]);)
				end++;
		}
	}
	l->at = end;
	return push(l, real ? JT_FLOAT : JT_INT, l->line,
	            (struct bytes){ l->p + begin, end - begin });
}

static int lex_operator(struct lex *l, int *open)
{
	static const char *const two[] = { "//", "**", "==", "!=", "<=", ">=" };
	char c = l->p[l->at];
	size_t n = 1;

	for (size_t i = 0; i < ARRAY_SIZE(two); i++)
		if (at_text(l, l->at, two[i]))
			n = 2;
	if (n == 1 && (c == 0 || !strchr("+-*/%~=<>()[]{}.,:|;", c)))
		return fail(l, l->line, "a character that is no part of the template language");
	if (c == '(' || c == '[' || c == '{')
		++*open;
	else if ((c == ')' || c == ']' || c == '}') && *open > 0)
		--*open;
	l->at += n;
	return push(l, JT_OP, l->line, (struct bytes){ l->p + l->at - n, n });
}

/* Tokens up to the tag's end mark ("%}" or "}}"). */
static int lex_tag(struct lex *l, bool block)
{
	const char *end = block ? "%}" : "}}";
	uint32_t line = l->line;
	int open = 0, r = push(l, block ? JT_BLOCK_BEGIN : JT_VAR_BEGIN, line, (struct bytes){ 0 });

	while (r == 0) {
		char sign, c;

		skip_space(l);
		if (l->at >= l->n)
			return fail(l, line, block ? "a {% tag has no end" : "a {{ tag has no end");
		c = l->p[l->at];
		sign = (c == '-' || (c == '+' && block)) && at_text(l, l->at + 1, end) ? c : 0;
		if (open == 0 && (sign || at_text(l, l->at, end))) {
			r = push(l, block ? JT_BLOCK_END : JT_VAR_END, l->line,
			         (struct bytes){ 0 });
			l->at += sign ? 3 : 2;
			after_tag(l, sign == '-', block && sign != '+');
			return r;
		}
		if (c == '"' || c == '\'') {
			r = lex_string(l);
		} else if (digit(c)) {
			r = lex_number(l);
		} else if (name_start(c)) {
			size_t begin = l->at;

			while (l->at < l->n && (name_start(l->p[l->at]) || digit(l->p[l->at])))
				l->at++;
			r = push(l, JT_NAME, l->line,
			         (struct bytes){ l->p + begin, l->at - begin });
		} else {
			r = lex_operator(l, &open);
		}
	}
	return r;
}

static int lex_comment(struct lex *l)
{
	uint32_t line = l->line;
	size_t end = l->at;

	while (end < l->n && !at_text(l, end, "#}"))
		end++;
	if (end >= l->n)
		return fail(l, line, "a comment {# has no end");
	char sign = end > l->at ? l->p[end - 1] : 0;

	advance(l, end + 2);
	after_tag(l, sign == '-', sign != '+');
	return 0;
}

/* Does a tag with just this word open at `at`? Returns the offset past it, or 0; *ret_sign is its
 * end's sign. */
static size_t word_tag(const struct lex *l, size_t at, const char *word, char *ret_sign)
{
	if (!at_text(l, at, "{%"))
		return 0;
	at += 2;
	if (at < l->n && (l->p[at] == '-' || l->p[at] == '+'))
		at++;
	while (at < l->n && is_space(l->p[at]))
		at++;
	if (!at_text(l, at, word))
		return 0;
	at += strlen(word);
	while (at < l->n && is_space(l->p[at]))
		at++;
	*ret_sign = at < l->n && (l->p[at] == '-' || l->p[at] == '+') ? l->p[at] : 0;
	at += *ret_sign != 0;
	return at_text(l, at, "%}") ? at + 2 : 0;
}

static int lex_raw(struct lex *l, size_t body, char sign)
{
	uint32_t line = l->line, data_line;
	size_t begin, end, past = 0;
	int r;

	advance(l, body);
	after_tag(l, sign == '-', false);
	begin = l->at;
	data_line = l->line;
	for (end = begin; end < l->n; end++)
		if (l->p[end] == '{' && (past = word_tag(l, end, "endraw", &sign)) > 0)
			break;
	if (end >= l->n)
		return fail(l, line, "a raw block has no endraw");
	r = push_data(l, begin, end, data_line, l->p[end + 2], true);
	advance(l, past);
	after_tag(l, sign == '-', sign != '+');
	return r;
}

static int lex_all(struct lex *l)
{
	while (l->at < l->n) {
		uint32_t line = l->line;
		size_t begin = l->at, end = begin, raw;
		char sign, raw_sign = 0, kind;
		int r;

		while (end < l->n && !(l->p[end] == '{' && end + 1 < l->n &&
		                       strchr("{%#", l->p[end + 1]) && l->p[end + 1]))
			end++;
		if (end >= l->n)
			return push_data(l, begin, end, line, '+', false);
		kind = l->p[end + 1];
		sign = end + 2 < l->n ? l->p[end + 2] : 0;
		if (sign != '-' && (sign != '+' || kind == '{'))
			sign = 0;
		r = push_data(l, begin, end, line, sign, kind != '{');
		if (r < 0)
			return r;
		advance(l, end);
		raw = kind == '%' ? word_tag(l, end, "raw", &raw_sign) : 0;
		if (raw == 0)
			advance(l, end + 2 + (sign != 0));
		r = raw           ? lex_raw(l, raw, raw_sign)
		    : kind == '#' ? lex_comment(l)
		                  : lex_tag(l, kind == '%');
		if (r < 0)
			return r;
	}
	return 0;
}

int jinja_lex(struct jtoks *ret, struct bytes text, struct arena *mem, struct err *err)
{
	struct lex l = {
		.p = text.p, .n = text.n, .line = 1, .line_start = true, .mem = mem, .err = err
	};
	int r = lex_all(&l);

	if (r == 0)
		r = push(&l, JT_END, l.line, (struct bytes){ "", 0 });
	if (r < 0) {
		vec_deinit(&l.toks);
		return r;
	}
	*ret = l.toks;
	return 0;
}
