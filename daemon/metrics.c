/* metrics - counts, and tells who watches.
 *
 * 1. A notice goes to administrators and to the user it is about; one about a shared model to all.
 * 2. A watcher that does not read loses notices, not its place: beyond NOTICES_MAX frames in its
 *    queue they are dropped, and the next one says how many.
 * 3. Histograms are written by the engine thread and read by the main thread, number by number: a
 *    reading may miss a token, never a bound. */
#include "daemon/metrics.h"
#include "base/mem.h"
#include "base/num.h"
#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/dispatch.h"
#include "daemon/models.h"
#include <string.h>
#include <time.h>

enum { NOTICES_MAX = 256 };

static const double first_bounds[METRICS_BOUNDS] = { 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
						     1,    2.5,   5,    10,  30,   60 };
static const double token_bounds[METRICS_BOUNDS] = { 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
						     0.1,   0.2,   0.5,   1,    2,    5 };

const char *outcome_name(enum outcome o)
{
	static const char *const names[OUTCOME_N] = {
		"ok",      "failed", "usage",     "not-loaded", "no-model",
		"refused", "busy",   "cancelled", "gone",
	};

	return names[o];
}

void metrics_init(struct metrics *m)
{
	m->first_token.bounds = first_bounds;
	m->per_token.bounds = token_bounds;
	list_init(&m->monitors);
}

static void observe(struct histogram *h, uint64_t us)
{
	unsigned i = 0;

	while (i < METRICS_BOUNDS && (double)us > h->bounds[i] * 1e6)
		i++;
	atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
}

void metrics_token(struct call *c)
{
	struct metrics *m = &c->d->metrics;
	uint64_t now = daemon_now_us(), last = c->last_token_us;

	c->last_token_us = now;
	atomic_fetch_add_explicit(&c->n_tokens, 1, memory_order_relaxed);
	if (last)
		observe(&m->per_token, now - MIN(last, now));
	else
		observe(&m->first_token, now - MIN(c->started_us, now));
}

/* --- notices ---------------------------------------------------------------------------------- */

static bool sees(const struct call *watcher, uid_t uid, bool everybody)
{
	return watcher->admin || everybody || watcher->user->uid == uid;
}

static void notice_init(Qllm__Notice *n, const char *kind, uid_t uid)
{
	struct timespec t;

	qllm__notice__init(n);
	clock_gettime(CLOCK_REALTIME, &t);
	n->kind = (char *)(uintptr_t)kind;
	n->has_time = n->has_uid = true;
	n->time = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
	n->uid = uid;
}

static void tell(struct daemon *d, Qllm__Notice *n, bool everybody)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;

	frame.has_id = true;
	frame.body_case = QLLM__FRAME__BODY_NOTICE;
	frame.notice = n;
	list_for (&d->metrics.monitors, it) {
		struct call *w = container_of(it, struct call, waiting);

		if (!w->conn || !sees(w, n->uid, everybody))
			continue;
		if (w->conn->out_frames >= NOTICES_MAX) {
			w->dropped++;
			d->metrics.dropped++;
			continue;
		}
		n->has_dropped = w->dropped > 0;
		n->dropped = w->dropped;
		w->dropped = 0;
		frame.id = w->id;
		conn_send(w->conn, &frame, NULL);
	}
}

static bool watched(const struct daemon *d)
{
	return !list_empty(&d->metrics.monitors);
}

static void about_client(Qllm__Notice *n, const struct conn *conn)
{
	n->has_client = n->has_pid = true;
	n->client = conn->number;
	n->pid = (uint32_t)conn->peer.pid;
}

void metrics_connected(struct conn *conn)
{
	Qllm__Notice n;
	char name[2 * HELLO_CLIENT_MAX];

	conn->d->metrics.connections++;
	if (!watched(conn->d))
		return;
	notice_init(&n, "connect", conn->peer.uid);
	about_client(&n, conn);
	n.name = str_escape(name, sizeof(name), conn->name, strlen(conn->name));
	tell(conn->d, &n, false);
}

void metrics_disconnected(struct conn *conn, const char *why)
{
	Qllm__Notice n;
	char name[2 * HELLO_CLIENT_MAX];

	list_for_safe (&conn->d->metrics.monitors, it)
		if (container_of(it, struct call, waiting)->conn == conn)
			list_remove(it);
	if (!watched(conn->d) || !conn->greeted)
		return;
	notice_init(&n, "disconnect", conn->peer.uid);
	about_client(&n, conn);
	n.name = str_escape(name, sizeof(name), conn->name, strlen(conn->name));
	n.text = (char *)(uintptr_t)why;
	tell(conn->d, &n, false);
}

/* The field is called model in every request that has one; import gives its model a name. */
const char *metrics_model_of(const struct call *c, char out[80])
{
	const ProtobufCMessage *m = (const ProtobufCMessage *)c->in.frame->wake;
	const ProtobufCMessageDescriptor *desc = c->in.info->desc;
	const ProtobufCFieldDescriptor *f =
		protobuf_c_message_descriptor_get_field_by_name(desc, "model");
	const char *name = NULL;

	if (!f)
		f = protobuf_c_message_descriptor_get_field_by_name(desc, "name");
	if (f && f->type == PROTOBUF_C_TYPE_STRING && f->label == PROTOBUF_C_LABEL_OPTIONAL)
		memcpy(&name, (const char *)m + f->offset, sizeof(name));
	return str_escape(out, 80, name ? name : "", name ? strlen(name) : 0);
}

/* Monitors say nothing of each other, nor of what is asked and answered at once. */
static bool is_news(const struct call *c)
{
	return !c->row->light && c->in.frame->body_case != QLLM__FRAME__BODY_MONITOR;
}

static void about_call(Qllm__Notice *n, const struct call *c, char model[80])
{
	if (c->conn)
		about_client(n, c->conn);
	n->has_request = true;
	n->request = c->id;
	n->what = (char *)(uintptr_t)c->in.info->name;
	n->model = (char *)(uintptr_t)metrics_model_of(c, model);
}

void metrics_begin(struct call *c)
{
	Qllm__Notice n;
	char model[80];

	c->started_us = daemon_now_us();
	if (!watched(c->d) || !is_news(c))
		return;
	notice_init(&n, "begin", c->user->uid);
	about_call(&n, c, model);
	tell(c->d, &n, false);
}

static enum outcome outcome_of(const struct call *c)
{
	if (!c->conn && !c->detached)
		return OUTCOME_GONE;
	if (c->cancelled || c->request_result.finish == FINISH_CANCELLED)
		return OUTCOME_CANCELLED;
	switch (c->outcome) {
	case EXIT_OK:
		return OUTCOME_OK;
	case EXIT_USAGE:
		return OUTCOME_USAGE;
	case EXIT_NOT_LOADED:
		return OUTCOME_NOT_LOADED;
	case EXIT_NO_MODEL:
		return OUTCOME_NO_MODEL;
	case EXIT_REFUSED:
		return OUTCOME_REFUSED;
	case EXIT_BUSY:
		return OUTCOME_BUSY;
	default:
		return OUTCOME_FAILED;
	}
}

void metrics_end(struct call *c)
{
	const struct request_result *r = &c->request_result;
	enum outcome outcome = outcome_of(c);
	Qllm__Notice n;
	char model[80];

	if ((unsigned)c->in.frame->body_case < METRICS_BODIES)
		c->d->metrics.requests[c->in.frame->body_case][outcome]++;
	if (!watched(c->d) || !is_news(c))
		return;
	notice_init(&n, "end", c->user->uid);
	about_call(&n, c, model);
	n.result = (char *)(uintptr_t)outcome_name(outcome);
	n.has_seconds = true;
	n.seconds = (double)(daemon_now_us() - c->started_us) / 1e6;
	n.has_prompt_tokens = n.has_cached_tokens = n.has_completion_tokens = n.has_prompt_s =
		n.has_first_token_s = n.has_decode_s = c->row->streams;
	n.prompt_tokens = r->prompt_tokens;
	n.cached_tokens = r->cached_tokens;
	n.completion_tokens = r->completion_tokens;
	n.prompt_s = r->timing.prompt_s;
	n.first_token_s = r->timing.first_token_s;
	n.decode_s = r->timing.decode_s;
	tell(c->d, &n, false);
}

static void model_notice(struct daemon *d, const char *kind, const struct entry *e, double seconds,
			 const char *text)
{
	Qllm__Notice n;

	if (!watched(d))
		return;
	notice_init(&n, kind, e->meta.uid);
	n.model = e->meta.name;
	n.has_seconds = seconds > 0;
	n.seconds = seconds;
	n.text = (char *)(uintptr_t)text;
	tell(d, &n, e->meta.shared);
}

void metrics_loaded(struct daemon *d, const struct entry *e)
{
	d->metrics.loads++;
	model_notice(d, "load", e, e->load_s, NULL);
}

void metrics_unloaded(struct daemon *d, const struct entry *e)
{
	d->metrics.unloads++;
	model_notice(d, "unload", e, 0, NULL);
}

void metrics_fault(struct daemon *d, const struct entry *e, bool loading, const char *text)
{
	if (loading)
		d->metrics.load_failures++;
	else
		d->metrics.faults++;
	model_notice(d, "fault", e, 0, text);
}

void metrics_job(struct daemon *d, uid_t uid, const char *kind, const char *model,
		 const char *state, const char *text)
{
	Qllm__Notice n;

	if (!watched(d))
		return;
	notice_init(&n, "job", uid);
	n.what = (char *)(uintptr_t)kind;
	n.model = (char *)(uintptr_t)model;
	n.result = (char *)(uintptr_t)state;
	n.text = (char *)(uintptr_t)text;
	tell(d, &n, false);
}

void metrics_watch(struct call *c)
{
	list_append(&c->d->metrics.monitors, &c->waiting);
}

void metrics_end_watches(struct daemon *d)
{
	list_for_safe (&d->metrics.monitors, it)
		call_ok(container_of(it, struct call, waiting), "the daemon is stopping");
}
