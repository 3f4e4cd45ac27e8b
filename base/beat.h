/* beat - signs of life of one thread that computes, for a watchdog on another thread.
 *
 * A thread is busy or idle, and moves while it is busy: often enough that standing still for
 * seconds means that it hangs. An idle thread owes no sign, so that waiting needs no wake-up,
 * unless work lies there for it. One writer, the thread itself, which pays a store a move; the
 * counter says nothing about time, that is up to whoever looks. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Moves in steps of two; the lowest bit is set while busy. */
struct beat {
	atomic_uint_least64_t word;
};

static inline void beat_set(struct beat *b, uint64_t word)
{
	atomic_store_explicit(&b->word, word, memory_order_relaxed);
}

static inline uint64_t beat_get(const struct beat *b)
{
	return atomic_load_explicit(&b->word, memory_order_relaxed);
}

/* From now on it owes signs; also when it was busy before. */
static inline void beat_busy(struct beat *b)
{
	beat_set(b, (beat_get(b) | 1) + 2);
}

static inline void beat_move(struct beat *b)
{
	beat_set(b, beat_get(b) + 2);
}

static inline void beat_idle(struct beat *b)
{
	beat_set(b, (beat_get(b) + 2) & ~(uint64_t)1);
}

/* What a watchdog knows of a thread; zero at first. */
struct beat_watch {
	uint64_t word;
	bool waits;
};

/* The watchdog's look. waits: work lies there for the thread. false: the thread was busy, or had
 * work to take, at the last look and still, and has not moved in between. */
static inline bool beat_lives(const struct beat *b, struct beat_watch *w, bool waits)
{
	uint64_t now = beat_get(b);
	bool owes = (now & 1) || (waits && w->waits), moved = now != w->word;

	*w = (struct beat_watch){ now, waits };
	return moved || !owes;
}
