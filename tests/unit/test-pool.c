/* pool: every chunk runs once whatever the threads do, idle is silent, stats move. */
#include "base/num.h"
#include "base/pool.h"
#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum { MAX_CHUNKS = 64, MAX_THREADS = 8 };

struct work {
	atomic_uint ran[MAX_CHUNKS];            /* times each chunk ran */
	atomic_uint busy[MAX_THREADS];          /* chunks running under each thread index */
	/* written by workers, read by the owner: for the race detector */
	uint32_t plain[MAX_CHUNKS];
	uint32_t n_chunks, phase, spin;
	atomic_uint bad;
};

static void work_chunk(void *arg, uint32_t i, uint32_t thread)
{
	struct work *w = arg;

	if (i >= w->n_chunks || thread >= MAX_THREADS) {
		atomic_fetch_add(&w->bad, 1);
		return;
	}
	if (atomic_fetch_add(&w->busy[thread], 1) != 0)
		atomic_fetch_add(&w->bad, 1);
	atomic_fetch_add(&w->ran[i], 1);
	w->plain[i] = w->phase;
	for (volatile uint32_t j = 0; j < w->spin; j = j + 1)
		;
	atomic_fetch_sub(&w->busy[thread], 1);
}

static void run_phases(uint32_t n_threads, uint32_t n_phases)
{
	struct pool *p = NULL;
	struct pool_stats stats;
	struct work w = { .n_chunks = 0 };
	uint64_t chunks = 0;
	uint32_t seed = n_threads;

	assert_int_equal(pool_new(&p, n_threads), 0);
	assert_int_equal(pool_threads(p), n_threads);
	for (uint32_t phase = 1; phase <= n_phases; phase++) {
		seed = seed * 1664525 + 1013904223;
		w.n_chunks = seed >> 26;
		w.spin = (seed >> 8 & 63) == 0 ? 2000 : seed >> 16 & 15;
		w.phase = phase;
		for (uint32_t i = 0; i < w.n_chunks; i++)
			atomic_store_explicit(&w.ran[i], 0, memory_order_relaxed);
		pool_run(p, work_chunk, &w, w.n_chunks);
		chunks += w.n_chunks;
		for (uint32_t i = 0; i < w.n_chunks; i++)
			if (atomic_load_explicit(&w.ran[i], memory_order_relaxed) != 1 ||
			    w.plain[i] != phase)
				fail_msg("phase %u chunk %u ran %u times", phase, i,
				         atomic_load(&w.ran[i]));
		if ((seed >> 4 & 4095) == 0)
			usleep(300);            /* long enough for the workers to sleep */
	}
	assert_int_equal(atomic_load(&w.bad), 0);
	pool_stats(p, &stats);
	assert_int_equal(stats.phases, n_phases);
	assert_int_equal(stats.beats, chunks);
	assert_in_range(stats.active, 1, n_threads);
	pool_free(p);
	assert_int_equal(mem_live_blocks(), 0);
}

static void test_every_chunk_runs_once(void **state)
{
	(void)state;
	run_phases(1, 1000);
	run_phases(2, 100000);
	run_phases(3, 20000);
	run_phases(8, 5000);
}

/* Voluntary switches of the pool's threads: each wake-up of a sleeper ends in one. */
static unsigned long worker_switches(void)
{
	unsigned long total = 0;
	struct dirent *entry;
	DIR *dir = opendir("/proc/self/task");

	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		char path[300], line[128], name[32] = "";
		unsigned long n = 0;
		FILE *f;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		f = fopen(path, "re");
		assert_non_null(f);
		while (fgets(line, sizeof(line), f)) {
			sscanf(line, "Name: %31s", name);
			sscanf(line, "voluntary_ctxt_switches: %lu", &n);
		}
		fclose(f);
		if (strcmp(name, "qllm-pool") == 0)
			total += n;
	}
	closedir(dir);
	return total;
}

static void test_idle_makes_no_wakeup(void **state)
{
	struct work w = { .n_chunks = 32 };
	struct pool *p = NULL;
	unsigned long before;

	(void)state;
	assert_int_equal(pool_new(&p, 4), 0);
	for (int i = 0; i < 100; i++)
		pool_run(p, work_chunk, &w, w.n_chunks);
	/* until the last spin is over, however busy the machine */
	do {
		before = worker_switches();
		usleep(50000);
	} while (worker_switches() != before);
	usleep(200000);
	assert_int_equal(worker_switches(), before);
	for (uint32_t i = 0; i < MAX_CHUNKS; i++)
		atomic_store(&w.ran[i], 0);
	pool_run(p, work_chunk, &w, w.n_chunks);        /* and it wakes again */
	for (uint32_t i = 0; i < w.n_chunks; i++)
		assert_int_equal(atomic_load(&w.ran[i]), 1);
	pool_free(p);
}

/* A thread that stands still in a chunk is seen; one that only takes long is not, nor an idle
 * one. */
struct hang {
	atomic_uint held;                       /* index + 1 of the thread that stands still */
	atomic_bool hold, let_go, done;
};

static void hang_chunk(void *arg, uint32_t i, uint32_t thread)
{
	struct hang *h = arg;
	unsigned none = 0;

	(void)i;
	if (thread == 0 || !atomic_load(&h->hold)) {
		usleep(1000);
		return;
	}
	if (atomic_compare_exchange_strong(&h->held, &none, thread + 1))
		while (!atomic_load(&h->let_go))
			usleep(1000);
}

struct hang_owner {
	struct pool *p;
	struct hang *h;
};

static void *hang_owner(void *arg)
{
	struct hang_owner *o = arg;

	beat_busy(pool_beat(o->p));
	while (!atomic_load(&o->h->done))
		pool_run(o->p, hang_chunk, o->h, 16);
	beat_idle(pool_beat(o->p));
	return NULL;
}

static void test_a_hung_thread_is_seen(void **state)
{
	struct hang h = { .held = 0 };
	struct hang_owner o = { .h = &h };
	pthread_t owner;
	int stuck;

	(void)state;
	assert_int_equal(pool_new(&o.p, 3), 0);
	assert_int_equal(pool_stuck(o.p, false), -1);
	assert_int_equal(pool_stuck(o.p, false), -1);   /* idle owes nothing */
	assert_int_equal(pool_stuck(o.p, true), -1);    /* it may not have seen its work yet */
	assert_int_equal(pool_stuck(o.p, true), 0);
	assert_int_equal(pool_stuck(o.p, false), -1);
	assert_int_equal(pthread_create(&owner, NULL, hang_owner, &o), 0);
	for (int i = 0; i < 10; i++) {
		usleep(100000);                         /* phases without end, but they move */
		assert_int_equal(pool_stuck(o.p, false), -1);
	}
	atomic_store(&h.hold, true);
	while (!atomic_load(&h.held))
		usleep(1000);
	usleep(100000);                                 /* the others finish what is left */
	(void)pool_stuck(o.p, false);
	usleep(50000);
	stuck = pool_stuck(o.p, false);
	assert_int_equal(stuck, (int)atomic_load(&h.held) - 1);
	assert_int_equal(pool_stuck(o.p, false), stuck);
	atomic_store(&h.let_go, true);
	atomic_store(&h.done, true);
	pthread_join(owner, NULL);
	/* the last to look for chunks may not have had a core yet */
	for (unsigned i = 0; i < 100 && (stuck = pool_stuck(o.p, false)) != -1; i++)
		usleep(50000);
	assert_int_equal(stuck, -1);
	assert_int_equal(pool_stuck(o.p, false), -1);
	pool_free(o.p);
}

static void test_create_destroy(void **state)
{
	struct work w = { .n_chunks = 3 };
	struct pool *p = NULL;

	(void)state;
	assert_int_equal(pool_new(&p, 0), -EINVAL);
	assert_null(p);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(pool_new(&p, 1 + (uint32_t)i % 5), 0);
		if (i & 1)
			pool_run(p, work_chunk, &w, w.n_chunks);
		p = pool_free(p);
		assert_null(p);
	}
	for (unsigned nth = 0; nth < 2; nth++) {
		mem_fault_arm(nth, false);
		assert_int_equal(pool_new(&p, 2), -ENOMEM);
		assert_true(mem_fault_fired());
	}
	assert_int_equal(mem_live_blocks(), 0);
}

/* Every worker's chunk stalls, as if its core were taken: the owner goes on alone, and probes
 * later. */
static void stalled_chunk(void *arg, uint32_t i, uint32_t thread)
{
	(void)i;
	if (thread != 0 && atomic_load((atomic_bool *)arg))
		usleep(4000);
	else
		for (volatile uint32_t j = 0; j < 2000; j = j + 1)
			;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void test_stragglers_drop_threads(void **state)
{
	atomic_bool stalled = true;
	struct pool_stats stats;
	struct pool *p = NULL;
	uint64_t start;

	(void)state;
	assert_int_equal(pool_new(&p, 2), 0);
	start = now_ms();
	do {
		pool_run(p, stalled_chunk, &stalled, 16);
		pool_stats(p, &stats);
	} while (stats.active == 2 && now_ms() - start < 5000);
	assert_int_equal(stats.active, 1);
	assert_true(stats.long_waits >= 3);
	atomic_store(&stalled, false);
	start = now_ms();
	do {
		pool_run(p, stalled_chunk, &stalled, 16);
		pool_stats(p, &stats);
	} while (stats.active == 1 && now_ms() - start < 5000);
	assert_int_equal(stats.active, 2);
	pool_free(p);
}

/* Four long waits at least 40 ms apart; how many threads are left. */
static uint32_t left_by_rare_stalls(void)
{
	atomic_bool stalled = false;
	struct pool_stats stats;
	struct pool *p = NULL;
	uint64_t start = now_ms(), next = start;

	assert_int_equal(pool_new(&p, 2), 0);
	do {
		pool_stats(p, &stats);
		if (now_ms() >= next) {
			atomic_store(&stalled, true);
			next = now_ms() + 40;
		}
		pool_run(p, stalled_chunk, &stalled, 16);
		atomic_store(&stalled, false);
	} while (stats.active == 2 && stats.long_waits < 4 && now_ms() - start < 1000);
	pool_free(p);
	return stats.active;
}

/* A stall now and then, as of a hypervisor that takes a core for a moment, costs less than a
 * thread gives: none is dropped. On a busy machine others' time slices come on top. */
static void test_rare_stalls_drop_none(void **state)
{
	uint32_t left = 0;

	(void)state;
	for (unsigned i = 0; i < 20 && left != 2; i++)
		left = left_by_rare_stalls();
	assert_int_equal(left, 2);
}

static void test_default_threads(void **state)
{
	const char *why = NULL;
	uint32_t n = pool_default_threads(&why);

	(void)state;
	assert_in_range(n, 1, (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
	assert_non_null(why);
}

static void test_default_threads_obey_the_mask(void **state)
{
	cpu_set_t all, one;
	const char *why = NULL;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && CPU_COUNT(&one) == 0)
			CPU_SET(cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(pool_default_threads(&why), 1);
	assert_non_null(strstr(why, "1 CPUs allowed"));
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_chunk_runs_once),
		cmocka_unit_test(test_idle_makes_no_wakeup),
		cmocka_unit_test(test_a_hung_thread_is_seen),
		cmocka_unit_test(test_create_destroy),
		cmocka_unit_test(test_stragglers_drop_threads),
		cmocka_unit_test(test_rare_stalls_drop_none),
		cmocka_unit_test(test_default_threads),
		cmocka_unit_test(test_default_threads_obey_the_mask),
	};

	return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
