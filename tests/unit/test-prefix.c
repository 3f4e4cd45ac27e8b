/* prefix: pages of equal prompts are taken, by those who may, and change no answer; the oldest goes
 * first when memory is short; whatever fails, nobody's page is lost or written. Tiny random
 * models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/prefix.h"
#include "tests/unit/engine-jobs.h"

/* === The tree === */
static const struct kv_shape tiny = { .n_layer = 1, .n_kv_head = 1, .head_dim = 16 };
enum { GROVE_PAGE = 16 * KV_PAGE * 2 * 2 };

struct grove {                          /* a pool, its tree, and a sequence with full pages */
	uint64_t clock;
	struct kv_pool *kv;
	struct prefix *tree;
	struct kv_seq *seq;
	int32_t tokens[8 * KV_PAGE];
};

static void grove_init(struct grove *g)
{
	*g = (struct grove){ 0 };
	prompt_fill(g->tokens, ARRAY_SIZE(g->tokens), 1);
	assert_int_equal(kv_pool_new(&g->kv, &tiny, 16 * GROVE_PAGE), 0);
	assert_int_equal(prefix_new(&g->tree, g->kv, &g->clock), 0);
	assert_int_equal(kv_seq_new(&g->seq, g->kv), 0);
	assert_int_equal(kv_seq_reserve(g->seq, 8 * KV_PAGE), 0);
}

static void grove_deinit(struct grove *g)
{
	kv_seq_free(g->seq);
	prefix_free(g->tree);
	assert_int_equal(kv_pool_used(g->kv), 0);
	kv_pool_free(g->kv);
}

/* A way of n pages from the root of the domain, made where it is not there; held. */
static struct prefix_node *go(struct grove *g, int64_t domain, uint32_t n, int32_t last)
{
	struct prefix_node *node, *child;

	assert_int_equal(prefix_enter(g->tree, domain, &node), 0);
	for (uint32_t i = 0; i < n; i++) {
		int32_t tokens[KV_PAGE];

		memcpy(tokens, g->tokens + i * KV_PAGE, sizeof(tokens));
		if (i == n - 1)
			tokens[KV_PAGE - 1] += last;
		child = prefix_find(g->tree, node, tokens);
		if (child)
			prefix_descend(g->tree, child);
		else
			assert_int_equal(prefix_add(g->tree, node, tokens,
			                            kv_seq_page(g->seq, KV_GLOBAL, i), NULL,
			                            &child), 0);
		assert_int_equal(prefix_depth(child), i + 1);
		node = child;
	}
	return node;
}

static void test_tree_finds_by_all_tokens(void **state)
{
	struct grove g;
	struct prefix_node *a, *b, *other, *root;

	(void)state;
	grove_init(&g);
	a = go(&g, 1, 3, 0);
	b = go(&g, 1, 3, 0);
	assert_ptr_equal(a, b);
	assert_ptr_equal(prefix_page(a), kv_seq_page(g.seq, KV_GLOBAL, 2));
	assert_int_equal(prefix_pages(g.tree), 3);
	assert_int_equal(prefix_idle_bytes(g.tree), 0);
	/* one token of the last page differs; the same tokens elsewhere; another domain */
	other = go(&g, 1, 3, 1);
	assert_ptr_not_equal(other, a);
	assert_int_equal(prefix_pages(g.tree), 4);
	assert_null(prefix_find(g.tree, other, g.tokens));
	assert_null(prefix_root(g.tree, 2));
	assert_null(prefix_root(g.tree, PREFIX_SHARED));
	root = prefix_root(g.tree, 1);
	assert_non_null(prefix_find(g.tree, root, g.tokens));
	/* marks count a page once */
	assert_int_equal(prefix_mark(a, 1), 3);
	assert_int_equal(prefix_mark(other, 1), 1);
	assert_int_equal(prefix_mark(b, 2), 3);
	assert_int_equal(prefix_mark(NULL, 2), 0);
	prefix_leave(g.tree, a, 0);
	assert_int_equal(prefix_idle_bytes(g.tree), 0);
	prefix_leave(g.tree, b, 0);
	assert_int_equal(prefix_idle_bytes(g.tree), GROVE_PAGE);
	prefix_leave(g.tree, other, 0);
	assert_int_equal(prefix_idle_bytes(g.tree), 4 * GROVE_PAGE);
	grove_deinit(&g);
}

static void test_oldest_goes_first(void **state)
{
	struct grove g;
	struct prefix_node *a, *b, *c;
	uint64_t used, last = 0;

	(void)state;
	grove_init(&g);
	a = go(&g, 1, 4, 0);
	b = go(&g, 1, 3, 1);
	c = go(&g, 2, 2, 0);
	assert_false(prefix_oldest(g.tree, &used));
	prefix_leave(g.tree, b, 0);                /* its last page; the two above are a's too */
	prefix_leave(g.tree, a, 0);
	prefix_leave(g.tree, c, 0);
	assert_int_equal(prefix_idle_bytes(g.tree), 7 * GROVE_PAGE);
	/* a is used again: b's page, then c's, then a's from the end */
	prefix_leave(g.tree, go(&g, 1, 4, 0), 0);
	for (uint32_t left = 7; left-- > 0;) {
		assert_true(prefix_oldest(g.tree, &used));
		assert_true(used >= last);
		last = used;
		prefix_evict(g.tree);
		assert_int_equal(prefix_pages(g.tree), left);
		assert_true(left >= 4 || !prefix_root(g.tree, 2));
		if (left > 0 && left < 4) {
			struct prefix_node *n = prefix_root(g.tree, 1);

			for (uint32_t i = 0; i < left; i++)
				n = prefix_find(g.tree, n, g.tokens + i * KV_PAGE);
			assert_non_null(n);
			assert_null(prefix_find(g.tree, n, g.tokens + left * KV_PAGE));
		}
	}
	assert_null(prefix_root(g.tree, 1));
	grove_deinit(&g);
}

static void test_tree_without_memory(void **state)
{
	(void)state;
	for (uint64_t nth = 0;; nth++) {
		struct grove g;
		struct prefix_node *node = NULL, *child;
		bool fired;
		int r;

		grove_init(&g);
		mem_fault_arm(nth, false);
		r = prefix_enter(g.tree, 5, &node);
		for (uint32_t i = 0; r == 0 && i < 5; i++) {
			r = prefix_add(g.tree, node, g.tokens + i * KV_PAGE,
			               kv_seq_page(g.seq, KV_GLOBAL, i), NULL, &child);
			if (r == 0)
				node = child;
		}
		fired = mem_fault_fired();
		assert_int_equal(r, fired ? -ENOMEM : 0);
		prefix_leave(g.tree, node, 0);
		assert_int_equal(prefix_idle_bytes(g.tree), prefix_pages(g.tree) * GROVE_PAGE);
		grove_deinit(&g);
		if (!fired) {
			assert_true(nth >= 12);
			return;
		}
	}
}

/* === Requests === */
static struct job *ask(struct model *m, const int32_t *t, uint32_t n, uint32_t uid)
{
	struct job *j = job_new(m, REQUEST_GENERATE, t, n);

	j->r->max_tokens = 40;
	j->r->uid = uid;
	return j;
}

/* The answer without any cache. */
static struct job *plain(struct engine *e, struct model *m, const int32_t *t, uint32_t n)
{
	struct job *j = ask(m, t, n, 0);

	j->r->no_cache = true;
	run(e, j);
	assert_int_equal(j->result.cached_tokens, 0);
	return j;
}

static void expect(struct engine *e, struct job *want, struct job *j, uint32_t cached)
{
	run(e, j);
	assert_same(want, j);
	assert_int_equal(j->result.cached_tokens, cached);
	job_free(j);
}

static struct engine *engine_threads(uint64_t budget, uint32_t threads, uint32_t chunk)
{
	const struct engine_config c = {
		.threads = threads, .budget = budget, .chunk = chunk, .max_seqs = 8
	};
	struct engine *e = NULL;

	assert_int_equal(engine_new(&e, &c, &kernels, NULL), 0);
	return e;
}

static uint64_t computed(struct engine *e)
{
	struct engine_stats st;

	engine_stats(e, &st);
	return st.prompt_tokens;
}

/* Numbers of pages as of now: the engine's thread has come by. */
static struct engine_model_stats pages(struct engine *e, struct model *m)
{
	struct engine_model_stats ms;

	assert_int_equal(engine_prepare(e, m, KV_F16, NULL), 0);
	engine_model_stats(e, m, &ms);
	return ms;
}

/* Every length around the borders of pages, twice; then prompts that part from it inside a page,
 * and the first one again: nobody has written into its pages. */
static void hot_is_cold(enum kv_type type)
{
	static const uint32_t lengths[] = { 1, 31, 32, 33, 63, 64, 65, 96, 97, 150, 200 };
	struct model *m = load(3, 512, NULL);
	struct engine *one = engine_threads((uint64_t)1 << 30, 1, 48),
		      *two = engine_threads((uint64_t)1 << 30, 2, 33);
	int32_t t[200], u[200];

	assert_int_equal(engine_prepare(one, m, type, NULL), 0);
	assert_int_equal(engine_prepare(two, m, type, NULL), 0);
	prompt_fill(t, ARRAY_SIZE(t), 5);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		uint32_t n = lengths[i], had = i > 0 ? lengths[i - 1] : 0;
		struct job *want = plain(one, m, t, n);

		had = MIN(shareable(had), shareable(n));
		expect(two, want, ask(m, t, n, 0), had);
		expect(two, want, ask(m, t, n, 0), shareable(n));
		expect(one, want, ask(m, t, n, 0), had);
		job_free(want);
	}
	for (uint32_t at = 20; at < 200; at += 30) {
		struct job *want;

		memcpy(u, t, sizeof(u));
		u[at] = (u[at] + 1) % (int32_t)GGUFGEN_TINY_VOCAB;
		want = plain(one, m, u, 200);
		expect(two, want, ask(m, u, 200, 0), MIN(at / KV_PAGE * KV_PAGE, shareable(200)));
		expect(one, want, ask(m, u, 200, 0), MIN(at / KV_PAGE * KV_PAGE, shareable(200)));
		job_free(want);
		want = plain(two, m, t, 200);
		expect(two, want, ask(m, t, 200, 0), shareable(200));
		job_free(want);
	}
	engine_free(one);
	engine_free(two);
	model_unref(m);
}

static void test_hot_is_cold(void **state)
{
	(void)state;
	for (int type = 0; type < KV_TYPE_COUNT; type++)
		hot_is_cold((enum kv_type)type);
}

/* What was generated is not what the prompt path makes of the same tokens: it is computed anew. */
static void test_answers_are_not_prompts(void **state)
{
	struct model *m = load(3, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 8);
	struct job *first, *want;
	int32_t t[200];

	(void)state;
	prompt_fill(t, 60, 6);
	first = ask(m, t, 60, 0);
	first->r->max_tokens = 100;
	run(e, first);
	memcpy(t + 60, first->id, 100 * sizeof(*t));
	want = plain(e, m, t, 160);
	expect(e, want, ask(m, t, 160, 0), 32);
	expect(e, want, ask(m, t, 160, 0), 128);
	job_free(first);
	job_free(want);
	engine_free(e);
	model_unref(m);
}

static void test_rows_and_scores(void **state)
{
	enum { N = 130 };
	struct model *m = load(5, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 48, 4);
	struct job *rows[2], *scores[2];
	int32_t t[N];

	(void)state;
	prompt_fill(t, N, 9);
	for (unsigned hot = 0; hot < 2; hot++) {
		scores[hot] = job_new(m, REQUEST_SCORE, t, N);
		scores[hot]->r->score_from = 100;
		run(e, scores[hot]);
		rows[hot] = job_new(m, REQUEST_LOGITS, t, N);
		rows[hot]->r->n_prompt = 70;
		run(e, rows[hot]);
	}
	/* rows are wanted of all tokens; scores from the hundredth on */
	assert_int_equal(rows[1]->result.cached_tokens, 0);
	assert_int_equal(scores[0]->result.cached_tokens, 0);
	assert_int_equal(scores[1]->result.cached_tokens, 96);
	assert_int_equal(scores[1]->rows, 30);
	assert_memory_equal(scores[0]->logits, scores[1]->logits, N * sizeof(float));
	assert_memory_equal(rows[0]->logits, rows[1]->logits,
	                    (size_t)N * m->hp.n_vocab * sizeof(float));
	for (unsigned hot = 0; hot < 2; hot++) {
		job_free(rows[hot]);
		job_free(scores[hot]);
	}
	engine_free(e);
	model_unref(m);
}

static void test_uids_share_nothing_unless_told(void **state)
{
	struct model *m = load(3, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 8);
	struct job *want, *j;
	int32_t t[100];

	(void)state;
	prompt_fill(t, 100, 7);
	want = plain(e, m, t, 100);
	expect(e, want, ask(m, t, 100, 1), 0);          /* the plain one left nothing */
	expect(e, want, ask(m, t, 100, 2), 0);
	expect(e, want, ask(m, t, 100, 1), 64);
	expect(e, want, ask(m, t, 100, 2), 64);
	for (uint32_t i = 0; i < 3; i++) {
		j = ask(m, t, 100, 3 + i);
		j->r->share = true;
		expect(e, want, j, i > 0 ? 64 : 0);
	}
	expect(e, want, ask(m, t, 100, 3), 0);          /* now it does not share */
	job_free(want);
	engine_free(e);
	model_unref(m);
}

/* Many with one prefix at once, beside one that decodes, so that chunks are cut small: each page is
 * computed once. Half of them leave early. */
static void test_together(void **state)
{
	enum { SAME = 200, ALL = 230, N = 8 };
	struct model *m = load(2, 2048, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 40, 16);
	struct job *want[N], *j[N], *beside;
	struct engine_stats st;
	int32_t t[ALL];
	uint64_t before;
	uint32_t sum = 0;

	(void)state;
	beside = ask(m, (const int32_t[]){ 1, 2, 3 }, 3, 9);
	beside->r->max_tokens = 0;
	for (uint32_t i = 0; i < N; i++) {
		prompt_fill(t + SAME, ALL - SAME, 100 + i);
		prompt_fill(t, SAME, 1);
		want[i] = plain(e, m, t, ALL);
		j[i] = ask(m, t, ALL, i % 2 ? 1 : 2);
		j[i]->r->share = true;
		j[i]->r->client = i;
	}
	submit(e, beside);
	while (beside->started < 2)
		usleep(100);
	before = computed(e);
	for (uint32_t i = 0; i < N; i++)
		submit(e, j[i]);
	for (uint32_t i = 0; i < N; i++) {
		wait_done(j[i]);
		assert_same(want[i], j[i]);
		sum += ALL - j[i]->result.cached_tokens;
		job_free(j[i]);
	}
	assert_int_equal(computed(e) - before, sum);
	assert_int_equal(sum, SAME / KV_PAGE * KV_PAGE + N * (ALL - SAME / KV_PAGE * KV_PAGE));
	/* Others go on where one that computes for them is cancelled. */
	prompt_fill(t, SAME, 55);
	for (uint32_t i = 0; i < N; i++) {
		job_free(want[i]);
		want[i] = plain(e, m, t, ALL);
		j[i] = ask(m, t, ALL, 1);
	}
	j[0]->r->max_tokens = 0;                /* only its cancel ends it in time */
	for (uint32_t i = 0; i < N; i++)
		submit(e, j[i]);
	atomic_store(&j[0]->r->cancel, true);
	engine_wake(e);
	for (uint32_t i = 0; i < N; i++) {
		wait_done(j[i]);
		if (i > 0)
			assert_same(want[i], j[i]);
		job_free(j[i]);
		job_free(want[i]);
	}
	pages(e, m);
	engine_stats(e, &st);
	assert_int_equal(st.running, 1);
	engine_free(e);
	wait_done(beside);
	job_free(beside);
	model_unref(m);
}

/* 12 pages: what is kept goes before anybody is preempted, and never takes anything away. */
static void test_eviction(void **state)
{
	struct model *m = load(2, 512, NULL);
	struct engine *wide = engine_with((uint64_t)1 << 30, 64, 8),
		      *tight = engine_with(budget_of(m, 64, 8, 12), 64, 8);
	struct engine_model_stats ms;
	struct engine_stats st;
	struct job *want[6];
	int32_t t[6][144];

	(void)state;
	for (uint32_t i = 0; i < 6; i++) {
		prompt_fill(t[i], 144, i);
		want[i] = plain(wide, m, t[i], 144);
	}
	for (uint32_t round = 0; round < 2; round++)
		for (uint32_t i = 0; i < 6; i++) {
			expect(tight, want[i], ask(m, t[i], 144, i % 2), 0);
			expect(tight, want[i], ask(m, t[i], 144, i % 2), 128);
			ms = pages(tight, m);
			assert_int_equal(ms.kv_pages, 0);
			assert_int_equal(ms.kv_cached, round == 0 && i < 2 ? 4 * (i + 1) : 10);
			engine_stats(tight, &st);
			assert_int_equal(st.cached, ms.kv_cached * ((st.budget - st.used) / 12));
		}
	engine_stats(tight, &st);
	assert_int_equal(st.preemptions, 0);
	assert_int_equal(st.cache_hits, 12);
	for (uint32_t i = 0; i < 6; i++)
		job_free(want[i]);
	/* Company that does not fit: preempted ones find their prompts again, or compute them. */
	for (uint32_t i = 0; i < 6; i++) {
		struct job *a = ask(m, t[i], 144, i % 2), *b = ask(m, t[(i + 1) % 6], 100, 0);
		struct job *want_a, *want_b;

		a->r->max_tokens = b->r->max_tokens = 150;
		submit(tight, a);
		submit(tight, b);
		want_a = ask(m, t[i], 144, 0);
		want_b = ask(m, t[(i + 1) % 6], 100, 0);
		want_a->r->max_tokens = want_b->r->max_tokens = 150;
		want_a->r->no_cache = want_b->r->no_cache = true;
		run(wide, want_a);
		run(wide, want_b);
		wait_done(a);
		wait_done(b);
		assert_same(want_a, a);
		assert_same(want_b, b);
		assert_true(a->result.cached_tokens <= 128 && b->result.cached_tokens <= 96);
		job_free(a);
		job_free(b);
		job_free(want_a);
		job_free(want_b);
	}
	engine_stats(tight, &st);
	assert_true(st.preemptions > 0);
	engine_free(wide);
	engine_free(tight);
	model_unref(m);
}

/* Of pages that several requests of a uid use it pays for one: all run at once below a limit that
 * would hold two of them apart. */
static void test_charges(void **state)
{
	enum { N = 4 };
	struct model *m = load(2, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 8);
	struct footprint fp;
	struct engine_stats st;
	struct sched_use use[2 * N];
	struct job *j[2 * N];
	uint64_t bytes[2] = { 0 };
	int32_t t[112];

	(void)state;
	model_footprint(&m->hp, 0, 1, 1, KV_F16, &fp);
	prompt_fill(t, 112, 8);
	j[0] = ask(m, t, 112, 1);
	run(e, j[0]);
	job_free(j[0]);
	for (uint32_t i = 0; i < N; i++) {
		j[i] = ask(m, t, 112, 1);
		j[i]->r->kv_max = 9 * fp.kv_page;
		j[i]->r->max_tokens = 16;
		j[i]->r->client = i;
		j[i]->credit = 1;               /* then it is parked, with its pages */
		submit(e, j[i]);
	}
	for (uint32_t i = 0; i < N; i++)
		while (j[i]->refused == 0)
			usleep(1000);
	pages(e, m);
	engine_stats(e, &st);
	assert_int_equal(st.parked, N);
	assert_int_equal(st.waiting, 0);
	assert_int_equal(engine_uses(e, use, N), N);
	for (uint32_t i = 0; i < N; i++)
		bytes[0] += use[i].bytes;
	assert_int_equal(bytes[0], (3 + N) * fp.kv_page);
	assert_int_equal(pages(e, m).kv_pages, 3 + N);
	for (uint32_t i = 0; i < N; i++) {
		j[i]->credit = -1;
		engine_wake(e);
	}
	for (uint32_t i = 0; i < N; i++) {
		wait_done(j[i]);
		job_free(j[i]);
	}
	/* Where uids share, each pays for what it uses. */
	for (uint32_t i = 0; i < N; i++) {
		j[i] = ask(m, t, 112, 1 + i % 2);
		j[i]->r->share = true;
		j[i]->r->client = i;
		j[i]->credit = 1;
		submit(e, j[i]);
	}
	for (uint32_t i = 0; i < N; i++)
		while (j[i]->refused == 0)
			usleep(1000);
	assert_int_equal(pages(e, m).kv_pages, 3 + N);
	assert_int_equal(engine_uses(e, use, N), N);
	bytes[0] = 0;
	for (uint32_t i = 0; i < N; i++)
		bytes[use[i].uid - 1] += use[i].bytes;
	assert_int_equal(bytes[0], 5 * fp.kv_page);
	assert_int_equal(bytes[1], 5 * fp.kv_page);
	engine_free(e);
	for (uint32_t i = 0; i < N; i++) {
		wait_done(j[i]);
		job_free(j[i]);
	}
	model_unref(m);
}

/* Whatever fails in a request that finds pages and leaves more, the pages stay good. */
static void test_every_allocation_may_fail(void **state)
{
	struct model *m = load(1, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 4);
	int32_t t[144];
	struct job *want, *again;
	uint32_t found = 0, ended_badly = 0;
	uint64_t nth;

	(void)state;
	prompt_fill(t, 144, 3);
	want = plain(e, m, t, 144);
	again = ask(m, t, 80, 0);
	run(e, again);
	job_free(again);
	for (nth = 0; nth < 2000; nth++) {
		/* the first 64 tokens were seen, the rest only in the last round */
		struct job *j;
		bool fired;

		t[100] = (t[100] + 1) % (int32_t)GGUFGEN_TINY_VOCAB;
		job_free(want);
		want = plain(e, m, t, 144);
		j = ask(m, t, 144, 0);
		mem_fault_arm(nth, false);
		if (engine_submit(e, j->r, NULL) == 0)
			wait_done(j);
		else
			j->result.finish = FINISH_ERROR;
		fired = mem_fault_fired();
		if (j->result.finish == FINISH_ERROR) {
			assert_true(fired);
			ended_badly++;
		} else {
			assert_same(want, j);
			found += fired && j->result.cached_tokens >= 64;
			expect(e, want, ask(m, t, 144, 0), 128);
		}
		job_free(j);
		if (!fired)
			break;
	}
	assert_true(nth < 2000);
	assert_true(found > 0 && ended_badly > 2);
	job_free(want);
	engine_free(e);
	model_unref(m);
}

static void test_unloading_drops_pages(void **state)
{
	struct model *a = load(7, 512, NULL), *b = load(8, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 4);
	struct engine_model_stats ms;
	struct engine_stats st;
	struct job *want;
	int32_t t[112];

	(void)state;
	prompt_fill(t, 112, 3);
	want = plain(e, a, t, 112);
	expect(e, want, ask(a, t, 112, 0), 0);
	expect(e, want, ask(a, t, 112, 0), 96);
	assert_int_equal(pages(e, a).kv_cached, 3);
	assert_int_equal(engine_forget(e, a), 0);
	pages(e, b);
	engine_model_stats(e, a, &ms);
	engine_stats(e, &st);
	assert_int_equal(ms.kv_cached, 0);
	assert_int_equal(st.cached, 0);
	assert_int_equal(a->refs, 1);
	expect(e, want, ask(a, t, 112, 0), 0);
	job_free(want);
	/* one model's pages are no other's */
	want = plain(e, b, t, 112);
	expect(e, want, ask(b, t, 112, 0), 0);
	job_free(want);
	engine_free(e);
	model_unref(a);
	model_unref(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tree_finds_by_all_tokens),
		cmocka_unit_test(test_oldest_goes_first),
		cmocka_unit_test(test_tree_without_memory),
		cmocka_unit_test(test_hot_is_cold),
		cmocka_unit_test(test_answers_are_not_prompts),
		cmocka_unit_test(test_rows_and_scores),
		cmocka_unit_test(test_uids_share_nothing_unless_told),
		cmocka_unit_test(test_together),
		cmocka_unit_test(test_eviction),
		cmocka_unit_test(test_charges),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_unloading_drops_pages),
	};

	int64_t live;
	int failed;

	if (!setup())
		return 1;
	live = mem_live_blocks();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (failed == 0 && mem_live_blocks() != live) {
		fprintf(stderr, "%lld blocks of memory were not freed\n",
		        (long long)(mem_live_blocks() - live));
		return 1;
	}
	return failed;
}
