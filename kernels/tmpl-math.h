/* tmpl-math - exp, tanh and lane trees over a level's vec.h, which is included before.
 *
 * A template sees 16 lanes as NV vectors of VL lanes. Every step below is one IEEE operation on
 * each lane and no step depends on VL, which is why all levels give the same bits. */
#pragma once
#include <math.h>
#include <stddef.h>

#define NV (16 / VL)
#define UNINIT __attribute__((uninitialized))
#define INLINE static inline __attribute__((always_inline, unused))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf v_sel(vi mask, vf yes, vf no)
{
	return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* exp(x) = 2^n * exp(r), |r| <= ln 2 / 2, with the degree 6 polynomial of Cephes. The power of two
 * is applied in halves, so that results down to the subnormals and up to infinity are rounded once.
 * Error < 2 ulp. */
INLINE vf v_exp(vf x)
{
	const vf magic = v_set1(0x1.8p23f);     /* adding it leaves round(x) in the low bits */
	vf t, n, r, p;
	vi i, half;

	x = v_sel(x < v_set1(-104.0f), v_set1(-104.0f), x);
	x = v_sel(x > v_set1(89.0f), v_set1(89.0f), x);
	t = v_fma(x, v_set1(0x1.715476p+0f), magic);
	n = t - magic;
	r = v_fma(n, v_set1(-0x1.62e400p-1f), x);
	r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);
	p = v_set1(1.9875691500e-4f);
	p = v_fma(p, r, v_set1(1.3981999507e-3f));
	p = v_fma(p, r, v_set1(8.3334519073e-3f));
	p = v_fma(p, r, v_set1(4.1665795894e-2f));
	p = v_fma(p, r, v_set1(1.6666665459e-1f));
	p = v_fma(p, r, v_set1(5.0000001201e-1f));
	p = v_fma(p, r * r, r) + v_set1(1.0f);
	i = (vi)t - (vi)magic;
	half = i >> 1;
	p = p * (vf)((half + 127) << 23);
	return p * (vf)((i - half + 127) << 23);
}

INLINE float exp_one(float x)
{
	return v_exp(v_set1(x))[0];
}

/* Odd polynomial (Cephes) below 0.625, 1 - 2 / (exp(2|x|) + 1) above. */
INLINE vf v_tanh(vf x)
{
	const vi sign = (vi)x & (vi)v_set1(-0.0f);
	vf mag = (vf)((vi)x ^ sign), z = x * x, small, big;

	small = v_set1(-5.70498872745e-3f);
	small = v_fma(small, z, v_set1(2.06390887954e-2f));
	small = v_fma(small, z, v_set1(-5.37397155531e-2f));
	small = v_fma(small, z, v_set1(1.33314422036e-1f));
	small = v_fma(small, z, v_set1(-3.33332819422e-1f));
	small = v_fma(small * z, x, x);
	big = v_set1(1.0f) - v_set1(2.0f) / (v_exp(mag + mag) + v_set1(1.0f));
	big = (vf)((vi)big | sign);
	return v_sel(mag < v_set1(0.625f), small, big);
}

/* Lanes l += l + 8, l += l + 4, l += l + 2, l += l + 1. */
INLINE float tree_sum(const vf v[NV])
{
	UNINIT float t[16];

	for (size_t i = 0; i < NV; i++)
		v_store(t + i * VL, v[i]);
	for (size_t width = 8; width > 0; width /= 2)
		for (size_t l = 0; l < width; l++)
			t[l] += t[l + width];
	return t[0];
}

INLINE float tree_max(const vf v[NV])
{
	UNINIT float t[16];

	for (size_t i = 0; i < NV; i++)
		v_store(t + i * VL, v[i]);
	for (size_t width = 8; width > 0; width /= 2)
		for (size_t l = 0; l < width; l++)
			t[l] = t[l] > t[l + width] ? t[l] : t[l + width];
	return t[0];
}
