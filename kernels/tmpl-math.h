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

	x = v_max(v_set1(-104.0f), x);          /* a NaN stays one */
	x = v_min(v_set1(89.0f), x);
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

/* Lanes l = op(l, l + 8), op(l, l + 4), op(l, l + 2), op(l, l + 1); upper lanes do not count. */
#if VL == 1
#define TREE(ret, v, op) do { \
	UNINIT vf t_[16]; \
	memcpy(t_, v, sizeof(t_)); \
	for (size_t width_ = 8; width_ > 0; width_ /= 2) \
		for (size_t l_ = 0; l_ < width_; l_++) \
			t_[l_] = op(t_[l_], t_[l_ + width_]); \
	(ret) = t_[0][0]; \
} while (0)
#else
/* TREE_HALF: the first two steps, to t. */
#if VL == 16
#define V_DOWN(v, n) \
	__builtin_shufflevector(v, v, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, \
	                        8, 9, 10, 11, 12, 13, 14, 15)
#define TREE_HALF(t, v, op) (t) = op(v[0], V_DOWN(v[0], 8)), (t) = op(t, V_DOWN(t, 4))
#elif VL == 8
#define V_DOWN(v, n) __builtin_shufflevector(v, v, n, n + 1, n + 2, n + 3, 4, 5, 6, 7)
#define TREE_HALF(t, v, op) (t) = op(v[0], v[1]), (t) = op(t, V_DOWN(t, 4))
#else
#define V_DOWN(v, n) __builtin_shufflevector(v, v, n, n + 1, 2, 3)
#define TREE_HALF(t, v, op) (t) = op(v[0], v[2]), (t) = op(t, op(v[1], v[3]))
#endif
#define TREE(ret, v, op) do { \
	vf t_; \
	TREE_HALF(t_, v, op); \
	t_ = op(t_, V_DOWN(t_, 2)); \
	t_ = op(t_, V_DOWN(t_, 1)); \
	(ret) = t_[0]; \
} while (0)
#endif
#define V_ADD(a, b) ((a) + (b))

INLINE float tree_sum(const vf v[NV])
{
	float r;

	TREE(r, v, V_ADD);
	return r;
}

INLINE float tree_max(const vf v[NV])
{
	float r;

	TREE(r, v, v_max);
	return r;
}
