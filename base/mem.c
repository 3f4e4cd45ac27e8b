/* mem - one choke point for allocation: a counter of live blocks and a fault that tests arm.
 *
 * Invariants:
 * 1. NULL means failure, never an empty block: zero bytes are served as one.
 * 2. Every block comes from the C library's heap, whatever its alignment, so one mem_free serves
 *    all.
 * 3. An unarmed fault costs one relaxed load; nothing else in the program may depend on it. */
#include "base/mem.h"
#include "base/num.h"
#include <stdalign.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	ARENA_CHUNK = 64 << 10,
	ARENA_ALIGN = 16,
	ZERO_LARGE = 64 << 10,
};

static atomic_int_least64_t live_blocks;
static atomic_bool fault_armed, fault_sticky, fault_hit;
static atomic_int_least64_t fault_left;

static bool fault_now(void)
{
	int_least64_t left;

	if (!atomic_load_explicit(&fault_armed, memory_order_relaxed))
		return false;
	left = atomic_fetch_sub(&fault_left, 1);
	if (left == 0 || (left < 0 && atomic_load(&fault_sticky))) {
		atomic_store(&fault_hit, true);
		return true;
	}
	return false;
}

static void *count(void *p)
{
	if (p)
		atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
	return p;
}

void *mem_alloc(size_t size)
{
	return mem_allocn(1, size);
}

void *mem_allocn(size_t n, size_t size)
{
	size_t total;

	if (fault_now() || mul_overflows(n, size, &total))
		return NULL;
	return count(calloc(1, total ? total : 1));
}

void *mem_realloc(void *p, size_t size)
{
	void *q;

	if (fault_now())
		return NULL;
	q = realloc(p, size ? size : 1);
	return p ? q : count(q);
}

void *mem_reallocn(void *p, size_t n, size_t size)
{
	size_t total;

	if (mul_overflows(n, size, &total))
		return NULL;
	return mem_realloc(p, total);
}

/* Zero a fresh block. The whole pages of a large one are given back to the kernel, which reads as
 * zeros: buffers sized for the worst case then take memory only as far as they are used. */
static void zero(void *p, size_t size)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	char *start = p, *end = start + size;
	char *first = (char *)(((uintptr_t)start + page - 1) & ~(page - 1));
	char *last = (char *)((uintptr_t)end & ~(page - 1));

	if (size < ZERO_LARGE || first >= last ||
	    madvise(first, (size_t)(last - first), MADV_DONTNEED) < 0) {
		memset(p, 0, size);
		return;
	}
	memset(start, 0, (size_t)(first - start));
	memset(last, 0, (size_t)(end - last));
}

void *mem_aligned(size_t align, size_t size)
{
	void *p = NULL;

	if (fault_now() || posix_memalign(&p, align, size ? size : 1) != 0)
		return NULL;
	zero(p, size);
	return count(p);
}

char *mem_strdup(const char *s)
{
	return mem_strndup(s, strlen(s));
}

char *mem_strndup(const char *s, size_t n)
{
	size_t total;
	char *p;

	if (add_overflows(n, (size_t)1, &total))
		return NULL;
	p = mem_alloc(total);
	if (p && n)
		memcpy(p, s, n);
	return p;
}

void *mem_memdup(const void *p, size_t n)
{
	void *q = mem_alloc(n);

	if (q && n)
		memcpy(q, p, n);
	return q;
}

void *mem_free(void *p)
{
	if (p)
		atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
	free(p);
	return NULL;
}

void mem_fault_arm(uint64_t nth, bool sticky)
{
	atomic_store(&fault_hit, false);
	atomic_store(&fault_sticky, sticky);
	atomic_store(&fault_left, (int_least64_t)MIN(nth, (uint64_t)INT64_MAX));
	atomic_store(&fault_armed, true);
}

bool mem_fault_fired(void)
{
	atomic_store(&fault_armed, false);
	return atomic_exchange(&fault_hit, false);
}

int64_t mem_live_blocks(void)
{
	return atomic_load_explicit(&live_blocks, memory_order_relaxed);
}

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, cap;               /* bytes of data */
	alignas(ARENA_ALIGN) char data[];
};

void arena_init(struct arena *a, size_t max)
{
	*a = (struct arena){ .max = max };
}

void *arena_alloc(struct arena *a, size_t size)
{
	struct arena_chunk *chunk = a->chunks;
	uint64_t rounded;
	size_t total, bytes;
	void *p;

	if (align_overflows(size ? size : 1, ARENA_ALIGN, &rounded) ||
	    add_overflows(a->used, (size_t)rounded, &total) || (a->max && total > a->max))
		return NULL;
	if (!chunk || rounded > chunk->cap - chunk->used) {
		size_t cap = MAX((size_t)rounded, (size_t)ARENA_CHUNK);

		if (add_overflows(cap, sizeof(*chunk), &bytes))
			return NULL;
		chunk = mem_alloc(bytes);
		if (!chunk)
			return NULL;
		chunk->cap = cap;
		chunk->next = a->chunks;
		a->chunks = chunk;
	}
	p = chunk->data + chunk->used;
	chunk->used += rounded;
	a->used = total;
	return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
	size_t total;
	char *p;

	if (add_overflows(n, (size_t)1, &total))
		return NULL;
	p = arena_alloc(a, total);
	if (p && n)
		memcpy(p, s, n);
	return p;
}

void arena_deinit(struct arena *a)
{
	while (a->chunks) {
		struct arena_chunk *next = a->chunks->next;

		mem_free(a->chunks);
		a->chunks = next;
	}
	a->used = 0;
}
