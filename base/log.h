/* log - one hook; the daemon points it at the journal, tools at stderr. Never pass prompt or
 * generated text. */
#pragma once
#include <stdarg.h>

enum log_level { LOG_L_ERR = 3, LOG_L_WARN = 4, LOG_L_NOTICE = 5, LOG_L_INFO = 6, LOG_L_DEBUG = 7 };
struct log_field {                      /* structured journal field: "QLLM_UID", "1000" */
	const char *key, *value;
};
typedef void (*log_fn)(enum log_level level, const char *message_id, const struct log_field *fields,
                       unsigned n_fields, const char *text);
void log_set_hook(log_fn fn);                           /* NULL = stderr */
void log_set_level(enum log_level max);                 /* default LOG_L_INFO */
void log_msg(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_fields(enum log_level level, const char *message_id, const struct log_field *fields,
                unsigned n_fields, const char *format, ...) __attribute__((format(printf, 5, 6)));
