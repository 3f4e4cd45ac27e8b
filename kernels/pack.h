/* pack - the packed layout R16 of weight matrices, made from GGUF rows and back, byte for byte.
 *
 * A packed tensor of R rows is ceil(R / 16) groups one after the other, each of pack_group_bytes
 * (a multiple of 64), at an address that is a multiple of 64; rows past R are blocks of zeros. A
 * group is one stream that every level reads in order. Nothing of a row's bytes is interpreted, so
 * any block survives, NaN scales included.
 *
 * Quantized types. B consecutive elements (a block: 32, or 256 of a superblock) of 16 rows belong
 * together. Blocks come in pairs, 2p and 2p + 1; a last odd block has no partner, only its room in
 * the factors. A pair is
 *   factors  every 16-bit field of the block (d, m, dmin, scales_h), field after field:
 *            {block 2p, block 2p + 1} x 16 rows of 2 bytes: 64 bytes a field
 *   body     of block 2p, then of 2p + 1: every scale byte of the block as 16 bytes by row, in the
 *            block's order, padded with zeros to a multiple of 64 (no type needs it); then its B /
 *            32 units.
 * A unit is 32 elements of 16 rows, as planes of the codes' bits. With k4 = element / 4 and b =
 * element % 4, code (k4, row, b) stands, in planes that come in this order, at
 *   1 bit    64 bytes, byte 4 * row + b, bit k4
 *   2 bits   128 bytes, byte 64 * (k4 / 4) + 4 * row + b, bits 2 * (k4 % 4) and up
 *   4 bits   256 bytes, byte 64 * (k4 % 4) + 4 * row + b, low nibble for k4 < 4, else high
 *   8 bits   512 bytes, byte 64 * k4 + 4 * row + b
 * type     factors     scale bytes  planes: bits of the code, highest plane first
 * Q8_0     d           -            8
 * Q4_0     d           -            4
 * Q4_1     d m         -            4
 * Q5_0     d           -            1 (bit 4), 4
 * Q5_1     d m         -            1 (bit 4), 4
 * IQ4_NL   d           -            4
 * Q2_K     d dmin      16           2
 * Q3_K     d           12           1 (hmask, bit 2), 2
 * Q4_K     d dmin      12           4
 * Q5_K     d dmin      12           1 (bit 4), 4
 * Q6_K     d           16           2 (bits 4 and 5), 4
 * IQ4_XS   d scales_h  4            4   (scale bytes alone are 64)
 *
 * Q8_0 in two parts (PACK_SPLIT), for matrices of whose products only the largest are wanted: what
 * five bits of each code say bounds a product, and rules out most rows (kernels.h, screen). With U
 * = code + 128, a group is of two parts:
 *   high     U >> 3, as a group of Q5_0 with the same factors: its 1 bit and 4 bits a code; what
 *            Q5_0's kernels take as it stands
 *   low      U & 7, block after block, as the unit of Q3_K: 1 bit (bit 2), 2 bits; 192 bytes
 * which together have the bytes of a group of Q8_0. 16 groups, or at the end what there is, are a
 * run: their high parts, then their low parts. Memory is read at full speed only in long stretches
 * (measured on Zen 3: 22 GB/s whole, 20 with a run's low parts left out, 15 with each group's).
 *
 * F32, F16 and BF16: rows as they are, one after the other, the group padded with zeros to a
 * multiple of 64. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/qtype.h"

/* VERSION is counted up by every change of the layout; files of older ones are packed anew. OLDEST:
 * of this number and later ones, files can still be unpacked. */
enum { PACK_LAYOUT_VERSION = 2, PACK_LAYOUT_OLDEST = 1, PACK_ROWS = 16, PACK_RUN = 16 };

/* How a matrix lies in a file: numbers of the packed file (format/packfile.h). */
enum pack_form { PACK_NONE, PACK_R16, PACK_SPLIT, PACK_FORMS };

bool pack_supported(enum qtype type);
/* Is there PACK_SPLIT of rows of n_in elements? */
enum { PACK_SPLIT_WIDEST = 12288 };
bool pack_splits(enum qtype type, uint64_t n_in);
/* Groups that are packed together, at most. */
static inline size_t pack_unit_groups(enum pack_form form)
{
	return form == PACK_SPLIT ? PACK_RUN : 1;
}
/* Bytes of one group of 16 rows of n_in elements, the same in both forms. -ENOTSUP for a type that
 * is not packed, -EINVAL when n_in is 0 or no multiple of the block, -EOVERFLOW. */
int pack_group_bytes(uint64_t *ret, enum qtype type, uint64_t n_in);
/* Of a split group the parts. */
uint64_t pack_high_bytes(uint64_t n_in);
uint64_t pack_low_bytes(uint64_t n_in);
/* Where the parts of group i of n stand in a split matrix. */
struct pack_parts {
	size_t high, low;
};
struct pack_parts pack_parts(size_t i, size_t n, size_t n_in);
/* Rows 0 .. n_rows - 1 (at least 1) of `rows`, row_bytes apart, to one whole unit: of 16 rows, of
 * PACK_SPLIT a run. The type is packed in that form and n_in fits it. No alignment is needed. */
void pack_unit(void *dst, enum qtype type, enum pack_form form, const void *rows,
                size_t row_bytes, size_t n_rows, size_t n_in);
/* The rows' bytes again; what lies between rows is left alone. */
void unpack_unit(void *rows, enum qtype type, enum pack_form form, const void *src,
                  size_t row_bytes, size_t n_rows, size_t n_in);
/* Row i of a unit of n_rows as it was; of its last group any of the 16. */
void unpack_row(void *row, enum qtype type, enum pack_form form, const void *src, size_t n_rows,
                size_t i, size_t n_in);
