/* pack - the layout R16: random bytes of every packed type come back exactly, for ragged rows and
 * odd numbers of blocks, with every buffer ending at a forbidden page; and the order of the bytes
 * is that of kernels/pack.h, read here from its text. */
#include "kernels/pack.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "kernels/blocks.h"
#include "tests/kernels/check.h"

enum { GAP = 5 };       /* bytes between rows, which nobody may touch */

static void check_round(enum qtype type, enum pack_form form, size_t n_in, size_t n_rows, int fill)
{
	uint64_t row_bytes = 0, bytes = 0;
	size_t stride, total;
	uint8_t *rows, *back, *group, one[16384];
	bool ok = true;

	if (!qtype_row_bytes(type, n_in, &row_bytes))
		return;
	stride = row_bytes + GAP;
	total = (n_rows - 1) * stride + row_bytes;
	check(pack_group_bytes(&bytes, type, n_in) == 0 && bytes % 64 == 0 &&
		      bytes >= PACK_ROWS * row_bytes && bytes < PACK_ROWS * row_bytes + 128,
	      "pack %s: a group of %zu is %llu bytes", qtype_name(type), n_in,
	      (unsigned long long)bytes);
	bytes *= DIV_UP(n_rows, (size_t)PACK_ROWS);
	rows = guarded_alloc(total);
	back = guarded_alloc(total);
	group = guarded_alloc(bytes);
	if (fill < 0)
		rnd_bytes(rows, total);
	else
		memset(rows, fill, total);
	memset(back, 0xa5, total);
	rnd_bytes(group, bytes);
	pack_unit(group, type, form, rows, stride, n_rows, n_in);
	unpack_unit(back, type, form, group, stride, n_rows, n_in);
	for (size_t r = 0; r < n_rows; r++) {
		ok &= memcmp(back + r * stride, rows + r * stride, row_bytes) == 0;
		for (size_t i = 0; i < GAP && r + 1 < n_rows; i++)
			ok &= back[r * stride + row_bytes + i] == 0xa5;
	}
	for (size_t r = n_rows; r % PACK_ROWS != 0 && row_bytes <= sizeof(one); r++) {
		unpack_row(one, type, form, group, n_rows, r, n_in);
		for (size_t i = 0; i < row_bytes; i++)
			ok &= one[i] == 0;
	}
	check(ok, "pack %s, form %d: %zu rows of %zu come back", qtype_name(type), form, n_rows,
	      n_in);
	guarded_free(rows, total);
	guarded_free(back, total);
	guarded_free(group, bytes);
}

static void check_rounds(enum qtype type, size_t n_in, size_t n_rows)
{
	for (int form = PACK_R16; form < PACK_FORMS; form++) {
		if (form == PACK_SPLIT && !pack_splits(type, n_in))
			continue;
		if (form == PACK_SPLIT && n_in < 300) {
			check_round(type, PACK_SPLIT, n_in, n_rows + 16, -1);
			check_round(type, PACK_SPLIT, n_in, PACK_RUN * PACK_ROWS - n_rows + 1, -1);
		}
		check_round(type, (enum pack_form)form, n_in, n_rows, -1);
		if (n_in == 256)
			check_round(type, (enum pack_form)form, n_in, n_rows, 0xff);
	}
}

/* Code `element` of row `row` in the unit at p: planes of `bits` one after the other, the highest
 * first. */
static unsigned planes_code(const uint8_t *p, const int bits[2], int element, int row)
{
	const int k4 = element / 4, at = 4 * row + element % 4;
	unsigned code = 0;

	for (int i = 0; i < 2 && bits[i] != 0; i++) {
		code <<= bits[i];
		switch (bits[i]) {
		case 1: code |= p[at] >> k4 & 1; break;
		case 2: code |= p[64 * (k4 / 4) + at] >> (2 * (k4 % 4)) & 3; break;
		case 4: code |= p[64 * (k4 % 4) + at] >> (k4 / 4 * 4) & 15; break;
		default: code |= p[64 * k4 + at]; break;
		}
		p += 64 * bits[i];
	}
	return code;
}

/* A group of three blocks, against the dequantizer's reading of the rows: with all factors 1 an
 * element is a known function of its code. Legacy types: both views of all 3 x 32 elements. */
static void check_order(enum qtype type, int offset, size_t n_factors, const int bits[2])
{
	const size_t n_in = 96, bytes = qtype_table[type].bytes, row_bytes = 3 * bytes,
		     unit = 64 * (size_t)(bits[0] + bits[1]), pair = 64 * n_factors + 2 * unit;
	uint8_t rows[PACK_ROWS * 3 * 36], group[4096];
	bool ok = true;
	float y[96];

	rnd_bytes(rows, sizeof(rows));
	for (size_t r = 0; r < PACK_ROWS; r++)
		for (size_t i = 0; i < 3; i++) {
			uint16_t factors[2] = { 0x3c00, 0 };

			memcpy(rows + r * row_bytes + i * bytes, factors, 2 * n_factors);
		}
	pack_unit(group, type, PACK_R16, rows, row_bytes, PACK_ROWS, n_in);
	for (size_t r = 0; r < PACK_ROWS; r++) {
		ref.dequant[type](y, rows + r * row_bytes, n_in);
		for (size_t e = 0; e < n_in; e++) {
			const size_t block = e / 32;
			const uint8_t *at = group + block / 2 * pair + 64 * n_factors +
			                    block % 2 * unit;
			int code = (int)planes_code(at, bits, (int)(e % 32), (int)r);

			if (bits[0] == 8)
				code = (int8_t)code;
			ok &= y[e] == (float)(code - offset);
		}
		for (size_t i = 0; i < 3; i++)
			for (size_t f = 0; f < n_factors; f++)
				ok &= memcmp(group + i / 2 * pair + 64 * f + i % 2 * 32 + 2 * r,
				             f == 0 ? "\0\x3c" : "\0\0", 2) == 0;
	}
	check(ok, "pack %s: bytes stand as the header says", qtype_name(type));
}

static void check_orders(void)
{
	static const struct {
		enum qtype type;
		int offset;
		size_t n_factors;
		int bits[2];
	} legacy[] = {
		{ QTYPE_Q8_0, 0, 1, { 8, 0 } },  { QTYPE_Q4_0, 8, 1, { 4, 0 } },
		{ QTYPE_Q4_1, 0, 2, { 4, 0 } },  { QTYPE_Q5_0, 16, 1, { 1, 4 } },
		{ QTYPE_Q5_1, 0, 2, { 1, 4 } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(legacy); i++)
		check_order(legacy[i].type, legacy[i].offset, legacy[i].n_factors, legacy[i].bits);
}

static void check_refusals(void)
{
	uint64_t bytes = 7;

	check(pack_group_bytes(&bytes, QTYPE_Q8_K, 256) == -ENOTSUP, "pack Q8_K is refused");
	check(pack_group_bytes(&bytes, QTYPE_Q4_K, 32) == -EINVAL, "pack half a block is refused");
	check(pack_group_bytes(&bytes, QTYPE_Q8_0, 0) == -EINVAL, "pack no elements is refused");
	check(pack_group_bytes(&bytes, QTYPE_Q8_0, UINT64_MAX / 64 * 32) == -EOVERFLOW,
	      "pack too much is refused");
	check(bytes == 7, "pack refusals write nothing");
}

void check_pack(void)
{
	static const size_t widths[] = { 1, 7, 32, 64, 96, 256, 512, 576, 768, 2048 };
	static const size_t ragged[] = { 1, 2, 9, 15, 16 };
	char name[32];

	if (wanted("pack_order"))
		check_orders();
	if (wanted("pack_refusals"))
		check_refusals();
	for (int type = 0; type < QTYPE_COUNT; type++) {
		snprintf(name, sizeof(name), "pack_%s", qtype_name((uint32_t)type));
		if (!pack_supported((enum qtype)type) || !wanted(name))
			continue;
		for (size_t w = 0; w < ARRAY_SIZE(widths); w++)
			for (size_t r = 0; r < ARRAY_SIZE(ragged); r++)
				check_rounds((enum qtype)type, widths[w], ragged[r]);
	}
}
