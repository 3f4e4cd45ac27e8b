/* tile - the few tile instructions that the AMX level uses. Tile numbers are literals.
 *
 * Compilers know nothing of the memory that a tile load reads and move stores past it: every load
 * comes after a barrier. tests/kernels/tiles.h defines the same names in plain C before it includes
 * the level's sources, since most machines that build this have no tiles. */
#pragma once
#include <stdint.h>

/* 64 bytes as LDTILECFG reads them. */
struct tile_shape {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];         /* of each tile */
	uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_shape) == 64, "the processor's size");

/* All eight tiles are 16 rows of 64 bytes: 16 x 32 bf16, or 16 x 16 floats. */
#define TILE_SHAPE \
	{ .palette = 1, \
	  .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, \
	  .rows = { 16, 16, 16, 16, 16, 16, 16, 16 } }

#ifndef TILE_MODEL
#include <immintrin.h>

#define TILE_BARRIER() __asm__ volatile("" ::: "memory")
#define tile_config(shape) _tile_loadconfig(shape)
#define tile_release() _tile_release()
#define tile_zero(tile) _tile_zero(tile)
#define tile_load(tile, p, row_bytes) \
	do { \
		TILE_BARRIER(); \
		_tile_loadd(tile, p, row_bytes); \
	} while (0)
#define tile_store(tile, p, row_bytes) \
	do { \
		_tile_stored(tile, p, row_bytes); \
		TILE_BARRIER(); \
	} while (0)
/* sum[m][n] += a[m][2i] * b[i][2n] + a[m][2i + 1] * b[i][2n + 1], in the order of kernels.h. */
#define tile_dot(sum, a, b) _tile_dpbf16ps(sum, a, b)
#endif
