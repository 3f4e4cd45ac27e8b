/* mem - allocation. Every allocation of the daemon goes through mem_alloc and its kin so that tests
 * can make the n-th one fail (mem_fault_arm) and count live blocks. All return NULL on failure,
 * never abort. Thread-safe. Blocks are released with mem_free (also by the cleanup attribute
 * _cleanup_mem_). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *mem_alloc(size_t size);                           /* zeroed */
void *mem_allocn(size_t n, size_t size);                /* zeroed; NULL when n*size overflows */
void *mem_realloc(void *p, size_t size);                /* tail is not zeroed */
void *mem_reallocn(void *p, size_t n, size_t size);
/* zeroed; align is a power of two >= 8; mem_free too */
void *mem_aligned(size_t align, size_t size);
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);             /* n bytes plus NUL */
void *mem_memdup(const void *p, size_t n);
void *mem_free(void *p);                                /* accepts NULL, returns NULL */
static inline void mem_freep(void *p)
{
	mem_free(*(void **)p);
}
#define _cleanup_mem_ __attribute__((cleanup(mem_freep)))

/* Fault hook (tests): the nth allocation from now (0 = the next) fails once; sticky: all from there
 * on. */
void mem_fault_arm(uint64_t nth, bool sticky);
bool mem_fault_fired(void);                             /* and disarms */
int64_t mem_live_blocks(void);

/* Arena: many small objects, one free. Not thread-safe. `max` bounds the total, 0 = unbounded. */
struct arena {
	struct arena_chunk *chunks;
	size_t used, max;
};
void arena_init(struct arena *a, size_t max);
void *arena_alloc(struct arena *a, size_t size);        /* zeroed, 16-byte aligned; NULL past max */
char *arena_strndup(struct arena *a, const char *s, size_t n);
void arena_deinit(struct arena *a);                     /* accepts a zeroed arena */
