/* panel - the panel product of AMX: the order of kernels.h in plain C, from the text alone, against
 * the level where the machine has it and against its sources over a model of the tiles, with
 * memcmp; that plain form against a product in double. Row ranges, token counts and places, in
 * place and packed, change no bit; unused places are NaN; weights, activations, scratch and results
 * end at forbidden pages. And the level's test of itself sees faults. */
#include "tests/kernels/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "kernels/pack.h"

enum { ROWS = 37, TOKENS = 49 };

struct panel_case {
	enum qtype type;
	size_t n_in, row_bytes, packed_bytes, scratch_bytes;
	void *w, *packed, *scratch;
	float *x, *want;                /* want: TOKENS x ROWS */
};

static float as_bf16(float v)
{
	uint32_t bits, low;

	memcpy(&bits, &v, sizeof(bits));
	low = bits & 0xffff;
	bits -= low;
	if (low > 0x8000 || (low == 0x8000 && (bits & 0x10000)))
		bits += 0x10000;
	memcpy(&v, &bits, sizeof(v));
	return v;
}

static float no_subnormal(float v)
{
	return fpclassify(v) == FP_SUBNORMAL ? copysignf(0.0f, v) : v;
}

/* n rounded inputs of a row, zeros behind. */
static void round_row(float *out, const float *in, size_t n)
{
	for (size_t i = 0; i < align_up(n, PANEL_STEP); i++)
		out[i] = i < n ? no_subnormal(as_bf16(in[i])) : 0.0f;
}

static float product(const float *w, const float *x, size_t n)
{
	float acc = 0.0f;

	for (size_t k = 0; k < n; k += 32) {
		float e = 0.0f, o = 0.0f;

		for (size_t i = 0; i < 16; i++) {
			e = no_subnormal(fmaf(w[k + 2 * i], x[k + 2 * i], e));
			o = no_subnormal(fmaf(w[k + 2 * i + 1], x[k + 2 * i + 1], o));
		}
		acc = no_subnormal(acc + no_subnormal(e + o));
	}
	return acc;
}

/* Fills want; what it differs from the exact product, of the sum of the terms' sizes. */
static double reference(struct panel_case *c)
{
	const size_t padded = align_up(c->n_in, PANEL_STEP);
	float *w = calloc(2 * padded, sizeof(*w)), *rounded = w + padded;
	float *x = calloc(TOKENS * padded, sizeof(*x));
	double worst = 0.0;

	for (size_t t = 0; t < TOKENS; t++)
		round_row(x + t * padded, c->x + t * c->n_in, c->n_in);
	for (size_t r = 0; r < ROWS; r++) {
		ref.dequant[c->type](w, (char *)c->w + r * c->row_bytes, c->n_in);
		round_row(rounded, w, c->n_in);
		for (size_t t = 0; t < TOKENS; t++) {
			double sum = 0.0, size = 1e-30;
			const float y = product(rounded, x + t * padded, padded);

			c->want[t * ROWS + r] = y;
			for (size_t i = 0; i < c->n_in && t % 16 == 0; i++) {
				const double term = (double)w[i] * (double)c->x[t * c->n_in + i];

				sum += term;
				size += fabs(term);
			}
			if (t % 16 == 0)
				worst = fmax(worst, fabs(sum - (double)y) / size);
		}
	}
	free(w);
	free(x);
	return worst;
}

/* Tokens [t0, t0 + n_tok) with rows [r0, r1): the right bytes there, the canary elsewhere. */
static void compare(const char *level, const struct kernels *k, const struct panel_case *c,
                    bool packed, size_t r0, size_t r1, size_t t0, size_t n_tok)
{
	const size_t bytes = n_tok * ROWS * sizeof(float), place = t0 % PANEL_TOKENS;
	const size_t tiles_bytes = panel_in_bytes(c->n_in, place + n_tok);
	uint16_t *tiles = guarded_alloc(tiles_bytes);
	float *y = guarded_alloc(bytes);

	memset(tiles, 0xff, tiles_bytes);
	memset(y, CANARY, bytes);
	for (size_t t = 0; t < n_tok; t++)
		k->panel_in(tiles, c->x + (t0 + t) * c->n_in, c->n_in, place + t);
	(packed ? k->panel_packed : k->panel)[c->type](&(struct mm_args){
		.y = y,
		.ldy = ROWS,
		.w = packed ? c->packed : c->w,
		.row_bytes = packed ? c->packed_bytes / PACK_ROWS : c->row_bytes,
		.n_in = c->n_in,
		.r0 = r0,
		.r1 = r1,
		.n_tok = n_tok,
		.tiles = tiles,
		.place = place,
		.scratch = c->scratch,
	});
	check(only_rows(y, c->want + t0 * ROWS, ROWS, r0, r1, n_tok),
	      "%s panel_%s%s: k=%zu rows [%zu, %zu) tokens [%zu, %zu)", level,
	      qtype_name(c->type), packed ? " packed" : "", c->n_in, r0, r1, t0, t0 + n_tok);
	guarded_free(tiles, tiles_bytes);
	guarded_free(y, bytes);
}

static void compare_all(const char *level, const struct kernels *k, const struct panel_case *c,
                        bool few)
{
	static const struct {
		size_t r0, r1, t0, n_tok;
		bool packed;
	} runs[] = {
		{ 0, ROWS, 0, 33, false }, { 0, ROWS, 0, 33, true },
		{ 16, 32, 5, 1, true },    { 3, 20, 15, 2, false },
		{ 32, 33, 0, 32, true },   { 5, 37, 1, 48, false },
		{ 16, ROWS, 32, 17, true }, { 0, 5, 9, 7, true },
		{ 36, 37, 31, 16, false }, { 0, 32, 16, 16, false },
	};

	for (size_t i = 0; i < (few ? 2 : ARRAY_SIZE(runs)); i++)
		compare(level, k, c, runs[i].packed, runs[i].r0, runs[i].r1, runs[i].t0,
		        runs[i].n_tok);
}

/* tiny: results and terms that are subnormals, among others. */
static void check_case(enum qtype type, size_t n_in, int factor, bool tiny, bool few)
{
	struct panel_case c = { .type = type, .n_in = n_in };
	uint64_t row_bytes = 0, packed = 0;
	double worst;

	if (!qtype_row_bytes(type, n_in, &row_bytes) ||
	    pack_group_bytes(&packed, type, n_in) < 0)
		return;
	c.row_bytes = row_bytes;
	c.packed_bytes = packed;
	c.scratch_bytes = kernels_panel_scratch(n_in);
	c.w = guarded_alloc(ROWS * c.row_bytes);
	c.packed = guarded_alloc(DIV_UP(ROWS, PACK_ROWS) * c.packed_bytes);
	c.scratch = guarded_alloc(c.scratch_bytes);
	c.x = guarded_alloc(TOKENS * n_in * sizeof(float));
	c.want = calloc(TOKENS * ROWS, sizeof(float));
	for (size_t r = 0; r < ROWS; r++)
		fill_row((char *)c.w + r * c.row_bytes, type, n_in, -1, factor);
	for (size_t i = 0; i < TOKENS * n_in; i++)
		c.x[i] = ldexpf(rnd_float(-3.0f, 3.0f), tiny ? -118 - (int)(i % 11) : 0);
	for (size_t r = 0; r < ROWS; r += PACK_ROWS)
		pack_unit((char *)c.packed + r / PACK_ROWS * c.packed_bytes, type, PACK_R16,
		           (char *)c.w + r * c.row_bytes, c.row_bytes,
		           MIN(ROWS - r, (size_t)PACK_ROWS), n_in);
	worst = reference(&c);
	/* Two operands, each off by half of the last of 8 bits. */
	check(tiny || worst < 0x1.02p-7, "panel_%s: k=%zu differs from double by %g of the terms",
	      qtype_name(type), n_in, worst);
	for (size_t l = 0; l < n_levels; l++)
		if (levels[l].k.panel_in)
			compare_all(levels[l].name, &levels[l].k, &c, false);
#ifdef QLLM_TEST_EMULATE
	if (strstr(kernels_levels(), "avx2")) {
		struct kernels emulated = { 0 };

		emulated_fill_panel(&emulated);
		compare_all("amx-emulated", &emulated, &c, few);
	}
#endif
	guarded_free(c.w, ROWS * c.row_bytes);
	guarded_free(c.packed, DIV_UP(ROWS, PACK_ROWS) * c.packed_bytes);
	guarded_free(c.scratch, c.scratch_bytes);
	guarded_free(c.x, TOKENS * n_in * sizeof(float));
	free(c.want);
}

/* Ties, overflow, subnormals, NaN, and zeros behind the last element. */
static void check_rounding(const char *level, const struct kernels *k)
{
	static const struct {
		uint32_t in;
		uint16_t want;
	} v[] = {
		{ 0x3f800000, 0x3f80 }, { 0x3f808000, 0x3f80 }, { 0x3f808001, 0x3f81 },
		{ 0x3f818000, 0x3f82 }, { 0xbf817fff, 0xbf81 }, { 0x7f7fffff, 0x7f80 },
		{ 0xff800000, 0xff80 }, { 0x7fffffff, 0x7fc0 }, { 0xffffffff, 0x7fc0 },
		{ 0x7f800001, 0x7fc0 }, { 0x80000000, 0x8000 }, { 0x00018000, 0x0002 },
	};
	const size_t bytes = panel_in_bytes(ARRAY_SIZE(v), 7);
	uint16_t *tiles = guarded_alloc(bytes);
	float x[ARRAY_SIZE(v)];
	bool ok = true;

	memset(tiles, 0xff, bytes);
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		memcpy(&x[i], &v[i].in, sizeof(x[i]));
	k->panel_in(tiles, x, ARRAY_SIZE(v), 6);
	for (size_t i = 0; i < bytes / sizeof(*tiles); i++) {
		const size_t at = i - 6 * PANEL_STEP;

		if (i / PANEL_STEP != 6)
			ok &= tiles[i] == 0xffff;
		else
			ok &= tiles[i] == (at < ARRAY_SIZE(v) ? v[at].want : 0);
	}
	check(ok, "%s panel_in: rounding", level);
	guarded_free(tiles, bytes);
}

#ifdef QLLM_TEST_EMULATE
static void check_self_test(void)
{
	const char *why[3];

	for (tile_fault = TILES_HOLD; tile_fault <= TILES_WRONG; tile_fault++)
		why[tile_fault] = emulated_self_test();
	tile_fault = TILES_HOLD;
	check(!why[TILES_HOLD], "panel_trust: good tiles: %s", why[TILES_HOLD]);
	check(why[TILES_LOST] && strstr(why[TILES_LOST], "lost"), "panel_trust: lost tiles");
	check(why[TILES_WRONG] && strstr(why[TILES_WRONG], "wrong"), "panel_trust: wrong product");
}
#endif

void check_panel(void)
{
	static const size_t widths[] = { 32, 96, 256, 576, 768 }, ragged[] = { 1, 37, 290 };
	char name[32];

	for (int type = 0; type < QTYPE_COUNT; type++) {
		snprintf(name, sizeof(name), "panel_%s", qtype_name((uint32_t)type));
		if (!ref.mm[type] || !wanted(name))
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(widths); i++)
			check_case((enum qtype)type, widths[i], -1, false, widths[i] > 256);
		for (size_t i = 0; i < ARRAY_SIZE(ragged); i++)
			if (qtype_table[type].block == 1)
				check_case((enum qtype)type, ragged[i], -1, false, false);
		/* Factors of 2^-14: products at and below the smallest normal float. */
		check_case((enum qtype)type, 256, 0x0400, true, true);
	}
	for (size_t l = 0; l < n_levels; l++)
		if (levels[l].k.panel_in && wanted("panel_in"))
			check_rounding(levels[l].name, &levels[l].k);
#ifdef QLLM_TEST_EMULATE
	if (wanted("panel_in") && strstr(kernels_levels(), "avx2")) {
		struct kernels emulated = { 0 };

		emulated_fill_panel(&emulated);
		check_rounding("amx-emulated", &emulated);
	}
#endif
	/* More rows than a panel holds. */
	if (wanted("panel_Q8_0"))
		check_case(QTYPE_Q8_0, 12288, -1, false, true);
#ifdef QLLM_TEST_EMULATE
	if (wanted("panel_trust") && strstr(kernels_levels(), "avx2"))
		check_self_test();
#endif
}
