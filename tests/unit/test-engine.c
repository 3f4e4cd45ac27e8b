/* engine: what a request gives does not depend on company, cuts, parking or preemption; errors stay
 * where they belong; idle means asleep. Tiny random models. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/engine.h"
#include "tests/lib/ggufgen.h"
#include "tests/unit/engine-jobs.h"

static void test_one(void **state)
{
	struct model *m = load(1, 512, NULL);
	struct engine *e = engine_with(0, 0, 0);
	int32_t t[100];
	struct engine_stats st;
	struct job *j, *k;

	(void)state;
	prompt_fill(t, 100, 1);
	j = job_new(m, REQUEST_GENERATE, t, 100);
	j->r->max_tokens = 50;
	run(e, j);
	assert_int_equal(j->result.finish, FINISH_LENGTH);
	assert_int_equal(j->n, 50);
	assert_int_equal(j->result.prompt_tokens, 100);
	assert_int_equal(j->result.completion_tokens, 50);
	assert_true(j->result.timing.prompt_s > 0 && j->result.timing.decode_s > 0);
	assert_true(j->result.timing.first_token_s >= j->result.timing.prompt_s);
	assert_true(j->n_text > 0);
	assert_int_equal(engine_context(e, m), 512);
	/* No limit: to the end of the context. */
	k = job_new(m, REQUEST_GENERATE, t, 100);
	run(e, k);
	assert_int_equal(k->result.finish, FINISH_LENGTH);
	assert_int_equal(k->n, 412);
	assert_memory_equal(k->id, j->id, 50 * sizeof(*k->id));
	engine_stats(e, &st);
	assert_true(st.threads == 2 && st.threads_active >= 1 && st.threads_why[0]);
	assert_int_equal(k->result.cached_tokens, 64);
	assert_true(st.prompt_tokens == 136 && st.decode_tokens == 49 + 411);
	assert_true(st.cached_tokens == 64 && st.cache_hits == 1);
	assert_true(st.budget > 0 && st.used > 0 && st.used <= st.budget);
	engine_free(e);
	model_unref(m);
	job_free(j);
	job_free(k);
}

static void test_company_changes_nothing(void **state)
{
	struct model *m = load(2, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 48, 8);
	struct job *solo[N_CLIENTS], *both[N_CLIENTS];

	(void)state;
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		run(e, solo[i] = mixed(m, i));
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		submit(e, both[i] = mixed(m, i));
	for (uint32_t i = 0; i < N_CLIENTS; i++) {
		wait_done(both[i]);
		assert_same(solo[i], both[i]);
		assert_true(solo[i]->n > 0);
		job_free(solo[i]);
		job_free(both[i]);
	}
	engine_free(e);
	model_unref(m);
}

static void test_cancel(void **state)
{
	struct model *m = load(2, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 32, 4);
	struct job *solo[N_CLIENTS], *both[N_CLIENTS];
	uint32_t n_cancelled = 0;

	(void)state;
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		run(e, solo[i] = mixed(m, i));
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < N_CLIENTS; i++) {
			both[i] = mixed(m, i);
			/* would go on for long: only its cancel ends it in time */
			if (i % 2)
				both[i]->r->max_tokens = 0;
			submit(e, both[i]);
		}
		for (uint32_t i = 1; i < N_CLIENTS; i += 2) {
			usleep(300 * (round + i % 3));
			if (sem_trywait(&both[i]->done) == 0) {
				sem_post(&both[i]->done);
				continue;
			}
			/* Still the engine's, unless it ended just now: then its memory is gone, so
			 * cancel only those that have hundreds of tokens left. */
			if (both[i]->started > 100)
				continue;
			atomic_store(&both[i]->r->cancel, true);
			engine_wake(e);
		}
		for (uint32_t i = 0; i < N_CLIENTS; i++) {
			wait_done(both[i]);
			if (i % 2)
				n_cancelled += both[i]->result.finish == FINISH_CANCELLED;
			else
				assert_same(solo[i], both[i]);
			job_free(both[i]);
		}
	}
	assert_true(n_cancelled > 0);
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		job_free(solo[i]);
	engine_free(e);
	model_unref(m);
}

static void test_parked(void **state)
{
	struct model *m = load(3, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 2);
	struct job *want = mixed(m, 5), *parked = mixed(m, 5), *other[3];
	struct engine_stats st;

	(void)state;
	run(e, want);
	parked->credit = 4;
	submit(e, parked);
	while (parked->refused == 0)
		usleep(1000);
	for (uint32_t i = 0; i < 3; i++)                /* it does not hold a place, either */
		submit(e, other[i] = mixed(m, i));
	for (uint32_t i = 0; i < 3; i++) {
		wait_done(other[i]);
		job_free(other[i]);
	}
	engine_stats(e, &st);
	assert_int_equal(st.parked, 1);
	assert_int_equal(parked->started, 4);
	engine_wake(e);                                 /* nothing new: it stays parked */
	usleep(20000);
	assert_int_equal(parked->started, 4);
	parked->credit = -1;
	engine_wake(e);
	wait_done(parked);
	assert_same(want, parked);
	job_free(parked);
	job_free(want);
	engine_free(e);
	model_unref(m);
}

static void test_preemption(void **state)
{
	struct model *m = load(2, 512, NULL);
	struct engine *wide = engine_with((uint64_t)1 << 30, 64, 8), *tight;
	struct job *solo[N_CLIENTS], *both[N_CLIENTS], *never;
	struct engine_model_stats ms;
	struct engine_stats st;

	(void)state;
	tight = engine_with(budget_of(m, 64, 8, 12), 64, 8);
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		run(wide, solo[i] = mixed(m, i));
	/* One that parks for ever must not keep its pages from the others. */
	never = mixed(m, 5);
	never->credit = 1;
	submit(tight, never);
	while (never->refused == 0)
		usleep(1000);
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		submit(tight, both[i] = mixed(m, i));
	for (uint32_t i = 0; i < N_CLIENTS; i++) {
		wait_done(both[i]);
		assert_same(solo[i], both[i]);
		job_free(both[i]);
	}
	never->credit = -1;
	engine_wake(tight);
	wait_done(never);
	assert_same(solo[5], never);
	engine_stats(tight, &st);
	engine_model_stats(tight, m, &ms);
	assert_int_equal(ms.kv_pages_max, 12);
	assert_true(st.preemptions > 0);
	assert_true(st.used <= st.budget);
	job_free(never);
	for (uint32_t i = 0; i < N_CLIENTS; i++)
		job_free(solo[i]);
	engine_free(wide);
	engine_free(tight);
	model_unref(m);
}

static void test_stop_strings(void **state)
{
	struct model *m = load(4, 512, NULL);
	struct engine *e = engine_with(0, 0, 0);
	int32_t t[20];
	struct job *whole, *j;

	(void)state;
	prompt_fill(t, 20, 4);
	whole = job_new(m, REQUEST_GENERATE, t, 20);
	whole->r->max_tokens = 60;
	run(e, whole);
	assert_true(whole->n_text > 40);
	for (size_t at = 5; at + 9 < whole->n_text; at += 7) {
		char stop[16];
		const char *first;
		size_t n = 1 + at % 9;

		memcpy(stop, whole->text + at, n);
		stop[n] = 0;
		if (strlen(stop) < n)
			continue;
		first = memmem(whole->text, whole->n_text, stop, n);
		j = job_new(m, REQUEST_GENERATE, t, 20);
		j->r->max_tokens = 60;
		j->r->stop[0] = mem_strdup("\x01never\x01");
		j->r->stop[1] = mem_strdup(stop);
		j->r->n_stop = 2;
		run(e, j);
		assert_int_equal(j->result.finish, FINISH_STOP);
		assert_int_equal(j->n_text, first - whole->text);
		assert_memory_equal(j->text, whole->text, j->n_text);
		assert_true(j->n <= whole->n && j->result.completion_tokens == j->n);
		job_free(j);
	}
	/* One that nearly comes: everything is shown in the end. */
	j = job_new(m, REQUEST_GENERATE, t, 20);
	j->r->max_tokens = 60;
	j->r->stop[0] = mem_alloc(9);
	memcpy(j->r->stop[0], whole->text + whole->n_text - 7, 7);
	j->r->stop[0][7] = '\x01';
	j->r->n_stop = strlen(j->r->stop[0]) == 8;
	run(e, j);
	assert_same(whole, j);
	job_free(j);
	job_free(whole);
	engine_free(e);
	model_unref(m);
}

static uint32_t argmax(const float *x, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

static void test_logits_and_scores_agree(void **state)
{
	enum { PROMPT = 90, MORE = 40, ALL = PROMPT + MORE };
	struct model *m = load(5, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 32, 2),
		      *tight = engine_with(budget_of(m, 32, 2, 5), 32, 2);
	int32_t t[ALL];
	struct job *gen, *split, *all, *score, *again;
	double nll = 0;

	(void)state;
	prompt_fill(t, PROMPT, 9);
	gen = job_new(m, REQUEST_GENERATE, t, PROMPT);
	gen->r->max_tokens = MORE;
	gen->r->sampling.n_logprobs = 1;
	run(e, gen);
	memcpy(t + PROMPT, gen->id, MORE * sizeof(*t));
	split = job_new(m, REQUEST_LOGITS, t, ALL);
	split->r->n_prompt = PROMPT;
	split->credit = 1;              /* and rows wait for the reader */
	submit(e, split);
	while (sem_trywait(&split->done) < 0) {
		if (split->credit == 0)
			split->credit = 7;
		engine_wake(e);
		usleep(200);
	}
	all = job_new(m, REQUEST_LOGITS, t, ALL);
	run(tight, all);
	assert_int_equal(split->rows, ALL);
	assert_int_equal(all->rows, ALL);
	for (uint32_t i = PROMPT - 1; i < ALL - 1; i++) {
		const float *row = split->logits + (size_t)i * m->hp.n_vocab;

		assert_int_equal(argmax(row, m->hp.n_vocab), t[i + 1]);
		assert_int_equal(gen->own[i - PROMPT + 1].id, t[i + 1]);
		assert_int_equal(gen->top[i - PROMPT + 1].id, t[i + 1]);
	}
	score = job_new(m, REQUEST_SCORE, t, ALL);
	score->r->score_from = 10;
	run(e, score);
	assert_int_equal(score->rows, ALL - 10);
	assert_int_equal(score->result.n_scored, ALL - 10);
	for (uint32_t i = 10; i < ALL; i++) {
		const float *row = all->logits + (size_t)(i - 1) * m->hp.n_vocab;
		double sum = 0, want;

		for (uint32_t k = 0; k < m->hp.n_vocab; k++)
			sum += exp((double)row[k]);
		want = (double)row[t[i]] - log(sum);
		assert_true(fabs(want - (double)score->logits[i]) < 1e-4);
		if (i >= PROMPT)
			assert_true(fabs((double)gen->own[i - PROMPT].logprob - want) < 1e-4);
		nll -= want;
	}
	assert_true(fabs(nll - score->result.sum_nll) < 1e-2);
	/* Two at once in five pages: the younger is preempted, rows come once each, and the
	 * same. */
	again = job_new(m, REQUEST_LOGITS, t, ALL);
	again->r->n_prompt = PROMPT;
	memset(score->logits, 0, ALL * sizeof(float));
	job_free(gen);
	gen = job_new(m, REQUEST_GENERATE, t, 20);
	gen->r->max_tokens = 130;
	submit(tight, gen);
	submit(tight, again);
	wait_done(gen);
	wait_done(again);
	assert_int_equal(again->rows, ALL);
	assert_memory_equal(again->logits, split->logits,
	                    (size_t)ALL * m->hp.n_vocab * sizeof(float));
	job_free(again);
	job_free(gen);
	job_free(split);
	job_free(all);
	job_free(score);
	engine_free(e);
	engine_free(tight);
	model_unref(m);
}

static void test_long_prompt_delays_one_chunk(void **state)
{
	struct model *m = load(6, 2048, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 32, 8);
	static int32_t t[1600];
	struct job *decoding, *big, *small;

	(void)state;
	prompt_fill(t, 1600, 3);
	decoding = job_new(m, REQUEST_GENERATE, t, 4);
	submit(e, decoding);
	while (decoding->started < 2)
		usleep(100);
	big = job_new(m, REQUEST_GENERATE, t, 1600);
	big->r->max_tokens = 1;
	big->r->uid = 7;
	big->watch = decoding;
	big->watched = decoding->started;
	small = job_new(m, REQUEST_GENERATE, t, 40);
	small->r->max_tokens = 1;
	small->watch = decoding;
	small->watched = decoding->started;
	submit(e, big);
	submit(e, small);
	wait_done(big);
	wait_done(small);
	/* 50 chunks at least, and a token of the other in each but perhaps the first; the short
	 * prompt gets half of each chunk. */
	assert_true(big->watched >= 49);
	assert_true(small->watched < big->watched / 2);
	engine_free(e);                 /* cancels the one that still runs */
	wait_done(decoding);
	assert_int_equal(decoding->result.finish, FINISH_CANCELLED);
	job_free(decoding);
	job_free(big);
	job_free(small);
	model_unref(m);
}

static void test_two_models(void **state)
{
	struct model *a = load(7, 512, NULL), *b = load(8, 256, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 0, 0);
	struct job *solo[6], *both[6], *read;
	struct engine_model_stats ms;
	struct engine_stats before, after;

	(void)state;
	for (uint32_t i = 0; i < 6; i++)
		run(e, solo[i] = mixed(i % 2 ? a : b, i));
	for (uint32_t i = 0; i < 6; i++)
		submit(e, both[i] = mixed(i % 2 ? a : b, i));
	read = job_new(a, REQUEST_READ, NULL, 0);
	read->r->max_tokens = 20;
	run(e, read);
	assert_int_equal(read->result.finish, FINISH_STOP);
	assert_true(read->result.bytes_read >= 20 * a->bytes_per_token / 2 &&
	            read->result.read_s > 0);
	for (uint32_t i = 0; i < 6; i++) {
		wait_done(both[i]);
		assert_same(solo[i], both[i]);
		job_free(solo[i]);
		job_free(both[i]);
	}
	engine_stats(e, &before);
	assert_int_equal(engine_forget(e, a), 0);
	assert_int_equal(engine_prepare(e, b, KV_F16, NULL), 0);        /* after it: one queue */
	engine_model_stats(e, a, &ms);
	assert_int_equal(ms.bytes, 0);
	engine_model_stats(e, b, &ms);
	assert_true(ms.bytes > 0 && ms.requests == 0);
	engine_stats(e, &after);
	assert_true(after.used < before.used);
	assert_int_equal(a->refs, 1);
	job_free(read);
	engine_free(e);
	assert_int_equal(b->refs, 1);
	model_unref(a);
	model_unref(b);
}

static int submit_bad(struct engine *e, struct job *j, struct err *err)
{
	int r;

	err_clear(err);
	r = engine_submit(e, j->r, err);
	assert_int_equal(sem_trywait(&j->done), -1);
	job_free(j);
	return r;
}

static void test_refusals(void **state)
{
	struct model *m = load(1, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 4),
		      *tight = engine_with(budget_of(m, 64, 4, 3), 64, 4);
	static int32_t t[600];
	struct err err;
	struct job *j;

	(void)state;
#define BAD(kind, n, code, setup) do { \
		j = job_new(m, REQUEST_##kind, t, n); \
		setup; \
		assert_int_equal(submit_bad(e, j, &err), code); \
		assert_true(err.text[0]); \
	} while (0)
	BAD(GENERATE, 0, -EINVAL, (void)0);
	BAD(GENERATE, 9, -EINVAL, j->r->tokens[8] = GGUFGEN_TINY_VOCAB);
	BAD(GENERATE, 9, -EINVAL, j->r->tokens[3] = -1);
	assert_non_null(strstr(err.text, "-1"));
	BAD(GENERATE, 9, -EINVAL, j->r->sampling.temp = NAN);
	BAD(GENERATE, 9, -EINVAL, j->r->sampling.temp = -1);
	BAD(GENERATE, 9, -EINVAL, j->r->n_stop = 1);
	BAD(GENERATE, 9, -EINVAL, j->r->n_stop = 17);
	BAD(GENERATE, 9, -EINVAL, j->r->kind = (enum request_kind)9);
	BAD(GENERATE, 600, -E2BIG, (void)0);
	assert_non_null(strstr(err.text, "600"));
	assert_non_null(strstr(err.text, "512"));
	BAD(GENERATE, 512, -E2BIG, (void)0);
	BAD(SCORE, 9, -EINVAL, j->r->score_from = 0);
	BAD(SCORE, 9, -EINVAL, j->r->score_from = 9);
	BAD(LOGITS, 513, -E2BIG, (void)0);
	BAD(LOGITS, 9, -EINVAL, j->r->n_prompt = 10);
	BAD(READ, 0, -EINVAL, (void)0);
	BAD(READ, 0, -EINVAL, j->r->max_tokens = 0x7fffffff);
	/* The budget is the limit: numbers, or a shorter answer. */
	assert_int_equal(engine_prepare(tight, m, KV_F16, NULL), 0);
	assert_int_equal(engine_context(tight, m), 96);
	j = job_new(m, REQUEST_GENERATE, t, 200);
	assert_int_equal(submit_bad(tight, j, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "200"));
	assert_non_null(strstr(err.text, "96"));
	j = job_new(m, REQUEST_GENERATE, t, 60);
	run(tight, j);
	assert_int_equal(j->result.finish, FINISH_LENGTH);
	assert_int_equal(j->n, 36);
	job_free(j);
	/* 2^32 - 1 tokens are as many as fit; a huge top_k is all. */
	j = job_new(m, REQUEST_GENERATE, t, 500);
	j->r->max_tokens = UINT32_MAX;
	j->r->sampling.temp = 1;
	j->r->sampling.top_k = 1u << 31;
	run(e, j);
	assert_int_equal(j->n, 12);
	job_free(j);
	engine_free(e);
	engine_free(tight);
	model_unref(m);
}

static void test_every_allocation_may_fail(void **state)
{
	struct model *m = load(1, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 4);
	struct job *want = mixed(m, 6);
	uint64_t nth;
	uint32_t submit_failed = 0, ended_badly = 0;

	(void)state;
	run(e, want);
	for (nth = 0; nth < 2000; nth++) {
		struct job *j = mixed(m, 6);
		struct err err = { 0 };
		int64_t live;
		bool fired;
		int r;

		j->r->stop[0] = mem_strdup("\x01\x02");
		j->r->n_stop = 1;
		live = mem_live_blocks();
		mem_fault_arm(nth, false);
		r = engine_submit(e, j->r, &err);
		if (r == 0)
			wait_done(j);
		fired = mem_fault_fired();
		if (r < 0) {
			assert_true(fired);
			assert_int_equal(r, -ENOMEM);
			assert_true(mem_live_blocks() < live);
			submit_failed++;
		} else if (j->result.finish == FINISH_ERROR) {
			assert_true(fired);
			assert_int_equal(j->result.code, -ENOMEM);
			assert_true(j->err[0]);
			ended_badly++;
		} else {
			assert_same(want, j);
		}
		job_free(j);
		if (!fired)
			break;
	}
	assert_true(nth < 2000);
	assert_true(submit_failed >= 3);
	assert_true(ended_badly >= 3);
	engine_free(e);
	job_free(want);
	model_unref(m);
}

static void test_engine_new_may_fail(void **state)
{
	(void)state;
	for (uint64_t nth = 0;; nth++) {
		const struct engine_config c = { .threads = 2, .budget = 1 << 20 };
		struct engine *e = NULL;
		struct err err = { 0 };
		int64_t live = mem_live_blocks();
		bool fired;
		int r;

		mem_fault_arm(nth, false);
		r = engine_new(&e, &c, &kernels, &err);
		fired = mem_fault_fired();
		if (!fired)
			assert_int_equal(r, 0);
		else
			assert_true(r == -ENOMEM && err.text[0]);
		engine_free(e);
		assert_int_equal(mem_live_blocks(), live);
		if (!fired)
			return;
	}
}

/* A file that shrinks while it is served: its requests end with an error, another model's go on. */
static void test_poisoned_model(void **state)
{
	int fd;
	struct model *m = load(9, 512, &fd), *good = load(2, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 0, 0);
	struct job *bad = mixed(m, 1), *next, *other = mixed(good, 4), *want = mixed(good, 4);

	(void)state;
	assert_int_equal(sigaction(SIGBUS, &guard, NULL), 0);
	run(e, want);
	bad->r->max_tokens = 0;
	submit(e, bad);
	while (bad->started < 2)
		usleep(100);
	assert_int_equal(ftruncate(fd, 4096), 0);
	submit(e, other);
	wait_done(bad);
	wait_done(other);
	assert_int_equal(bad->result.finish, FINISH_ERROR);
	assert_int_equal(bad->result.code, -EIO);
	assert_non_null(strstr(bad->err, "file"));
	assert_same(want, other);
	next = mixed(m, 1);
	run(e, next);
	assert_int_equal(next->result.code, -EIO);
	engine_free(e);
	close(fd);
	job_free(bad);
	job_free(next);
	job_free(other);
	job_free(want);
	model_unref(m);
	model_unref(good);
}

/* Voluntary and involuntary switches of the engine's and the pool's threads (a sanitizer has one of
 * its own). */
static uint64_t wakeups(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *de;
	uint64_t sum = 0;

	assert_non_null(d);
	while ((de = readdir(d))) {
		char path[300], line[256];
		FILE *f;

		bool ours = false;

		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", de->d_name);
		f = fopen(path, "r");
		while (f && fgets(line, sizeof(line), f)) {
			unsigned long long n;

			if (strncmp(line, "Name:", 5) == 0)
				ours = strcmp(line, "Name:\tengine\n") == 0 ||
				       strstr(line, "qllm-pool");
			if (ours && (sscanf(line, "voluntary_ctxt_switches: %llu", &n) == 1 ||
			             sscanf(line, "nonvoluntary_ctxt_switches: %llu", &n) == 1))
				sum += n;
		}
		if (f)
			fclose(f);
	}
	closedir(d);
	return sum;
}

static void test_idle_is_asleep(void **state)
{
	struct model *m = load(1, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 0, 0);
	struct job *j = mixed(m, 3), *parked = mixed(m, 4);
	uint64_t before;

	(void)state;
	parked->credit = 2;
	submit(e, parked);
	run(e, j);
	while (parked->refused == 0)
		usleep(1000);
	usleep(200000);
	before = wakeups();
	usleep(700000);
	assert_int_equal(wakeups(), before);
	assert_true(before > 0);
	atomic_store(&parked->r->cancel, true);
	engine_wake(e);
	wait_done(parked);
	assert_int_equal(parked->result.finish, FINISH_CANCELLED);
	engine_free(e);
	job_free(j);
	job_free(parked);
	model_unref(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one),
		cmocka_unit_test(test_company_changes_nothing),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_parked),
		cmocka_unit_test(test_preemption),
		cmocka_unit_test(test_stop_strings),
		cmocka_unit_test(test_logits_and_scores_agree),
		cmocka_unit_test(test_long_prompt_delays_one_chunk),
		cmocka_unit_test(test_two_models),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_engine_new_may_fail),
		cmocka_unit_test(test_poisoned_model),
		cmocka_unit_test(test_idle_is_asleep),
	};

	if (!setup())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
