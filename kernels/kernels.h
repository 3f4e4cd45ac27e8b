/* kernels - the table of compute functions, filled worst level first (kernels/dispatch.c).
 *
 * Every level gives the same bytes as scalar/ for every kernel here: one integer result, one fixed
 * order of floating-point operations, every fma written. tests/kernels compares with memcmp. So
 * results do not depend on the machine's level, on the number of tokens in a call, on row ranges or
 * on threads.
 * All pointers are to distinct memory unless said; no alignment is needed unless said; nothing
 * allocates; all functions are pure and thread-safe. Buffers are read and written inside their
 * stated size only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/kvtype.h"
#include "kernels/qtype.h"

/* Activations as int8 per 16 ("Q16"): for block j of 16 elements of a token's row
 *   amax = max|x|, s = amax / 127, q = round-half-even(x * (127 / amax)) (0 when amax is 0, not
 *   finite, or so small that 127 / amax overflows), sum = sum of q, t = s * (float)sum.
 * Token i: q + i*k, s/t/sum + i*(k/16); k a multiple of 32. Arrays 64-byte aligned. */
struct q16 {
	int8_t *q;
	float *s, *t;
	int32_t *sum;
	size_t k;
};
/* Bytes of one allocation (64-byte aligned) that carries n_tok tokens, and its division into the
 * arrays. */
size_t q16_bytes(size_t k, size_t n_tok);
void q16_bind(struct q16 *x, void *mem, size_t k, size_t n_tok);

/* What kernels' screen wants of x's first token: k / 32 floats each. */
void screen_terms(float *t, float *e, const struct q16 *x);

/* Matrix product of weight rows [r0, r1) and tokens [0, n_tok): y[t * ldy + r] = sum_k w[r][k] *
 * x[t][k].
 *
 * QACT_Q16 types, canonical order. A row is blocks j of 16 elements with integer codes qw, a float
 * factor a and, for types with a minimum, a float offset c (Q4_1: a = d, c = m; Q4_K: a = d*sc, c =
 * -(dmin*mn), rounded once each; Q6_K: a = d*sc; offsets such as Q5_0's -16 belong to qw, that is
 * to the exact integer). With
 *   D = sum of qw*qx over the block (exact int32),  acc[2] = {0, 0}:
 *   acc[j & 1] = fma((float)D, a * s[j], acc[j & 1]); if the type has a minimum: acc[j & 1] =
 *   fma(c, t[j], acc[j & 1]) y = acc[0] + acc[1].
 * QACT_F32 types (F32, F16, BF16): 16 lanes, lane l sums k = l, l+16, ... by fma(w, x, acc); the
 * tail (k % 16) goes to its lanes; then lanes are added as a tree: l += l+8, l += l+4, l += l+2, l
 * += l+1. */
struct mm_args {
	float *y;
	size_t ldy;                     /* floats between tokens' outputs */
	const void *w;                  /* row 0 of the tensor, rows of row_bytes */
	size_t row_bytes, n_in;         /* n_in: multiple of the type's block */
	size_t r0, r1;                  /* rows of this call */
	size_t n_tok;                   /* >= 1; tokens [0, n_tok) of x */
	const struct q16 *q16;          /* QACT_Q16 types (already offset to the first token) */
	const float *x;                 /* QACT_F32 types: rows of ldx floats */
	size_t ldx;
	/* panel products: activations as panel_in() laid them; token i stands at place + i there,
	 * place < PANEL_TOKENS */
	const uint16_t *tiles;
	size_t place;
	/* KERNELS_SCRATCH(n_in) bytes, of panel products kernels_panel_scratch(n_in), 64-byte
	 * aligned, of this thread */
	void *scratch;
};
typedef void (*mm_fn)(const struct mm_args *a);
/* room for an unpacked panel of 16 rows and scales */
#define KERNELS_SCRATCH_FIXED ((size_t)16384)
#define KERNELS_SCRATCH(n_in) ((size_t)(n_in) * 64 + KERNELS_SCRATCH_FIXED)

/* The panel product, for prompts, where the processor multiplies matrices of bf16 (AMX): the same
 * arguments, other numbers. Canonical order:
 *   weight w: the float that dequant() gives; activation x: the token's float. Both are rounded to
 *   bf16, nearest even (NaN: 0x7fc0), and followed by zeros up to a multiple of 32.
 *   acc = 0; for each 32 k, in order: e = o = 0; for i = 0..15: e = fma(w[2i], x[2i], e), o =
 *   fma(w[2i + 1], x[2i + 1], o); then acc = acc + (e + o). y = acc.
 *   Every operation rounds to nearest even; subnormals, in and out, are zeros of their sign. That
 *   is TDPBF16PS over tiles of 32 k.
 * So a token's result depends on that token and the weights alone, in place or packed, as that of
 * mm does. It is no nearer to mm's than both are to the exact product. */
enum { PANEL_TOKENS = 16, PANEL_STEP = 32 };
/* Expanded weights that stay in the second cache beside the tokens that pass. */
#define KERNELS_PANEL_BYTES ((size_t)768 << 10)
/* Bytes of scratch; at least two groups of 16 rows. */
size_t kernels_panel_scratch(size_t n_in);
/* Bytes of n_tok tokens of k elements as tiles: {token / 16, k / 32, 16 tokens, 32} bf16. */
size_t panel_in_bytes(size_t k, size_t n_tok);

/* Fold one page into the running online-softmax state of n_q queries that share the KV head (heads
 * of a GQA group and tokens alike). Query i: q + i*ldq, head_dim floats, sees positions [lo[i],
 * hi[i]) of the page (none when lo >= hi: then its state is untouched). State of i: m[i] (running
 * max, -INFINITY at the start), l[i], acc + i*head_dim (both not read while m[i] is -INFINITY: they
 * need no initial value).
 *   D = q . K at a position. F16: fma-chain over d = 0.. of q[d]*K[d][pos], one chain from 0. KV8:
 *   for each group such a chain c of q[d]*(float)code from 0, then D = fma(c, s[group][pos], D),
 *   from 0. KV4: such a chain of (q[d]*s[d])*(float)code, plus o: 16 lanes of fma(q[d], m[d]), d =
 *   lane, lane + 16, .. from 0, then the tree.
 *   S = scale * D; if softcap > 0: S = softcap*tanh(S/softcap)
 *   M = max(m, max S); corr = exp(m - M) (1 when m = M, 0 when m = -inf); P = exp(S - M), 0 outside
 *   [lo, hi)
 *   l = fma(l, corr, sum P) with the sum as 16 lanes (pos % 16: P[lane] + P[lane+16]) and then the
 *   tree above; acc[d] = acc[d]*corr, then a chain over pos = 0..31 (positions outside contribute
 *   nothing) of fma(P, V[pos][d], acc[d]); KV8, KV4: of fma(P * s[group][pos], (float)code,
 *   acc[d]); KV4 then: acc[d] += o: 16 lanes of P*m + P*m (m = m[group][pos], as one product and
 *   an fma of pos = lane + 16), then the tree.
 * exp and tanh are kernels' own (same bits at every level, error < 2 ulp for exp).
 * head_dim: a multiple of 16, at most 512. */
struct attn_page_args {
	const float *q;
	size_t ldq, n_q, head_dim;
	enum kv_type type;
	const void *k, *v;              /* parts of a tile: kvtype.h */
	/* parts that the next call will want: fetched ahead, no more; NULL = unknown */
	const void *next_k, *next_v;
	const uint8_t *lo, *hi;         /* n_q each */
	float scale, softcap;
	float *m, *l, *acc;
};

struct kernels {
	const char *level;              /* "scalar", "avx2", "avxvnni", "avx512", "amx" */
	mm_fn mm[QTYPE_COUNT];          /* NULL where qtype_table says QACT_NONE */
	const char *mm_level[QTYPE_COUNT];
	/* The same product, to the same bytes, with a packed tensor (kernels/pack.h): w is its
	 * first group, 64-byte aligned, row_bytes a 16th of a group, r0 a multiple of 16. A group
	 * is read whole. NULL for types that pack_supported() denies. */
	mm_fn mm_packed[QTYPE_COUNT];
	/* Panel products of rows in place and of packed ones. All NULL, or one for every mm. */
	mm_fn panel[QTYPE_COUNT], panel_packed[QTYPE_COUNT];
	/* One token of k floats to its place in tiles, padding of k included. NULL where the level
	 * has no panel product. Places are written independently; those never written may hold
	 * anything. tiles: 64-byte aligned. */
	void (*panel_in)(uint16_t *tiles, const float *x, size_t k, size_t place);
	/* Row of n elements to float. NULL for types without. */
	void (*dequant[QTYPE_COUNT])(float *y, const void *row, size_t n);
	/* Quantize tokens [t0, t1) of x (rows of ldx floats) into out. */
	void (*actq)(const struct q16 *out, const float *x, size_t ldx, size_t t0, size_t t1);
	/* Quantize one token x as two rows whose sum it is: row `row` of out as actq does it, row +
	 * 1 is the rest fma(-s, (float)q, x) quantized likewise: about 15 bits. A product is the
	 * sum of both rows' products. */
	void (*actq_pair)(const struct q16 *out, const float *x, size_t row);
	/* y = x * (1 / sqrt(mean(x^2) + eps)) * w; y may be x. Sum of squares: 16 lanes and the
	 * tree, as above. w may be NULL (all ones). n >= 1. */
	void (*rms_norm)(float *y, const float *x, const float *w, size_t n, float eps);
	/* y += x; y may not be x. */
	void (*add)(float *y, const float *x, size_t n);
	void (*scale)(float *y, float s, size_t n);
	/* y = act(gate) * up; y may be gate or up. silu(x) = x / (1 + exp(-x)); gelu = tanh
	 * form. */
	void (*silu_mul)(float *y, const float *gate, const float *up, size_t n);
	void (*gelu_mul)(float *y, const float *gate, const float *up, size_t n);
	/* Rotate n_head rows of x (row stride head_dim) in place by n_rot/2 angles: cs holds cos,
	 * sin pairs. rope_neox pairs (i, i + n_rot/2); rope_norm pairs (2i, 2i+1). x' = x*cos -
	 * y*sin: fma(x, cos, -(y*sin)); y' = fma(y, cos, x*sin). */
	void (*rope_neox)(float *x, size_t n_head, size_t head_dim, size_t n_rot, const float *cs);
	void (*rope_norm)(float *x, size_t n_head, size_t head_dim, size_t n_rot, const float *cs);
	/* x = H x / sqrt(B) for each block of B, the largest power of two that divides n (a
	 * multiple of 16): an orthogonal matrix that is its own inverse, H of Sylvester. For
	 * distances h = 1, 2, 4, ..: x[i], x[i + h] = x[i] + x[i + h], x[i] - x[i + h]; then times
	 * (1 / sqrt(B)). */
	void (*hadamard)(float *x, size_t n);
	/* Store one position of K and V (head_dim floats each) into the parts of a tile; f16 rounds
	 * to nearest even. KV4 has none: rows go to a KV8 tile, and kv_close makes the KV4 tile of
	 * a full one. */
	void (*kv_store[KV_TYPE_COUNT])(void *kpart, void *vpart, size_t pos, size_t head_dim,
	                                const float *k, const float *v);
	void (*kv_close)(void *k4, void *v4, const void *k8, const void *v8, size_t head_dim);
	void (*attn_page)(const struct attn_page_args *a);
	/* Merge state b into a (both of n_q queries): M = max(ma, mb); acc = acc_a*exp(ma-M) +
	 * acc_b*exp(mb-M) (fma), l alike. A fresh state (m = -INFINITY; its l and acc are not read,
	 * here and in attn_page) merges without arithmetic. */
	void (*attn_merge)(float *ma, float *la, float *acca, const float *mb, const float *lb,
	                   const float *accb, size_t n_q, size_t head_dim);
	/* What rules rows of a split matrix (kernels/pack.h) out. y: products of 16 rows with a
	 * token by mm_packed[Q5_0] of the high part of their group in, upper bounds of their
	 * products by Q8_0 out. For block i of 32 of the token's row, of which 16-blocks j = 2i,
	 * 2i + 1 are, screen_terms makes
	 *   t[i] = 3.5 * (t[2i] + t[2i + 1]),  e[i] = 4 * (s[2i] * A[2i] + s[2i + 1] * A[2i + 1])
	 * with A = sum |q|. With d the rows' factors, over the blocks: a = fma(d, t, a), b =
	 * fma(|d|, e, b) from 0; y = fma(8, y, a + b). True unless all 16 are below `floor` and
	 * finite.
	 * A code is 8 (h - 16) + l, l in 0..7: h's product eightfold, 3.5 for each l, and at most
	 * 3.5 * sum |d| s |q| more. The 0.5 beyond that is for rounding: of at most 3 n_in / 16
	 * operations on sums of terms below 400 sum |d| s |q|, a part of 2^-24 each, with n_in <=
	 * PACK_SPLIT_WIDEST. That holds where the bound is finite. */
	bool (*screen)(float *y, const void *high, size_t n_in, const float *t, const float *e,
	               float floor);
	/* Both parts of a group as the group of Q8_0 that they are. */
	void (*join)(void *dst, const void *high, const void *low, size_t n_in);
	/* y = softcap * tanh(y / softcap). */
	void (*softcap)(float *y, float cap, size_t n);
	/* Max of x and log(sum exp(x - max)) + max: 16 lanes and the tree in double is not used;
	 * float lanes per 4096 elements, added in double. n >= 1. */
	void (*logsumexp)(const float *x, size_t n, float *ret_max, double *ret_lse);
	/* Sum of 64-bit words of [p, p+n): touches memory exactly as fast as it can be read
	 * (bench's read arm). */
	uint64_t (*read_sum)(const void *p, size_t n);
};

/* Fill k for this machine, levels masked by `mask_spec` (the value of QLLM_CPU; NULL or "" = all):
 * a comma list of the levels that may be used, e.g. "scalar", "avx2". Unknown words: -EINVAL. */
int kernels_init(struct kernels *k, const char *mask_spec);
/* Fill k up to and including one level even where CPUID lacks it: only for tests that emulate. 0 or
 * -ENOENT. */
int kernels_init_level(struct kernels *k, const char *level);
/* Space-separated levels that this machine runs: "scalar avx2". */
const char *kernels_levels(void);
/* Why a level that the processor has is left off: "amx: ..." without a period; "" when none is. The
 * first call of this, kernels_levels() or kernels_init() tests AMX, for up to 30 ms of all
 * processors, where there is one. Thread-safe, static storage. */
const char *kernels_refused(void);
/* "AMD EPYC 7B13" from CPUID (no /proc), or "unknown". Static storage. */
const char *kernels_cpu_name(void);

/* Scalar exp/tanh/f16 conversions shared by tests and the sampler; same bits as the kernels'. */
float k_expf(float x);
float k_tanhf(float x);
float k_f16_to_f32(uint16_t h);
uint16_t k_f32_to_f16(float f);
