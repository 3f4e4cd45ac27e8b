/* beat - signs of life of one thread that computes, for a watchdog on another thread.
 *
 * A thread is busy or idle, and moves while it is busy: often enough that standing still for
 * seconds means that it hangs. An idle thread owes no sign, so that waiting needs no wake-up. One
 * writer, the thread itself, which pays a store a move; the counter says nothing about time, that
 * is up to whoever looks. */
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

/* The watchdog's look: false when the thread was busy at the last look (*last, zero at first), is
 * busy, and has not moved in between. */
static inline bool beat_lives(const struct beat *b, uint64_t *last)
{
	uint64_t seen = *last, now = beat_get(b);

	*last = now;
	return !(now & 1) || now != seen;
}
