/* packed - NEON products with quantized rows: four packed rows (kernels/pack.h) are one vector.
 *
 * sdot takes 4 codes of 4 rows and 4 bytes of a token, a lane of the 16 that are one load, to the
 * rows' exact int32. All codes fit signed bytes; offsets leave through the sums of the activations.
 * A group of 16 elements of 16 rows is unpacked to sixteen registers and met by every token, whose
 * sums stay in the first cache. Rows in place are packed 16 at a time into scratch: that takes an
 * instruction or two a weight, a product by scalar means several. */
#include <arm_neon.h>
#include <string.h>
#include "kernels/kernels.h"
#include "kernels/levels.h"
#include "kernels/pack.h"
#include "kernels/r16.h"
#include "kernels/tables.h"

#define UNINIT __attribute__((uninitialized))
#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16")

enum {
	QUADS = PACK_ROWS / 4,
	BLOCK_TOKENS = 64,      /* whose sums are half of scratch's fixed part */
};

INLINE bool is_values(const enum qtype type)
{
	return type == QTYPE_IQ4_NL || type == QTYPE_IQ4_XS;
}

/* What is to be subtracted from the codes. */
INLINE int32_t code_offset(const enum qtype type)
{
	switch (type) {
	case QTYPE_Q3_K: return 4;
	case QTYPE_Q4_0: return 8;
	case QTYPE_Q5_0: return 16;
	case QTYPE_Q6_K: return 32;
	default: return 0;
	}
}

/* The bits of v under `mask` once bit `from` of every byte is moved to bit `to`. */
INLINE uint8x16_t move_bits(uint8x16_t v, const int from, const int to, const uint8_t mask)
{
	return vandq_u8(vshlq_u8(v, vdupq_n_s8((int8_t)(to - from))), vdupq_n_u8(mask));
}

/* Codes k4 of the rows of a quad; p is the unit. */
INLINE int8x16_t quad_codes(const enum qtype type, const uint8_t *p, const size_t quad,
                            const size_t k4)
{
	static const int8_t values[16] = { IQ4_NL_VALUES };
	const size_t high = r16_bits(type) == 6 ? 128 : r16_bits(type) & 1 ? 64 : 0;
	const uint8_t *q = p + 16 * quad;
	const int two = 2 * (int)(k4 % 4);
	uint8x16_t v, w;

	switch (r16_bits(type)) {
	case 8: return vreinterpretq_s8_u8(vld1q_u8(q + 64 * k4));
	case 2: case 3: v = move_bits(vld1q_u8(q + high + 64 * (k4 / 4)), two, 0, 3); break;
	default:
		v = vld1q_u8(q + high + 64 * (k4 % 4));
		v = k4 < 4 ? vandq_u8(v, vdupq_n_u8(15)) : vshrq_n_u8(v, 4);
	}
	switch (r16_bits(type)) {
	case 3: w = move_bits(vld1q_u8(q), (int)k4, 2, 4); break;
	case 5: w = move_bits(vld1q_u8(q), (int)k4, 4, 16); break;
	case 6: w = move_bits(vld1q_u8(q + 64 * (k4 / 4)), two, 4, 0x30); break;
	default: return is_values(type) ? vqtbl1q_s8(vld1q_s8(values), v)
	                                : vreinterpretq_s8_u8(v);
	}
	return vreinterpretq_s8_u8(vorrq_u8(v, w));
}

/* Factors of one block: of superblocks sc[scale] and mn[scale], for 16 elements or for 32. */
struct factors {
	float32x4_t d[QUADS], m[QUADS];
	int8_t sc[16][PACK_ROWS], mn[16][PACK_ROWS];
};

INLINE bool scales_of_16(const enum qtype type)
{
	return type == QTYPE_Q2_K || type == QTYPE_Q3_K || type == QTYPE_Q6_K;
}

INLINE void put_scale(int8_t out[PACK_ROWS], uint8x16_t v, uint8_t minus)
{
	vst1q_s8(out, vreinterpretq_s8_u8(vsubq_u8(v, vdupq_n_u8(minus))));
}

/* Scale bytes stand as 16 rows each; s is the body. */
INLINE void load_scales(const enum qtype type, struct factors *f, const uint8_t *factors,
                        const uint8_t *s)
{
#define BYTES(j) vld1q_u8(s + PACK_ROWS * (j))
	switch (type) {
	case QTYPE_Q2_K:
		for (size_t j = 0; j < 16; j++) {
			put_scale(f->sc[j], move_bits(BYTES(j), 0, 0, 15), 0);
			put_scale(f->mn[j], move_bits(BYTES(j), 4, 0, 15), 0);
		}
		break;
	case QTYPE_Q3_K:
		for (int j = 0; j < 16; j++)
			put_scale(f->sc[j], vorrq_u8(move_bits(BYTES(j % 8), j / 8 * 4, 0, 15),
			                             move_bits(BYTES(8 + j % 4), j / 4 * 2, 4,
			                                       0x30)), 32);
		break;
	case QTYPE_Q4_K: case QTYPE_Q5_K:
		for (size_t j = 0; j < 4; j++) {
			put_scale(f->sc[j], move_bits(BYTES(j), 0, 0, 63), 0);
			put_scale(f->mn[j], move_bits(BYTES(j + 4), 0, 0, 63), 0);
			put_scale(f->sc[j + 4], vorrq_u8(move_bits(BYTES(j + 8), 0, 0, 15),
			                                 move_bits(BYTES(j), 6, 4, 0x30)), 0);
			put_scale(f->mn[j + 4], vorrq_u8(move_bits(BYTES(j + 8), 4, 0, 15),
			                                 move_bits(BYTES(j + 4), 6, 4, 0x30)), 0);
		}
		break;
	case QTYPE_Q6_K: memcpy(f->sc, s, sizeof(f->sc)); break;
	case QTYPE_IQ4_XS:
		for (int j = 0; j < 8; j++) {
			const int16x8_t by = vdupq_n_s16((int16_t)(-2 * j));
			const uint16_t *high = (const uint16_t *)(const void *)(factors + 64);
			const uint8x16_t top = vcombine_u8(
				vmovn_u16(vshlq_u16(vld1q_u16(high), by)),
				vmovn_u16(vshlq_u16(vld1q_u16(high + 8), by)));

			put_scale(f->sc[j], vorrq_u8(move_bits(BYTES(j / 2), 4 * (j % 2), 0, 15),
			                             move_bits(top, 0, 4, 0x30)), 32);
		}
		break;
	default: break;
	}
#undef BYTES
}

/* 4 rows' f16. */
INLINE float32x4_t load_f16(const uint8_t *p)
{
	return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

INLINE void load_factors(const enum qtype type, struct factors *f, const uint8_t *factors,
                         const uint8_t *body)
{
	UNROLL for (size_t i = 0; i < QUADS; i++) {
		f->d[i] = load_f16(factors + 8 * i);
		if (type_has_min(type))
			f->m[i] = load_f16(factors + 64 + 8 * i);
		if (type_has_min(type) && type_is_super(type))
			f->m[i] = vnegq_f32(f->m[i]);
	}
	load_scales(type, f, factors, body);
}

INLINE float32x4_t scaled(const enum qtype type, float32x4_t d, const int8_t sc[PACK_ROWS],
                          const size_t quad)
{
	const int8x8_t eight = vld1_s8(sc + quad / 2 * 8);
	const int16x8_t wide = vmovl_s8(eight);

	if (!type_is_super(type))
		return d;
	return vmulq_f32(d, vcvtq_f32_s32(vmovl_s16(quad % 2 ? vget_high_s16(wide)
	                                                     : vget_low_s16(wide))));
}

INLINE int32x4_t quad_dots(const int8x16_t c[4], int8x16_t x)
{
	int32x4_t d = vdotq_laneq_s32(vdupq_n_s32(0), c[0], x, 0);

	d = vdotq_laneq_s32(d, c[1], x, 1);
	d = vdotq_laneq_s32(d, c[2], x, 2);
	return vdotq_laneq_s32(d, c[3], x, 3);
}

/* acc plus the group's share; g is the group of the token. */
INLINE float32x4_t fold(const enum qtype type, float32x4_t acc, int32x4_t d, float32x4_t a,
                        float32x4_t c, const struct q16 *x, size_t g)
{
	if (code_offset(type) != 0)
		d = vsubq_s32(d, vdupq_n_s32(x->sum[g] * code_offset(type)));
	acc = vfmaq_f32(acc, vcvtq_f32_s32(d), vmulq_f32(a, vdupq_n_f32(x->s[g])));
	if (type_has_min(type))
		acc = vfmaq_f32(acc, c, vdupq_n_f32(x->t[g]));
	return acc;
}

INLINE void store_rows(float *y, size_t n, const float32x4_t sum[QUADS])
{
	UNINIT float out[PACK_ROWS];
	float *to = n == PACK_ROWS ? y : out;

	UNROLL for (size_t i = 0; i < QUADS; i++)
		vst1q_f32(to + 4 * i, sum[i]);
	if (n < PACK_ROWS)
		memcpy(y, out, n * sizeof(*y));
}

/* Group `odd` of a unit with n_tok tokens; acc is [token][odd][16 rows]. */
INLINE void unit_tokens(const enum qtype type, const struct factors *f, const uint8_t *unit,
                        size_t sub, size_t g, const size_t odd, const struct q16 *q16,
                        size_t n_tok, float *acc)
{
	const size_t scale = scales_of_16(type) ? 2 * sub + odd : sub, step = q16->k / 16;
	const struct q16 x = *q16;
	UNINIT int8x16_t c[QUADS][4];
	UNINIT float32x4_t a[QUADS], min[QUADS];

	UNROLL for (size_t i = 0; i < QUADS; i++) {
		a[i] = min[i] = scaled(type, f->d[i], f->sc[scale], i);
		if (type_has_min(type))
			min[i] = scaled(type, f->m[i], f->mn[scale], i);
		UNROLL for (size_t k4 = 0; k4 < 4; k4++)
			c[i][k4] = quad_codes(type, unit, i, 4 * odd + k4);
	}
	g += odd;
	acc += PACK_ROWS * odd;
	for (size_t t = 0; t < n_tok; t++, g += step, acc += 2 * PACK_ROWS) {
		const int8x16_t e = vld1q_s8(x.q + 16 * g);

		UNROLL for (size_t i = 0; i < QUADS; i++)
			vst1q_f32(acc + 4 * i, fold(type, vld1q_f32(acc + 4 * i),
			                            quad_dots(c[i], e), a[i], min[i], &x, g));
	}
}

/* n rows from r on with tokens [token, token + n_tok), BLOCK_TOKENS at most. */
INLINE void rows(const struct mm_args *m, const enum qtype type, size_t r, size_t n, size_t token,
                 size_t n_tok)
{
	const uint8_t *group = (const uint8_t *)m->w + r * m->row_bytes;
	const size_t units = r16_units(type), n_blocks = m->n_in / (32 * units);
	const size_t first = token * (m->q16->k / 16);
	float *acc = m->scratch;

	memset(acc, 0, n_tok * 2 * PACK_ROWS * sizeof(*acc));
	for (size_t i = 0; i < n_blocks; i++) {
		const uint8_t *body = group + r16_body_at(type, i);
		const uint8_t *unit = body + PACK_ROWS * r16_fields(type).n_scales;
		UNINIT struct factors f;

		load_factors(type, &f, group + r16_factor_at(type, i), body);
		for (size_t sub = 0; sub < units; sub++, unit += r16_unit_bytes(type)) {
			const size_t g = first + 2 * (i * units + sub);

			unit_tokens(type, &f, unit, sub, g, 0, m->q16, n_tok, acc);
			unit_tokens(type, &f, unit, sub, g, 1, m->q16, n_tok, acc);
		}
	}
	for (size_t t = 0; t < n_tok; t++, acc += 2 * PACK_ROWS) {
		UNINIT float32x4_t sum[QUADS];

		UNROLL for (size_t i = 0; i < QUADS; i++)
			sum[i] = vaddq_f32(vld1q_f32(acc + 4 * i),
			                   vld1q_f32(acc + PACK_ROWS + 4 * i));
		store_rows(m->y + (token + t) * m->ldy + r, n, sum);
	}
}

INLINE void packed(const struct mm_args *m, const enum qtype type)
{
	for (size_t t = 0; t < m->n_tok; t += BLOCK_TOKENS)
		for (size_t r = m->r0; r < m->r1; r += PACK_ROWS) {
			const size_t n = m->r1 - r < PACK_ROWS ? m->r1 - r : PACK_ROWS;
			const size_t left = m->n_tok - t;

			rows(m, type, r, n, t, left < BLOCK_TOKENS ? left : BLOCK_TOKENS);
		}
}

/* Rows in place; the packed ones stand behind the fixed part of scratch. */
INLINE void in_place(const struct mm_args *m, const enum qtype type)
{
	struct mm_args group = *m;
	uint8_t *to = (uint8_t *)m->scratch + KERNELS_SCRATCH_FIXED;

	group.w = to;
	group.row_bytes = 0;
	group.r0 = 0;
	for (size_t r = m->r0; r < m->r1; r += PACK_ROWS) {
		group.r1 = m->r1 - r < PACK_ROWS ? m->r1 - r : PACK_ROWS;
		group.y = m->y + r;
		pack_unit(to, type, PACK_R16, (const uint8_t *)m->w + r * m->row_bytes,
		          m->row_bytes, group.r1, m->n_in);
		packed(&group, type);
	}
}

#define DEFINE_PRODUCTS(name, id) \
	static void packed_##name(const struct mm_args *m) \
	{ \
		packed(m, QTYPE_##id); \
	} \
	static void in_place_##name(const struct mm_args *m) \
	{ \
		in_place(m, QTYPE_##id); \
	}
Q16_TYPES(DEFINE_PRODUCTS)

void neon_fill_packed(struct kernels *k)
{
#define SET_PRODUCTS(name, id) \
	k->mm_packed[QTYPE_##id] = packed_##name; \
	k->mm[QTYPE_##id] = in_place_##name; \
	k->mm_level[QTYPE_##id] = "neon";
	Q16_TYPES(SET_PRODUCTS)
}
