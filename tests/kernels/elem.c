/* elem - element-wise kernels: accuracy against libm in double, then every level against scalar bit
 * for bit, at lengths around every vector width; inputs and outputs end at forbidden pages. */
#include "tests/kernels/check.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

static const size_t lengths[] = { 1,  2,  7,   8,   15,   16,   17,   31,
	                          33, 64, 100, 576, 4095, 4096, 4097, 9001 };

static double ulp_of(double v)
{
	const int e = v == 0.0 ? -126 : (int)fmax(floor(log2(fabs(v))), -126.0);

	return ldexp(1.0, e - 23);
}

static void check_accuracy(void)
{
	double worst_exp = 0.0, worst_tanh = 0.0;

	for (double x = -104.0; x < 88.72; x += 0.00037) {
		const float f = (float)x;

		worst_exp = fmax(worst_exp,
		                 fabs((double)k_expf(f) - exp((double)f)) / ulp_of(exp((double)f)));
	}
	for (double x = -12.0; x < 12.0; x += 0.000093) {
		const float f = (float)x;

		worst_tanh = fmax(worst_tanh, fabs((double)k_tanhf(f) - tanh((double)f)) /
		                                      ulp_of(tanh((double)f)));
	}
	check(worst_exp < 2.0, "k_expf: %g ulp from libm", worst_exp);
	check(worst_tanh < 3.0, "k_tanhf: %g ulp from libm", worst_tanh);
	check(k_expf(-INFINITY) == 0.0f && k_expf(-200.0f) == 0.0f && k_expf(0.0f) == 1.0f,
	      "k_expf: zero and one");
	check(isinf(k_expf(INFINITY)) && isinf(k_expf(89.0f)) && isnan(k_expf(NAN)),
	      "k_expf: infinity and NaN");
	check(k_tanhf(50.0f) == 1.0f && k_tanhf(-50.0f) == -1.0f && k_tanhf(0.0f) == 0.0f,
	      "k_tanhf: limits");
	check(k_tanhf(INFINITY) == 1.0f && k_tanhf(-0.0f) == 0.0f, "k_tanhf: infinity and -0");
}

/* A float of any kind: mostly plain, sometimes huge, tiny, zero or negative zero. */
static float any_float(void)
{
	switch (rnd() % 16) {
	case 0: return 0.0f;
	case 1: return -0.0f;
	case 2: return rnd_float(-1e-41f, 1e-41f);
	case 3: return rnd_float(-120.0f, 120.0f);
	case 4: return rnd_float(-1e4f, 1e4f);
	default: return rnd_float(-4.0f, 4.0f);
	}
}

enum elem_op {
	OP_RMS_NORM,
	OP_RMS_PLAIN,
	OP_ADD,
	OP_SCALE,
	OP_SILU,
	OP_GELU,
	OP_SOFTCAP,
	OP_COUNT
};
static const char *const op_names[] = {
	"rms_norm", "rms_norm without weights", "add", "scale", "silu_mul", "gelu_mul", "softcap"
};

static void apply(const struct kernels *k, enum elem_op op, float *y, const float *a,
                  const float *b, size_t n)
{
	switch (op) {
	case OP_RMS_NORM: k->rms_norm(y, a, b, n, 1e-5f); break;
	case OP_RMS_PLAIN: k->rms_norm(y, a, NULL, n, 1e-6f); break;
	case OP_ADD: k->add(y, a, n); break;
	case OP_SCALE: k->scale(y, 0.37f, n); break;
	case OP_SILU: k->silu_mul(y, a, b, n); break;
	case OP_GELU: k->gelu_mul(y, a, b, n); break;
	default: k->softcap(y, 30.0f, n); break;
	}
}

/* The value in double; scale of the tolerance is |value|. */
static double expected(enum elem_op op, float y, const float *a, const float *b, size_t i,
                       double rms)
{
	const double x = (double)a[i], u = (double)b[i];

	switch (op) {
	case OP_RMS_NORM: return x * rms * u;
	case OP_RMS_PLAIN: return x * rms;
	case OP_ADD: return (double)y + x;
	case OP_SCALE: return (double)y * (double)0.37f;
	case OP_SILU: return x / (1.0 + exp(-x)) * u;
	case OP_GELU:
		return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))) * u;
	default: return 30.0 * tanh((double)y / 30.0);
	}
}

static void check_op(enum elem_op op, size_t n)
{
	const size_t bytes = n * sizeof(float);
	float *a = guarded_alloc(bytes), *b = guarded_alloc(bytes), *y = guarded_alloc(bytes);
	float *start = calloc(n, sizeof(float)), *want = calloc(n, sizeof(float));
	double square = 0.0, worst = 0.0, rms;

	for (size_t i = 0; i < n; i++) {
		a[i] = any_float();
		b[i] = rnd_float(-2.0f, 2.0f);
		start[i] = want[i] = any_float();
		square += (double)a[i] * (double)a[i];
	}
	rms = 1.0 / sqrt(square / (double)n + (op == OP_RMS_NORM ? (double)1e-5f : (double)1e-6f));
	apply(&ref, op, want, a, b, n);
	for (size_t i = 0; i < n; i++) {
		const double e = expected(op, start[i], a, b, i, rms);

		worst = fmax(worst, fabs((double)want[i] - e) / (fabs(e) + 1e-6));
	}
	/* gelu of large negative x is a difference of nearly equal numbers. */
	check(worst < (op == OP_GELU ? 0.2 : 2e-5), "scalar %s: n=%zu off by %g", op_names[op], n,
	      worst);
	for (size_t l = 0; l < n_levels; l++) {
		memcpy(y, start, bytes);
		apply(&levels[l].k, op, y, a, b, n);
		check(memcmp(y, want, bytes) == 0, "%s %s: n=%zu", levels[l].name, op_names[op], n);
		if (op == OP_ADD || op == OP_SCALE || op == OP_SOFTCAP)
			continue;
		memcpy(y, a, bytes);            /* in place */
		apply(&levels[l].k, op, y, y, b, n);
		check(memcmp(y, want, bytes) == 0, "%s %s in place: n=%zu", levels[l].name,
		      op_names[op], n);
	}
	guarded_free(a, bytes);
	guarded_free(b, bytes);
	guarded_free(y, bytes);
	free(start);
	free(want);
}

static void check_logsumexp(size_t n)
{
	float *x = guarded_alloc(n * sizeof(float)), max, ref_max;
	double sum = 0.0, lse, ref_lse, exact;

	for (size_t i = 0; i < n; i++)
		x[i] = rnd_float(-30.0f, 10.0f);
	ref.logsumexp(x, n, &ref_max, &ref_lse);
	for (size_t i = 0; i < n; i++)
		sum += exp((double)x[i] - (double)ref_max);
	exact = log(sum) + (double)ref_max;
	check(fabs(ref_lse - exact) < 1e-5, "scalar logsumexp: n=%zu %g instead of %g", n, ref_lse,
	      exact);
	for (size_t l = 0; l < n_levels; l++) {
		levels[l].k.logsumexp(x, n, &max, &lse);
		check(memcmp(&max, &ref_max, sizeof(max)) == 0 &&
		              memcmp(&lse, &ref_lse, sizeof(lse)) == 0,
		      "%s logsumexp: n=%zu", levels[l].name, n);
	}
	guarded_free(x, n * sizeof(float));
}

static void check_rope(size_t n_head, size_t head_dim, size_t n_rot, bool neox)
{
	const size_t n = n_head * head_dim;
	float *x = guarded_alloc(n * sizeof(float)), *cs = guarded_alloc(n_rot * sizeof(float));
	float *start = calloc(n, sizeof(float)), *want = calloc(n, sizeof(float));
	double worst = 0.0;

	for (size_t i = 0; i < n; i++)
		start[i] = want[i] = rnd_float(-5.0f, 5.0f);
	for (size_t i = 0; i < n_rot; i += 2) {
		const float angle = rnd_float(-3.0f, 3.0f);

		cs[i] = cosf(angle);
		cs[i + 1] = sinf(angle);
	}
	(neox ? ref.rope_neox : ref.rope_norm)(want, n_head, head_dim, n_rot, cs);
	for (size_t h = 0; h < n_head; h++)
		for (size_t i = 0; i < n_rot / 2; i++) {
			const size_t at = h * head_dim, p = at + (neox ? i : 2 * i),
				     q = at + (neox ? i + n_rot / 2 : 2 * i + 1);
			const double c = (double)cs[2 * i], s = (double)cs[2 * i + 1];

			worst = fmax(worst, fabs((double)want[p] -
			                         ((double)start[p] * c - (double)start[q] * s)));
			worst = fmax(worst, fabs((double)want[q] -
			                         ((double)start[p] * s + (double)start[q] * c)));
		}
	check(worst < 1e-5, "scalar rope %s: head_dim=%zu n_rot=%zu off by %g",
	      neox ? "neox" : "norm", head_dim, n_rot, worst);
	for (size_t l = 0; l < n_levels; l++) {
		memcpy(x, start, n * sizeof(float));
		(neox ? levels[l].k.rope_neox : levels[l].k.rope_norm)(x, n_head, head_dim, n_rot,
		                                                       cs);
		check(memcmp(x, want, n * sizeof(float)) == 0, "%s rope %s: head_dim=%zu n_rot=%zu",
		      levels[l].name, neox ? "neox" : "norm", head_dim, n_rot);
	}
	guarded_free(x, n * sizeof(float));
	guarded_free(cs, n_rot * sizeof(float));
	free(start);
	free(want);
}

/* Against the definition: element i of H is the sum of x[j], negative where i & j has an odd number
 * of bits. */
static void check_hadamard(size_t n)
{
	const size_t bytes = n * sizeof(float), block = n & (0 - n);
	float *x = guarded_alloc(bytes), *start = calloc(n, sizeof(float)),
	      *want = calloc(n, sizeof(float));
	double worst = 0.0;

	for (size_t i = 0; i < n; i++)
		start[i] = want[i] = rnd_float(-5.0f, 5.0f);
	ref.hadamard(want, n);
	for (size_t i = 0; i < n; i++) {
		const size_t first = i / block * block;
		double sum = 0.0;

		for (size_t j = 0; j < block; j++)
			sum += __builtin_popcountll((i - first) & j) & 1
			               ? -(double)start[first + j] : (double)start[first + j];
		worst = fmax(worst, fabs((double)want[i] - sum / sqrt((double)block)));
	}
	check(worst < 2e-5, "scalar hadamard: n=%zu off by %g", n, worst);
	for (size_t l = 0; l < n_levels; l++) {
		memcpy(x, start, bytes);
		levels[l].k.hadamard(x, n);
		check(memcmp(x, want, bytes) == 0, "%s hadamard: n=%zu", levels[l].name, n);
	}
	guarded_free(x, bytes);
	free(start);
	free(want);
}

/* kind 0 plain, 1 ties (halves of the step), 2 subnormal, 3 one infinity, 4 one NaN. */
static void check_actq(size_t k, size_t n_tok, int kind)
{
	const size_t bytes = q16_bytes(k, n_tok), ldx = k + 3;
	void *mem = guarded_alloc(bytes), *want_mem = guarded_alloc(bytes);
	float *x = guarded_alloc(ldx * n_tok * sizeof(float));
	struct q16 q, want;
	bool ok = true;

	for (size_t i = 0; i < ldx * n_tok; i++) {
		x[i] = kind == 2 ? rnd_float(-1e-38f, 1e-38f) * (float)(rnd() & 1)
		                 : rnd_float(-3.0f, 3.0f);
		if (kind == 1)
			x[i] = i % 16 == 0 ? 127.0f : (float)((int)(rnd() % 253) - 126) + 0.5f;
		if (kind >= 3 && i % 80 == 5)
			x[i] = kind == 3 ? -INFINITY : NAN;
	}
	memset(mem, 0, bytes);
	memset(want_mem, 0, bytes);
	q16_bind(&q, mem, k, n_tok);
	q16_bind(&want, want_mem, k, n_tok);
	ref.actq(&want, x, ldx, n_tok / 2, n_tok);
	for (size_t t = n_tok / 2; t < n_tok && kind != 3 && kind != 4; t++)
		for (size_t i = 0; i < k; i++) {
			const size_t g = (t * k + i) / 16;

			/* Half a step, and the rounding of the quotient. */
			ok &= fabs((double)want.q[t * k + i] * (double)want.s[g] -
			           (double)x[t * ldx + i]) <= 0.50001 * (double)want.s[g] + 3e-38;
		}
	check(ok, "scalar actq: kind %d is off by more than half a step", kind);
	for (size_t l = 0; l < n_levels; l++) {
		memset(mem, 0, bytes);
		levels[l].k.actq(&q, x, ldx, n_tok / 2, n_tok);
		check(memcmp(mem, want_mem, bytes) == 0, "%s actq: k=%zu tokens=%zu kind %d",
		      levels[l].name, k, n_tok, kind);
	}
	guarded_free(mem, bytes);
	guarded_free(want_mem, bytes);
	guarded_free(x, ldx * n_tok * sizeof(float));
}

/* The rest of the first row's rounding is the second row: together they are off by half of its
 * step. */
static void check_actq_pair(size_t k, int kind)
{
	const size_t bytes = q16_bytes(k, 4), n_group = k / 16;
	void *mem = guarded_alloc(bytes), *want_mem = guarded_alloc(bytes);
	float *x = guarded_alloc(k * sizeof(float));
	struct q16 q, want;
	bool ok = true;

	for (size_t i = 0; i < k; i++) {
		x[i] = rnd_float(-3.0f, 3.0f) * (i % 37 == 0 ? 400.0f : 1.0f);
		if (kind == 1 && i % 80 == 5)
			x[i] = NAN;
	}
	memset(mem, 0, bytes);
	memset(want_mem, 0, bytes);
	q16_bind(&q, mem, k, 4);
	q16_bind(&want, want_mem, k, 4);
	ref.actq_pair(&want, x, 1);
	for (size_t i = 0; i < k && kind == 0; i++) {
		const size_t hi = n_group + i / 16, lo = hi + n_group;
		const double sum = (double)want.q[k + i] * (double)want.s[hi] +
		                   (double)want.q[2 * k + i] * (double)want.s[lo];

		ok &= fabs(sum - (double)x[i]) <= (double)want.s[hi] / 253.0;
	}
	check(ok, "scalar actq_pair: off by more than half a step of the second row");
	for (size_t l = 0; l < n_levels; l++) {
		memset(mem, 0, bytes);
		levels[l].k.actq_pair(&q, x, 1);
		check(memcmp(mem, want_mem, bytes) == 0, "%s actq_pair: k=%zu kind %d",
		      levels[l].name, k, kind);
	}
	guarded_free(mem, bytes);
	guarded_free(want_mem, bytes);
	guarded_free(x, k * sizeof(float));
}

static void check_read_sum(void)
{
	static uint64_t words[1000];
	uint64_t sum = 0;

	rnd_bytes(words, sizeof(words));
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		sum += words[i];
	check(ref.read_sum(words, sizeof(words)) == sum, "scalar read_sum");
	for (size_t l = 0; l < n_levels; l++)
		for (size_t n = 0; n <= ARRAY_SIZE(words); n += 125)
			check(levels[l].k.read_sum(words, 8 * n) == ref.read_sum(words, 8 * n),
			      "%s read_sum: %zu words", levels[l].name, n);
}

void check_elem(void)
{
	if (wanted("accuracy"))
		check_accuracy();
	for (enum elem_op op = 0; op < OP_COUNT; op++)
		for (size_t i = 0; i < ARRAY_SIZE(lengths) && wanted(op_names[op]); i++)
			check_op(op, lengths[i]);
	for (size_t i = 0; i < ARRAY_SIZE(lengths) && wanted("logsumexp"); i++)
		check_logsumexp(lengths[i]);
	for (int neox = 0; neox < 2 && wanted("rope"); neox++) {
		check_rope(3, 64, 64, neox);
		check_rope(1, 256, 256, neox);
		check_rope(5, 80, 40, neox);
		check_rope(2, 16, 6, neox);
	}
	for (size_t n = 16; n <= 512 && wanted("hadamard"); n += 16)
		check_hadamard(n);
	for (int kind = 0; kind < 5 && wanted("actq"); kind++) {
		check_actq(32, 1, kind);
		check_actq(640, 5, kind);
		check_actq(2048, 2, kind);
	}
	for (int kind = 0; kind < 2 && wanted("actq"); kind++) {
		check_actq_pair(32, kind);
		check_actq_pair(640, kind);
	}
	if (wanted("read_sum"))
		check_read_sum();
}

void check_table(void)
{
	struct kernels k;
	uint64_t bytes = 0;

	if (!wanted("table"))
		return;
	check(kernels_init(&k, "scalar") == 0 && strcmp(k.level, "scalar") == 0,
	      "mask: scalar alone");
	check(kernels_init(&k, "") == 0 && kernels_init(&k, NULL) == 0, "mask: none");
	check(strstr(kernels_levels(), k.level) != NULL,
	      "the level chosen is one that the machine has");
	check(kernels_init(&k, "avx3") == -EINVAL && kernels_init(&k, "scalar,") == -EINVAL,
	      "mask: unknown words");
	check(kernels_init_level(&k, "avx3") == -ENOENT, "level: unknown");
	check(kernels_init(&k, "amx,scalar") == 0, "mask: a level of another machine");
	check(!strstr(kernels_levels(), "amx") || *kernels_refused() == 0,
	      "a level that is refused is not one that the machine has");
	for (size_t l = 0; l <= n_levels; l++) {
		const struct kernels *t = l < n_levels ? &levels[l].k : &ref;

		for (int type = 0; type < QTYPE_COUNT; type++)
			check((qtype_table[type].act != QACT_NONE) == (t->mm[type] != NULL) &&
			              (t->mm[type] != NULL) == (t->dequant[type] != NULL) &&
			              (t->mm[type] != NULL) == (t->mm_level[type] != NULL),
			      "%s table: type %s", t->level, qtype_name((uint32_t)type));
		for (int type = 0; type < QTYPE_COUNT; type++)
			check((t->panel[type] != NULL) == (t->panel_in && t->mm[type]) &&
			              (t->panel[type] != NULL) == (t->panel_packed[type] != NULL),
			      "%s table: panel of type %s", t->level, qtype_name((uint32_t)type));
	}
	check(qtype_from_name("q4_k") == QTYPE_Q4_K && qtype_from_name("Q4") == -1, "type names");
	check(!qtype_info(4) && !qtype_info(QTYPE_COUNT) && qtype_info(30), "type ids in use");
	check(qtype_row_bytes(QTYPE_Q6_K, 512, &bytes) && bytes == 420, "bytes of a row");
	check(!qtype_row_bytes(QTYPE_Q6_K, 576, &bytes) &&
	              !qtype_row_bytes(QTYPE_F64, UINT64_MAX, &bytes),
	      "rows refused");
}
