/* blocks - the bytes of quantized rows as GGUF stores them (little endian, no alignment). `d`, `m`,
 * `dmin` are f16 bits. "Nibbles of 32": byte j holds element j low and element j + 16 high. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/qtype.h"

#define BLOCK(name, type, ...) \
	struct name { __VA_ARGS__ } __attribute__((packed)); \
	_Static_assert(sizeof(struct name) == (type), #name " has the file's size")

/* w = (q - 8) * d */
BLOCK(block_q4_0, 18, uint16_t d; uint8_t qs[16];);
/* w = q * d + m */
BLOCK(block_q4_1, 20, uint16_t d, m; uint8_t qs[16];);
/* Bit j of qh is bit 4 of element j: w = (q - 16) * d and w = q * d + m. */
BLOCK(block_q5_0, 22, uint16_t d; uint8_t qh[4], qs[16];);
BLOCK(block_q5_1, 24, uint16_t d, m; uint8_t qh[4], qs[16];);
/* w = q * d */
BLOCK(block_q8_0, 34, uint16_t d; int8_t qs[32];);
/* w = T[q] * d with the table of kernels/tables.h */
BLOCK(block_iq4_nl, 18, uint16_t d; uint8_t qs[16];);
/* Superblocks of 256. 16 groups of 16; scale byte: low nibble scale, high nibble minimum.
 * Element 128h + 32s + l is (qs[32h + l] >> 2s) & 3; w = d * sc * q - dmin * mn. */
BLOCK(block_q2_k, 84, uint8_t scales[16], qs[64]; uint16_t d, dmin;);
/* Low two bits as Q2_K; element 32b + l has bit b of hmask[l] as bit 2; w = d * (sc - 32) * (q -
 * 4). Scale j of 16: low nibble (scales[j % 8] >> 4(j / 8)), top 2 bits (scales[8 + j % 4] >> 2(j /
 * 4)) & 3. */
BLOCK(block_q3_k, 110, uint8_t hmask[32], qs[64], scales[12]; uint16_t d;);
/* 8 groups of 32; byte 32c + l: element 64c + l low, 64c + 32 + l high; w = d * sc * q - dmin * mn.
 * Scales 0..3: s[j] & 63, minima s[j + 4] & 63; 4..7: low nibbles and high nibbles of s[j + 4],
 * their top two bits are those of s[j - 4] and s[j]. */
BLOCK(block_q4_k, 144, uint16_t d, dmin; uint8_t scales[12], qs[128];);
/* As Q4_K; bit b of qh[l] is bit 4 of element 32b + l. */
BLOCK(block_q5_k, 176, uint16_t d, dmin; uint8_t scales[12], qh[32], qs[128];);
/* Element 128h + 32s + l: nibble s / 2 of ql[64h + 32(s & 1) + l], bits 4 and 5 from qh[32h + l] >>
 * 2s; w = d * scales[element / 16] * (q - 32). */
BLOCK(block_q6_k, 210, uint8_t ql[128], qh[64]; int8_t scales[16]; uint16_t d;);
/* 8 groups of 32, each nibbles of 32; w = d * (sc - 32) * T[q]. Scale j: low nibble (scales_l[j /
 * 2] >> 4(j % 2)), top 2 bits (scales_h >> 2j) & 3. */
BLOCK(block_iq4_xs, 136, uint16_t d, scales_h; uint8_t scales_l[4], qs[128];);
#undef BLOCK

/* X(lower-case name, id) for every Q16 type that has kernels. */
#define Q16_TYPES(X) \
	X(q4_0, Q4_0) X(q4_1, Q4_1) X(q5_0, Q5_0) X(q5_1, Q5_1) X(q8_0, Q8_0) X(iq4_nl, IQ4_NL) \
	X(q2_k, Q2_K) X(q3_k, Q3_K) X(q4_k, Q4_K) X(q5_k, Q5_K) X(q6_k, Q6_K) X(iq4_xs, IQ4_XS)

/* Facts that the levels fold as constants: `type` is one wherever these are called. */
static inline __attribute__((always_inline)) bool type_has_min(enum qtype type)
{
	return type == QTYPE_Q4_1 || type == QTYPE_Q5_1 || type == QTYPE_Q2_K ||
	       type == QTYPE_Q4_K || type == QTYPE_Q5_K;
}

static inline __attribute__((always_inline)) bool type_is_super(enum qtype type)
{
	return (type >= QTYPE_Q2_K && type <= QTYPE_Q6_K) || type == QTYPE_IQ4_XS;
}

static inline __attribute__((always_inline)) size_t type_bytes(enum qtype type)
{
#define BYTES_CASE(name, id) case QTYPE_##id: return sizeof(struct block_##name);
	switch (type) {
	Q16_TYPES(BYTES_CASE)
	default: __builtin_unreachable();
	}
#undef BYTES_CASE
}
