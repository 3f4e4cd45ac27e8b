/* str - growable text, UTF-8 and strict parsers.
 *
 * Invariants:
 * 1. A failed append leaves the buffer as it was; p[n] is NUL whenever p is not NULL.
 * 2. UTF-8 is RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#include "base/str.h"
#include "base/num.h"
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

/* Room for `more` bytes and the NUL. */
static int sbuf_reserve(struct sbuf *s, size_t more)
{
	size_t total, need, cap;
	char *p;

	if (add_overflows(s->n, more, &total) || add_overflows(total, (size_t)1, &need))
		return -ENOMEM;
	if (s->max && total > s->max)
		return -ENOSPC;
	if (need <= s->cap)
		return 0;
	if (mul_overflows(s->cap, (size_t)2, &cap))
		cap = need;
	cap = MAX(MAX(cap, need), (size_t)64);
	p = mem_realloc(s->p, cap);
	if (!p)
		return -ENOMEM;
	p[s->n] = 0;
	s->p = p;
	s->cap = cap;
	return 0;
}

int sbuf_append(struct sbuf *s, const void *p, size_t n)
{
	int r = sbuf_reserve(s, n);

	if (r < 0)
		return r;
	if (n)
		memcpy(s->p + s->n, p, n);
	s->n += n;
	s->p[s->n] = 0;
	return 0;
}

int sbuf_printf(struct sbuf *s, const char *format, ...)
{
	va_list ap, again;
	int n, r = 0;

	va_start(ap, format);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, format, ap);
	if (n < 0)
		r = -EINVAL;
	else
		r = sbuf_reserve(s, (size_t)n);
	if (r == 0) {
		vsnprintf(s->p + s->n, (size_t)n + 1, format, again);
		s->n += (size_t)n;
	}
	va_end(again);
	va_end(ap);
	return r;
}

char *sbuf_steal(struct sbuf *s)
{
	char *p = s->p ? s->p : mem_strdup("");

	if (p) {
		s->p = NULL;
		s->n = s->cap = 0;
	}
	return p;
}

void sbuf_deinit(struct sbuf *s)
{
	s->p = mem_free(s->p);
	s->n = s->cap = 0;
}

/* What a lead byte promises: its length, or 0 for a byte that cannot lead; the bounds of the second
 * byte keep out overlong forms, surrogates and values past U+10FFFF. */
static unsigned lead(uint8_t b, uint8_t *lo, uint8_t *hi)
{
	*lo = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
	*hi = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
	if (b < 0x80)
		return 1;
	if (b >= 0xc2 && b <= 0xdf)
		return 2;
	if (b >= 0xe0 && b <= 0xef)
		return 3;
	return b >= 0xf0 && b <= 0xf4 ? 4 : 0;
}

unsigned utf8_decode(const char *p, size_t n, uint32_t *ret_cp)
{
	static const uint8_t lead_mask[5] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
	const uint8_t *u = (const uint8_t *)p;
	uint8_t lo, hi;
	unsigned len;
	uint32_t cp;

	if (n == 0)
		return 0;
	len = lead(u[0], &lo, &hi);
	if (len == 0 || len > n)
		return 0;
	if (len > 1 && (u[1] < lo || u[1] > hi))
		return 0;
	cp = u[0] & lead_mask[len];
	for (unsigned i = 1; i < len; i++) {
		if ((u[i] & 0xc0) != 0x80)
			return 0;
		cp = cp << 6 | (u[i] & 0x3f);
	}
	*ret_cp = cp;
	return len;
}

unsigned utf8_encode(uint32_t cp, char out[4])
{
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	if (cp < 0x800) {
		out[0] = (char)(0xc0 | cp >> 6);
		out[1] = (char)(0x80 | (cp & 0x3f));
		return 2;
	}
	if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
		return 0;
	if (cp < 0x10000) {
		out[0] = (char)(0xe0 | cp >> 12);
		out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
		out[2] = (char)(0x80 | (cp & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | cp >> 18);
	out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
	out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
	out[3] = (char)(0x80 | (cp & 0x3f));
	return 4;
}

bool utf8_valid(const char *p, size_t n)
{
	uint32_t cp;

	for (size_t i = 0; i < n;) {
		unsigned len = utf8_decode(p + i, n - i, &cp);

		if (len == 0)
			return false;
		i += len;
	}
	return true;
}

size_t utf8_complete_prefix(const char *p, size_t n)
{
	const uint8_t *u = (const uint8_t *)p;

	/* A cut code point has at most 3 bytes here: walk back over continuations to its lead. */
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		const uint8_t *at = u + n - back;
		uint8_t lo, hi;

		if ((*at & 0xc0) == 0x80)
			continue;
		if (lead(*at, &lo, &hi) <= back)
			return n;               /* complete, or no lead byte at all */
		if (back > 1 && (at[1] < lo || at[1] > hi))
			return n;               /* no byte to come can repair it */
		return n - back;
	}
	return n;
}

/* Control characters (C0, DEL, C1), line separators and text direction marks change what a terminal
 * or a log shows around them. */
static bool is_plain(uint32_t cp)
{
	return !(cp < 0x20 || (cp >= 0x7f && cp <= 0x9f) || (cp >= 0x2028 && cp <= 0x202e) ||
	         (cp >= 0x2066 && cp <= 0x2069));
}

char *str_escape(char *out, size_t size, const void *p, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	const char *s = p;
	size_t at = 0, safe = 0; /* safe: the last unit boundary with room for "..." behind it */

	if (size == 0)
		return out;
	for (size_t i = 0; i < n;) {
		char unit[16];
		uint32_t cp;
		unsigned len = utf8_decode(s + i, n - i, &cp), unit_len = 0;
		bool plain = len > 0 && is_plain(cp);

		len = len ? len : 1;
		for (unsigned j = 0; j < len; j++) {
			uint8_t b = (uint8_t)s[i + j];

			if (!plain) {
				unit[unit_len++] = '\\';
				unit[unit_len++] = 'x';
				unit[unit_len++] = hex[b >> 4];
				unit[unit_len++] = hex[b & 15];
			} else {
				unit[unit_len++] = (char)b;
			}
		}
		if (unit_len > size - 1 - at) {
			size_t dots = MIN((size_t)3, size - 1 - safe);

			memcpy(out + safe, "...", dots);
			out[safe + dots] = 0;
			return out;
		}
		memcpy(out + at, unit, unit_len);
		at += unit_len;
		if (at + 3 <= size - 1)
			safe = at;
		i += len;
	}
	out[at] = 0;
	return out;
}

int str_to_u64(const char *s, uint64_t *ret)
{
	uint64_t x = 0;

	if (!*s)
		return -EINVAL;
	for (const char *p = s; *p; p++)
		if (*p < '0' || *p > '9')
			return -EINVAL;
	for (; *s; s++)
		if (mul_overflows(x, (uint64_t)10, &x) ||
		    add_overflows(x, (uint64_t)(*s - '0'), &x))
			return -ERANGE;
	*ret = x;
	return 0;
}

int str_to_double(const char *s, double *ret)
{
	const char *digits = *s == '-' ? s + 1 : s;
	locale_t c_locale;
	double x;
	char *end;

	/* Keeps out what strtod also takes: spaces, plus signs, hexadecimal, nan and inf. */
	if (!((*digits >= '0' && *digits <= '9') || *digits == '.') ||
	    digits[strspn(digits, "0123456789.eE+-")] != 0)
		return -EINVAL;
	c_locale = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
	if (!c_locale)
		return -ENOMEM;
	x = strtod_l(s, &end, c_locale);
	freelocale(c_locale);
	if (*end || end == s)
		return -EINVAL;
	if (!isfinite(x))
		return -ERANGE;
	*ret = x;
	return 0;
}

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool str_is_name(const char *s)
{
	size_t n = strnlen(s, 65);

	if (n < 1 || n > 64 || !is_alnum(s[0]))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!is_alnum(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-')
			return false;
	return true;
}
