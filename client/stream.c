/* stream - what the daemon sends, turned into events.
 *
 * 1. A ring record is delivered in place and given back after its event function has returned.
 * 2. A final frame may overtake nothing: the ring is read to its end before the frame is looked at.
 * 3. The daemon's numbers are not trusted with addresses: every count is held against the record's
 *    length.
 * 4. A call is off the list before its DONE, so the event function may start the next one. */
#include <errno.h>
#include "base/num.h"
#include "client/conn.h"

struct call *call_find(struct qllm *q, uint32_t id)
{
	list_for(&q->calls, it) {
		struct call *call = container_of(it, struct call, link);

		if (call->id == id)
			return call;
	}
	return NULL;
}

static void deliver(struct qllm *q, const struct call *call, struct qllm_event *ev)
{
	ev->id = call->id;
	q->n_events++;
	if (call->fn)
		call->fn(call->user, ev);
}

/* Last event; frees the call. */
static void deliver_done(struct qllm *q, struct call *call, struct qllm_event *ev)
{
	list_remove(&call->link);
	if (q->wait_id == call->id) {
		q->wait_id = 0;
		q->wait_code = ev->code;
	}
	deliver(q, call, ev);
	mem_free(call);
}

static void deliver_failure(struct qllm *q, struct call *call, int code, int exit_class,
                            const char *text)
{
	struct qllm_event ev = { .type = QLLM_EVENT_DONE, .code = code, .error_class = exit_class };

	error_set(q, code, exit_class, "%s", text);
	q->failure_told = true;
	ev.error = q->err.text;
	deliver_done(q, call, &ev);
}

static int ring_token(struct qllm *q, const struct call *call, const uint8_t *p, size_t n)
{
	struct qllm_event ev = { .type = QLLM_EVENT_TOKEN };
	struct qllm_token token = { 0 };
	struct ring_token head;
	size_t left;

	_Static_assert(sizeof(struct ring_top) == sizeof(struct qllm_logprob),
	               "delivered in place");
	if (n < sizeof(head))
		return -EPROTO;
	memcpy(&head, p, sizeof(head));
	left = n - sizeof(head);
	if (head.n_top > left / sizeof(struct ring_top) ||
	    head.n_text != left - head.n_top * sizeof(struct ring_top))
		return -EPROTO;
	token.id = head.id;
	token.logprob = head.logprob;
	token.top = (const struct qllm_logprob *)(const void *)(p + sizeof(head));
	token.n_top = head.n_top;
	token.text = (const char *)p + sizeof(head) + head.n_top * sizeof(struct ring_top);
	token.n_text = head.n_text;
	ev.token = &token;
	deliver(q, call, &ev);
	return 0;
}

static int ring_row(struct qllm *q, const struct call *call, const uint8_t *p, size_t n)
{
	struct qllm_event ev = { .type = QLLM_EVENT_ROW };
	struct qllm_row row;
	struct ring_row head;

	if (n < sizeof(head))
		return -EPROTO;
	memcpy(&head, p, sizeof(head));
	if (head.n != (n - sizeof(head)) / sizeof(float) || head.first > head.n_vocab ||
	    head.n > head.n_vocab - head.first)
		return -EPROTO;
	row = (struct qllm_row){ head.index, head.n_vocab, head.first, head.n,
		                 (const float *)(const void *)(p + sizeof(head)) };
	ev.row = &row;
	deliver(q, call, &ev);
	return 0;
}

int stream_ring(struct qllm *q)
{
	struct ring_record rec;
	const void *p;
	int r;

	while ((r = ring_reader_next(q->ring, &rec, &p)) > 0) {
		/* a record of a request that has ended, or of a type from the future, is passed
		 * over */
		struct call *call = rec.id <= UINT32_MAX ? call_find(q, (uint32_t)rec.id) : NULL;
		int code = 0;

		if (call && rec.type == RING_TOKEN)
			code = ring_token(q, call, p, rec.len);
		else if (call && rec.type == RING_ROW)
			code = ring_row(q, call, p, rec.len);
		if (code < 0)
			return code;
		if (ring_reader_release(q->ring))
			conn_wake(q);
	}
	return r;
}

static void model_event(struct qllm *q, const struct call *call, const Qllm__ModelInfo *m)
{
	struct qllm_event ev = { .type = QLLM_EVENT_MODEL };
	struct qllm_model model = {
		.name = m->name ? m->name : "",
		.path = m->path ? m->path : "",
		.architecture = m->architecture ? m->architecture : "",
		.type = m->type ? m->type : "",
		.fault = m->fault,
		.parameters = m->parameters,
		.bytes = m->bytes,
		.uid = m->uid,
		.loaded = m->loaded,
		.packed = m->packed,
		.in_place = m->in_place,
		.shared = m->shared,
	};

	ev.model = &model;
	deliver(q, call, &ev);
}

static void ps_event(struct qllm *q, const struct call *call, const Qllm__PsEntry *m)
{
	struct qllm_event ev = { .type = QLLM_EVENT_LOADED };
	struct qllm_loaded loaded = {
		.name = m->name ? m->name : "",
		.state = m->state ? m->state : "",
		.bytes = m->bytes,
		.resident_bytes = m->resident_bytes,
		.kv_pages = m->kv_pages,
		.kv_pages_max = m->kv_pages_max,
		.kv_bytes = m->kv_bytes,
		.references = m->references,
		.ctx = m->ctx,
		.idle_s = m->idle_s,
		.pinned = m->pinned,
		.kv = m->kv ? m->kv : "",
		.kv_pages_cached = m->kv_pages_cached,
	};

	ev.loaded = &loaded;
	deliver(q, call, &ev);
}

/* A page of a list; the next one is asked for under the same id. */
static void frame_page(struct qllm *q, struct call *call, const Qllm__Frame *f)
{
	bool is_list = f->body_case == QLLM__FRAME__BODY_LIST_REPLY;
	size_t n = is_list ? f->list_reply->n_models : f->ps_reply->n_models;
	bool more = is_list ? f->list_reply->more : f->ps_reply->more;
	const char *last = n == 0    ? NULL
	                   : is_list ? f->list_reply->models[n - 1]->name
	                             : f->ps_reply->models[n - 1]->name;
	struct qllm_event done = { .type = QLLM_EVENT_DONE };

	if (is_list && f->list_reply->note) {
		done.data = f->list_reply->note;
		done.n_data = strlen(done.data);
	}
	for (size_t i = 0; i < n; i++) {
		if (is_list)
			model_event(q, call, f->list_reply->models[i]);
		else
			ps_event(q, call, f->ps_reply->models[i]);
	}
	if (more && last && call_list_more(q, call, last) == 0)
		return;
	if (more)
		deliver_failure(q, call, -EPROTO, EXIT_FAILED,
		                "the list could not be read to its end");
	else
		deliver_done(q, call, &done);
}

static void job_event(struct qllm *q, const struct call *call, const Qllm__JobInfo *m)
{
	struct qllm_event ev = { .type = QLLM_EVENT_JOB };
	struct qllm_job job = {
		.id = m->id,
		.kind = m->kind ? m->kind : "",
		.state = m->state ? m->state : "",
		.model = m->model ? m->model : "",
		.error = m->error,
		.result = m->result,
		.checksum = m->checksum,
		.phase = m->phase,
		.percent = m->percent,
		.eta_s = m->has_eta_s ? m->eta_s : -1,
		.bytes_read = m->bytes_read,
		.bytes_written = m->bytes_written,
		.created = m->created,
		.started = m->started,
		.ended = m->ended,
		.uid = m->uid,
		.failures = m->failures,
	};

	ev.job = &job;
	deliver(q, call, &ev);
}

static void frame_jobs(struct qllm *q, struct call *call, const Qllm__JobListReply *m)
{
	struct qllm_event done = { .type = QLLM_EVENT_DONE };

	for (size_t i = 0; i < m->n_jobs; i++)
		job_event(q, call, m->jobs[i]);
	if (!m->more)
		deliver_done(q, call, &done);
	else if (m->n_jobs == 0 || call_jobs_more(q, call, m->jobs[m->n_jobs - 1]->id) < 0)
		deliver_failure(q, call, -EPROTO, EXIT_FAILED,
		                "the list could not be read to its end");
}

static void frame_done(struct qllm *q, struct call *call, const Qllm__Done *d)
{
	struct qllm_event ev = { .type = QLLM_EVENT_DONE };
	struct qllm_result result = {
		.finish = (int)d->finish,
		.prompt_tokens = d->prompt_tokens,
		.cached_tokens = d->cached_tokens,
		.completion_tokens = d->completion_tokens,
		.prompt_s = d->prompt_s,
		.first_token_s = d->first_token_s,
		.decode_s = d->decode_s,
		.seed = d->seed,
		.note = d->note,
		.draft_tokens = d->draft_tokens,
		.draft_accepted = d->draft_accepted,
	};

	ev.result = &result;
	deliver_done(q, call, &ev);
}

static void frame_status(struct qllm *q, struct call *call, const Qllm__StatusReply *s)
{
	struct qllm_event ev = { .type = QLLM_EVENT_DONE };
	struct qllm_status_result status = {
		.version = s->version ? s->version : "",
		.threads_why = s->threads_why ? s->threads_why : "",
		.cpu = s->cpu ? s->cpu : "",
		.kernels = s->kernels ? s->kernels : "",
		.kernels_levels = s->kernels_levels ? s->kernels_levels : "",
		.kernels_refused = s->kernels_refused ? s->kernels_refused : "",
		.socket = s->socket ? s->socket : "",
		.state_dir = s->state_dir ? s->state_dir : "",
		.ready = s->ready,
		.uptime_s = s->uptime_s,
		.budget_bytes = s->budget_bytes,
		.used_bytes = s->used_bytes,
		.models = s->models,
		.loaded = s->loaded,
		.connections = s->connections,
		.running = s->running,
		.waiting = s->waiting,
		.parked = s->parked,
		.threads = s->threads,
		.threads_active = s->threads_active,
		.pid = s->pid,
		.prompt_tokens = s->prompt_tokens,
		.decode_tokens = s->decode_tokens,
		.preemptions = s->preemptions,
		.cached_bytes = s->cached_bytes,
		.cached_tokens = s->cached_tokens,
		.cache_hits = s->cache_hits,
	};

	ev.status = &status;
	deliver_done(q, call, &ev);
}

/* Small replies that hold numbers only. */
static void frame_numbers(struct qllm *q, struct call *call, const Qllm__Frame *f)
{
	struct qllm_event ev = { .type = QLLM_EVENT_DONE };
	struct qllm_estimate_result estimate = { 0 };
	struct qllm_load_result load = { 0 };
	struct qllm_eval_result eval = { 0 };
	struct qllm_read_result reading = { 0 };

	if (f->body_case == QLLM__FRAME__BODY_ESTIMATE_REPLY) {
		const Qllm__EstimateReply *e = f->estimate_reply;

		estimate = (struct qllm_estimate_result){
			e->weights_bytes,
			e->kv_bytes,
			e->kv_bytes_per_token,
			e->activation_bytes,
			e->budget_bytes,
			e->ctx,
			e->slots,
			e->fits,
		};
		ev.estimate = &estimate;
	} else if (f->body_case == QLLM__FRAME__BODY_LOAD_REPLY) {
		load = (struct qllm_load_result){ f->load_reply->seconds, f->load_reply->ctx,
			                          f->load_reply->was_loaded };
		ev.load = &load;
	} else if (f->body_case == QLLM__FRAME__BODY_EVAL_REPLY) {
		const Qllm__EvalReply *e = f->eval_reply;

		eval = (struct qllm_eval_result){
			e->ppl,      e->ppl_stderr, e->seconds, e->tokens, e->has_kld_mean,
			e->kld_mean, e->kld_p99,    e->kld_max, e->top1,
		};
		ev.eval = &eval;
	} else {
		const Qllm__BenchReadReply *b = f->bench_read_reply;

		reading = (struct qllm_read_result){ b->bytes, b->bytes_per_token, b->seconds,
			                             b->flops_per_token };
		ev.read = &reading;
	}
	deliver_done(q, call, &ev);
}

/* The limit is the socket's own: a memfd that the daemon made and whose size it says. */
static void frame_blob(struct qllm *q, struct call *call, struct frame_in *f,
                       const Qllm__Blob *blob)
{
	struct qllm_event ev = { .type = QLLM_EVENT_DONE };
	_cleanup_mem_ char *data = NULL;
	struct err err = { 0 };
	size_t n;
	int r = blob_get(blob, f, SIZE_MAX / 2, &data, &n, &err);

	if (r < 0) {
		deliver_failure(q, call, r, EXIT_FAILED, err.text[0] ? err.text : strerror(-r));
		return;
	}
	ev.data = data;
	ev.n_data = n;
	deliver_done(q, call, &ev);
}

static void frame_progress(struct qllm *q, const struct call *call, const Qllm__Progress *p)
{
	struct qllm_event ev = { .type = QLLM_EVENT_PROGRESS };
	struct qllm_progress progress = { p->phase ? p->phase : "", p->unit ? p->unit : "", p->done,
		                          p->total };

	ev.progress = &progress;
	deliver(q, call, &ev);
}

static void frame_notice(struct qllm *q, const struct call *call, const Qllm__Notice *n)
{
	struct qllm_event ev = { .type = QLLM_EVENT_NOTICE };
	struct qllm_notice notice = {
		.kind = n->kind ? n->kind : "",
		.time = n->time,
		.uid = n->uid,
		.pid = n->pid,
		.request = n->request,
		.client = n->client,
		.name = n->name,
		.what = n->what,
		.model = n->model,
		.result = n->result,
		.text = n->text,
		.has_tokens = n->has_completion_tokens,
		.prompt_tokens = n->prompt_tokens,
		.cached_tokens = n->cached_tokens,
		.completion_tokens = n->completion_tokens,
		.prompt_s = n->prompt_s,
		.first_token_s = n->first_token_s,
		.decode_s = n->decode_s,
		.seconds = n->seconds,
		.dropped = n->dropped,
	};

	ev.notice = &notice;
	deliver(q, call, &ev);
}

static void frame_ok(struct qllm *q, struct call *call, const Qllm__Ok *ok)
{
	struct qllm_event ev = { .type = QLLM_EVENT_DONE };

	ev.data = ok->text;
	ev.n_data = ok->text ? strlen(ok->text) : 0;
	deliver_done(q, call, &ev);
}

int stream_frame(struct qllm *q, struct frame_in *f)
{
	const Qllm__Frame *frame = f->frame;
	struct call *call = frame->has_id ? call_find(q, frame->id) : NULL;
	const Qllm__Error *e;

	if (!call)
		return 0;               /* Wake, or the end of something cancelled */
	if (f->info->final) {
		int r = stream_ring(q);

		if (r < 0)
			return r;
	}
	switch (frame->body_case) {
	case QLLM__FRAME__BODY_ERROR:
		e = frame->error;
		deliver_failure(q, call, e->errnum > 0 ? -e->errnum : error_of_class(e->code),
		                (int)e->code,
		                e->text && *e->text ? e->text : "the daemon gave no reason");
		break;
	case QLLM__FRAME__BODY_PROGRESS:
		frame_progress(q, call, frame->progress);
		break;
	case QLLM__FRAME__BODY_NOTICE:
		frame_notice(q, call, frame->notice);
		break;
	case QLLM__FRAME__BODY_OK:
		frame_ok(q, call, frame->ok);
		break;
	case QLLM__FRAME__BODY_STATUS_REPLY:
		frame_status(q, call, frame->status_reply);
		break;
	case QLLM__FRAME__BODY_LIST_REPLY:
	case QLLM__FRAME__BODY_PS_REPLY:
		frame_page(q, call, frame);
		break;
	case QLLM__FRAME__BODY_JOB_LIST_REPLY:
		frame_jobs(q, call, frame->job_list_reply);
		break;
	case QLLM__FRAME__BODY_TOKENS_REPLY:
		frame_blob(q, call, f, frame->tokens_reply->tokens);
		break;
	case QLLM__FRAME__BODY_TEXT_REPLY:
		frame_blob(q, call, f, frame->text_reply->text);
		break;
	case QLLM__FRAME__BODY_DONE:
		frame_done(q, call, frame->done);
		break;
	case QLLM__FRAME__BODY_ESTIMATE_REPLY:
	case QLLM__FRAME__BODY_LOAD_REPLY:
	case QLLM__FRAME__BODY_EVAL_REPLY:
	case QLLM__FRAME__BODY_BENCH_READ_REPLY:
		frame_numbers(q, call, frame);
		break;
	default:
		deliver_failure(q, call, -EPROTO, EXIT_FAILED,
		                "the daemon's answer is of a kind this library does not know");
		break;
	}
	return 0;
}

void stream_lost(struct qllm *q)
{
	while (!list_empty(&q->lost))
		deliver_failure(
			q, container_of(q->lost.next, struct call, link), -ECONNRESET,
			EXIT_UNREACHABLE,
			"the connection to the daemon was lost before the request had ended");
}
