/* engine - doors and the thread. See engine-lane.c for memory, engine-step.c for steps.
 *
 * Invariants:
 * 1. Everything but the inbox, the flags beside it, the published counters and the shape of the
 *    list of lanes and of users belongs to the engine thread. e->lock is held for a walk over
 *    those and for a change of them, never while something is computed.
 * 2. The thread sleeps in mbox_wait without timeout when no lane has a step to do: whoever changes
 *    what a sequence waits for sends a message.
 * 3. A request accepted by engine_submit gets exactly one sink.done.
 * 4. The thread is busy, as the watchdog sees it (base/beat), whenever it is not in mbox_wait. */
#include "engine/engine.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include "base/mem.h"
#include "base/num.h"
#include "base/pool.h"
#include "engine/engine-impl.h"

enum { DEFAULT_CHUNK = 128, DEFAULT_SEQS = 64, LOGITS_LEAST = 64, CONFIG_MAX = 4096 };

struct prepare {                        /* on the stack of engine_prepare */
	struct message message;
	struct model *model;
	enum kv_type kv_type;
	struct err *err;
	int code;
	sem_t done;
};
struct forget {
	struct message message;
	struct model *model;            /* a reference */
};

/* === The thread === */
static void count_admitted(struct request_state *s, uint64_t pages, uint64_t bytes)
{
	sched_count(&s->sched, true, pages, bytes);
}

static void publish(struct engine *e)
{
	uint32_t waiting = 0, running = 0, parked = 0;
	uint64_t used = 0, cached = 0;

	pthread_mutex_lock(&e->lock);
	sched_count_begin(&e->sched);
	engine_charges(e, count_admitted);
	list_for(&e->waiting, it) {
		waiting++;
		parked += link_seq(it)->sched.parked;
		sched_count(&link_seq(it)->sched, false, 0, 0);
	}
	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);

		list_for(&l->seqs, jt) {
			parked += link_seq(jt)->sched.parked;
			running += !link_seq(jt)->sched.parked;
		}
		list_for(&l->reads, jt) {
			running++;
			sched_count(&link_seq(jt)->sched, true, 0, 0);
		}
		used += l->fixed + lane_bytes(l);
		cached += prefix_idle_bytes(l->prefix);
		lane_publish(e, l);
	}
	pthread_mutex_unlock(&e->lock);
	atomic_store_explicit(&e->n_waiting, waiting, memory_order_relaxed);
	atomic_store_explicit(&e->n_running, running, memory_order_relaxed);
	atomic_store_explicit(&e->n_parked, parked, memory_order_relaxed);
	atomic_store_explicit(&e->used, used, memory_order_relaxed);
	atomic_store_explicit(&e->cached, cached, memory_order_relaxed);
}

void engine_finish(struct engine *e, struct request_state *s, enum finish finish,
                   const struct err *err)
{
	struct request *r = s->r;
	struct request_result result;

	list_remove(&r->link);
	if (s->lane) {
		s->lane->n_requests--;
		if (s->kv && !s->sched.parked)
			s->lane->n_active--;
	}
	pthread_mutex_lock(&e->lock);
	sched_leave(&e->sched, &s->sched);
	pthread_mutex_unlock(&e->lock);
	engine_draft_end(s);
	engine_leave(s);
	atomic_fetch_add_explicit(&e->cached_tokens, s->n_cached, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->cache_hits, s->n_cached > 0, memory_order_relaxed);
	seq_result(s, &result);
	result.finish = finish;
	if (finish == FINISH_ERROR) {
		result.err = err;
		result.code = err->code;
	}
	r->sink.done(r->user, &result);
	/* A cancel that ended it was read relaxed; its writer's access comes before the memory
	 * goes. */
	(void)atomic_load_explicit(&r->cancel, memory_order_acquire);
	request_free(r);
}

static int arrive(struct engine *e, struct request_state *s, struct err *err)
{
	struct request *r = s->r;
	struct kv_sizes z;
	uint64_t room;
	int ret;

	ret = lane_get(e, r->model, KV_F16, &s->lane, err);
	if (ret < 0)
		return ret;
	s->lane->n_requests++;
	if (r->draft) {
		struct lane *d;

		ret = lane_get(e, r->draft, KV_F16, &d, err);
		if (ret < 0)
			return ret;
		d->n_requests++;
		s->draft = d;
	}
	pthread_mutex_lock(&e->lock);
	ret = sched_join(&e->sched, &s->sched, r->uid, r->client, r->batch_class, r->kv_max);
	pthread_mutex_unlock(&e->lock);
	if (ret < 0)
		return err_set(err, ret, "no memory for another client's queue");
	/* Checked by engine_submit already, but another model may have been prepared since. */
	room = budget_for_pages(e, r->model, &z);
	if (kv_sizes_bytes(&z, seq_most(s)) > room)
		return err_set(
			err, -ENOSPC,
			"the request may need %llu MiB of KV pages, the engine's budget has %llu "
			"MiB",
			(unsigned long long)(kv_sizes_bytes(&z, seq_most(s)) >> 20),
			(unsigned long long)(room >> 20));
	list_append(r->kind == REQUEST_READ ? &s->lane->reads : &e->waiting, &r->link);
	return 0;
}

static void on_request(struct engine *e, struct request_state *s)
{
	struct err err = { 0 };

	if (atomic_load(&s->r->cancel))
		engine_finish(e, s, FINISH_CANCELLED, NULL);
	else if (arrive(e, s, &err) < 0)
		engine_finish(e, s, FINISH_ERROR, &err);
}

static void look_again(struct engine *e, struct list *head)
{
	list_for_safe(head, it) {
		struct request_state *s = link_seq(it);

		if (atomic_load(&s->r->cancel))
			engine_finish(e, s, FINISH_CANCELLED, NULL);
		else if (s->sched.parked && s->r->sink.room(s->r->user, s->room_wanted))
			engine_unpark(e, s);
	}
}

static void on_wake(struct engine *e)
{
	/* First the flag, then the look: a wake that comes during the look sends another
	 * message. */
	atomic_store(&e->wake_pending, false);
	look_again(e, &e->waiting);
	list_for(&e->lanes, it) {
		look_again(e, &container_of(it, struct lane, link)->seqs);
		look_again(e, &container_of(it, struct lane, link)->reads);
	}
}

static void on_prepare(struct engine *e, struct prepare *p)
{
	struct lane *l;

	p->code = lane_get(e, p->model, p->kv_type, &l, p->err);
	if (p->code == 0)
		publish(e);
	sem_post(&p->done);
}

static void on_forget(struct engine *e, struct forget *f)
{
	struct lane *l = lane_find(e, f->model);

	if (l && l->n_requests == 0)
		lane_drop(e, l);
	else if (l)
		l->forget = true;       /* dropped by drain after its last request */
	model_unref(f->model);
	mem_free(f);
}

static void drain(struct engine *e)
{
	struct list *it;

	while ((it = mbox_pop(e->inbox))) {
		struct message *m = container_of(it, struct message, link);

		switch (m->kind) {
		case MESSAGE_REQUEST:
			on_request(e, container_of(m, struct request_state, message));
			break;
		case MESSAGE_WAKE:
			on_wake(e);
			break;
		case MESSAGE_PREPARE:
			on_prepare(e, container_of(m, struct prepare, message));
			break;
		case MESSAGE_FORGET:
			on_forget(e, container_of(m, struct forget, message));
			break;
		}
	}
	list_for_safe(&e->lanes, jt) {
		struct lane *l = container_of(jt, struct lane, link);

		if (l->forget && l->n_requests == 0)
			lane_drop(e, l);
	}
}

/* One step of the first lane that has one; it goes to the end of the queue of lanes. */
static bool turn(struct engine *e)
{
	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);

		if (!lane_turn(e, l))
			continue;
		pthread_mutex_lock(&e->lock);
		list_remove(&l->link);
		list_append(&e->lanes, &l->link);
		pthread_mutex_unlock(&e->lock);
		return true;
	}
	return false;
}

static void cancel_all(struct engine *e, struct list *head)
{
	while (!list_empty(head))
		engine_finish(e, link_seq(head->next), FINISH_CANCELLED, NULL);
}

static void *engine_main(void *arg)
{
	struct engine *e = arg;

	pthread_setname_np(pthread_self(), "engine");
	for (;;) {
		bool busy;

		beat_busy(pool_beat(e->pool));
		drain(e);
		if (atomic_load(&e->quit))
			break;
		engine_admit(e);
		busy = turn(e);
		publish(e);
		if (busy)
			continue;
		beat_idle(pool_beat(e->pool));
		mbox_wait(e->inbox, -1);
	}
	drain(e);       /* what was sent before quit was set but after the last look */
	cancel_all(e, &e->waiting);
	list_for_safe(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);

		cancel_all(e, &l->seqs);
		cancel_all(e, &l->reads);
		lane_drop(e, l);
	}
	return NULL;
}

/* === Doors === */
static int config_check(struct engine_config *c, struct err *err)
{
	if (c->chunk == 0)
		c->chunk = DEFAULT_CHUNK;
	if (c->max_seqs == 0)
		c->max_seqs = DEFAULT_SEQS;
	if (c->chunk > CONFIG_MAX || c->max_seqs > CONFIG_MAX || c->threads > CONFIG_MAX)
		return err_set(err, -EINVAL,
		               "engine: chunk %u, max_seqs %u, threads %u: each may be at most %d",
		               c->chunk, c->max_seqs, c->threads, CONFIG_MAX);
	if (c->budget == 0)
		c->budget = budget_default();
	return 0;
}

/* Signals go to the caller's threads, but for those that an access to the weights raises (see the
 * weight map). */
static int start_thread(struct engine *e)
{
	sigset_t most, old;
	int r;

	sigfillset(&most);
	sigdelset(&most, SIGBUS);
	sigdelset(&most, SIGSEGV);
	sigdelset(&most, SIGFPE);
	sigdelset(&most, SIGILL);
	pthread_sigmask(SIG_SETMASK, &most, &old);
	r = pthread_create(&e->thread, NULL, engine_main, e);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int engine_new(struct engine **ret, const struct engine_config *c, const struct kernels *k,
               struct err *err)
{
	struct engine *e = mem_alloc(sizeof(*e));
	uint32_t n;
	int r;

	if (!e)
		return err_set(err, -ENOMEM, "no memory for the engine");
	e->c = *c;
	e->kernels = k;
	e->threads_why = "configured";
	list_init(&e->lanes);
	list_init(&e->waiting);
	sched_init(&e->sched);
	pthread_mutex_init(&e->lock, NULL);
	r = config_check(&e->c, err);
	if (r < 0)
		goto fail;
	if (e->c.threads == 0)
		e->c.threads = pool_default_threads(&e->threads_why);
	e->max_logits = MAX(e->c.max_seqs, (uint32_t)LOGITS_LEAST);
	n = e->c.max_seqs + e->c.chunk;
	e->slices = mem_allocn(n, sizeof(*e->slices));
	e->rows = mem_allocn(n, sizeof(*e->rows));
	e->jobs = mem_allocn(e->max_logits, sizeof(*e->jobs));
	r = e->slices && e->rows && e->jobs ? mbox_new(&e->inbox) : -ENOMEM;
	if (r == 0)
		r = pool_new(&e->pool, e->c.threads);
	if (r == 0)
		r = start_thread(e);
	if (r < 0) {
		err_set(err, r, "the engine with %u threads could not be started", e->c.threads);
		goto fail;
	}
	e->started = true;
	*ret = e;
	return 0;
fail:
	engine_free(e);
	return r;
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	if (e->started) {
		atomic_store(&e->quit, true);
		engine_wake(e);
		pthread_join(e->thread, NULL);
	}
	pool_free(e->pool);
	mbox_free(e->inbox);
	pthread_mutex_destroy(&e->lock);
	mem_free(e->slices);
	mem_free(e->rows);
	mem_free(e->jobs);
	return mem_free(e);
}

void engine_wake(struct engine *e)
{
	if (atomic_exchange(&e->wake_pending, true))
		return;
	e->wake.kind = MESSAGE_WAKE;
	mbox_push(e->inbox, &e->wake.link);
}

int engine_stuck(struct engine *e)
{
	return pool_stuck(e->pool, mbox_waits(e->inbox));
}

uint32_t engine_context(struct engine *e, const struct model *m)
{
	struct kv_sizes z;
	uint64_t room = budget_for_pages(e, m, &z);

	return (uint32_t)MIN((uint64_t)m->hp.n_ctx_train, kv_sizes_positions(&z, room));
}

/* Tokens against context and budget; *ret_out: tokens that may be generated. */
static int check_size(struct engine *e, const struct request *r, uint32_t *ret_out, struct err *err)
{
	uint32_t have = engine_context(e, r->model), train = r->model->hp.n_ctx_train, own;
	uint32_t more = r->kind == REQUEST_GENERATE;    /* an answer has one token at least */
	const char *hint = more ? " (one of them for the answer)" : "";
	char label[MODEL_LABEL_MAX];
	struct kv_sizes z;
	uint64_t room;

	if (r->kind == REQUEST_READ) {
		*ret_out = r->max_tokens;
		return 0;
	}
	if ((uint64_t)r->n_tokens + more > train)
		return err_set(err, -E2BIG, "prompt has %u tokens, context of model %s holds %u%s",
		               r->n_tokens, model_label(r->model, label), train, hint);
	if (r->n_tokens + more > have) {
		room = budget_for_pages(e, r->model, &z);
		return err_set(
			err, -ENOSPC,
			"prompt has %u tokens and needs %llu KiB of KV pages, the engine's budget "
			"has %llu KiB for model %s, enough for %u tokens%s",
			r->n_tokens,
			(unsigned long long)(kv_sizes_bytes(&z, r->n_tokens) >> 10),
			(unsigned long long)(room >> 10), model_label(r->model, label), have, hint);
	}
	(void)budget_for_pages(e, r->model, &z);
	own = r->kv_max == 0 ? have
	                     : (uint32_t)MIN((uint64_t)have, kv_sizes_positions(&z, r->kv_max));
	if (r->n_tokens + more > own)
		return err_set(
			err, -EDQUOT,
			"prompt has %u tokens and needs %llu KiB of KV pages, user %u may hold "
			"%llu KiB (limits.kv_bytes_per_uid), enough for %u tokens%s",
			r->n_tokens,
			(unsigned long long)(kv_sizes_bytes(&z, r->n_tokens) >> 10),
			r->uid, (unsigned long long)(r->kv_max >> 10), own, hint);
	*ret_out = own - r->n_tokens;
	if (r->max_tokens > 0)
		*ret_out = MIN(*ret_out, r->max_tokens);
	return 0;
}

int engine_submit(struct engine *e, struct request *r, struct err *err)
{
	_cleanup_(request_freep) struct request *own = r;
	uint32_t max_out = 0;
	int ret;

	ret = request_check(own, err);
	if (ret == 0)
		ret = check_size(e, own, &max_out, err);
	if (ret < 0)
		return ret;
	ret = seq_new(&own->state, own, max_out);
	if (ret < 0)
		return err_set(err, ret, "no memory for another request");
	mbox_push(e->inbox, &STEAL(own)->state->message.link);
	return 0;
}

int engine_prepare(struct engine *e, struct model *m, enum kv_type kv_type, struct err *err)
{
	struct prepare p = {
		.message.kind = MESSAGE_PREPARE, .model = m, .kv_type = kv_type, .err = err
	};

	sem_init(&p.done, 0, 0);
	mbox_push(e->inbox, &p.message.link);
	while (sem_wait(&p.done) < 0 && errno == EINTR)
		;
	sem_destroy(&p.done);
	return p.code;
}

int engine_forget(struct engine *e, struct model *m)
{
	struct forget *f = mem_alloc(sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->message.kind = MESSAGE_FORGET;
	f->model = model_ref(m);
	mbox_push(e->inbox, &f->message.link);
	return 0;
}

void engine_stats(struct engine *e, struct engine_stats *ret)
{
	struct pool_stats ps;

	pool_stats(e->pool, &ps);
	*ret = (struct engine_stats){
		.threads = e->c.threads, .threads_active = ps.active, .budget = e->c.budget,
		.running = atomic_load_explicit(&e->n_running, memory_order_relaxed),
		.waiting = atomic_load_explicit(&e->n_waiting, memory_order_relaxed),
		.parked = atomic_load_explicit(&e->n_parked, memory_order_relaxed),
		.used = atomic_load_explicit(&e->used, memory_order_relaxed),
		.steps = atomic_load_explicit(&e->steps, memory_order_relaxed),
		.prompt_tokens = atomic_load_explicit(&e->prompt_tokens, memory_order_relaxed),
		.decode_tokens = atomic_load_explicit(&e->decode_tokens, memory_order_relaxed),
		.draft_tokens = atomic_load_explicit(&e->draft_tokens, memory_order_relaxed),
		.draft_accepted = atomic_load_explicit(&e->draft_accepted, memory_order_relaxed),
		.preemptions = atomic_load_explicit(&e->preemptions, memory_order_relaxed),
		.cached = atomic_load_explicit(&e->cached, memory_order_relaxed),
		.cached_tokens = atomic_load_explicit(&e->cached_tokens, memory_order_relaxed),
		.cache_hits = atomic_load_explicit(&e->cache_hits, memory_order_relaxed),
		.beats = ps.beats,
	};
	snprintf(ret->threads_why, sizeof(ret->threads_why), "%s", e->threads_why);
}

void engine_model_stats(struct engine *e, const struct model *m, struct engine_model_stats *ret)
{
	struct lane *l;
	uint64_t bytes;

	*ret = (struct engine_model_stats){ 0 };
	pthread_mutex_lock(&e->lock);
	l = lane_find(e, m);
	if (l) {
		bytes = atomic_load_explicit(&l->bytes, memory_order_relaxed);
		ret->kv_pages = DIV_UP(bytes, l->page_bytes);
		ret->kv_pages_max = kv_pool_max(l->kv) / l->page_bytes;
		ret->kv_cached = atomic_load_explicit(&l->cached, memory_order_relaxed);
		ret->bytes = l->fixed + bytes;
		ret->requests = (uint32_t)atomic_load_explicit(&l->requests, memory_order_relaxed);
	}
	pthread_mutex_unlock(&e->lock);
}

size_t engine_uses(struct engine *e, struct sched_use *ret, size_t max)
{
	size_t n;

	pthread_mutex_lock(&e->lock);
	n = sched_uses(&e->sched, ret, max);
	pthread_mutex_unlock(&e->lock);
	return n;
}
