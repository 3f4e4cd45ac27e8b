/* err - one sentence for people beside a negative errno for code.
 *
 * Rules: a function returns 0 or a negative errno (fatal to the call, forwarded unchanged) or a
 * positive result of its own named MODULE_E_... (handled by the direct caller, never forwarded).
 * `struct err *` is the last parameter and may be NULL. The sentence says what, where, what to do.
 * Text from files or clients in it is escaped by err_set's caller with str_escape()
 * (base/str.h). */
#pragma once
#include <stdarg.h>
#include <stddef.h>

enum { ERR_TEXT_MAX = 512 };

struct err {
	int code;                       /* negative errno, 0 when unset */
	char text[ERR_TEXT_MAX];        /* always NUL-terminated, never with a newline */
};

/* Store code and sentence in err (when not NULL) and return code. The first sentence wins: a second
 * err_set on the same err keeps the text, so the innermost cause survives. */
int err_set(struct err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int err_setv(struct err *err, int code, const char *format, va_list ap)
	__attribute__((format(printf, 3, 0)));
/* Put "prefix: " before the sentence that is already there; returns err->code (or code if NULL). */
int err_prefix(struct err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static inline void err_clear(struct err *err)
{
	if (err) {
		err->code = 0;
		err->text[0] = 0;
	}
}
