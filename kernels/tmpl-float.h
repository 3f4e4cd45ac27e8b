/* tmpl-float - products with F32, F16 and BF16 rows, one copy a level: included after the level's
 * vec.h.
 *
 * Four rows and one token, or two rows and three tokens, at a time: eight to twelve independent
 * chains of fma. Element i is lane i % 16 of its chain whatever the block, so that the block
 * changes no bit. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/pack.h"
#include "kernels/tmpl-math.h"

INLINE size_t float_bytes(const enum qtype type)
{
	return type == QTYPE_F32 ? 4 : 2;
}

/* VL elements at p, of any alignment. */
INLINE vf float_load(const enum qtype type, const void *p)
{
	switch (type) {
	case QTYPE_F16: return v_load_f16(p);
	case QTYPE_BF16: return v_load_bf16(p);
	default: return v_load(p);
	}
}

/* y of rows [r, r + n_row) and tokens [t, t + n_tok). */
INLINE void float_block(const struct mm_args *m, const enum qtype type, size_t r,
                        const size_t n_row, size_t t, const size_t n_tok)
{
	const size_t bytes = float_bytes(type), whole = m->n_in / 16 * 16;
	const char *w = (const char *)m->w + r * m->row_bytes;
	const float *x = m->x + t * m->ldx;
	UNINIT vf acc[4][3][NV];

	UNROLL for (size_t i = 0; i < n_row; i++)
		UNROLL for (size_t j = 0; j < n_tok; j++)
			UNROLL for (size_t v = 0; v < NV; v++)
				acc[i][j][v] = v_set1(0.0f);
	for (size_t k = 0; k < whole; k += 16)
		UNROLL for (size_t v = 0; v < NV; v++) {
			UNINIT vf e[3];

			UNROLL for (size_t j = 0; j < n_tok; j++)
				e[j] = v_load(x + j * m->ldx + k + v * VL);
			UNROLL for (size_t i = 0; i < n_row; i++) {
				const vf q = float_load(type, w + i * m->row_bytes +
				                                      (k + v * VL) * bytes);

				UNROLL for (size_t j = 0; j < n_tok; j++)
					acc[i][j][v] = v_fma(q, e[j], acc[i][j][v]);
			}
		}
	UNROLL for (size_t i = 0; i < n_row; i++)
		UNROLL for (size_t j = 0; j < n_tok; j++) {
			UNINIT float lane[16];

			UNROLL for (size_t v = 0; v < NV; v++)
				v_store(lane + v * VL, acc[i][j][v]);
			for (size_t k = whole; k < m->n_in; k++) {
				float q[VL] = { 0 };

				memcpy(q, w + i * m->row_bytes + k * bytes, bytes);
				q[0] = float_load(type, q)[0];
				lane[k - whole] = __builtin_fmaf(q[0], x[j * m->ldx + k],
			                                         lane[k - whole]);
			}
			UNROLL for (size_t v = 0; v < NV; v++)
				acc[i][j][v] = v_load(lane + v * VL);
			m->y[(t + j) * m->ldy + r + i] = tree_sum(acc[i][j]);
		}
}

/* Bands of 16 rows stay in a cache while all tokens pass. */
INLINE void float_mm(const struct mm_args *m, const enum qtype type)
{
	size_t end, r, t;

	for (size_t band = m->r0; band < m->r1; band = end) {
		end = m->r1 - band < 16 ? m->r1 : band + 16;
		for (t = 0; t + 3 <= m->n_tok; t += 3) {
			for (r = band; r + 2 <= end; r += 2)
				float_block(m, type, r, 2, t, 3);
			if (r < end)
				float_block(m, type, r, 1, t, 3);
		}
		for (; t < m->n_tok; t++) {
			for (r = band; r + 4 <= end; r += 4)
				float_block(m, type, r, 4, t, 1);
			for (; r < end; r++)
				float_block(m, type, r, 1, t, 1);
		}
	}
}

/* Packed rows lie as in the file, group after group. */
INLINE void float_packed(const struct mm_args *m, const enum qtype type)
{
	struct mm_args group = *m;

	group.row_bytes = m->n_in * float_bytes(type);
	group.r0 = 0;
	for (size_t r = m->r0; r < m->r1; r += PACK_ROWS) {
		group.w = (const char *)m->w + r * m->row_bytes;
		group.y = m->y + r;
		group.r1 = m->r1 - r < PACK_ROWS ? m->r1 - r : PACK_ROWS;
		float_mm(&group, type);
	}
}

static void float_mm_f32(const struct mm_args *m)
{
	float_mm(m, QTYPE_F32);
}

static void float_mm_f16(const struct mm_args *m)
{
	float_mm(m, QTYPE_F16);
}

static void float_mm_bf16(const struct mm_args *m)
{
	float_mm(m, QTYPE_BF16);
}

static void float_packed_f32(const struct mm_args *m)
{
	float_packed(m, QTYPE_F32);
}

static void float_packed_f16(const struct mm_args *m)
{
	float_packed(m, QTYPE_F16);
}

static void float_packed_bf16(const struct mm_args *m)
{
	float_packed(m, QTYPE_BF16);
}

static void float_fill(struct kernels *k, const char *level)
{
	k->mm[QTYPE_F32] = float_mm_f32;
	k->mm[QTYPE_F16] = float_mm_f16;
	k->mm[QTYPE_BF16] = float_mm_bf16;
	k->mm_packed[QTYPE_F32] = float_packed_f32;
	k->mm_packed[QTYPE_F16] = float_packed_f16;
	k->mm_packed[QTYPE_BF16] = float_packed_bf16;
	k->mm_level[QTYPE_F32] = k->mm_level[QTYPE_F16] = k->mm_level[QTYPE_BF16] = level;
}
