/* plain-panels - panel products in plain C, for what the engine makes of them: few machines have
 * them. One user a program. */
#pragma once
#include <stdlib.h>
#include <string.h>
#include "base/num.h"
#include "kernels/blocks.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

static const struct kernels *plain_panels_table;

static void plain_panel_in(uint16_t *tiles, const float *x, size_t k, size_t place)
{
	size_t steps = DIV_UP(k, (size_t)PANEL_STEP);

	tiles += (place / PANEL_TOKENS * steps * PANEL_TOKENS + place % PANEL_TOKENS) * PANEL_STEP;
	for (size_t i = 0; i < steps * PANEL_STEP; i++) {
		uint32_t bits = 0;

		if (i < k)
			memcpy(&bits, x + i, sizeof(bits));
		tiles[i / PANEL_STEP * PANEL_STEP * PANEL_TOKENS + i % PANEL_STEP] =
			(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
	}
}

static float from_bf16(uint16_t h)
{
	uint32_t bits = (uint32_t)h << 16;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* Not the order of kernels.h: only what a row gets alone, and nearly the right numbers, count. */
static void plain_panel(const struct mm_args *a, enum qtype type, bool packed)
{
	size_t steps = DIV_UP(a->n_in, (size_t)PANEL_STEP);
	float *w = malloc(a->n_in * sizeof(*w));
	uint8_t *row = malloc(a->row_bytes);

	if (!w || !row || a->place >= PANEL_TOKENS || (packed && a->r0 % PACK_ROWS != 0))
		abort();
	for (size_t r = a->r0; r < a->r1; r++) {
		size_t in_group = packed ? r % PACK_ROWS : 0;
		const uint8_t *from = (const uint8_t *)a->w + (r - in_group) * a->row_bytes;

		if (packed)
			unpack_row(row, type, PACK_R16, from, PACK_ROWS, in_group, a->n_in);
		plain_panels_table->dequant[type](w, packed ? row : from, a->n_in);
		for (size_t t = 0; t < a->n_tok; t++) {
			size_t place = a->place + t, block = place / PANEL_TOKENS;
			float sum = 0;

			for (size_t i = 0; i < a->n_in; i++) {
				size_t tile = block * steps + i / PANEL_STEP;

				sum += w[i] * from_bf16(a->tiles[(tile * PANEL_TOKENS +
				                                  place % PANEL_TOKENS) *
				                                         PANEL_STEP +
				                                 i % PANEL_STEP]);
			}
			a->y[t * a->ldy + r] = sum;
		}
	}
	free(w);
	free(row);
}

#define PANEL_TYPES(X) Q16_TYPES(X) X(f32, F32) X(f16, F16) X(bf16, BF16)
#define DEFINE_PANEL(name, id) \
	static void panel_##name(const struct mm_args *a) \
	{ \
		plain_panel(a, QTYPE_##id, false); \
	} \
	static void panel_packed_##name(const struct mm_args *a) \
	{ \
		plain_panel(a, QTYPE_##id, true); \
	}
PANEL_TYPES(DEFINE_PANEL)

static void plain_panels_set(struct kernels *k)
{
	plain_panels_table = k;
	k->panel_in = plain_panel_in;
#define SET_PANEL(name, id) \
	k->panel[QTYPE_##id] = panel_##name; \
	k->panel_packed[QTYPE_##id] = panel_packed_##name;
	PANEL_TYPES(SET_PANEL)
}
