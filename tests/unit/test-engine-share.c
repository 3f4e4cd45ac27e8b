/* engine: KV pages between uids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/unit/engine-jobs.h"

/* Two old sequences of one uid fill all pages; a young one of another uid is below its share, so
 * they give way to it, and go on after it as if nothing had been. */
static void test_share_of_pages(void **state)
{
	struct model *m = load(2, 512, NULL);
	struct engine *wide = engine_with((uint64_t)1 << 30, 64, 8), *tight;
	struct job *solo[3], *both[3];
	struct sched_use use[4];
	struct engine_stats st;
	int32_t t[130];

	(void)state;
	tight = engine_with(budget_of(m, 64, 8, 12), 64, 8);
	for (uint32_t i = 0; i < 3; i++) {
		prompt_fill(t, ARRAY_SIZE(t), i);
		solo[i] = job_new(m, REQUEST_GENERATE, t, ARRAY_SIZE(t));
		both[i] = job_new(m, REQUEST_GENERATE, t, ARRAY_SIZE(t));
		solo[i]->r->max_tokens = both[i]->r->max_tokens = i < 2 ? 220 : 40;
		both[i]->r->uid = i < 2 ? 1 : 2;
		both[i]->r->client = i;
		run(wide, solo[i]);
	}
	/* 5 pages each and growing */
	submit(tight, both[0]);
	submit(tight, both[1]);
	do
		engine_stats(tight, &st);
	while (st.decode_tokens < 40);
	submit(tight, both[2]);
	wait_done(both[2]);
	assert_int_not_equal(sem_trywait(&both[0]->done), 0);
	assert_int_not_equal(sem_trywait(&both[1]->done), 0);
	wait_done(both[0]);
	wait_done(both[1]);
	engine_stats(tight, &st);
	assert_true(st.preemptions > 0);
	assert_int_equal(engine_uses(tight, use, ARRAY_SIZE(use)), 0);
	for (uint32_t i = 0; i < 3; i++) {
		assert_same(solo[i], both[i]);
		job_free(solo[i]);
		job_free(both[i]);
	}
	engine_free(wide);
	engine_free(tight);
	model_unref(m);
}

/* A uid's own limit: it ends answers, it queues what does not fit, and a prompt above it is
 * refused. */
static void test_limit_of_pages(void **state)
{
	struct model *m = load(2, 512, NULL);
	struct engine *e = engine_with((uint64_t)1 << 30, 64, 8);
	struct footprint fp;
	struct err err = { 0 };
	struct job *j[4];
	int32_t t[200];

	(void)state;
	model_footprint(&m->hp, 0, 1, 1, KV_F16, &fp);
	prompt_fill(t, ARRAY_SIZE(t), 1);
	for (uint32_t i = 0; i < 4; i++) {
		j[i] = job_new(m, REQUEST_GENERATE, t, 50);
		j[i]->r->uid = 7;
		j[i]->r->client = i;
		j[i]->r->kv_max = 5 * fp.kv_page;
		submit(e, j[i]);
	}
	for (uint32_t i = 0; i < 4; i++) {
		wait_done(j[i]);
		assert_int_equal(j[i]->result.finish, FINISH_LENGTH);
		assert_int_equal(j[i]->n, 5 * KV_PAGE - 50);
		if (i > 0)
			assert_same(j[0], j[i]);
	}
	for (uint32_t i = 0; i < 4; i++)
		job_free(j[i]);
	j[0] = job_new(m, REQUEST_GENERATE, t, 160);
	j[0]->r->kv_max = 5 * fp.kv_page;
	assert_int_equal(engine_submit(e, j[0]->r, &err), -EDQUOT);
	assert_non_null(strstr(err.text, "kv_bytes_per_uid"));
	job_free(j[0]);
	engine_free(e);
	model_unref(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_share_of_pages),
		cmocka_unit_test(test_limit_of_pages),
	};

	if (!setup())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
