/* journal - sd_journal_sendv where the journal listens. No text of prompts or answers ever reaches
 * a log call. */
#include "daemon/journal.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include "base/num.h"
#include "base/str.h"

enum { FIELDS_MAX = 16 };

static void to_journal(enum log_level level, const char *message_id, const struct log_field *fields,
                       unsigned n_fields, const char *text)
{
	struct sbuf parts[FIELDS_MAX + 3] = { 0 };
	struct iovec iov[FIELDS_MAX + 3];
	int n = 0;

	if (sbuf_printf(&parts[n], "MESSAGE=%s", text) == 0)
		n++;
	if (sbuf_printf(&parts[n], "PRIORITY=%d", (int)level) == 0)
		n++;
	if (message_id && sbuf_printf(&parts[n], "MESSAGE_ID=%s", message_id) == 0)
		n++;
	for (unsigned i = 0; i < n_fields && i < FIELDS_MAX; i++)
		if (sbuf_printf(&parts[n], "%s=%s", fields[i].key, fields[i].value) == 0)
			n++;
	for (int i = 0; i < n; i++)
		iov[i] = (struct iovec){ parts[i].p, parts[i].n };
	sd_journal_sendv(iov, n);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		sbuf_deinit(&parts[i]);
}

void journal_add(struct journal_fields *j, const char *key, const char *format, ...)
{
	va_list ap;

	if (j->n == JOURNAL_FIELDS)
		return;
	va_start(ap, format);
	vsnprintf(j->values[j->n], JOURNAL_VALUE, format, ap);
	va_end(ap);
	j->f[j->n] = (struct log_field){ key, j->values[j->n] };
	j->n++;
}

/* $JOURNAL_STREAM is "dev:inode" of the stderr that systemd gave us. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(2, &st) == 0 &&
	       st.st_dev == dev && st.st_ino == ino;
}

void journal_setup(void)
{
	if (stderr_is_journal())
		log_set_hook(to_journal);
}

int journal_level(const char *name, struct err *err)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {
		{ "error", LOG_L_ERR }, { "warning", LOG_L_WARN }, { "notice", LOG_L_NOTICE },
		{ "info", LOG_L_INFO }, { "debug", LOG_L_DEBUG },
	};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (strcmp(levels[i].name, name) == 0) {
			log_set_level(levels[i].level);
			return 0;
		}
	return err_set(err, -EINVAL,
	               "log level %.40s: error, warning, notice, info or debug is needed", name);
}
