/* gates - runs chosen kernels once each on fixed inputs, so that callgrind can count their
 * instructions: gate_begin() and gate_end() enclose each, and gates.py dumps and zeroes the counts
 * there.
 *
 *   gates LEVELS    level names as in QLLM_CPU; prints the compiler, then the gates' names in order
 *   gates           prints the compiler only */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

/* as SmolLM2 has them: rows of a projection, its inputs, and one GQA group */
enum { ROWS = 64, N_IN = 1536, HEAD_DIM = 64, GROUP = 3, BATCH = 8, MARGIN = 64 };

struct gates {
	struct kernels k;
	struct q16 q;
	float *x, *y, *w;
	uint8_t *rows, *packed, *scratch;
	uint64_t row_bytes, group_bytes;
};

/* Seen by callgrind under these names. */
__attribute__((noinline)) void gate_begin(void);
__attribute__((noinline)) void gate_end(void);
void gate_begin(void)
{
	__asm__ volatile("");
}
void gate_end(void)
{
	__asm__ volatile("");
}

static void *memory(size_t n)
{
	void *p = aligned_alloc(64, (n + 63) / 64 * 64 + MARGIN);

	if (!p)
		exit(1);
	memset(p, 0, n);
	return p;
}

/* Bytes of which no two make an f16 that is not finite. */
static void fill_bytes(uint8_t *p, size_t n)
{
	uint32_t s = 1;

	for (size_t i = 0; i < n; i++) {
		s = s * 1664525u + 1013904223u;
		p[i] = (uint8_t)(s >> 24) & 0xbf;
	}
}

static void fill_floats(float *p, size_t n)
{
	uint32_t s = 2;

	for (size_t i = 0; i < n; i++) {
		s = s * 1664525u + 1013904223u;
		p[i] = (float)(int32_t)s * 0x1p-31f;
	}
}

static void gate_mm(struct gates *g, enum qtype type, bool packed, size_t n_tok)
{
	struct mm_args a = {
		.y = g->y,
		.ldy = ROWS,
		.w = packed ? g->packed : g->rows,
		.n_in = N_IN,
		.r1 = ROWS,
		.n_tok = n_tok,
		.q16 = &g->q,
		.x = g->x,
		.ldx = N_IN,
		.scratch = g->scratch,
	};
	mm_fn fn = packed ? g->k.mm_packed[type] : g->k.mm[type];

	qtype_row_bytes((uint32_t)type, N_IN, &g->row_bytes);
	a.row_bytes = g->row_bytes;
	fill_bytes(g->rows, ROWS * g->row_bytes);
	if (packed) {
		if (!fn || pack_group_bytes(&g->group_bytes, type, N_IN) < 0)
			exit(1);
		for (size_t r = 0; r < ROWS; r += PACK_ROWS)
			pack_unit(g->packed + r / PACK_ROWS * g->group_bytes, type, PACK_R16,
			           g->rows + r * g->row_bytes, g->row_bytes, PACK_ROWS, N_IN);
		a.row_bytes = g->group_bytes / PACK_ROWS;
	}
	printf("mm%s %s %zu\n", packed ? "_packed" : "", qtype_name((uint32_t)type), n_tok);
	gate_begin();
	fn(&a);
	gate_end();
}

static void gate_attn(struct gates *g, enum kv_type type, size_t n_q)
{
	float m[BATCH * GROUP], l[BATCH * GROUP];
	uint8_t lo[BATCH * GROUP], hi[BATCH * GROUP];
	const size_t part = kv_k_bytes(type, HEAD_DIM);
	const enum kv_type form = type == KV_KV4 ? KV_KV8 : type;
	const size_t full_part = kv_k_bytes(form, HEAD_DIM);
	char *page = memory(kv_tile_bytes(type, HEAD_DIM));
	char *full = form == type ? page : memory(kv_tile_bytes(form, HEAD_DIM));
	struct attn_page_args a = {
		.q = g->x,
		.ldq = HEAD_DIM,
		.n_q = n_q,
		.head_dim = HEAD_DIM,
		.type = type,
		.k = page,
		.v = page + part,
		.lo = lo,
		.hi = hi,
		.scale = 0.125f,
		.m = m,
		.l = l,
		.acc = g->y,
	};

	for (size_t i = 0; i < n_q; i++) {
		m[i] = -1.0f;
		l[i] = 1.0f;
		lo[i] = 0;
		hi[i] = KV_PAGE;
	}
	for (size_t pos = 0; pos < KV_PAGE; pos++)
		g->k.kv_store[form](full, full + full_part, pos, HEAD_DIM, g->x + pos,
		                    g->x + pos + 1);
	if (type == KV_KV4)
		g->k.kv_close(page, page + part, full, full + full_part, HEAD_DIM);
	printf("attn_page %s %zu\n", kv_type_name(type), n_q);
	gate_begin();
	g->k.attn_page(&a);
	gate_end();
	if (full != page)
		free(full);
	free(page);
}

static void run(struct gates *g)
{
	static const enum qtype types[] = { QTYPE_Q4_1, QTYPE_Q8_0, QTYPE_Q5_0, QTYPE_Q4_K,
		                            QTYPE_Q6_K };

	printf("actq f32 1\n");
	gate_begin();
	g->k.actq(&g->q, g->x, N_IN, 0, 1);
	gate_end();
	printf("rms_norm f32 1\n");
	gate_begin();
	g->k.rms_norm(g->y, g->x, g->w, N_IN, 1e-5f);
	gate_end();
	for (unsigned type = 0; type < KV_TYPE_COUNT; type++) {
		gate_attn(g, (enum kv_type)type, GROUP);
		gate_attn(g, (enum kv_type)type, (size_t)BATCH * GROUP);
	}
	g->k.actq(&g->q, g->x, N_IN, 0, BATCH);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		gate_mm(g, types[i], false, 1);
		gate_mm(g, types[i], true, 1);
		gate_mm(g, types[i], true, BATCH);
	}
}

int main(int argc, char **argv)
{
	struct gates g;

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__ || !defined __OPTIMIZE__
	printf("instrumented or not optimized\n");
#elif defined __clang__
	printf("clang " __VERSION__ "\n");
#else
	printf("gcc " __VERSION__ "\n");
#endif
	if (argc < 2)
		return 0;
	if (kernels_init(&g.k, argv[1]) < 0) {
		fprintf(stderr, "gates: no level %s\n", argv[1]);
		return 1;
	}
	printf("%s\n", g.k.level);
	g.x = memory(sizeof(float) * N_IN * BATCH);
	g.y = memory(sizeof(float) * ROWS * BATCH * 8 + sizeof(float) * N_IN);
	g.w = memory(sizeof(float) * N_IN);
	g.rows = memory((size_t)ROWS * N_IN * 2);
	g.packed = memory((size_t)ROWS * N_IN * 4);
	g.scratch = memory(MAX((size_t)KERNELS_SCRATCH(N_IN), (size_t)1 << 18));
	fill_floats(g.x, (size_t)N_IN * BATCH);
	fill_floats(g.w, N_IN);
	q16_bind(&g.q, memory(q16_bytes(N_IN, BATCH)), N_IN, BATCH);
	run(&g);
	return 0;
}
