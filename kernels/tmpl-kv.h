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

/* Factor and offset of a range; bad is NaN when some value was. */
INLINE float kv4_range(float lo, float hi, float bad, uint16_t *s, uint16_t *m)
{
	const float step = (hi - lo) / 15.0f;

	*m = f16_store(lo);
	*s = bad == bad ? f16_store(step < 65504.0f ? step : 65504.0f) : 0x7e00;
	return f16_load(*s);
}

/* Codes of VL values. */
INLINE vi kv4_codes(vf x, vf s, vf m)
{
	const vf magic = v_set1(0x1.8p23f), e = (x - m) / s;

	return (vi)(v_max(v_set1(0.0f), v_min(e, v_set1(15.0f))) + magic) - (vi)magic;
}

/* 32 values with one factor and offset to 16 bytes. */
INLINE void kv4_row(uint8_t out[16], const float x[32], uint16_t *s, uint16_t *m)
{
	UNINIT vf lo[NV], hi[NV], bad[NV];
	UNINIT int32_t c[32];
	float step, least;

	UNROLL for (size_t v = 0; v < NV; v++) {
		const vf a = v_load(x + v * VL), b = v_load(x + 16 + v * VL);

		hi[v] = v_max(a, b);
		lo[v] = v_max(-a, -b);
		bad[v] = (a - a) + (b - b);
	}
	least = -tree_max(lo);
	step = kv4_range(least, tree_max(hi), tree_sum(bad), s, m);
	least = f16_load(*m);
	for (size_t i = 0; i < 32; i += VL) {
		const vi codes = kv4_codes(v_load(x + i), v_set1(step > 0.0f ? step : INFINITY),
		                           v_set1(least));

		memcpy(c + i, &codes, sizeof(codes));
	}
	for (size_t i = 0; i < 16; i++)
		out[i] = (uint8_t)((c[i] & 15) | (c[i + 16] & 15) << 4);
}

static void kv_close(void *k4, void *v4, const void *k8, const void *v8, size_t head_dim)
{
	const size_t groups = kv_groups(head_dim);
	const int8_t *kc = k8, *vc = v8;
	const uint16_t *kf = (const uint16_t *)(kc + head_dim * KV_PAGE);
	const uint16_t *vf_ = (const uint16_t *)(vc + head_dim * KV_PAGE);
	uint8_t *k = k4, *v = v4;
	uint16_t *ks = (uint16_t *)(k + head_dim * (KV_PAGE / 2));
	uint16_t *vs = (uint16_t *)(v + groups * KV_PAGE * (KV_GROUP / 2));
	UNINIT float x[32];

	for (size_t d = 0; d < head_dim; d++, k += 16) {
		for (size_t pos = 0; pos < KV_PAGE; pos += VL)
			v_store(x + pos, v_load_i8(kc + d * KV_PAGE + pos) *
			        v_load_f16(kf + d / KV_GROUP * KV_PAGE + pos));
		kv4_row(k, x, &ks[d], &ks[head_dim + d]);
	}
	for (size_t pos = 0; pos < KV_PAGE; pos++)
		for (size_t g = 0; g < groups; g++, v += 16) {
			const int8_t *codes = vc + pos * head_dim + g * KV_GROUP;
			const size_t n = head_dim - g * KV_GROUP < KV_GROUP ? 16 : 32;
			const vf s = v_set1(f16_load(vf_[g * KV_PAGE + pos]));

			/* a short group twice: the second half is in no range of its own */
			for (size_t i = 0; i < 32; i += VL)
				v_store(x + i, v_load_i8(codes + i % n) * s);
			kv4_row(v, x, &vs[g * KV_PAGE + pos],
			        &vs[(groups + g) * KV_PAGE + pos]);
		}
}

static void kv_fill(struct kernels *k)
{
	k->kv_store[KV_F16] = kv_store_f16;
	k->kv_store[KV_KV8] = kv_store_kv8;
	k->kv_close = kv_close;
}
