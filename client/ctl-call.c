/* ctl-call - what every command does with its request: wait, show progress, tell the failure. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include "client/ctl.h"

int ctl_fail(struct ctl *c, int exit_code, const char *format, ...)
{
	va_list ap;

	out_progress_end(c);
	fflush(stdout);
	fputs(c->color_err ? "\033[31mqllmctl:\033[0m " : "qllmctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	return exit_code;
}

void ctl_note(struct ctl *c, const char *format, ...)
{
	va_list ap;

	if (c->quiet)
		return;
	out_progress_end(c);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

int ctl_fail_q(struct ctl *c)
{
	const char *text = qllm_error_text(c->q);

	return ctl_fail(c, qllm_error_class(c->q), "%s", *text ? text : "the request failed");
}

void ctl_reply_deinit(struct ctl_reply *r)
{
	r->data = mem_free(r->data);
}

void ctl_on_event(void *user, const struct qllm_event *ev)
{
	struct ctl_reply *r = user;

	if (ev->type == QLLM_EVENT_PROGRESS)
		out_progress(r->c, ev->progress->phase, ev->progress->done, ev->progress->total);
	if (ev->type != QLLM_EVENT_DONE)
		return;
	out_progress_end(r->c);
	r->done = true;
	r->code = ev->code;
	if (ev->data) {
		r->data = mem_strndup(ev->data, ev->n_data);
		r->n_data = ev->n_data;
		if (!r->data)
			r->code = -ENOMEM;
	}
}

int ctl_finish(struct ctl *c, int64_t id, struct ctl_reply *r)
{
	int code;

	if (id < 0)
		return ctl_fail_q(c);
	code = ctl_wait(c, &r->done, (uint64_t)id);
	if (code != EXIT_OK)
		return code;
	if (r->code == -ENOMEM && !r->data && r->n_data)
		return ctl_fail(c, EXIT_FAILED, "no memory for the daemon's answer");
	return r->code < 0 ? ctl_fail_q(c) : EXIT_OK;
}

int ctl_ask_json(struct ctl *c, ctl_ask_fn ask, json_t **ret)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, ask(c->q, ctl_on_event, &reply), &reply);

	if (code == EXIT_OK) {
		*ret = json_loadb(reply.data ? reply.data : "", reply.n_data, JSON_DECODE_ANY,
		                  NULL);
		if (!*ret)
			code = ctl_fail(c, EXIT_FAILED, "the daemon's answer is no JSON");
	}
	ctl_reply_deinit(&reply);
	return code;
}

int ctl_say(struct ctl *c, const char *key, const char *value)
{
	if (c->json)
		return out_json(c, json_pack("{s:o}", key, out_text(value, strlen(value))));
	if (!c->quiet)
		printf("%s\n", value);
	return EXIT_OK;
}
