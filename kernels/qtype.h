/* qtype - the one table of tensor types. Ids are GGUF's. A type is a row; a removed id has size
 * 0. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum qtype {
	QTYPE_F32 = 0,
	QTYPE_F16 = 1,
	QTYPE_Q4_0 = 2,
	QTYPE_Q4_1 = 3,
	QTYPE_Q5_0 = 6,
	QTYPE_Q5_1 = 7,
	QTYPE_Q8_0 = 8,
	QTYPE_Q8_1 = 9,
	QTYPE_Q2_K = 10,
	QTYPE_Q3_K = 11,
	QTYPE_Q4_K = 12,
	QTYPE_Q5_K = 13,
	QTYPE_Q6_K = 14,
	QTYPE_Q8_K = 15,
	QTYPE_IQ2_XXS = 16,
	QTYPE_IQ2_XS = 17,
	QTYPE_IQ3_XXS = 18,
	QTYPE_IQ1_S = 19,
	QTYPE_IQ4_NL = 20,
	QTYPE_IQ3_S = 21,
	QTYPE_IQ2_S = 22,
	QTYPE_IQ4_XS = 23,
	QTYPE_I8 = 24,
	QTYPE_I16 = 25,
	QTYPE_I32 = 26,
	QTYPE_I64 = 27,
	QTYPE_F64 = 28,
	QTYPE_IQ1_M = 29,
	QTYPE_BF16 = 30,
	QTYPE_TQ1_0 = 34,
	QTYPE_TQ2_0 = 35,
	QTYPE_MXFP4 = 39,
	QTYPE_NVFP4 = 40,
	QTYPE_Q1_0 = 41,
	QTYPE_Q2_0 = 42,
	QTYPE_COUNT = 43,
};

/* Partner form of the activations in a matrix product with weights of this type. */
enum qact { QACT_NONE, QACT_F32, QACT_Q16 };    /* NONE: bytes known, no kernel */

struct qtype_info {
	const char *name;               /* "Q4_1"; NULL for an id that is not in use */
	uint16_t block;                 /* elements a block */
	uint16_t bytes;                 /* bytes a block; 0 = id not in use */
	enum qact act;
	bool integer;                   /* I8..I64: data, not weights */
};
extern const struct qtype_info qtype_table[QTYPE_COUNT];

/* NULL for ids out of range or not in use: the check for ids from files. */
const struct qtype_info *qtype_info(uint32_t id);
const char *qtype_name(uint32_t id); /* never NULL ("type 31") only for valid ids; else "unknown" */
int qtype_from_name(const char *name);          /* any case; id or -1 */
/* Bytes of a row of n elements; false when n is no multiple of the block or the size overflows. */
bool qtype_row_bytes(uint32_t id, uint64_t n, uint64_t *ret);
