/* ctl-jobs - verify, and job ls|show|wait|pause|resume|cancel|log. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include "base/cleanup.h"
#include "base/num.h"
#include "client/ctl.h"

struct job_call {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	json_t *rows;
	bool failed;
};

/* null stands for "not yet". */
static json_t *when(uint64_t seconds)
{
	time_t t = (time_t)seconds;
	struct tm tm;
	char text[32];

	if (seconds == 0 || !gmtime_r(&t, &tm) ||
	    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		return json_null();
	return json_string(text);
}

static json_t *optional(const char *s)
{
	return s ? out_text(s, strlen(s)) : json_null();
}

static json_t *job_json(const struct qllm_job *j)
{
	return json_pack("{s:I, s:s, s:s, s:s, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:i, s:I, "
	                 "s:o, s:o, s:o}",
	                 "id", (json_int_t)j->id, "kind", j->kind, "state", j->state, "model",
	                 j->model, "percent", j->percent, "bytes_read", (json_int_t)j->bytes_read,
	                 "bytes_written", (json_int_t)j->bytes_written, "eta_s",
	                 j->eta_s < 0 ? json_null() : json_real(j->eta_s), "error",
	                 optional(j->error), "result", optional(j->result), "checksum",
	                 optional(j->checksum), "phase", optional(j->phase), "failures",
	                 (int)j->failures, "uid", (json_int_t)j->uid, "created", when(j->created),
	                 "started", when(j->started), "ended", when(j->ended));
}

static void on_job(void *user, const struct qllm_event *ev)
{
	struct job_call *call = user;

	if (ev->type == QLLM_EVENT_JOB &&
	    json_array_append_new(call->rows, job_json(ev->job)) < 0)
		call->failed = true;
	ctl_on_event(&call->reply, ev);
}

static int finish(struct ctl *c, struct job_call *call, int64_t id)
{
	int code = ctl_finish(c, id, &call->reply);

	if (code == EXIT_OK && call->failed)
		code = ctl_fail(c, EXIT_FAILED, "no memory for the daemon's answer");
	return code;
}

static const char *text(const json_t *row, const char *key)
{
	const char *s = json_string_value(json_object_get(row, key));

	return s ? s : "";
}

/* --- verify ----------------------------------------------------------------------------------- */

static int verify_and_wait(struct ctl *c)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, qllm_verify(c->q, ctl_arg(c, 0), ctl_on_event, &reply), &reply);

	if (code == EXIT_OK && c->json)
		code = out_json(c, json_pack("{s:s, s:b, s:s}", "name", ctl_arg(c, 0), "ok", 1,
		                             "summary", reply.data ? reply.data : ""));
	else if (code == EXIT_OK)
		code = ctl_say(c, "summary", reply.data ? reply.data : "ok");
	ctl_reply_deinit(&reply);
	return code;
}

static int run_verify(struct ctl *c)
{
	struct job_call call = { .reply = { .c = c }, .rows = json_array() };
	json_t *row;
	char number[24];
	int code;

	if (!ctl_has(c, "no-block")) {
		json_decref(call.rows);
		return verify_and_wait(c);
	}
	code = finish(c, &call, qllm_verify_start(c->q, ctl_arg(c, 0), on_job, &call));
	row = json_array_get(call.rows, 0);
	if (code == EXIT_OK && c->json) {
		code = out_json(c, json_pack("{s:O}", "job", json_object_get(row, "id")));
	} else if (code == EXIT_OK) {
		snprintf(number, sizeof(number), "%lld",
		         (long long)json_integer_value(json_object_get(row, "id")));
		code = ctl_say(c, "job", number);
	}
	json_decref(call.rows);
	ctl_reply_deinit(&call.reply);
	return code;
}

/* --- job -------------------------------------------------------------------------------------- */

static void print_jobs(struct ctl *c, const json_t *rows)
{
	struct out_table t = {
		.head = { ">JOB", "KIND", "MODEL", "STATE", ">DONE", ">LEFT", "NOTE" },
		.n_columns = 7,
	};
	char id[24], percent[16], eta[24];

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i), *left = json_object_get(row, "eta_s");
		const char *note = text(row, "error");

		snprintf(id, sizeof(id), "%lld",
		         (long long)json_integer_value(json_object_get(row, "id")));
		snprintf(percent, sizeof(percent), "%.0f%%",
		         json_real_value(json_object_get(row, "percent")));
		snprintf(eta, sizeof(eta), json_is_real(left) ? "%.0f s" : "-",
		         json_real_value(left));
		if (out_row(&t, id, text(row, "kind"), text(row, "model"), text(row, "state"),
		            percent, eta, *note ? note : text(row, "result")) < 0)
			break;
	}
	out_table_print(c, &t);
}

static void print_job(const json_t *row)
{
	const char *key;
	const json_t *v;

	json_object_foreach((json_t *)(uintptr_t)row, key, v) {
		if (json_is_string(v))
			printf("%s: %s\n", key, json_string_value(v));
		else if (json_is_integer(v))
			printf("%s: %lld\n", key, (long long)json_integer_value(v));
		else if (json_is_real(v))
			printf("%s: %.1f\n", key, json_real_value(v));
	}
}

static int job_ls(struct ctl *c)
{
	struct job_call call = { .reply = { .c = c }, .rows = json_array() };
	int code = finish(c, &call, qllm_job_list(c->q, on_job, &call));

	if (code == EXIT_OK && c->json) {
		code = out_json(c, STEAL(call.rows));
	} else if (code == EXIT_OK && c->quiet) {
		for (size_t i = 0; i < json_array_size(call.rows); i++)
			printf("%lld\n", (long long)json_integer_value(json_object_get(
						 json_array_get(call.rows, i), "id")));
	} else if (code == EXIT_OK) {
		print_jobs(c, call.rows);
	}
	json_decref(call.rows);
	ctl_reply_deinit(&call.reply);
	return code;
}

static int job_log(struct ctl *c, uint64_t id)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, qllm_job_log(c->q, id, ctl_on_event, &reply), &reply);

	if (code == EXIT_OK && c->json)
		code = out_json(c, json_pack("{s:I, s:o}", "id", (json_int_t)id, "log",
		                             out_text(reply.data ? reply.data : "", reply.n_data)));
	else if (code == EXIT_OK)
		fwrite(reply.data ? reply.data : "", 1, reply.n_data, stdout);
	ctl_reply_deinit(&reply);
	return code;
}

static int job_do(struct ctl *c, uint64_t id, enum qllm_job_verb verb)
{
	struct job_call call = { .reply = { .c = c }, .rows = json_array() };
	int code = finish(c, &call, qllm_job_do(c->q, id, verb, on_job, &call));
	json_t *row = json_array_get(call.rows, 0);

	if (code == EXIT_OK && c->json)
		code = out_json(c, json_incref(row));
	else if (code == EXIT_OK && verb == QLLM_JOB_SHOW)
		print_job(row);
	else if (code == EXIT_OK)
		code = ctl_say(c, "state", *text(row, "result") ? text(row, "result")
		                                                : text(row, "state"));
	json_decref(call.rows);
	ctl_reply_deinit(&call.reply);
	return code;
}

static int run_job(struct ctl *c)
{
	static const struct {
		const char *name;
		enum qllm_job_verb verb;
	} verbs[] = {
		{ "show", QLLM_JOB_SHOW },     { "wait", QLLM_JOB_WAIT },
		{ "pause", QLLM_JOB_PAUSE },   { "resume", QLLM_JOB_RESUME },
		{ "cancel", QLLM_JOB_CANCEL },
	};
	const char *what = ctl_arg(c, 0), *job = ctl_arg(c, 1);
	uint64_t id = 0;

	if (strcmp(what, "ls") == 0)
		return job ? ctl_fail(c, EXIT_USAGE, "job ls takes no argument") : job_ls(c);
	if (job && str_to_u64(job, &id) < 0)
		return ctl_fail(c, EXIT_USAGE, "job %s: a job is a number, see `qllmctl job ls`",
		                what);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].name, what) == 0)
			return job ? job_do(c, id, verbs[i].verb)
			           : ctl_fail(c, EXIT_USAGE, "job %s wants a job", what);
	if (strcmp(what, "log") == 0)
		return job ? job_log(c, id) : ctl_fail(c, EXIT_USAGE, "job log wants a job");
	return ctl_fail(c, EXIT_USAGE,
	                "job has no subcommand of that name: ls, show, wait, pause, resume, "
	                "cancel, log");
}

/* --- rows ------------------------------------------------------------------------------------- */

static const struct ctl_opt verify_opts[] = {
	{ "no-block", 0, CTL_FLAG, NULL, "Return at once with the number of the job" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_verify = {
	.name = "verify",
	.args = "M",
	.help = "Check extents, NaN and Inf, checksums",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = verify_opts,
	.run = run_verify,
};
const struct ctl_cmd ctl_cmd_job = {
	.name = "job",
	.args = "ls|show J|wait J|pause J|resume J|cancel J|log J",
	.help = "Background jobs; a resumed verify starts over",
	.min_args = 1,
	.max_args = 2,
	.flags = CTL_CONNECT,
	.run = run_job,
	.example = "qllmctl job wait 3",
};
