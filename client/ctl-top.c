/* ctl-top - the daemon at a glance, again every second.
 *
 * Rates are differences of the daemon's counters between two looks, so the first one is silent. */
#include "client/ctl.h"
#include <string.h>

struct look {
	json_t *status, *models, *activity;
	double at;
};

static void look_deinit(struct look *l)
{
	json_decref(l->status);
	json_decref(l->models);
	json_decref(l->activity);
	*l = (struct look){ 0 };
}

static int look(struct ctl *c, struct look *l)
{
	int code = ctl_ask_status(c, &l->status);

	if (code == EXIT_OK)
		code = ctl_ask_ps(c, &l->models);
	if (code == EXIT_OK)
		code = ctl_ask_json(c, qllm_activity, &l->activity);
	l->at = ctl_now();
	return code;
}

static long long number(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

/* A restart of the daemon sets counters back. */
static double rate(const struct look *old, const struct look *now, const char *key)
{
	double d = (double)(number(now->status, key) - number(old->status, key));

	return d > 0 && now->at > old->at ? d / (now->at - old->at) : 0;
}

static int print_json(struct ctl *c, const struct look *old, const struct look *now)
{
	json_t *j = json_pack("{s:f, s:f, s:O, s:O, s:O, s:O}", "prompt_tok_s",
			      rate(old, now, "prompt_tokens"), "decode_tok_s",
			      rate(old, now, "decode_tokens"), "status", now->status, "models",
			      now->models, "users", json_object_get(now->activity, "users"),
			      "requests", json_object_get(now->activity, "requests"));
	int r = j ? json_dumpf(j, stdout, JSON_COMPACT) : -1;

	json_decref(j);
	putchar('\n');
	fflush(stdout);
	return r < 0 ? ctl_fail(c, EXIT_FAILED, "no memory for the view as JSON") : EXIT_OK;
}

static void print_users(struct ctl *c, const json_t *users)
{
	struct out_table t = { .head = { ">UID", ">CONNECTIONS", ">REQUESTS" }, .n_columns = 3 };

	for (size_t i = 0; i < json_array_size(users); i++) {
		const json_t *u = json_array_get(users, i);
		char cell[3][32];

		snprintf(cell[0], 32, "%lld", number(u, "uid"));
		snprintf(cell[1], 32, "%lld", number(u, "connections"));
		snprintf(cell[2], 32, "%lld", number(u, "requests"));
		if (out_row(&t, cell[0], cell[1], cell[2]) < 0)
			break;
	}
	out_table_print(c, &t);
}

static void print_requests(struct ctl *c, const json_t *requests)
{
	struct out_table t = {
		.head = { ">UID", ">PID", "CLIENT", "WHAT", "MODEL", "STATE", ">TOKENS", ">AGE" },
		.n_columns = 8,
	};

	for (size_t i = 0; i < json_array_size(requests); i++) {
		const json_t *r = json_array_get(requests, i);
		char uid[32], pid[32], tokens[32], age[32];

		snprintf(uid, sizeof(uid), "%lld", number(r, "uid"));
		snprintf(pid, sizeof(pid), "%lld", number(r, "pid"));
		snprintf(tokens, sizeof(tokens), "%lld", number(r, "tokens"));
		snprintf(age, sizeof(age), "%.1f s",
			 json_number_value(json_object_get(r, "age_s")));
		if (out_row(&t, uid, pid, text(r, "name"), text(r, "what"), text(r, "model"),
			    text(r, "state"), tokens, age) < 0)
			break;
	}
	out_table_print(c, &t);
}

static void print_view(struct ctl *c, const struct look *old, const struct look *now)
{
	const json_t *s = now->status;
	char used[32], budget[32];

	out_bytes(c, used, (uint64_t)number(s, "used_bytes"));
	out_bytes(c, budget, (uint64_t)number(s, "budget_bytes"));
	if (c->tty_out)
		fputs("\033[H\033[J", stdout);
	printf("qllmd %s, up %.0f s; %lld of %lld threads, %s kernels\n", text(s, "version"),
	       json_number_value(json_object_get(s, "uptime_s")), number(s, "threads_active"),
	       number(s, "threads"), text(s, "kernels"));
	printf("%.1f prompt tokens/s, %.1f generated/s; %lld running, %lld waiting, %lld parked\n",
	       rate(old, now, "prompt_tokens"), rate(old, now, "decode_tokens"),
	       number(s, "running"), number(s, "waiting"), number(s, "parked"));
	printf("memory %s of %s; %lld connections\n\n", used, budget, number(s, "connections"));
	ctl_print_ps(c, now->models);
	putchar('\n');
	print_users(c, json_object_get(now->activity, "users"));
	putchar('\n');
	print_requests(c, json_object_get(now->activity, "requests"));
	if (!c->tty_out)
		putchar('\n');
	fflush(stdout);
}

static int run_top(struct ctl *c)
{
	uint64_t left = ctl_count(c, "iterations", 0);
	double interval = ctl_number(c, "interval", 1);
	struct look old = { 0 }, now = { 0 };
	bool endless = left == 0;
	int code;

	if (interval < 0.1 || interval > 3600)
		return ctl_fail(c, EXIT_USAGE, "--interval wants 0.1 to 3600 seconds");
	code = look(c, &old);
	while (code == EXIT_OK && (endless || left-- > 0)) {
		code = ctl_sleep(c, interval);
		if (code == EXIT_OK)
			code = look(c, &now);
		if (code != EXIT_OK)
			break;
		if (c->json)
			code = print_json(c, &old, &now);
		else
			print_view(c, &old, &now);
		look_deinit(&old);
		old = now;
		now = (struct look){ 0 };
	}
	look_deinit(&old);
	look_deinit(&now);
	return code;
}

static const struct ctl_opt opts[] = {
	{ "iterations", 'n', CTL_COUNT, "N", "End after N views" },
	{ "interval", 'd', CTL_NUMBER, "S", "Seconds between them, default 1" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_top = {
	.name = "top",
	.args = "",
	.help = "Live view of models, users, requests, tokens a second, KV pages and memory; "
		"--json: one "
		"object a line",
	.flags = CTL_CONNECT,
	.opts = opts,
	.run = run_top,
};
