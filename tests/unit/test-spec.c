/* spec: matches are found and guesses are learnt from; and whoever guesses, whatever happens
 * meanwhile, the answer is the one without guesses. Tiny random models. */
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
#include "engine/spec.h"
#include "tests/lib/ggufgen.h"
#include "tests/unit/engine-jobs.h"

/* === The index === */
/* What spec_find promises, by brute force. */
static uint32_t find_slowly(const int32_t *t, uint32_t n, uint32_t *ret_at)
{
	uint32_t best = 1;

	*ret_at = 0;
	for (uint32_t p = 2; p < n; p++) {
		uint32_t k = 0;

		while (k < p && k < SPEC_MATCH_MOST && t[p - 1 - k] == t[n - 1 - k])
			k++;
		if (k >= best && k >= 2) {
			best = k;
			*ret_at = p;
		}
	}
	return *ret_at ? best : 0;
}

static void test_matches(void **state)
{
	static int32_t t[4000];
	struct spec *s;
	uint32_t seed = 1, found = 0, lost = 0, longest = 0;

	(void)state;
	assert_int_equal(spec_new(&s), 0);
	for (uint32_t n = 0; n < ARRAY_SIZE(t); n++) {
		uint32_t at, at2, k, k2;

		seed = seed * 1664525 + 1013904223;
		/* words of a small language, and now and then a quotation */
		t[n] = (int32_t)(seed >> 16 & (n / 500 % 2 ? 3 : 63));
		if (n > 200 && n % 400 < 40)
			t[n] = t[n - 200];
		spec_index(s, t, n + 1);
		k = spec_find(s, t, n + 1, &at);
		k2 = find_slowly(t, n + 1, &at2);
		/* never a match that is none; the latest of its n-gram is found, which is not
		 * always the longest, if it kept its slot */
		assert_true(k <= k2);
		if (k == 0) {
			lost += k2 > 0;
			continue;
		}
		assert_true(at > 0 && at <= n && k >= 2);
		assert_memory_equal(t + at - k, t + n + 1 - k, k * sizeof(*t));
		found += k == k2;
		longest = MAX(longest, k);
	}
	assert_true(found > ARRAY_SIZE(t) / 4);
	assert_true(lost < ARRAY_SIZE(t) / 20);
	assert_int_equal(longest, SPEC_MATCH_MOST);
	spec_free(s);
}

static void test_guesses_go_on_into_themselves(void **state)
{
	int32_t t[16] = { 9, 1, 2, 3, 1, 2, 3 };
	const int32_t want[] = { 1, 2, 3, 1, 2, 3, 1 };
	struct spec *s;
	uint32_t at;

	(void)state;
	assert_int_equal(spec_new(&s), 0);
	spec_index(s, t, 7);
	assert_int_equal(spec_find(s, t, 7, &at), 3);
	assert_int_equal(at, 4);
	spec_copy(t, 7, at, 7);
	assert_memory_equal(t + 7, want, sizeof(want));
	spec_free(s);
}

static void test_chances(void **state)
{
	struct spec *s;
	double first;

	(void)state;
	assert_int_equal(spec_new(&s), 0);
	for (uint32_t match = 2; match < 20; match++)
		assert_true(spec_chance(s, match, 0) <= spec_chance(s, match + 1, 0));
	assert_true(spec_chance(s, 2, 2) == spec_chance(s, 3, 0));
	first = spec_chance(s, 5, 0);
	for (unsigned i = 0; i < 30; i++)
		spec_learn(s, 5, 3, 0);
	assert_true(spec_chance(s, 5, 0) < first / 2);
	assert_true(spec_chance(s, 2, 0) > 0.2);        /* other lengths know nothing of it */
	for (unsigned i = 0; i < 500; i++)
		spec_fade(s, 5);
	assert_true(fabs(spec_chance(s, 5, 0) - first) < 0.05);
	for (unsigned i = 0; i < 30; i++)
		spec_learn(s, SPEC_DRAFT, 4, 4);
	assert_true(spec_chance(s, SPEC_DRAFT, 9) > 0.9);
	spec_free(s);
}

static void test_index_without_memory(void **state)
{
	int32_t t[2000];
	struct spec *s;
	uint32_t at;

	(void)state;
	for (uint32_t i = 0; i < ARRAY_SIZE(t); i++)
		t[i] = (int32_t)(i % 50);
	assert_int_equal(spec_new(&s), 0);
	mem_fault_arm(0, true);
	spec_index(s, t, 100);                          /* no table at all */
	assert_true(mem_fault_fired());
	assert_int_equal(spec_find(s, t, 100, &at), 0);
	spec_index(s, t, 100);
	assert_int_equal(spec_find(s, t, 100, &at), SPEC_MATCH_MOST);
	mem_fault_arm(0, true);
	spec_index(s, t, 2000);                         /* one that stays small */
	assert_true(mem_fault_fired());
	assert_int_equal(spec_find(s, t, 2000, &at), SPEC_MATCH_MOST);
	spec_free(s);
}

/* === Answers === */
enum { PLAIN, LOOKUP, DRAFT, BOTH, SAME, ARMS };
static struct model *target, *other;

static void set_arm(struct job *j, unsigned arm)
{
	j->r->lookup = arm == LOOKUP || arm == BOTH;
	if (arm >= DRAFT)
		j->r->draft = model_ref(arm == SAME ? target : other);
}

/* The i-th of a lot of repetitive prompts with all that steers a sampler. */
static struct job *job_of(uint32_t i, unsigned arm)
{
	struct sampler_params *p;
	int32_t t[256];
	uint32_t n = 1 + i * 53 % 200, period = 5 + i % 17;
	struct job *j;

	prompt_fill(t, period, i);
	for (uint32_t k = period; k < n; k++)
		t[k] = t[k - period];
	j = job_new(target, REQUEST_GENERATE, t, n);
	j->r->max_tokens = 1 + i * 11 % 90;
	j->r->client = i;
	j->r->uid = i % 3;
	p = &j->r->sampling;
	if (i % 3 == 0) {
		sampler_params_default(p);
		p->temp = i % 2 ? 0.05f : 1;
		p->seed = i;
	}
	if (i % 4 == 1)
		p->repeat_penalty = 1.2f;
	if (i % 5 == 2)
		p->n_logprobs = 3;
	if (i % 5 == 3) {
		p->bias = mem_allocn(2, sizeof(*p->bias));
		p->bias[0] = (struct logit_bias){ t[0], 0.5f };
		p->bias[1] = (struct logit_bias){ (int32_t)i, -INFINITY };
		p->n_bias = 2;
	}
	set_arm(j, arm);
	return j;
}

static void assert_all_same(const struct job *a, const struct job *b)
{
	assert_same(a, b);
	for (uint32_t i = 0; i < MIN(a->n, (uint32_t)MAX_OUT); i++) {
		assert_memory_equal(&a->own[i], &b->own[i], sizeof(a->own[i]));
		assert_memory_equal(&a->top[i], &b->top[i], sizeof(a->top[i]));
	}
	assert_true(b->result.draft_accepted <= b->result.draft_tokens);
	assert_true(b->result.draft_accepted < MAX(b->n, 1u));
}

/* A tiny model's rows cost as much as its steps: always, so that there is something to test. */
static enum engine_guess guess = GUESS_ALWAYS;

static struct engine *engine_of(uint64_t budget, uint32_t threads, uint32_t max_seqs)
{
	const struct engine_config c = {
		.threads = threads, .budget = budget, .chunk = 64, .max_seqs = max_seqs,
		.guess = guess
	};
	struct engine *e = NULL;

	assert_int_equal(engine_new(&e, &c, &kernels, NULL), 0);
	return e;
}

enum { LOT = 20 };
static struct job *plain[LOT];

static int answers_without(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 8);

	(void)state;
	target = load(21, 512, NULL);
	other = load(22, 512, NULL);
	for (uint32_t i = 0; i < LOT; i++) {
		run(e, plain[i] = job_of(i, PLAIN));
		assert_int_equal(plain[i]->result.draft_tokens, 0);
	}
	engine_free(e);
	return 0;
}

static int answers_end(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < LOT; i++)
		job_free(plain[i]);
	model_unref(target);
	model_unref(other);
	return 0;
}

static void test_same_alone(void **state)
{
	uint64_t wrong = 0;

	(void)state;
	for (uint32_t threads = 1; threads <= 2; threads++)
		for (unsigned arm = LOOKUP; arm < ARMS; arm++) {
			struct engine *e = engine_of((uint64_t)1 << 30, threads, 8);
			uint64_t guesses = 0, held = 0;
			struct engine_stats st;

			for (uint32_t i = 0; i < LOT; i += 4 - threads) {
				struct job *j = job_of(i, arm);

				run(e, j);
				assert_all_same(plain[i], j);
				guesses += j->result.draft_tokens;
				held += j->result.draft_accepted;
				job_free(j);
			}
			engine_stats(e, &st);
			assert_int_equal(st.draft_tokens, guesses);
			assert_int_equal(st.draft_accepted, held);
			/* random models say the same again and again */
			assert_true(held > 0 || arm == DRAFT);
			assert_true(held > 50 || arm != SAME);
			wrong += guesses - held;
			engine_free(e);
		}
	assert_true(wrong > 0);
}

static void test_same_in_company(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 16);
	struct job *j[LOT];
	struct engine_model_stats ms;

	(void)state;
	for (unsigned arm = LOOKUP; arm <= ARMS; arm++) {
		for (uint32_t i = 0; i < LOT; i++)      /* the last time all arms at once */
			submit(e, j[i] = job_of(i, arm == ARMS ? i % ARMS : arm));
		for (uint32_t i = 0; i < LOT; i++) {
			wait_done(j[i]);
			assert_all_same(plain[i], j[i]);
			job_free(j[i]);
		}
	}
	/* as of now: the engine's thread has come by since the last answer's end */
	assert_int_equal(engine_prepare(e, other, KV_F16, NULL), 0);
	engine_model_stats(e, other, &ms);
	assert_int_equal(ms.kv_pages, 0);
	assert_int_equal(ms.requests, 0);
	engine_free(e);
}

/* The same with pages of every type, and when the prompt's come from the prefix tree. */
static void test_same_with_any_pages(void **state)
{
	(void)state;
	for (unsigned type = 0; type < KV_TYPE_COUNT; type++) {
		struct engine *e = engine_of((uint64_t)1 << 30, 2, 8);
		uint64_t held = 0;

		assert_int_equal(engine_prepare(e, target, (enum kv_type)type, NULL), 0);
		for (uint32_t i = 1; i < LOT; i += 3) {
			struct job *without = job_of(i, PLAIN);

			run(e, without);
			for (unsigned arm = LOOKUP; arm < ARMS; arm += SAME - LOOKUP) {
				struct job *j = job_of(i, arm);

				run(e, j);
				assert_all_same(without, j);
				held += j->result.draft_accepted;
				job_free(j);
			}
			job_free(without);
		}
		assert_true(held > 50);
		engine_free(e);
	}
}

static void test_only_where_it_pays(void **state)
{
	(void)state;
	for (guess = GUESS_WHERE_IT_PAYS; guess <= GUESS_NEVER; guess++) {
		struct engine *e = engine_of((uint64_t)1 << 30, 2, 8);
		struct engine_stats st;

		for (uint32_t i = 0; i < LOT; i++) {
			struct job *j = job_of(i, BOTH);

			run(e, j);
			assert_all_same(plain[i], j);
			job_free(j);
		}
		engine_stats(e, &st);
		assert_true(st.draft_tokens == 0 || guess != GUESS_NEVER);
		engine_free(e);
	}
	guess = GUESS_ALWAYS;
}

/* Steps that others fill have no row left for guesses. */
static void test_first_rows_come_first(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 1);
	struct job *j[4];
	struct engine_stats st;

	(void)state;
	for (uint32_t i = 0; i < ARRAY_SIZE(j); i++)
		submit(e, j[i] = job_of(i, BOTH));
	for (uint32_t i = 0; i < ARRAY_SIZE(j); i++) {
		wait_done(j[i]);
		assert_all_same(plain[i], j[i]);
		job_free(j[i]);
	}
	engine_stats(e, &st);
	assert_int_equal(st.draft_tokens, 0);
	engine_free(e);
}

/* Every length of an answer ends where it should, in the middle of guesses as well. */
static void test_every_length(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 8);
	struct job *whole = job_of(1, PLAIN);

	(void)state;
	whole->r->max_tokens = 60;
	run(e, whole);
	for (uint32_t n = 1; n <= 60; n++) {
		struct job *j = job_of(1, n % 2 ? LOOKUP : SAME);

		j->r->max_tokens = n;
		run(e, j);
		assert_int_equal(j->n, n);
		assert_int_equal(j->result.finish, FINISH_LENGTH);
		assert_memory_equal(j->id, whole->id, n * sizeof(*j->id));
		job_free(j);
	}
	job_free(whole);
	engine_free(e);
}

static void test_stop_strings_and_context(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 8);
	struct job *whole = job_of(4, PLAIN), *j;

	(void)state;
	whole->r->max_tokens = 0;                       /* to the end of the context */
	run(e, whole);
	for (unsigned arm = LOOKUP; arm < ARMS; arm++) {
		j = job_of(4, arm);
		j->r->max_tokens = 0;
		run(e, j);
		assert_all_same(whole, j);
		job_free(j);
	}
	for (size_t at = 5; at + 9 < MIN(whole->n_text, (size_t)150); at += 7) {
		char stop[16];
		size_t n = 1 + at % 9;

		memcpy(stop, whole->text + at, n);
		stop[n] = 0;
		if (strlen(stop) < n)
			continue;
		j = job_of(4, at % 2 ? LOOKUP : BOTH);
		j->r->max_tokens = 0;
		j->r->stop[0] = mem_strdup(stop);
		j->r->n_stop = 1;
		run(e, j);
		assert_int_equal(j->result.finish, FINISH_STOP);
		assert_int_equal(j->n_text,
		                 (char *)memmem(whole->text, whole->n_text, stop, n) - whole->text);
		assert_int_equal(j->result.completion_tokens, j->n);
		job_free(j);
	}
	job_free(whole);
	engine_free(e);
}

static void test_parked_and_cancelled(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 8);

	(void)state;
	for (unsigned arm = LOOKUP; arm < ARMS; arm++) {
		struct job *parked = job_of(7, arm), *gone = job_of(8, arm);

		parked->credit = 3;
		submit(e, parked);
		while (parked->refused == 0)
			usleep(1000);
		gone->r->max_tokens = 0;
		gone->credit = 5;
		submit(e, gone);
		while (gone->refused == 0)
			usleep(1000);
		atomic_store(&gone->r->cancel, true);
		engine_wake(e);
		wait_done(gone);
		assert_int_equal(gone->result.finish, FINISH_CANCELLED);
		parked->credit = -1;
		engine_wake(e);
		wait_done(parked);
		assert_all_same(plain[7], parked);
		job_free(parked);
		job_free(gone);
	}
	engine_free(e);
}

static void test_same_without_pages(void **state)
{
	uint64_t one = budget_of(target, 64, 8, 14), both = one + budget_of(other, 64, 8, 0);
	struct engine *e = engine_of(both, 2, 8);
	struct job *j[LOT];
	struct engine_stats st;

	(void)state;
	for (unsigned arm = LOOKUP; arm < ARMS; arm++) {
		for (uint32_t i = 0; i < LOT; i++)
			submit(e, j[i] = job_of(i, arm));
		for (uint32_t i = 0; i < LOT; i++) {
			wait_done(j[i]);
			assert_all_same(plain[i], j[i]);
			job_free(j[i]);
		}
	}
	engine_stats(e, &st);
	assert_true(st.preemptions > 0);
	assert_true(st.used <= st.budget);
	engine_free(e);
}

static void test_every_allocation_may_fail(void **state)
{
	(void)state;
	for (unsigned arm = LOOKUP; arm <= DRAFT; arm++) {
		struct engine *e = engine_of((uint64_t)1 << 30, 2, 4);
		uint64_t nth;

		for (nth = 0; nth < 2000; nth++) {
			struct job *j = job_of(7, arm);
			struct err err = { 0 };
			int64_t live = mem_live_blocks();
			bool fired;
			int r;

			mem_fault_arm(nth, false);
			r = engine_submit(e, j->r, &err);
			if (r == 0)
				wait_done(j);
			fired = mem_fault_fired();
			if (r < 0)
				assert_true(fired && r == -ENOMEM && mem_live_blocks() < live);
			else if (j->result.finish == FINISH_ERROR)
				assert_true(fired && j->result.code == -ENOMEM && j->err[0]);
			else
				assert_all_same(plain[7], j);
			job_free(j);
			if (!fired)
				break;
		}
		assert_true(nth > 5 && nth < 2000);
		engine_free(e);
	}
}

static void test_other_vocabulary(void **state)
{
	const struct ggufgen_tiny spm = { .spm = true, .seed = 5 };
	struct engine *e = engine_of((uint64_t)1 << 30, 1, 4);
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_tiny_model(&spm);
	struct job *j = job_of(2, PLAIN);

	(void)state;
	assert_int_equal(model_load(&m, fd, "stranger", &err), 0);
	close(fd);
	j->r->draft = m;
	assert_int_equal(engine_submit(e, j->r, &err), -EINVAL);
	assert_non_null(strstr(err.text, "vocabular"));
	job_free(j);
	engine_free(e);
}

/* A draft model whose file fails ends drafting, not the answer. */
static void test_poisoned_draft(void **state)
{
	struct engine *e = engine_of((uint64_t)1 << 30, 2, 4);
	struct job *j = job_of(7, PLAIN);
	struct model *m;
	int fd;

	(void)state;
	assert_int_equal(sigaction(SIGBUS, &guard, NULL), 0);
	m = load(22, 512, &fd);
	j->r->draft = m;
	j->credit = 3;
	submit(e, j);
	while (j->refused == 0)
		usleep(1000);
	assert_int_equal(ftruncate(fd, 4096), 0);
	j->credit = -1;
	engine_wake(e);
	wait_done(j);
	assert_all_same(plain[7], j);
	job_free(j);
	close(fd);
	engine_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_guesses_go_on_into_themselves),
		cmocka_unit_test(test_chances),
		cmocka_unit_test(test_index_without_memory),
		cmocka_unit_test(test_same_alone),
		cmocka_unit_test(test_same_in_company),
		cmocka_unit_test(test_same_with_any_pages),
		cmocka_unit_test(test_only_where_it_pays),
		cmocka_unit_test(test_first_rows_come_first),
		cmocka_unit_test(test_every_length),
		cmocka_unit_test(test_stop_strings_and_context),
		cmocka_unit_test(test_parked_and_cancelled),
		cmocka_unit_test(test_same_without_pages),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_other_vocabulary),
		cmocka_unit_test(test_poisoned_draft),
	};

	if (!setup())
		return 1;
	return cmocka_run_group_tests(tests, answers_without, answers_end);
}
