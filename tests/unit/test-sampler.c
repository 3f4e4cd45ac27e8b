/* Sampler, stop strings and shares against straightforward references. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <math.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/sampler.h"
#include "engine/stop.h"

enum { N = 2500, SET_MAX = 100 };        /* N: several blocks and a ragged one */

static uint64_t rnd_state = 1;
static uint32_t rnd(void)
{
	rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(rnd_state >> 33);
}
static float rnd_logit(float span)
{
	return ((float)(rnd() % 100000) / 100000.0f - 0.5f) * span;
}

/* === Reference: sort everything, cut as the header says, in the order of the chain === */
struct ref {
	double x;
	int32_t id;
};
static int ref_cmp(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;

	if (x->x != y->x)
		return x->x > y->x ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}
static double ref_mean;
static int ref_typical_cmp(const void *a, const void *b)
{
	const struct ref *x = a, *y = b;
	double dx = fabs(x->x - ref_mean), dy = fabs(y->x - ref_mean);

	if (dx != dy)
		return dx < dy ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}
static uint32_t ref_cut(const struct ref *r, uint32_t n, double part, double max)
{
	double total = 0, cum = 0;

	for (uint32_t i = 0; i < n; i++)
		total += exp(r[i].x - max);
	for (uint32_t i = 0; i < n; i++) {
		cum += exp(r[i].x - max);
		if (cum >= part * total)
			return i + 1;
	}
	return n;
}
static uint32_t ref_chain(const struct sampler_params *p, const float *logits,
                          const int32_t *history, uint32_t n_hist, uint32_t n_vocab, struct ref *r)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_vocab; i++) {
		double x = (double)logits[i];
		uint32_t count = 0;

		for (uint32_t b = 0; b < p->n_bias; b++)
			if (p->bias[b].id == (int32_t)i)
				x += (double)p->bias[b].bias;
		for (uint32_t h = n_hist > 64 ? n_hist - 64 : 0; h < n_hist; h++)
			count += history[h] == (int32_t)i;
		if (count > 0) {
			x = x > 0 ? x / (double)p->repeat_penalty : x * (double)p->repeat_penalty;
			x -= count * (double)p->frequency_penalty + (double)p->presence_penalty;
		}
		if (x > -INFINITY)
			r[n++] = (struct ref){ x, (int32_t)i };
	}
	qsort(r, n, sizeof(*r), ref_cmp);
	if (p->top_k > 0)
		n = MIN(n, p->top_k);
	if (p->typical_p < 1) {
		double max = r[0].x, total = 0;

		ref_mean = 0;
		for (uint32_t i = 0; i < n; i++) {
			total += exp(r[i].x - max);
			ref_mean += exp(r[i].x - max) * r[i].x;
		}
		ref_mean /= total;
		qsort(r, n, sizeof(*r), ref_typical_cmp);
		n = ref_cut(r, n, (double)p->typical_p, max);
		qsort(r, n, sizeof(*r), ref_cmp);
	}
	if (p->top_p < 1)
		n = ref_cut(r, n, (double)p->top_p, r[0].x);
	while (n > 1 && exp(r[n - 1].x - r[0].x) < (double)p->min_p)
		n--;
	return n;
}

/* What n_draws draws give, as a set; hot, so that every candidate comes up. */
static uint32_t drawn_set(const struct sampler_params *p, const float *logits,
                          const int32_t *history, uint32_t n_hist, uint32_t n_vocab,
                          uint32_t n_draws, bool *seen)
{
	struct sampler *s = NULL;
	uint32_t n = 0;

	memset(seen, 0, n_vocab);
	assert_int_equal(sampler_new(&s, p, n_vocab), 0);
	for (uint32_t i = 0; i < n_hist; i++)
		sampler_accept(s, history[i]);
	for (uint32_t i = 0; i < n_draws; i++) {
		int32_t id = -1;

		assert_int_equal(
			sampler_sample(s, &(struct logits_row){ .x = logits }, &id, NULL, NULL), 0);
		assert_in_range(id, 0, n_vocab - 1);
		n += !seen[id];
		seen[id] = true;
	}
	sampler_free(s);
	return n;
}

static void check_set(const struct sampler_params *params, const float *logits,
                      const int32_t *history, uint32_t n_hist)
{
	static struct ref r[N];
	static bool seen[N];
	struct sampler_params p = *params;
	uint32_t n, got;

	p.temp = 100;
	n = ref_chain(&p, logits, history, n_hist, N, r);
	got = drawn_set(&p, logits, history, n_hist, N, MIN(n, (uint32_t)SET_MAX) * 14, seen);
	if (n <= SET_MAX)               /* of more, the draws would miss some: subset only */
		assert_int_equal(got, n);
	for (uint32_t i = 0; i < n; i++) {
		got -= seen[r[i].id];
		if (n <= SET_MAX)
			assert_true(seen[r[i].id]);
	}
	assert_int_equal(got, 0);
}

static void fill(float *x, float span, uint32_t peaks)
{
	for (uint32_t i = 0; i < N; i++)
		x[i] = rnd_logit(span);
	for (uint32_t i = 0; i < peaks; i++)
		x[rnd() % N] = 8.0f + rnd_logit(4);
}

static void test_candidate_sets(void **state)
{
	static float x[N];
	struct sampler_params p;

	(void)state;
	for (uint32_t round = 0; round < 8; round++) {
		fill(x, 4, 40);
		sampler_params_default(&p);
		p.seed = round;
		p.top_p = p.typical_p = 1;
		p.min_p = 0;
		p.top_k = 1 + round * 13;
		check_set(&p, x, NULL, 0);
		p.top_p = 0.7f;
		check_set(&p, x, NULL, 0);
		p.min_p = 0.1f;
		check_set(&p, x, NULL, 0);
		p.typical_p = 0.6f;
		check_set(&p, x, NULL, 0);
		p.top_k = 0;
		check_set(&p, x, NULL, 0);
		p.typical_p = 1;
		check_set(&p, x, NULL, 0);
		p.top_p = 1;
		check_set(&p, x, NULL, 0);
		p.min_p = 0;
		p.top_p = 0.4f;
		check_set(&p, x, NULL, 0);
	}
}

/* The nucleus passes the first try of 1024 candidates. */
static void test_wide_nucleus(void **state)
{
	static float x[N];
	struct sampler_params p;

	(void)state;
	fill(x, 1, 0);
	sampler_params_default(&p);
	p.top_k = 0;
	p.min_p = 0;
	p.top_p = 0.9f;
	check_set(&p, x, NULL, 0);
}

static void test_bias_and_penalties(void **state)
{
	static float x[N];
	struct logit_bias bias[] = { { 2499, 20 }, { 3, -INFINITY }, { 1024, 18 },
		                     { 1023, 19 }, { 1024, 1 },      { 0, 19.5f } };
	int32_t history[100];
	struct sampler_params p;

	(void)state;
	fill(x, 4, 20);
	x[3] = 30;
	for (uint32_t i = 0; i < 100; i++)
		history[i] = i < 36 ? 2100 + (int32_t)i : (int32_t)(i % 7) * 300 + 1;
	for (uint32_t i = 0; i < 100; i++)      /* the first 36 are out of reach */
		x[history[i]] = 12;
	sampler_params_default(&p);
	p.bias = bias;
	p.n_bias = ARRAY_SIZE(bias);
	p.repeat_penalty = 1.3f;
	p.presence_penalty = 0.5f;
	p.frequency_penalty = 0.2f;
	p.top_p = 1;
	p.min_p = 0;
	for (p.top_k = 1; p.top_k < 60; p.top_k += 7)
		check_set(&p, x, history, 100);
	p.top_k = 0;
	p.top_p = 0.8f;
	check_set(&p, x, history, 100);
}

static void test_temperature(void **state)
{
	float x[N];
	struct sampler_params p;
	uint32_t hits[2] = { 0 };

	(void)state;
	/* 3:1 at temperature 1, 9:1 at one half; through the list and through the streaming
	 * draw. */
	for (uint32_t i = 0; i < N; i++)
		x[i] = -INFINITY;
	x[100] = 0;
	x[2400] = logf(3);
	for (uint32_t mode = 0; mode < 2; mode++) {
		struct sampler *s = NULL;

		sampler_params_default(&p);
		p.seed = 7;
		p.temp = 0.5f;
		p.top_k = mode ? 0 : 40;
		p.top_p = mode ? 1 : 0.999f;
		p.min_p = 0;
		assert_int_equal(sampler_new(&s, &p, N), 0);
		for (uint32_t i = 0; i < 20000; i++) {
			int32_t id;

			assert_int_equal(
				sampler_sample(s, &(struct logits_row){ .x = x }, &id, NULL, NULL),
				0);
			assert_true(id == 100 || id == 2400);
			hits[mode] += id == 2400;
		}
		sampler_free(s);
	}
	assert_in_range(hits[0], 17800, 18200);
	assert_in_range(hits[1], 17800, 18200);
}

static int32_t one(const struct sampler_params *p, const float *x, uint32_t n)
{
	struct sampler *s = NULL;
	int32_t id = -1;
	int r;

	assert_int_equal(sampler_new(&s, p, n), 0);
	r = sampler_sample(s, &(struct logits_row){ .x = x }, &id, NULL, NULL);
	sampler_free(s);
	return r < 0 ? r : id;
}

static void test_edges(void **state)
{
	static float x[N];
	static const uint32_t top_ks[] = { 0, 1, 40, 1u << 31 };
	struct sampler_params p;

	(void)state;
	for (uint32_t k = 0; k < ARRAY_SIZE(top_ks); k++) {
		sampler_params_default(&p);
		p.top_k = top_ks[k];
		p.temp = 0;
		for (uint32_t i = 0; i < N; i++)
			x[i] = 1.5f;
		assert_int_equal(one(&p, x, N), 0);             /* ties: lowest id */
		x[2000] = x[2321] = 2;
		assert_int_equal(one(&p, x, N), 2000);
		p.temp = 1e-30f;
		x[2321] = 2.001f;
		assert_int_equal(one(&p, x, N), 2321);          /* tiny temperature: the best */
		p.temp = 1;
		p.top_p = 0;
		assert_int_equal(one(&p, x, N), 2321);
		p.top_p = 1;
		p.min_p = 1;
		assert_int_equal(one(&p, x, N), 2321);
		for (uint32_t i = 0; i < N; i++)
			x[i] = -INFINITY;
		x[N - 1] = -3e38f;
		p.min_p = 0;
		p.typical_p = 0.5f;
		assert_int_equal(one(&p, x, N), N - 1);
		x[17] = NAN;
		assert_int_equal(one(&p, x, N), -EBADMSG);
		x[17] = INFINITY;
		assert_int_equal(one(&p, x, N), -EBADMSG);
		p.temp = 0;
		assert_int_equal(one(&p, x, N), -EBADMSG);
		x[17] = NAN;
		assert_int_equal(one(&p, x, N), -EBADMSG);
		x[17] = x[N - 1] = -INFINITY;
		assert_int_equal(one(&p, x, N), -EBADMSG);      /* nothing left */
		assert_int_equal(one(&p, x, 1), -EBADMSG);
		x[0] = 0;
		assert_int_equal(one(&p, x, 1), 0);
	}
}

/* The row with what its blocks say. */
static const struct logits_row *blocks_of(const float *x)
{
	static struct logits_row row;
	static float max[N / LOGITS_BLOCK + 1];
	static double lse[N / LOGITS_BLOCK + 1];

	for (uint32_t b = 0; b < logits_blocks(N); b++) {
		uint32_t i0 = b * LOGITS_BLOCK, n = MIN((uint32_t)LOGITS_BLOCK, N - i0);
		double v[LOGITS_BLOCK];

		for (uint32_t i = 0; i < n; i++)
			v[i] = (double)x[i0 + i];
		max[b] = logits_block_max(x + i0, n);
		lse[b] = logits_lse(v, n);
	}
	row = (struct logits_row){ .x = x, .max = max, .lse = lse };
	return &row;
}

/* The same tokens with and without what the blocks say, with patches in blocks; and what a block is
 * said to be counts. */
static void test_blocks(void **state)
{
	static const uint32_t top_ks[] = { 0, 1, 40, 700 };
	static float x[N];
	struct logit_bias bias[] = { { 3, -INFINITY }, { 400, 9 }, { N - 1, -2 } };

	(void)state;
	fill(x, 11, 4);
	for (uint32_t i = 0; i < 8 * ARRAY_SIZE(top_ks); i++) {
		struct sampler *s[2] = { 0 };
		struct sampler_params p;

		sampler_params_default(&p);
		p.top_k = top_ks[i / 8];
		p.temp = i & 1 ? 2 : 0;
		p.repeat_penalty = i & 2 ? 1.3f : 1;
		p.bias = bias;
		p.n_bias = i & 4 ? ARRAY_SIZE(bias) : 0;
		p.seed = i;
		for (unsigned k = 0; k < 2; k++)
			assert_int_equal(sampler_new(&s[k], &p, N), 0);
		for (unsigned n = 0; n < 100; n++) {
			int32_t a, b;

			assert_int_equal(
				sampler_sample(s[0], &(struct logits_row){ .x = x }, &a, NULL,
				               NULL),
				0);
			assert_int_equal(sampler_sample(s[1], blocks_of(x), &b, NULL, NULL), 0);
			assert_int_equal(a, b);
			sampler_accept(s[0], a);
			sampler_accept(s[1], b);
		}
		sampler_free(s[0]);
		sampler_free(s[1]);
	}
}

static void test_block_is_believed(void **state)
{
	static float x[N];
	float max[N / LOGITS_BLOCK + 1];
	struct logits_row row = *blocks_of(x);
	struct sampler_params p;
	struct sampler *s = NULL;
	int32_t id;

	(void)state;
	memcpy(max, row.max, logits_blocks(N) * sizeof(*max));
	row.max = max;
	x[5] = 1;
	sampler_params_default(&p);
	p.temp = 0;
	assert_int_equal(sampler_new(&s, &p, N), 0);
	assert_int_equal(sampler_sample(s, blocks_of(x), &id, NULL, NULL), 0);
	assert_int_equal(id, 5);
	max[0] = -INFINITY;
	assert_int_equal(sampler_sample(s, &row, &id, NULL, NULL), 0);
	assert_int_equal(id, LOGITS_BLOCK);
	max[1] = NAN;
	assert_int_equal(sampler_sample(s, &row, &id, NULL, NULL), -EBADMSG);
	sampler_free(s);
}

static void test_deterministic(void **state)
{
	static float x[N];
	struct sampler_params p;
	int32_t a[64], differ = 0;

	(void)state;
	fill(x, 6, 0);
	sampler_params_default(&p);
	p.top_k = 0;
	p.top_p = 1;
	p.min_p = 0;
	for (uint32_t round = 0; round < 3; round++) {
		struct sampler *s = NULL;

		p.seed = 42 + (round == 2);
		assert_int_equal(sampler_new(&s, &p, N), 0);
		for (uint32_t i = 0; i < 64; i++) {
			int32_t id;

			assert_int_equal(
				sampler_sample(s, &(struct logits_row){ .x = x }, &id, NULL, NULL),
				0);
			sampler_accept(s, id);
			if (round == 0)
				a[i] = id;
			else if (round == 1)
				assert_int_equal(a[i], id);
			else
				differ += a[i] != id;
		}
		sampler_free(s);
	}
	assert_true(differ > 32);
}

static void test_logprobs(void **state)
{
	static float x[N];
	static struct ref r[N];
	struct logit_bias bias = { 77, 100 };
	struct sampler_params p;
	struct sampler *s = NULL;
	struct logprob own, top[20], sparse, sparse_top[20];
	double total = 0;
	int32_t id;

	(void)state;
	fill(x, 8, 10);
	sampler_params_default(&p);
	p.temp = 0;
	p.bias = &bias;
	p.n_bias = 1;
	p.n_logprobs = 20;
	for (uint32_t i = 0; i < N; i++) {
		r[i] = (struct ref){ (double)x[i], (int32_t)i };
		total += exp((double)x[i]);
	}
	qsort(r, N, sizeof(*r), ref_cmp);
	assert_int_equal(sampler_new(&s, &p, N), 0);
	assert_int_equal(
		sampler_sample(s, &(struct logits_row){ .x = x }, &id, &sparse, sparse_top), 0);
	assert_int_equal(sampler_sample(s, blocks_of(x), &id, &own, top), 0);
	assert_int_equal(sparse.id, own.id);
	assert_true(fabsf(sparse.logprob - own.logprob) < 1e-6f);
	for (uint32_t i = 0; i < 20; i++)
		assert_true(sparse_top[i].id == top[i].id &&
		            fabsf(sparse_top[i].logprob - top[i].logprob) < 1e-6f);
	assert_int_equal(id, 77);
	assert_int_equal(own.id, 77);
	assert_true(fabs((double)own.logprob - ((double)x[77] - log(total))) < 1e-5);
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(top[i].id, r[i].id);
		assert_true(fabs((double)top[i].logprob - (r[i].x - log(total))) < 1e-5);
	}
	sampler_free(s);
}

static void test_check(void **state)
{
	struct logit_bias bias = { 5, 1 };
	struct sampler_params ok, p;
	struct err err = { 0 };

	(void)state;
	sampler_params_default(&ok);
	assert_int_equal(sampler_check(&ok, 100, &err), 0);
#define BAD(field, value)                                                \
	do {                                                             \
		p = ok;                                                  \
		p.field = (value);                                       \
		assert_int_equal(sampler_check(&p, 100, NULL), -EINVAL); \
	} while (0)
	BAD(temp, NAN);
	BAD(temp, -1);
	BAD(temp, 101);
	BAD(temp, INFINITY);
	BAD(top_p, 1.5f);
	BAD(top_p, -0.1f);
	BAD(min_p, NAN);
	BAD(typical_p, 2);
	BAD(repeat_penalty, 0);
	BAD(repeat_penalty, 11);
	BAD(presence_penalty, INFINITY);
	BAD(frequency_penalty, NAN);
	BAD(n_logprobs, 21);
	p = ok;
	p.bias = &bias;
	p.n_bias = 1;
	assert_int_equal(sampler_check(&p, 100, NULL), 0);
	assert_int_equal(sampler_check(&p, 5, &err), -EINVAL);
	assert_non_null(strstr(err.text, "token 5"));
	bias.bias = -INFINITY;
	assert_int_equal(sampler_check(&p, 100, NULL), 0);
	bias.bias = INFINITY;
	assert_int_equal(sampler_check(&p, 100, NULL), -EINVAL);
	bias = (struct logit_bias){ -1, 0 };
	assert_int_equal(sampler_check(&p, 100, NULL), -EINVAL);
}

static void test_every_allocation_may_fail(void **state)
{
	struct logit_bias bias = { 5, 1 };
	struct sampler_params p;

	(void)state;
	sampler_params_default(&p);
	p.bias = &bias;
	p.n_bias = 1;
	for (uint64_t nth = 0;; nth++) {
		struct sampler *s = NULL;
		int64_t live = mem_live_blocks();
		int r;

		mem_fault_arm(nth, false);
		r = sampler_new(&s, &p, 100);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			assert_true(nth >= 4);
			sampler_free(s);
			assert_int_equal(mem_live_blocks(), live);
			return;
		}
		assert_int_equal(r, -ENOMEM);
		assert_null(s);
		assert_int_equal(mem_live_blocks(), live);
	}
}

/* === Stop strings === */
/* The answer byte by byte, without state. Returns the length shown; *hit. */
static size_t ref_stop(const char *text, const char *const *stops, uint32_t n_stops, bool *hit)
{
	size_t n = strlen(text);

	*hit = false;
	for (size_t end = 1; end <= n; end++) {
		size_t best = 0;

		for (uint32_t i = 0; i < n_stops; i++) {
			size_t k = strlen(stops[i]);

			if (k <= end && k > best && memcmp(text + end - k, stops[i], k) == 0)
				best = k;
		}
		if (best) {
			*hit = true;
			return end - best;
		}
	}
	return n;
}

static void test_stop_any_cut(void **state)
{
	static const char *const stops[] = { "aab", "ba", "abcabc", "cc", "bcab" };

	(void)state;
	for (uint32_t round = 0; round < 4000; round++) {
		uint32_t n = rnd() % 24, n_stops = rnd() % 6;
		char text[32], shown[64] = "";
		struct stop m;
		size_t want, at = 0;
		bool hit;

		for (uint32_t i = 0; i < n; i++)
			text[i] = (char)('a' + rnd() % 3);
		text[n] = 0;
		want = ref_stop(text, stops, n_stops, &hit);
		stop_init(&m, stops, n_stops);
		while (!m.hit) {
			size_t piece = MIN((size_t)(rnd() % 5), n - at);
			bool last = at + piece == n;

			assert_int_equal(stop_push(&m, text + at, piece, last), 0);
			strncat(shown, m.out ? m.text.p : "", m.out);
			/* Nothing is held that could not still become a stop string. */
			if (!m.hit && !last)
				for (size_t k = 1; k <= m.text.n - m.out; k++) {
					bool prefix = false;

					for (uint32_t i = 0; i < n_stops; i++)
						prefix |= m.text.n - m.out < strlen(stops[i]) &&
						          memcmp(stops[i], m.text.p + m.out,
						                 m.text.n - m.out) == 0;
					assert_true(prefix);
				}
			at += piece;
			if (last)
				break;
		}
		assert_int_equal(m.hit, hit);
		assert_int_equal(strlen(shown), want);
		assert_memory_equal(shown, text, want);
		stop_deinit(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_candidate_sets),
		cmocka_unit_test(test_wide_nucleus),
		cmocka_unit_test(test_bias_and_penalties),
		cmocka_unit_test(test_temperature),
		cmocka_unit_test(test_edges),
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_block_is_believed),
		cmocka_unit_test(test_deterministic),
		cmocka_unit_test(test_logprobs),
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_stop_any_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
