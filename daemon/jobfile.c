/* jobfile - JSON both ways. What is read was written by this daemon, but a disk may have damaged
 * it and a person may have edited it: every field is checked for type and range, and a record that
 * does not pass is left out, never guessed at. */
#include "daemon/jobfile.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/num.h"

static const char *const state_names[JOB_STATES] = {
	[JOB_QUEUED] = "queued", [JOB_RUNNING] = "running", [JOB_PAUSED] = "paused",
	[JOB_FAILED] = "failed", [JOB_DONE] = "done",       [JOB_CANCELLED] = "cancelled",
};
static const char *const kind_names[JOB_KINDS] = {
	[JOB_VERIFY] = "verify", [JOB_PACK] = "pack", [JOB_EXPORT] = "export",
};

const char *job_state_name(enum job_state s)
{
	return state_names[s];
}

const char *job_kind_name(enum job_kind k)
{
	return kind_names[k];
}

void job_record_deinit(struct job_record *r)
{
	sbuf_deinit(&r->log);
}

char *job_record_text(const struct job_record *r)
{
	json_t *json = json_pack(
		"{s:i, s:I, s:s, s:s, s:I, s:s, s:I, s:b, s:i, s:I, s:I, s:I, s:f, s:I, s:I, "
		"s:s, s:s, s:s, s:s%}",
		"version", 1, "id", (json_int_t)r->id, "kind", kind_names[r->kind], "state",
		state_names[r->state], "uid", (json_int_t)r->uid, "model", r->model, "model_uid",
		(json_int_t)r->model_uid, "model_shared", (int)r->model_shared, "failures",
		(int)r->failures, "created", (json_int_t)r->created, "started",
		(json_int_t)r->started, "ended", (json_int_t)r->ended, "percent", r->percent,
		"bytes_read", (json_int_t)r->bytes_read, "bytes_written",
		(json_int_t)r->bytes_written, "error", r->error, "result", r->result, "checksum",
		r->checksum, "log", r->log.p ? r->log.p : "", r->log.n);
	char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;

	json_decref(json);
	return text;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct reader {
	const json_t *json;
	struct err *err;
	int r;
};

static void bad(struct reader *rd, const char *key, const char *what)
{
	if (rd->r == 0)
		rd->r = err_set(rd->err, -EBADMSG, "\"%s\" is %s", key, what);
}

static uint64_t number(struct reader *rd, const char *key, uint64_t max)
{
	const json_t *v = json_object_get(rd->json, key);
	json_int_t i = json_integer_value(v);

	if (!json_is_integer(v) || i < 0 || (uint64_t)i > max) {
		bad(rd, key, "no number in its range");
		return 0;
	}
	return (uint64_t)i;
}

static const char *text(struct reader *rd, const char *key, size_t max)
{
	const json_t *v = json_object_get(rd->json, key);

	/* the parser lets no NUL through */
	if (!json_is_string(v) || json_string_length(v) > max) {
		bad(rd, key, "no text, or too long");
		return "";
	}
	return json_string_value(v);
}

static unsigned choice(struct reader *rd, const char *key, const char *const *names, unsigned n)
{
	const char *s = text(rd, key, 64);

	for (unsigned i = 0; i < n; i++)
		if (strcmp(names[i], s) == 0)
			return i;
	bad(rd, key, "unknown here");
	return 0;
}

static void fill(struct job_record *r, struct reader *rd)
{
	const json_t *percent = json_object_get(rd->json, "percent"),
		     *shared = json_object_get(rd->json, "model_shared");
	const char *log;

	if (number(rd, "version", 1) != 1)
		bad(rd, "version", "not 1");
	r->id = number(rd, "id", INT64_MAX);
	if (r->id == 0)
		bad(rd, "id", "0");
	r->kind = choice(rd, "kind", kind_names, JOB_KINDS);
	r->state = choice(rd, "state", state_names, JOB_STATES);
	r->uid = (uid_t)number(rd, "uid", UINT32_MAX);
	snprintf(r->model, sizeof(r->model), "%s", text(rd, "model", sizeof(r->model) - 1));
	if (!str_is_name(r->model))
		bad(rd, "model", "no model name");
	r->model_uid = (uid_t)number(rd, "model_uid", UINT32_MAX);
	if (!json_is_boolean(shared))
		bad(rd, "model_shared", "neither true nor false");
	r->model_shared = json_is_true(shared);
	r->failures = (unsigned)number(rd, "failures", 1000);
	r->created = number(rd, "created", INT64_MAX);
	r->started = number(rd, "started", INT64_MAX);
	r->ended = number(rd, "ended", INT64_MAX);
	if (!json_is_number(percent))
		bad(rd, "percent", "no number");
	r->percent = CLAMP(json_number_value(percent), 0.0, 100.0);
	r->bytes_read = number(rd, "bytes_read", INT64_MAX);
	r->bytes_written = number(rd, "bytes_written", INT64_MAX);
	snprintf(r->error, sizeof(r->error), "%s", text(rd, "error", sizeof(r->error) - 1));
	snprintf(r->result, sizeof(r->result), "%s", text(rd, "result", sizeof(r->result) - 1));
	snprintf(r->checksum, sizeof(r->checksum), "%s",
	         text(rd, "checksum", sizeof(r->checksum) - 1));
	log = text(rd, "log", JOB_LOG_MAX);
	if (rd->r == 0 && sbuf_append(&r->log, log, strlen(log)) < 0)
		rd->r = err_set(rd->err, -ENOMEM, "out of memory");
}

int job_record_parse(struct job_record *ret, const char *p, size_t n, struct err *err)
{
	json_error_t why;
	json_t *json = json_loadb(p, n, JSON_REJECT_DUPLICATES, &why);
	struct reader rd = { json, err, 0 };
	struct job_record r = { 0 };

	if (!json_is_object(json)) {
		json_decref(json);
		return err_set(err, -EBADMSG, "no JSON object (line %d)", json ? 1 : why.line);
	}
	fill(&r, &rd);
	json_decref(json);
	if (rd.r < 0) {
		job_record_deinit(&r);
		return rd.r;
	}
	*ret = r;
	return 0;
}

/* --- log -------------------------------------------------------------------------------------- */

int job_record_log(struct job_record *r, const char *line)
{
	char shown[JOB_TEXT_MAX];
	size_t n;

	str_escape(shown, sizeof(shown), line, strlen(line));
	n = strlen(shown) + 1;
	if (r->log.n + n > JOB_LOG_MAX) {
		const char *half = r->log.p + r->log.n / 2, *cut = strchr(half, '\n');
		size_t from = cut ? (size_t)(cut + 1 - r->log.p) : r->log.n;

		memmove(r->log.p, r->log.p + from, r->log.n - from + 1);
		r->log.n -= from;
	}
	return sbuf_printf(&r->log, "%s\n", shown);
}

/* --- files ------------------------------------------------------------------------------------ */

void job_file_name(char ret[JOB_FILE_NAME_MAX], uint64_t id)
{
	snprintf(ret, JOB_FILE_NAME_MAX, "%" PRIu64 ".json", id);
}

int job_file_read(struct job_record *ret, int dir, const char *name, struct err *err)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	_cleanup_mem_ char *p = NULL;
	char expected[JOB_FILE_NAME_MAX];
	struct job_record r;
	size_t n = 0;
	int code = fd < 0 ? -errno : fd_read_file(fd, JOB_FILE_MAX, &p, &n);

	if (code < 0)
		return err_set(err, code, "%s", strerror(-code));
	code = job_record_parse(&r, p, n, err);
	if (code < 0)
		return code;
	job_file_name(expected, r.id);
	if (strcmp(expected, name) != 0) {
		job_record_deinit(&r);
		return err_set(err, -EBADMSG, "\"id\" is not that of the file's name");
	}
	*ret = r;
	return 0;
}
