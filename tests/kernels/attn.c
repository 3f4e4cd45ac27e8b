/* attn - attention: scalar against a softmax in double over several pages, then every level against
 * scalar bit for bit, with garbage and NaN at positions that no query sees. */
#include "tests/kernels/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

enum { PAGES = 3 };

struct attn_case {
	size_t n_q, head_dim, ldq;
	float softcap;
	float *q;
	enum kv_type type;
	void *k[PAGES], *v[PAGES];
	uint8_t *lo[PAGES], *hi[PAGES];
};

struct attn_state {
	float *m, *l, *acc;
};

static struct attn_state state_new(const struct attn_case *c)
{
	struct attn_state s = {
		guarded_alloc(c->n_q * 4),
		guarded_alloc(c->n_q * 4),
		guarded_alloc(c->n_q * c->head_dim * 4),
	};

	for (size_t i = 0; i < c->n_q; i++)
		s.m[i] = -INFINITY;
	/* Not to be read before a page is folded in. */
	memset(s.l, 0xff, c->n_q * 4);
	memset(s.acc, 0xff, c->n_q * c->head_dim * 4);
	return s;
}

static void state_free(const struct attn_case *c, struct attn_state *s)
{
	guarded_free(s->m, c->n_q * 4);
	guarded_free(s->l, c->n_q * 4);
	guarded_free(s->acc, c->n_q * c->head_dim * 4);
}

static bool state_equal(const struct attn_case *c, const struct attn_state *a,
                        const struct attn_state *b)
{
	return memcmp(a->m, b->m, c->n_q * 4) == 0 && memcmp(a->l, b->l, c->n_q * 4) == 0 &&
	       memcmp(a->acc, b->acc, c->n_q * c->head_dim * 4) == 0;
}

static void run(const struct kernels *k, const struct attn_case *c, struct attn_state *s,
                size_t first, size_t last)
{
	for (size_t p = first; p < last; p++)
		k->attn_page(&(struct attn_page_args){
			.q = c->q,
			.ldq = c->ldq,
			.n_q = c->n_q,
			.head_dim = c->head_dim,
			.type = c->type,
			.k = c->k[p],
			.v = c->v[p],
			.next_k = p + 1 < last ? c->k[p + 1] : NULL,
			.next_v = p + 1 < last ? c->v[p + 1] : NULL,
			.lo = c->lo[p],
			.hi = c->hi[p],
			.scale = 0.125f,
			.softcap = c->softcap,
			.m = s->m,
			.l = s->l,
			.acc = s->acc,
		});
}

/* ranges 0: whole pages; 1: causal, every query one position more; 2: any, empty ones too. */
static void set_range(uint8_t *lo, uint8_t *hi, size_t query, size_t page, int ranges)
{
	*lo = 0;
	*hi = KV_PAGE;
	if (ranges == 1 && page == PAGES - 1)
		*hi = (uint8_t)(query / 3 % (KV_PAGE + 1));
	if (ranges == 1 && page == 0)
		*lo = (uint8_t)(query / 3 % KV_PAGE);
	if (ranges == 2) {
		*lo = (uint8_t)(rnd() % KV_PAGE);
		*hi = (uint8_t)(rnd() % (KV_PAGE + 1));
	}
}

static double half_at(const void *p, size_t i)
{
	uint16_t half;

	memcpy(&half, (const char *)p + 2 * i, 2);
	return (double)k_f16_to_f32(half);
}

static double key(const struct attn_case *c, const void *part, size_t d, size_t pos)
{
	const int8_t *codes = part;
	uint8_t byte;

	if (c->type == KV_F16)
		return half_at(part, d * KV_PAGE + pos);
	if (c->type == KV_KV8)
		return codes[d * KV_PAGE + pos] * half_at(codes + c->head_dim * KV_PAGE,
		                                          d / KV_GROUP * KV_PAGE + pos);
	byte = (uint8_t)codes[d * 16 + pos % 16];
	return (pos < 16 ? byte & 15 : byte >> 4) * half_at(codes + c->head_dim * 16, d) +
	       half_at(codes + c->head_dim * 16, c->head_dim + d);
}

static double value(const struct attn_case *c, const void *part, size_t pos, size_t d)
{
	const size_t groups = kv_groups(c->head_dim), factor = d / KV_GROUP * KV_PAGE + pos;
	const int8_t *codes = part;
	uint8_t byte;

	if (c->type == KV_F16)
		return half_at(part, pos * c->head_dim + d);
	if (c->type == KV_KV8)
		return codes[pos * c->head_dim + d] *
		       half_at(codes + c->head_dim * KV_PAGE, factor);
	byte = (uint8_t)codes[(pos * groups + d / KV_GROUP) * 16 + d % 16];
	return (d % 32 < 16 ? byte & 15 : byte >> 4) *
	               half_at(codes + groups * KV_PAGE * 16, factor) +
	       half_at(codes + groups * KV_PAGE * 16, groups * KV_PAGE + factor);
}

/* Every query against the double softmax over what it sees. */
static void check_reference(const struct attn_case *c, const struct attn_state *s)
{
	double worst = 0.0;

	for (size_t i = 0; i < c->n_q; i++) {
		double out[512] = { 0 }, sum = 0.0;

		for (size_t p = 0; p < PAGES; p++)
			for (size_t pos = c->lo[p][i]; pos < c->hi[p][i]; pos++) {
				double score = 0.0, e;

				for (size_t d = 0; d < c->head_dim; d++)
					score += (double)c->q[i * c->ldq + d] *
					         key(c, c->k[p], d, pos);
				score *= 0.125;
				if (c->softcap > 0.0f)
					score = (double)c->softcap *
					        tanh(score / (double)c->softcap);
				e = exp(score);
				sum += e;
				for (size_t d = 0; d < c->head_dim; d++)
					out[d] += e * value(c, c->v[p], pos, d);
			}
		for (size_t d = 0; d < c->head_dim && sum > 0.0; d++)
			worst = fmax(worst, fabs(out[d] / sum -
			                         (double)(s->acc[i * c->head_dim + d] / s->l[i])));
	}
	check(worst < 2e-5, "scalar attn_page: %s, %zu queries of %zu off by %g",
	      kv_type_name(c->type), c->n_q, c->head_dim, worst);
}

/* A page in KV4 is made of a full one in KV8, which it keeps to within half a step. */
static void fill_closed(const struct kernels *k, struct attn_case *c, size_t p)
{
	const size_t n = c->head_dim * KV_PAGE, part = kv_k_bytes(KV_KV8, c->head_dim);
	const struct attn_case full = { .head_dim = c->head_dim, .type = KV_KV8 };
	char *k8 = guarded_alloc(part), *v8 = guarded_alloc(part);
	double worst = 0.0;
	float x[512];

	for (size_t pos = 0; pos < KV_PAGE; pos++) {
		for (size_t d = 0; d < c->head_dim; d++)
			x[d] = rnd_float(-2.0f, 2.0f);
		k->kv_store[KV_KV8](k8, v8, pos, c->head_dim, x, x);
	}
	k->kv_close(c->k[p], c->v[p], k8, v8, c->head_dim);
	for (size_t i = 0; i < n; i++) {
		const size_t d = i / KV_PAGE, pos = i % KV_PAGE;

		worst = fmax(worst, fabs(key(c, c->k[p], d, pos) - key(&full, k8, d, pos)));
		worst = fmax(worst, fabs(value(c, c->v[p], pos, d) - value(&full, v8, pos, d)));
	}
	check(worst < 4.0 / 15.0 / 2.0 + 0.005, "kv_close: head_dim=%zu off by %g", c->head_dim,
	      worst);
	for (size_t l = 0; l < n_levels; l++) {
		char *k4 = guarded_alloc(kv_k_bytes(KV_KV4, c->head_dim));
		char *v4 = guarded_alloc(kv_v_bytes(KV_KV4, c->head_dim));

		levels[l].k.kv_close(k4, v4, k8, v8, c->head_dim);
		check(memcmp(k4, c->k[p], kv_k_bytes(KV_KV4, c->head_dim)) == 0 &&
		              memcmp(v4, c->v[p], kv_v_bytes(KV_KV4, c->head_dim)) == 0,
		      "%s kv_close: head_dim=%zu", levels[l].name, c->head_dim);
		guarded_free(k4, kv_k_bytes(KV_KV4, c->head_dim));
		guarded_free(v4, kv_v_bytes(KV_KV4, c->head_dim));
	}
	guarded_free(k8, part);
	guarded_free(v8, part);
}

static void fill_pages(const struct kernels *k, struct attn_case *c, int ranges)
{
	float kk[512], vv[512];

	for (size_t p = 0; p < PAGES; p++) {
		uint32_t seen = 0;

		for (size_t i = 0; i < c->n_q; i++) {
			set_range(&c->lo[p][i], &c->hi[p][i], i, p, ranges);
			for (size_t pos = c->lo[p][i]; pos < c->hi[p][i]; pos++)
				seen |= 1u << pos;
		}
		memset(c->k[p], 0xff, kv_k_bytes(c->type, c->head_dim));
		memset(c->v[p], 0xff, kv_v_bytes(c->type, c->head_dim));
		if (c->type == KV_KV4) {
			fill_closed(k, c, p);
			continue;
		}
		/* NaN where nothing is stored */
		for (size_t pos = 0; pos < KV_PAGE; pos++) {
			if (!(seen & 1u << pos))
				continue;
			for (size_t d = 0; d < c->head_dim; d++) {
				kk[d] = rnd_float(-2.0f, 2.0f);
				vv[d] = rnd_float(-2.0f, 2.0f);
			}
			k->kv_store[c->type](c->k[p], c->v[p], pos, c->head_dim, kk, vv);
		}
	}
}

static void check_case(enum kv_type type, size_t n_q, size_t head_dim, float softcap, int ranges)
{
	struct attn_case c = { .type = type,
		               .n_q = n_q,
		               .head_dim = head_dim,
		               .ldq = head_dim + 5,
		               .softcap = softcap };
	const size_t k_bytes = kv_k_bytes(type, head_dim), v_bytes = kv_v_bytes(type, head_dim),
		     q_bytes = ((n_q - 1) * c.ldq + head_dim) * 4;
	struct attn_state want, half_a, half_b;

	c.q = guarded_alloc(q_bytes);
	for (size_t i = 0; i < q_bytes / 4; i++)
		c.q[i] = rnd_float(-2.0f, 2.0f);
	for (size_t p = 0; p < PAGES; p++) {
		c.k[p] = guarded_alloc(k_bytes);
		c.v[p] = guarded_alloc(v_bytes);
		c.lo[p] = guarded_alloc(n_q);
		c.hi[p] = guarded_alloc(n_q);
	}
	fill_pages(&ref, &c, ranges);
	want = state_new(&c);
	run(&ref, &c, &want, 0, PAGES);
	check_reference(&c, &want);
	half_a = state_new(&c);
	half_b = state_new(&c);
	run(&ref, &c, &half_a, 0, 1);
	run(&ref, &c, &half_b, 1, PAGES);
	ref.attn_merge(half_a.m, half_a.l, half_a.acc, half_b.m, half_b.l, half_b.acc, n_q,
	               head_dim);
	check_reference(&c, &half_a);
	for (size_t l = 0; l < n_levels; l++) {
		struct attn_state s = state_new(&c), b = state_new(&c);
		const struct kernels *k = &levels[l].k;

		run(k, &c, &s, 0, PAGES);
		check(state_equal(&c, &s, &want),
		      "%s attn_page: %s, %zu queries of %zu, softcap %g, ranges %d",
		      levels[l].name, kv_type_name(type), n_q, head_dim, (double)softcap, ranges);
		state_free(&c, &s);
		s = state_new(&c);
		run(k, &c, &s, 0, 1);
		run(k, &c, &b, 1, PAGES);
		k->attn_merge(s.m, s.l, s.acc, b.m, b.l, b.acc, n_q, head_dim);
		check(state_equal(&c, &s, &half_a), "%s attn_merge: %zu queries of %zu",
		      levels[l].name, n_q, head_dim);
		state_free(&c, &s);
		state_free(&c, &b);
	}
	state_free(&c, &want);
	state_free(&c, &half_a);
	state_free(&c, &half_b);
	for (size_t p = 0; p < PAGES; p++) {
		guarded_free(c.k[p], k_bytes);
		guarded_free(c.v[p], v_bytes);
		guarded_free(c.lo[p], n_q);
		guarded_free(c.hi[p], n_q);
	}
	guarded_free(c.q, q_bytes);
}

static void check_kv_store(enum kv_type type, size_t head_dim)
{
	const size_t bytes = kv_k_bytes(type, head_dim);
	char *k = guarded_alloc(bytes), *v = guarded_alloc(bytes), *want = calloc(2, bytes);
	float *x = guarded_alloc(2 * head_dim * 4);

	for (size_t i = 0; i < 2 * head_dim; i++) {
		/* All magnitudes: overflow to infinity, ties, subnormals. */
		const uint32_t bits = rnd();

		memcpy(&x[i], &bits, 4);
		if (isnan(x[i]) || rnd() & 1)
			x[i] = ldexpf((float)(rnd() & 0xffff), (int)(rnd() % 40) - 40);
	}
	for (size_t pos = 0; pos < KV_PAGE; pos += 31)
		ref.kv_store[type](want, want + bytes, pos, head_dim, x, x + head_dim);
	for (size_t l = 0; l < n_levels; l++) {
		memset(k, 0, bytes);
		memset(v, 0, bytes);
		for (size_t pos = 0; pos < KV_PAGE; pos += 31)
			levels[l].k.kv_store[type](k, v, pos, head_dim, x, x + head_dim);
		check(memcmp(k, want, bytes) == 0 && memcmp(v, want + bytes, bytes) == 0,
		      "%s kv_store: %s head_dim=%zu", levels[l].name, kv_type_name(type), head_dim);
	}
	guarded_free(k, bytes);
	guarded_free(v, bytes);
	guarded_free(x, 2 * head_dim * 4);
	free(want);
}

static void check_type(enum kv_type type)
{
	static const size_t queries[] = { 1, 2, 3, 4, 7, 12, 99 },
			    dims[] = { 16, 48, 64, 128, 256, 512 };

	for (size_t d = 0; d < ARRAY_SIZE(dims); d++) {
		if (wanted("kv_store") && type != KV_KV4)
			check_kv_store(type, dims[d]);
		for (size_t i = 0; i < ARRAY_SIZE(queries) && wanted("attn_page"); i++) {
			if (dims[d] * queries[i] > 10000)
				continue;
			for (int ranges = 0; ranges < 3; ranges++)
				check_case(type, queries[i], dims[d],
				           ranges == 0 ? 0.0f : 20.0f * (float)(i & 1), ranges);
		}
	}
}

void check_attn(void)
{
	for (unsigned type = 0; type < KV_TYPE_COUNT; type++)
		check_type(type);
}
