/* exec: logits against a plain forward pass (float loops over dequantized weights), the same bits
 * whatever the batch, the chunks, the threads and the layout of the weights, with and without panel
 * products, cancelled neighbours, a truncated file, every allocation failing. */
#include "engine/exec.h"
#include "kernels/pack.h"
#include "base/mem.h"
#include "base/num.h"
#include "tests/lib/ggufgen.h"
#include "tests/unit/exec-steps.h"
#include "tests/unit/plain-panels.h"
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

enum { MAX_ROWS = 320, N_TOKENS = 300 };

/* Shapes that differ in every feature: groups of 2, 3 and 4, biases, windows, norms of heads, tied
 * and untied. */
static const struct ggufgen_tiny families[] = {
	{ .arch = "llama",
	  .n_embd = 96,
	  .n_head = 6,
	  .n_head_kv = 2,
	  .seed = 1,
	  .rope_freqs = true,
	  .untied = true },
	{ .arch = "qwen2", .n_head = 4, .n_head_kv = 2, .seed = 2 },
	{ .arch = "gemma3",
	  .n_layer = 7,
	  .n_head = 4,
	  .n_head_kv = 1,
	  .head_dim = 32,
	  .window = 24,
	  .seed = 3 },
};

static struct kernels kernels;

static struct model *load(const struct ggufgen_tiny *t, int *ret_fd)
{
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_tiny_model(t);

	assert_true(fd >= 0);
	if (model_load(&m, fd, "tiny", &err) < 0)
		fail_msg("%s", err.text);
	if (ret_fd)
		*ret_fd = fd;
	else
		close(fd);
	return m;
}

static enum kv_type kv_type;            /* of the pages of the test at hand */

static struct kv_pool *kv_for(const struct model *m)
{
	const struct kv_shape shape = { m->hp.n_layer, m->hp.n_head_kv, m->hp.head_dim, kv_type };
	struct kv_pool *kv = NULL;

	assert_int_equal(kv_pool_new(&kv, &shape, 256 << 20), 0);
	return kv;
}

static struct kv_seq *seq_for(struct kv_pool *kv, uint32_t n)
{
	struct kv_seq *s = NULL;

	assert_int_equal(kv_seq_new(&s, kv), 0);
	assert_int_equal(kv_seq_reserve(s, n), 0);
	return s;
}

static void random_tokens(int32_t *t, uint32_t n, uint32_t n_vocab, uint32_t seed)
{
	for (uint32_t i = 0; i < n; i++) {
		seed = seed * 1664525 + 1013904223;
		t[i] = (int32_t)((seed >> 8) % n_vocab);
	}
}

/* --- the reference: one context, no cache, all in float, from the hyper-parameters --- */

struct ref {
	const struct model *m;
	uint32_t n;
	float *h;                       /* [n][n_embd] */
};

static float *ref_weight(const struct weight *w)
{
	float *f = malloc(w->n_in * w->n_out * sizeof(*f));

	assert_non_null(f);
	for (uint64_t r = 0; r < w->n_out; r++)
		kernels.dequant[w->type](f + r * w->n_in, w->data + r * w->row_bytes, w->n_in);
	return f;
}

static float *ref_linear(const struct weight *w, const struct weight *bias, const float *x,
                         uint32_t n)
{
	float *f = ref_weight(w), *b = bias && bias->data ? ref_weight(bias) : NULL;
	float *y = malloc(n * w->n_out * sizeof(*y));

	assert_non_null(y);
	for (uint32_t t = 0; t < n; t++)
		for (uint64_t r = 0; r < w->n_out; r++) {
			double sum = b ? (double)b[r] : 0;

			for (uint64_t i = 0; i < w->n_in; i++)
				sum += (double)f[r * w->n_in + i] * (double)x[t * w->n_in + i];
			y[t * w->n_out + r] = (float)sum;
		}
	free(f);
	free(b);
	return y;
}

/* In place, rows of dim. */
static void ref_norm(const struct model *m, const struct weight *w, float *x, size_t rows,
                     size_t dim)
{
	float *f;

	if (!w->data)
		return;
	f = ref_weight(w);
	for (size_t r = 0; r < rows; r++) {
		double sum = 0;

		for (size_t i = 0; i < dim; i++)
			sum += (double)x[r * dim + i] * (double)x[r * dim + i];
		for (size_t i = 0; i < dim; i++)
			x[r * dim + i] = (float)((double)x[r * dim + i] /
			                         sqrt(sum / (double)dim + (double)m->hp.norm_eps) *
			                         (double)f[i]);
	}
	free(f);
}

static void ref_rope(const struct ref *ref, float *x, uint32_t heads, bool windowed)
{
	const struct hparams *hp = &ref->m->hp;
	const struct weight *fw = &ref->m->w[SLOT_ROPE_FREQS];
	float *factors = fw->data && !windowed ? ref_weight(fw) : NULL;
	double base = (double)(windowed && hp->rope_base_local > 0 ? hp->rope_base_local
	                                                           : hp->rope_base);
	uint32_t half = hp->n_rot / 2;

	for (uint32_t t = 0; t < ref->n; t++)
		for (uint32_t head = 0; head < heads; head++)
			for (uint32_t i = 0; i < half; i++) {
				float *v = x + ((size_t)t * heads + head) * hp->head_dim;
				float *a = hp->rope == ROPE_NEOX ? v + i : v + 2 * i;
				float *b = hp->rope == ROPE_NEOX ? v + i + half : v + 2 * i + 1;
				double angle = t * pow(base, -2.0 * i / hp->n_rot) /
				               (factors ? (double)factors[i] : 1);
				double re = (double)*a, im = (double)*b;

				if (!windowed)
					angle *= (double)hp->rope_scale;
				*a = (float)(re * cos(angle) - im * sin(angle));
				*b = (float)(re * sin(angle) + im * cos(angle));
			}
	free(factors);
}

static float *ref_attention(const struct ref *ref, const struct layer *l, const float *x)
{
	const struct hparams *hp = &ref->m->hp;
	size_t hd = hp->head_dim, nq = hp->n_head * hd, nk = hp->n_head_kv * hd;
	float *q = ref_linear(&l->w[SLOT_ATTN_Q], &l->w[SLOT_ATTN_Q_BIAS], x, ref->n);
	float *k = ref_linear(&l->w[SLOT_ATTN_K], &l->w[SLOT_ATTN_K_BIAS], x, ref->n);
	float *v = ref_linear(&l->w[SLOT_ATTN_V], &l->w[SLOT_ATTN_V_BIAS], x, ref->n);
	float *o = calloc(ref->n * nq, sizeof(*o)), *y;
	double *p = calloc(ref->n, sizeof(*p));

	assert_true(o && p);
	ref_norm(ref->m, &l->w[SLOT_ATTN_Q_NORM], q, (size_t)ref->n * hp->n_head, hd);
	ref_norm(ref->m, &l->w[SLOT_ATTN_K_NORM], k, (size_t)ref->n * hp->n_head_kv, hd);
	ref_rope(ref, q, hp->n_head, l->windowed);
	ref_rope(ref, k, hp->n_head_kv, l->windowed);
	for (size_t i = 0; i < ref->n * nk; i++) {      /* pages are F16 */
		k[i] = k_f16_to_f32(k_f32_to_f16(k[i]));
		v[i] = k_f16_to_f32(k_f32_to_f16(v[i]));
	}
	for (uint32_t t = 0; t < ref->n; t++)
		for (uint32_t h = 0; h < hp->n_head; h++) {
			uint32_t kh = h / (hp->n_head / hp->n_head_kv);
			uint32_t first = l->windowed && t + 1 > hp->window ? t + 1 - hp->window : 0;
			double max = -INFINITY, sum = 0;

			for (uint32_t s = first; s <= t; s++) {
				p[s] = 0;
				for (size_t i = 0; i < hd; i++)
					p[s] += (double)q[t * nq + h * hd + i] *
					        (double)k[s * nk + kh * hd + i];
				p[s] *= (double)hp->attn_scale;
				max = fmax(max, p[s]);
			}
			for (uint32_t s = first; s <= t; s++)
				sum += p[s] = exp(p[s] - max);
			for (uint32_t s = first; s <= t; s++)
				for (size_t i = 0; i < hd; i++)
					o[t * nq + h * hd + i] += (float)(p[s] / sum) *
					                          v[s * nk + kh * hd + i];
		}
	y = ref_linear(&l->w[SLOT_ATTN_OUT], &l->w[SLOT_ATTN_OUT_BIAS], o, ref->n);
	free(q);
	free(k);
	free(v);
	free(o);
	free(p);
	return y;
}

static double ref_act(const struct hparams *hp, double x)
{
	if (hp->ffn == FFN_GELU_GATED)
		return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
	return x / (1 + exp(-x));
}

/* h += norm(y) */
static void ref_residual(const struct ref *ref, const struct weight *post, float *y)
{
	size_t n = (size_t)ref->n * ref->m->hp.n_embd;

	ref_norm(ref->m, post, y, ref->n, ref->m->hp.n_embd);
	for (size_t i = 0; i < n; i++)
		ref->h[i] += y[i];
	free(y);
}

static float *ref_normed(const struct ref *ref, const struct weight *norm)
{
	size_t bytes = (size_t)ref->n * ref->m->hp.n_embd * sizeof(float);
	float *x = malloc(bytes);

	assert_non_null(x);
	memcpy(x, ref->h, bytes);
	ref_norm(ref->m, norm, x, ref->n, ref->m->hp.n_embd);
	return x;
}

/* Logits [n][n_vocab]; free(). */
static float *ref_logits(const struct model *m, const int32_t *tokens, uint32_t n)
{
	const struct hparams *hp = &m->hp;
	struct ref ref = { m, n, malloc((size_t)n * hp->n_embd * sizeof(float)) };
	float *embd = ref_weight(&m->w[SLOT_TOKEN_EMBD]), *x, *logits;

	assert_non_null(ref.h);
	for (uint32_t t = 0; t < n; t++)
		for (uint32_t i = 0; i < hp->n_embd; i++)
			ref.h[t * hp->n_embd + i] = embd[(size_t)tokens[t] * hp->n_embd + i] *
			                            hp->embd_scale;
	free(embd);
	for (uint32_t il = 0; il < hp->n_layer; il++) {
		const struct layer *l = &m->layers[il];
		float *gate, *up;

		x = ref_normed(&ref, &l->w[SLOT_ATTN_NORM]);
		ref_residual(&ref, &l->w[SLOT_ATTN_POST_NORM], ref_attention(&ref, l, x));
		free(x);
		x = ref_normed(&ref, &l->w[SLOT_FFN_NORM]);
		gate = ref_linear(&l->w[SLOT_FFN_GATE], NULL, x, n);
		up = ref_linear(&l->w[SLOT_FFN_UP], NULL, x, n);
		for (size_t i = 0; i < (size_t)n * hp->n_ff; i++)
			gate[i] = (float)(ref_act(hp, (double)gate[i]) * (double)up[i]);
		ref_residual(&ref, &l->w[SLOT_FFN_POST_NORM],
		             ref_linear(&l->w[SLOT_FFN_DOWN], NULL, gate, n));
		free(x);
		free(gate);
		free(up);
	}
	x = ref_normed(&ref, &m->w[SLOT_OUTPUT_NORM]);
	logits = ref_linear(&m->w[SLOT_OUTPUT], NULL, x, n);
	for (size_t i = 0; i < (size_t)n * hp->n_vocab && hp->final_softcap > 0; i++)
		logits[i] = hp->final_softcap * tanhf(logits[i] / hp->final_softcap);
	free(x);
	free(ref.h);
	return logits;
}

/* ---- running the executor ---- */

struct run {
	struct pool *pool;
	struct exec *x;
	struct kv_pool *kv;
	struct model *m;
	enum exec_path path;
};

static void run_open(struct run *r, struct model *m, const struct kernels *k, uint32_t threads)
{
	struct err err = { 0 };

	*r = (struct run){ .m = m, .kv = kv_for(m) };
	assert_int_equal(pool_new(&r->pool, threads), 0);
	if (exec_new(&r->x, m, k, r->pool, MAX_ROWS, MAX_ROWS, &err) < 0)
		fail_msg("%s", err.text);
}

static void run_close(struct run *r)
{
	exec_free(r->x);
	kv_pool_free(r->kv);
	pool_free(r->pool);
}

/* Feed tokens in chunks; logits of all of them to out. */
static void run_chunks(struct run *r, const int32_t *tokens, uint32_t n, uint32_t chunk, float *out)
{
	struct kv_seq *kv = seq_for(r->kv, n);
	size_t row = r->m->hp.n_vocab;

	for (uint32_t pos = 0; pos < n; pos += chunk) {
		uint32_t len = MIN(chunk, n - pos);
		struct exec_slice s = { .kv = kv, .tokens = tokens + pos, .n = len, .pos0 = pos,
			.path = r->path, .n_logits = len };
		const float *logits = NULL;

		assert_int_equal(step_of(r->x, &s, 1, &logits, NULL), 0);
		memcpy(out + pos * row, logits, len * row * sizeof(*out));
	}
	kv_seq_free(kv);
}

/* Largest difference by the largest logit. */
static double distance(const float *a, const float *b, size_t n)
{
	double diff = 0, max = 0;

	for (size_t i = 0; i < n; i++) {
		diff = fmax(diff, fabs((double)a[i] - (double)b[i]));
		max = fmax(max, fabs((double)b[i]));
	}
	return diff / max;
}

static void check_reference(const struct ggufgen_tiny *t, uint32_t n, enum exec_path path,
                            double bound)
{
	struct model *m = load(t, NULL);
	size_t n_out = (size_t)n * m->hp.n_vocab;
	float *got = malloc(n_out * sizeof(*got)), *want;
	int32_t tokens[N_TOKENS];
	struct run r;
	double d;

	random_tokens(tokens, n, m->hp.n_vocab, 7);
	want = ref_logits(m, tokens, n);
	run_open(&r, m, &kernels, 2);
	r.path = path;
	run_chunks(&r, tokens, n, 128, got);
	d = distance(got, want, n_out);
	if (!(d <= bound))
		fail_msg("%s type %u path %d: relative distance %g, bound %g", t->arch, t->type,
		         path, d, bound);
	run_close(&r);
	model_unref(m);
	free(got);
	free(want);
}

static void test_reference_f32(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		for (int path = PATH_DECODE; path <= PATH_EXACT; path++)
			check_reference(&families[i], N_TOKENS, (enum exec_path)path, 1e-4);
}

/* Activations in 8 bits, and in about 15, so that little but the order of sums is left. */
static void test_reference_quantized(void **state)
{
	static const uint32_t types[] = { QTYPE_Q8_0, QTYPE_Q4_1, QTYPE_Q5_0,
		                          QTYPE_Q4_K, QTYPE_Q6_K, QTYPE_F16 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		for (size_t j = 0; j < ARRAY_SIZE(types); j++) {
			struct ggufgen_tiny t = families[i];

			t.type = types[j];
			t.embd_type = QTYPE_Q8_0;
			t.n_embd = 256;
			t.head_dim = 0;
			t.n_head = t.n_head == 6 ? 8 : 4;
			t.n_layer = 2;
			check_reference(&t, 40, PATH_DECODE, 0.05);
			check_reference(&t, 40, PATH_PROMPT, 0.05);
			check_reference(&t, 40, PATH_EXACT, 5e-4);
		}
}

/* ---- one answer whatever the batch ---- */

static void check_same_bits(const struct ggufgen_tiny *t, enum exec_path path)
{
	static const struct {
		uint32_t chunk, threads;
	} ways[] = { { 300, 1 }, { 1, 1 }, { 1, 2 }, { 7, 2 }, { 32, 1 }, { 128, 3 } };
	struct model *m = load(t, NULL);
	size_t n_out = (size_t)N_TOKENS * m->hp.n_vocab;
	float *want = malloc(n_out * sizeof(*want)), *got = malloc(n_out * sizeof(*got));
	int32_t tokens[N_TOKENS];

	random_tokens(tokens, N_TOKENS, m->hp.n_vocab, 11);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct run r;

		run_open(&r, m, &kernels, ways[i].threads);
		r.path = path;
		run_chunks(&r, tokens, N_TOKENS, ways[i].chunk, i == 0 ? want : got);
		run_close(&r);
		if (i > 0 && memcmp(want, got, n_out * sizeof(*want)) != 0)
			fail_msg("%s: chunks of %u on %u threads give other bits", t->arch,
			         ways[i].chunk, ways[i].threads);
	}
	model_unref(m);
	free(want);
	free(got);
}

static void test_chunks_and_threads_change_no_bit(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		struct ggufgen_tiny t = families[i];

		check_same_bits(&t, PATH_DECODE);
		t.type = QTYPE_Q8_0;
		check_same_bits(&t, PATH_DECODE);
		check_same_bits(&t, PATH_PROMPT);
		check_same_bits(&t, PATH_EXACT);
	}
}

/* Keys and values in few bits: near the reference, and as steady as F16. */
static void test_kv_types(void **state)
{
	static const double bounds[KV_TYPE_COUNT] = { [KV_F16] = 1e-4, [KV_KV8] = 0.05,
		                                       [KV_KV4] = 0.5 };

	(void)state;
	for (unsigned type = 0; type < KV_TYPE_COUNT; type++) {
		kv_type = (enum kv_type)type;
		for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
			check_reference(&families[i], N_TOKENS, PATH_DECODE, bounds[type]);
			if (kv_type != KV_F16)
				check_same_bits(&families[i], PATH_DECODE);
		}
	}
	kv_type = KV_F16;
}

/* ---- packed or in place ---- */

static void pack_weight(struct weight *w)
{
	uint64_t bytes;
	uint8_t *groups;

	if (!w->data || w->packed || w->n_out == 1)
		return;
	assert_int_equal(pack_group_bytes(&bytes, w->type, w->n_in), 0);
	groups = mem_aligned(64, DIV_UP(w->n_out, PACK_ROWS) * bytes);
	assert_non_null(groups);
	for (size_t r = 0; r < w->n_out; r += PACK_ROWS)
		pack_unit(groups + r / PACK_ROWS * bytes, w->type, PACK_R16,
		          w->data + r * w->row_bytes, w->row_bytes,
		          MIN(w->n_out - r, (size_t)PACK_ROWS), w->n_in);
	w->data = groups;
	w->packed = PACK_R16;
	w->row_bytes = bytes / PACK_ROWS;
}

static void unpack_weight(struct weight *w)
{
	if (w->packed)
		mem_free((void *)(uintptr_t)w->data);
	*w = (struct weight){ 0 };
}

static void each_weight(struct model *m, void (*fn)(struct weight *w))
{
	for (unsigned i = 0; i < SLOT_GLOBAL_COUNT; i++)
		fn(&m->w[i]);
	for (uint32_t il = 0; il < m->hp.n_layer; il++)
		for (unsigned i = 0; i < SLOT_LAYER_COUNT; i++)
			fn(&m->layers[il].w[i]);
}

static void check_packed(const struct ggufgen_tiny *t)
{
	struct model *m = load(t, NULL);
	size_t n_out = (size_t)N_TOKENS * m->hp.n_vocab;
	static const enum exec_path paths[] = { PATH_DECODE, PATH_DECODE, PATH_EXACT,
		                                PATH_PROMPT };
	float *logits[2][ARRAY_SIZE(paths)];
	int32_t tokens[N_TOKENS];

	random_tokens(tokens, N_TOKENS, m->hp.n_vocab, 13);
	for (size_t packed = 0; packed < 2; packed++) {
		struct run r;

		if (packed)
			each_weight(m, pack_weight);
		run_open(&r, m, &kernels, 2);
		for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
			logits[packed][i] = malloc(n_out * sizeof(float));
			r.path = paths[i];
			run_chunks(&r, tokens, N_TOKENS, i == 0 ? 1 : 40, logits[packed][i]);
		}
		run_close(&r);
	}
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (memcmp(logits[0][i], logits[1][i], n_out * sizeof(float)) != 0)
			fail_msg("%s type %u: packed weights give other bits, way %zu", t->arch,
			         t->type, i);
		free(logits[0][i]);
		free(logits[1][i]);
	}
	each_weight(m, unpack_weight);
	model_unref(m);
}

static void test_packing_changes_no_bit(void **state)
{
	static const uint32_t types[] = { QTYPE_Q8_0, QTYPE_Q4_1, QTYPE_Q5_0,
		                          QTYPE_Q4_K, QTYPE_Q6_K, QTYPE_F16 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct ggufgen_tiny t = families[i % ARRAY_SIZE(families)];

		t.type = t.embd_type = types[i];
		t.n_embd = 256;
		t.head_dim = 0;
		t.n_head = t.n_head == 6 ? 8 : 4;
		t.n_layer = 2;
		check_packed(&t);
	}
}

/* Sequences of different ages in one step: a prompt's chunk, prompts' ends, decoded tokens. */
enum { N_SEQS = 5, SEQ_MAX = 290 };
struct crowd {
	int32_t tokens[N_SEQS][SEQ_MAX];
	uint32_t len[N_SEQS];
	float *alone[N_SEQS];           /* logits of the last token */
};

static void crowd_open(struct crowd *c, struct run *r)
{
	static const uint32_t len[N_SEQS] = { 270, 1, 33, 290, 16 };
	float *all = malloc((size_t)SEQ_MAX * r->m->hp.n_vocab * sizeof(*all));

	for (uint32_t i = 0; i < N_SEQS; i++) {
		size_t row = r->m->hp.n_vocab * sizeof(float);

		c->len[i] = len[i];
		c->alone[i] = malloc(row);
		random_tokens(c->tokens[i], len[i], r->m->hp.n_vocab, 100 + i);
		run_chunks(r, c->tokens[i], len[i], SEQ_MAX, all);
		memcpy(c->alone[i], all + (size_t)(len[i] - 1) * r->m->hp.n_vocab, row);
	}
	free(all);
}

static void crowd_close(struct crowd *c)
{
	for (uint32_t i = 0; i < N_SEQS; i++)
		free(c->alone[i]);
}

/* Bring all sequences before their last n[i] tokens, then these in one step. */
static void crowd_last_step(struct run *r, const struct crowd *c, const uint32_t n[N_SEQS],
                            struct exec_slice *s)
{
	const float *logits;

	for (uint32_t i = 0; i < N_SEQS; i++) {
		struct exec_slice pre = { .kv = seq_for(r->kv, c->len[i]),
			                  .tokens = c->tokens[i],
			                  .n = c->len[i] - n[i] };

		if (pre.n > 0)
			assert_int_equal(step_of(r->x, &pre, 1, &logits, NULL), 0);
		s[i] = (struct exec_slice){ .kv = pre.kv,
			                    .tokens = c->tokens[i] + pre.n,
			                    .n = n[i],
			                    .pos0 = pre.n,
			                    .path = n[i] > 1 ? PATH_EXACT : PATH_DECODE,
			                    .n_logits = 1 };
	}
}

static void test_neighbours_change_no_bit(void **state)
{
	static const uint32_t last[N_SEQS] = { 1, 1, 33, 40, 5 };

	(void)state;
	for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
		struct model *m = load(&families[f], NULL);
		size_t row = m->hp.n_vocab;
		struct exec_slice s[N_SEQS];
		const float *logits = NULL;
		struct crowd c;
		struct run r;

		run_open(&r, m, &kernels, 2);
		crowd_open(&c, &r);
		crowd_last_step(&r, &c, last, s);
		assert_int_equal(step_of(r.x, s, N_SEQS, &logits, NULL), 0);
		for (uint32_t i = 0; i < N_SEQS; i++) {
			assert_false(s[i].cancelled);
			assert_memory_equal(logits + i * row, c.alone[i], row * sizeof(float));
			kv_seq_free(s[i].kv);
		}
		crowd_close(&c);
		run_close(&r);
		model_unref(m);
	}
}

/* ---- panel products ---- */

/* Prompts, their ends and decoded tokens in turn: a step's rows take all products, and runs of
 * prompt rows begin anywhere in a block. */
static void check_mixed(const struct ggufgen_tiny *t)
{
	static const uint32_t n[N_SEQS] = { 1, 21, 3, 1, 40 };
	static const enum exec_path paths[N_SEQS] = { PATH_DECODE, PATH_PROMPT, PATH_EXACT,
		                                      PATH_PROMPT, PATH_PROMPT };
	struct model *m = load(t, NULL);
	struct exec_slice s[N_SEQS];
	const float *logits = NULL;
	size_t row = m->hp.n_vocab;
	struct crowd c;
	struct run r;

	run_open(&r, m, &kernels, 2);
	for (uint32_t i = 0; i < N_SEQS; i++) {
		c.len[i] = n[i];
		c.alone[i] = malloc(row * sizeof(float));
		random_tokens(c.tokens[i], n[i], m->hp.n_vocab, 200 + i);
		s[i] = (struct exec_slice){ .kv = seq_for(r.kv, n[i]),
			                    .tokens = c.tokens[i],
			                    .n = n[i],
			                    .path = paths[i],
			                    .n_logits = 1 };
		assert_int_equal(step_of(r.x, &s[i], 1, &logits, NULL), 0);
		memcpy(c.alone[i], logits, row * sizeof(float));
		kv_seq_free(s[i].kv);
		s[i].kv = seq_for(r.kv, n[i]);
	}
	assert_int_equal(step_of(r.x, s, N_SEQS, &logits, NULL), 0);
	for (uint32_t i = 0; i < N_SEQS; i++) {
		assert_memory_equal(logits + i * row, c.alone[i], row * sizeof(float));
		kv_seq_free(s[i].kv);
	}
	crowd_close(&c);
	run_close(&r);
	model_unref(m);
}

/* Logits of 40 tokens on a path. */
static float *path_logits(const struct ggufgen_tiny *t, enum exec_path path, size_t *ret_n)
{
	struct model *m = load(t, NULL);
	int32_t tokens[40];
	struct run r;
	float *out;

	*ret_n = ARRAY_SIZE(tokens) * m->hp.n_vocab;
	out = malloc(*ret_n * sizeof(*out));
	random_tokens(tokens, ARRAY_SIZE(tokens), m->hp.n_vocab, 17);
	run_open(&r, m, &kernels, 2);
	r.path = path;
	run_chunks(&r, tokens, ARRAY_SIZE(tokens), 40, out);
	run_close(&r);
	model_unref(m);
	return out;
}

/* Panels are what prompt rows take, and no others. */
static void check_paths(const struct ggufgen_tiny *t, const struct kernels *without)
{
	const struct kernels with = kernels;

	for (int path = PATH_DECODE; path <= PATH_EXACT; path++) {
		float *got[2];
		size_t n;

		got[0] = path_logits(t, (enum exec_path)path, &n);
		kernels = *without;
		got[1] = path_logits(t, (enum exec_path)path, &n);
		kernels = with;
		assert_int_equal(memcmp(got[0], got[1], n * sizeof(float)) != 0,
		                 path == PATH_PROMPT);
		free(got[0]);
		free(got[1]);
	}
}

static void test_panels(void **state)
{
	const struct kernels without = kernels;

	(void)state;
	plain_panels_set(&kernels);
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		struct ggufgen_tiny t = families[i];

		for (int quantized = 0; quantized < 2; quantized++) {
			t.type = quantized ? QTYPE_Q8_0 : QTYPE_F32;
			check_reference(&t, 60, PATH_PROMPT, 0.02);
			check_paths(&t, &without);
			check_mixed(&t);
		}
		check_same_bits(&t, PATH_PROMPT);
	}
	check_packed(&(struct ggufgen_tiny){ .arch = "llama",
	                                     .n_embd = 256,
	                                     .n_head = 8,
	                                     .n_head_kv = 2,
	                                     .n_layer = 2,
	                                     .seed = 9,
	                                     .type = QTYPE_Q4_K,
	                                     .embd_type = QTYPE_Q4_K });
	kernels = without;
}

/* ---- cancel ---- */

static struct {
	atomic_uint left;               /* pages until the flag goes up */
	atomic_bool flag;
} trip;

static void tripping_attn_page(const struct attn_page_args *a)
{
	if (atomic_fetch_sub(&trip.left, 1) == 1)
		atomic_store(&trip.flag, true);
	kernels.attn_page(a);
}

static void test_cancel_inside_a_step(void **state)
{
	static const uint32_t last[N_SEQS] = { 1, 1, 33, 40, 5 };
	struct model *m = load(&families[2], NULL);
	size_t row = m->hp.n_vocab;
	struct kernels tripping = kernels;
	struct exec_slice s[N_SEQS];
	const float *logits = NULL;
	struct crowd c;
	struct run r;

	(void)state;
	tripping.attn_page = tripping_attn_page;
	run_open(&r, m, &tripping, 2);
	crowd_open(&c, &r);
	/* At the first layer's first page, in the middle, and never. */
	for (uint32_t at = 1; at <= 40; at += 13) {
		crowd_last_step(&r, &c, last, s);
		s[0].cancel = s[3].cancel = &trip.flag;
		atomic_store(&trip.flag, false);
		atomic_store(&trip.left, at);
		assert_int_equal(step_of(r.x, s, N_SEQS, &logits, NULL), 0);
		for (uint32_t i = 0, out = 0; i < N_SEQS; i++) {
			assert_int_equal(s[i].cancelled, i == 0 || i == 3);
			if (!s[i].cancelled)
				assert_memory_equal(logits + out++ * row, c.alone[i],
				                    row * sizeof(float));
			kv_seq_free(s[i].kv);
		}
	}
	/* All of them: nothing is left to compute. */
	crowd_last_step(&r, &c, last, s);
	for (uint32_t i = 0; i < N_SEQS; i++)
		s[i].cancel = &trip.flag;
	assert_int_equal(step_of(r.x, s, N_SEQS, &logits, NULL), -ECANCELED);
	for (uint32_t i = 0; i < N_SEQS; i++)
		kv_seq_free(s[i].kv);
	crowd_close(&c);
	run_close(&r);
	model_unref(m);
}

/* ---- edges ---- */

static void test_a_chunk_without_logits(void **state)
{
	struct model *m = load(&families[0], NULL);
	int32_t tokens[64];
	const float *logits = NULL;
	float *want = malloc(64 * (size_t)m->hp.n_vocab * sizeof(*want));
	struct exec_slice s[2];
	struct run r;

	(void)state;
	random_tokens(tokens, 64, m->hp.n_vocab, 5);
	run_open(&r, m, &kernels, 2);
	run_chunks(&r, tokens, 64, 64, want);
	for (uint32_t i = 0; i < 2; i++)
		s[i] = (struct exec_slice){ .kv = seq_for(r.kv, 64), .tokens = tokens, .n = 48 };
	/* Beside one that wants three rows, and all alone. */
	s[0].n_logits = 3;
	assert_int_equal(step_of(r.x, s, 2, &logits, NULL), 0);
	assert_memory_equal(logits, want + 45 * (size_t)m->hp.n_vocab,
	                    3 * m->hp.n_vocab * sizeof(*want));
	s[0].n_logits = 0;
	assert_int_equal(step_of(r.x, s, 2, &logits, NULL), 0);
	for (uint32_t i = 0; i < 2; i++) {
		s[i].tokens = tokens + 48;
		s[i].pos0 = 48;
		s[i].n = 16;
		s[i].n_logits = 1;
	}
	assert_int_equal(step_of(r.x, s, 2, &logits, NULL), 0);
	for (uint32_t i = 0; i < 2; i++) {
		assert_memory_equal(logits + i * m->hp.n_vocab, want + 63 * (size_t)m->hp.n_vocab,
		                    m->hp.n_vocab * sizeof(*want));
		kv_seq_free(s[i].kv);
	}
	run_close(&r);
	model_unref(m);
	free(want);
}

static void test_arguments(void **state)
{
	struct model *m = load(&families[1], NULL);
	const int32_t token = 0;
	const float *logits = NULL;
	struct exec_slice s = { .tokens = &token, .n = 1, .n_logits = 2 };
	struct err err = { 0 };
	struct run r;

	(void)state;
	run_open(&r, m, &kernels, 1);
	assert_int_equal(step_of(r.x, &s, 1, &logits, &err), -EINVAL);
	s.n_logits = 0;
	s.n = MAX_ROWS + 1;
	err_clear(&err);
	assert_int_equal(step_of(r.x, &s, 1, &logits, &err), -EINVAL);
	assert_non_null(strstr(err.text, "320"));
	assert_int_equal(step_of(r.x, NULL, 0, &logits, NULL), -EINVAL);
	assert_null(logits);
	run_close(&r);
	model_unref(m);
}

static atomic_ullong bytes_seen;
static uint64_t counting_read_sum(const void *p, size_t n)
{
	atomic_fetch_add(&bytes_seen, n);
	return kernels.read_sum(p, n);
}

static void test_read_step_reads_all_weights(void **state)
{
	(void)state;
	for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
		struct kernels counting = kernels;
		struct model *m = load(&families[f], NULL);
		uint64_t want = m->w[SLOT_OUTPUT].row_bytes * m->w[SLOT_OUTPUT].n_out;
		struct run r;

		for (uint32_t il = 0; il < m->hp.n_layer; il++)
			for (unsigned i = 0; i < SLOT_LAYER_COUNT; i++)
				if (m->layers[il].w[i].n_out > 1)
					want += m->layers[il].w[i].row_bytes *
					        m->layers[il].w[i].n_out;
		counting.read_sum = counting_read_sum;
		run_open(&r, m, &counting, 2);
		atomic_store(&bytes_seen, 0);
		assert_int_equal(exec_read_step(r.x), want);
		assert_int_equal(atomic_load(&bytes_seen), want);
		run_close(&r);
		model_unref(m);
	}
}

static struct sigaction guard;

static void test_truncated_file(void **state)
{
	int fd;
	struct model *m = load(&families[0], &fd);
	const int32_t token = 3;
	const float *logits = NULL;
	struct exec_slice s;
	struct err err = { 0 };
	struct run r;

	(void)state;
	/* cmocka has put its own handler over the mapping's guard. */
	assert_int_equal(sigaction(SIGBUS, &guard, NULL), 0);
	run_open(&r, m, &kernels, 2);
	s = (struct exec_slice){ .kv = seq_for(r.kv, 1), .tokens = &token, .n = 1, .n_logits = 1 };
	assert_int_equal(step_of(r.x, &s, 1, &logits, &err), 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(step_of(r.x, &s, 1, &logits, &err), -EIO);
	assert_non_null(strstr(err.text, "cut or written to"));
	kv_seq_free(s.kv);
	run_close(&r);
	model_unref(m);
	close(fd);
}

static void test_every_allocation_may_fail(void **state)
{
	struct model *m = load(&families[2], NULL);
	struct pool *pool = NULL;

	(void)state;
	assert_int_equal(pool_new(&pool, 2), 0);
	for (unsigned nth = 0;; nth++) {
		int64_t live = mem_live_blocks();
		struct exec *x = NULL;
		bool fired;
		int r;

		mem_fault_arm(nth, false);
		r = exec_new(&x, m, &kernels, pool, 8, 8, NULL);
		fired = mem_fault_fired();
		assert_int_equal(r, fired ? -ENOMEM : 0);
		assert_true(fired == !x);
		exec_free(x);
		assert_int_equal(mem_live_blocks(), live);
		if (!fired) {
			assert_true(nth > 30);
			break;
		}
	}
	pool_free(pool);
	model_unref(m);
}

/* Before cmocka meddles with signals: the first mapping installs the guard. */
static bool setup(void)
{
	int fd = ggufgen_tiny_model(&families[0]);
	struct model *m = NULL;
	bool ok = fd >= 0 && model_load(&m, fd, "tiny", NULL) == 0 &&
	          sigaction(SIGBUS, NULL, &guard) == 0 &&
	          kernels_init(&kernels, getenv("QLLM_CPU")) == 0;

	close(fd);
	model_unref(m);
	return ok;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reference_f32),
		cmocka_unit_test(test_reference_quantized),
		cmocka_unit_test(test_chunks_and_threads_change_no_bit),
		cmocka_unit_test(test_kv_types),
		cmocka_unit_test(test_packing_changes_no_bit),
		cmocka_unit_test(test_neighbours_change_no_bit),
		cmocka_unit_test(test_panels),
		cmocka_unit_test(test_cancel_inside_a_step),
		cmocka_unit_test(test_a_chunk_without_logits),
		cmocka_unit_test(test_arguments),
		cmocka_unit_test(test_read_step_reads_all_weights),
		cmocka_unit_test(test_truncated_file),
		cmocka_unit_test(test_every_allocation_may_fail),
	};

	if (!setup())
		return 1;
	return cmocka_run_group_tests_name("exec", tests, NULL, NULL);
}
