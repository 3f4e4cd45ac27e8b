/* ctl-monitor - what happens in the daemon, a line each, as it happens. Never text of prompts or
 * answers: the daemon does not send any. */
#include "client/ctl.h"
#include <string.h>
#include <time.h>

struct monitor {
	struct ctl_reply reply; /* first: ctl_on_event gets the same pointer */
	uint64_t left;          /* lines to print, 0 = no end */
	bool failed;
};

static json_t *notice_json(const struct qllm_notice *n)
{
	json_t *j = json_pack("{s:s, s:f, s:I}", "event", n->kind, "time", n->time, "uid",
			      (json_int_t)n->uid);

	if (j && n->client) {
		json_object_set_new(j, "client", json_integer((json_int_t)n->client));
		json_object_set_new(j, "pid", json_integer(n->pid));
	}
	if (j && n->request)
		json_object_set_new(j, "request", json_integer(n->request));
	if (j && n->name)
		json_object_set_new(j, "name", out_text(n->name, strlen(n->name)));
	if (j && n->what)
		json_object_set_new(j, "what", json_string(n->what));
	if (j && n->model && *n->model)
		json_object_set_new(j, "model", out_text(n->model, strlen(n->model)));
	if (j && n->result)
		json_object_set_new(j, "result", json_string(n->result));
	if (j && n->seconds > 0)
		json_object_set_new(j, "seconds", json_real(n->seconds));
	if (j && n->has_tokens)
		json_object_update_new(j, json_pack("{s:i, s:i, s:i, s:f, s:f, s:f}",
						    "prompt_tokens", (int)n->prompt_tokens,
						    "cached_tokens", (int)n->cached_tokens,
						    "completion_tokens", (int)n->completion_tokens,
						    "prompt_s", n->prompt_s, "first_token_s",
						    n->first_token_s, "decode_s", n->decode_s));
	if (j && n->text)
		json_object_set_new(j, "text", out_text(n->text, strlen(n->text)));
	if (j && n->dropped)
		json_object_set_new(j, "dropped", json_integer((json_int_t)n->dropped));
	return j;
}

static void print_notice(const struct qllm_notice *n)
{
	time_t second = (time_t)n->time;
	char clock[16] = "";
	struct tm tm;

	if (localtime_r(&second, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	if (n->dropped)
		printf("%s  (%llu events were lost: the reader is too slow)\n", clock,
		       (unsigned long long)n->dropped);
	printf("%s.%03d  %-10s  uid %u", clock, (int)((n->time - (double)second) * 1000), n->kind,
	       n->uid);
	if (n->client)
		printf("  client %llu", (unsigned long long)n->client);
	if (n->request)
		printf(".%u", n->request);
	if (n->name)
		printf("  %s, pid %u", n->name, n->pid);
	if (n->what)
		printf("  %s", n->what);
	if (n->model && *n->model)
		printf("  %s", n->model);
	if (n->result)
		printf("  %s", n->result);
	if (n->has_tokens)
		printf("  %u+%u tokens, first after %.3f s", n->prompt_tokens, n->completion_tokens,
		       n->first_token_s);
	if (n->seconds > 0)
		printf("  %.3f s", n->seconds);
	if (n->text)
		printf("  %s", n->text);
	putchar('\n');
}

static void on_notice(void *user, const struct qllm_event *ev)
{
	struct monitor *m = user;

	ctl_on_event(&m->reply, ev);
	if (ev->type != QLLM_EVENT_NOTICE || m->reply.done)
		return;
	if (m->reply.c->json) {
		json_t *j = notice_json(ev->notice);

		m->failed |= !j || json_dumpf(j, stdout, JSON_COMPACT) < 0;
		json_decref(j);
		putchar('\n');
	} else {
		print_notice(ev->notice);
	}
	fflush(stdout);
	if (m->failed || (m->left > 0 && --m->left == 0))
		m->reply.done = true; /* the end of the program closes the connection */
}

static int run_monitor(struct ctl *c)
{
	struct monitor m = { .reply = { .c = c }, .left = ctl_count(c, "count", 0) };
	int64_t id = qllm_monitor(c->q, on_notice, &m);
	int code;

	ctl_note(c, "watching %s; ^C ends", qllm_socket(c->q));
	code = ctl_finish(c, id, &m.reply);
	if (code == EXIT_OK && m.failed)
		code = ctl_fail(c, EXIT_FAILED, "no memory for an event");
	ctl_reply_deinit(&m.reply);
	return code;
}

static const struct ctl_opt opts[] = {
	{ "count", 'n', CTL_COUNT, "N", "End after N events" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_monitor = {
	.name = "monitor",
	.args = "",
	.help = "Connections, requests, loads, faults and jobs as they happen; --json: one object "
		"a line. "
		"Other users' only for administrators",
	.flags = CTL_CONNECT,
	.opts = opts,
	.run = run_monitor,
};
