/* eval - chunks in flight, sums in order.
 *
 * 1. A request belongs to the engine; its slot's pointer to it is only used under the lock and is
 *    NULL once the engine is done, so that cancelling never touches a freed request.
 * 2. eval_text returns only when no request of its own is left in the engine: the sinks' user
 *    pointers are on its stack.
 * 3. With a reference each side holds at most `cap` rows; a side without room is parked by the
 *    engine and woken when half of its rows were used. */
#include "daemon/eval.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/mem.h"
#include "base/num.h"
#include "base/vec.h"

enum { IN_FLIGHT = 4, LOOK_MS = 100, ROWS_MIN = 4, ROWS_MAX = 256, ROWS_BYTES = 64 << 20 };

struct chunk_sum {
	double nll, nll_sq;
	uint64_t n;
};
struct eval;
struct slot {                           /* one request in flight */
	struct eval *ev;
	struct request *request;        /* NULL: none */
	uint32_t chunk;
	/* with a reference: rows [first, first + n) wait for the other side */
	float *rows;
	uint32_t row_first, row_n;
	bool parked;
};
struct eval {
	const struct eval_params *p;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct tokens tokens;
	/* first: first scored position of a chunk */
	uint32_t ctx, n_chunks, first, done_chunks;
	struct chunk_sum *sums;
	struct slot slots[IN_FLIGHT];
	int code;                       /* first failure */
	struct err err;
	uint32_t cap, n_vocab;
	VEC(double) kld;
	uint64_t same_top;
};

/* --- engine thread ---------------------------------------------------------------------------- */

static bool score_room(void *user, size_t n)
{
	(void)user;
	(void)n;
	return true;
}

static void no_token(void *user, int32_t id, const char *text, size_t n, const struct logprob *own,
                     const struct logprob *top, uint32_t n_top)
{
	(void)user, (void)id, (void)text, (void)n, (void)own, (void)top, (void)n_top;
}

static void no_row(void *user, uint32_t index, const float *row, uint32_t n_vocab, float logprob)
{
	(void)user, (void)index, (void)row, (void)n_vocab, (void)logprob;
}

static void slot_done(void *user, const struct request_result *result)
{
	struct slot *s = user;
	struct eval *ev = s->ev;

	pthread_mutex_lock(&ev->lock);
	s->request = NULL;
	if (result->finish == FINISH_ERROR && ev->code == 0) {
		ev->code = result->code < 0 ? result->code : -EIO;
		if (result->err)
			ev->err = *result->err;
	} else if (result->finish == FINISH_CANCELLED && ev->code == 0) {
		ev->code = -ECANCELED;
	} else if (!ev->p->ref && result->finish != FINISH_ERROR) {
		ev->sums[s->chunk] = (struct chunk_sum){ result->sum_nll, result->sum_nll_sq,
			                                 result->n_scored };
		ev->done_chunks++;
	}
	pthread_cond_signal(&ev->changed);
	pthread_mutex_unlock(&ev->lock);
}

static bool rows_room(void *user, size_t n)
{
	struct slot *s = user;
	uint64_t rows = DIV_UP(n, (size_t)s->ev->n_vocab * sizeof(float)),
		 least = n / (s->ev->n_vocab * sizeof(float));
	bool ok;

	/* n counts some bytes of overhead a row: never more than a row's worth. */
	if (least >= 1)
		rows = least;
	pthread_mutex_lock(&s->ev->lock);
	ok = s->ev->code < 0 || s->row_n + rows <= s->ev->cap;
	s->parked = !ok;
	pthread_mutex_unlock(&s->ev->lock);
	return ok;
}

static void rows_row(void *user, uint32_t index, const float *row, uint32_t n_vocab, float logprob)
{
	struct slot *s = user;
	struct eval *ev = s->ev;

	(void)logprob;
	pthread_mutex_lock(&ev->lock);
	if (row && ev->code == 0 && index + 1 >= ev->first && index + 1 < ev->ctx) {
		if (s->row_n == ev->cap) {
			ev->code = err_set(&ev->err, -ENOBUFS,
			                   "more rows came than there was room for");
		} else {
			if (s->row_n == 0)
				s->row_first = index;
			memcpy(s->rows + (size_t)(index % ev->cap) * n_vocab, row,
			       n_vocab * sizeof(float));
			s->row_n++;
		}
		pthread_cond_signal(&ev->changed);
	}
	pthread_mutex_unlock(&ev->lock);
}

static const struct sink score_sink = { score_room, no_token, no_row, slot_done };
static const struct sink rows_sink = { rows_room, no_token, rows_row, slot_done };

/* --- worker ----------------------------------------------------------------------------------- */

static int submit(struct eval *ev, struct slot *s, struct model *m, uint32_t chunk)
{
	const struct eval_params *p = ev->p;
	struct request *r;
	int ret = request_new(&r);

	if (ret < 0)
		return ret;
	r->kind = p->ref ? REQUEST_LOGITS : REQUEST_SCORE;
	r->model = model_ref(m);
	r->n_tokens = r->n_prompt = ev->ctx;
	r->tokens = mem_memdup(ev->tokens.data + (size_t)chunk * ev->ctx,
	                       ev->ctx * sizeof(int32_t));
	if (!r->tokens) {
		request_free(r);
		return -ENOMEM;
	}
	if (!p->hf && tok_add_bos(m->tok) && tok_bos(m->tok) >= 0)
		r->tokens[0] = tok_bos(m->tok);
	r->score_from = ev->first;
	r->uid = p->uid;
	r->client = p->client;
	r->kv_max = p->kv_max;
	r->batch_class = true;
	/* what is measured is the weights and the KV cache */
	r->exact = true;
	r->no_cache = true;             /* a text that nobody goes on with, in place of many */
	r->sink = p->ref ? rows_sink : score_sink;
	r->user = s;
	pthread_mutex_lock(&ev->lock);
	s->chunk = chunk;
	s->request = r;
	pthread_mutex_unlock(&ev->lock);
	ret = engine_submit(p->engine, r, &ev->err);
	if (ret < 0) {
		pthread_mutex_lock(&ev->lock);
		s->request = NULL;
		pthread_mutex_unlock(&ev->lock);
	}
	return ret;
}

/* Wait for a change, at most LOOK_MS; looks at the caller's cancel flag. Lock held. */
static void wait_changed(struct eval *ev)
{
	struct timespec until;
	bool wake = false;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += LOOK_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	pthread_cond_timedwait(&ev->changed, &ev->lock, &until);
	if (ev->code == 0 && atomic_load(ev->p->cancel))
		ev->code = -ECANCELED;
	for (unsigned i = 0; ev->code < 0 && i < IN_FLIGHT; i++)
		if (ev->slots[i].request) {
			atomic_store(&ev->slots[i].request->cancel, true);
			wake = true;
		}
	if (wake)
		engine_wake(ev->p->engine);
}

static unsigned in_flight(const struct eval *ev)
{
	unsigned n = 0;

	for (unsigned i = 0; i < IN_FLIGHT; i++)
		n += ev->slots[i].request != NULL;
	return n;
}

static void drain(struct eval *ev)
{
	pthread_mutex_lock(&ev->lock);
	while (in_flight(ev) > 0)
		wait_changed(ev);
	pthread_mutex_unlock(&ev->lock);
}

static void set_code(struct eval *ev, int r)
{
	pthread_mutex_lock(&ev->lock);
	if (ev->code == 0)
		ev->code = r;
	pthread_mutex_unlock(&ev->lock);
}

static struct slot *idle_slot(struct eval *ev)
{
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		if (!ev->slots[i].request)
			return &ev->slots[i];
	return NULL;
}

static void run_scores(struct eval *ev)
{
	uint32_t next = 0;
	int r;

	while (next < ev->n_chunks) {
		struct slot *s;
		bool stop;

		pthread_mutex_lock(&ev->lock);
		while (!(s = idle_slot(ev)) && ev->code == 0)
			wait_changed(ev);
		stop = ev->code < 0 || atomic_load(ev->p->cancel);
		pthread_mutex_unlock(&ev->lock);
		if (stop) {
			set_code(ev, -ECANCELED);
			break;
		}
		r = submit(ev, s, ev->p->model, next);
		if (r < 0) {
			set_code(ev, r);
			break;
		}
		next++;
		ev->p->progress(ev->p->user, ev->done_chunks, ev->n_chunks);
	}
	drain(ev);
}

/* log(sum exp) and argmax of a row. */
static double row_lse(const float *x, uint32_t n, uint32_t *ret_top)
{
	uint32_t top = 0;
	double sum = 0;

	for (uint32_t i = 1; i < n; i++)
		if (x[i] > x[top])
			top = i;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - (double)x[top]);
	*ret_top = top;
	return log(sum) + (double)x[top];
}

/* KL of q (the model) from p (the reference), and the model's own loss on the token that came. */
static int add_row(struct eval *ev, const float *q, const float *p, int32_t next,
                   struct chunk_sum *sum)
{
	uint32_t top_q, top_p;
	double lse_q = row_lse(q, ev->n_vocab, &top_q), lse_p = row_lse(p, ev->n_vocab, &top_p),
	       kl = 0, nll;

	if (!isfinite(lse_q) || !isfinite(lse_p))
		return -EBADMSG;
	for (uint32_t i = 0; i < ev->n_vocab; i++) {
		double lp = (double)p[i] - lse_p;

		kl += exp(lp) * (lp - ((double)q[i] - lse_q));
	}
	nll = lse_q - (double)q[next];
	sum->nll += nll;
	sum->nll_sq += nll * nll;
	sum->n++;
	ev->same_top += top_q == top_p;
	return vec_push(&ev->kld, kl);
}

/* Both sides of one chunk, row by row. */
static int compare_chunk(struct eval *ev, uint32_t chunk)
{
	struct slot *a = &ev->slots[0], *b = &ev->slots[1];
	const int32_t *tokens = ev->tokens.data + (size_t)chunk * ev->ctx;
	int r = 0;

	for (uint32_t t = ev->first - 1; r == 0 && t + 1 < ev->ctx; t++) {
		bool wake;

		pthread_mutex_lock(&ev->lock);
		while (ev->code == 0 && (a->row_n == 0 || b->row_n == 0)) {
			if ((!a->request && a->row_n == 0) || (!b->request && b->row_n == 0))
				ev->code = err_set(&ev->err, -EIO,
				                   "rows are missing at the end of chunk %u",
				                   chunk);
			else
				wait_changed(ev);
		}
		r = ev->code;
		pthread_mutex_unlock(&ev->lock);
		if (r < 0)
			return r;
		/* Rows at `t` are not overwritten before row_n says that they are used. */
		r = add_row(ev, a->rows + (size_t)(t % ev->cap) * ev->n_vocab,
		            b->rows + (size_t)(t % ev->cap) * ev->n_vocab, tokens[t + 1],
		            &ev->sums[chunk]);
		pthread_mutex_lock(&ev->lock);
		a->row_n--;
		b->row_n--;
		wake = (a->parked && a->row_n <= ev->cap / 2) ||
		       (b->parked && b->row_n <= ev->cap / 2);
		pthread_mutex_unlock(&ev->lock);
		if (wake)
			engine_wake(ev->p->engine);
	}
	return r;
}

static void run_compare(struct eval *ev)
{
	size_t row = (size_t)ev->n_vocab * sizeof(float);
	_cleanup_mem_ float *rows_a = NULL, *rows_b = NULL;
	int r = 0;

	ev->cap = (uint32_t)CLAMP((size_t)ROWS_BYTES / row, (size_t)ROWS_MIN, (size_t)ROWS_MAX);
	ev->slots[0].rows = rows_a = mem_allocn(ev->cap, row);
	ev->slots[1].rows = rows_b = mem_allocn(ev->cap, row);
	if (!rows_a || !rows_b) {
		ev->code = -ENOMEM;
		return;
	}
	for (uint32_t chunk = 0; r == 0 && chunk < ev->n_chunks; chunk++) {
		ev->slots[0].row_n = ev->slots[1].row_n = 0;
		r = submit(ev, &ev->slots[0], ev->p->model, chunk);
		if (r == 0)
			r = submit(ev, &ev->slots[1], ev->p->ref, chunk);
		if (r == 0)
			r = compare_chunk(ev, chunk);
		if (r < 0)
			set_code(ev, r);
		drain(ev);
		if (r == 0)
			r = ev->code;
		ev->p->progress(ev->p->user, chunk + 1, ev->n_chunks);
	}
}

static int cmp_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void sum_up(struct eval *ev, struct eval_result *ret)
{
	struct chunk_sum all = { 0 };
	double mean, var;

	for (uint32_t i = 0; i < ev->n_chunks; i++) {
		all.nll += ev->sums[i].nll;
		all.nll_sq += ev->sums[i].nll_sq;
		all.n += ev->sums[i].n;
	}
	*ret = (struct eval_result){ .tokens = all.n };
	mean = all.nll / (double)all.n;
	var = all.nll_sq / (double)all.n - mean * mean;
	ret->ppl = exp(mean);
	ret->ppl_stderr = all.n > 1 && var > 0 ? sqrt(var / (double)(all.n - 1)) * ret->ppl : 0;
	if (ev->kld.n == 0)
		return;
	for (size_t i = 0; i < ev->kld.n; i++)
		ret->kld_mean += ev->kld.data[i];
	ret->kld_mean /= (double)ev->kld.n;
	qsort(ev->kld.data, ev->kld.n, sizeof(double), cmp_double);
	ret->kld_p99 = ev->kld.data[(ev->kld.n - 1) * 99 / 100];
	ret->kld_max = ev->kld.data[ev->kld.n - 1];
	ret->top1 = (double)ev->same_top / (double)ev->kld.n;
}

static int cut_chunks(struct eval *ev, struct err *err)
{
	const struct eval_params *p = ev->p;
	uint32_t least = p->hf ? 1 : 2;
	int r;

	ev->ctx = p->ctx ? p->ctx : p->hf ? 2048 : 512;
	if (ev->ctx < 8)
		return err_set(err, -EINVAL,
		               "a context of %u tokens is too short to score: 8 at least", ev->ctx);
	ev->first = p->hf ? 1 : ev->ctx / 2 + 1;
	ev->n_vocab = p->model->hp.n_vocab;
	if (p->ref && p->ref->hp.n_vocab != ev->n_vocab)
		return err_set(err, -EINVAL, "the models' vocabularies differ: %u and %u tokens",
		               ev->n_vocab, p->ref->hp.n_vocab);
	r = tok_encode(p->model->tok, p->text, p->n, TOKENIZE_BOS, 0, &ev->tokens);
	if (r < 0)
		return err_set(err, r, "tokenizing the text: %s", strerror(-r));
	if (ev->tokens.n < (size_t)least * ev->ctx)
		return err_set(
			err, -EINVAL,
			"the text has %zu tokens, at least %u are needed for a context of %u",
			ev->tokens.n, least * ev->ctx, ev->ctx);
	ev->n_chunks = (uint32_t)(ev->tokens.n / ev->ctx);
	if (p->chunks && p->chunks < ev->n_chunks)
		ev->n_chunks = p->chunks;
	ev->sums = mem_allocn(ev->n_chunks, sizeof(*ev->sums));
	return ev->sums ? 0 : err_set(err, -ENOMEM, "out of memory");
}

int eval_text(struct eval_result *ret, const struct eval_params *p, struct err *err)
{
	struct eval ev = { .p = p };
	int r = cut_chunks(&ev, err);

	if (r == 0) {
		pthread_mutex_init(&ev.lock, NULL);
		pthread_cond_init(&ev.changed, NULL);
		for (unsigned i = 0; i < IN_FLIGHT; i++)
			ev.slots[i].ev = &ev;
		if (p->ref)
			run_compare(&ev);
		else
			run_scores(&ev);
		pthread_cond_destroy(&ev.changed);
		pthread_mutex_destroy(&ev.lock);
		r = ev.code;
		if (r == 0)
			sum_up(&ev, ret);
		else
			err_set(err, r, "%s", ev.err.text[0] ? ev.err.text : strerror(-r));
	}
	mem_free(ev.tokens.data);
	mem_free(ev.sums);
	vec_deinit(&ev.kld);
	return r;
}
