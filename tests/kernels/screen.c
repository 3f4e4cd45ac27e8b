/* screen - groups in two parts: every level puts them together to the group that Q8_0 has, and its
 * bounds, the same bits as scalar's, are above the product of every row and never far above. */
#include "tests/kernels/check.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "kernels/pack.h"

enum { TOKENS = 3, FIXED = 3 };

struct screen_case {
	size_t n_in, row_bytes, group_bytes;
	uint8_t *rows, *split, *whole;
	float *x, *t, *e;
	void *mem, *scratch;
	struct q16 q16;
};

/* Rows of random codes, or of codes whose low bits are all 0 or 7 against activations of one sign:
 * where the bound is met. */
static void fill(struct screen_case *c, unsigned kind)
{
	for (size_t r = 0; r < PACK_ROWS; r++) {
		uint8_t *row = c->rows + r * c->row_bytes;

		fill_row(row, QTYPE_Q8_0, c->n_in, -1, -1);
		for (size_t i = 0; kind > 0 && i < c->n_in / 32; i++)
			for (size_t l = 2; l < 34; l++)
				row[34 * i + l] = (uint8_t)((row[34 * i + l] & 0xf8) |
				                            (kind == 1 ? 0 : 7));
	}
	for (size_t i = 0; i < TOKENS * c->n_in; i++)
		c->x[i] = kind > 0 ? rnd_float(0.1f, 3.0f) : rnd_float(-3.0f, 3.0f);
	ref.actq(&c->q16, c->x, c->n_in, 0, TOKENS);
	pack_unit(c->split, QTYPE_Q8_0, PACK_SPLIT, c->rows, c->row_bytes, PACK_ROWS, c->n_in);
	pack_unit(c->whole, QTYPE_Q8_0, PACK_R16, c->rows, c->row_bytes, PACK_ROWS, c->n_in);
	for (size_t i = 0; i < TOKENS; i++) {
		struct q16 x = { c->q16.q + i * c->n_in, c->q16.s + i * (c->n_in / 16),
			         c->q16.t + i * (c->n_in / 16), c->q16.sum + i * (c->n_in / 16),
			         c->n_in };

		screen_terms(c->t + i * (c->n_in / 32), c->e + i * (c->n_in / 32), &x);
	}
}

static void products(const struct kernels *k, const struct screen_case *c, enum qtype type,
                     const void *group, float *y)
{
	const struct mm_args a = { .y = y, .ldy = PACK_ROWS, .w = group,
		                   .row_bytes = c->group_bytes / PACK_ROWS, .n_in = c->n_in,
		                   .r1 = PACK_ROWS, .n_tok = TOKENS, .q16 = &c->q16,
		                   .scratch = c->scratch };

	k->mm_packed[type](&a);
}

/* The screen says of each token what its bounds say. */
static void bounds(const char *level, const struct kernels *k, const struct screen_case *c,
                   float floor, float *y)
{
	products(k, c, QTYPE_Q5_0, c->split, y);
	for (size_t i = 0; i < TOKENS; i++) {
		float *up = y + i * PACK_ROWS;
		bool is = k->screen(up, c->split, c->n_in, c->t + i * (c->n_in / 32),
		                    c->e + i * (c->n_in / 32), floor), want = false;

		for (size_t r = 0; r < PACK_ROWS; r++)
			want |= !isfinite(up[r]) || up[r] >= floor;
		check(is == want, "%s screen: k=%zu: %d where the floor is %g", level, c->n_in, is,
		      (double)floor);
	}
}

/* Floors around the largest bound of the first token. */
static void check_floors(const char *level, const struct kernels *k, const struct screen_case *c,
                         const float *up)
{
	float most = up[0], y[TOKENS * PACK_ROWS];

	for (size_t r = 1; r < PACK_ROWS; r++)
		most = fmaxf(most, up[r]);
	bounds(level, k, c, most, y);
	bounds(level, k, c, nextafterf(most, INFINITY), y);
	bounds(level, k, c, -INFINITY, y);
}

/* The largest that the low bits can add is 7.5 of the sum of |d| s |q|, twice e's 4 but for 0.5. */
static void check_bounds(const struct screen_case *c, const float *up, const float *y)
{
	bool above = true, near = true;

	for (size_t i = 0; i < TOKENS; i++)
		for (size_t r = 0; r < PACK_ROWS; r++) {
			double most = 0;

			for (size_t b = 0; b < c->n_in / 32; b++) {
				uint16_t d;

				memcpy(&d, c->rows + r * c->row_bytes + 34 * b, 2);
				most += fabs((double)k_f16_to_f32(d)) *
				        (double)c->e[i * (c->n_in / 32) + b];
			}
			above &= up[i * PACK_ROWS + r] >= y[i * PACK_ROWS + r];
			near &= (double)up[i * PACK_ROWS + r] -
			                (double)y[i * PACK_ROWS + r] <= 2 * most;
		}
	check(above, "screen: k=%zu: a bound is below the product", c->n_in);
	check(near, "screen: k=%zu: a bound is further above than low bits can reach", c->n_in);
}

static void check_levels(const struct screen_case *c, const float *want)
{
	size_t high = pack_high_bytes(c->n_in);
	float up[TOKENS * PACK_ROWS];
	uint8_t *group = guarded_alloc(c->group_bytes);

	check(high + pack_low_bytes(c->n_in) == c->group_bytes, "screen: parts of %zu", c->n_in);

	for (size_t l = 0; l < n_levels; l++) {
		bounds(levels[l].name, &levels[l].k, c, 0, up);
		check_floors(levels[l].name, &levels[l].k, c, want);
		bounds(levels[l].name, &levels[l].k, c, 1, up);
		check(memcmp(up, want, sizeof(up)) == 0, "%s screen: k=%zu", levels[l].name,
		      c->n_in);
		memset(group, CANARY, c->group_bytes);
		levels[l].k.join(group, c->split, c->split + high, c->n_in);
		check(memcmp(group, c->whole, c->group_bytes) == 0, "%s join: k=%zu",
		      levels[l].name, c->n_in);
	}
	memset(group, CANARY, c->group_bytes);
	ref.join(group, c->split, c->split + high, c->n_in);
	check(memcmp(group, c->whole, c->group_bytes) == 0, "scalar join: k=%zu", c->n_in);
	guarded_free(group, c->group_bytes);
}

/* What is not a number, or too large, is not ruled out: its bound is no number below another. */
static void check_wild(struct screen_case *c)
{
	static const uint16_t wild[FIXED] = { 0x7e00, 0x7c00, 0xfc00 };
	float up[TOKENS * PACK_ROWS];

	for (size_t i = 0; i < FIXED; i++)
		memcpy(c->rows + i * c->row_bytes + 34 * (c->n_in / 32 - 1), &wild[i], 2);
	pack_unit(c->split, QTYPE_Q8_0, PACK_SPLIT, c->rows, c->row_bytes, PACK_ROWS, c->n_in);
	bounds("scalar", &ref, c, 0, up);
	for (size_t l = 0; l < n_levels; l++) {
		float y[TOKENS * PACK_ROWS];

		bounds(levels[l].name, &levels[l].k, c, FLT_MAX, y);
	}
	for (size_t i = 0; i < FIXED; i++)
		check(!isfinite(up[i]), "screen: factor %04x gives the bound %g", wild[i],
		      (double)up[i]);
}

static void check_width(size_t n_in)
{
	struct screen_case c = { .n_in = n_in, .row_bytes = n_in / 32 * 34 };
	float up[TOKENS * PACK_ROWS], y[TOKENS * PACK_ROWS];
	uint64_t bytes = 0;

	check(pack_group_bytes(&bytes, QTYPE_Q8_0, n_in) == 0 && pack_splits(QTYPE_Q8_0, n_in),
	      "screen: groups of %zu", n_in);
	c.group_bytes = bytes;
	c.rows = guarded_alloc(PACK_ROWS * c.row_bytes);
	c.split = guarded_alloc(bytes);
	c.whole = guarded_alloc(bytes);
	c.x = guarded_alloc(TOKENS * n_in * sizeof(float));
	c.t = guarded_alloc(TOKENS * n_in / 32 * sizeof(float));
	c.e = guarded_alloc(TOKENS * n_in / 32 * sizeof(float));
	c.mem = aligned_alloc(64, align_up(q16_bytes(n_in, TOKENS), 64));
	c.scratch = aligned_alloc(64, align_up(KERNELS_SCRATCH(n_in), 64));
	q16_bind(&c.q16, c.mem, n_in, TOKENS);
	for (unsigned kind = 0; kind < 3; kind++) {
		fill(&c, kind);
		bounds("scalar", &ref, &c, 0, up);
		products(&ref, &c, QTYPE_Q8_0, c.whole, y);
		check_bounds(&c, up, y);
		check_levels(&c, up);
	}
	check_wild(&c);
	guarded_free(c.rows, PACK_ROWS * c.row_bytes);
	guarded_free(c.split, bytes);
	guarded_free(c.whole, bytes);
	guarded_free(c.x, TOKENS * n_in * sizeof(float));
	guarded_free(c.t, TOKENS * n_in / 32 * sizeof(float));
	guarded_free(c.e, TOKENS * n_in / 32 * sizeof(float));
	free(c.mem);
	free(c.scratch);
}

void check_screen(void)
{
	static const size_t widths[] = { 32, 64, 96, 576, 640, 2048, 4128 };

	if (!wanted("screen"))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(widths); i++)
		check_width(widths[i]);
}
