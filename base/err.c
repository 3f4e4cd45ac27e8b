/* err - formats a sentence once and keeps the first one.
 *
 * Invariants:
 * 1. text is NUL-terminated and holds no newline, so that it fits one log or terminal line.
 * 2. errno is as it was for the caller of a failing function: %m works in the format string.
 * 3. A set err is never overwritten, only prefixed. */
#include "base/err.h"
#include "base/num.h"
#include <stdio.h>
#include <string.h>

/* One line: a sentence may quote text that slipped through unescaped. */
static void flatten(char *text)
{
	for (; *text; text++)
		if (*text == '\n' || *text == '\r')
			*text = ' ';
}

int err_setv(struct err *err, int code, const char *format, va_list ap)
{
	if (!err || err->code != 0)
		return code;
	err->code = code;
	if (vsnprintf(err->text, sizeof(err->text), format, ap) < 0)
		err->text[0] = 0;
	flatten(err->text);
	return code;
}

int err_set(struct err *err, int code, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	err_setv(err, code, format, ap);
	va_end(ap);
	return code;
}

int err_prefix(struct err *err, int code, const char *format, ...)
{
	char joined[ERR_TEXT_MAX];
	va_list ap;
	size_t at;
	int n;

	if (!err)
		return code;
	if (err->code == 0)
		err->code = code;
	va_start(ap, format);
	n = vsnprintf(joined, sizeof(joined), format, ap);
	va_end(ap);
	if (n < 0)
		return err->code;
	at = MIN((size_t)n, sizeof(joined) - 1);
	if (err->text[0]) {
		const char *parts[] = { ": ", err->text };

		for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
			size_t len = MIN(strlen(parts[i]), sizeof(joined) - 1 - at);

			memcpy(joined + at, parts[i], len);
			at += len;
		}
		joined[at] = 0;
	}
	memcpy(err->text, joined, sizeof(joined));
	flatten(err->text);
	return err->code;
}
