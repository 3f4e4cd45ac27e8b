/* mm - the reference matrix products: a weight row is unpacked once into scratch, then met by every
 * token. A packed row is put back as it was in the file first: both layouts mean the same. */
#include "base/num.h"
#include "kernels/levels.h"
#include "kernels/pack.h"
#include "kernels/scalar/unpack.h"

typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef int8_t i8x8 __attribute__((vector_size(8)));

/* Exact: |q * x| <= 128 * 127, so that a pair of products fits 16 bits. */
static inline int32_t dot16(const int8_t *q, const int8_t *x)
{
	i8x8 q0, q1, x0, x1;
	i16x8 p;
	int32_t sum = 0;

	memcpy(&q0, q, 8);
	memcpy(&q1, q + 8, 8);
	memcpy(&x0, x, 8);
	memcpy(&x1, x + 8, 8);
	p = __builtin_convertvector(q0, i16x8) * __builtin_convertvector(x0, i16x8) +
	    __builtin_convertvector(q1, i16x8) * __builtin_convertvector(x1, i16x8);
	for (int i = 0; i < 8; i++)
		sum += p[i];
	return sum;
}

static inline __attribute__((always_inline)) void mm_q16(const struct mm_args *m,
                                                         const enum qtype type)
{
	const size_t block = type_is_super(type) ? 256 : 32, bytes = type_bytes(type),
		     n_group = m->n_in / 16;
	float *a = m->scratch, *c = a + n_group;
	int8_t *q = (int8_t *)(c + n_group);

	for (size_t r = m->r0; r < m->r1; r++) {
		const uint8_t *row = (const uint8_t *)m->w + r * m->row_bytes;
		struct unpacked u;

		for (size_t i = 0; i < m->n_in / block; i++) {
			unpack_block(&u, type, row + i * bytes);
			memcpy(q + i * block, u.q, block);
			memcpy(a + i * block / 16, u.a, block / 16 * sizeof(*a));
			if (type_has_min(type))
				memcpy(c + i * block / 16, u.c, block / 16 * sizeof(*c));
		}
		for (size_t t = 0; t < m->n_tok; t++) {
			const int8_t *x = m->q16->q + t * m->n_in;
			const float *xs = m->q16->s + t * n_group, *xt = m->q16->t + t * n_group;
			float acc[2] = { 0 };

			for (size_t j = 0; j < n_group; j++) {
				float *sum = &acc[j & 1];

				*sum = __builtin_fmaf((float)dot16(q + 16 * j, x + 16 * j),
				                      a[j] * xs[j], *sum);
				if (type_has_min(type))
					*sum = __builtin_fmaf(c[j], xt[j], *sum);
			}
			m->y[t * m->ldy + r] = acc[0] + acc[1];
		}
	}
}

#define DEFINE_MM(name, id) \
	static void mm_##name(const struct mm_args *m) \
	{ \
		mm_q16(m, QTYPE_##id); \
	}
Q16_TYPES(DEFINE_MM)

static inline float load_element(enum qtype type, const void *row, size_t i)
{
	if (type == QTYPE_F32) {
		float f;

		memcpy(&f, (const char *)row + 4 * i, 4);
		return f;
	}
	uint16_t h;

	memcpy(&h, (const char *)row + 2 * i, 2);
	return type == QTYPE_F16 ? f16_load(h) : bf16_load(h);
}

static inline __attribute__((always_inline)) void mm_float(const struct mm_args *m,
                                                           const enum qtype type)
{
	for (size_t r = m->r0; r < m->r1; r++)
		for (size_t t = 0; t < m->n_tok; t++) {
			const uint8_t *row = (const uint8_t *)m->w + r * m->row_bytes;
			const float *x = m->x + t * m->ldx;
			float lane[16] = { 0 };

			for (size_t i = 0; i < m->n_in; i++)
				lane[i % 16] = __builtin_fmaf(load_element(type, row, i), x[i],
				                              lane[i % 16]);
			for (size_t width = 8; width > 0; width /= 2)
				for (size_t l = 0; l < width; l++)
					lane[l] += lane[l + width];
			m->y[t * m->ldy + r] = lane[0];
		}
}

static void mm_f32(const struct mm_args *m)
{
	mm_float(m, QTYPE_F32);
}

static void mm_f16(const struct mm_args *m)
{
	mm_float(m, QTYPE_F16);
}

static void mm_bf16(const struct mm_args *m)
{
	mm_float(m, QTYPE_BF16);
}

static void mm_packed(const struct mm_args *m, enum qtype type, mm_fn in_place)
{
	/* The product in place takes less than half of the scratch. */
	uint8_t *row = (uint8_t *)m->scratch + align_up(m->n_in * 32, 64);
	struct mm_args one = *m;

	one.w = row;
	one.r0 = 0;
	one.r1 = 1;
	for (size_t r = m->r0; r < m->r1; r++) {
		const size_t in_group = r % PACK_ROWS;

		unpack_row(row, type, PACK_R16,
		           (const uint8_t *)m->w + (r - in_group) * m->row_bytes, PACK_ROWS,
		           in_group, m->n_in);
		one.y = m->y + r;
		in_place(&one);
	}
}

#define DEFINE_PACKED(name, id) \
	static void mm_packed_##name(const struct mm_args *m) \
	{ \
		mm_packed(m, QTYPE_##id, mm_##name); \
	}
Q16_TYPES(DEFINE_PACKED)
DEFINE_PACKED(f32, F32)
DEFINE_PACKED(f16, F16)
DEFINE_PACKED(bf16, BF16)

void scalar_fill_mm(struct kernels *k)
{
#define SET_MM(name, id) \
	k->mm[QTYPE_##id] = mm_##name; \
	k->mm_packed[QTYPE_##id] = mm_packed_##name;
	Q16_TYPES(SET_MM)
	SET_MM(f32, F32)
	SET_MM(f16, F16)
	SET_MM(bf16, BF16)
	for (int type = 0; type < QTYPE_COUNT; type++)
		k->mm_level[type] = k->mm[type] ? "scalar" : NULL;
}
