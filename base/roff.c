/* roff - escapes and breaks lines.
 *
 * 1. A line never begins with a period or an apostrophe, which would make it a request.
 * 2. Where a sentence ends a line ends, as manual pages are written. */
#include "base/roff.h"
#include <stdbool.h>
#include <string.h>

enum { WIDTH = 78 };

static size_t escaped(FILE *f, char c)
{
	if (c == '-' || c == '\\') {
		if (f)
			fputs(c == '-' ? "\\-" : "\\e", f);
		return 2;
	}
	if (f)
		fputc(c, f);
	return 1;
}

void roff_word(FILE *f, const char *s)
{
	for (; *s; s++)
		escaped(f, *s);
}

static size_t width(const char *s, size_t n)
{
	size_t w = 0;

	for (size_t i = 0; i < n; i++)
		w += escaped(NULL, s[i]);
	return w;
}

static bool ends_sentence(const char *s, size_t n)
{
	return n > 1 && (s[n - 1] == '.' || s[n - 1] == '?');
}

/* Words of one string from column `at` on; the column after them. fresh: a sentence has ended. */
static size_t put(FILE *f, const char *s, size_t at, bool *fresh)
{
	while (*s) {
		size_t n = strcspn(s, " "), w = width(s, n);
		bool request = *s == '.' || *s == '\'';

		if (at > 0 && (*fresh || at + 1 + w > WIDTH)) {
			fputc('\n', f);
			at = 0;
		}
		if (at > 0) {
			fputc(' ', f);
			at++;
		}
		if (at == 0 && request) {
			fputs("\\&", f);
			at = 2;
		}
		for (size_t i = 0; i < n; i++)
			escaped(f, s[i]);
		at += w;
		*fresh = ends_sentence(s, n);
		s += n;
		s += strspn(s, " ");
	}
	return at;
}

void roff_lines(FILE *f, const char *s, const char *more)
{
	bool fresh = false;

	put(f, s, 0, &fresh);
	fprintf(f, "%s\n", more);
}
