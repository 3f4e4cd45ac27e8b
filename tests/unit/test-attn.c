/* attn: sequences that share pages decode in one step as they do alone, to the bit, and a page that
 * several of them see whole is read once for all. Tiny random models, pages of all types. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/mem.h"
#include "tests/lib/ggufgen.h"
#include "tests/unit/exec-steps.h"

enum { N_SEQS = 8, N_CTX = 1536, MAX_ROWS = 320, STEP = 1024 };

static const struct ggufgen_tiny families[] = {
	{ .arch = "llama", .n_ctx = N_CTX, .n_head = 6, .n_head_kv = 2, .n_embd = 96, .seed = 1 },
	{ .arch = "gemma3", .n_ctx = N_CTX, .n_layer = 7, .window = 520, .seed = 3 },
};
/* Pages that a sequence has of sequence `of`, its tokens after them. */
static const struct {
	uint32_t of, pages, n;
} shares[N_SEQS] = {
	{ 0, 0, 900 },
	{ 0, 28, 5 },
	{ 0, 16, 3 },                   /* just two segments */
	{ 0, 15, 200 },                 /* half of the second one is its own */
	{ 0, 0, 610 },                  /* nothing, between those that share */
	{ 0, 24, 40 },
	{ 4, 17, 1 },
	{ 3, 21, 2 },                   /* another's, part of which is the first one's */
};

static struct kernels kernels, counting;
static const void *watched;             /* a tile of K */
static atomic_uint times_read, queries_seen;

static void counting_attn_page(const struct attn_page_args *a)
{
	if (a->k == watched) {
		times_read++;
		queries_seen += (unsigned)a->n_q;
	}
	kernels.attn_page(a);
}

struct crowd {
	struct model *m;
	struct pool *pool;
	struct exec *x;
	struct kv_pool *kv;
	struct exec_slice s[N_SEQS];    /* the last token of each */
	int32_t tokens[N_SEQS][N_CTX];
};

static void add_tokens(int32_t *t, uint32_t n, uint32_t n_vocab, uint32_t seed)
{
	for (uint32_t i = 0; i < n; i++) {
		seed = seed * 1664525 + 1013904223;
		t[i] = (int32_t)((seed >> 8) % n_vocab);
	}
}

/* Bring sequence i before its last token. */
static void add_seq(struct crowd *c, uint32_t i)
{
	uint32_t had = shares[i].pages * KV_PAGE, n = had + shares[i].n;
	struct kv_seq *kv = NULL;

	assert_int_equal(kv_seq_new(&kv, c->kv), 0);
	for (uint32_t p = 0; p < shares[i].pages; p++)
		for (unsigned part = 0; part < KV_PARTS; part++) {
			struct kv_page *page = kv_seq_page(c->s[shares[i].of].kv,
			                                   (enum kv_part)part, p);

			if (page)
				assert_int_equal(kv_seq_share(kv, (enum kv_part)part, p, page), 0);
		}
	assert_int_equal(kv_seq_reserve(kv, n), 0);
	memcpy(c->tokens[i], c->tokens[shares[i].of], had * sizeof(int32_t));
	add_tokens(c->tokens[i] + had, shares[i].n, c->m->hp.n_vocab, 7 * i + 1);
	for (uint32_t pos = had; pos < n - 1; pos += MAX_ROWS) {
		struct exec_slice s = { .kv = kv,
			                .tokens = c->tokens[i] + pos,
			                .n = MIN((uint32_t)MAX_ROWS, n - 1 - pos),
			                .pos0 = pos,
			                .path = PATH_PROMPT };

		assert_int_equal(exec_step(c->x, &s, 1, NULL), 0);
	}
	c->s[i] = (struct exec_slice){ .kv = kv,
		                       .tokens = c->tokens[i] + n - 1,
		                       .n = 1,
		                       .pos0 = n - 1,
		                       .path = PATH_DECODE,
		                       .n_logits = 1 };
}

static void crowd_open(struct crowd *c, const struct ggufgen_tiny *t, enum kv_type type,
                       uint32_t threads)
{
	int fd = ggufgen_tiny_model(t);
	struct kv_shape shape;

	*c = (struct crowd){ 0 };
	assert_int_equal(model_load(&c->m, fd, "tiny", NULL), 0);
	close(fd);
	shape = (struct kv_shape){ .n_layer = c->m->hp.n_layer,
		                   .n_kv_head = c->m->hp.n_head_kv,
		                   .head_dim = c->m->hp.head_dim,
		                   .type = type,
		                   .window = c->m->hp.window,
		                   .window_period = c->m->hp.window_period,
		                   .step = STEP };
	assert_int_equal(kv_pool_new(&c->kv, &shape, 256 << 20), 0);
	assert_int_equal(pool_new(&c->pool, threads), 0);
	assert_int_equal(exec_new(&c->x, c->m, &counting, c->pool, MAX_ROWS, MAX_ROWS, NULL), 0);
	for (uint32_t i = 0; i < N_SEQS; i++)
		add_seq(c, i);
}

static void crowd_close(struct crowd *c)
{
	for (uint32_t i = 0; i < N_SEQS; i++)
		kv_seq_free(c->s[i].kv);
	exec_free(c->x);
	pool_free(c->pool);
	kv_pool_free(c->kv);
	model_unref(c->m);
}

/* n slices in one step; the logits of slice i are those of sequence of[i] alone. */
static void expect(struct crowd *c, float *const *alone, const uint32_t *of, uint32_t n)
{
	size_t row = c->m->hp.n_vocab;
	const float *logits = NULL;
	struct exec_slice s[N_SEQS];

	for (uint32_t i = 0; i < n; i++)
		s[i] = c->s[of[i]];
	assert_int_equal(step_of(c->x, s, n, &logits, NULL), 0);
	for (uint32_t i = 0; i < n; i++)
		assert_memory_equal(logits + i * row, alone[of[i]], row * sizeof(float));
}

static void check_crowd(const struct ggufgen_tiny *t, enum kv_type type, uint32_t threads)
{
	static const uint32_t all[] = { 0, 1, 2, 3, 4, 5, 6, 7 }, some[] = { 7, 5, 4, 3, 0, 6 };
	float *alone[N_SEQS];
	struct crowd c;

	crowd_open(&c, t, type, threads);
	for (uint32_t i = 0; i < N_SEQS; i++) {
		size_t row = c.m->hp.n_vocab;
		const float *logits = NULL;

		assert_int_equal(step_of(c.x, &c.s[i], 1, &logits, NULL), 0);
		alone[i] = malloc(row * sizeof(float));
		memcpy(alone[i], logits, row * sizeof(float));
	}
	expect(&c, alone, all, N_SEQS);
	expect(&c, alone, some, ARRAY_SIZE(some));
	for (uint32_t i = 0; i < N_SEQS; i++)
		free(alone[i]);
	crowd_close(&c);
}

static void test_same_bits(void **state)
{
	(void)state;
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		for (int type = 0; type < KV_TYPE_COUNT; type++)
			for (uint32_t threads = 1; threads <= 2; threads++)
				check_crowd(&families[f], (enum kv_type)type, threads);
}

/* How often page p of sequence i, in the model's last layer, is read in a step of all, and for how
 * many tokens. */
static void expect_reads(struct crowd *c, uint32_t i, uint32_t p, unsigned times, unsigned tokens)
{
	const struct hparams *hp = &c->m->hp;
	const float *logits = NULL;

	watched = kv_seq_k(c->s[i].kv, p, hp->n_layer - 1, 0);
	times_read = queries_seen = 0;
	assert_int_equal(step_of(c->x, c->s, N_SEQS, &logits, NULL), 0);
	assert_int_equal(times_read, times);
	assert_int_equal(queries_seen, tokens * (hp->n_head / hp->n_head_kv));
}

static void test_read_once(void **state)
{
	struct crowd c;

	(void)state;
	crowd_open(&c, &families[0], KV_F16, 2);
	/* all but the fourth and its heir */
	expect_reads(&c, 0, 0, 1, 6);
	expect_reads(&c, 4, 7, 1, 2);
	/* the second segment: 0, 1, 2 and 5, the others do not have it whole from these */
	expect_reads(&c, 0, 15, 1, 4);
	/* but page by page: */
	expect_reads(&c, 0, 9, 2, 6);
	expect_reads(&c, 3, 15, 1, 2);
	expect_reads(&c, 0, 16, 1, 3);
	/* not whole for anybody but the owner */
	expect_reads(&c, 0, 28, 1, 1);
	crowd_close(&c);
}

/* A window: what is within all of them is read once, what is not is each one's own. */
static void test_windows(void **state)
{
	struct crowd c;

	(void)state;
	crowd_open(&c, &families[1], KV_F16, 2);
	assert_true(c.m->hp.window_period > 0 && c.m->hp.n_layer % c.m->hp.window_period != 0);
	/* positions 899, 900 and 807 see [512, 768) whole */
	expect_reads(&c, 0, 16, 1, 3);
	/* 514 sees [0, 256) whole, 678 and 673 see a part of it, the others nothing */
	expect_reads(&c, 0, 7, 3, 3);
	crowd_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_bits),
		cmocka_unit_test(test_read_once),
		cmocka_unit_test(test_windows),
	};

	if (kernels_init(&kernels, getenv("QLLM_CPU")) < 0)
		return 1;
	counting = kernels;
	counting.attn_page = counting_attn_page;
	return cmocka_run_group_tests_name("attn", tests, NULL, NULL);
}
