/* ctl-daemon - commands about the daemon as a whole: status, is-ready, version, help. */
#include "config.h"
#include <string.h>
#include "client/ctl.h"

struct status_call {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	json_t *json;
	bool ready;
};

static json_t *status_json(const struct qllm_status_result *s)
{
	return json_pack(
		"{s:s, s:b, s:I, s:f, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, "
		"s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:s}",
		"version", s->version, "ready", s->ready, "pid", (json_int_t)s->pid, "uptime_s",
		s->uptime_s, "budget_bytes", (json_int_t)s->budget_bytes, "used_bytes",
		(json_int_t)s->used_bytes, "free_bytes",
		(json_int_t)(s->budget_bytes -
	                     (s->used_bytes < s->budget_bytes ? s->used_bytes : s->budget_bytes)),
		"models", (int)s->models, "loaded", (int)s->loaded, "connections",
		(int)s->connections, "running", (int)s->running, "waiting", (int)s->waiting,
		"parked", (int)s->parked, "threads", (int)s->threads, "threads_active",
		(int)s->threads_active, "threads_why", s->threads_why, "cpu", s->cpu, "kernels",
		s->kernels, "kernels_levels", s->kernels_levels, "prompt_tokens",
		(json_int_t)s->prompt_tokens, "decode_tokens", (json_int_t)s->decode_tokens,
		"preemptions", (json_int_t)s->preemptions, "socket", s->socket,
		"state_dir", s->state_dir, "cached_bytes", (json_int_t)s->cached_bytes,
		"cached_tokens", (json_int_t)s->cached_tokens, "cache_hits",
		(json_int_t)s->cache_hits, "kernels_refused", s->kernels_refused);
}

static void on_status(void *user, const struct qllm_event *ev)
{
	struct status_call *call = user;

	if (ev->status) {
		call->ready = ev->status->ready;
		call->json = status_json(ev->status);
	}
	ctl_on_event(&call->reply, ev);
}

static int ask_status(struct ctl *c, struct status_call *call)
{
	int code;

	call->reply.c = c;
	code = ctl_finish(c, qllm_status(c->q, on_status, call), &call->reply);
	if (code == EXIT_OK && !call->json)
		code = ctl_fail(c, EXIT_FAILED, "no memory for the daemon's answer");
	return code;
}

int ctl_ask_status(struct ctl *c, json_t **ret)
{
	struct status_call call = { 0 };
	int code = ask_status(c, &call);

	if (code == EXIT_OK)
		*ret = call.json;
	return code;
}

static const char *text(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key));
}

static long long number(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static int run_status(struct ctl *c)
{
	struct status_call call = { 0 };
	char used[32], budget[32], cached[32];
	const json_t *j;
	int code = ask_status(c, &call);

	if (code != EXIT_OK || c->json)
		return code != EXIT_OK ? code : out_json(c, call.json);
	j = call.json;
	out_bytes(c, used, (uint64_t)number(j, "used_bytes"));
	out_bytes(c, budget, (uint64_t)number(j, "budget_bytes"));
	out_bytes(c, cached, (uint64_t)number(j, "cached_bytes"));
	printf("qllmd %s, pid %lld, %s, up %.0f s\n", text(j, "version"), number(j, "pid"),
	       call.ready ? "ready" : "draining", json_real_value(json_object_get(j, "uptime_s")));
	printf("socket   %s\n", text(j, "socket"));
	printf("memory   %s of %s used; %s more hold earlier prompts\n", used, budget, cached);
	printf("models   %lld, %lld loaded\n", number(j, "models"), number(j, "loaded"));
	printf("requests %lld running, %lld waiting, %lld parked; %lld connections\n",
	       number(j, "running"), number(j, "waiting"), number(j, "parked"),
	       number(j, "connections"));
	printf("threads  %lld of %lld: %s\n", number(j, "threads_active"), number(j, "threads"),
	       text(j, "threads_why"));
	printf("kernels  %s on %s\n", text(j, "kernels"), text(j, "cpu"));
	if (*text(j, "kernels_refused"))
		printf("         without %s\n", text(j, "kernels_refused"));
	printf("tokens   %lld prompt, %lld generated since start; %lld found in earlier prompts\n",
	       number(j, "prompt_tokens"), number(j, "decode_tokens"), number(j, "cached_tokens"));
	json_decref(call.json);
	return EXIT_OK;
}

static int run_is_ready(struct ctl *c)
{
	struct status_call call = { 0 };
	int code = ask_status(c, &call);

	json_decref(call.json);
	return code != EXIT_OK ? code : call.ready ? EXIT_OK : EXIT_NOT_LOADED;
}

/* Answers without a daemon as well. */
static int run_version(struct ctl *c)
{
	struct status_call call = { .reply = { .c = c } };
	const char *daemon = NULL;
	int code = EXIT_OK;

	if (qllm_connect(c->q) == 0)
		code = ask_status(c, &call);
	if (code != EXIT_OK)
		return code;
	if (call.json)
		daemon = text(call.json, "version");
	if (c->json)
		code = out_json(c, json_pack("{s:s, s:s, s:i, s:s?}", "version", PACKAGE_VERSION,
		                             "libqllm", qllm_version(), "protocol", PROTO_VERSION,
		                             "daemon", daemon));
	else
		printf("qllmctl %s, libqllm %s, qllmd %s\n", PACKAGE_VERSION, qllm_version(),
		       daemon ? daemon : "not reached");
	json_decref(call.json);
	return code;
}

static int run_help(struct ctl *c)
{
	const char *name = ctl_arg(c, 0), *near;
	const struct ctl_cmd *cmd;

	if (ctl_has(c, "roff")) {
		ctl_help_roff(stdout);
		return EXIT_OK;
	}
	if (!name) {
		out_pager(c);
		ctl_help_all(stdout);
		return EXIT_OK;
	}
	cmd = ctl_find(name);
	if (!cmd) {
		near = ctl_nearest_cmd(name);
		return ctl_fail(c, EXIT_USAGE, "unknown command \"%.60s\"%s%s%s", name,
		                near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
	}
	ctl_help_cmd(stdout, cmd);
	return EXIT_OK;
}

const struct ctl_cmd ctl_cmd_status = {
	.name = "status",
	.args = "",
	.help = "Health, memory, models, queue, threads and why that number",
	.flags = CTL_CONNECT,
	.run = run_status,
};
const struct ctl_cmd ctl_cmd_is_ready = {
	.name = "is-ready",
	.args = "",
	.help = "Exit code only: 0 when requests are accepted, 3 while draining, 6 without a "
	        "daemon",
	.flags = CTL_CONNECT,
	.run = run_is_ready,
};
const struct ctl_cmd ctl_cmd_version = {
	.name = "version",
	.args = "",
	.help = "Versions of qllmctl, libqllm and the daemon",
	.run = run_version,
};
static const struct ctl_opt help_opts[] = {
	{ "roff", 0, CTL_FLAG, NULL, "The OPTIONS and COMMANDS sections of the man page" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_help = {
	.name = "help",
	.args = "[COMMAND]",
	.help = "This list, or more about one command",
	.max_args = 1,
	.opts = help_opts,
	.run = run_help,
};
