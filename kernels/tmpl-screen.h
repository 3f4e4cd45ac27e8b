/* tmpl-screen - bounds of products with the high part of split groups, and both parts put together
 * (kernels/pack.h), one copy a level: included after the level's vec.h. */
#pragma once
#include <float.h>
#include "kernels/kernels.h"
#include "kernels/r16.h"
#include "kernels/tmpl-math.h"

static bool screen(float *y, const void *high, size_t n_in, const float *t, const float *e,
                   float floor)
{
	const uint8_t *g = high;
	UNINIT vf mean[NV], spread[NV];
	UNINIT vi over;

	UNROLL for (size_t v = 0; v < NV; v++)
		mean[v] = spread[v] = v_set1(0.0f);
	for (size_t i = 0; i < n_in / 32; i++) {
		const uint8_t *d = g + r16_factor_at(QTYPE_Q5_0, i);
		const vf ti = v_set1(t[i]), ei = v_set1(e[i]);

		UNROLL for (size_t v = 0; v < NV; v++) {
			const vf x = v_load_f16((const uint16_t *)(const void *)d + v * VL);

			mean[v] = v_fma(x, ti, mean[v]);
			spread[v] = v_fma((vf)((vi)x & 0x7fffffff), ei, spread[v]);
		}
	}
	over = (vi)v_set1(0.0f);
	UNROLL for (size_t v = 0; v < NV; v++) {
		const vf up = v_fma(v_set1(8.0f), v_load(y + v * VL), mean[v] + spread[v]);

		v_store(y + v * VL, up);
		over |= ~((vi)(up < v_set1(floor)) & (vi)(up >= v_set1(-FLT_MAX)));
	}
	for (size_t l = 1; l < VL; l++)
		over[0] |= over[l];
	return over[0] != 0;
}

/* Planes of 64 bytes, as the compiler's own vectors, in words since no machine shifts bytes: what
 * crosses into the other byte of a word is masked away. */
typedef uint16_t plane __attribute__((vector_size(64), aligned(1), may_alias));
#define PAIR(b) ((uint16_t)(0x101 * (b)))

static void join(void *dst, const void *high, const void *low, size_t n_in)
{
	const uint8_t *from = high;
	uint8_t *to = dst;

	for (size_t i = 0; i < n_in / 32; i++) {
		const plane *h = (const plane *)(from + r16_body_at(QTYPE_Q5_0, i)),
			    *l = (const plane *)((const uint8_t *)low + i * SPLIT_LOW_BYTES);
		plane *out = (plane *)(to + r16_body_at(QTYPE_Q8_0, i));

		if (i % 2 == 0)
			memcpy(to + r16_factor_at(QTYPE_Q8_0, i),
			       from + r16_factor_at(QTYPE_Q5_0, i), 64);
		UNROLL for (unsigned k = 0; k < 8; k++)
			out[k] = ((h[0] >> k & PAIR(1)) << 7 |
			          (h[1 + k % 4] >> k / 4 * 4 & PAIR(15)) << 3 |
			          (l[0] >> k & PAIR(1)) << 2 |
			          (l[1 + k / 4] >> k % 4 * 2 & PAIR(3))) ^ PAIR(128);
	}
}

static void screen_fill(struct kernels *k)
{
	k->screen = screen;
	k->join = join;
}
