/* tmpl-attn - attention over one page, one copy a level: included after the level's vec.h.
 *
 * Scores: positions are lanes, q[d] is broadcast. Values: dimensions are lanes, P is broadcast. Up
 * to ATTN_QUERIES queries share every load of K and V, which are widened to float as they are
 * loaded: a page stays in the first cache as it is stored and would not as f32. Meanwhile the first
 * of these blocks fetches the next page's lines, since tiles are too short and too far apart for
 * the processor to foresee them.
 * Invariants:
 * 1. A query that sees nothing of the page is skipped before blocks are formed: its state is not
 *    written.
 * 2. Positions outside [lo, hi) enter no fma of acc: what lies in the page there, even NaN, does
 *    not matter.
 * 3. acc of a query with m = -INFINITY is not read.
 * 4. Which queries share a block enters no query's arithmetic. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/tmpl-kv.h"
#include "kernels/tmpl-math.h"

#define PAGE_V (KV_PAGE / VL)
enum { ATTN_HEAD_MAX = 512 };

/* VL elements from i on of a part's codes. */
INLINE vf kv_load(const enum kv_type type, const void *codes, size_t i)
{
	/* KV4: rows of 32 in 16 bytes; i names a place in the row as if they were in order. */
	if (type == KV_KV4)
		return v_load_u4((const uint8_t *)codes + i / 32 * 16 + i % 16, i % 32 >= 16);
	return type == KV_F16 ? v_load_f16((const uint16_t *)codes + i) :
	       v_load_i8((const int8_t *)codes + i);
}

INLINE const void *kv_at(const enum kv_type type, const void *codes, size_t i)
{
	return (const char *)codes + (type == KV_F16 ? i * 2 : type == KV_KV8 ? i : i / 2);
}

/* KV8, and V of KV4: the factors [groups][KV_PAGE] behind the codes of a part. */
INLINE const uint16_t *kv_factors(const struct attn_page_args *a, const enum kv_type type,
                                  const void *part, size_t group)
{
	const size_t codes = type == KV_KV8 ? a->head_dim * KV_PAGE :
	                     kv_groups(a->head_dim) * KV_GROUP * KV_PAGE / 2;

	return (const uint16_t *)((const char *)part + codes) + group * KV_PAGE;
}

/* Elements of a row of V, the last group's padding with them. */
INLINE size_t kv_row(const struct attn_page_args *a, const enum kv_type type)
{
	return type == KV_KV4 ? kv_groups(a->head_dim) * KV_GROUP : a->head_dim;
}

/* Vectors of 32 elements that n queries' sums have registers for, of 16 registers: unpacking
 * nibbles takes some, and those of vectors v and v + NV come from the same bytes. A sum that lives
 * in memory instead makes a chain of its loads and stores: half the speed. */
INLINE size_t row_vectors(const enum kv_type type, const size_t n)
{
	return type == KV_KV4 && VL < 16 && n * 2 * NV > 8 ? NV : 2 * NV;
}

/* s[i][pos] = chain over d = [d0, d1) of q[i] . K[.][pos] from 0, for np vectors of positions: p0,
 * p0 + step, .. */
INLINE void attn_chain_of(const struct attn_page_args *a, const enum kv_type type,
                          const float *const *q, const size_t n, size_t d0, size_t d1,
                          const size_t p0, const size_t np, const size_t step, const char *next,
                          float s[][KV_PAGE])
{
	UNINIT vf acc[ATTN_QUERIES][PAGE_V];

	UNROLL for (size_t i = 0; i < n; i++) {
		UNROLL for (size_t p = 0; p < np; p++)
			acc[i][p] = v_set1(0.0f);
	}
	for (size_t d = d0; d < d1; d++) {
		UNINIT vf e[ATTN_QUERIES];

		if (next)
			__builtin_prefetch(kv_at(type, next, d * KV_PAGE));
		UNROLL for (size_t i = 0; i < n; i++)
			e[i] = v_set1(q[i][d]);
		UNROLL for (size_t p = 0; p < np; p++) {
			const vf k = kv_load(type, a->k, d * KV_PAGE + (p0 + p * step) * VL);

			UNROLL for (size_t i = 0; i < n; i++)
				acc[i][p] = v_fma(e[i], k, acc[i][p]);
		}
	}
	UNROLL for (size_t i = 0; i < n; i++)
		UNROLL for (size_t p = 0; p < np; p++)
			v_store(s[i] + (p0 + p * step) * VL, acc[i][p]);
}

/* All positions. */
INLINE void attn_chain(const struct attn_page_args *a, const enum kv_type type,
                       const float *const *q, const size_t n, size_t d0, size_t d1,
                       const char *next, float s[][KV_PAGE])
{
	const size_t np = row_vectors(type, n), step = PAGE_V / np;

	UNROLL for (size_t p0 = 0; p0 < step; p0++)
		attn_chain_of(a, type, q, n, d0, d1, p0, np, step, p0 ? NULL : next, s);
}

/* As attn_scores: factors go to the query, offsets make one number of it. */
INLINE void attn_scores_kv4(const struct attn_page_args *a, const float *const *q, const size_t n,
                            const char *next, float s[][KV_PAGE])
{
	const uint16_t *factor = (const uint16_t *)((const char *)a->k + a->head_dim * KV_PAGE / 2);
	UNINIT float scaled[ATTN_QUERIES][ATTN_HEAD_MAX];
	UNINIT const float *of[ATTN_QUERIES];
	UNINIT vf sum[ATTN_QUERIES][NV];

	UNROLL for (size_t i = 0; i < n; i++) {
		of[i] = scaled[i];
		UNROLL for (size_t v = 0; v < NV; v++)
			sum[i][v] = v_set1(0.0f);
	}
	for (size_t d = 0; d < a->head_dim; d += 16)
		UNROLL for (size_t v = 0; v < NV; v++) {
			const size_t at = d + v * VL;
			const vf f = v_load_f16(factor + at);
			const vf m = v_load_f16(factor + a->head_dim + at);

			UNROLL for (size_t i = 0; i < n; i++) {
				const vf e = v_load(q[i] + at);

				v_store(scaled[i] + at, e * f);
				sum[i][v] = v_fma(e, m, sum[i][v]);
			}
		}
	attn_chain(a, KV_KV4, of, n, 0, a->head_dim, next, s);
	UNROLL for (size_t i = 0; i < n; i++) {
		const vf o = v_set1(tree_sum(sum[i]));

		UNROLL for (size_t p = 0; p < PAGE_V; p++)
			v_store(s[i] + p * VL, v_load(s[i] + p * VL) + o);
	}
}

/* s[i][pos] = q . K[.][pos], unscaled. */
INLINE void attn_scores(const struct attn_page_args *a, const enum kv_type type,
                        const size_t *query, const size_t n, const char *next, float s[][KV_PAGE])
{
	UNINIT float part[ATTN_QUERIES][KV_PAGE];
	UNINIT const float *q[ATTN_QUERIES];

	UNROLL for (size_t i = 0; i < n; i++)
		q[i] = a->q + query[i] * a->ldq;
	if (type == KV_KV4) {
		attn_scores_kv4(a, q, n, next, s);
		return;
	}
	if (type == KV_F16) {
		attn_chain(a, type, q, n, 0, a->head_dim, next, s);
		return;
	}
	for (size_t i = 0; i < n; i++)
		memset(s[i], 0, sizeof(s[i]));
	for (size_t d = 0; d < a->head_dim; d += KV_GROUP) {
		const size_t end = d + KV_GROUP < a->head_dim ? d + KV_GROUP : a->head_dim;
		const uint16_t *factor = kv_factors(a, type, a->k, d / KV_GROUP);

		attn_chain(a, type, q, n, d, end, next, part);
		UNROLL for (size_t i = 0; i < n; i++)
			UNROLL for (size_t p = 0; p < PAGE_V; p++)
				v_store(s[i] + p * VL,
				        v_fma(v_load(part[i] + p * VL), v_load_f16(factor + p * VL),
				              v_load(s[i] + p * VL)));
	}
}

/* Scores to probabilities in place; m and l of the query move on; returns the factor for its
 * acc. */
INLINE float attn_softmax(const struct attn_page_args *a, size_t query, float s[KV_PAGE])
{
	const size_t lo = a->lo[query], hi = a->hi[query];
	UNINIT vf e[PAGE_V], max[NV], sum[NV];
	float m = a->m[query], corr = 1.0f, page_max;

	UNROLL for (size_t p = 0; p < PAGE_V; p++) {
		e[p] = v_load(s + p * VL) * v_set1(a->scale);
		if (a->softcap > 0.0f)
			e[p] = v_set1(a->softcap) * v_tanh(e[p] / v_set1(a->softcap));
	}
	if (lo > 0 || hi < KV_PAGE) {
		UNROLL for (size_t p = 0; p < PAGE_V; p++)
			v_store(s + p * VL, e[p]);
		for (size_t pos = 0; pos < KV_PAGE; pos++)
			s[pos] = pos < lo || pos >= hi ? -INFINITY : s[pos];
		UNROLL for (size_t p = 0; p < PAGE_V; p++)
			e[p] = v_load(s + p * VL);
	}
	UNROLL for (size_t v = 0; v < NV; v++)
		max[v] = v_max(e[v], e[NV + v]);
	page_max = tree_max(max);
	page_max = m > page_max ? m : page_max;
	/* Most pages do not raise the maximum. */
	if (m != page_max)
		corr = exp_one(m - page_max);
	UNROLL for (size_t p = 0; p < PAGE_V; p++) {
		e[p] = v_exp(e[p] - v_set1(page_max));
		v_store(s + p * VL, e[p]);
	}
	UNROLL for (size_t v = 0; v < NV; v++)
		sum[v] = e[v] + e[NV + v];
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
 * d on, `step` apart; p: P as V's codes want it. */
INLINE void attn_values(const struct attn_page_args *a, const enum kv_type type,
                        const size_t *query, const size_t n, const size_t nv, const size_t step,
                        size_t d, float p[][KV_PAGE], const float *corr, size_t lo, size_t hi,
                        const char *next)
{
	UNINIT vf acc[ATTN_QUERIES][2 * NV];

	UNROLL for (size_t i = 0; i < n; i++)
		UNROLL for (size_t v = 0; v < nv; v++)
			acc[i][v] = v_load(a->acc + query[i] * a->head_dim + d + v * step * VL) *
			            v_set1(corr[i]);
	for (size_t pos = lo; pos < hi; pos++) {
		const size_t row = pos * kv_row(a, type) + d;
		UNINIT vf e[ATTN_QUERIES];

		if (next)
			__builtin_prefetch(kv_at(type, next, row));
		UNROLL for (size_t i = 0; i < n; i++)
			e[i] = v_set1(p[i][pos]);
		UNROLL for (size_t v = 0; v < nv; v++) {
			const vf x = kv_load(type, a->v, row + v * step * VL);

			UNROLL for (size_t i = 0; i < n; i++)
				acc[i][v] = v_fma(e[i], x, acc[i][v]);
		}
	}
	UNROLL for (size_t i = 0; i < n; i++)
		UNROLL for (size_t v = 0; v < nv; v++)
			v_store(a->acc + query[i] * a->head_dim + d + v * step * VL, acc[i][v]);
}

INLINE void attn_value_rows(const struct attn_page_args *a, const enum kv_type type,
                            const size_t *query, const size_t n, float p[][KV_PAGE],
                            const float *corr, size_t lo, size_t hi, const char *next)
{
	const size_t nv = row_vectors(type, n), step = 2 * NV / nv;
	UNINIT float scaled[ATTN_QUERIES][KV_PAGE];

	for (size_t d = 0; d < a->head_dim; d += KV_GROUP) {
		const bool whole = d + KV_GROUP <= a->head_dim;
		float (*of)[KV_PAGE] = p;

		if (type != KV_F16) {
			const uint16_t *factor = kv_factors(a, type, a->v, d / KV_GROUP);

			UNROLL for (size_t i = 0; i < n; i++)
				UNROLL for (size_t j = 0; j < KV_PAGE; j += VL)
					v_store(scaled[i] + j,
					        v_load(p[i] + j) * v_load_f16(factor + j));
			of = scaled;
		}
		if (!whole) {
			attn_values(a, type, query, n, NV, 1, d, of, corr, lo, hi, next);
			continue;
		}
		UNROLL for (size_t v = 0; v < step; v++)
			attn_values(a, type, query, n, nv, step, d + v * VL, of, corr, lo, hi,
			            v ? NULL : next);
	}
}

/* KV4: what V's offsets give, once all positions are in. */
INLINE void attn_offsets(const struct attn_page_args *a, const size_t *query, const size_t n,
                         float p[][KV_PAGE])
{
	const size_t groups = kv_groups(a->head_dim);

	for (size_t g = 0; g < groups; g++) {
		const uint16_t *m = kv_factors(a, KV_KV4, a->v, groups + g);
		const size_t end = (g + 1) * KV_GROUP < a->head_dim ? (g + 1) * KV_GROUP :
		                   a->head_dim;

		UNROLL for (size_t i = 0; i < n; i++) {
			float *acc = a->acc + query[i] * a->head_dim;
			UNINIT vf sum[NV];
			vf o;

			UNROLL for (size_t v = 0; v < NV; v++)
				sum[v] = v_fma(v_load(p[i] + 16 + v * VL),
				               v_load_f16(m + 16 + v * VL),
				               v_load(p[i] + v * VL) * v_load_f16(m + v * VL));
			o = v_set1(tree_sum(sum));
			for (size_t d = g * KV_GROUP; d < end; d += VL)
				v_store(acc + d, v_load(acc + d) + o);
		}
	}
}

/* n queries (a constant where this is called), each of which sees something. */
INLINE void attn_block(const struct attn_page_args *a, const enum kv_type type,
                       const size_t *query, const size_t n, bool fetch)
{
	static const float ones[ATTN_QUERIES] = { [0 ... ATTN_QUERIES - 1] = 1.0f };
	UNINIT float p[ATTN_QUERIES][KV_PAGE], corr[ATTN_QUERIES];
	size_t lo = 0, hi = KV_PAGE;

	attn_scores(a, type, query, n, fetch ? a->next_k : NULL, p);
	UNROLL for (size_t i = 0; i < n; i++) {
		corr[i] = attn_softmax(a, query[i], p[i]);
		lo = a->lo[query[i]] > lo ? a->lo[query[i]] : lo;
		hi = a->hi[query[i]] < hi ? a->hi[query[i]] : hi;
	}
	/* Positions before and after the common range belong to some of the queries only. */
	hi = hi > lo ? hi : lo;
	for (size_t i = 0; i < n && n > 1; i++) {
		const size_t first = a->lo[query[i]], last = a->hi[query[i]];

		if (first < lo) {
			attn_value_rows(a, type, query + i, 1, p + i, corr + i, first,
			                last < lo ? last : lo, NULL);
			corr[i] = 1.0f;
		}
	}
	attn_value_rows(a, type, query, n, p, corr, lo, hi, fetch ? a->next_v : NULL);
	for (size_t i = 0; i < n && n > 1; i++)
		if (a->hi[query[i]] > hi)
			attn_value_rows(a, type, query + i, 1, p + i, ones, hi, a->hi[query[i]],
			                NULL);
	if (type == KV_KV4)
		attn_offsets(a, query, n, p);
}

/* A function for each number of queries that share a block. */
#define ATTN_BLOCK(type, n) \
	static void attn_block_##type##_##n(const struct attn_page_args *a, const size_t *query, \
	                                    bool fetch) \
	{ \
		attn_block(a, KV_##type, query, n, fetch); \
	}
#if VL == 1
#define ATTN_BLOCKS(each, type) each(type, 1)
#elif VL < 16
#define ATTN_BLOCKS(each, type) each(type, 1) each(type, 2) each(type, 3)
#else
#define ATTN_BLOCKS(each, type) \
	each(type, 1) each(type, 2) each(type, 3) each(type, 4) each(type, 5) each(type, 6)
#endif
ATTN_BLOCKS(ATTN_BLOCK, F16)
ATTN_BLOCKS(ATTN_BLOCK, KV8)
ATTN_BLOCKS(ATTN_BLOCK, KV4)
#define ATTN_ROW(type, n) [KV_##type][n - 1] = attn_block_##type##_##n,

typedef void (*attn_block_fn)(const struct attn_page_args *a, const size_t *query, bool fetch);
static const attn_block_fn attn_blocks[KV_TYPE_COUNT][ATTN_QUERIES] = {
	ATTN_BLOCKS(ATTN_ROW, F16)
	ATTN_BLOCKS(ATTN_ROW, KV8)
	ATTN_BLOCKS(ATTN_ROW, KV4)
};

static void attn_page(const struct attn_page_args *a)
{
	size_t left = 0, next = 0;
	bool fetch = a->next_k != NULL;

	for (size_t i = 0; i < a->n_q; i++)
		left += a->lo[i] < a->hi[i];
	while (left > 0) {
		/* No block of one beside a full one: its chains are too few to fill the adders. */
		const size_t n = left <= ATTN_QUERIES ? left :
		                 left < 2 * ATTN_QUERIES ? (left + 1) / 2 : ATTN_QUERIES;
		UNINIT size_t query[ATTN_QUERIES];

		for (size_t j = 0; j < n; next++)
			if (a->lo[next] < a->hi[next])
				query[j++] = next;
		attn_blocks[a->type][n - 1](a, query, fetch);
		fetch = false;
		left -= n;
	}
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
	kv_fill(k);
	k->attn_page = attn_page;
	k->attn_merge = attn_merge;
}
