/* req-metrics - the counters as Prometheus text, what is open now, and the stream of notices. */
#include "base/mem.h"
#include "base/num.h"
#include "base/vec.h"
#include "daemon/conn.h"
#include "daemon/dispatch.h"
#include "daemon/jobs.h"
#include "daemon/models.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

/* --- Prometheus text -------------------------------------------------------------------------- */

struct page { /* the first failure makes all that follows no-ops */
	struct sbuf *out;
	int r;
};

static void put(struct page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct page *p, const char *format, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	if (p->r == 0 && (n < 0 || (size_t)n >= sizeof(line)))
		p->r = -ENAMETOOLONG;
	if (p->r == 0)
		p->r = sbuf_append(p->out, line, (size_t)n);
}

static void family(struct page *p, const char *name, const char *type, const char *help)
{
	put(p, "# HELP qllmd_%s %s\n# TYPE qllmd_%s %s\n", name, help, name, type);
}

static void one(struct page *p, const char *name, const char *type, double value, const char *help)
{
	family(p, name, type, help);
	put(p, "qllmd_%s %.17g\n", name, value);
}

static void put_histogram(struct page *p, const char *name, struct histogram *h, const char *help)
{
	uint64_t sum = 0;

	family(p, name, "histogram", help);
	for (unsigned i = 0; i < METRICS_BOUNDS; i++) {
		sum += atomic_load_explicit(&h->count[i], memory_order_relaxed);
		put(p, "qllmd_%s_bucket{le=\"%g\"} %llu\n", name, h->bounds[i],
		    (unsigned long long)sum);
	}
	sum += atomic_load_explicit(&h->count[METRICS_BOUNDS], memory_order_relaxed);
	put(p, "qllmd_%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)sum);
	put(p, "qllmd_%s_sum %.17g\n", name,
	    (double)atomic_load_explicit(&h->sum_us, memory_order_relaxed) / 1e6);
	put(p, "qllmd_%s_count %llu\n", name, (unsigned long long)sum);
}

/* A label's value: backslash, quote and newline are escaped. */
static const char *label(char *out, size_t size, const char *s)
{
	size_t n = 0;

	for (; *s && n + 3 < size; s++) {
		if (*s == '\\' || *s == '"' || *s == '\n')
			out[n++] = '\\';
		out[n++] = *s == '\n' ? 'n' : *s;
	}
	out[n] = 0;
	return out;
}

static void put_requests(struct page *p, const struct metrics *m)
{
	const struct msg_info *info;

	family(p, "requests_total", "counter", "Requests that have ended, by kind and outcome.");
	for (unsigned i = 0; (info = msg_at(i)); i++)
		for (unsigned o = 0; o < OUTCOME_N && (unsigned)info->body < METRICS_BODIES; o++)
			if (m->requests[info->body][o])
				put(p, "qllmd_requests_total{kind=\"%s\",outcome=\"%s\"} %llu\n",
				    info->name, outcome_name(o),
				    (unsigned long long)m->requests[info->body][o]);
}

struct model_row {
	const struct entry *e;
	struct engine_model_stats stats;
	uint64_t resident;
};

static double kv_pages(const struct model_row *r)
{
	return (double)r->stats.kv_pages;
}

static double kv_pages_max(const struct model_row *r)
{
	return (double)r->stats.kv_pages_max;
}

static double kv_cached(const struct model_row *r)
{
	return (double)r->stats.kv_cached;
}

static double kv_bytes(const struct model_row *r)
{
	return (double)r->stats.bytes;
}

static double mapped_bytes(const struct model_row *r)
{
	return (double)r->e->meta.bytes;
}

static double resident_bytes(const struct model_row *r)
{
	return (double)r->resident;
}

static double in_use(const struct model_row *r)
{
	return r->e->users;
}

/* Families must stand together, so models are gathered first. */
static void put_models(struct page *p, struct call *c)
{
	static const struct {
		const char *name, *help;
		double (*value)(const struct model_row *r);
	} gauges[] = {
		{ "model_kv_pages", "KV pages in use by a loaded model.", kv_pages },
		{ "model_kv_pages_limit", "KV pages the model could use.", kv_pages_max },
		{ "model_kv_pages_cached",
		  "KV pages of prompts that later ones may take, in use or not.", kv_cached },
		{ "model_kv_bytes", "Bytes of KV pages and buffers of a loaded model.", kv_bytes },
		{ "model_bytes", "Bytes of a loaded model's file.", mapped_bytes },
		{ "model_resident_bytes", "Bytes of them in memory.", resident_bytes },
		{ "model_requests", "Open requests that use a loaded model.", in_use },
	};
	VEC(struct model_row) rows = { 0 };
	char name[160];

	list_for (models_list(c->d->models), it) {
		struct entry *e = container_of(it, struct entry, link);
		struct model_row row = { .e = e };

		if (e->state != ENTRY_LOADED || !models_visible(e, c->user->uid, c->admin))
			continue;
		engine_model_stats(c->d->engine, e->model, &row.stats);
		row.resident = weightmap_resident(e->model->map);
		if (p->r == 0)
			p->r = vec_push(&rows, row);
	}
	for (size_t g = 0; g < ARRAY_SIZE(gauges) && rows.n > 0; g++) {
		family(p, gauges[g].name, "gauge", gauges[g].help);
		for (size_t i = 0; i < rows.n; i++)
			put(p, "qllmd_%s{model=\"%s\",uid=\"%u\"} %.17g\n", gauges[g].name,
			    label(name, sizeof(name), rows.data[i].e->meta.name),
			    (unsigned)rows.data[i].e->meta.uid, gauges[g].value(&rows.data[i]));
	}
	vec_deinit(&rows);
}

static void put_jobs(struct page *p, const struct daemon *d)
{
	unsigned n[JOB_STATES] = { 0 };

	list_for (jobs_list(d->jobs), it)
		n[container_of(it, struct job, link)->rec.state]++;
	family(p, "jobs", "gauge", "Background jobs that are kept, by state.");
	for (unsigned i = 0; i < JOB_STATES; i++)
		put(p, "qllmd_jobs{state=\"%s\"} %u\n", job_state_name(i), n[i]);
}

static void put_engine(struct page *p, const struct daemon *d)
{
	struct engine_stats s = { 0 };

	engine_stats(d->engine, &s);
	one(p, "requests_running", "gauge", s.running, "Sequences being computed.");
	one(p, "requests_waiting", "gauge", s.waiting, "Sequences waiting for memory or a place.");
	one(p, "requests_parked", "gauge", s.parked, "Sequences waiting for their client to read.");
	one(p, "threads", "gauge", s.threads, "Compute threads.");
	one(p, "threads_active", "gauge", s.threads_active, "Compute threads in use.");
	one(p, "memory_budget_bytes", "gauge", (double)s.budget,
	    "Budget for KV pages and buffers.");
	one(p, "memory_used_bytes", "gauge", (double)s.used, "Bytes of the budget in use.");
	one(p, "memory_cached_bytes", "gauge", (double)s.cached,
	    "Bytes of KV pages of earlier prompts that nobody uses: free when needed.");
	one(p, "steps_total", "counter", (double)s.steps, "Steps of the engine.");
	one(p, "prompt_tokens_total", "counter", (double)s.prompt_tokens,
	    "Prompt tokens computed.");
	one(p, "cached_tokens_total", "counter", (double)s.cached_tokens,
	    "Prompt tokens found in KV pages of earlier prompts.");
	one(p, "cache_hits_total", "counter", (double)s.cache_hits,
	    "Requests that found some of their prompt there.");
	one(p, "decode_tokens_total", "counter", (double)s.decode_tokens, "Tokens generated.");
	one(p, "draft_tokens_total", "counter", (double)s.draft_tokens,
	    "Tokens guessed ahead and computed.");
	one(p, "draft_accepted_total", "counter", (double)s.draft_accepted,
	    "Guessed tokens that became part of an answer.");
	one(p, "preemptions_total", "counter", (double)s.preemptions,
	    "Sequences that lost their KV pages to others.");
}

int metrics_text(struct call *c, struct sbuf *out)
{
	struct daemon *d = c->d;
	struct metrics *m = &d->metrics;
	struct page p = { .out = out };
	char level[32];

	family(&p, "build_info", "gauge", "Version and kernels; the value is 1.");
	put(&p, "qllmd_build_info{version=\"%s\",kernels=\"%s\"} 1\n", QLLM_VERSION,
	    label(level, sizeof(level), d->kernels->level));
	one(&p, "ready", "gauge", !d->draining, "1 while requests are accepted.");
	one(&p, "uptime_seconds", "gauge", (double)(daemon_now_us() - d->started_us) / 1e6,
	    "Since the start.");
	one(&p, "connections", "gauge", d->n_conns, "Connections that are open.");
	one(&p, "connections_total", "counter", (double)m->connections,
	    "Connections that said Hello.");
	one(&p, "requests_open", "gauge", d->n_calls, "Requests that have not ended.");
	one(&p, "turned_away_total", "counter", (double)m->turned_away,
	    "Frames answered with busy before they became requests.");
	put_requests(&p, m);
	put_engine(&p, d);
	put_histogram(&p, "first_token_seconds", &m->first_token,
		      "From the arrival of a request to its first token, loading included.");
	put_histogram(&p, "token_seconds", &m->per_token, "Between tokens of a request.");
	one(&p, "loads_total", "counter", (double)m->loads, "Models loaded.");
	one(&p, "load_failures_total", "counter", (double)m->load_failures,
	    "Models that could not be loaded.");
	one(&p, "unloads_total", "counter", (double)m->unloads, "Models unloaded.");
	one(&p, "faults_total", "counter", (double)m->faults, "Models that failed while in use.");
	one(&p, "notices_dropped_total", "counter", (double)m->dropped,
	    "Notices that monitors were too slow for.");
	put_jobs(&p, d);
	put_models(&p, c);
	return p.r;
}

void req_metrics(struct call *c)
{
	_cleanup_(sbuf_deinit) struct sbuf text = { 0 };
	int r = metrics_text(c, &text);

	if (r < 0)
		call_fail(c, r, NULL);
	else
		call_reply_text(c, text.p, text.n);
}

/* --- what is open ----------------------------------------------------------------------------- */

static const char *state_of(struct call *c)
{
	bool submitted;

	pthread_mutex_lock(&c->lock);
	submitted = c->request != NULL;
	pthread_mutex_unlock(&c->lock);
	if (submitted)
		return atomic_load(&c->n_tokens) ? "generating" : "prompt";
	return c->busy ? "working" : "waiting";
}

static json_t *call_json(const struct conn *conn, struct call *c)
{
	char model[80], name[2 * HELLO_CLIENT_MAX];
	double age = (double)(daemon_now_us() - c->started_us) / 1e6;

	return json_pack("{s:I, s:i, s:I, s:I, s:s, s:s, s:s, s:s, s:f, s:I}", "client",
			 (json_int_t)conn->number, "request", (int)c->id, "uid",
			 (json_int_t)conn->peer.uid, "pid", (json_int_t)conn->peer.pid, "name",
			 str_escape(name, sizeof(name), conn->name, strlen(conn->name)), "what",
			 c->in.info->name, "model", metrics_model_of(c, model), "state",
			 state_of(c), "age_s", age, "tokens",
			 (json_int_t)atomic_load(&c->n_tokens));
}

static json_t *user_json(const struct user *u)
{
	return json_pack("{s:I, s:I, s:I}", "uid", (json_int_t)u->uid, "connections",
			 (json_int_t)u->used[CHARGE_CONNECTIONS], "requests",
			 (json_int_t)u->used[CHARGE_REQUESTS]);
}

static json_t *activity_json(struct call *asking)
{
	struct daemon *d = asking->d;
	json_t *users = json_array(), *requests = json_array();
	int r = 0;

	list_for (&d->users.list, it) {
		const struct user *u = container_of(it, struct user, link);

		if (asking->admin || u->uid == asking->user->uid)
			r |= json_array_append_new(users, user_json(u));
	}
	list_for (&d->conns, it) {
		struct conn *conn = container_of(it, struct conn, link);

		if (!conn->user || (!asking->admin && conn->user != asking->user))
			continue;
		list_for (&conn->calls, jt) {
			struct call *c = container_of(jt, struct call, link);

			if (c != asking)
				r |= json_array_append_new(requests, call_json(conn, c));
		}
	}
	if (r == 0)
		return json_pack("{s:o, s:o}", "users", users, "requests", requests);
	json_decref(users);
	json_decref(requests);
	return NULL;
}

void req_activity(struct call *c)
{
	json_t *json = activity_json(c);
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (text)
		call_reply_text(c, text, strlen(text));
	else
		call_fail(c, -ENOMEM, NULL);
	free(text);
}

void req_monitor(struct call *c)
{
	metrics_watch(c);
}
