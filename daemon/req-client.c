/* req-client - who uses the daemon: list, disconnect, limit. A uid sees and disconnects its own
 * connections; administrators everybody's. */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <time.h>
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "daemon/conn.h"
#include "daemon/dispatch.h"
#include "daemon/foreign.h"

struct uses {
	struct sched_use *rows;
	size_t n;
};

/* What the engine has of each client. Should more have come meanwhile than there is room for, they
 * show in the next answer. */
static int take_uses(struct daemon *d, struct uses *ret)
{
	size_t n = engine_uses(d->engine, NULL, 0) + 16;

	ret->rows = mem_allocn(n, sizeof(*ret->rows));
	if (!ret->rows)
		return -ENOMEM;
	ret->n = MIN(engine_uses(d->engine, ret->rows, n), n);
	return 0;
}

/* Sum over the uid's clients; client 0 = over all of them. */
static struct sched_use use_of(const struct uses *uses, uint32_t uid, uint64_t client)
{
	struct sched_use sum = { .uid = uid, .client = client };

	for (size_t i = 0; i < uses->n; i++) {
		const struct sched_use *u = &uses->rows[i];

		if (u->uid != uid || (client != 0 && u->client != client))
			continue;
		sum.running += u->running;
		sum.waiting += u->waiting;
		sum.parked += u->parked;
		sum.pages += u->pages;
		sum.bytes += u->bytes;
	}
	return sum;
}

static json_t *time_json(uint64_t us)
{
	time_t s = (time_t)(us / 1000000);
	char text[32] = "";
	struct tm tm;

	if (gmtime_r(&s, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static uint64_t charged(const struct call *c, enum charge_kind kind)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < c->n_charges; i++)
		sum += c->charges[i].kind == kind ? c->charges[i].n : 0;
	return sum;
}

static json_t *conn_json(const struct conn *conn, const struct call *asking,
                         const struct uses *uses)
{
	struct sched_use use = use_of(uses, conn->peer.uid, conn->number);
	uint64_t fds = conn->fds.n, ring = conn->ring.n + conn->out_bytes, tokens = 0;
	unsigned requests = 0;

	list_for(&conn->calls, it) {
		const struct call *c = container_of(it, struct call, link);

		requests += c != asking;
		fds += charged(c, CHARGE_FDS);
		tokens += charged(c, CHARGE_TOKENS);
	}
	return json_pack("{s:I, s:I, s:I, s:s, s:o, s:b, s:b, s:i, s:i, s:i, s:i, s:I, s:I, s:I, "
	                 "s:I, s:I}",
	                 "id", (json_int_t)conn->number, "uid", (json_int_t)conn->peer.uid, "pid",
	                 (json_int_t)conn->peer.pid, "name", conn->name, "since",
	                 time_json(conn->since_us), "admin", conn->peer.admin, "self",
	                 asking->conn == conn, "requests", (int)requests, "running",
	                 (int)use.running, "waiting", (int)use.waiting, "parked", (int)use.parked,
	                 "fds", (json_int_t)fds, "ring_bytes", (json_int_t)ring, "queued_tokens",
	                 (json_int_t)tokens, "kv_pages", (json_int_t)use.pages, "kv_bytes",
	                 (json_int_t)use.bytes);
}

static json_t *user_quota(const struct user *u, uint64_t kv_bytes)
{
	json_t *quota = json_object();

	for (unsigned k = 0; k < LIMIT_KINDS; k++) {
		uint64_t used = k == LIMIT_KV ? kv_bytes : u->used[k];
		uint64_t limit = MIN(user_limit(u, k), (uint64_t)INT64_MAX);
		json_t *row = json_pack("{s:I, s:I, s:b}", "used", (json_int_t)used, "limit",
		                        (json_int_t)limit, "set", u->has_limit[k]);

		if (json_object_set_new(quota, user_limit_name(k), row) < 0) {
			json_decref(quota);
			return NULL;
		}
	}
	return quota;
}

static json_t *user_json(const struct user *u, const struct uses *uses)
{
	struct sched_use use = use_of(uses, u->uid, 0);

	return json_pack("{s:I, s:I, s:i, s:i, s:i, s:o}", "uid", (json_int_t)u->uid, "kv_pages",
	                 (json_int_t)use.pages, "running", (int)use.running, "waiting",
	                 (int)use.waiting, "parked", (int)use.parked, "quota",
	                 user_quota(u, use.bytes));
}

static json_t *clients_json(const struct call *asking, const struct uses *uses)
{
	const struct daemon *d = asking->d;
	json_t *clients = json_array(), *users = json_array();
	int r = 0;

	list_for(&d->conns, it) {
		const struct conn *conn = container_of(it, struct conn, link);

		if (conn->user && (asking->admin || conn->user == asking->user))
			r |= json_array_append_new(clients, conn_json(conn, asking, uses));
	}
	list_for(&d->users.list, it) {
		const struct user *u = container_of(it, struct user, link);

		if (asking->admin || u == asking->user)
			r |= json_array_append_new(users, user_json(u, uses));
	}
	if (r == 0)
		return json_pack("{s:o, s:o}", "clients", clients, "users", users);
	json_decref(clients);
	json_decref(users);
	return NULL;
}

void req_clients(struct call *c)
{
	struct uses uses = { 0 };
	int r = take_uses(c->d, &uses);
	json_t *json = r == 0 ? clients_json(c, &uses) : NULL;
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	mem_free(uses.rows);
	if (text)
		call_reply_text(c, text, strlen(text));
	else
		call_fail(c, -ENOMEM, NULL);
	free(text);
}

/* Its requests end with the reason, then its connection. */
static void kick(struct conn *conn, const char *why)
{
	list_for_safe(&conn->calls, it)
		call_dismiss(container_of(it, struct call, link), EXIT_REFUSED, -EPERM, why);
	conn_fault(conn, EXIT_REFUSED, why);
}

/* The asking connection stays when it is one of many: it has to tell. */
void req_kick(struct call *c)
{
	const Qllm__Kick *q = c->in.frame->kick;
	unsigned found = 0, kicked = 0;
	char text[80];

	if (q->has_client == q->has_uid) {
		call_fail_class(c, EXIT_USAGE, -EINVAL,
		                "a client's number or a uid is needed: `qllmctl client ls`");
		return;
	}
	list_for_safe(&c->d->conns, it) {
		struct conn *conn = container_of(it, struct conn, link);

		if (!conn->user || conn == c->conn ||
		    (q->has_client ? conn->number != q->client : conn->peer.uid != q->uid))
			continue;
		found++;
		if (!c->admin && conn->user != c->user)
			continue;
		kicked++;
		log_msg(LOG_L_NOTICE, "client %llu (uid %u) is disconnected by uid %u",
		        (unsigned long long)conn->number, (unsigned)conn->peer.uid,
		        (unsigned)c->user->uid);
		kick(conn, conn->user == c->user ? "disconnected by the same user"
		                                 : "disconnected by an administrator");
	}
	/* Whether a stranger's client exists is nobody's business. */
	if (kicked == 0 && (found == 0 || !c->admin)) {
		call_fail_class(c, EXIT_NO_MODEL, -ENOENT,
		                "no such client that you may disconnect: `qllmctl client ls`");
		return;
	}
	snprintf(text, sizeof(text), "%u disconnected", kicked);
	call_ok(c, text);
}

void req_limit(struct call *c)
{
	const Qllm__Limit *q = c->in.frame->limit;
	struct err err = { 0 };
	struct user *user;
	int r = 0;

	if (!c->admin) {
		call_fail_class(c, EXIT_REFUSED, -EPERM,
		                "only an administrator may set a user's limits");
		return;
	}
	if (!q->has_uid || q->n_settings == 0) {
		call_fail_class(c, EXIT_USAGE, -EINVAL, "a uid and KEY=VALUE are needed");
		return;
	}
	user = user_get(&c->d->users, q->uid);
	if (!user) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	for (unsigned pass = 0; pass < 2 && r == 0; pass++)     /* all of them or none */
		for (size_t i = 0; i < q->n_settings && r == 0; i++)
			r = user_set_limit(user, q->settings[i], pass == 0, &err);
	if (r == 0)
		for (size_t i = 0; i < q->n_settings; i++)
			log_msg(LOG_L_NOTICE, "uid %u sets limit %s of uid %u until restart",
			        (unsigned)c->user->uid, q->settings[i], (unsigned)q->uid);
	user_put(user);
	foreign_resume();
	if (r < 0)
		call_fail(c, r, &err);
	else
		call_ok(c, NULL);
}
