/* verify - look at every float of a model: float tensors whole, of quantized blocks the scales.
 *
 * A NaN or an infinity in one scale makes every answer of the model garbage, and nothing else would
 * say so. Codes are never decoded: where the scales of a type lie in its block is all that is
 * needed, so types without kernels are covered, too. A type that is missing in the table would go
 * unchecked: tests hold the table against qtype_table. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "kernels/pack.h"
#include "model/model.h"

enum field { NONE, F16, BF16, F32, F64, E8M0, UE4M3, IQ1M };
static const struct scale_row {
	uint8_t field;                  /* enum field */
	uint8_t n;                      /* of them, one behind the other */
	uint16_t offset;
} scales[QTYPE_COUNT] = {
	[QTYPE_F32] = { F32, 1, 0 },     [QTYPE_F16] = { F16, 1, 0 },
	[QTYPE_BF16] = { BF16, 1, 0 },   [QTYPE_F64] = { F64, 1, 0 },
	[QTYPE_Q4_0] = { F16, 1, 0 },    [QTYPE_Q4_1] = { F16, 2, 0 },
	[QTYPE_Q5_0] = { F16, 1, 0 },    [QTYPE_Q5_1] = { F16, 2, 0 },
	[QTYPE_Q8_0] = { F16, 1, 0 },    [QTYPE_Q8_1] = { F16, 2, 0 },
	[QTYPE_Q2_K] = { F16, 2, 80 },   [QTYPE_Q3_K] = { F16, 1, 108 },
	[QTYPE_Q4_K] = { F16, 2, 0 },    [QTYPE_Q5_K] = { F16, 2, 0 },
	[QTYPE_Q6_K] = { F16, 1, 208 },  [QTYPE_Q8_K] = { F32, 1, 0 },
	[QTYPE_IQ2_XXS] = { F16, 1, 0 }, [QTYPE_IQ2_XS] = { F16, 1, 0 },
	[QTYPE_IQ2_S] = { F16, 1, 0 },   [QTYPE_IQ3_XXS] = { F16, 1, 0 },
	[QTYPE_IQ3_S] = { F16, 1, 0 },   [QTYPE_IQ1_S] = { F16, 1, 0 },
	[QTYPE_IQ1_M] = { IQ1M, 1, 48 }, [QTYPE_IQ4_NL] = { F16, 1, 0 },
	[QTYPE_IQ4_XS] = { F16, 1, 0 },  [QTYPE_TQ1_0] = { F16, 1, 52 },
	[QTYPE_TQ2_0] = { F16, 1, 64 },  [QTYPE_MXFP4] = { E8M0, 1, 0 },
	[QTYPE_NVFP4] = { UE4M3, 4, 0 }, [QTYPE_Q1_0] = { F16, 1, 0 },
	[QTYPE_Q2_0] = { F16, 1, 0 },
};

/* True when all exponent bits of some field in one of n blocks are set. One loop a kind, so that
 * they vectorize. */
static bool any_bits(const uint8_t *p, size_t n, size_t stride, size_t width, uint64_t mask)
{
	bool found = false;

	for (size_t i = 0; i < n; i++, p += stride) {
		uint64_t v = 0;

		if (width == 2) {
			uint16_t h;

			memcpy(&h, p, sizeof(h));
			v = h;
		} else if (width == 4) {
			uint32_t w;

			memcpy(&w, p, sizeof(w));
			v = w;
		} else if (width == 8) {
			memcpy(&v, p, sizeof(v));
		} else {
			v = *p;
		}
		found |= (v & mask) == mask;
	}
	return found;
}
/* IQ1_M spreads the bits of one f16 over the high nibbles of four words; the exponent is in those
 * of the last two. */
static bool any_iq1m(const uint8_t *p, size_t n, size_t stride)
{
	for (size_t i = 0; i < n; i++, p += stride)
		if ((p[7] >> 4 & 7) == 7 && (p[5] >> 4 & 0xc) == 0xc)
			return true;
	return false;
}
static bool row_is_bad(enum qtype type, const uint8_t *row, size_t n_blocks)
{
	const struct scale_row *s = &scales[type];
	size_t stride = qtype_table[type].bytes;
	bool found = false;

	row += s->offset;
	for (unsigned i = 0; i < s->n; i++) {
		switch ((enum field)s->field) {
		case NONE: break;
		case F16: found |= any_bits(row + 2 * i, n_blocks, stride, 2, 0x7c00); break;
		case BF16: found |= any_bits(row + 2 * i, n_blocks, stride, 2, 0x7f80); break;
		case F32: found |= any_bits(row + 4 * i, n_blocks, stride, 4, 0x7f800000); break;
		case F64:
			found |= any_bits(row + 8 * i, n_blocks, stride, 8, 0x7ff0000000000000);
			break;
		case E8M0: found |= any_bits(row + i, n_blocks, stride, 1, 0xff); break;
		case UE4M3: found |= any_bits(row + i, n_blocks, stride, 1, 0x7f); break;
		case IQ1M: found |= any_iq1m(row, n_blocks, stride); break;
		}
	}
	return found;
}

static int bad_row(const struct tensor *t, uint64_t row, struct err *err)
{
	char shown[80];

	return err_set(err, -EBADMSG,
	               "tensor '%s', row %" PRIu64
	               ": a %s is NaN or infinite; the file is damaged, fetch it again",
	               str_escape(shown, sizeof(shown), t->name, strlen(t->name)), row,
	               qtype_table[t->type].block == 1 ? "value" : "scale");
}

/* Unit by unit, as the rows that the GGUF had. */
static int verify_packed(const struct model *m, const struct tensor *t,
                         const struct packfile_tensor *p, const atomic_bool *cancel,
                         struct err *err)
{
	size_t unit = PACK_ROWS * pack_unit_groups(p->packed);
	_cleanup_mem_ uint8_t *rows = mem_allocn(unit, p->row_bytes);
	const uint8_t *at = weightmap_data(m->map) + p->offset;

	if (!rows)
		return err_set(err, -ENOMEM, "not enough memory");
	for (uint64_t row = 0; row < p->rows; row += unit) {
		size_t n = MIN(p->rows - row, (uint64_t)unit);

		if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
			return -ECANCELED;
		unpack_unit(rows, t->type, p->packed, at + row / PACK_ROWS * p->group_bytes,
		            p->row_bytes, n, t->dim[0]);
		for (size_t i = 0; i < n; i++)
			if (row_is_bad(t->type, rows + i * p->row_bytes,
			               t->dim[0] / qtype_table[t->type].block))
				return bad_row(t, row + i, err);
	}
	return 0;
}

static int verify_rows(const struct model *m, const struct tensor *t, const atomic_bool *cancel,
                         struct err *err)
{
	const struct packfile_tensor *at = m->pack ? &m->pack->tensors[t - m->gguf->tensors] : NULL;
	const uint8_t *p = weightmap_data(m->map) + (at ? at->offset : t->offset);
	uint64_t n_rows = t->n_elems / t->dim[0], row_bytes = t->n_bytes / n_rows;

	if (at && at->packed)
		return verify_packed(m, t, at, cancel, err);
	for (uint64_t row = 0; row < n_rows; row++, p += row_bytes) {
		if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
			return -ECANCELED;
		if (row_is_bad(t->type, p, t->dim[0] / qtype_table[t->type].block))
			return bad_row(t, row, err);
	}
	return 0;
}
int model_verify_tensor(const struct model *m, size_t i, const atomic_bool *cancel, struct err *err)
{
	int r = verify_rows(m, &m->gguf->tensors[i], cancel, err);

	if (weightmap_poisoned(m->map)) {
		err_clear(err);
		return err_set(err, -EIO, "the file was cut short while it was read");
	}
	return r;
}

int model_verify(const struct model *m, const atomic_bool *cancel, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->gguf->n_tensors; i++)
		r = model_verify_tensor(m, i, cancel, err);
	return r;
}
