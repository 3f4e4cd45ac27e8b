/* engine-jobs - requests to an engine and what came of them, for tests of the engine. Tiny random
 * models. */
#pragma once
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/engine.h"
#include "tests/lib/ggufgen.h"

enum { MAX_OUT = 400, TEXT_MAX = 8192, WAIT_S = 120, N_CLIENTS = 16 };

static struct kernels kernels;
/* the weight map's, which cmocka covers with its own in every test */
static struct sigaction guard;

/* === Requests and what came of them === */
struct job {
	/* the engine's after submit; only .cancel is touched, before done */
	struct request *r;
	int32_t id[MAX_OUT];
	struct logprob own[MAX_OUT], top[MAX_OUT];
	uint32_t n, n_calls, rows;
	char text[TEXT_MAX];
	size_t n_text;
	float *logits;                  /* LOGITS: rows; SCORE: log-probabilities by index */
	uint32_t n_vocab;
	_Atomic int64_t credit;         /* calls that room allows; negative: no end */
	_Atomic uint32_t refused, started;
	struct job *watch;              /* count its tokens up to our first */
	uint32_t watched;
	struct request_result result;
	char err[ERR_TEXT_MAX];
	sem_t done;
};

static inline bool job_room(void *user, size_t n)
{
	struct job *j = user;

	assert_true(n > 0);
	if (j->credit == 0)
		j->refused++;
	return j->credit != 0;
}

static inline void job_token(void *user, int32_t id, const char *text, size_t n,
			     const struct logprob *own, const struct logprob *top, uint32_t n_top)
{
	struct job *j = user;

	if (j->n == 0 && j->watch)
		j->watched = j->watch->started - j->watched;
	j->started++;
	if (j->credit > 0)
		j->credit--;
	if (j->n < MAX_OUT) {
		j->id[j->n] = id;
		if (own)
			j->own[j->n] = *own;
		if (n_top > 0)
			j->top[j->n] = top[0];
	}
	j->n++;
	if (n > 0 && j->n_text + n < TEXT_MAX) {
		memcpy(j->text + j->n_text, text, n);
		j->n_text += n;
	}
}

static inline void job_row(void *user, uint32_t index, const float *row, uint32_t n_vocab,
			   float logprob)
{
	struct job *j = user;

	if (j->credit > 0)
		j->credit--;
	j->rows++;
	j->n_vocab = n_vocab;
	if (row)
		memcpy(j->logits + (size_t)index * n_vocab, row, n_vocab * sizeof(*row));
	else
		j->logits[index] = logprob;
}

static inline void job_done(void *user, const struct request_result *result)
{
	struct job *j = user;

	j->result = *result;
	if (result->err)
		snprintf(j->err, sizeof(j->err), "%s", result->err->text);
	j->result.err = NULL;
	sem_post(&j->done);
}

static inline struct job *job_new(struct model *m, enum request_kind kind, const int32_t *tokens,
                           uint32_t n)
{
	struct job *j = calloc(1, sizeof(*j));

	assert_non_null(j);
	assert_int_equal(request_new(&j->r), 0);
	sem_init(&j->done, 0, 0);
	j->credit = -1;
	j->r->kind = kind;
	j->r->model = model_ref(m);
	j->r->tokens = n ? mem_memdup(tokens, n * sizeof(*tokens)) : NULL;
	j->r->n_tokens = j->r->n_prompt = n;
	j->r->sampling.temp = 0;
	j->r->ignore_eos = true;
	j->r->special = true;
	j->r->sink = (struct sink){ job_room, job_token, job_row, job_done };
	j->r->user = j;
	if (kind == REQUEST_LOGITS || kind == REQUEST_SCORE)
		j->logits = calloc(n * (kind == REQUEST_SCORE ? 1 : (size_t)m->hp.n_vocab),
		                   sizeof(float));
	return j;
}

static inline void job_free(struct job *j)
{
	sem_destroy(&j->done);
	free(j->logits);
	free(j);
}

static inline void submit(struct engine *e, struct job *j)
{
	struct err err = { 0 };

	if (engine_submit(e, j->r, &err) < 0)
		fail_msg("submit: %s", err.text);
}

static inline void wait_done(struct job *j)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += WAIT_S;
	while (sem_timedwait(&j->done, &t) < 0)
		if (errno != EINTR)
			fail_msg("no end after %d s", WAIT_S);
}

static inline void run(struct engine *e, struct job *j)
{
	submit(e, j);
	wait_done(j);
}

static inline struct model *load(uint64_t seed, uint32_t n_ctx, int *ret_fd)
{
	const struct ggufgen_tiny t = { .n_ctx = n_ctx, .seed = seed, .n_layer = 3 };
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_tiny_model(&t);

	if (model_load(&m, fd, "tiny", &err) < 0)
		fail_msg("%s", err.text);
	if (ret_fd)
		*ret_fd = fd;
	else
		close(fd);
	return m;
}

static inline struct engine *engine_with(uint64_t budget, uint32_t chunk, uint32_t max_seqs)
{
	const struct engine_config c = {
		.threads = 2, .budget = budget, .chunk = chunk, .max_seqs = max_seqs
	};
	struct engine *e = NULL;
	struct err err = { 0 };

	if (engine_new(&e, &c, &kernels, &err) < 0)
		fail_msg("%s", err.text);
	return e;
}

/* Bytes of budget so that the model's pool holds exactly n pages. */
static inline uint64_t budget_of(struct model *m, uint32_t chunk, uint32_t max_seqs,
				 uint32_t n_pages)
{
	struct engine *e = engine_with((uint64_t)1 << 30, chunk, max_seqs);
	struct engine_model_stats st;
	struct footprint fp;

	model_footprint(&m->hp, 0, 1, 1, KV_F16, &fp);
	assert_int_equal(engine_prepare(e, m, KV_F16, NULL), 0);
	engine_model_stats(e, m, &st);
	assert_int_equal(st.kv_pages, 0);
	engine_free(e);
	return st.bytes + fp.kv_page * n_pages;
}

/* Tokens of a prompt of n that others may have from it, and it from others. */
static inline uint32_t shareable(uint32_t n)
{
	return n < 16 ? 0 : (n - 16) / KV_PAGE * KV_PAGE;
}

static inline void prompt_fill(int32_t *t, uint32_t n, uint32_t seed)
{
	for (uint32_t i = 0; i < n; i++) {
		seed = seed * 1664525 + 1013904223;
		t[i] = (int32_t)((seed >> 9) % GGUFGEN_TINY_VOCAB);
	}
}

/* The i-th of a mixed lot: lengths from 1 to about 200, every third one sampled. */
static inline struct job *mixed(struct model *m, uint32_t i)
{
	int32_t t[256];
	uint32_t n = 1 + i * 37 % 190;
	struct job *j;

	prompt_fill(t, n, i);
	j = job_new(m, REQUEST_GENERATE, t, n);
	j->r->max_tokens = 10 + i * 13 % 60;
	j->r->client = i;
	j->r->uid = i % 3;
	j->r->batch_class = i % 5 == 0;
	if (i % 3 == 0) {
		sampler_params_default(&j->r->sampling);
		j->r->sampling.seed = i;
		j->r->sampling.repeat_penalty = 1.1f;
	}
	return j;
}

static inline void assert_same(const struct job *a, const struct job *b)
{
	assert_int_equal(a->result.finish, b->result.finish);
	assert_int_equal(a->n, b->n);
	assert_memory_equal(a->id, b->id, MIN(a->n, (uint32_t)MAX_OUT) * sizeof(*a->id));
	assert_int_equal(a->n_text, b->n_text);
	assert_memory_equal(a->text, b->text, a->n_text);
}

/* === Tests === */

static inline bool setup(void)
{
	const struct ggufgen_tiny t = { 0 };
	struct model *m = NULL;
	int fd = ggufgen_tiny_model(&t);
	bool ok = model_load(&m, fd, "tiny", NULL) == 0 && sigaction(SIGBUS, NULL, &guard) == 0 &&
	          kernels_init(&kernels, getenv("QLLM_CPU")) == 0;

	close(fd);
	model_unref(m);
	return ok;
}
