/* tiles - the tile instructions of kernels/amx/tile.h in plain C, after Intel's description of
 * LDTILECFG, TILELOADD, TILEZERO, TDPBF16PS, TILESTORED and TILERELEASE. Every thread has its own
 * tiles, and what the processor faults at aborts. Faults of machines can be had on demand. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "tests/kernels/check.h"

#define TILE_MODEL 1
#define amx_fill_panel emulated_fill_panel
#define amx_self_test emulated_self_test

static _Thread_local struct {
	uint8_t row[8][16][64];
	uint16_t row_bytes[8];
	uint8_t rows[8];
	bool configured;
	double loaded;
} tiles_model;

static void tiles_check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "tile model: %s\n", what);
	abort();
}

static double tiles_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void model_config(const void *p)
{
	const uint8_t *b = p;
	unsigned rows = 0;

	memset(&tiles_model, 0, sizeof(tiles_model));
	tiles_check(b[0] == 1, "palette");
	for (int i = 2; i < 16; i++)
		tiles_check(b[i] == 0, "reserved bytes");
	for (int i = 0; i < 16; i++) {
		uint16_t bytes;

		memcpy(&bytes, b + 16 + 2 * i, sizeof(bytes));
		tiles_check((bytes == 0) == (b[48 + i] == 0), "a tile of one dimension");
		tiles_check(i < 8 ? bytes <= 64 && b[48 + i] <= 16 : bytes == 0, "tile's shape");
		if (i < 8) {
			tiles_model.row_bytes[i] = bytes;
			tiles_model.rows[i] = b[48 + i];
			rows += b[48 + i];
		}
	}
	tiles_check(rows > 0, "no tile");
	tiles_model.configured = true;
}

static void model_release(void)
{
	memset(&tiles_model, 0, sizeof(tiles_model));
}

static void model_zero(int tile)
{
	tiles_check(tiles_model.configured && tiles_model.rows[tile] > 0, "zero without a shape");
	memset(tiles_model.row[tile], 0, sizeof(tiles_model.row[tile]));
}

static void model_load(int tile, const void *p, size_t step)
{
	model_zero(tile);
	for (size_t r = 0; r < tiles_model.rows[tile]; r++)
		memcpy(tiles_model.row[tile][r], (const uint8_t *)p + r * step,
		       tiles_model.row_bytes[tile]);
	if (tile_fault == TILES_LOST)
		tiles_model.loaded = tiles_now();
}

static void model_store(int tile, void *p, size_t step)
{
	tiles_check(tiles_model.configured && tiles_model.rows[tile] > 0, "store without a shape");
	if (tile_fault == TILES_LOST && tiles_now() - tiles_model.loaded > 1e-3)
		memset(tiles_model.row, 0, sizeof(tiles_model.row));
	for (size_t r = 0; r < tiles_model.rows[tile]; r++)
		memcpy((uint8_t *)p + r * step, tiles_model.row[tile][r],
		       tiles_model.row_bytes[tile]);
}

/* A subnormal is a zero of its sign. */
static float model_flush(float v)
{
	return fabsf(v) < 0x1p-126f ? copysignf(0.0f, v) : v;
}

static float model_bf16(int tile, size_t row, size_t i)
{
	uint16_t h;
	uint32_t bits;
	float v;

	memcpy(&h, tiles_model.row[tile][row] + 2 * i, sizeof(h));
	bits = (uint32_t)h << 16;
	memcpy(&v, &bits, sizeof(v));
	return model_flush(v);
}

static void model_dot(int sum, int a, int b)
{
	const size_t n = tiles_model.row_bytes[sum] / 4u, pairs = tiles_model.row_bytes[a] / 4u;

	tiles_check(tiles_model.configured, "a product without a shape");
	tiles_check(sum != a && sum != b && a != b, "a product's tiles are not distinct");
	tiles_check(tiles_model.rows[sum] == tiles_model.rows[a] &&
			    tiles_model.row_bytes[sum] == tiles_model.row_bytes[b] &&
			    pairs == tiles_model.rows[b],
		    "a product's shapes");
	for (size_t m = 0; m < tiles_model.rows[sum]; m++) {
		float t[32] = { 0 };

		for (size_t k = 0; k < pairs; k++) {
			const float even = model_bf16(a, m, 2 * k);
			const float odd = model_bf16(a, m, 2 * k + 1);

			for (size_t i = 0; i < n; i++) {
				t[2 * i] = model_flush(
					fmaf(even, model_bf16(b, k, 2 * i), t[2 * i]));
				if (tile_fault == TILES_WRONG)
					continue;
				t[2 * i + 1] = model_flush(
					fmaf(odd, model_bf16(b, k, 2 * i + 1), t[2 * i + 1]));
			}
		}
		for (size_t i = 0; i < n; i++) {
			const float more = model_flush(t[2 * i] + t[2 * i + 1]);
			float acc;

			memcpy(&acc, tiles_model.row[sum][m] + 4 * i, sizeof(acc));
			acc = model_flush(model_flush(acc) + more);
			memcpy(tiles_model.row[sum][m] + 4 * i, &acc, sizeof(acc));
		}
	}
}

#define tile_config(shape) model_config(shape)
#define tile_release() model_release()
#define tile_zero(tile) model_zero(tile)
#define tile_load(tile, p, row_bytes) model_load(tile, p, row_bytes)
#define tile_store(tile, p, row_bytes) model_store(tile, p, row_bytes)
#define tile_dot(sum, a, b) model_dot(sum, a, b)
