/* pool - fork-join over chunks. One caller thread (which computes too) and n-1 workers.
 *
 * A phase is the range of chunks [0, n) claimed from one atomic word that also carries the phase's
 * epoch; it ends when all chunks are done, not when all threads have arrived, so a thread that lost
 * its core delays only the chunk it holds. Waiting spins for at most 50 us, then sleeps on a futex;
 * an idle pool makes no wake-up. After repeated long waits for a straggler (another process owns
 * its core) the pool drops to fewer threads and probes again later. Results must not depend on
 * which thread ran a chunk. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/beat.h"

struct pool;
/* Run chunk `i`; `thread` in [0, n_threads) indexes per-thread scratch: no two running chunks share
 * it. */
typedef void (*pool_fn)(void *arg, uint32_t i, uint32_t thread);

/* n_threads >= 1, caller included; -ENOMEM, -EAGAIN */
int pool_new(struct pool **ret, uint32_t n_threads);
struct pool *pool_free(struct pool *p);
uint32_t pool_threads(const struct pool *p);
/* Run fn for every i in [0, n_chunks), return when all are done. Only the owning thread calls it,
 * never nested. */
void pool_run(struct pool *p, pool_fn fn, void *arg, uint32_t n_chunks);

struct pool_stats {
	/* long_waits: phases whose end waited > 1 ms for a straggler */
	uint64_t phases, long_waits;
	uint32_t active;                /* threads in use now */
	uint64_t beats;                 /* chunks finished so far: the watchdog's heartbeat */
};
void pool_stats(const struct pool *p, struct pool_stats *ret);  /* any thread */
/* The owner's own signs of life: the pool moves them with each chunk and phase; busy and idle are
 * the owner's to say. */
struct beat *pool_beat(struct pool *p);
/* For a watchdog, always the same thread: the index of a thread that is busy and has not moved
 * since the last call, or -1. owner_waits: work lies there for the owner. A worker is busy while
 * it looks for chunks and runs them; it is named rather than the owner, which may only wait for
 * it. */
int pool_stuck(struct pool *p, bool owner_waits);
/* min(affinity mask, cgroup cpu.max, physical cores); *why is a static or thread-local sentence. */
uint32_t pool_default_threads(const char **why);
