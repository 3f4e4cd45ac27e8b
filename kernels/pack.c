/* pack - rows to the layout R16 and back.
 *
 * Codes are moved four at a time, a byte each in a 32-bit word: word k4 of a unit is elements 4k4
 * to 4k4 + 3. A type is one pair of functions between its bytes and the eight words of a unit; the
 * planes are made from the words alike for all. Unpacking ORs into zeroed blocks. */
#include "kernels/pack.h"

#include <errno.h>
#include <string.h>

#include "base/num.h"
#include "kernels/r16.h"

#define INLINE static inline __attribute__((always_inline))
#define EACH(b) (0x01010101u * (b))

static inline uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void or32(uint8_t *p, uint32_t v)
{
	put32(p, get32(p) | v);
}

/* Bits 0..3 of n as bit 0 of four bytes, and back. */
static inline uint32_t spread4(uint32_t n)
{
	return (n & 15) * 0x00204081 & EACH(1);
}

static inline uint32_t gather4(uint32_t w)
{
	return (w & EACH(1)) * 0x01020408 >> 24 & 15;
}

/* Where the parts of a unit's codes stand in its block: qs holds bits `shift` and up of byte
 * 4 * k4 ..., `width` bits; of legacy types the upper four words are the high nibbles. */
struct place {
	size_t qs, high;        /* offsets of the low and of the high plane's bytes */
	unsigned shift, high_shift;
};

INLINE struct place place_of(const enum qtype type, size_t unit)
{
	switch (type) {
	case QTYPE_Q4_1: return (struct place){ .qs = 4 };
	case QTYPE_Q5_0: return (struct place){ .qs = 6, .high = 2 };
	case QTYPE_Q5_1: return (struct place){ .qs = 8, .high = 4 };
	case QTYPE_IQ4_XS: return (struct place){ .qs = 8 + 16 * unit };
	case QTYPE_Q2_K:
		return (struct place){ .qs = 16 + 32 * (unit / 4), .shift = 2 * (unit % 4) };
	case QTYPE_Q3_K:
		return (struct place){ .qs = 32 + 32 * (unit / 4),
			               .high = 0,
			               .shift = 2 * (unit % 4),
			               .high_shift = (unsigned)unit };
	case QTYPE_Q4_K:
		return (struct place){ .qs = 16 + 32 * (unit / 2), .shift = 4 * (unit % 2) };
	case QTYPE_Q5_K:
		return (struct place){ .qs = 48 + 32 * (unit / 2),
			               .high = 16,
			               .shift = 4 * (unit % 2),
			               .high_shift = (unsigned)unit };
	case QTYPE_Q6_K:
		return (struct place){ .qs = 64 * (unit / 4) + 32 * (unit % 2),
			               .high = 128 + 32 * (unit / 4),
			               .shift = 4 * (unit / 2 % 2),
			               .high_shift = 2 * (unit % 4) };
	default: return (struct place){ .qs = 2 };      /* Q4_0, Q8_0, IQ4_NL */
	}
}

/* Codes of 32 whose nibbles lie as in legacy blocks: word k4 + 4 above word k4. */
INLINE bool is_paired(const enum qtype type)
{
	return type != QTYPE_Q8_0 && (!type_is_super(type) || type == QTYPE_IQ4_XS);
}

/* Bits of the upper plane of a code, and those below it. */
INLINE unsigned high_bits(const enum qtype type)
{
	return type == QTYPE_Q6_K ? 2 : r16_bits(type) & 1;
}

INLINE unsigned low_bits(const enum qtype type)
{
	return (unsigned)r16_bits(type) - high_bits(type);
}

INLINE void load_unit(uint32_t w[8], const enum qtype type, const uint8_t *block,
                      size_t unit)
{
	const struct place at = place_of(type, unit);
	const uint32_t mask = EACH((1u << low_bits(type)) - 1);

	for (unsigned i = 0; i < 8; i++) {
		if (is_paired(type))
			w[i] = get32(block + at.qs + 4 * (i % 4)) >> (i / 4 * 4) & mask;
		else
			w[i] = get32(block + at.qs + 4 * i) >> at.shift & mask;
		if (high_bits(type) == 0)
			continue;
		if (is_paired(type))
			w[i] |= spread4(get32(block + at.high) >> 4 * i) << 4;
		else
			w[i] |= (get32(block + at.high + 4 * i) >> at.high_shift &
			         EACH((1u << high_bits(type)) - 1)) << low_bits(type);
	}
}

INLINE void store_unit(const uint32_t w[8], const enum qtype type, uint8_t *block,
                       size_t unit)
{
	const struct place at = place_of(type, unit);
	const uint32_t mask = EACH((1u << low_bits(type)) - 1);

	for (unsigned i = 0; i < 8; i++) {
		if (is_paired(type))
			or32(block + at.qs + 4 * (i % 4), (w[i] & mask) << (i / 4 * 4));
		else
			or32(block + at.qs + 4 * i, (w[i] & mask) << at.shift);
		if (high_bits(type) == 0)
			continue;
		if (is_paired(type))
			or32(block + at.high, gather4(w[i] >> 4) << 4 * i);
		else
			or32(block + at.high + 4 * i,
			     (w[i] >> low_bits(type) & EACH((1u << high_bits(type)) - 1))
				     << at.high_shift);
	}
}

/* One row's words to the planes of a unit; p points at the row's first bytes. */
INLINE void store_planes(uint8_t *p, const enum qtype type, const uint32_t w[8])
{
	const unsigned low = low_bits(type);

	if (high_bits(type) == 1) {
		uint32_t plane = 0;

		for (unsigned i = 0; i < 8; i++)
			plane |= (w[i] >> low & EACH(1)) << i;
		put32(p, plane);
		p += 64;
	} else if (high_bits(type) == 2) {
		for (unsigned v = 0; v < 2; v++, p += 64) {
			uint32_t plane = 0;

			for (unsigned i = 0; i < 4; i++)
				plane |= (w[4 * v + i] >> low & EACH(3)) << 2 * i;
			put32(p, plane);
		}
	}
	if (low == 8)
		for (unsigned i = 0; i < 8; i++)
			put32(p + 64 * i, w[i]);
	else if (low == 4)
		for (unsigned i = 0; i < 4; i++)
			put32(p + 64 * i, (w[i] & EACH(15)) | (w[i + 4] & EACH(15)) << 4);
	else
		for (unsigned v = 0; v < 2; v++)
			put32(p + 64 * v, (w[4 * v] & EACH(3)) | (w[4 * v + 1] & EACH(3)) << 2 |
			                  (w[4 * v + 2] & EACH(3)) << 4 |
			                  (w[4 * v + 3] & EACH(3)) << 6);
}

INLINE void load_planes(uint32_t w[8], const enum qtype type, const uint8_t *p)
{
	const unsigned low = low_bits(type), n_high = high_bits(type);
	const uint8_t *q = p + 64 * n_high;

	for (unsigned i = 0; i < 8; i++) {
		if (low == 8)
			w[i] = get32(q + 64 * i);
		else if (low == 4)
			w[i] = get32(q + 64 * (i % 4)) >> (i / 4 * 4) & EACH(15);
		else
			w[i] = get32(q + 64 * (i / 4)) >> 2 * (i % 4) & EACH(3);
		if (n_high == 1)
			w[i] |= (get32(p) >> i & EACH(1)) << low;
		else if (n_high == 2)
			w[i] |= (get32(p + 64 * (i / 4)) >> 2 * (i % 4) & EACH(3)) << low;
	}
}

/* Block i of row r of the group. */
INLINE void pack_block(const enum qtype type, uint8_t *group, const uint8_t *block, size_t i,
                       size_t r)
{
	const struct r16_fields f = r16_fields(type);
	uint8_t *factors = group + r16_factor_at(type, i), *body = group + r16_body_at(type, i);
	uint32_t w[8];

	for (size_t j = 0; j < 2 && f.factor[j] >= 0; j++)
		memcpy(factors + 64 * j + 2 * r, block + f.factor[j], 2);
	for (size_t j = 0; j < f.n_scales; j++)
		body[PACK_ROWS * j + r] = block[(size_t)f.scales + j];
	body += PACK_ROWS * f.n_scales;
	for (size_t unit = 0; unit < r16_units(type); unit++) {
		load_unit(w, type, block, unit);
		store_planes(body + unit * r16_unit_bytes(type) + 4 * r, type, w);
	}
}

INLINE void unpack_block(const enum qtype type, uint8_t *block, const uint8_t *group,
                         size_t i, size_t r)
{
	const struct r16_fields f = r16_fields(type);
	const uint8_t *factors = group + r16_factor_at(type, i),
		      *body = group + r16_body_at(type, i);
	uint32_t w[8];

	memset(block, 0, type_bytes(type));
	for (size_t j = 0; j < 2 && f.factor[j] >= 0; j++)
		memcpy(block + f.factor[j], factors + 64 * j + 2 * r, 2);
	for (size_t j = 0; j < f.n_scales; j++)
		block[(size_t)f.scales + j] = body[PACK_ROWS * j + r];
	body += PACK_ROWS * f.n_scales;
	for (size_t unit = 0; unit < r16_units(type); unit++) {
		load_planes(w, type, body + unit * r16_unit_bytes(type) + 4 * r);
		store_unit(w, type, block, unit);
	}
}

static void split_block(uint8_t *high, uint8_t *low, const uint8_t *block, size_t i, size_t r)
{
	uint32_t w[8], h[8], l[8];

	memcpy(high + r16_factor_at(QTYPE_Q5_0, i) + 2 * r, block, 2);
	load_unit(w, QTYPE_Q8_0, block, 0);
	for (unsigned k = 0; k < 8; k++) {
		w[k] ^= EACH(128);
		h[k] = w[k] >> SPLIT_LOW_BITS & EACH(31);
		l[k] = w[k] & EACH(7);
	}
	store_planes(high + r16_body_at(QTYPE_Q5_0, i) + 4 * r, QTYPE_Q5_0, h);
	store_planes(low + i * SPLIT_LOW_BYTES + 4 * r, QTYPE_Q3_K, l);
}

static void unsplit_block(uint8_t *block, const uint8_t *high, const uint8_t *low, size_t i,
                          size_t r)
{
	uint32_t w[8], l[8];

	memset(block, 0, sizeof(struct block_q8_0));
	memcpy(block, high + r16_factor_at(QTYPE_Q5_0, i) + 2 * r, 2);
	load_planes(w, QTYPE_Q5_0, high + r16_body_at(QTYPE_Q5_0, i) + 4 * r);
	load_planes(l, QTYPE_Q3_K, low + i * SPLIT_LOW_BYTES + 4 * r);
	for (unsigned k = 0; k < 8; k++)
		w[k] = (w[k] << SPLIT_LOW_BITS | l[k]) ^ EACH(128);
	store_unit(w, QTYPE_Q8_0, block, 0);
}

/* Rows past n_rows are blocks of zeros. */
static const uint8_t zeros[256];
_Static_assert(sizeof(zeros) >= sizeof(struct block_q6_k), "one block of any type");

static void split_rows(uint8_t *run, const uint8_t *rows, size_t row_bytes, size_t n_rows,
                       size_t n_in)
{
	const size_t n_groups = DIV_UP(n_rows, (size_t)PACK_ROWS), n_blocks = n_in / 32;

	memset(run, 0, n_groups * r16_group_bytes(QTYPE_Q8_0, n_blocks));
	for (size_t r = 0; r < n_groups * PACK_ROWS; r++) {
		const struct pack_parts at = pack_parts(r / PACK_ROWS, n_groups, n_in);

		for (size_t i = 0; i < n_blocks; i++)
			split_block(run + at.high, run + at.low,
			            r < n_rows ? rows + r * row_bytes +
			                                 i * sizeof(struct block_q8_0)
			                       : zeros,
			            i, r % PACK_ROWS);
	}
}

static void unsplit_row(uint8_t *row, const uint8_t *run, size_t n_rows, size_t r, size_t n_in)
{
	const struct pack_parts at = pack_parts(r / PACK_ROWS, DIV_UP(n_rows, (size_t)PACK_ROWS),
	                                        n_in);

	for (size_t i = 0; i < n_in / 32; i++)
		unsplit_block(row + i * sizeof(struct block_q8_0), run + at.high, run + at.low, i,
		              r % PACK_ROWS);
}

INLINE void pack_rows(const enum qtype type, uint8_t *group, const uint8_t *rows, size_t row_bytes,
                      size_t n_rows, size_t n_blocks)
{
	memset(group, 0, r16_group_bytes(type, n_blocks));
	for (size_t i = 0; i < n_blocks; i++)
		for (size_t r = 0; r < PACK_ROWS; r++)
			pack_block(type, group,
			           r < n_rows ? rows + r * row_bytes + i * type_bytes(type) : zeros,
			           i, r);
}

INLINE void unpack_one(const enum qtype type, uint8_t *row, const uint8_t *group, size_t r,
                       size_t n_blocks)
{
	for (size_t i = 0; i < n_blocks; i++)
		unpack_block(type, row + i * type_bytes(type), group, i, r);
}

static bool is_float(enum qtype type)
{
	return type == QTYPE_F32 || type == QTYPE_F16 || type == QTYPE_BF16;
}

bool pack_supported(enum qtype type)
{
	switch (type) {
#define SUPPORTED_CASE(name, id) case QTYPE_##id:
	Q16_TYPES(SUPPORTED_CASE)
	case QTYPE_F32: case QTYPE_F16: case QTYPE_BF16: return true;
	default: return false;
	}
}

bool pack_splits(enum qtype type, uint64_t n_in)
{
	return type == QTYPE_Q8_0 && n_in <= PACK_SPLIT_WIDEST;
}

uint64_t pack_high_bytes(uint64_t n_in)
{
	return r16_high_bytes(n_in / 32);
}

uint64_t pack_low_bytes(uint64_t n_in)
{
	return n_in / 32 * SPLIT_LOW_BYTES;
}

struct pack_parts pack_parts(size_t i, size_t n, size_t n_in)
{
	const size_t high = pack_high_bytes(n_in), low = pack_low_bytes(n_in);
	const size_t first = i / PACK_RUN * PACK_RUN, run = MIN(n - first, (size_t)PACK_RUN);
	const size_t at = first * (high + low);

	return (struct pack_parts){ at + (i - first) * high,
		                    at + run * high + (i - first) * low };
}

int pack_group_bytes(uint64_t *ret, enum qtype type, uint64_t n_in)
{
	uint64_t row, bytes;

	if (!pack_supported(type))
		return -ENOTSUP;
	if (n_in == 0 || n_in % qtype_table[type].block != 0)
		return -EINVAL;
	/* A group is less than 2 * 16 rows' bytes: all sums below fit once this does. */
	if (!qtype_row_bytes(type, n_in, &row) || row > UINT64_MAX / (4 * PACK_ROWS))
		return -EOVERFLOW;
	if (is_float(type))
		bytes = (row * PACK_ROWS + 63) / 64 * 64;
	else
		bytes = r16_group_bytes(type, n_in / qtype_table[type].block);
	*ret = bytes;
	return 0;
}

void pack_unit(void *dst, enum qtype type, enum pack_form form, const void *rows,
                size_t row_bytes, size_t n_rows, size_t n_in)
{
	const size_t n_blocks = n_in / qtype_table[type].block;
	const size_t bytes = n_blocks * qtype_table[type].bytes;

	if (form == PACK_SPLIT) {
		split_rows(dst, rows, row_bytes, n_rows, n_in);
		return;
	}
	switch (type) {
#define PACK_CASE(name, id) \
	case QTYPE_##id: \
		pack_rows(QTYPE_##id, dst, rows, row_bytes, n_rows, n_blocks); \
		break;
	Q16_TYPES(PACK_CASE)
	default:
		memset(dst, 0, align_up(bytes * PACK_ROWS, 64));
		for (size_t r = 0; r < n_rows; r++)
			memcpy((uint8_t *)dst + r * bytes, (const uint8_t *)rows + r * row_bytes,
			       bytes);
	}
}

void unpack_row(void *row, enum qtype type, enum pack_form form, const void *src, size_t n_rows,
                size_t i, size_t n_in)
{
	const size_t n_blocks = n_in / qtype_table[type].block;
	const size_t bytes = n_blocks * qtype_table[type].bytes;

	if (form == PACK_SPLIT) {
		unsplit_row(row, src, n_rows, i, n_in);
		return;
	}
	switch (type) {
#define UNPACK_CASE(name, id) \
	case QTYPE_##id: unpack_one(QTYPE_##id, row, src, i, n_blocks); break;
	Q16_TYPES(UNPACK_CASE)
	default: memcpy(row, (const uint8_t *)src + i * bytes, bytes);
	}
}

void unpack_unit(void *rows, enum qtype type, enum pack_form form, const void *src,
                  size_t row_bytes, size_t n_rows, size_t n_in)
{
	for (size_t r = 0; r < n_rows; r++)
		unpack_row((uint8_t *)rows + r * row_bytes, type, form, src, n_rows,
		           r, n_in);
}
