/* log - formats one line and hands it to the hook, which may be called from any thread. */
#include "base/log.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

static _Atomic(log_fn) hook;
static atomic_int max_level = LOG_L_INFO;

/* One write a line: lines of several threads and processes do not mix. */
static void to_stderr(enum log_level level, const char *text)
{
	static const char *const names[] = {
		[LOG_L_ERR] = "error: ", [LOG_L_WARN] = "warning: ", [LOG_L_NOTICE] = "",
		[LOG_L_INFO] = "", [LOG_L_DEBUG] = "debug: ",
	};
	char line[LINE_MAX_BYTES + 128];
	int n = snprintf(line, sizeof(line), "%s: %s%s\n", program_invocation_short_name,
	                 names[level], text);

	if (n < 0)
		return;
	if ((size_t)n >= sizeof(line)) {
		n = sizeof(line) - 1;
		line[n - 1] = '\n';
	}
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;                         /* nowhere left to complain */
}

static void emit(enum log_level level, const char *message_id, const struct log_field *fields,
                 unsigned n_fields, const char *format, va_list ap)
	__attribute__((format(printf, 5, 0)));
static void emit(enum log_level level, const char *message_id, const struct log_field *fields,
                 unsigned n_fields, const char *format, va_list ap)
{
	int saved = errno, n;
	char text[LINE_MAX_BYTES];
	log_fn fn = atomic_load(&hook);

	n = vsnprintf(text, sizeof(text), format, ap);
	if (n >= (int)sizeof(text))
		memcpy(text + sizeof(text) - 4, "...", 4);
	if (n >= 0 && fn)
		fn(level, message_id, fields, n_fields, text);
	else if (n >= 0)
		to_stderr(level, text);
	errno = saved;
}

void log_set_hook(log_fn fn)
{
	atomic_store(&hook, fn);
}

void log_set_level(enum log_level max)
{
	atomic_store(&max_level, (int)max);
}

void log_msg(enum log_level level, const char *format, ...)
{
	va_list ap;

	if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
		return;
	va_start(ap, format);
	emit(level, NULL, NULL, 0, format, ap);
	va_end(ap);
}

void log_fields(enum log_level level, const char *message_id, const struct log_field *fields,
                unsigned n_fields, const char *format, ...)
{
	va_list ap;

	if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
		return;
	va_start(ap, format);
	emit(level, message_id, fields, n_fields, format, ap);
	va_end(ap);
}
