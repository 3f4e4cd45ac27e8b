/* tmpl-kv - rows of keys and values into tiles (kvtype.h), one copy a level: included after the
 * level's vec.h.
 *
 * Invariant: what a position gets depends on its own row alone, and its bytes are written by
 * nothing else; positions may come in any order, and again. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/tmpl-math.h"

static void kv_store_f16(void *kpart, void *vpart, size_t pos, size_t head_dim, const float *k,
                         const float *v)
{
	uint16_t *kt = kpart, *vt = (uint16_t *)vpart + pos * head_dim;

	for (size_t d = 0; d < head_dim; d += VL) {
		uint16_t half[VL];

		v_store_f16(half, v_load(k + d));
		UNROLL for (size_t l = 0; l < VL; l++)
			kt[(d + l) * KV_PAGE + pos] = half[l];
		v_store_f16(vt + d, v_load(v + d));
	}
}

/* Codes of one group of n (16 or 32) to c; returns its factor. Magnitudes are compared as integers:
 * in that order infinities and NaN come last. */
INLINE uint16_t kv8_group(int32_t c[KV_GROUP], const float *x, const size_t n)
{
	const vi abs = (vi){ 0 } + 0x7fffffff;
	vi most = { 0 };
	int32_t bits[VL], amax = 0;
	uint16_t factor;
	float s;

	for (size_t i = 0; i < n; i += VL) {
		const vi mag = (vi)v_load(x + i) & abs, more = mag > most;

		most = (more & mag) | (~more & most);
	}
	memcpy(bits, &most, sizeof(bits));
	for (size_t l = 0; l < VL; l++)
		amax = bits[l] > amax ? bits[l] : amax;
	if (amax >= 0x7f800000) {
		memset(c, 0, n * sizeof(*c));
		return 0x7e00;
	}
	s = f32_from_bits((uint32_t)amax) / 127.0f;
	factor = f16_store(s < 65504.0f ? s : 65504.0f);
	s = f16_load(factor);
	for (size_t i = 0; i < n; i += VL) {
		const vf magic = v_set1(0x1.8p23f);
		/* where the factor is 0, x itself rounds to 0 */
		vf e = v_load(x + i) / v_set1(s > 0.0f ? s : 1.0f);

		/* A factor near f16's smallest, or one at its largest, may be too small. */
		e = v_max(v_set1(-127.0f), v_min(v_set1(127.0f), e));
		v_store((float *)(c + i), (vf)((vi)(e + magic) - (vi)magic));
	}
	return factor;
}

static void kv_store_kv8(void *kpart, void *vpart, size_t pos, size_t head_dim, const float *k,
                         const float *v)
{
	int8_t *kt = kpart, *vt = vpart;
	uint16_t *ks = (uint16_t *)(kt + head_dim * KV_PAGE);
	uint16_t *vs = (uint16_t *)(vt + head_dim * KV_PAGE);
	int32_t c[KV_GROUP];

	for (size_t d = 0; d < head_dim; d += KV_GROUP, ks += KV_PAGE, vs += KV_PAGE) {
		const size_t n = head_dim - d < KV_GROUP ? head_dim - d : KV_GROUP;

		ks[pos] = kv8_group(c, k + d, n);
		for (size_t i = 0; i < n; i++)
			kt[(d + i) * KV_PAGE + pos] = (int8_t)c[i];
		vs[pos] = kv8_group(c, v + d, n);
		for (size_t i = 0; i < n; i++)
			vt[pos * head_dim + d + i] = (int8_t)c[i];
	}
}

static void kv_fill(struct kernels *k)
{
	k->kv_store[KV_F16] = kv_store_f16;
	k->kv_store[KV_KV8] = kv_store_kv8;
}
