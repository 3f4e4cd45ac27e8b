/* ctl-client - who uses the daemon, and how much of what they may: client ls, kick, limit. */
#include <errno.h>
#include <string.h>
#include "base/num.h"
#include "client/ctl.h"

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static long long number(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static void digits(char out[32], long long x)
{
	snprintf(out, 32, "%lld", x);
}

/* The limit that a user is nearest to: "connections_per_uid 50%". */
static void nearest(char out[64], const json_t *users, long long uid)
{
	const char *name = "", *key;
	double most = 0;
	json_t *quota = NULL, *row;
	size_t i;
	json_t *u;

	json_array_foreach(users, i, u)
		if (number(u, "uid") == uid)
			quota = json_object_get(u, "quota");
	json_object_foreach(quota, key, row) {
		double limit = (double)number(row, "limit"), used = (double)number(row, "used");

		if (limit > 0 && used / limit > most) {
			most = used / limit;
			name = key;
		}
	}
	snprintf(out, 64, "%s%s%.0f%%", name, name[0] ? " " : "", 100 * most);
}

static void print_clients(struct ctl *c, const json_t *all)
{
	struct out_table t = { .head = { ">ID", ">UID", ">PID", "SINCE", ">REQUESTS", ">RUNNING",
		                         ">PARKED", ">FDS", ">RING", ">TOKENS", ">KV", "NAME",
		                         "QUOTA" },
		               .n_columns = 13 };
	json_t *row;
	size_t i;

	json_array_foreach(json_object_get(all, "clients"), i, row) {
		char id[32], uid[32], pid[32], requests[32], running[32], parked[32], fds[32];
		char ring[32], tokens[32], kv[32], quota[64];

		digits(id, number(row, "id"));
		digits(uid, number(row, "uid"));
		digits(pid, number(row, "pid"));
		digits(requests, number(row, "requests"));
		digits(running, number(row, "running"));
		digits(parked, number(row, "parked"));
		digits(fds, number(row, "fds"));
		out_bytes(c, ring, (uint64_t)number(row, "ring_bytes"));
		digits(tokens, number(row, "queued_tokens"));
		out_bytes(c, kv, (uint64_t)number(row, "kv_bytes"));
		nearest(quota, json_object_get(all, "users"), number(row, "uid"));
		if (out_row(&t, id, uid, pid, text(row, "since"), requests, running, parked, fds,
		            ring, tokens, kv, text(row, "name"), quota) < 0)
			break;
	}
	out_table_print(c, &t);
}

static void print_users(struct ctl *c, const json_t *all)
{
	struct out_table t = { .head = { ">UID", "LIMIT", ">USED", ">ALLOWED", "SET" },
		               .n_columns = 5 };
	const char *key;
	json_t *u, *row;
	size_t i;

	json_array_foreach(json_object_get(all, "users"), i, u) {
		json_object_foreach(json_object_get(u, "quota"), key, row) {
			char uid[32], used[32], limit[32];
			bool kv = strcmp(key, "kv_bytes_per_uid") == 0;

			digits(uid, number(u, "uid"));
			digits(used, number(row, "used"));
			digits(limit, number(row, "limit"));
			if (out_row(&t, uid, key, used,
			            kv && number(row, "limit") == 0 ? "any" : limit,
			            json_is_true(json_object_get(row, "set")) ? "by hand"
			                                                      : "-") < 0)
				break;
		}
	}
	out_table_print(c, &t);
}

static int run_ls(struct ctl *c)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, qllm_clients(c->q, ctl_on_event, &reply), &reply);
	json_t *all = NULL;

	if (code == EXIT_OK) {
		all = json_loadb(reply.data ? reply.data : "", reply.n_data, 0, NULL);
		if (!all)
			code = ctl_fail(c, EXIT_FAILED, "the daemon's answer is no JSON");
	}
	ctl_reply_deinit(&reply);
	if (code == EXIT_OK && c->json)
		return out_json(c, all);
	if (code == EXIT_OK && ctl_has(c, "users"))
		print_users(c, all);
	else if (code == EXIT_OK)
		print_clients(c, all);
	json_decref(all);
	return code;
}

static int run_kick(struct ctl *c)
{
	struct ctl_reply reply = { .c = c };
	const char *who = ctl_arg(c, 1);
	bool uid = who && strncmp(who, "uid:", 4) == 0;
	uint64_t n;
	int code;

	if (!who || str_to_u64(uid ? who + 4 : who, &n) < 0 || n == 0 || (uid && n > UINT32_MAX)) {
		/* uid 0 is a user, client 0 is none */
		if (!who || !uid || strcmp(who + 4, "0") != 0)
			return ctl_fail(c, EXIT_USAGE,
			                "client kick: a client's number or uid:UID is needed, "
			                "as `qllmctl client ls` shows them");
		n = 0;
	}
	code = ctl_finish(c,
	                  uid ? qllm_kick_user(c->q, (uint32_t)n, ctl_on_event, &reply)
	                      : qllm_kick(c->q, n, ctl_on_event, &reply),
	                  &reply);
	if (code == EXIT_OK)
		code = ctl_say(c, "result", reply.data ? reply.data : "");
	ctl_reply_deinit(&reply);
	return code;
}

static int run_limit(struct ctl *c)
{
	struct ctl_reply reply = { .c = c };
	const char *who = ctl_arg(c, 1);
	uint64_t uid;
	int code;

	if (who && strncmp(who, "uid:", 4) == 0)
		who += 4;
	if (!who || str_to_u64(who, &uid) < 0 || uid > UINT32_MAX || c->args.n < 3)
		return ctl_fail(c, EXIT_USAGE,
		                "client limit: a uid and KEY=VALUE are needed, as `qllmctl client "
		                "ls --users` shows them");
	code = ctl_finish(c,
	                  qllm_limit(c->q, (uint32_t)uid, (const char *const *)c->args.data + 2,
	                             c->args.n - 2, ctl_on_event, &reply),
	                  &reply);
	ctl_reply_deinit(&reply);
	return code;
}

static int run_client(struct ctl *c)
{
	static const struct {
		const char *name;
		int (*run)(struct ctl *c);
	} verbs[] = { { "ls", run_ls }, { "kick", run_kick }, { "limit", run_limit } };
	const char *verb = ctl_arg(c, 0);

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].name, verb) == 0)
			return verbs[i].run(c);
	return ctl_fail(c, EXIT_USAGE, "client %.20s: ls, kick and limit are known", verb);
}

static const struct ctl_opt client_opts[] = {
	{ "users", 0, CTL_FLAG, NULL, "ls: what each user holds of each limit" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_client = {
	.name = "client",
	.args = "ls | kick ID|uid:UID | limit UID KEY=VALUE...",
	.help = "Who uses the daemon; disconnect; set limits until restart (KEY=default: as "
	        "configured)",
	.min_args = 1,
	.max_args = 16,
	.flags = CTL_CONNECT,
	.opts = client_opts,
	.run = run_client,
	.example = "qllmctl client limit 1000 connections_per_uid=8",
};
