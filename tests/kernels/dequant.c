/* dequant - rows to float: against values of the gguf package, against the formulas of the format
 * written plainly here, and every level against scalar. */
#include "tests/kernels/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "kernels/blocks.h"
#include "tests/kernels/golden-dequant.h"

static double half(const uint8_t *p)
{
	const unsigned bits = p[0] | (unsigned)p[1] << 8, e = bits >> 10 & 31, m = bits & 1023;
	const double mag = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, (int)e - 25);

	return bits >> 15 ? -mag : mag;
}

static int bits_at(const uint8_t *p, int bit, int n)
{
	int v = 0;

	for (int i = 0; i < n; i++)
		v |= (p[(bit + i) / 8] >> ((bit + i) % 8) & 1) << i;
	return v;
}

/* Element i of a block, straight from the description of the format; block bytes by offset. */
static double element(enum qtype type, const uint8_t *b, int i)
{
	static const int nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
		                    1,    13,   25,  38,  53,  69,  89,  113 };
	const int nib = i < 16 ? 0 : 4, j = i % 16;     /* legacy nibbles */
	const int h = i / 128, s = i / 32 % 4, l = i % 32, group = i / 16, wide = i / 32;

	switch (type) {
	case QTYPE_Q4_0: return (bits_at(b + 2 + j, nib, 4) - 8) * half(b);
	case QTYPE_Q4_1: return bits_at(b + 4 + j, nib, 4) * half(b) + half(b + 2);
	case QTYPE_Q5_0:
		return ((bits_at(b + 6 + j, nib, 4) | bits_at(b + 2, i, 1) << 4) - 16) * half(b);
	case QTYPE_Q5_1:
		return (bits_at(b + 8 + j, nib, 4) | bits_at(b + 4, i, 1) << 4) * half(b) +
		       half(b + 2);
	case QTYPE_Q8_0: return (int8_t)b[2 + i] * half(b);
	case QTYPE_IQ4_NL: return nl[bits_at(b + 2 + j, nib, 4)] * half(b);
	case QTYPE_Q2_K:
		return half(b + 80) * (b[group] & 15) * bits_at(b + 16 + 32 * h + l, 2 * s, 2) -
		       half(b + 82) * (b[group] >> 4);
	case QTYPE_Q3_K: {
		const int sc = bits_at(b + 96 + group % 8, 4 * (group / 8), 4) |
		               bits_at(b + 104 + group % 4, 2 * (group / 4), 2) << 4;
		const int q = bits_at(b + 32 + 32 * h + l, 2 * s, 2) + 4 * bits_at(b + l, wide, 1) -
		              4;

		return half(b + 108) * (sc - 32) * q;
	}
	case QTYPE_Q4_K: case QTYPE_Q5_K: {
		const uint8_t *sc = b + 4, *qs = b + (type == QTYPE_Q4_K ? 16 : 48);
		const int k = wide - 4;
		const int scale = wide < 4 ? sc[wide] & 63 : (sc[wide + 4] & 15) | sc[k] >> 6 << 4;
		const int min = wide < 4 ? sc[wide + 4] & 63
		                         : sc[wide + 4] >> 4 | sc[wide] >> 6 << 4;
		int q = bits_at(qs + 32 * (wide / 2) + l, 4 * (wide % 2), 4);

		if (type == QTYPE_Q5_K)
			q |= bits_at(b + 16 + l, wide, 1) << 4;
		return half(b) * scale * q - half(b + 2) * min;
	}
	case QTYPE_Q6_K: {
		const int q = bits_at(b + 64 * h + 32 * (s & 1) + l, 4 * (s / 2), 4) |
		              bits_at(b + 128 + 32 * h + l, 2 * s, 2) << 4;

		return half(b + 208) * (int8_t)b[192 + group] * (q - 32);
	}
	case QTYPE_IQ4_XS: {
		const int sc = bits_at(b + 4 + wide / 2, 4 * (wide % 2), 4) |
		               bits_at(b + 2, 2 * wide, 2) << 4;

		return half(b) * (sc - 32) * nl[bits_at(b + 8 + 16 * wide + l % 16, l / 16 * 4, 4)];
	}
	default: return 0.0;
	}
}

static void check_golden(const struct kernels *k, const char *level)
{
	for (size_t i = 0; i < ARRAY_SIZE(golden); i++) {
		const struct golden *g = &golden[i];
		float y[256];

		k->dequant[g->type](y, g->block, g->n);
		check(memcmp(y, g->value, g->n * sizeof(*y)) == 0, "%s dequant_%s: golden values",
		      level, qtype_name(g->type));
	}
}

static void check_formula(enum qtype type)
{
	const size_t block = qtype_table[type].block, bytes = qtype_table[type].bytes;
	uint8_t row[256];
	bool ok = true;
	float y[256];

	for (int round = 0; round < 200; round++) {
		fill_row(row, type, block, -1, -1);
		ref.dequant[type](y, row, block);
		/* The double is exact, its one rounding to float is the kernel's. */
		for (size_t i = 0; i < block; i++)
			ok &= y[i] == (float)element(type, row, (int)i);
	}
	check(ok, "scalar dequant_%s: %zu bytes by the formula", qtype_name(type), bytes);
}

static void check_level(const struct level_under_test *level, enum qtype type, size_t n)
{
	uint64_t row_bytes = 0;
	void *row;
	float *want, *y;

	if (!qtype_row_bytes(type, n, &row_bytes))
		return;
	row = guarded_alloc(row_bytes);
	y = guarded_alloc(n * sizeof(*y));
	want = calloc(n, sizeof(*want));
	fill_row(row, type, n, -1, -1);
	ref.dequant[type](want, row, n);
	level->k.dequant[type](y, row, n);
	check(memcmp(y, want, n * sizeof(*y)) == 0, "%s dequant_%s: n=%zu", level->name,
	      qtype_name(type), n);
	guarded_free(row, row_bytes);
	guarded_free(y, n * sizeof(*y));
	free(want);
}

static void check_halves(void)
{
	bool ok = true;

	for (uint32_t h = 0; h < 0x10000; h++) {
		const uint8_t bytes[2] = { (uint8_t)h, (uint8_t)(h >> 8) };
		const float f = k_f16_to_f32((uint16_t)h);
		float y[16];
		uint16_t row[16];

		for (size_t i = 0; i < 16; i++)
			row[i] = (uint16_t)h;
		if ((h & 0x7c00) != 0x7c00)
			ok &= (double)f == half(bytes) && k_f32_to_f16(f) == h;
		else
			ok &= isinf(f) || isnan(f);
		for (size_t l = 0; l < n_levels; l++) {
			levels[l].k.dequant[QTYPE_F16](y, row, 16);
			ok &= memcmp(&y[0], &f, 4) == 0 && memcmp(&y[15], &f, 4) == 0;
		}
	}
	check(ok, "f16: all 65536 values");
}

void check_dequant(void)
{
	static const size_t widths[] = { 1, 7, 9, 32, 64, 256, 576, 768, 2048 };
	char name[32];

	if (wanted("golden"))
		check_golden(&ref, "scalar");
	for (size_t l = 0; l < n_levels && wanted("golden"); l++)
		check_golden(&levels[l].k, levels[l].name);
	if (wanted("f16"))
		check_halves();
	for (int type = 0; type < QTYPE_COUNT; type++) {
		snprintf(name, sizeof(name), "dequant_%s", qtype_name((uint32_t)type));
		if (!ref.dequant[type] || !wanted(name))
			continue;
		if (qtype_table[type].act == QACT_Q16)
			check_formula((enum qtype)type);
		for (size_t l = 0; l < n_levels; l++)
			for (size_t n = 0; n < ARRAY_SIZE(widths); n++)
				check_level(&levels[l], (enum qtype)type, widths[n]);
	}
}
