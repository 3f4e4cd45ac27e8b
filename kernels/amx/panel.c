/* panel - products of the prompt path on AMX tiles.
 *
 * Groups of 16 rows are expanded to bf16 tiles {k / 2, 16 rows, 2} with factor and minimum folded
 * in, as many groups as stay in the second cache; then all tokens pass, 32 at a time against 32
 * rows: four tiles of sums, which stay in registers over all k, two of tokens, two of weights.
 * Nothing is scaled or added outside of the tiles.
 * Invariant: a tile's sum of row m and column n depends on row m of one operand and column n of the
 * other. So unused places of a block of tokens may hold anything, and neither the place of a token
 * nor that of a row changes a bit. */
#include "kernels/amx/tile.h"

#include "base/num.h"
#include "kernels/avx2/dequant.h"
#include "kernels/avx512/r16.h"
#include "kernels/f16.h"
#include "kernels/levels.h"

enum {
	TILE = 512,                     /* bf16 of one */
	LINE = 32,                      /* of one of its rows */
	SLAB = 256,                     /* elements of in-place rows expanded at once */
};

/* Makes the tiles of rows [r, r + n), n <= 16, of m. */
typedef void (*expand_fn)(uint16_t *tiles, const struct mm_args *m, size_t r, size_t n);

/* Upper halves: v as bf16. */
INLINE __m512i round_bf16(__m512 v)
{
	const __m512i bits = _mm512_castps_si512(v);
	const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
	const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);

	return _mm512_mask_mov_epi32(up, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
	                             _mm512_set1_epi32(0x7fc00000));
}

/* Words of two bf16, the even element low. */
INLINE __m512i pairs_bf16(__m512 even, __m512 odd)
{
	return _mm512_or_si512(_mm512_srli_epi32(round_bf16(even), 16),
	                       _mm512_and_si512(round_bf16(odd), _mm512_set1_epi32(-65536)));
}

/* n floats, a multiple of 16. */
INLINE void row_bf16(uint16_t *out, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		const __m512i v = _mm512_srli_epi32(round_bf16(_mm512_loadu_ps(x + i)), 16);

		_mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtepi32_epi16(v));
	}
}

static void panel_in(uint16_t *tiles, const float *x, size_t k, size_t place)
{
	const size_t steps = DIV_UP(k, (size_t)PANEL_STEP);
	uint16_t *out = tiles + place / PANEL_TOKENS * steps * TILE + place % PANEL_TOKENS * LINE;

	for (size_t i = 0; i < k; i += PANEL_STEP, out += TILE) {
		UNINIT float rest[PANEL_STEP];

		if (k - i < PANEL_STEP) {
			memset(rest, 0, sizeof(rest));
			memcpy(rest, x + i, (k - i) * sizeof(*x));
		}
		row_bf16(out, k - i < PANEL_STEP ? rest : x + i, PANEL_STEP);
	}
}

/* --- packed rows ------------------------------------------------------------------------------ */

/* Element b of each four. a * q is exact: the fma rounds where dequant's sum does. */
INLINE __m512 value512(const enum qtype type, __m512 a, __m512 c, __m512i codes, const unsigned b)
{
	__m512 q;

	if (b < 3)
		codes = _mm512_slli_epi32(codes, 24 - 8 * b);
	q = _mm512_cvtepi32_ps(_mm512_srai_epi32(codes, 24));
	return type_has_min(type) ? _mm512_fmadd_ps(a, q, c) : _mm512_mul_ps(a, q);
}

/* One tile: 32 elements of all rows. */
INLINE void expand_unit(const enum qtype type, uint16_t *tile, const struct factors512 *f,
                        const uint8_t *unit, size_t sub)
{
	UNROLL for (size_t odd = 0; odd < 2; odd++) {
		const size_t scale = r16_scale(type, sub, odd);
		__m512 a = f->d, c = a;

		if (type_is_super(type))
			a = _mm512_mul_ps(a, signed_bytes512(f->f.sc[scale]));
		if (type_has_min(type))
			c = type_is_super(type)
			            ? _mm512_mul_ps(f->m, signed_bytes512(f->f.mn[scale]))
			            : f->m;
		UNROLL for (size_t i = 4 * odd; i < 4 * odd + 4; i++) {
			const int shift = bias_shift(type);
			__m512i q = codes512(type, unit, i);

			if (shift >= 0)
				q = _mm512_sub_epi8(q, _mm512_set1_epi8((char)(1 << shift)));
			_mm512_storeu_si512(tile + 2 * i * LINE,
			                    pairs_bf16(value512(type, a, c, q, 0),
			                               value512(type, a, c, q, 1)));
			_mm512_storeu_si512(tile + (2 * i + 1) * LINE,
			                    pairs_bf16(value512(type, a, c, q, 2),
			                               value512(type, a, c, q, 3)));
		}
	}
}

INLINE void expand_packed(const enum qtype type, uint16_t *tiles, const struct mm_args *m, size_t r)
{
	const uint8_t *group = (const uint8_t *)m->w + r * m->row_bytes;
	const size_t units = r16_units(type), n_blocks = m->n_in / (32 * units);

	for (size_t i = 0; i < n_blocks; i++) {
		const uint8_t *body = group + r16_body_at(type, i);
		const uint8_t *unit = body + PACK_ROWS * r16_fields(type).n_scales;
		UNINIT struct factors512 f;

		load_factors512(type, &f, group + r16_factor_at(type, i), body);
		for (size_t sub = 0; sub < units; sub++, tiles += TILE) {
			expand_unit(type, tiles, &f, unit, sub);
			unit += r16_unit_bytes(type);
		}
	}
}

/* --- rows in place ---------------------------------------------------------------------------- */

/* n elements of a row of floats, as float. */
INLINE void widen(const enum qtype type, float *x, const uint8_t *row, size_t n)
{
	size_t i = 0;

	if (type == QTYPE_F32) {
		memcpy(x, row, n * sizeof(*x));
		return;
	}
	for (; i + 16 <= n; i += 16) {
		const __m256i h = load256(row + 2 * i);
		const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);

		_mm512_storeu_ps(x + i, type == QTYPE_F16 ? _mm512_cvtph_ps(h)
		                                          : _mm512_castsi512_ps(wide));
	}
	for (; i < n; i++) {
		uint16_t h;

		memcpy(&h, row + 2 * i, sizeof(h));
		x[i] = type == QTYPE_F16 ? f16_load(h) : bf16_load(h);
	}
}

INLINE bool is_float(const enum qtype type)
{
	return type == QTYPE_F32 || type == QTYPE_F16 || type == QTYPE_BF16;
}

/* Word c of row r to word r of row c. */
INLINE void transpose16(uint16_t *tile, const uint16_t *rows, size_t ld)
{
	UNINIT __m512i v[16], t[16];

	UNROLL for (size_t i = 0; i < 16; i++)
		v[i] = load512(rows + i * ld);
	UNROLL for (size_t i = 0; i < 16; i += 2) {
		t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
		t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
	}
	/* v[4q + c]: words c of the four lanes of rows 4q to 4q + 3 */
	UNROLL for (size_t i = 0; i < 16; i += 4) {
		v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
		v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
		v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
		v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
	}
	UNROLL for (size_t c = 0; c < 4; c++) {
		const __m512i even01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88),
			      odd01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xdd),
			      even23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88),
			      odd23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xdd);

		_mm512_storeu_si512(tile + c * LINE, _mm512_shuffle_i32x4(even01, even23, 0x88));
		_mm512_storeu_si512(tile + (4 + c) * LINE,
		                    _mm512_shuffle_i32x4(odd01, odd23, 0x88));
		_mm512_storeu_si512(tile + (8 + c) * LINE,
		                    _mm512_shuffle_i32x4(even01, even23, 0xdd));
		_mm512_storeu_si512(tile + (12 + c) * LINE,
		                    _mm512_shuffle_i32x4(odd01, odd23, 0xdd));
	}
}

/* n rows at `rows`; those up to 16 are zeros. */
INLINE void expand_rows(const enum qtype type, uint16_t *tiles, const uint8_t *rows,
                        size_t row_bytes, size_t n, size_t n_in)
{
	UNINIT uint16_t slab[PACK_ROWS][SLAB];
	UNINIT float x[SLAB];

	memset(slab, 0, sizeof(slab));
	for (size_t k = 0; k < n_in; k += SLAB) {
		const size_t n_k = MIN(n_in - k, (size_t)SLAB), whole = align_up(n_k, PANEL_STEP);
		const uint8_t *from =
			rows + k / qtype_table[type].block * qtype_table[type].bytes;

		for (size_t r = 0; r < n; r++, from += row_bytes) {
			if (is_float(type))
				widen(type, x, from, n_k);
			else
				dequant(x, from, n_k, type);
			memset(x + n_k, 0, (whole - n_k) * sizeof(*x));
			row_bf16(slab[r], x, whole);
		}
		for (size_t i = 0; i < whole; i += PANEL_STEP, tiles += TILE)
			transpose16(tiles, &slab[0][i], SLAB);
	}
}

/* --- products --------------------------------------------------------------------------------- */

/* One tile of sums: tokens at places [place, place + 16), rows [r, r + n). */
struct corner {
	size_t place, r, n;
};

static void store_corner(const struct mm_args *m, const int tile, struct corner c)
{
	const size_t first = MAX(c.place, m->place),
		     end = MIN(c.place + PANEL_TOKENS, m->place + m->n_tok);
	const bool whole = end - first == PANEL_TOKENS && c.n == PACK_ROWS;
	_Alignas(64) UNINIT float sums[PANEL_TOKENS][PACK_ROWS];
	float *y = m->y + (first - m->place) * m->ldy + c.r, *to = whole ? y : sums[0];
	const size_t step = (whole ? m->ldy : PACK_ROWS) * sizeof(float);

	switch (tile) {
	case 0: tile_store(0, to, step); break;
	case 1: tile_store(1, to, step); break;
	case 2: tile_store(2, to, step); break;
	default: tile_store(3, to, step);
	}
	for (size_t p = first; !whole && p < end; p++)
		memcpy(y + (p - first) * m->ldy, sums[p - c.place], c.n * sizeof(*y));
}

/* Two blocks of tokens (or one) with two groups of rows (or one). */
INLINE void multiply(const uint16_t *x, const uint16_t *w, size_t steps, const bool two_x,
                     const bool two_w)
{
	const size_t next = steps * TILE;

	tile_zero(0);
	tile_zero(1);
	tile_zero(2);
	tile_zero(3);
	for (size_t i = 0; i < steps; i++, x += TILE, w += TILE) {
		tile_load(4, x, 64);
		tile_load(6, w, 64);
		tile_dot(0, 4, 6);
		if (two_w) {
			tile_load(7, w + next, 64);
			tile_dot(1, 4, 7);
		}
		if (two_x) {
			tile_load(5, x + next, 64);
			tile_dot(2, 5, 6);
		}
		if (two_x && two_w)
			tile_dot(3, 5, 7);
	}
}

/* Tokens from `place` on (a block's first) with n rows from r on, whose tiles are w. */
static void square(const struct mm_args *m, const uint16_t *w, size_t steps, size_t place,
                   size_t r, size_t n)
{
	const uint16_t *x = m->tiles + place / PANEL_TOKENS * steps * TILE;
	const bool two_x = place + PANEL_TOKENS < m->place + m->n_tok, two_w = n > PACK_ROWS;
	const size_t n0 = MIN(n, (size_t)PACK_ROWS), n1 = n - n0;

	if (two_x && two_w)
		multiply(x, w, steps, true, true);
	else if (two_x)
		multiply(x, w, steps, true, false);
	else if (two_w)
		multiply(x, w, steps, false, true);
	else
		multiply(x, w, steps, false, false);
	store_corner(m, 0, (struct corner){ place, r, n0 });
	if (two_w)
		store_corner(m, 1, (struct corner){ place, r + PACK_ROWS, n1 });
	if (two_x)
		store_corner(m, 2, (struct corner){ place + PANEL_TOKENS, r, n0 });
	if (two_x && two_w)
		store_corner(m, 3, (struct corner){ place + PANEL_TOKENS, r + PACK_ROWS, n1 });
}

static void product(const struct mm_args *m, expand_fn expand)
{
	static const struct tile_shape shape = TILE_SHAPE;
	const size_t steps = DIV_UP(m->n_in, (size_t)PANEL_STEP),
		     pair = 2 * steps * TILE * sizeof(uint16_t),
		     most = MAX(KERNELS_PANEL_BYTES / pair, (size_t)1) * 2 * PACK_ROWS;
	uint16_t *panel = m->scratch;

	tile_config(&shape);
	for (size_t r = m->r0, n; r < m->r1; r += n) {
		n = MIN(m->r1 - r, most);
		for (size_t i = 0; i < n; i += PACK_ROWS)
			expand(panel + i / PACK_ROWS * steps * TILE, m, r + i,
			       MIN(n - i, (size_t)PACK_ROWS));
		for (size_t p = 0; p < m->place + m->n_tok; p += 2 * PANEL_TOKENS)
			for (size_t i = 0; i < n; i += 2 * PACK_ROWS)
				square(m, panel + i / PACK_ROWS * steps * TILE, steps, p, r + i,
				       MIN(n - i, (size_t)2 * PACK_ROWS));
	}
	tile_release();
}

#define DEFINE_IN_PLACE(name, id) \
	static void expand_rows_##name(uint16_t *tiles, const struct mm_args *m, size_t r, \
				       size_t n) \
	{ \
		expand_rows(QTYPE_##id, tiles, (const uint8_t *)m->w + r * m->row_bytes, \
			    m->row_bytes, n, m->n_in); \
	} \
	static void panel_##name(const struct mm_args *m) \
	{ \
		product(m, expand_rows_##name); \
	}
#define DEFINE_PACKED(name, id) \
	static void expand_packed_##name(uint16_t *tiles, const struct mm_args *m, size_t r, \
					 size_t n) \
	{ \
		(void)n; \
		expand_packed(QTYPE_##id, tiles, m, r); \
	} \
	static void packed_##name(const struct mm_args *m) \
	{ \
		product(m, expand_packed_##name); \
	}
/* Packed, they lie as in the file, group after group. */
#define DEFINE_FLOAT(name, id) \
	DEFINE_IN_PLACE(name, id) \
	static void expand_packed_##name(uint16_t *tiles, const struct mm_args *m, size_t r, \
					 size_t n) \
	{ \
		expand_rows(QTYPE_##id, tiles, (const uint8_t *)m->w + r * m->row_bytes, \
			    m->n_in * qtype_table[QTYPE_##id].bytes, n, m->n_in); \
	} \
	static void packed_##name(const struct mm_args *m) \
	{ \
		product(m, expand_packed_##name); \
	}
#define FLOAT_TYPES(X) X(f32, F32) X(f16, F16) X(bf16, BF16)
Q16_TYPES(DEFINE_IN_PLACE)
Q16_TYPES(DEFINE_PACKED)
FLOAT_TYPES(DEFINE_FLOAT)

void amx_fill_panel(struct kernels *k)
{
#define SET_PANEL(name, id) \
	k->panel[QTYPE_##id] = panel_##name; \
	k->panel_packed[QTYPE_##id] = packed_##name;
	Q16_TYPES(SET_PANEL)
	FLOAT_TYPES(SET_PANEL)
	k->panel_in = panel_in;
}
