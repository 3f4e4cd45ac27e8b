/* tmpl-attn - attention over one page, one copy a level: included after the level's vec.h.
 *
 * Scores: positions are lanes, q[d] is broadcast. Values: dimensions are lanes, P is broadcast. Up
 * to ATTN_QUERIES queries share every load of K and V, which are widened from f16 as they are
 * loaded: a page stays in the first cache as f16 and would not as f32.
 * Invariants:
 * 1. A query that sees nothing of the page is skipped before blocks are formed: its state is not
 *    written.
 * 2. Positions outside [lo, hi) enter no fma: what lies in the page there, even NaN, does not
 *    matter.
 * 3. acc of a query with m = -INFINITY is not read. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/tmpl-math.h"

#define PAGE_V (KV_PAGE / VL)

/* s[i][pos] = q . K[.][pos], unscaled. */
INLINE void attn_scores(const struct attn_page_args *a, const size_t *query, const size_t n,
                        float s[][KV_PAGE])
{
	UNINIT const float *q[ATTN_QUERIES];
	UNINIT vf acc[ATTN_QUERIES][PAGE_V];

	UNROLL for (size_t i = 0; i < n; i++) {
		q[i] = a->q + query[i] * a->ldq;
		UNROLL for (size_t p = 0; p < PAGE_V; p++)
			acc[i][p] = v_set1(0.0f);
	}
	for (size_t d = 0; d < a->head_dim; d++) {
		const uint16_t *row = a->k + d * KV_PAGE;
		UNINIT vf k[PAGE_V];

		UNROLL for (size_t p = 0; p < PAGE_V; p++)
			k[p] = v_load_f16(row + p * VL);
		UNROLL for (size_t i = 0; i < n; i++) {
			const vf e = v_set1(q[i][d]);

			UNROLL for (size_t p = 0; p < PAGE_V; p++)
				acc[i][p] = v_fma(e, k[p], acc[i][p]);
		}
	}
	UNROLL for (size_t i = 0; i < n; i++)
		UNROLL for (size_t p = 0; p < PAGE_V; p++)
			v_store(s[i] + p * VL, acc[i][p]);
}

/* Scores to probabilities in place; m and l of the query move on; returns the factor for its
 * acc. */
INLINE float attn_softmax(const struct attn_page_args *a, size_t query, float s[KV_PAGE])
{
	const size_t lo = a->lo[query], hi = a->hi[query];
	UNINIT vf max[NV], sum[NV];
	float m = a->m[query], corr, page_max;

	for (size_t p = 0; p < PAGE_V; p++) {
		vf e = v_load(s + p * VL) * v_set1(a->scale);

		if (a->softcap > 0.0f)
			e = v_set1(a->softcap) * v_tanh(e / v_set1(a->softcap));
		v_store(s + p * VL, e);
	}
	for (size_t pos = 0; pos < KV_PAGE; pos++)
		if (pos < lo || pos >= hi)
			s[pos] = -INFINITY;
	for (size_t v = 0; v < NV; v++)
		max[v] = v_max(v_load(s + v * VL), v_load(s + 16 + v * VL));
	page_max = tree_max(max);
	page_max = m > page_max ? m : page_max;
	corr = exp_one(m - page_max);
	for (size_t p = 0; p < PAGE_V; p++)
		v_store(s + p * VL, v_exp(v_load(s + p * VL) - v_set1(page_max)));
	for (size_t v = 0; v < NV; v++)
		sum[v] = v_load(s + v * VL) + v_load(s + 16 + v * VL);
	if (m == -INFINITY) {
		a->l[query] = tree_sum(sum);
		memset(a->acc + query * a->head_dim, 0, a->head_dim * sizeof(float));
	} else {
		a->l[query] = __builtin_fmaf(a->l[query], corr, tree_sum(sum));
	}
	a->m[query] = page_max;
	return corr;
}

/* acc[d] = acc[d] * corr, then += P * V over positions [lo, hi), for n queries and nv vectors from
 * d. */
INLINE void attn_values(const struct attn_page_args *a, const size_t *query, const size_t n,
                        const size_t nv, size_t d, float p[][KV_PAGE], const float *corr, size_t lo,
                        size_t hi)
{
	UNINIT vf acc[ATTN_QUERIES][2 * NV];

	UNROLL for (size_t i = 0; i < n; i++) UNROLL for (size_t v = 0; v < nv; v++)
		acc[i][v] = v_load(a->acc + query[i] * a->head_dim + d + v * VL) * v_set1(corr[i]);
	for (size_t pos = lo; pos < hi; pos++) {
		const uint16_t *row = a->v + pos * a->head_dim + d;
		UNINIT vf x[2 * NV];

		UNROLL for (size_t v = 0; v < nv; v++)
			x[v] = v_load_f16(row + v * VL);
		UNROLL for (size_t i = 0; i < n; i++) {
			const vf e = v_set1(p[i][pos]);

			UNROLL for (size_t v = 0; v < nv; v++)
				acc[i][v] = v_fma(e, x[v], acc[i][v]);
		}
	}
	UNROLL for (size_t i = 0; i < n; i++)
		UNROLL for (size_t v = 0; v < nv; v++)
			v_store(a->acc + query[i] * a->head_dim + d + v * VL, acc[i][v]);
}

INLINE void attn_value_rows(const struct attn_page_args *a, const size_t *query, const size_t n,
                            float p[][KV_PAGE], const float *corr, size_t lo, size_t hi)
{
	size_t d = 0;

	for (; d + 32 <= a->head_dim; d += 32)
		attn_values(a, query, n, 2 * NV, d, p, corr, lo, hi);
	if (d < a->head_dim)
		attn_values(a, query, n, NV, d, p, corr, lo, hi);
}

/* n queries (a constant where this is called), each of which sees something. */
INLINE void attn_block(const struct attn_page_args *a, const size_t *query, const size_t n)
{
	static const float ones[ATTN_QUERIES] = { [0 ... ATTN_QUERIES - 1] = 1.0f };
	UNINIT float p[ATTN_QUERIES][KV_PAGE], corr[ATTN_QUERIES];
	size_t lo = 0, hi = KV_PAGE;

	attn_scores(a, query, n, p);
	for (size_t i = 0; i < n; i++) {
		corr[i] = attn_softmax(a, query[i], p[i]);
		lo = a->lo[query[i]] > lo ? a->lo[query[i]] : lo;
		hi = a->hi[query[i]] < hi ? a->hi[query[i]] : hi;
	}
	/* Positions before and after the common range belong to some of the queries only. */
	hi = hi > lo ? hi : lo;
	for (size_t i = 0; i < n; i++) {
		const size_t first = a->lo[query[i]], last = a->hi[query[i]];

		if (first < lo) {
			attn_value_rows(a, query + i, 1, p + i, corr + i, first,
			                last < lo ? last : lo);
			corr[i] = 1.0f;
		}
	}
	attn_value_rows(a, query, n, p, corr, lo, hi);
	for (size_t i = 0; i < n; i++)
		if (a->hi[query[i]] > hi)
			attn_value_rows(a, query + i, 1, p + i, ones, hi, a->hi[query[i]]);
}

static void attn_page(const struct attn_page_args *a)
{
	UNINIT size_t query[ATTN_QUERIES];
	size_t n = 0;

	for (size_t i = 0; i < a->n_q; i++) {
		if (a->lo[i] >= a->hi[i])
			continue;
		query[n++] = i;
		if (n == ATTN_QUERIES) {
			attn_block(a, query, ATTN_QUERIES);
			n = 0;
		}
	}
	for (size_t i = 0; i < n; i++)
		attn_block(a, query + i, 1);
}

static void attn_merge(float *ma, float *la, float *acca, const float *mb, const float *lb,
                       const float *accb, size_t n_q, size_t head_dim)
{
	for (size_t i = 0; i < n_q; i++, acca += head_dim, accb += head_dim) {
		float m, ea, eb;

		if (mb[i] == -INFINITY)
			continue;
		if (ma[i] == -INFINITY) {
			ma[i] = mb[i];
			la[i] = lb[i];
			memcpy(acca, accb, head_dim * sizeof(float));
			continue;
		}
		m = ma[i] > mb[i] ? ma[i] : mb[i];
		ea = exp_one(ma[i] - m);
		eb = exp_one(mb[i] - m);
		for (size_t d = 0; d < head_dim; d += VL)
			v_store(acca + d,
			        v_fma(v_load(acca + d), v_set1(ea), v_load(accb + d) * v_set1(eb)));
		la[i] = __builtin_fmaf(la[i], ea, lb[i] * eb);
		ma[i] = m;
	}
}

static void attn_fill(struct kernels *k)
{
	k->attn_page = attn_page;
	k->attn_merge = attn_merge;
}
