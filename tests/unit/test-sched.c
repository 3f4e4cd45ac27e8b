/* sched: uids first, then clients, in decode rows, places, prompt work and pages; and pace's record
 * of decode steps, which says how many rows are fair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/pace.h"
#include "engine/sched.h"

enum { GREEDY = 1000, POLITE = 1001, THIRD = 1002, N = 64 };

static void join(struct sched *s, struct sched_item *it, uint32_t uid, uint64_t client)
{
	assert_int_equal(sched_join(s, it, uid, client, false, 0), 0);
}

static struct sched_item *best_row(struct sched_item *it, unsigned n, const bool *taken)
{
	struct sched_item *best = NULL;

	for (unsigned i = 0; i < n; i++)
		if (!taken[i] && sched_row_before(&it[i], best))
			best = &it[i];
	return best;
}

/* Hand out `rows` among n items; counts[i] grows for who got one. */
static void step(struct sched *s, struct sched_item *it, unsigned n, unsigned rows,
                 unsigned *counts)
{
	bool taken[2 * N] = { false };

	sched_step_begin(s);
	for (unsigned i = 0; i < n; i++)
		sched_ready(&it[i], true);
	for (unsigned k = 0; k < rows; k++) {
		struct sched_item *best = best_row(it, n, taken);

		taken[best - it] = true;
		counts[best - it]++;
		sched_row_taken(s, best);
	}
}

/* A row that was offered and not used counts for nobody. */
static void test_row_given_back(void **state)
{
	struct sched_item a, b;
	struct sched s;

	(void)state;
	sched_init(&s);
	assert_int_equal(sched_join(&s, &a, 1, 1, false, 0), 0);
	assert_int_equal(sched_join(&s, &b, 2, 2, false, 0), 0);
	sched_step_begin(&s);
	sched_ready(&a, true);
	sched_ready(&b, true);
	sched_row_taken(&s, &a);
	assert_true(sched_row_before(&b, &a));
	sched_row_taken(&s, &b);
	sched_row_taken(&s, &b);
	assert_true(sched_row_before(&a, &b));
	sched_row_untaken(&b);
	sched_row_untaken(&b);
	assert_true(sched_row_before(&b, &a));
	sched_leave(&s, &a);
	sched_leave(&s, &b);
}

/* 64 connections of one uid beside one of another: the one has a row in every step, the others take
 * turns in what is left, none twice before all had one. */
static void test_rows_by_uid(void **state)
{
	struct sched_item it[N + 1];
	unsigned counts[N + 1] = { 0 };
	struct sched_step st;
	struct sched s;

	(void)state;
	sched_init(&s);
	for (unsigned i = 0; i < N; i++)
		join(&s, &it[i], GREEDY, i);
	join(&s, &it[N], POLITE, 1);
	for (unsigned k = 0; k < N; k++)
		step(&s, it, N + 1, 3, counts);
	assert_int_equal(counts[N], N);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(counts[i], 2);
	sched_step_of(&s, &st);
	assert_int_equal(st.users, 2);
	assert_int_equal(st.uids, 2);
	assert_int_equal(st.least, 1);
	for (unsigned i = 0; i <= N; i++)
		sched_leave(&s, &it[i]);
	assert_int_equal(mem_live_blocks(), 0);
}

/* Within a uid the clients are level: one with many sequences has no more rows than one with
 * few. */
static void test_rows_by_client(void **state)
{
	struct sched_item it[10];
	unsigned counts[10] = { 0 }, many = 0;
	struct sched s;

	(void)state;
	sched_init(&s);
	for (unsigned i = 0; i < 8; i++)
		join(&s, &it[i], GREEDY, 7);
	join(&s, &it[8], GREEDY, 8);
	join(&s, &it[9], GREEDY, 9);
	for (unsigned k = 0; k < 12; k++)
		step(&s, it, 10, 3, counts);
	for (unsigned i = 0; i < 8; i++)
		many += counts[i];
	assert_int_equal(many, 12);
	assert_int_equal(counts[8], 12);
	assert_int_equal(counts[9], 12);
	for (unsigned i = 0; i < 10; i++)
		sched_leave(&s, &it[i]);
}

/* All places are taken by one uid: another still gets in, up to its own share of them, and goes
 * before what the first has lost pages of. */
static void test_places(void **state)
{
	struct sched_item it[N + 2];
	struct sched s;

	(void)state;
	sched_init(&s);
	for (unsigned i = 0; i < N; i++) {
		join(&s, &it[i], GREEDY, i);
		assert_true(sched_has_place(&s, &it[i], i, N));
		sched_set_running(&it[i], true);
	}
	join(&s, &it[N], GREEDY, N);
	assert_false(sched_has_place(&s, &it[N], N, N));
	it[N].preempted = true;
	join(&s, &it[N + 1], POLITE, 1);
	assert_false(sched_has_place(&s, &it[N], N, N));
	assert_true(sched_has_place(&s, &it[N + 1], N, N));
	assert_true(sched_admit_before(&it[N + 1], &it[N]));
	assert_false(sched_admit_before(&it[N], &it[N + 1]));
	for (unsigned i = 0; i < N + 2; i++)
		sched_leave(&s, &it[i]);
}

/* Prompt work: three uids with 1, 4 and 16 clients get a third each. */
static void test_prompts(void **state)
{
	struct sched_item it[21];
	unsigned served[3] = { 0 };
	struct sched s;

	(void)state;
	sched_init(&s);
	for (unsigned i = 0; i < 21; i++)
		join(&s, &it[i], i < 1 ? POLITE : i < 5 ? THIRD : GREEDY, i);
	for (unsigned k = 0; k < 300; k++) {
		struct sched_item *best = NULL;

		for (unsigned i = 0; i < 21; i++)
			if (sched_prompt_before(&it[i], best))
				best = &it[i];
		sched_charge(&s, best, 32);
		served[best == &it[0] ? 0 : best < &it[5] ? 1 : 2]++;
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(served[i], 100);
	for (unsigned i = 0; i < 21; i++)
		sched_leave(&s, &it[i]);
}

static void test_pages(void **state)
{
	struct sched_item g[2], p, parked;
	struct sched s;

	(void)state;
	sched_init(&s);
	join(&s, &g[0], GREEDY, 1);
	join(&s, &g[1], GREEDY, 2);
	join(&s, &p, POLITE, 3);
	join(&s, &parked, POLITE, 4);
	parked.parked = true;
	sched_weigh_begin(&s);
	sched_weigh(&g[0], 500);
	sched_weigh(&g[1], 300);
	sched_weigh(&p, 100);
	sched_weigh(&parked, 50);
	sched_weigh_end(&s, 1000);
	assert_int_equal(s.share, 500);
	/* the uid above its share gives, whatever its age; the other does not */
	assert_true(sched_cmp_share(&s, &g[0], &p, 100) < 0);
	assert_true(sched_cmp_share(&s, &p, &g[0], 1) > 0);
	assert_int_equal(sched_cmp_share(&s, &g[0], &g[1], 1), 0);
	/* who would come above it, too, takes nothing by it */
	assert_int_equal(sched_cmp_share(&s, &g[0], &p, 400), 0);
	assert_true(sched_victim_before(&s, &parked, &g[1]));
	assert_true(sched_victim_before(&s, &g[1], &g[0]));     /* the younger */
	assert_true(sched_victim_before(&s, &g[0], &p));
	assert_false(sched_victim_before(&s, &p, &g[0]));
	sched_leave(&s, &g[0]);
	sched_leave(&s, &g[1]);
	sched_leave(&s, &p);
	sched_leave(&s, &parked);
	/* a limit of the uid's own */
	assert_int_equal(sched_join(&s, &p, POLITE, 1, false, 150), 0);
	sched_weigh_begin(&s);
	sched_weigh(&p, 100);
	sched_weigh_end(&s, 1000);
	assert_true(sched_below_limit(&p, 50));
	assert_false(sched_below_limit(&p, 51));
	sched_leave(&s, &p);
}

static void test_uses(void **state)
{
	struct sched_item a, b, c;
	struct sched_use use[2];
	struct sched s;

	(void)state;
	sched_init(&s);
	join(&s, &a, GREEDY, 1);
	join(&s, &b, GREEDY, 1);
	join(&s, &c, POLITE, 2);
	b.parked = true;
	for (unsigned twice = 0; twice < 2; twice++) {
		sched_count_begin(&s);
		sched_count(&a, true, 3, 300);
		sched_count(&b, true, 2, 200);
		sched_count(&c, false, 0, 0);
	}
	assert_int_equal(sched_uses(&s, NULL, 0), 2);
	assert_int_equal(sched_uses(&s, use, 2), 2);
	assert_int_equal(use[0].uid, GREEDY);
	assert_int_equal(use[0].running, 1);
	assert_int_equal(use[0].parked, 1);
	assert_int_equal(use[0].pages, 5);
	assert_int_equal(use[0].bytes, 500);
	assert_int_equal(use[1].client, 2);
	assert_int_equal(use[1].waiting, 1);
	sched_leave(&s, &a);
	sched_leave(&s, &b);
	sched_leave(&s, &c);
}

/* Machines that take shared + rows (in units of a row): with two uids and one row of the polite one
 * a fair step has 2 + shared rows, whatever the unit, also when the machine becomes slower. */
static void test_fair_rows(void **state)
{
	static const double shares[] = { 0, 0.5, 4, 20 }, units[] = { 1e-4, 8e-3 };
	static const struct hparams hp = { .n_vocab = 10, .n_embd = 8, .n_layer = 1, .n_head = 1,
		                           .n_head_kv = 1, .head_dim = 8, .n_ff = 8 };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(shares) * ARRAY_SIZE(units); i++) {
		double shared = shares[i / 2], unit = units[i % 2];
		struct pace p;
		uint32_t rows;

		pace_init(&p, &hp);
		assert_int_equal(pace_rows_in(&p, 1), UINT32_MAX);
		for (unsigned k = 0; k < 100; k++)
			pace_learn_rows(&p, k % 2 ? 1 : 64, unit * (shared + (k % 2 ? 1 : 64)));
		rows = pace_rows_in(&p, 2 * pace_rows_s(&p, 1) + unit / 100);
		assert_int_equal(rows, (uint32_t)(2 + shared));
		for (unsigned k = 0; k < 300; k++)
			pace_learn_rows(&p, rows, 3 * unit * (shared + rows));
		/* the one pair in which the machine itself changed counts little */
		rows = pace_rows_in(&p, 2 * pace_rows_s(&p, 1) + unit / 100);
		assert_in_range(rows, (uint32_t)(1 + shared * 7 / 8), (uint32_t)(3 + shared));
	}
}

/* === Shares === */
static void test_shares_by_user_then_client(void **state)
{
	struct sched s;
	struct sched_item it[4], late;
	uint32_t served[4] = { 0 };

	(void)state;
	sched_init(&s);
	/* User 1 has three clients, user 2 one: it gets half of all. */
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(sched_join(&s, &it[i], i < 3 ? 1 : 2, i, false, 0), 0);
	for (uint32_t n = 0; n < 600; n++) {
		uint32_t best = 0;

		for (uint32_t i = 1; i < 4; i++)
			if (sched_prompt_before(&it[i], &it[best]))
				best = i;
		served[best] += 32;
		sched_charge(&s, &it[best], 32);
	}
	assert_int_equal(served[3], 300 * 32);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(served[i], 100 * 32);
	/* One that comes late starts level: it does not catch up what it was not there for. */
	assert_int_equal(sched_join(&s, &late, 3, 0, false, 0), 0);
	memset(served, 0, sizeof(served));
	for (uint32_t n = 0; n < 300; n++) {
		struct sched_item *best = &late;

		for (uint32_t i = 0; i < 4; i++)
			if (sched_prompt_before(&it[i], best))
				best = &it[i];
		served[0] += best == &late;
		sched_charge(&s, best, 32);
	}
	assert_in_range(served[0], 99, 102);
	for (uint32_t i = 0; i < 4; i++)
		sched_leave(&s, &it[i]);
	sched_leave(&s, &late);
	assert_true(list_empty(&s.users));
}

static void test_orders(void **state)
{
	struct sched s;
	struct sched_item a, b, c;

	(void)state;
	sched_init(&s);
	assert_int_equal(sched_join(&s, &a, 1, 1, true, 0), 0);
	assert_int_equal(sched_join(&s, &b, 1, 1, false, 0), 0);
	assert_int_equal(sched_join(&s, &c, 2, 1, false, 0), 0);
	assert_true(sched_prompt_before(&b, &a));               /* interactive first */
	assert_true(sched_admit_before(&b, &a) && !sched_admit_before(&a, &b));
	assert_true(sched_victim_before(&s, &c, &b));               /* youngest */
	sched_set_running(&b, true);
	assert_true(!sched_admit_before(&b, &c));               /* user 2 has none running */
	a.parked = true;
	assert_true(sched_victim_before(&s, &a, &c));
	a.preempted = true;
	assert_true(sched_admit_before(&a, &b));               /* before its uid's others */
	sched_leave(&s, &a);
	sched_leave(&s, &b);
	sched_leave(&s, &c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shares_by_user_then_client),
		cmocka_unit_test(test_orders),
		cmocka_unit_test(test_row_given_back),
		cmocka_unit_test(test_rows_by_uid), cmocka_unit_test(test_rows_by_client),
		cmocka_unit_test(test_places),      cmocka_unit_test(test_prompts),
		cmocka_unit_test(test_pages),       cmocka_unit_test(test_uses),
		cmocka_unit_test(test_fair_rows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
