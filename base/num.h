/* num - sizes go through here: every product and sum of untrusted numbers is checked. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define mul_overflows(a, b, ret) __builtin_mul_overflow(a, b, ret)
#define add_overflows(a, b, ret) __builtin_add_overflow(a, b, ret)
#define sub_overflows(a, b, ret) __builtin_sub_overflow(a, b, ret)

/* Each argument is evaluated once; names are numbered, so that the macros nest. */
#define MIN(a, b) MIN_(a, b, __COUNTER__)
#define MAX(a, b) MAX_(a, b, __COUNTER__)
#define MIN_(a, b, id) PICK_(a, <, b, id)
#define MAX_(a, b, id) PICK_(a, >, b, id)
#define PICK_(a, op, b, id)                         \
	(__extension__({                            \
		__typeof__(a) a_##id = (a);         \
		__typeof__(b) b_##id = (b);         \
		a_##id op b_##id ? a_##id : b_##id; \
	}))
#define CLAMP(x, lo, hi) MIN(MAX(x, lo), hi)
#define DIV_UP(a, b) (((a) + (b) - 1) / (b))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline bool is_pow2(uint64_t x)
{
	return x != 0 && (x & (x - 1)) == 0;
}
/* Round x up to a power of two `align`; true on overflow, *ret untouched then. */
static inline bool align_overflows(uint64_t x, uint64_t align, uint64_t *ret)
{
	uint64_t sum;

	if (add_overflows(x, align - 1, &sum))
		return true;
	*ret = sum & ~(align - 1);
	return false;
}
/* For sizes already known to be small. */
static inline size_t align_up(size_t x, size_t align)
{
	return (x + align - 1) & ~(align - 1);
}
