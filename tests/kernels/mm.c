/* mm - matrix products: scalar against a product in double, then every level, in place and packed,
 * against scalar with memcmp, over row ranges, token counts and extreme blocks; weights,
 * activations and results end at forbidden pages. */
#include "tests/kernels/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "kernels/blocks.h"
#include "kernels/pack.h"

enum { ROWS = 37, TOKENS = 33 };

/* Offsets of the f16 fields of a type's block; -1 ends. */
static void factor_offsets(enum qtype type, int at[3])
{
	at[0] = 0;
	at[1] = at[2] = -1;
	switch (type) {
	case QTYPE_Q4_1: case QTYPE_Q5_1: case QTYPE_Q4_K: case QTYPE_Q5_K: at[1] = 2; break;
	case QTYPE_Q2_K: at[0] = 80; at[1] = 82; break;
	case QTYPE_Q3_K: at[0] = 108; break;
	case QTYPE_Q6_K: at[0] = 208; break;
	default: break;
	}
}

void fill_row(void *row, enum qtype type, size_t n_in, int codes, int factor)
{
	const struct qtype_info *info = &qtype_table[type];
	uint8_t *b = row;
	int at[3];

	factor_offsets(type, at);
	for (size_t i = 0; i < n_in / info->block; i++, b += info->bytes) {
		if (codes < 0)
			rnd_bytes(b, info->bytes);
		else
			memset(b, codes, info->bytes);
		if (type == QTYPE_F32) {
			const float f = rnd_float(-2.0f, 2.0f);

			memcpy(b, &f, sizeof(f));
		}
		if (type == QTYPE_BF16)
			b[1] = (uint8_t)((b[1] & 0x80) | (0x30 + (b[1] & 0xf)));
		if (info->act == QACT_F32 && type != QTYPE_F16)
			continue;
		for (int f = 0; at[f] >= 0; f++) {
			const uint16_t h = factor >= 0 ? (uint16_t)factor : rnd_f16();

			memcpy(b + at[f], &h, sizeof(h));
		}
	}
}

/* pattern 0: as activations are; 1: codes of +-127 only; 2: zeros and subnormals; 3: one spike a
 * group. */
static void fill_x(float *x, size_t n, unsigned pattern)
{
	for (size_t i = 0; i < n; i++)
		switch (pattern) {
		case 0: x[i] = rnd_float(-3.0f, 3.0f); break;
		case 1: x[i] = rnd() & 1 ? 1.0f : -1.0f; break;
		case 2: x[i] = rnd() & 1 ? 0.0f : 1e-41f * (float)(i % 7); break;
		default: x[i] = i % 16 == 3 ? 100.0f : rnd_float(-0.1f, 0.1f); break;
		}
}

struct mm_case {
	enum qtype type;
	size_t n_in, row_bytes;
	void *w, *packed;
	size_t packed_bytes;    /* of a group */
	float *x, *want;        /* want: TOKENS x ROWS by scalar */
	void *scratch;
};

static void run(const struct kernels *k, const struct mm_case *c, bool packed, float *y, size_t ldy,
                size_t r0, size_t r1, size_t n_tok)
{
	const size_t mem_bytes = q16_bytes(c->n_in, n_tok);
	void *mem = guarded_alloc(mem_bytes);
	struct q16 q;

	q16_bind(&q, mem, c->n_in, n_tok);
	if (qtype_table[c->type].act == QACT_Q16)
		ref.actq(&q, c->x, c->n_in, 0, n_tok);
	(packed ? k->mm_packed : k->mm)[c->type](&(struct mm_args){
		.y = y,
		.ldy = ldy,
		.w = packed ? c->packed : c->w,
		.row_bytes = packed ? c->packed_bytes / PACK_ROWS : c->row_bytes,
		.n_in = c->n_in,
		.r0 = r0,
		.r1 = r1,
		.n_tok = n_tok,
		.q16 = &q,
		.x = c->x,
		.ldx = c->n_in,
		.scratch = c->scratch,
	});
	guarded_free(mem, mem_bytes);
}

/* One range and token count: the right bytes inside, the canary everywhere else. */
static void compare(const struct level_under_test *level, const struct mm_case *c, bool packed,
                    size_t r0, size_t r1, size_t n_tok)
{
	/* The last row of the last token ends at the forbidden page when r1 is ROWS. */
	const size_t bytes = n_tok * ROWS * sizeof(float);
	float *y = guarded_alloc(bytes);

	memset(y, CANARY, bytes);
	run(&level->k, c, packed, y, ROWS, r0, r1, n_tok);
	check(only_rows(y, c->want, ROWS, r0, r1, n_tok),
	      "%s mm_%s%s: k=%zu rows [%zu, %zu) tokens %zu", level->name, qtype_name(c->type),
	      packed ? " packed" : "", c->n_in, r0, r1, n_tok);
	guarded_free(y, bytes);
}

/* Scalar against the plain sum in double over dequantized weights and the activations as
 * quantized. */
static void check_reference(const struct mm_case *c)
{
	const size_t mem_bytes = q16_bytes(c->n_in, TOKENS);
	void *mem = guarded_alloc(mem_bytes);
	float *w = calloc(c->n_in, sizeof(*w));
	double worst = 0.0;
	struct q16 q;

	q16_bind(&q, mem, c->n_in, TOKENS);
	ref.actq(&q, c->x, c->n_in, 0, TOKENS);
	for (size_t r = 0; r < ROWS; r++) {
		ref.dequant[c->type](w, (char *)c->w + r * c->row_bytes, c->n_in);
		for (size_t t = 0; t < TOKENS; t += 11) {
			double sum = 0.0, mag = 1e-30;

			for (size_t i = 0; i < c->n_in; i++) {
				const size_t at = t * c->n_in + i;
				const double x = qtype_table[c->type].act == QACT_F32
				                         ? (double)c->x[at]
				                         : (double)q.q[at] * (double)q.s[at / 16];

				sum += (double)w[i] * x;
				mag += fabs((double)w[i] * x);
			}
			worst = fmax(worst, fabs(sum - (double)c->want[t * ROWS + r]) / mag);
		}
	}
	/* A sum of n terms in float: n/2 roundings of 2^-24 at the very worst, far fewer in 16
	 * lanes. */
	check(worst < 4e-6, "scalar mm_%s: k=%zu differs from double by %g of the terms",
	      qtype_name(c->type), c->n_in, worst);
	free(w);
	guarded_free(mem, mem_bytes);
}

static void pack_rows(struct mm_case *c)
{
	uint64_t bytes = 0;

	if (pack_group_bytes(&bytes, c->type, c->n_in) < 0)
		return;
	c->packed_bytes = bytes;
	c->packed = guarded_alloc(DIV_UP(ROWS, PACK_ROWS) * bytes);
	for (size_t r = 0; r < ROWS; r += PACK_ROWS)
		pack_unit((char *)c->packed + r / PACK_ROWS * bytes, c->type, PACK_R16,
		           (char *)c->w + r * c->row_bytes, c->row_bytes,
		           MIN(ROWS - r, (size_t)PACK_ROWS), c->n_in);
}

static void check_case(enum qtype type, size_t n_in, int codes, int factor, unsigned pattern,
                       bool full)
{
	static const struct {
		size_t r0, r1;
	} ranges[] = { { 0, ROWS }, { 1, ROWS }, { 3, 4 }, { 5, 7 }, { 8, 24 }, { 2, 13 } },
	  groups[] = { { 0, ROWS }, { 16, ROWS }, { 0, 5 }, { 16, 32 }, { 32, 33 }, { 0, 16 } };
	static const size_t tokens[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, TOKENS };
	struct mm_case c = { .type = type, .n_in = n_in };
	uint64_t row_bytes = 0;

	if (!qtype_row_bytes(type, n_in, &row_bytes))
		return;
	c.row_bytes = row_bytes;
	c.w = guarded_alloc(ROWS * c.row_bytes);
	c.x = guarded_alloc(TOKENS * n_in * sizeof(float));
	c.want = calloc(TOKENS * ROWS, sizeof(float));
	c.scratch = aligned_alloc(64, align_up(KERNELS_SCRATCH(n_in), 64));
	for (size_t r = 0; r < ROWS; r++)
		fill_row((char *)c.w + r * c.row_bytes, type, n_in, codes, factor);
	fill_x(c.x, TOKENS * n_in, pattern);
	pack_rows(&c);
	run(&ref, &c, false, c.want, ROWS, 0, ROWS, TOKENS);
	if (pattern != 2)
		check_reference(&c);
	for (size_t l = 0; l < n_levels; l++)
		for (size_t r = 0; r < ARRAY_SIZE(ranges); r++)
			for (size_t t = 0; t < ARRAY_SIZE(tokens); t++) {
				if ((!full || levels[l].slow) && (r + t) % 4 != 0 &&
				    !(r == 0 && t < 5))
					continue;
				if (levels[l].slow && n_in > 640)
					continue;
				compare(&levels[l], &c, false, ranges[r].r0, ranges[r].r1,
				        tokens[t]);
				compare(&levels[l], &c, true, groups[r].r0, groups[r].r1,
				        tokens[t]);
			}
	/* Row ranges and token counts change nothing in scalar either. */
	compare(&(struct level_under_test){ "scalar", ref, true }, &c, false, 3, 30, 5);
	compare(&(struct level_under_test){ "scalar", ref, true }, &c, true, 16, 35, 5);
	guarded_free(c.packed, DIV_UP(ROWS, PACK_ROWS) * c.packed_bytes);
	guarded_free(c.w, ROWS * c.row_bytes);
	guarded_free(c.x, TOKENS * n_in * sizeof(float));
	free(c.want);
	free(c.scratch);
}

void check_mm(void)
{
	static const size_t widths[] = { 32, 64, 256, 576, 640, 1536, 2048 };
	/* All codes low and high under the largest, smallest and negative factors. */
	static const struct { int codes, factor; } extremes[] = {
		{ 0x00, 0x7bff }, { 0xff, 0x7bff }, { 0xff, 0xfbff }, { 0x80, 0x3c00 },
		{ 0x7f, 0x0001 }, { 0xff, 0x8001 }, { -1, 0 },
	};
	char name[32];

	for (int type = 0; type < QTYPE_COUNT; type++) {
		snprintf(name, sizeof(name), "mm_%s", qtype_name((uint32_t)type));
		if (!ref.mm[type] || !wanted(name))
			continue;
		for (size_t w = 0; w < ARRAY_SIZE(widths); w++)
			check_case((enum qtype)type, widths[w], -1, -1, 0, widths[w] <= 640);
		for (unsigned pattern = 1; pattern < 4; pattern++)
			check_case((enum qtype)type, 512, -1, -1, pattern, false);
		if (qtype_table[type].act != QACT_Q16) {
			/* ragged tail of the 16 lanes */
			check_case((enum qtype)type, 37, -1, -1, 0, true);
			check_case((enum qtype)type, 5, -1, -1, 0, true);
			continue;
		}
		for (size_t e = 0; e < ARRAY_SIZE(extremes); e++)
			check_case((enum qtype)type, 512, extremes[e].codes, extremes[e].factor, 1,
			           false);
	}
}
