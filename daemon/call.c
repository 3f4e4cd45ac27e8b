/* call - the life of a request on the daemon's side.
 *
 * 1. While busy, the call belongs to a worker or the engine; the main thread only sets flags. The
 *    one post that ends a step gives it back. So a call is freed on the main thread, never under
 *    somebody's feet.
 * 2. A progress post may still be in the box when the step ends; it was pushed earlier, so it runs
 *    earlier: posts are in order and the call outlives it.
 * 3. A call that was cancelled during a worker's step ends as cancelled; the engine reports its own
 *    end. */
#include "daemon/call.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/mem.h"
#include "base/num.h"
#include "daemon/conn.h"
#include "daemon/dispatch.h"
#include "daemon/foreign.h"
#include "daemon/models.h"

enum { PROGRESS_EVERY_US = 100000 };

enum exit_class call_exit_class(int r)
{
	switch (-r) {
	case 0:
		return EXIT_OK;
	case EINVAL:
		return EXIT_USAGE;
	case ENODATA:
		return EXIT_NOT_LOADED;
	case ENOENT:
		return EXIT_NO_MODEL;
	case EPERM:
	case EACCES:
	case EDQUOT:
	case ENOSPC:
		return EXIT_REFUSED;
	case EBUSY:
	case EAGAIN:
		return EXIT_BUSY;
	default:
		return EXIT_FAILED;
	}
}

static void call_on_post(struct post *p);
static void call_on_tick(struct post *p);

struct call *call_new(struct conn *conn, const struct dispatch_row *row, struct frame_in *in)
{
	struct call *c = mem_alloc(sizeof(*c));

	if (!c)
		return NULL;
	c->d = conn->d;
	c->conn = conn;
	c->user = user_ref(conn->user);
	c->admin = conn->peer.admin;
	c->row = row;
	c->id = in->frame->id;
	c->in = *in;
	c->post.fn = call_on_post;
	c->tick.fn = call_on_tick;
	pthread_mutex_init(&c->lock, NULL);
	if (conn->stream)
		c->stream = stream_ref(conn->stream);
	list_append(&conn->calls, &c->link);
	c->d->n_calls++;
	daemon_watch(c->d);
	metrics_begin(c);
	return c;
}

static void call_free(struct call *c)
{
	struct daemon *d = c->d;
	struct user *owner = foreign_owner(c->user);

	metrics_end(c);
	/* Progress of a job that somebody else does may be on its way while the call just waits. */
	if (atomic_load(&c->tick_pending))
		posts_take_back(d->posts, &c->tick);
	list_remove(&c->link);
	list_remove(&c->waiting);
	if (c->data_free)
		c->data_free(c->data);
	for (size_t i = 0; i < ARRAY_SIZE(c->entry); i++) {
		model_unref(c->model[i]);
		if (c->entry[i])
			models_release(c->entry[i]);
	}
	frame_in_deinit(&c->in);
	foreign_owner(owner);
	stream_unref(c->stream);
	pthread_mutex_destroy(&c->lock);
	for (unsigned i = 0; i < c->n_charges; i++)
		charge_deinit(&c->charges[i]);
	foreign_resume();
	user_put(c->user);
	mem_free(c);
	d->n_calls--;
	daemon_check_drained(d);
}

bool call_charge(struct call *c, enum charge_kind kind, uint64_t n)
{
	struct err err = { 0 };
	int r;

	if (n == 0)
		return true;
	r = charge_take(&c->charges[c->n_charges], c->user, kind, n, &err);
	if (r < 0)
		call_fail(c, r, &err);
	else
		c->n_charges++;
	return r == 0;
}

static void send_reply(struct call *c, Qllm__Frame *frame, const struct frame_fds *fds)
{
	frame->has_id = true;
	frame->id = c->id;
	if (c->conn && !c->detached)
		conn_send(c->conn, frame, fds);
}

void call_reply(struct call *c, Qllm__Frame *frame, struct frame_fds *fds)
{
	send_reply(c, frame, fds);
	call_free(c);
}

void call_ok(struct call *c, const char *text)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Ok ok = QLLM__OK__INIT;

	ok.text = (char *)(uintptr_t)text;
	frame.body_case = QLLM__FRAME__BODY_OK;
	frame.ok = &ok;
	call_reply(c, &frame, NULL);
}

void call_reply_text(struct call *c, const char *text, size_t n)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__TextReply reply = QLLM__TEXT_REPLY__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	_cleanup_(frame_fds_deinit) struct frame_fds fds = { .n = 0 };
	int r = blob_put(&blob, text, n, &fds);

	if (r < 0) {
		call_fail(c, r, NULL);
		return;
	}
	reply.text = &blob;
	frame.body_case = QLLM__FRAME__BODY_TEXT_REPLY;
	frame.text_reply = &reply;
	call_reply(c, &frame, &fds);
}

static void send_error(struct call *c, enum exit_class class, int r, const char *text)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Error error = QLLM__ERROR__INIT;

	error.has_code = error.has_errnum = true;
	error.code = class;
	c->outcome = class;
	c->cancelled = r == -ECANCELED;
	error.errnum = -r;
	error.text = (char *)(uintptr_t)text;
	frame.body_case = QLLM__FRAME__BODY_ERROR;
	frame.error = &error;
	send_reply(c, &frame, NULL);
}

static void reply_error(struct call *c, enum exit_class class, int r, const char *text)
{
	send_error(c, class, r, text);
	call_free(c);
}

static void reply_cancelled(struct call *c)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Done done = QLLM__DONE__INIT;

	done.has_finish = true;
	done.finish = QLLM__FINISH__FINISHED_CANCELLED;
	c->cancelled = true;
	frame.body_case = QLLM__FRAME__BODY_DONE;
	frame.done = &done;
	call_reply(c, &frame, NULL);
}

void call_fail(struct call *c, int r, const struct err *err)
{
	if (r == -ECANCELED && c->row->streams)
		reply_cancelled(c);
	else if (r == -ECANCELED)
		reply_error(c, EXIT_FAILED, r, "cancelled");
	else
		reply_error(c, call_exit_class(r), r,
		            err && err->text[0] ? err->text : strerror(-r));
}

void call_fail_class(struct call *c, enum exit_class class, int r, const char *format, ...)
{
	struct err err = { 0 };
	va_list ap;

	va_start(ap, format);
	err_setv(&err, r, format, ap);
	va_end(ap);
	reply_error(c, class, r, err.text);
}

void call_free_data(void *data)
{
	mem_free(data);
}

/* Its step ended by the flag, not by itself just before. */
static bool was_cancelled(const struct call *c)
{
	if (!c->run)
		return c->result == 0 && c->request_result.finish == FINISH_CANCELLED;
	return c->result == -ECANCELED;
}

static void call_run(struct work *w)
{
	struct call *c = container_of(w, struct call, work);

	c->result = atomic_load(&c->cancel) ? -ECANCELED : c->run(c, &c->err);
	posts_push(c->d->posts, &c->post);
}

static void start_work(struct call *c)
{
	if (!c->d->stopping) {
		workers_push(c->group, &c->work);
		return;
	}
	/* The threads have gone: it ends as cancelled. */
	atomic_store(&c->cancel, true);
	call_run(&c->work);
}

/* Its work has ended: the next of the user's in that group. */
static void pass_turn(struct call *c)
{
	struct turn *turn = STEAL(c->turn);
	struct list *next;

	if (!turn)
		return;
	turn->busy = !list_empty(&turn->waiting);
	if (!turn->busy)
		return;
	next = turn->waiting.next;
	list_remove(next);
	start_work(container_of(next, struct call, work.link));
}

static void call_on_post(struct post *p)
{
	struct call *c = container_of(p, struct call, post);

	c->busy = false;
	if (c->run)
		pass_turn(c);
	if (c->result == 0 && c->run && atomic_load(&c->cancel))
		c->result = -ECANCELED;
	if (c->ended.code < 0 && was_cancelled(c))
		reply_error(c, c->ended_class, c->ended.code, c->ended.text);
	else if (c->result < 0)
		call_fail(c, c->result, &c->err);
	else
		c->then(c);
}

void call_work(struct call *c, struct workers *group, call_run_fn run, call_then_fn then)
{
	c->busy = true;
	c->run = run;
	c->then = then;
	c->result = 0;
	err_clear(&c->err);
	c->work.run = call_run;
	c->group = group;
	c->turn = group == c->d->prep   ? &c->user->turns[TURN_PREP]
	          : group == c->d->slow ? &c->user->turns[TURN_SLOW]
	                                : NULL;
	if (c->turn && c->turn->busy) {
		list_append(&c->turn->waiting, &c->work.link);
		return;
	}
	if (c->turn)
		c->turn->busy = true;
	start_work(c);
}

void call_submit(struct call *c, struct request *r, call_then_fn then)
{
	struct err err = { 0 };
	int result;

	if (!call_charge(c, CHARGE_TOKENS, r->n_tokens)) {
		request_free(r);
		return;
	}
	r->uid = c->user->uid;
	r->kv_max = user_limit(c->user, LIMIT_KV);
	r->share = models_share_prompts(c->entry[0]);
	r->client = c->conn ? c->conn->number : 0;
	r->sink = stream_sink;
	r->user = c;
	atomic_store(&r->cancel, atomic_load(&c->cancel));
	c->busy = true;
	c->run = NULL;
	c->then = then;
	c->result = 0;
	err_clear(&c->err);
	/* The engine may be done before engine_submit returns. */
	c->request = r;
	result = engine_submit(c->d->engine, r, &err);
	if (result < 0) {
		c->request = NULL;
		c->busy = false;
		call_fail(c, result, &err);
	}
}

void call_request_done(struct call *c, const struct request_result *result)
{
	pthread_mutex_lock(&c->lock);
	c->request = NULL;
	pthread_mutex_unlock(&c->lock);
	c->request_result = *result;
	c->request_result.err = NULL;
	if (result->finish == FINISH_ERROR) {
		c->result = result->code < 0 ? result->code : -EIO;
		if (result->err)
			c->err = *result->err;
	} else if (atomic_load(&c->overflow)) {
		c->result = err_set(
			&c->err, -ENOBUFS,
			"the connection's ring is too small for this output: ask for more "
			"ring_bytes in Hello");
	}
	posts_push(c->d->posts, &c->post);
}

void call_cancel(struct call *c)
{
	bool running = false;

	atomic_store(&c->cancel, true);
	pthread_mutex_lock(&c->lock);
	if (c->request) {
		atomic_store(&c->request->cancel, true);
		running = true;
	}
	pthread_mutex_unlock(&c->lock);
	if (running)
		engine_wake(c->d->engine);
	if (!c->busy)
		call_fail(c, -ECANCELED, NULL);
}

void call_end(struct call *c, enum exit_class class, int r, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	err_setv(&c->ended, r, format, ap);
	va_end(ap);
	c->ended_class = class;
	if (c->busy)
		call_cancel(c);
	else
		reply_error(c, class, r, c->ended.text);
}

void call_dismiss(struct call *c, enum exit_class class, int r, const char *text)
{
	send_error(c, class, r, text);
	c->detached = true;
	call_cancel(c);
}

void call_orphan(struct call *c)
{
	list_remove(&c->link);
	c->conn = NULL;
	if (!c->detached)
		call_cancel(c);
}

void call_detach(struct call *c, const char *text)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Ok ok = QLLM__OK__INIT;

	ok.text = (char *)(uintptr_t)text;
	frame.body_case = QLLM__FRAME__BODY_OK;
	frame.ok = &ok;
	send_reply(c, &frame, NULL);
	c->detached = true;
}

static void call_on_tick(struct post *p)
{
	struct call *c = container_of(p, struct call, tick);
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Progress progress = QLLM__PROGRESS__INIT;

	progress.has_done = progress.has_total = true;
	progress.phase = (char *)(uintptr_t)c->progress_phase;
	progress.unit = (char *)(uintptr_t)c->progress_unit;
	progress.done = atomic_load(&c->progress_done);
	progress.total = atomic_load(&c->progress_total);
	/* only now may the worker write them again; the frame holds copies, of the strings too:
	 * they are literals */
	atomic_store(&c->tick_pending, false);
	frame.body_case = QLLM__FRAME__BODY_PROGRESS;
	frame.progress = &progress;
	send_reply(c, &frame, NULL);
}

void call_progress(struct call *c, const char *phase, uint64_t done, uint64_t total,
                   const char *unit)
{
	uint64_t now = daemon_now_us();

	if (now - atomic_load(&c->progress_us) < PROGRESS_EVERY_US ||
	    atomic_exchange(&c->tick_pending, true))
		return;
	atomic_store(&c->progress_us, now);
	atomic_store(&c->progress_done, done);
	atomic_store(&c->progress_total, total);
	c->progress_phase = phase;
	c->progress_unit = unit;
	posts_push(c->d->posts, &c->tick);
}
