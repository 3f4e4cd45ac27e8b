/* jinja-str - strings. Parts (strip, split) borrow; only what changes bytes makes new ones. Work is
 * charged by the length of the operand, so repeated passes over a long message count. */
#include <errno.h>
#include <math.h>
#include <utf8proc.h>
#include "base/vec.h"
#include "text/jinja-str.h"

static int finish(struct jeval *ev, int r, struct sbuf *s, struct jv *ret)
{
	if (r == 0)
		r = jv_from_sbuf(ev, ret, s);
	sbuf_deinit(s);
	return r == -ENOSPC ? jv_no_memory(ev) : r;
}

static bool cased(uint32_t cp)
{
	utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

	return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

int jstr_case(struct jeval *ev, struct bytes s, enum jstr_case how, struct jv *ret)
{
	struct sbuf out = { .max = JINJA_HEAP_MAX };
	bool start = true;
	int r = jv_charge(ev, s.n / 64);

	for (size_t i = 0; r == 0 && i < s.n;) {
		char text[4];
		uint32_t cp = 0;
		unsigned len = utf8_decode(s.p + i, s.n - i, &cp);
		bool up = how == JSTR_UPPER || (start && how != JSTR_LOWER);

		if (len == 0) {
			r = sbuf_append(&out, s.p + i++, 1);
			continue;
		}
		i += len;
		start = how == JSTR_TITLE && !cased(cp);
		cp = (uint32_t)(up ? utf8proc_toupper((utf8proc_int32_t)cp)
		                   : utf8proc_tolower((utf8proc_int32_t)cp));
		r = sbuf_append(&out, text, utf8_encode(cp, text));
	}
	return finish(ev, r, &out, ret);
}

bool jstr_is_case(struct bytes s, enum jstr_case how)
{
	bool any = false;

	for (size_t i = 0; i < s.n;) {
		uint32_t cp = 0;
		unsigned len = utf8_decode(s.p + i, s.n - i, &cp);
		utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

		i += len ? len : 1;
		if (c == (how == JSTR_UPPER ? UTF8PROC_CATEGORY_LL : UTF8PROC_CATEGORY_LU) ||
		    c == UTF8PROC_CATEGORY_LT)
			return false;
		any |= c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LU;
	}
	return any;
}

/* Python's str.isspace. */
static bool is_space(uint32_t cp)
{
	utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);

	return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x1f) || cp == 0x85 ||
	       c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

static bool strippable(const struct bytes *chars, const char *p, unsigned len)
{
	uint32_t cp = 0;

	if (!chars)
		return utf8_decode(p, len, &cp) && is_space(cp);
	for (size_t i = 0; i + len <= chars->n; i++)
		if (memcmp(chars->p + i, p, len) == 0)
			return true;
	return false;
}

/* Bytes of the code point that ends at p[n]. */
static unsigned last_length(const char *p, size_t n)
{
	unsigned len = 1;

	while (len < n && len < 4 && ((uint8_t)p[n - len] & 0xc0) == 0x80)
		len++;
	return len;
}

struct bytes jstr_strip(struct bytes s, const struct bytes *chars, unsigned sides)
{
	while ((sides & JSTR_LEFT) && s.n) {
		uint32_t cp;
		unsigned len = utf8_decode(s.p, s.n, &cp);

		if (len == 0 || !strippable(chars, s.p, len))
			break;
		s.p += len;
		s.n -= len;
	}
	while ((sides & JSTR_RIGHT) && s.n) {
		unsigned len = last_length(s.p, s.n);

		if (!strippable(chars, s.p + s.n - len, len))
			break;
		s.n -= len;
	}
	return s;
}

/* One byte by memchr: under a thread sanitizer memmem reads the rest of the string each time. */
const char *jstr_find(struct bytes s, struct bytes what)
{
	if (s.n < what.n)
		return NULL;
	return what.n == 1 ? memchr(s.p, *what.p, s.n) : memmem(s.p, s.n, what.p, what.n);
}

const char *jstr_find_last(struct bytes s, struct bytes what)
{
	for (size_t at = s.n; at >= what.n; at--)
		if (memcmp(s.p + at - what.n, what.p, what.n) == 0)
			return s.p + at - what.n;
	return NULL;
}

uint64_t jstr_last_steps(struct bytes s, struct bytes what)
{
	return (uint64_t)s.n * what.n / 4096;
}

int jstr_replace(struct jeval *ev, struct bytes s, struct bytes old, struct bytes new, int64_t max,
                 struct jv *ret)
{
	struct sbuf out = { .max = JINJA_HEAP_MAX };
	size_t at = 0;
	int r = jv_charge(ev, s.n / 64);

	if (old.n == 0)
		return r < 0 ? r : jv_fail(ev, "replace of an empty string is not supported");
	while (r == 0 && at < s.n && max != 0) {
		const char *hit = jstr_find((struct bytes){ s.p + at, s.n - at }, old);

		if (!hit)
			break;
		r = sbuf_append(&out, s.p + at, (size_t)(hit - s.p) - at);
		if (r == 0)
			r = sbuf_append(&out, new.p, new.n);
		if (r == 0)             /* a hit costs far more than a byte that is passed over */
			r = jv_charge(ev, 1);
		at = (size_t)(hit - s.p) + old.n;
		max--;
	}
	if (r == 0 && at == 0) {                /* nothing replaced */
		*ret = jv_str(s);
		return 0;
	}
	if (r == 0)
		r = sbuf_append(&out, s.p + at, s.n - at);
	return finish(ev, r, &out, ret);
}

int jstr_indent(struct jeval *ev, struct bytes s, struct bytes fill, bool first, bool blank,
                struct jv *ret)
{
	struct sbuf out = { .max = JINJA_HEAP_MAX };
	int r = jv_charge(ev, s.n / 64);

	for (size_t at = 0, line = 0; r == 0 && (at < s.n || line == 0); line++) {
		const char *end = at < s.n ? memchr(s.p + at, '\n', s.n - at) : NULL;
		size_t n = end ? (size_t)(end - s.p) + 1 - at : s.n - at;

		if ((line ? blank || (n > 1 || (n == 1 && !end)) : first))
			r = sbuf_append(&out, fill.p, fill.n);
		if (r == 0)
			r = sbuf_append(&out, s.p + at, n);
		at += n;
		if (n == 0)
			break;
	}
	return finish(ev, r, &out, ret);
}

int jstr_escape_html(struct jeval *ev, struct bytes s, struct jv *ret)
{
	static const char from[] = "&<>'\"";
	static const char *const to[] = { "&amp;", "&lt;", "&gt;", "&#39;", "&#34;" };
	struct sbuf out = { .max = JINJA_HEAP_MAX };
	int r = jv_charge(ev, s.n / 64);

	for (size_t i = 0; r == 0 && i < s.n; i++) {
		const char *at = s.p[i] ? strchr(from, s.p[i]) : NULL;

		r = at ? sbuf_append(&out, to[at - from], strlen(to[at - from]))
		       : sbuf_append(&out, s.p + i, 1);
	}
	return finish(ev, r, &out, ret);
}

typedef VEC(struct bytes) parts_t;

/* Charged one by one, so that the budget bounds their memory as well. */
static int push_part(struct jeval *ev, parts_t *parts, struct bytes s)
{
	int r = jv_charge(ev, 1);

	return r < 0 ? r : vec_push(parts, s) < 0 ? jv_no_memory(ev) : 0;
}

static int split_space(struct jeval *ev, struct bytes s, int64_t max, parts_t *parts)
{
	int r = 0;

	s = jstr_strip(s, NULL, JSTR_LEFT);
	while (r == 0 && s.n) {
		size_t n = 0;
		uint32_t cp;

		if (max == 0)
			return push_part(ev, parts, jstr_strip(s, NULL, JSTR_RIGHT));
		while (n < s.n) {
			unsigned len = utf8_decode(s.p + n, s.n - n, &cp);

			if (len && is_space(cp))
				break;
			n += len ? len : 1;
		}
		r = push_part(ev, parts, (struct bytes){ s.p, n });
		s = jstr_strip((struct bytes){ s.p + n, s.n - n }, NULL, JSTR_LEFT);
		max--;
	}
	return r;
}

static int split_at(struct jeval *ev, struct bytes s, struct bytes sep, int64_t max,
                    bool from_right, parts_t *parts)
{
	int r = from_right ? jv_charge(ev, jstr_last_steps(s, sep)) : 0;

	for (; r == 0 && max != 0; max--) {
		const char *hit = from_right ? jstr_find_last(s, sep) : jstr_find(s, sep);
		size_t before;

		if (!hit)
			break;
		before = (size_t)(hit - s.p);
		r = push_part(ev, parts,
		              from_right ? (struct bytes){ hit + sep.n, s.n - before - sep.n }
		                         : (struct bytes){ s.p, before });
		s = from_right ? (struct bytes){ s.p, before } :
			(struct bytes){ hit + sep.n, s.n - before - sep.n };
	}
	return r < 0 ? r : push_part(ev, parts, s);
}

int jstr_split(struct jeval *ev, struct bytes s, const struct bytes *sep, int64_t max,
               bool from_right, struct jv *ret)
{
	parts_t parts = { 0 };
	struct jlist *list = NULL;
	int r;

	if (sep && sep->n == 0)
		return jv_fail(ev, "split wants a separator that is not empty");
	r = jv_charge(ev, s.n / 64);
	if (r == 0)
		r = sep ? split_at(ev, s, *sep, max, from_right, &parts)
			: split_space(ev, s, max, &parts);
	if (r == 0 && !(list = jv_list_new(ev, parts.n)))
		r = jv_no_memory(ev);
	for (size_t i = 0; r == 0 && i < parts.n; i++)
		list->v[i] = jv_str(parts.data[sep && from_right ? parts.n - 1 - i : i]);
	vec_deinit(&parts);
	return r < 0 ? r : jv_list_seal(ev, list, ret);
}

bool jstr_number(struct bytes s, char *text, size_t size, double *ret)
{
	char *end;

	s = jstr_strip(s, NULL, JSTR_LEFT | JSTR_RIGHT);
	if (s.n == 0 || s.n >= size)
		return false;
	memcpy(text, s.p, s.n);
	text[s.n] = 0;
	*ret = strtod(text, &end);
	return *end == 0 && !strpbrk(text, "xXpP") && isfinite(*ret);
}
