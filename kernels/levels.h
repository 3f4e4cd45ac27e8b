/* levels - what each instruction-set folder installs; inside kernels/ only.
 * A fill overwrites the slots that its level makes faster and leaves the others as the lesser level
 * set them. */
#pragma once
#include "kernels/kernels.h"

void kernels_fill_scalar(struct kernels *k);
void kernels_fill_avx2(struct kernels *k);      /* needs AVX2, FMA, F16C */
void kernels_fill_avxvnni(struct kernels *k);   /* needs AVX-VNNI besides */
void kernels_fill_neon(struct kernels *k);      /* AArch64 with dot products */
void kernels_fill_avx512(struct kernels *k);    /* needs AVX2's, AVX-512 F, BW, VL, DQ, VNNI */
void kernels_fill_amx(struct kernels *k);       /* needs AMX TILE and BF16 besides, permitted */

/* Parts of the fills, one a source file. */
void scalar_fill_mm(struct kernels *k);
void scalar_fill_dequant(struct kernels *k);
void scalar_fill_elem(struct kernels *k);
void scalar_fill_attn(struct kernels *k);
void avx2_fill_mm(struct kernels *k);
void avx2_fill_packed(struct kernels *k);
void avx2_fill_dequant(struct kernels *k);
void avx2_fill_float(struct kernels *k);
void avx2_fill_elem(struct kernels *k);
void avx2_fill_attn(struct kernels *k);
void avxvnni_fill_packed(struct kernels *k);
void neon_fill_packed(struct kernels *k);
void neon_fill_float(struct kernels *k);
void neon_fill_elem(struct kernels *k);
void neon_fill_attn(struct kernels *k);
void avx512_fill_mm(struct kernels *k);
void avx512_fill_packed(struct kernels *k);
void avx512_fill_float(struct kernels *k);
void avx512_fill_elem(struct kernels *k);
void avx512_fill_attn(struct kernels *k);
void amx_fill_panel(struct kernels *k);

/* A product and a probe for lost tiles (about 25 ms). NULL, or why AMX is not to be used. The
 * process has the permission for tiles. */
const char *amx_self_test(void);
