/* tmpl-elem - the element-wise kernels, one copy a level: included after the level's vec.h.
 *
 * Invariants:
 * 1. Element i of a row is lane i % 16 of step i / 16; a tail goes through a zeroed buffer of 16.
 * 2. No operation mixes lanes except the trees of tmpl-math.h. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/tmpl-math.h"

/* y[i] = expr of x[i] and u[i] for i < n, which the expression sees as vectors `vx` and `vu`; tails
 * are padded with `pad`. */
#define ELEM_LOOP(y, xp, up, n, pad, expr) do { \
	size_t i_ = 0; \
	for (; i_ + VL <= (n); i_ += VL) { \
		const vf vx = v_load((xp) + i_), vu = v_load((up) + i_); \
		(void)vu; \
		v_store((y) + i_, expr); \
	} \
	if (VL > 1 && i_ < (n)) { \
		float bx_[VL], bu_[VL], by_[VL]; \
		for (size_t l_ = 0; l_ < VL; l_++) { \
			bx_[l_] = i_ + l_ < (n) ? (xp)[i_ + l_] : (pad); \
			bu_[l_] = i_ + l_ < (n) ? (up)[i_ + l_] : (pad); \
		} \
		const vf vx = v_load(bx_), vu = v_load(bu_); \
		(void)vu; \
		v_store(by_, expr); \
		memcpy((y) + i_, by_, ((n) - i_) * sizeof(float)); \
	} \
} while (0)

INLINE void load_tail(float t[16], const float *x, size_t n, float pad)
{
	for (size_t l = 0; l < 16; l++)
		t[l] = l < n ? x[l] : pad;
}

static void elem_rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
	vf acc[NV] = { 0 };
	float tail[16], r;
	size_t i;

	for (i = 0; i + 16 <= n; i += 16)
		UNROLL for (size_t v = 0; v < NV; v++) {
			const vf e = v_load(x + i + v * VL);

			acc[v] = v_fma(e, e, acc[v]);
		}
	if (i < n) {
		load_tail(tail, x + i, n - i, 0.0f);
		for (size_t v = 0; v < NV; v++) {
			const vf e = v_load(tail + v * VL);

			acc[v] = v_fma(e, e, acc[v]);
		}
	}
	r = 1.0f / __builtin_sqrtf(tree_sum(acc) / (float)n + eps);
	if (w)
		ELEM_LOOP(y, x, w, n, 0.0f, vx * v_set1(r) * vu);
	else
		ELEM_LOOP(y, x, x, n, 0.0f, vx * v_set1(r));
}

static void elem_add(float *y, const float *x, size_t n)
{
	ELEM_LOOP(y, x, y, n, 0.0f, vu + vx);
}

static void elem_scale(float *y, float s, size_t n)
{
	ELEM_LOOP(y, y, y, n, 0.0f, vx * v_set1(s));
}

static void elem_silu_mul(float *y, const float *gate, const float *up, size_t n)
{
	ELEM_LOOP(y, gate, up, n, 0.0f, vx / (v_set1(1.0f) + v_exp(-vx)) * vu);
}

INLINE vf gelu(vf x)
{
	vf inner = v_set1(0.797884583f) * x * v_fma(v_set1(0.044715f) * x, x, v_set1(1.0f));

	return v_set1(0.5f) * x * (v_set1(1.0f) + v_tanh(inner));
}

static void elem_gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
	ELEM_LOOP(y, gate, up, n, 0.0f, gelu(vx) * vu);
}

static void elem_softcap(float *y, float cap, size_t n)
{
	ELEM_LOOP(y, y, y, n, 0.0f, v_set1(cap) * v_tanh(vx / v_set1(cap)));
}

static void elem_rope_neox(float *x, size_t n_head, size_t head_dim, size_t n_rot, const float *cs)
{
	const size_t half = n_rot / 2;

	for (size_t h = 0; h < n_head; h++, x += head_dim) {
		size_t i = 0;

		for (; VL > 1 && i + VL <= half; i += VL) {
			float c_[VL], s_[VL];
			vf a = v_load(x + i), b = v_load(x + half + i), c, s;

			UNROLL for (size_t l = 0; l < VL; l++) {
				c_[l] = cs[2 * (i + l)];
				s_[l] = cs[2 * (i + l) + 1];
			}
			c = v_load(c_);
			s = v_load(s_);
			v_store(x + i, v_fma(a, c, -(b * s)));
			v_store(x + half + i, v_fma(b, c, a * s));
		}
		for (; i < half; i++) {
			const float a = x[i], b = x[half + i], c = cs[2 * i], s = cs[2 * i + 1];

			x[i] = __builtin_fmaf(a, c, -(b * s));
			x[half + i] = __builtin_fmaf(b, c, a * s);
		}
	}
}

static void elem_rope_norm(float *x, size_t n_head, size_t head_dim, size_t n_rot, const float *cs)
{
	for (size_t h = 0; h < n_head; h++, x += head_dim)
		for (size_t i = 0; i < n_rot; i += 2) {
			const float a = x[i], b = x[i + 1], c = cs[i], s = cs[i + 1];

			x[i] = __builtin_fmaf(a, c, -(b * s));
			x[i + 1] = __builtin_fmaf(b, c, a * s);
		}
}

static void elem_logsumexp(const float *x, size_t n, float *ret_max, double *ret_lse)
{
	vf max[NV], acc[NV];
	float tail[16], m;
	double sum = 0.0;
	size_t i;

	for (size_t v = 0; v < NV; v++)
		max[v] = v_set1(-INFINITY);
	for (i = 0; i + 16 <= n; i += 16)
		UNROLL for (size_t v = 0; v < NV; v++)
			max[v] = v_max(v_load(x + i + v * VL), max[v]);
	if (i < n) {
		load_tail(tail, x + i, n - i, -INFINITY);
		for (size_t v = 0; v < NV; v++)
			max[v] = v_max(v_load(tail + v * VL), max[v]);
	}
	m = tree_max(max);
	for (size_t start = 0; start < n; start += 4096) {
		const size_t end = n - start < 4096 ? n : start + 4096;

		for (size_t v = 0; v < NV; v++)
			acc[v] = v_set1(0.0f);
		for (i = start; i + 16 <= end; i += 16)
			UNROLL for (size_t v = 0; v < NV; v++)
				acc[v] = acc[v] + v_exp(v_load(x + i + v * VL) - v_set1(m));
		if (i < end) {
			load_tail(tail, x + i, end - i, -INFINITY);
			for (size_t v = 0; v < NV; v++)
				acc[v] = acc[v] + v_exp(v_load(tail + v * VL) - v_set1(m));
		}
		sum += (double)tree_sum(acc);
	}
	*ret_max = m;
	*ret_lse = m == -INFINITY ? -(double)INFINITY : log(sum) + (double)m;
}

#if VL > 1
#define V_SWAP(v, h) __builtin_shufflevector(v, v, V_SWAPPED(h))
#if VL == 16
#define V_SWAPPED(h) \
	0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h, 8 ^ h, 9 ^ h, 10 ^ h, 11 ^ h, \
	12 ^ h, 13 ^ h, 14 ^ h, 15 ^ h
#elif VL == 8
#define V_SWAPPED(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h
#else
#define V_SWAPPED(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h
#endif

/* Lanes l and l ^ h, where l is the lower one, become sum and difference: `swapped` holds the other
 * one of each. */
INLINE vf butterfly(vf v, vf swapped, const int h)
{
	UNINIT vi sign;

	UNROLL for (int l = 0; l < VL; l++)
		sign[l] = l & h ? INT32_MIN : 0;
	return swapped + (vf)((vi)v ^ sign);
}

INLINE vf v_hadamard(vf v)
{
	v = butterfly(v, V_SWAP(v, 1), 1);
	v = butterfly(v, V_SWAP(v, 2), 2);
#if VL > 4
	v = butterfly(v, V_SWAP(v, 4), 4);
#endif
#if VL > 8
	v = butterfly(v, V_SWAP(v, 8), 8);
#endif
	return v;
}
#else
INLINE vf v_hadamard(vf v)
{
	return v;
}
#endif

/* Distances 1, 2, 4, .. in order, whatever a vector holds. */
static void elem_hadamard(float *x, size_t n)
{
	const size_t block = n & (0 - n);
	const vf s = v_set1(1.0f / __builtin_sqrtf((float)block));

	for (const float *end = x + n; x < end; x += block) {
		for (size_t i = 0; i < block; i += VL)
			v_store(x + i, v_hadamard(v_load(x + i)));
		for (size_t h = VL; h < block; h *= 2)
			for (size_t i = 0; i < block; i += (i + VL) & h ? h + VL : VL) {
				const vf a = v_load(x + i), b = v_load(x + i + h);

				v_store(x + i, a + b);
				v_store(x + i + h, a - b);
			}
		for (size_t i = 0; i < block; i += VL)
			v_store(x + i, v_load(x + i) * s);
	}
}

static void elem_fill(struct kernels *k)
{
	k->rms_norm = elem_rms_norm;
	k->add = elem_add;
	k->scale = elem_scale;
	k->silu_mul = elem_silu_mul;
	k->gelu_mul = elem_gelu_mul;
	k->softcap = elem_softcap;
	k->rope_neox = elem_rope_neox;
	k->rope_norm = elem_rope_norm;
	k->logsumexp = elem_logsumexp;
	k->hadamard = elem_hadamard;
}
