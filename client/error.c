/* error - one sentence, one errno, one exit class for the last failure on a connection. */
#include <errno.h>
#include "client/conn.h"

int error_set(struct qllm *q, int code, int exit_class, const char *format, ...)
{
	va_list ap;

	err_clear(&q->err);
	va_start(ap, format);
	err_setv(&q->err, code, format, ap);
	va_end(ap);
	q->err_class = exit_class;
	return code;
}

int error_take(struct qllm *q, int code, int exit_class, const struct err *err)
{
	return error_set(q, code, exit_class, "%s", err->text[0] ? err->text : strerror(-code));
}

/* For an Error frame that names no errno. */
int error_of_class(unsigned exit_class)
{
	switch (exit_class) {
	case EXIT_USAGE:
		return -EINVAL;
	case EXIT_NOT_LOADED:
		return -ENODATA;
	case EXIT_NO_MODEL:
		return -ENOENT;
	case EXIT_REFUSED:
		return -EPERM;
	case EXIT_BUSY:
		return -EBUSY;
	case EXIT_TIMEOUT:
		return -ETIMEDOUT;
	case EXIT_INTERRUPTED:
		return -ECANCELED;
	default:
		return -EIO;
	}
}

int error_class_of(int code)
{
	switch (code) {
	case -EINVAL:
		return EXIT_USAGE;
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -ENOTCONN:
	case -EPROTO:
		return EXIT_UNREACHABLE;
	case -ETIMEDOUT:
		return EXIT_TIMEOUT;
	default:
		return EXIT_FAILED;
	}
}

const char *qllm_error_text(const struct qllm *q)
{
	return q->err.text;
}

int qllm_error_class(const struct qllm *q)
{
	return q->err_class;
}
