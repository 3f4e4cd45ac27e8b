/* r16 - the geometry of the packed layout (kernels/pack.h), as constants where `type` is one. */
#pragma once
#include "kernels/blocks.h"
#include "kernels/pack.h"

#define R16_INLINE static inline __attribute__((always_inline, unused))

/* Where the fields of a block stand in the file's form; -1: no second factor. */
struct r16_fields {
	int factor[2];
	int scales;
	size_t n_scales;
};

R16_INLINE struct r16_fields r16_fields(enum qtype type)
{
	switch (type) {
	case QTYPE_Q4_1: case QTYPE_Q5_1: return (struct r16_fields){ { 0, 2 }, 0, 0 };
	case QTYPE_Q2_K: return (struct r16_fields){ { 80, 82 }, 0, 16 };
	case QTYPE_Q3_K: return (struct r16_fields){ { 108, -1 }, 96, 12 };
	case QTYPE_Q4_K: case QTYPE_Q5_K: return (struct r16_fields){ { 0, 2 }, 4, 12 };
	case QTYPE_Q6_K: return (struct r16_fields){ { 208, -1 }, 192, 16 };
	case QTYPE_IQ4_XS: return (struct r16_fields){ { 0, 2 }, 4, 4 };
	default: return (struct r16_fields){ { 0, -1 }, 0, 0 };
	}
}

/* Bits of a code in planes of 1, 2 and 4 or 8 bits. */
R16_INLINE size_t r16_bits(enum qtype type)
{
	switch (type) {
	case QTYPE_Q2_K: return 2;
	case QTYPE_Q3_K: return 3;
	case QTYPE_Q5_0: case QTYPE_Q5_1: case QTYPE_Q5_K: return 5;
	case QTYPE_Q6_K: return 6;
	case QTYPE_Q8_0: return 8;
	default: return 4;
	}
}

R16_INLINE size_t r16_unit_bytes(enum qtype type)
{
	return 64 * r16_bits(type);
}

/* Units of 32 elements a block. */
R16_INLINE size_t r16_units(enum qtype type)
{
	return type_is_super(type) ? 8 : 1;
}

R16_INLINE size_t r16_body_bytes(enum qtype type)
{
	return PACK_ROWS * r16_fields(type).n_scales + r16_units(type) * r16_unit_bytes(type);
}

/* Of the factors of a pair of blocks. */
R16_INLINE size_t r16_factor_bytes(enum qtype type)
{
	return r16_fields(type).factor[1] < 0 ? 64 : 128;
}

R16_INLINE size_t r16_pair_bytes(enum qtype type)
{
	return r16_factor_bytes(type) + 2 * r16_body_bytes(type);
}

/* First factor of block i in its group: 16 rows of 2 bytes; the second one is 64 bytes on. */
R16_INLINE size_t r16_factor_at(enum qtype type, size_t i)
{
	return i / 2 * r16_pair_bytes(type) + i % 2 * 32;
}

R16_INLINE size_t r16_body_at(enum qtype type, size_t i)
{
	return i / 2 * r16_pair_bytes(type) + r16_factor_bytes(type) +
	       i % 2 * r16_body_bytes(type);
}

/* Bytes of a group of n blocks. */
R16_INLINE size_t r16_group_bytes(enum qtype type, size_t n)
{
	return n / 2 * r16_pair_bytes(type) +
	       n % 2 * (r16_factor_bytes(type) + r16_body_bytes(type));
}

/* Q8_0 in two parts: bytes of a block in the low one, of n blocks in the high one. */
enum { SPLIT_LOW_BITS = 3, SPLIT_LOW_BYTES = 64 * SPLIT_LOW_BITS };

R16_INLINE size_t r16_high_bytes(size_t n)
{
	return r16_group_bytes(QTYPE_Q5_0, n);
}
