/* logits: an output matrix in two parts gives the logits of the whole one, bit for bit; where only
 * the largest are wanted, those are there, ties included, and what is left out is less. Tiny random
 * models. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/ops.h"
#include "engine/sampler.h"
#include "tests/lib/ggufgen.h"

enum { ROWS = 24, VOCAB = GGUFGEN_TINY_VOCAB };
static struct kernels kernels;

static struct model *load(struct ggufgen *g)
{
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_memfd(g);

	if (model_load(&m, fd, "tiny", &err) < 0)
		fail_msg("%s", err.text);
	close(fd);
	ggufgen_free(g);
	return m;
}

/* The output matrix, and that of the embeddings where it is the same one, in two parts. */
static void split(struct model *m)
{
	struct weight *w = &m->w[SLOT_OUTPUT], *embd = &m->w[SLOT_TOKEN_EMBD];
	bool tied = w->data == embd->data;
	const size_t unit = PACK_ROWS * pack_unit_groups(PACK_SPLIT);
	uint64_t bytes = 0;
	uint8_t *groups;

	assert_int_equal(pack_group_bytes(&bytes, w->type, w->n_in), 0);
	groups = mem_aligned(64, DIV_UP(w->n_out, PACK_ROWS) * bytes);
	assert_non_null(groups);
	for (size_t r = 0; r < w->n_out; r += unit)
		pack_unit(groups + r / PACK_ROWS * bytes, w->type, PACK_SPLIT,
		          w->data + r * w->row_bytes, w->row_bytes, MIN(w->n_out - r, unit),
		          w->n_in);
	w->data = groups;
	w->packed = PACK_SPLIT;
	w->row_bytes = bytes / PACK_ROWS;
	if (tied)
		*embd = *w;
}

static void model_end(struct model *m)
{
	if (m->w[SLOT_OUTPUT].packed)
		mem_free((void *)(uintptr_t)m->w[SLOT_OUTPUT].data);
	model_unref(m);
}

struct run {
	struct pool *pool;
	struct exec *x;
	struct kv_pool *kv;
	struct model *m;
};

static void run_open(struct run *r, struct model *m, uint32_t threads)
{
	const struct kv_shape shape = { m->hp.n_layer, m->hp.n_head_kv, m->hp.head_dim, KV_F16 };
	struct err err = { 0 };

	*r = (struct run){ .m = m };
	assert_int_equal(kv_pool_new(&r->kv, &shape, 64 << 20), 0);
	assert_int_equal(pool_new(&r->pool, threads), 0);
	if (exec_new(&r->x, m, &kernels, r->pool, 2 * ROWS, 2 * ROWS, &err) < 0)
		fail_msg("%s", err.text);
}

static void run_close(struct run *r)
{
	exec_free(r->x);
	kv_pool_free(r->kv);
	pool_free(r->pool);
}

/* ROWS tokens, `chunk` a step; every row and what its blocks say. top: of row i, or NULL. */
struct rows {
	float x[ROWS][VOCAB], max[ROWS][DIV_UP(VOCAB, LOGITS_BLOCK)];
};

static void run_rows(struct run *r, enum exec_path path, uint32_t chunk, uint32_t top,
                     struct rows *ret)
{
	struct kv_seq *kv = NULL;
	int32_t tokens[ROWS];

	for (uint32_t i = 0; i < ROWS; i++)
		tokens[i] = (int32_t)(i * 37 % VOCAB);
	assert_int_equal(kv_seq_new(&kv, r->kv), 0);
	assert_int_equal(kv_seq_reserve(kv, ROWS), 0);
	for (uint32_t pos = 0; pos < ROWS; pos += chunk) {
		uint32_t n = MIN(chunk, ROWS - pos);
		struct exec_slice s = { .kv = kv, .tokens = tokens + pos, .n = n, .pos0 = pos,
			                .path = path, .n_logits = n, .top = top };

		assert_int_equal(exec_step(r->x, &s, 1, NULL), 0);
		for (uint32_t i = 0; i < n; i++) {
			struct logits_row row;

			exec_row(r->x, i, &row);
			memcpy(ret->x[pos + i], row.x, sizeof(ret->x[0]));
			memcpy(ret->max[pos + i], row.max, sizeof(ret->max[0]));
		}
	}
	kv_seq_free(kv);
}

static const struct ggufgen_tiny shapes[] = {
	{ .arch = "llama", .embd_type = QTYPE_Q8_0, .seed = 1, .no_template = true },
	{ .arch = "gemma3", .embd_type = QTYPE_Q8_0, .seed = 2, .n_embd = 96, .n_head = 6 },
	{ .arch = "qwen2", .embd_type = QTYPE_Q8_0, .seed = 3, .n_embd = 256, .untied = true },
};

static void test_whole_rows(void **state)
{
	static const enum exec_path paths[] = { PATH_DECODE, PATH_EXACT, PATH_PROMPT };
	struct rows want, got;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct model *m = load(ggufgen_tiny(&shapes[i]));
		struct model *s = load(ggufgen_tiny(&shapes[i]));
		struct run a, b;

		split(s);
		run_open(&a, m, 1);
		run_open(&b, s, 2);
		for (size_t p = 0; p < ARRAY_SIZE(paths); p++)
			for (uint32_t chunk = 1; chunk <= ROWS; chunk += 7) {
				run_rows(&a, paths[p], chunk, 0, &want);
				run_rows(&b, paths[p], chunk, 0, &got);
				assert_memory_equal(&got, &want, sizeof(want));
			}
		run_close(&a);
		run_close(&b);
		model_end(m);
		model_end(s);
	}
}

static int descending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x < y) - (x > y);
}

/* How many logits of the row were left out, all of them rightly. */
static unsigned check_row(const float *want, const float *got, const float *max, uint32_t top)
{
	unsigned out = 0;
	float sorted[VOCAB];

	memcpy(sorted, want, sizeof(sorted));
	qsort(sorted, VOCAB, sizeof(*sorted), descending);
	for (uint32_t i = 0; i < VOCAB; i++) {
		if (memcmp(&got[i], &want[i], sizeof(*got)) == 0)
			continue;
		assert_true(got[i] == -INFINITY && want[i] < sorted[top - 1]);
		out++;
	}
	for (uint32_t b = 0; b < logits_blocks(VOCAB); b++)
		assert_true(max[b] == logits_block_max(got + b * LOGITS_BLOCK,
		                                       MIN(VOCAB - b * LOGITS_BLOCK,
		                                           (uint32_t)LOGITS_BLOCK)));
	return out;
}

/* The same choice from both, however it is made. */
static void check_choices(const struct rows *want, const struct rows *got, uint32_t i,
                          uint32_t top)
{
	struct sampler_params p;

	sampler_params_default(&p);
	for (unsigned way = 0; way < 4; way++) {
		struct logits_row a = { .x = want->x[i], .max = want->max[i] },
		                  b = { .x = got->x[i], .max = got->max[i] };
		struct sampler *s[2];
		int32_t id[2];

		p.temp = way == 0 && top == 1 ? 0 : 0.7f + 0.3f * (float)way;
		p.typical_p = way == 2 ? 0.5f : 1;
		p.top_k = top;
		p.seed = 17 * i + way;
		for (unsigned k = 0; k < 2; k++) {
			assert_int_equal(sampler_new(&s[k], &p, VOCAB), 0);
			assert_int_equal(sampler_top(s[k]), top);
			assert_int_equal(sampler_sample(s[k], k ? &b : &a, &id[k], NULL, NULL), 0);
			sampler_free(s[k]);
		}
		assert_int_equal(id[0], id[1]);
	}
}

static void test_largest(void **state)
{
	static const uint32_t tops[] = { 1, 2, 5, 40, SCREEN_TOP };
	struct rows want, got;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		struct model *m = load(ggufgen_tiny(&shapes[i]));
		struct run r;

		split(m);
		for (size_t k = 0; k < ARRAY_SIZE(tops); k++)
			for (uint32_t chunk = 1; chunk <= ROWS; chunk += 7) {
				unsigned out = 0;

				run_open(&r, m, 1 + chunk % 2);
				run_rows(&r, PATH_DECODE, chunk, 0, &want);
				run_rows(&r, PATH_DECODE, chunk, tops[k], &got);
				for (uint32_t row = 0; row < ROWS; row++) {
					out += check_row(want.x[row], got.x[row], got.max[row],
					                 tops[k]);
					check_choices(&want, &got, row, tops[k]);
				}
				assert_true(tops[k] > 1 || out > 0);
				run_close(&r);
			}
		model_end(m);
	}
}

/* Rows of the output matrix of which many are the same: the k-th largest has equals, and all of
 * them are there. */
static void test_ties(void **state)
{
	struct rows want, got;

	(void)state;
	for (unsigned same = 2; same <= 64; same *= 4) {
		struct ggufgen *g = ggufgen_tiny(&shapes[2]);
		struct ggufgen_tensor *t = ggufgen_find(g, "output.weight");
		size_t row = t->n_bytes / VOCAB;
		struct model *m;
		struct run r;

		for (size_t i = 0; i < VOCAB; i++)
			memmove(t->data + i * row, t->data + i * 7 % VOCAB / same * row, row);
		m = load(g);
		split(m);
		run_open(&r, m, 2);
		run_rows(&r, PATH_DECODE, 1, 0, &want);
		for (uint32_t top = 1; top < 40; top += 13) {
			run_rows(&r, PATH_DECODE, 1, top, &got);
			for (uint32_t i = 0; i < ROWS; i++) {
				check_row(want.x[i], got.x[i], got.max[i], top);
				check_choices(&want, &got, i, top);
			}
		}
		run_close(&r);
		model_end(m);
	}
}

/* A factor that is no number, in a row far below the largest. */
static void test_damage(void **state)
{
	static const uint16_t bad[] = { 0x7e00, 0x7c00, 0xfc00 };
	struct rows got;

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(bad); k++) {
		struct ggufgen *g = ggufgen_tiny(&shapes[2]);
		struct ggufgen_tensor *t = ggufgen_find(g, "output.weight");
		struct model *m;
		struct run r;

		memset(t->data + 300 * (t->n_bytes / VOCAB), 0, t->n_bytes / VOCAB);
		memcpy(t->data + 300 * (t->n_bytes / VOCAB), &bad[k], 2);
		m = load(g);
		split(m);
		run_open(&r, m, 2);
		run_rows(&r, PATH_DECODE, 1, 1, &got);
		for (uint32_t i = 0; i < ROWS; i++)
			assert_true(isnan(got.max[i][300 / LOGITS_BLOCK]));
		run_close(&r);
		model_end(m);
	}
}

/* Every logit equal: nothing can be left out, and after a while nobody tries. */
static void test_rest(void **state)
{
	struct ggufgen *g = ggufgen_tiny(&shapes[2]);
	struct ggufgen_tensor *t = ggufgen_find(g, "output.weight");
	struct rows want, got;
	struct model *m;
	struct run r;

	(void)state;
	for (size_t i = 1; i < VOCAB; i++)
		memcpy(t->data + i * (t->n_bytes / VOCAB), t->data, t->n_bytes / VOCAB);
	m = load(g);
	split(m);
	run_open(&r, m, 2);
	run_rows(&r, PATH_DECODE, 1, 0, &want);
	run_rows(&r, PATH_DECODE, 1, 1, &got);
	assert_memory_equal(&got, &want, sizeof(want));
	assert_true(r.x->act.screen.rest > 0);
	run_close(&r);
	model_end(m);
}

/* Where a cap could make ties, every logit is there; so it is where more are wanted than a screen
 * is for. */
static void test_none_left_out(void **state)
{
	struct rows want, got;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct model *m = load(ggufgen_tiny(&shapes[2]));
		struct run r;

		split(m);
		m->hp.final_softcap = i == 0 ? 30 : 0;
		run_open(&r, m, 2);
		run_rows(&r, PATH_DECODE, 3, 0, &want);
		run_rows(&r, PATH_DECODE, 3, i == 0 ? 1 : SCREEN_TOP + 1, &got);
		assert_memory_equal(&got, &want, sizeof(want));
		run_close(&r);
		model_end(m);
	}
}

static _Atomic uint64_t bytes_read;

static uint64_t counting_read_sum(const void *p, size_t n)
{
	(void)p;
	atomic_fetch_add(&bytes_read, n);
	return 0;
}

/* The read arm reads what every step needs, and says so. */
static void test_read_step(void **state)
{
	struct kernels plain = kernels;
	struct model *m = load(ggufgen_tiny(&shapes[2]));
	uint64_t whole, got;
	struct run r;

	(void)state;
	kernels.read_sum = counting_read_sum;
	run_open(&r, m, 2);
	whole = exec_read_step(r.x);
	run_close(&r);
	split(m);
	run_open(&r, m, 2);
	atomic_store(&bytes_read, 0);
	got = exec_read_step(r.x);
	assert_int_equal(atomic_load(&bytes_read), got);
	/* 3 bits of 8 of all codes, 256 a row */
	assert_int_equal(whole - got, (uint64_t)VOCAB * 256 * 3 / 8);
	run_close(&r);
	model_end(m);
	kernels = plain;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole_rows),
		cmocka_unit_test(test_largest),
		cmocka_unit_test(test_ties),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_rest),
		cmocka_unit_test(test_none_left_out),
		cmocka_unit_test(test_read_step),
	};

	if (kernels_init(&kernels, getenv("QLLM_CPU")) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
