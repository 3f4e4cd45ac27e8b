/* sampler - logits to a token, in a few passes over the row and without a copy of it.
 *
 * Bias and penalties touch at most n_bias + 64 ids, so they are kept as a sorted list of patches;
 * every pass reads the row in blocks and only a block with a patch in it is copied. Candidates come
 * from a heap whose smallest entry is a threshold that most blocks fail with their largest, which
 * the output matrix' chunks left (logits.h), in one comparison.
 *
 * Invariants:
 * 1. Every pass visits ids in ascending order and sums in one fixed order; exp is our own, without
 *    fma or libm. So the token depends on (params, seed, history, logits) and on nothing else.
 * 2. Candidates in s->cand are sorted by logit, best first, lowest id first among equals, between
 *    the chain's stages.
 * 3. A draw advances the generator exactly once, greedy never does.
 * 4. -INFINITY is never a candidate; NaN and +INFINITY anywhere in the row end the call with
 *    -EBADMSG. */
#include "engine/sampler.h"
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "base/num.h"

enum {
	HISTORY = 64,                   /* tokens that penalties look back on */
	BLOCK = LOGITS_BLOCK,           /* floats a pass looks at together */
	LANES = 16,
	NUCLEUS_FIRST = 1024,           /* candidates of the first try at top-p without top-k */
	NUCLEUS_GROW = 16,
	LOGPROBS_MAX = 20,
};

struct cand {
	float x;                        /* logit after bias and penalties */
	float p;                        /* exp(x - best x), or the stage's own key */
	int32_t id;
};
struct patch {
	int32_t id;
	float x;                        /* the id's logit after bias and penalties */
};
struct sampler {
	struct sampler_params p;        /* bias: own copy, ascending ids, one entry an id */
	uint32_t n_vocab;
	bool penalties;
	uint64_t rng;
	int32_t history[HISTORY];       /* ring */
	uint64_t n_history;             /* tokens ever accepted */
	struct patch *patch;            /* room for n_bias + HISTORY */
	struct cand *cand;
	uint32_t cand_cap;              /* 0: the draw streams over the whole row */
	double *block_sum;              /* one a block, for the streaming draw */
};
struct row {                            /* a row of logits seen through the patches */
	const float *x, *max;           /* as in struct logits_row */
	uint32_t n;
	const struct patch *patch;
	uint32_t n_patch, next;         /* next: first patch at or after the block to come */
};

/* === Parameters === */
void sampler_params_default(struct sampler_params *p)
{
	*p = (struct sampler_params){
		.temp = 0.8f,
		.top_k = 40,
		.top_p = 0.95f,
		.min_p = 0.05f,
		.typical_p = 1.0f,
		.repeat_penalty = 1.0f,
	};
}

static bool in_range(float x, float lo, float hi)
{
	return x >= lo && x <= hi;      /* false for NaN */
}

int sampler_check(const struct sampler_params *p, uint32_t n_vocab, struct err *err)
{
	const struct {
		const char *name;
		float x, lo, hi;
	} range[] = {
		{ "temperature", p->temp, 0.0f, 100.0f }, { "top_p", p->top_p, 0.0f, 1.0f },
		{ "min_p", p->min_p, 0.0f, 1.0f }, { "typical_p", p->typical_p, 0.0f, 1.0f },
		{ "repeat_penalty", p->repeat_penalty, FLT_MIN, 10.0f },
		{ "presence_penalty", p->presence_penalty, -10.0f, 10.0f },
		{ "frequency_penalty", p->frequency_penalty, -10.0f, 10.0f },
	};

	for (size_t i = 0; i < ARRAY_SIZE(range); i++)
		if (!in_range(range[i].x, range[i].lo, range[i].hi))
			return err_set(err, -EINVAL, "%s is %g, allowed is %g to %g", range[i].name,
			               (double)range[i].x, (double)range[i].lo,
			               (double)range[i].hi);
	if (p->n_logprobs > LOGPROBS_MAX)
		return err_set(err, -EINVAL,
		               "%u log-probabilities a token were asked for, at most %d are given",
		               p->n_logprobs, LOGPROBS_MAX);
	if (p->n_logprobs > n_vocab)
		return err_set(
			err, -EINVAL,
			"%u log-probabilities a token were asked for, the vocabulary has %u tokens",
			p->n_logprobs, n_vocab);
	for (uint32_t i = 0; i < p->n_bias; i++) {
		if (p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= n_vocab)
			return err_set(err, -EINVAL, "logit bias for token %d, ids are 0 to %u",
			               p->bias[i].id, n_vocab - 1);
		if (isnan(p->bias[i].bias) || p->bias[i].bias == INFINITY)
			return err_set(err, -EINVAL,
			               "logit bias of token %d is not a number or +infinity",
			               p->bias[i].id);
	}
	return 0;
}

static int bias_cmp(const void *a, const void *b)
{
	int32_t x = ((const struct logit_bias *)a)->id, y = ((const struct logit_bias *)b)->id;

	return (x > y) - (x < y);
}

/* Own copy of the biases, sorted; several for one id add up. */
static int bias_copy(struct sampler *s)
{
	struct logit_bias *b;
	uint32_t n = 0;

	if (s->p.n_bias == 0) {
		s->p.bias = NULL;
		return 0;
	}
	b = mem_allocn(s->p.n_bias, sizeof(*b));
	if (!b)
		return -ENOMEM;
	memcpy(b, s->p.bias, s->p.n_bias * sizeof(*b));
	qsort(b, s->p.n_bias, sizeof(*b), bias_cmp);
	for (uint32_t i = 0; i < s->p.n_bias; i++) {
		if (n > 0 && b[n - 1].id == b[i].id)
			b[n - 1].bias += b[i].bias;
		else
			b[n++] = b[i];
	}
	s->p.bias = b;
	s->p.n_bias = n;
	return 0;
}

/* Candidates the chain may hold at once. */
static uint32_t cand_room(const struct sampler_params *p, uint32_t n_vocab)
{
	if (p->temp <= 0)
		return 0;
	if (p->top_k > 0)
		return MIN(p->top_k, n_vocab);
	return p->typical_p < 1 || p->top_p < 1 ? n_vocab : 0;
}

int sampler_new(struct sampler **ret, const struct sampler_params *p, uint32_t n_vocab)
{
	_cleanup_(sampler_freep) struct sampler *s = mem_alloc(sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->p = *p;
	s->n_vocab = n_vocab;
	s->penalties = p->repeat_penalty != 1 || p->presence_penalty != 0 ||
	               p->frequency_penalty != 0;
	s->rng = p->seed * 6364136223846793005u + 1442695040888963407u;
	r = bias_copy(s);
	if (r < 0) {
		s->p.bias = NULL;       /* still the caller's */
		return r;
	}
	s->cand_cap = cand_room(p, n_vocab);
	s->patch = mem_allocn((size_t)s->p.n_bias + HISTORY, sizeof(*s->patch));
	s->block_sum = mem_allocn(DIV_UP(n_vocab, BLOCK), sizeof(*s->block_sum));
	if (s->cand_cap > 0)
		s->cand = mem_allocn(s->cand_cap, sizeof(*s->cand));
	if (!s->patch || !s->block_sum || (s->cand_cap > 0 && !s->cand))
		return -ENOMEM;
	*ret = STEAL(s);
	return 0;
}

struct sampler *sampler_free(struct sampler *s)
{
	if (!s)
		return NULL;
	mem_free(s->p.bias);
	mem_free(s->patch);
	mem_free(s->block_sum);
	mem_free(s->cand);
	return mem_free(s);
}

void sampler_accept(struct sampler *s, int32_t id)
{
	s->history[s->n_history++ % HISTORY] = id;
}

/* 53 random bits as a number in [0, 1): the 64-bit RXS-M-XS permutation of a linear congruential
 * step. */
static double draw_uniform(struct sampler *s)
{
	uint64_t x = s->rng, w = ((x >> ((x >> 59) + 5)) ^ x) * 12605985483714917081u;

	s->rng = x * 6364136223846793005u + 1442695040888963407u;
	w ^= w >> 43;
	return (double)(w >> 11) * 0x1p-53;
}

/* === The row and its patches === */
static int id_cmp(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

static float penalize(const struct sampler_params *p, float x, uint32_t count)
{
	x = x > 0 ? x / p->repeat_penalty : x * p->repeat_penalty;
	return x - (float)count * p->frequency_penalty - p->presence_penalty;
}

/* Merge the biases and the ids of the history, both ascending, into s->patch. Returns how many. */
static uint32_t patch_build(struct sampler *s, const float *logits)
{
	int32_t seen[HISTORY];
	uint32_t n_seen = s->penalties ? (uint32_t)MIN(s->n_history, (uint64_t)HISTORY) : 0, n = 0,
		 b = 0, h = 0;

	memcpy(seen, s->history, n_seen * sizeof(*seen));
	qsort(seen, n_seen, sizeof(*seen), id_cmp);
	while (b < s->p.n_bias || h < n_seen) {
		int32_t id = b < s->p.n_bias ? s->p.bias[b].id : INT32_MAX;
		float x;

		if (h < n_seen)
			id = MIN(id, seen[h]);
		x = logits[id];
		if (b < s->p.n_bias && s->p.bias[b].id == id)
			x += s->p.bias[b++].bias;
		if (h < n_seen && seen[h] == id) {
			uint32_t count = 0;

			for (; h < n_seen && seen[h] == id; h++)
				count++;
			x = penalize(&s->p, x, count);
		}
		s->patch[n++] = (struct patch){ .id = id, .x = x };
	}
	return n;
}

/* Is there a patch in block [i0, i0 + n)? Blocks are asked for in ascending order; i0 = 0 starts a
 * new pass. */
static bool row_patched(struct row *r, uint32_t i0, uint32_t n)
{
	if (i0 == 0)
		r->next = 0;
	while (r->next < r->n_patch && (uint32_t)r->patch[r->next].id < i0)
		r->next++;
	return r->next < r->n_patch && (uint32_t)r->patch[r->next].id < i0 + n;
}

/* Logits [i0, i0 + n) of the row with patches applied, in the same order; buf is used only when
 * there are some. */
static const float *row_block(struct row *r, uint32_t i0, uint32_t n, float buf[BLOCK])
{
	const float *x = r->x + i0;

	if (!row_patched(r, i0, n))
		return x;
	memcpy(buf, x, n * sizeof(*buf));
	for (uint32_t k = r->next; k < r->n_patch && (uint32_t)r->patch[k].id < i0 + n; k++)
		buf[(uint32_t)r->patch[k].id - i0] = r->patch[k].x;
	return buf;
}

/* The largest of such a block; false when one of it is NaN or +INFINITY. */
static bool row_max(struct row *r, uint32_t i0, uint32_t n, float buf[BLOCK], float *ret)
{
	if (r->max && !row_patched(r, i0, n))
		*ret = r->max[i0 / BLOCK];
	else
		*ret = logits_block_max(row_block(r, i0, n, buf), n);
	return !isnan(*ret);
}

/* y = exp(x) for x <= 0 (0 below -87), relative error < 2e-7: the power of two by its bits, the
 * rest by a polynomial. No branches and no calls, so that the compiler can use vectors: the
 * kernels' exp is an fma chain, which costs ten times as much on machines whose baseline has no
 * fma. */
static void exp_lanes(float y[LANES], const float x[LANES])
{
	for (uint32_t l = 0; l < LANES; l++) {
		float v = x[l] < -87.0f ? -87.0f : x[l], f, p;
		/* to nearest, v is not positive */
		int32_t n = (int32_t)(v * 1.44269504f - 0.5f);
		union {
			int32_t i;
			float f;
		} two = { .i = (n + 127) << 23 };

		f = v - (float)n * 0.693359375f - (float)n * -2.12194440e-4f;
		p = 1.98756915e-4f * f + 1.39819995e-3f;
		p = p * f + 8.33345205e-3f;
		p = p * f + 4.16657962e-2f;
		p = p * f + 1.66666657e-1f;
		p = p * f + 0.5f;
		p = p * f * f + f + 1.0f;
		y[l] = x[l] < -87.0f ? 0.0f : p * two.f;
	}
}

static float exp_one(float x)
{
	float y[LANES], v[LANES] = { x };

	exp_lanes(y, v);
	return y[0];
}

/* The best logit and its lowest id. -EBADMSG: NaN, +INFINITY, or nothing but -INFINITY. */
static int row_argmax(struct row *r, float *ret_x, int32_t *ret_id)
{
	float buf[BLOCK], best = -INFINITY;
	uint32_t at = 0;

	for (uint32_t i = 0; i < r->n; i += BLOCK) {
		uint32_t n = MIN((uint32_t)BLOCK, r->n - i);
		float m;

		if (!row_max(r, i, n, buf, &m))
			return -EBADMSG;
		if (m > best) {
			best = m;
			at = i;
		}
	}
	if (best == -INFINITY)
		return -EBADMSG;
	r->next = 0;
	const float *x = row_block(r, at, MIN((uint32_t)BLOCK, r->n - at), buf);
	uint32_t k = 0;
	while (x[k] != best)
		k++;
	*ret_x = best;
	*ret_id = (int32_t)(at + k);
	return 0;
}

/* w[i] = exp((x[i] - best) / temp), 0 where the probability at temperature 1 is below min_p of the
 * best's. */
static void block_weights(float *w, const float *x, uint32_t n, float best, float temp, float min_p)
{
	for (uint32_t i = 0; i < n; i += LANES) {
		float d[LANES], p[LANES], v[LANES];
		uint32_t k = MIN((uint32_t)LANES, n - i);

		if (k == LANES) {
			for (uint32_t l = 0; l < LANES; l++)
				d[l] = x[i + l] - best;
		} else {
			for (uint32_t l = 0; l < LANES; l++)
				d[l] = l < k ? x[i + l] - best : -INFINITY;
		}
		for (uint32_t l = 0; l < LANES; l++)
			v[l] = d[l] / temp;
		exp_lanes(v, v);
		if (min_p > 0) {
			exp_lanes(p, d);
			for (uint32_t l = 0; l < LANES; l++)
				v[l] = p[l] >= min_p ? v[l] : 0.0f;
		}
		memcpy(w + i, v, k * sizeof(*w));
	}
}

/* Sum of the weights above. sums, when not NULL, gets every block's part. */
static double row_sum_exp(struct row *r, float best, float temp, float min_p, double *sums)
{
	float buf[BLOCK], w[BLOCK];
	double total = 0;

	for (uint32_t i = 0; i < r->n; i += BLOCK) {
		uint32_t n = MIN((uint32_t)BLOCK, r->n - i);
		double sum = 0;

		block_weights(w, row_block(r, i, n, buf), n, best, temp, min_p);
		for (uint32_t k = 0; k < n; k++)
			sum += (double)w[k];
		total += sum;
		if (sums)
			sums[i / BLOCK] = sum;
	}
	return total;
}

/* === Candidates === */
/* Of two candidates the one that a heap gives up first: smaller logit, larger id among equals. */
static bool cand_worse(const struct cand *a, const struct cand *b)
{
	return a->x < b->x || (a->x == b->x && a->id > b->id);
}

static void heap_sift(struct cand *c, uint32_t n, uint32_t i)
{
	struct cand top = c[i];

	for (;;) {
		uint32_t k = 2 * i + 1;

		if (k >= n)
			break;
		if (k + 1 < n && cand_worse(&c[k + 1], &c[k]))
			k++;
		if (!cand_worse(&c[k], &top))
			break;
		c[i] = c[k];
		i = k;
	}
	c[i] = top;
}

static void cand_sort(struct cand *c, uint32_t n)
{
	for (uint32_t i = n / 2; i-- > 0;)
		heap_sift(c, n, i);
	for (uint32_t m = n; m > 1; m--) {
		struct cand worst = c[0];

		c[0] = c[m - 1];
		heap_sift(c, m - 1, 0);
		c[m - 1] = worst;
	}
}

/* The k best of the row, sorted. Ids ascend, so an equal logit that comes later loses: one strict
 * comparison. */
static uint32_t row_top(struct row *r, uint32_t k, struct cand *c)
{
	float buf[BLOCK], threshold = -INFINITY;
	uint32_t n_cand = 0;

	for (uint32_t i = 0; i < r->n; i += BLOCK) {
		uint32_t n = MIN((uint32_t)BLOCK, r->n - i);
		const float *x;
		float m;

		if (!row_max(r, i, n, buf, &m) || !(m > threshold))
			continue;
		x = row_block(r, i, n, buf);
		for (uint32_t j = 0; j < n; j++) {
			if (!(x[j] > threshold))
				continue;
			if (n_cand < k) {
				c[n_cand++] = (struct cand){ .x = x[j], .id = (int32_t)(i + j) };
				if (n_cand < k)
					continue;
				for (uint32_t h = k / 2; h-- > 0;)
					heap_sift(c, k, h);
			} else {
				c[0] = (struct cand){ .x = x[j], .id = (int32_t)(i + j) };
				heap_sift(c, k, 0);
			}
			threshold = c[0].x;
		}
	}
	cand_sort(c, n_cand);
	return n_cand;
}

/* How many of c[0,n) it takes, in order, until their p reach `part` of total. At least one. */
static uint32_t cut_mass(const struct cand *c, uint32_t n, double part, double total)
{
	double cum = 0;

	for (uint32_t i = 0; i < n; i++) {
		cum += (double)c[i].p;
		if (cum >= part * total)
			return i + 1;
	}
	return n;
}

static double cand_weigh(struct cand *c, uint32_t n, float best, float temp)
{
	double total = 0;

	for (uint32_t i = 0; i < n; i++) {
		c[i].p = exp_one((c[i].x - best) / temp);
		total += (double)c[i].p;
	}
	return total;
}

static int deviation_cmp(const void *a, const void *b)
{
	const struct cand *x = a, *y = b;

	if (x->x != y->x)
		return x->x < y->x ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

/* Typical-p: keep the candidates whose surprise is nearest to the entropy until they hold typical_p
 * of the mass. surprise - entropy = mean of (x - best) - (x - best): the normalizer cancels, no
 * logarithm is taken. */
static uint32_t cut_typical(struct cand *c, uint32_t n, float typical_p, float best)
{
	double total = cand_weigh(c, n, best, 1), mean = 0;

	for (uint32_t i = 0; i < n; i++)
		mean += (double)c[i].p * ((double)c[i].x - (double)best);
	mean /= total;
	/* the key takes x's place; x comes back from p's place below */
	for (uint32_t i = 0; i < n; i++)
		c[i] = (struct cand){ .x = (float)fabs((double)c[i].x - (double)best - mean),
			              .p = c[i].x,
			              .id = c[i].id };
	qsort(c, n, sizeof(*c), deviation_cmp);
	for (uint32_t i = 0; i < n; i++)
		c[i] = (struct cand){ .x = c[i].p, .p = exp_one(c[i].p - best), .id = c[i].id };
	n = cut_mass(c, n, typical_p, total);
	cand_sort(c, n);
	return n;
}

/* Top-p over the whole vocabulary: its mass needs one pass, its head rarely more than the first
 * try. */
static uint32_t row_nucleus(struct sampler *s, struct row *r, float best)
{
	double total = row_sum_exp(r, best, 1, 0, NULL);

	for (uint32_t k = NUCLEUS_FIRST;; k *= NUCLEUS_GROW) {
		uint32_t n = row_top(r, MIN(k, s->cand_cap), s->cand), cut;
		double mass = cand_weigh(s->cand, n, best, 1);

		cut = cut_mass(s->cand, n, s->p.top_p, total);
		if (k >= s->cand_cap || mass >= (double)s->p.top_p * total)
			return cut;
	}
}

/* top-k, typical-p, top-p, min-p on s->cand. Returns how many are left, at least one. */
static uint32_t chain_cut(struct sampler *s, struct row *r, float best)
{
	const struct sampler_params *p = &s->p;
	uint32_t n, k;

	if (p->top_k == 0 && p->typical_p >= 1) {
		n = row_nucleus(s, r, best);
	} else {
		n = row_top(r, s->cand_cap, s->cand);
		if (p->typical_p < 1)
			n = cut_typical(s->cand, n, p->typical_p, best);
		if (p->top_p < 1)
			n = cut_mass(s->cand, n, p->top_p, cand_weigh(s->cand, n, s->cand[0].x, 1));
	}
	for (k = 1; k < n && exp_one(s->cand[k].x - s->cand[0].x) >= p->min_p; k++)
		;
	return k;
}

static int32_t draw_cand(struct cand *c, uint32_t n, float temp, double u)
{
	double target = u * cand_weigh(c, n, c[0].x, temp), cum = 0;
	uint32_t last = 0;

	for (uint32_t i = 0; i < n; i++) {
		cum += (double)c[i].p;
		if (c[i].p > 0)
			last = i;
		if (cum > target)
			break;
	}
	return c[last].id;
}

/* Draw from the whole vocabulary without a candidate list: find the block by the sums, then the id
 * in it. */
static int32_t draw_row(struct sampler *s, struct row *r, float best, double u)
{
	double target = u * row_sum_exp(r, best, s->p.temp, s->p.min_p, s->block_sum), cum = 0;
	uint32_t n_blocks = DIV_UP(r->n, BLOCK), at = 0, i0, n;
	float buf[BLOCK], w[BLOCK];
	int32_t last = -1;

	for (uint32_t b = 0; b < n_blocks; b++) {
		if (s->block_sum[b] <= 0)
			continue;
		at = b;
		if (target < s->block_sum[b])
			break;
		/* after the last block rounding may leave some: its last id then */
		target -= s->block_sum[b];
	}
	i0 = at * BLOCK;
	n = MIN((uint32_t)BLOCK, r->n - i0);
	r->next = 0;
	block_weights(w, row_block(r, i0, n, buf), n, best, s->p.temp, s->p.min_p);
	for (uint32_t k = 0; k < n && !(last >= 0 && cum > target); k++) {
		if (w[k] <= 0)
			continue;
		cum += (double)w[k];
		last = (int32_t)(i0 + k);
	}
	return last;
}

/* Log-probabilities of the raw distribution: no bias, no penalties, temperature 1. */
static int report(struct sampler *s, const struct logits_row *logits, int32_t id,
                  struct logprob *own, struct logprob *top)
{
	struct row raw = { .x = logits->x, .max = logits->max, .n = s->n_vocab };
	struct cand c[LOGPROBS_MAX];
	int32_t best_id;
	uint32_t n = 0;
	double lse;
	float best;
	int r;

	r = row_argmax(&raw, &best, &best_id);
	if (r < 0)
		return r;
	lse = logits->lse ? logits_lse(logits->lse, logits_blocks(s->n_vocab))
	                  : (double)best + log(row_sum_exp(&raw, best, 1, 0, NULL));
	if (own)
		*own = (struct logprob){ .id = id,
			                 .logprob = (float)((double)logits->x[id] - lse) };
	if (!top || s->p.n_logprobs == 0)
		return 0;
	n = row_top(&raw, s->p.n_logprobs, c);
	/* fewer finite logits than asked for: id -1 */
	for (uint32_t i = 0; i < s->p.n_logprobs; i++)
		top[i] = i < n ? (struct logprob){ .id = c[i].id,
			                           .logprob = (float)((double)c[i].x - lse) }
		               : (struct logprob){ .id = -1, .logprob = -INFINITY };
	return 0;
}

uint32_t sampler_top(const struct sampler *s)
{
	if (s->penalties || s->p.n_bias > 0 || s->p.n_logprobs > 0)
		return 0;
	return s->p.temp <= 0 ? 1 : s->p.top_k;
}

int sampler_sample(struct sampler *s, const struct logits_row *logits, int32_t *ret,
                   struct logprob *own, struct logprob *top)
{
	struct row row = {
		.x = logits->x, .max = logits->max, .n = s->n_vocab, .patch = s->patch
	};
	int32_t id;
	float best;
	int r;

	row.n_patch = patch_build(s, logits->x);
	r = row_argmax(&row, &best, &id);
	if (r < 0)
		return r;
	if (s->p.temp > 0) {
		double u = draw_uniform(s);

		if (s->cand_cap > 0)
			id = draw_cand(s->cand, chain_cut(s, &row, best), s->p.temp, u);
		else
			id = draw_row(s, &row, best, u);
	}
	if (own || top) {
		r = report(s, logits, id, own, top);
		if (r < 0)
			return r;
	}
	*ret = id;
	return 0;
}
