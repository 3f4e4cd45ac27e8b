/* qtype - one row a type; everything that depends on a type's bytes is derived from this table. */
#include "kernels/qtype.h"

#include <strings.h>

#define FLOAT(id, n, bytes_)   [QTYPE_##id] = { n, 1, bytes_, QACT_F32, false }
#define QUANT(id, n, b, bytes_) [QTYPE_##id] = { n, b, bytes_, QACT_Q16, false }
#define BYTES(id, n, b, bytes_) [QTYPE_##id] = { n, b, bytes_, QACT_NONE, false }
#define INT(id, n, bytes_)     [QTYPE_##id] = { n, 1, bytes_, QACT_NONE, true }

const struct qtype_info qtype_table[QTYPE_COUNT] = {
	FLOAT(F32, "F32", 4), FLOAT(F16, "F16", 2), FLOAT(BF16, "BF16", 2),
	BYTES(F64, "F64", 1, 8),
	INT(I8, "I8", 1), INT(I16, "I16", 2), INT(I32, "I32", 4), INT(I64, "I64", 8),
	QUANT(Q4_0, "Q4_0", 32, 18), QUANT(Q4_1, "Q4_1", 32, 20),
	QUANT(Q5_0, "Q5_0", 32, 22), QUANT(Q5_1, "Q5_1", 32, 24),
	QUANT(Q8_0, "Q8_0", 32, 34), BYTES(Q8_1, "Q8_1", 32, 36),
	QUANT(Q2_K, "Q2_K", 256, 84), QUANT(Q3_K, "Q3_K", 256, 110),
	QUANT(Q4_K, "Q4_K", 256, 144), QUANT(Q5_K, "Q5_K", 256, 176),
	QUANT(Q6_K, "Q6_K", 256, 210), BYTES(Q8_K, "Q8_K", 256, 292),
	QUANT(IQ4_NL, "IQ4_NL", 32, 18), QUANT(IQ4_XS, "IQ4_XS", 256, 136),
	BYTES(IQ2_XXS, "IQ2_XXS", 256, 66), BYTES(IQ2_XS, "IQ2_XS", 256, 74),
	BYTES(IQ3_XXS, "IQ3_XXS", 256, 98), BYTES(IQ1_S, "IQ1_S", 256, 50),
	BYTES(IQ3_S, "IQ3_S", 256, 110), BYTES(IQ2_S, "IQ2_S", 256, 82),
	BYTES(IQ1_M, "IQ1_M", 256, 56), BYTES(TQ1_0, "TQ1_0", 256, 54),
	BYTES(TQ2_0, "TQ2_0", 256, 66), BYTES(MXFP4, "MXFP4", 32, 17),
	BYTES(NVFP4, "NVFP4", 64, 36), BYTES(Q1_0, "Q1_0", 128, 18),
	BYTES(Q2_0, "Q2_0", 64, 18),
};

const struct qtype_info *qtype_info(uint32_t id)
{
	return id < QTYPE_COUNT && qtype_table[id].bytes != 0 ? &qtype_table[id] : NULL;
}

const char *qtype_name(uint32_t id)
{
	const struct qtype_info *info = qtype_info(id);

	return info ? info->name : "unknown";
}

int qtype_from_name(const char *name)
{
	for (int id = 0; id < QTYPE_COUNT; id++)
		if (qtype_table[id].name && strcasecmp(qtype_table[id].name, name) == 0)
			return id;
	return -1;
}

bool qtype_row_bytes(uint32_t id, uint64_t n, uint64_t *ret)
{
	const struct qtype_info *info = qtype_info(id);

	if (!info || n % info->block != 0)
		return false;
	return !__builtin_mul_overflow(n / info->block, (uint64_t)info->bytes, ret);
}
