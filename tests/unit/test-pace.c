/* pace: work grows with position and logits as the shape says; steps settle at the target on any
 * machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>
#include "base/num.h"
#include "engine/pace.h"

static const struct hparams plain = {
	.n_vocab = 50000,
	.n_embd = 512,
	.n_layer = 10,
	.n_head = 8,
	.n_head_kv = 4,
	.head_dim = 64,
	.n_ff = 2048,
};

static void test_work(void **state)
{
	struct hparams hp = plain;
	struct pace p;
	double far, logits;

	(void)state;
	pace_init(&p, &hp);
	assert_true(pace_row(&p, 0, false) > 1 && pace_row(&p, 0, false) < 1.01);
	far = pace_row(&p, 8000, false);
	assert_true(far > 3 && far < 10);
	logits = pace_row(&p, 0, true) - pace_row(&p, 0, false);
	assert_true(fabs(logits - 50000.0 * 512 / (10 * (512.0 * 1536 + 3.0 * 512 * 2048))) < 1e-9);
	hp.window = 512;
	assert_true(pace_row(&p, 8000, false) == pace_row(&p, 511, false));
	hp.window_period = 5;           /* 2 of 10 layers see everything */
	assert_true(fabs(pace_row(&p, 8000, false) - 1 -
	                 (far - 1) * (8001 * 2 + 512 * 8) / (8001 * 10)) < 1e-9);
}

static const double TIMES = 2.5;        /* what an exact row takes beside a prompt row */

/* A machine that takes base + unit * work; returns the step it settles at, *worst the longest on
 * the way once all kinds of steps were seen. */
static double settle(double base, double unit, bool base_known, uint32_t *pos, double *worst)
{
	struct pace p;
	double seconds = 0;

	pace_init(&p, &plain);
	*worst = 0;
	if (base_known)
		pace_learn_rows(&p, 4, base);
	for (unsigned i = 0; i < 60; i++) {
		double budget = pace_budget(&p, 4, 0.1, 1), thought = 0, work[EXEC_PATHS] = { 0 };
		enum exec_path path = i % 7 < 5 ? PATH_PROMPT : PATH_EXACT;
		uint32_t n = 0;

		for (;;) {
			double row = pace_row(&p, *pos + n, false),
			       row_s = pace_seconds(&p, path, row);

			if (n >= 2 && (n == 128 || row_s == 0 || thought + row_s > budget))
				break;
			work[path] += row;
			thought += row_s;
			n++;
			/* of some steps the rest is the end of a prompt */
			if (i % 7 == 4 && n == 16)
				path = PATH_EXACT;
		}
		*pos += n;
		seconds = base + unit * (work[PATH_PROMPT] + TIMES * work[PATH_EXACT]);
		if (i > 6)
			*worst = fmax(*worst, seconds);
		pace_learn(&p, 4, work, false, seconds);
	}
	return seconds;
}

static void test_settles(void **state)
{
	static const double units[] = { 0.001, 0.003, 0.006 };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(units); i++)
		for (unsigned known = 0; known < 2; known++) {
			uint32_t pos = 0;
			double worst, last = settle(0.01, units[i], known, &pos, &worst);

			if (last < 0.085 || last > 0.105 || worst > 0.13)
				fail_msg("unit %g: settles at %g, at most %g", units[i], last,
				         worst);
		}
}

/* A machine whose decode step takes longer than the target gives prompts as much again, not a
 * trickle. */
static void test_slow_machine(void **state)
{
	uint32_t pos = 0;
	double worst, last = settle(0.4, 0.01, true, &pos, &worst);

	(void)state;
	assert_true(last > 0.7 && last < 0.85 && worst < 0.85);
}

/* Reacts at once to a machine that became slower, forgets an outlier. */
static void test_reacts(void **state)
{
	struct pace p;
	static const double work[EXEC_PATHS] = { [PATH_PROMPT] = 20 };
	double usual;

	(void)state;
	pace_init(&p, &plain);
	assert_true(pace_seconds(&p, PATH_PROMPT, 1) == 0);
	for (unsigned i = 0; i < 20; i++)
		pace_learn(&p, 0, work, false, 0.1);
	usual = pace_seconds(&p, PATH_PROMPT, 20);
	assert_true(fabs(usual - 0.1) < 0.001);
	/* nothing else is known of the others yet */
	assert_true(pace_seconds(&p, PATH_EXACT, 20) == usual);
	pace_learn(&p, 0, work, true, 0.2);
	assert_true(pace_seconds(&p, PATH_PROMPT, 20) == usual);
	pace_learn(&p, 0, work, false, 0.2);
	assert_true(pace_seconds(&p, PATH_PROMPT, 14) > 0.1);
	for (unsigned i = 0; i < 20; i++)
		pace_learn(&p, 0, work, false, 0.1);
	assert_true(fabs(pace_seconds(&p, PATH_PROMPT, 20) - usual) < 0.001);
}

/* Steps of a machine whose kernels do four rows at once, beside others that take cores away. */
static double leaps(uint32_t rows, double speed, uint32_t *seed)
{
	double least = (8.0 + 3 * ((rows + 3) / 4)) / speed;

	*seed = *seed * 1664525 + 1013904223;
	return least * (*seed >> 30 ? 1.02 : 1.0 + (*seed >> 16) % 100 / 25.0);
}

static void test_steps(void **state)
{
	static const uint32_t sizes[] = { 1, 1, 5, 1, 9, 2, 1, 16 };
	struct pace p;
	uint32_t seed = 7;

	(void)state;
	pace_init(&p, &plain);
	assert_true(pace_step_s(&p, 3) == 0);
	pace_learn_rows(&p, 1, 2);
	/* nothing known of more rows: each a part of the first */
	assert_true(pace_step_s(&p, 3) > 2.5 && pace_step_s(&p, 3) < 6);
	for (double speed = 1; speed < 20; speed *= 3) {
		for (unsigned i = 0; i < 400; i++)
			pace_learn_rows(&p, sizes[i % 8], leaps(sizes[i % 8], speed, &seed));
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
			uint32_t rows = sizes[i];
			double want = (8.0 + 3 * ((rows + 3) / 4)) / 11,
			       have = pace_step_s(&p, rows) / pace_step_s(&p, 1);

			if (fabs(have - want) > 0.3 * want)
				fail_msg("%u rows take %g of one at speed %g, not %g", rows, have,
				         speed, want);
		}
	}
	/* steps of one size only, on a machine that becomes a little slower: the others follow */
	for (unsigned i = 0; i < 50; i++)
		pace_learn_rows(&p, 1, 1.2 * 11 / 9);
	assert_true(pace_step_s(&p, 16) > pace_step_s(&p, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_work),
		cmocka_unit_test(test_settles),
		cmocka_unit_test(test_steps),
		cmocka_unit_test(test_slow_machine),
		cmocka_unit_test(test_reacts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
