/* pool - fork-join over chunks with one claim word, one done counter and a futex word for each
 * sleeper.
 *
 * The claim word is epoch << 32 | chunks left. A thread claims by a compare-and-swap that takes one
 * off, and only then reads the phase's function and chunk count: while a claimed chunk is not yet
 * counted as done the phase cannot end, so what it reads cannot change. A late thread that still
 * holds an old value of the word loses the compare-and-swap, since the epoch has moved on.
 *
 * Invariants:
 * 1. fn, arg and n_chunks are written by the owner only while no chunk is claimed and none is left.
 * 2. done counts chunks of the current phase; the phase ends at done == n_chunks.
 * 3. A worker that sleeps has asleep == 1 stored before it looked at the claim word a last time,
 *    and the owner publishes the word before it looks at asleep (both sequentially consistent): one
 *    of the two sees the other, so no wake-up is lost and none is sent to a thread that runs.
 * 4. Workers at or above `active` neither claim nor get woken. With active == 1 the owner computes
 *    alone and publishes nothing.
 *
 * 5. A thread's beat moves before each chunk: a phase lasts as long as it likes, a chunk does not.
 *
 * Straggling: where another process owns a worker's core, each phase may wait for a whole time
 * slice (milliseconds) of that process. A quarter of the threads is dropped when such waits cost
 * more than these threads are worth; a core that a hypervisor takes away now and then costs less,
 * and keeps them. A probe takes one back after a delay that doubles while probes fail. */
#include "base/pool.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "base/num.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

enum {
	CACHE_LINE = 64,
	THREADS_MAX = 1024,
	SPIN_NS = 50 * 1000,
	SPIN_BATCH = 32,                        /* pauses between two looks at the clock */
	LONG_WAIT_NS = 1000 * 1000,
	/* and this many times the mean chunk: not just a big one */
	LONG_WAIT_CHUNKS = 3,
	LONG_WAITS_TO_DROP = 3,
	WINDOW_NS = 100 * 1000 * 1000,          /* within which they must fall */
	PROBE_MIN_NS = 100 * 1000 * 1000,
	PROBE_MAX_NS = 1000 * 1000 * 1000,
};

struct worker {
	alignas(CACHE_LINE) atomic_uint asleep; /* futex word */
	struct pool *pool;
	uint32_t index;
	pthread_t thread;
	alignas(CACHE_LINE) struct beat beat;
	struct beat_watch watch;
};

struct pool {
	alignas(CACHE_LINE) atomic_uint_least64_t claim;
	atomic_uint active;
	atomic_bool stop;
	pool_fn fn;
	void *arg;
	uint32_t n_chunks;
	alignas(CACHE_LINE) atomic_uint done;   /* futex word of the owner */
	atomic_uint owner_asleep;
	/* Owner only, but for the atomics, which pool_stats reads. */
	alignas(CACHE_LINE) uint32_t n_threads, epoch, n_started;
	/* long waits since window_start, which is when the first of them began, and their sum */
	uint32_t recent_long;
	uint64_t window_start, waited, probe_at, probe_delay;
	atomic_uint_least64_t phases, long_waits, beats;
	struct beat beat;
	struct beat_watch watch;
	struct worker *workers;                 /* [n_threads - 1], indexes 1.. */
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

static void futex_wait(atomic_uint *word, unsigned value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static inline uint32_t chunks_left(uint64_t claim)
{
	return (uint32_t)claim;
}

/* Claim and run chunks until none is left; returns how many. */
static uint32_t run_chunks(struct pool *p, uint32_t thread, struct beat *beat)
{
	uint64_t claim = atomic_load_explicit(&p->claim, memory_order_acquire);
	uint32_t ran = 0;

	while (chunks_left(claim) > 0) {
		if (!atomic_compare_exchange_weak_explicit(&p->claim, &claim, claim - 1,
		                                           memory_order_acq_rel,
		                                           memory_order_acquire))
			continue;
		beat_move(beat);
		p->fn(p->arg, p->n_chunks - chunks_left(claim), thread);
		ran++;
		claim = atomic_load_explicit(&p->claim, memory_order_acquire);
	}
	return ran;
}

/* The phase is held open by what `ran` counts until the addition, so n_chunks is read before it. */
static void report_done(struct pool *p, uint32_t ran)
{
	uint32_t n = p->n_chunks;

	if (atomic_fetch_add(&p->done, ran) + ran == n && atomic_load(&p->owner_asleep))
		futex_wake(&p->done);
}

static bool has_work(const struct worker *w)
{
	return atomic_load(&w->pool->stop) || (chunks_left(atomic_load(&w->pool->claim)) > 0 &&
	                                       w->index < atomic_load(&w->pool->active));
}

static void worker_sleep(struct worker *w)
{
	atomic_store(&w->asleep, 1);
	while (!has_work(w) && atomic_load(&w->asleep))
		futex_wait(&w->asleep, 1);
	atomic_store(&w->asleep, 0);
}

/* Spin at first: while a model computes, the next phase is a few microseconds away. */
static void worker_wait(struct worker *w)
{
	uint64_t start = now_ns();

	while (w->index < atomic_load_explicit(&w->pool->active, memory_order_relaxed)) {
		for (unsigned i = 0; i < SPIN_BATCH; i++) {
			if (chunks_left(atomic_load_explicit(&w->pool->claim,
			                                     memory_order_relaxed)) > 0 ||
			    atomic_load_explicit(&w->pool->stop, memory_order_relaxed))
				return;
			relax();
		}
		if (now_ns() - start > SPIN_NS)
			break;
	}
	worker_sleep(w);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;

	for (;;) {
		worker_wait(w);
		if (atomic_load_explicit(&p->stop, memory_order_relaxed))
			return NULL;
		if (w->index < atomic_load_explicit(&p->active, memory_order_relaxed)) {
			uint32_t ran;

			beat_busy(&w->beat);
			ran = run_chunks(p, w->index, &w->beat);
			if (ran > 0)
				report_done(p, ran);
			beat_idle(&w->beat);
		}
	}
}

static void wake_worker(struct worker *w)
{
	if (atomic_load(&w->asleep) && atomic_exchange(&w->asleep, 0))
		futex_wake(&w->asleep);
}

static void owner_wait(struct pool *p, uint32_t n_chunks, uint64_t since)
{
	uint32_t done;

	do {
		for (unsigned i = 0; i < SPIN_BATCH; i++) {
			if (atomic_load_explicit(&p->done, memory_order_acquire) == n_chunks)
				return;
			relax();
		}
	} while (now_ns() - since < SPIN_NS);
	atomic_store(&p->owner_asleep, 1);
	while ((done = atomic_load(&p->done)) != n_chunks)
		futex_wait(&p->done, done);
	atomic_store_explicit(&p->owner_asleep, 0, memory_order_relaxed);
}

static void set_active(struct pool *p, uint32_t active)
{
	atomic_store_explicit(&p->active, active, memory_order_relaxed);
}

/* Do waits of `waited` ns in the last `elapsed` cost more than `drop` of `active` threads give?
 * Memory is shared, so they give less than their share; two thirds are a middle. */
static bool costs_more(uint64_t waited, uint64_t elapsed, uint32_t drop, uint32_t active)
{
	return (double)waited * active > (double)elapsed * drop * (2.0 / 3.0);
}

/* A phase just ended `wait` ns after the owner ran out of chunks at a mean of `chunk` ns each. */
static void watch_straggler(struct pool *p, uint64_t now, uint64_t wait, uint64_t chunk)
{
	uint32_t active = atomic_load_explicit(&p->active, memory_order_relaxed);
	uint32_t drop = MAX(active / 4, 1u);

	if (wait < LONG_WAIT_NS || chunk == 0 || wait < LONG_WAIT_CHUNKS * chunk)
		return;
	atomic_fetch_add_explicit(&p->long_waits, 1, memory_order_relaxed);
	if (p->recent_long == 0 || now - p->window_start > WINDOW_NS) {
		p->window_start = now - wait;
		p->waited = 0;
		p->recent_long = 0;
	}
	p->waited += wait;
	if (++p->recent_long < LONG_WAITS_TO_DROP ||
	    !costs_more(p->waited, now - p->window_start, drop, active))
		return;
	/* A probe that fails right away doubles the delay; a long good time forgets it. */
	p->probe_delay = p->probe_at && now - p->probe_at < 2 * PROBE_MAX_NS
		? MIN(p->probe_delay * 2, (uint64_t)PROBE_MAX_NS) : (uint64_t)PROBE_MIN_NS;
	p->probe_at = now + p->probe_delay;
	p->recent_long = 0;
	set_active(p, active - drop);
}

static void maybe_probe(struct pool *p, uint64_t now)
{
	uint32_t active = atomic_load_explicit(&p->active, memory_order_relaxed);

	if (active == p->n_threads || now < p->probe_at)
		return;
	p->probe_at = now;
	p->recent_long = 0;
	set_active(p, active + 1);
}

static void run_alone(struct pool *p, pool_fn fn, void *arg, uint32_t n_chunks)
{
	for (uint32_t i = 0; i < n_chunks; i++) {
		beat_move(&p->beat);
		fn(arg, i, 0);
	}
	if (p->n_threads > 1 && n_chunks > 1)
		maybe_probe(p, now_ns());
}

static void run_shared(struct pool *p, pool_fn fn, void *arg, uint32_t n_chunks, uint32_t active)
{
	uint64_t start = now_ns(), ran_out, end;
	uint32_t ran;

	p->fn = fn;
	p->arg = arg;
	p->n_chunks = n_chunks;
	atomic_store_explicit(&p->done, 0, memory_order_relaxed);
	atomic_store(&p->claim, (uint64_t)++p->epoch << 32 | n_chunks);
	for (uint32_t i = 1; i < MIN(active, n_chunks); i++)
		wake_worker(&p->workers[i - 1]);
	ran = run_chunks(p, 0, &p->beat);
	if (ran == n_chunks)
		return;
	atomic_fetch_add(&p->done, ran);
	if (atomic_load_explicit(&p->done, memory_order_acquire) == n_chunks)
		return;
	ran_out = now_ns();
	owner_wait(p, n_chunks, ran_out);
	end = now_ns();
	watch_straggler(p, end, end - ran_out, ran ? (ran_out - start) / ran : 0);
	maybe_probe(p, end);
}

void pool_run(struct pool *p, pool_fn fn, void *arg, uint32_t n_chunks)
{
	uint32_t active = atomic_load_explicit(&p->active, memory_order_relaxed);

	if (active == 1 || n_chunks <= 1)
		run_alone(p, fn, arg, n_chunks);
	else
		run_shared(p, fn, arg, n_chunks, active);
	beat_move(&p->beat);
	atomic_store_explicit(&p->phases, p->phases + 1, memory_order_relaxed);
	atomic_store_explicit(&p->beats, p->beats + n_chunks, memory_order_relaxed);
}

/* Signals belong to the caller's main loop, never to a worker; but for those that a thread's own
 * access raises: a blocked SIGBUS would kill the process instead of reaching the guard of the
 * mapped weights. */
static int start_worker(struct pool *p, uint32_t index)
{
	struct worker *w = &p->workers[index - 1];
	sigset_t all, old;
	int r;

	w->pool = p;
	w->index = index;
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0) {
		pthread_setname_np(w->thread, "qllm-pool");
		p->n_started++;
	}
	return -r;
}

DEFINE_FREEP(struct pool, pool_free)

int pool_new(struct pool **ret, uint32_t n_threads)
{
	_cleanup_(pool_freep) struct pool *p = NULL;

	if (n_threads < 1 || n_threads > THREADS_MAX)
		return -EINVAL;
	p = mem_aligned(CACHE_LINE, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->n_threads = n_threads;
	p->probe_delay = PROBE_MIN_NS;
	set_active(p, n_threads);
	if (n_threads > 1) {
		p->workers = mem_aligned(CACHE_LINE, (n_threads - 1) * sizeof(*p->workers));
		if (!p->workers)
			return -ENOMEM;
	}
	for (uint32_t i = 1; i < n_threads; i++) {
		int r = start_worker(p, i);

		if (r < 0)
			return r;
	}
	*ret = STEAL(p);
	return 0;
}

struct pool *pool_free(struct pool *p)
{
	if (!p)
		return NULL;
	atomic_store(&p->stop, true);
	for (uint32_t i = 0; i < p->n_started; i++)
		wake_worker(&p->workers[i]);
	for (uint32_t i = 0; i < p->n_started; i++)
		pthread_join(p->workers[i].thread, NULL);
	mem_free(p->workers);
	return mem_free(p);
}

uint32_t pool_threads(const struct pool *p)
{
	return p->n_threads;
}

void pool_stats(const struct pool *p, struct pool_stats *ret)
{
	*ret = (struct pool_stats){
		.phases = atomic_load_explicit(&p->phases, memory_order_relaxed),
		.long_waits = atomic_load_explicit(&p->long_waits, memory_order_relaxed),
		.active = atomic_load_explicit(&p->active, memory_order_relaxed),
		.beats = atomic_load_explicit(&p->beats, memory_order_relaxed),
	};
}

struct beat *pool_beat(struct pool *p)
{
	return &p->beat;
}

int pool_stuck(struct pool *p, bool owner_waits)
{
	int stuck = beat_lives(&p->beat, &p->watch, owner_waits) ? -1 : 0;

	/* All are looked at: each look is the start of the next. */
	for (uint32_t i = 1; i <= p->n_started; i++) {
		struct worker *w = &p->workers[i - 1];

		if (!beat_lives(&w->beat, &w->watch, false))
			stuck = (int)i;
	}
	return stuck;
}
