/* check - what the kernel checks share: seeded numbers, buffers that end at a page no one may
 * touch, the count of results, and the levels under test. Single-threaded. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/kernels.h"

/* A level under test: the machine's own, or AVX-VNNI, AVX-512 or AMX run through SIMDe (and a model
 * of tiles) where the machine lacks it. */
struct level_under_test {
	const char *name;       /* "avx2", "avxvnni", "avx512", "avx512-emulated", ... */
	struct kernels k;
	bool slow;              /* emulated: fewer shapes */
};
extern struct kernels ref;              /* scalar */
extern struct level_under_test levels[6];
extern size_t n_levels;

uint32_t rnd(void);
float rnd_float(float lo, float hi);
/* Finite f16 bits, subnormals and zeros included. */
uint16_t rnd_f16(void);
void rnd_bytes(void *p, size_t n);

/* n bytes that end where a PROT_NONE page begins; aligned only as n allows. Freed by guarded_free.
 * Aborts when the machine has no memory. */
void *guarded_alloc(size_t n);
void guarded_free(void *p, size_t n);

/* Rows [r0, r1) of n_tok tokens are want's, bit for bit, and all others still CANARY; tokens of y
 * and want are `width` floats. */
enum { CANARY = 0x5a };                 /* every byte of y before the product */
bool only_rows(const float *y, const float *want, size_t width, size_t r0, size_t r1,
               size_t n_tok);

/* Count a result; a failure prints the sentence. */
void check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Is the test `name` wanted (--filter)? */
bool wanted(const char *name);

void check_mm(void);
void check_pack(void);
void check_panel(void);
void check_screen(void);
void check_dequant(void);
void check_elem(void);
void check_attn(void);
void check_table(void);
void bench_all(void);

/* Fill a row of `n_in` inputs of a type: random bytes with finite factors; `codes` >= 0 sets all
 * other bytes to it, `factor` >= 0 all f16 fields. */
void fill_row(void *row, enum qtype type, size_t n_in, int codes, int factor);
#ifdef QLLM_TEST_EMULATE
void emulated_fill_avx512(struct kernels *k);
/* AVX-VNNI over what AVX2 has filled. */
void emulated_fill_vnni(struct kernels *k);
/* The panel product over AVX-512 emulated, and the level's test of itself. */
void emulated_fill_panel(struct kernels *k);
const char *emulated_self_test(void);
/* What the model of the tiles does wrong (tests/kernels/tiles.h). */
enum tile_fault {
	TILES_HOLD,
	TILES_LOST,     /* zeros, when held for more than a millisecond */
	TILES_WRONG,    /* the odd products are not added */
};
extern enum tile_fault tile_fault;
#endif
