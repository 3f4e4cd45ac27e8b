/* window: layers with a sliding window keep its pages only, and nothing shows of that but memory.
 * The reference is an engine whose steps are so long that nothing ever falls behind. Tiny random
 * models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/prefix.h"
#include "tests/unit/engine-jobs.h"

enum { N_CTX = 1536, WINDOW = 40, WIDE = 2048 };

static struct model *load_windowed(uint64_t seed)
{
	const struct ggufgen_tiny t = {
		.arch = "gemma3", .n_ctx = N_CTX, .seed = seed, .n_layer = 7, .window = WINDOW
	};
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_tiny_model(&t);

	if (model_load(&m, fd, "tiny", &err) < 0)
		fail_msg("%s", err.text);
	close(fd);
	return m;
}

static struct engine *engine_of(struct model *m, enum kv_type type, uint64_t budget,
                                uint32_t threads, uint32_t chunk)
{
	const struct engine_config c = { .threads = threads, .budget = budget, .chunk = chunk,
		                         .max_seqs = 8, .guess = GUESS_ALWAYS };
	struct engine *e = NULL;

	assert_int_equal(engine_new(&e, &c, &kernels, NULL), 0);
	assert_int_equal(engine_prepare(e, m, type, NULL), 0);
	return e;
}

static struct job *ask(struct model *m, const int32_t *t, uint32_t n, uint32_t max_tokens)
{
	struct job *j = job_new(m, REQUEST_GENERATE, t, n);

	j->r->max_tokens = max_tokens;
	return j;
}

/* The answer of an engine that keeps everything. */
static struct job *plain(struct engine *wide, struct model *m, const int32_t *t, uint32_t n,
                         uint32_t max_tokens)
{
	struct job *j = ask(m, t, n, max_tokens);

	j->r->no_cache = true;
	run(wide, j);
	return j;
}

static void expect(struct engine *e, const struct job *want, struct job *j, uint32_t cached)
{
	run(e, j);
	assert_same(want, j);
	assert_int_equal(j->result.cached_tokens, cached);
	job_free(j);
}

/* Long and short prompts, found or not, whole or in part, and answers longer than the window. */
static void same_bytes(enum kv_type type)
{
	static const uint32_t lengths[] = { 30, 33, 97, 160, 161, 500, 900 };
	struct model *m = load_windowed(5);
	struct engine *wide = engine_of(m, type, (uint64_t)1 << 30, 2, WIDE),
		      *narrow = engine_of(m, type, (uint64_t)1 << 30, 1, 9);
	int32_t t[900], u[900];

	prompt_fill(t, ARRAY_SIZE(t), 7);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint32_t n = lengths[i], had = i > 0 ? lengths[i - 1] : 0;
		struct job *want = plain(wide, m, t, n, 150);

		expect(narrow, want, ask(m, t, n, 150), MIN(shareable(had), shareable(n)));
		expect(narrow, want, ask(m, t, n, 150), shareable(n));
		job_free(want);
	}
	for (uint32_t at = 50; at < 900; at += 240) {
		struct job *want;

		memcpy(u, t, sizeof(u));
		u[at] = (u[at] + 1) % (int32_t)GGUFGEN_TINY_VOCAB;
		want = plain(wide, m, u, 900, 40);
		expect(narrow, want, ask(m, u, 900, 40), at / KV_PAGE * KV_PAGE);
		job_free(want);
	}
	engine_free(wide);
	engine_free(narrow);
	model_unref(m);
}

static void test_same_bytes(void **state)
{
	(void)state;
	for (int type = 0; type < KV_TYPE_COUNT; type++)
		same_bytes((enum kv_type)type);
}

/* Guesses that hold and guesses that do not, of quotations and of a draft model with windows. */
static void test_speculation(void **state)
{
	(void)state;
	for (int type = 0; type < KV_TYPE_COUNT; type++) {
		struct model *m = load_windowed(5), *d = load_windowed(6);
		struct engine *wide = engine_of(m, (enum kv_type)type, (uint64_t)1 << 30, 2, WIDE),
			      *e = engine_of(m, (enum kv_type)type, (uint64_t)1 << 30, 2, 9);
		int32_t t[400];
		struct job *want, *j;

		prompt_fill(t, 200, 8);
		memcpy(t + 200, t, 200 * sizeof(*t));
		want = plain(wide, m, t, 400, 300);
		j = ask(m, t, 400, 300);
		j->r->lookup = true;
		run(e, j);
		assert_same(want, j);
		assert_true(j->result.draft_tokens > j->result.draft_accepted);
		job_free(j);
		/* itself, which is right nearly always, and one that is not */
		for (unsigned i = 0; i < 2; i++) {
			j = ask(m, t, 400, 300);
			j->r->draft = model_ref(i ? d : m);
			run(e, j);
			assert_same(want, j);
			assert_true(j->result.draft_tokens > 50);
			job_free(j);
		}
		job_free(want);
		engine_free(wide);
		engine_free(e);
		model_unref(m);
		model_unref(d);
	}
}

/* Many at once that share beginnings, in memory for two or three of them: preempted, found again,
 * window pages of the tree evicted before their nodes. */
static void test_tight(void **state)
{
	enum { N = 12 };
	struct model *m = load_windowed(5);
	struct engine *wide = engine_of(m, KV_F16, (uint64_t)1 << 30, 2, WIDE), *tight;
	struct engine_stats st;
	struct job *want[N], *j[N];
	uint32_t cached = 0, n[N];
	int32_t t[N][600];

	(void)state;
	tight = engine_of(m, KV_F16, budget_of(m, 16, 8, 14), 2, 16);
	for (uint32_t i = 0; i < N; i++) {
		prompt_fill(t[i], 600, i);
		prompt_fill(t[i], 100 + i % 4 * 120, 100);
		/* every other one begins short and grows */
		n[i] = i % 2 ? 300 + i * 25 : 40 + i;
		want[i] = plain(wide, m, t[i], n[i], i % 2 ? 60 + i * 9 : 300);
	}
	for (unsigned round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < N; i++) {
			j[i] = ask(m, t[i], n[i], i % 2 ? 60 + i * 9 : 300);
			j[i]->r->client = i;
			j[i]->r->lookup = i % 3 == 0;
			submit(tight, j[i]);
		}
		for (uint32_t i = 0; i < N; i++) {
			wait_done(j[i]);
			assert_same(want[i], j[i]);
			cached += j[i]->result.cached_tokens;
			job_free(j[i]);
		}
	}
	engine_stats(tight, &st);
	assert_true(st.preemptions > 0);
	assert_true(cached > 0);
	for (uint32_t i = 0; i < N; i++)
		job_free(want[i]);
	engine_free(wide);
	engine_free(tight);
	model_unref(m);
}

/* What a long request takes, that all of it comes back, and that the budget counts so: a context is
 * offered that would not fit with all pages. */
static void test_memory(void **state)
{
	const struct kv_shape shape = { 7, 2, 16, KV_F16, WINDOW, 6, 64 };
	struct model *m = load_windowed(5);
	uint64_t budget = budget_of(m, 16, 8, 10);
	struct engine *e = engine_of(m, KV_F16, budget, 2, 16);
	struct engine_model_stats ms;
	struct sched_use use[2];
	struct kv_sizes z;
	uint64_t idle_bytes;
	struct job *j;
	int32_t t[1200];

	(void)state;
	assert_int_equal(m->hp.n_head_kv, 2);
	assert_int_equal(m->hp.head_dim, 16);
	assert_true(kv_sizes_of(&shape, &z));
	/* 10 pages of 7 layers: 5 of 6 windowed layers, 40 of the other */
	assert_int_equal(engine_context(e, m), 40 * KV_PAGE);
	engine_model_stats(e, m, &ms);
	idle_bytes = ms.bytes;
	prompt_fill(t, 1200, 3);
	j = ask(m, t, 1200, 80);
	j->credit = 70;
	submit(e, j);
	while (j->refused == 0)
		usleep(1000);
	assert_int_equal(engine_prepare(e, m, KV_F16, NULL), 0);
	assert_int_equal(engine_uses(e, use, 2), 1);
	assert_int_equal(use[0].bytes, kv_sizes_bytes(&z, 1200 + 70));
	engine_model_stats(e, m, &ms);
	assert_int_equal(ms.bytes, idle_bytes + kv_sizes_bytes(&z, 1200 + 70));
	assert_true(kv_sizes_bytes(&z, 1270) < 1270 / KV_PAGE * kv_sizes_page(&z) / 2);
	j->credit = -1;
	engine_wake(e);
	wait_done(j);
	job_free(j);
	assert_int_equal(engine_prepare(e, m, KV_F16, NULL), 0);
	engine_model_stats(e, m, &ms);
	assert_int_equal(ms.bytes, idle_bytes);
	engine_free(e);
	model_unref(m);
}

/* A node without its window page is no place to go on from, but a step on the way; who computes it
 * again gives it back. */
static void test_tree(void **state)
{
	static const struct kv_shape shape = { 2, 1, 16, KV_F16, 32, 2, 64 };
	enum { PAGE = 16 * KV_PAGE * 2 * 2 };
	struct prefix_node *root, *a, *b;
	struct kv_seq *s = NULL;
	struct kv_pool *kv = NULL;
	struct prefix *tree = NULL;
	uint64_t clock = 0;
	int32_t t[2 * KV_PAGE];

	(void)state;
	prompt_fill(t, ARRAY_SIZE(t), 1);
	assert_int_equal(kv_pool_new(&kv, &shape, 1 << 20), 0);
	assert_int_equal(prefix_new(&tree, kv, &clock), 0);
	assert_int_equal(kv_seq_new(&s, kv), 0);
	assert_int_equal(kv_seq_reserve(s, 2 * KV_PAGE), 0);
	assert_int_equal(prefix_enter(tree, 1, &root), 0);
	assert_int_equal(prefix_add(tree, root, t, kv_seq_page(s, KV_GLOBAL, 0),
	                            kv_seq_page(s, KV_WINDOW, 0), &a), 0);
	assert_int_equal(prefix_add(tree, a, t + KV_PAGE, kv_seq_page(s, KV_GLOBAL, 1),
	                            kv_seq_page(s, KV_WINDOW, 1), &b), 0);
	assert_int_equal(prefix_idle_bytes(tree), 0);
	/* the window passes the first page: that is idle, its node is not, and it goes first */
	prefix_drop_windows(tree, b, 0, 1);
	kv_seq_drop(s, 1);
	assert_int_equal(prefix_idle_bytes(tree), PAGE);
	prefix_evict(tree);
	assert_null(prefix_window(a));
	assert_int_equal(prefix_idle_bytes(tree), 0);
	assert_int_equal(kv_pool_used(kv), 3 * PAGE);
	prefix_hold_window(tree, a, kv_seq_page(s, KV_WINDOW, 1));
	assert_int_equal(prefix_shared_bytes(tree), 0);
	prefix_hold_window(tree, a, NULL);
	assert_int_equal(prefix_shared_bytes(tree), PAGE);
	prefix_drop_windows(tree, a, 0, 1);
	assert_int_equal(prefix_shared_bytes(tree), 0);
	assert_int_equal(prefix_idle_bytes(tree), 0);
	prefix_leave(tree, b, 0);
	kv_seq_free(s);
	assert_int_equal(prefix_idle_bytes(tree), 4 * PAGE);
	prefix_free(tree);
	assert_int_equal(kv_pool_used(kv), 0);
	kv_pool_free(kv);
}

/* Whatever fails ends one request at most, and the tree's pages stay good. */
static void test_allocations_may_fail(void **state)
{
	struct model *m = load_windowed(5);
	struct engine *wide = engine_of(m, KV_F16, (uint64_t)1 << 30, 2, WIDE),
		      *e = engine_of(m, KV_F16, budget_of(m, 16, 4, 12), 2, 16);
	uint32_t good = 0, bad = 0;
	struct job *want;
	int32_t t[400];
	uint64_t nth;

	(void)state;
	prompt_fill(t, 400, 3);
	want = plain(wide, m, t, 400, 50);
	for (nth = 0; nth < 2000; nth++) {
		struct job *j = ask(m, t, 400, 50);
		bool fired;

		j->r->share = nth % 2;          /* two trees, each evicted for the other */
		mem_fault_arm(nth, false);
		if (engine_submit(e, j->r, NULL) == 0)
			wait_done(j);
		else
			j->result.finish = FINISH_ERROR;
		fired = mem_fault_fired();
		if (j->result.finish == FINISH_ERROR) {
			assert_true(fired);
			bad++;
		} else {
			assert_same(want, j);
			good += fired;
		}
		job_free(j);
		if (!fired)
			break;
	}
	assert_true(nth < 2000);
	assert_true(good > 0 && bad > 2);
	job_free(want);
	engine_free(wide);
	engine_free(e);
	model_unref(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tree),
		cmocka_unit_test(test_same_bytes),
		cmocka_unit_test(test_speculation),
		cmocka_unit_test(test_tight),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_allocations_may_fail),
	};

	int64_t live;
	int failed;

	if (!setup())
		return 1;
	live = mem_live_blocks();
	failed = cmocka_run_group_tests_name("window", tests, NULL, NULL);
	if (failed == 0 && mem_live_blocks() != live) {
		fprintf(stderr, "%lld blocks of memory were not freed\n",
		        (long long)(mem_live_blocks() - live));
		return 1;
	}
	return failed;
}
