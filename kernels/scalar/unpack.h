/* unpack - one block of any Q16 type as integer codes and float factors: the meaning of the bytes,
 * written once for the scalar product and the scalar dequantizer. */
#pragma once
#include <stdbool.h>
#include "kernels/blocks.h"
#include "kernels/f16.h"
#include "kernels/tables.h"

/* Element i of the block is a[i / 16] * q[i] + c[i / 16]; c is written only by types with a
 * minimum. */
struct unpacked {
	int8_t q[256];
	float a[16], c[16];
};

static inline void unpack_nibbles(int8_t *q, const uint8_t *qs, int offset)
{
	for (int j = 0; j < 16; j++) {
		q[j] = (int8_t)((qs[j] & 15) - offset);
		q[j + 16] = (int8_t)((qs[j] >> 4) - offset);
	}
}

static inline void unpack_fifth_bits(int8_t *q, const uint8_t qh[4])
{
	for (int j = 0; j < 32; j++)
		q[j] = (int8_t)(q[j] + ((qh[j / 8] >> (j % 8) & 1) << 4));
}

static inline void unpack_factors(struct unpacked *u, float a, float c)
{
	u->a[0] = u->a[1] = a;
	u->c[0] = u->c[1] = c;
}

static inline void unpack_q4_0(struct unpacked *u, const struct block_q4_0 *b)
{
	unpack_nibbles(u->q, b->qs, 8);
	unpack_factors(u, f16_load(b->d), 0.0f);
}

static inline void unpack_q4_1(struct unpacked *u, const struct block_q4_1 *b)
{
	unpack_nibbles(u->q, b->qs, 0);
	unpack_factors(u, f16_load(b->d), f16_load(b->m));
}

static inline void unpack_q5_0(struct unpacked *u, const struct block_q5_0 *b)
{
	unpack_nibbles(u->q, b->qs, 16);
	unpack_fifth_bits(u->q, b->qh);
	unpack_factors(u, f16_load(b->d), 0.0f);
}

static inline void unpack_q5_1(struct unpacked *u, const struct block_q5_1 *b)
{
	unpack_nibbles(u->q, b->qs, 0);
	unpack_fifth_bits(u->q, b->qh);
	unpack_factors(u, f16_load(b->d), f16_load(b->m));
}

static inline void unpack_q8_0(struct unpacked *u, const struct block_q8_0 *b)
{
	memcpy(u->q, b->qs, sizeof(b->qs));
	unpack_factors(u, f16_load(b->d), 0.0f);
}

static inline void unpack_iq4_nl(struct unpacked *u, const struct block_iq4_nl *b)
{
	static const int8_t values[16] = { IQ4_NL_VALUES };

	unpack_nibbles(u->q, b->qs, 0);
	for (int j = 0; j < 32; j++)
		u->q[j] = values[u->q[j]];
	unpack_factors(u, f16_load(b->d), 0.0f);
}

static inline void unpack_q2_k(struct unpacked *u, const struct block_q2_k *b)
{
	const float d = f16_load(b->d), dmin = f16_load(b->dmin);

	for (int i = 0; i < 256; i++)
		u->q[i] = (int8_t)(b->qs[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3);
	for (int j = 0; j < 16; j++) {
		u->a[j] = d * (float)(b->scales[j] & 15);
		u->c[j] = -(dmin * (float)(b->scales[j] >> 4));
	}
}

static inline void unpack_q3_k(struct unpacked *u, const struct block_q3_k *b)
{
	const float d = f16_load(b->d);

	for (int i = 0; i < 256; i++) {
		const int low = b->qs[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;

		u->q[i] = (int8_t)(low + 4 * (b->hmask[i % 32] >> (i / 32) & 1) - 4);
	}
	for (int j = 0; j < 16; j++) {
		const int low = b->scales[j % 8] >> (4 * (j / 8)) & 15,
			  high = b->scales[8 + j % 4] >> (2 * (j / 4)) & 3;

		u->a[j] = d * (float)((low | high << 4) - 32);
	}
}

/* Scale and minimum of group j of 8, 6 bits each. */
static inline void unpack_scale_min(const uint8_t s[12], int j, int *ret_sc, int *ret_mn)
{
	if (j < 4) {
		*ret_sc = s[j] & 63;
		*ret_mn = s[j + 4] & 63;
	} else {
		*ret_sc = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
		*ret_mn = s[j + 4] >> 4 | s[j] >> 6 << 4;
	}
}

static inline void unpack_scales_k(struct unpacked *u, uint16_t d_bits, uint16_t dmin_bits,
                                   const uint8_t s[12])
{
	const float d = f16_load(d_bits), dmin = f16_load(dmin_bits);

	for (int j = 0; j < 8; j++) {
		int sc, mn;

		unpack_scale_min(s, j, &sc, &mn);
		u->a[2 * j] = u->a[2 * j + 1] = d * (float)sc;
		u->c[2 * j] = u->c[2 * j + 1] = -(dmin * (float)mn);
	}
}

static inline void unpack_q4_k(struct unpacked *u, const struct block_q4_k *b)
{
	for (int i = 0; i < 256; i++)
		u->q[i] = (int8_t)(b->qs[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15);
	unpack_scales_k(u, b->d, b->dmin, b->scales);
}

static inline void unpack_q5_k(struct unpacked *u, const struct block_q5_k *b)
{
	for (int i = 0; i < 256; i++) {
		const int low = b->qs[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15;

		u->q[i] = (int8_t)(low | (b->qh[i % 32] >> (i / 32) & 1) << 4);
	}
	unpack_scales_k(u, b->d, b->dmin, b->scales);
}

static inline void unpack_q6_k(struct unpacked *u, const struct block_q6_k *b)
{
	const float d = f16_load(b->d);

	for (int i = 0; i < 256; i++) {
		const int h = i / 128, s = i / 32 % 4, l = i % 32;
		const int low = b->ql[64 * h + 32 * (s & 1) + l] >> (4 * (s >> 1)) & 15;

		u->q[i] = (int8_t)((low | (b->qh[32 * h + l] >> (2 * s) & 3) << 4) - 32);
	}
	for (int j = 0; j < 16; j++)
		u->a[j] = d * (float)b->scales[j];
}

static inline void unpack_iq4_xs(struct unpacked *u, const struct block_iq4_xs *b)
{
	static const int8_t values[16] = { IQ4_NL_VALUES };
	const float d = f16_load(b->d);

	for (int j = 0; j < 8; j++) {
		const int low = b->scales_l[j / 2] >> (4 * (j % 2)) & 15,
			  high = b->scales_h >> (2 * j) & 3;

		unpack_nibbles(u->q + 32 * j, b->qs + 16 * j, 0);
		u->a[2 * j] = u->a[2 * j + 1] = d * (float)((low | high << 4) - 32);
	}
	for (int i = 0; i < 256; i++)
		u->q[i] = values[u->q[i]];
}

/* `type` is a constant where this is inlined. */
static inline __attribute__((always_inline)) void unpack_block(struct unpacked *u, enum qtype type,
                                                               const void *b)
{
	switch (type) {
	case QTYPE_Q4_0: unpack_q4_0(u, b); break;
	case QTYPE_Q4_1: unpack_q4_1(u, b); break;
	case QTYPE_Q5_0: unpack_q5_0(u, b); break;
	case QTYPE_Q5_1: unpack_q5_1(u, b); break;
	case QTYPE_Q8_0: unpack_q8_0(u, b); break;
	case QTYPE_IQ4_NL: unpack_iq4_nl(u, b); break;
	case QTYPE_Q2_K: unpack_q2_k(u, b); break;
	case QTYPE_Q3_K: unpack_q3_k(u, b); break;
	case QTYPE_Q4_K: unpack_q4_k(u, b); break;
	case QTYPE_Q5_K: unpack_q5_k(u, b); break;
	case QTYPE_Q6_K: unpack_q6_k(u, b); break;
	case QTYPE_IQ4_XS: unpack_iq4_xs(u, b); break;
	default: __builtin_unreachable();
	}
}
