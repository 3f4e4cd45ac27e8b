/* fuzz - what all fuzz targets share.
 *
 * A target defines fuzz_name and LLVMFuzzerTestOneInput, which takes any bytes, returns 0 and ends
 * the process when a promise is broken (FUZZ_CHECK), and may define LLVMFuzzerInitialize and
 * LLVMFuzzerCustomMutator. Whatever it allocated for an input is gone when it returns. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char fuzz_name[];          /* of the corpus: tests/fuzz/corpus/NAME */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed);
/* libFuzzer's own mutation, for custom mutators; absent from replay programs. */
size_t LLVMFuzzerMutate(uint8_t *p, size_t n, size_t max) __attribute__((weak));

#define FUZZ_CHECK(condition, ...)                                                                 \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s: %s does not hold: ", fuzz_name, #condition);          \
			fprintf(stderr, __VA_ARGS__);                                              \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* A number that differs from input to input: which of many allocations is to fail, say. */
static inline uint32_t fuzz_mix(const uint8_t *p, size_t n)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 16777619u;
	return h ^ h >> 15;
}

/* For custom mutators: the next of some random numbers. */
static inline unsigned fuzz_next(unsigned *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}
/* A little-endian number of `size` bytes (at most 8) becomes one next to it, or one at which code
 * is often wrong. */
static inline void fuzz_bend(uint8_t *p, unsigned size, unsigned *seed)
{
	static const uint64_t values[] = {
		0,          1,          2,          3,          4,          5,          8,
		31,         32,         63,         64,         127,        128,        255,
		256,        320,        321,        512,        65535,      1u << 16,   1u << 20,
		1u << 31,   UINT32_MAX, 1ull << 32, 1ull << 42, 1ull << 62, 1ull << 63, UINT64_MAX,
		UINT64_MAX - 31,
	};
	uint64_t v = 0;

	memcpy(&v, p, size);
	if (fuzz_next(seed) % 3 == 0)
		v += fuzz_next(seed) % 9 - 4;
	else
		v = values[fuzz_next(seed) % (sizeof(values) / sizeof(values[0]))];
	memcpy(p, &v, size);
}

/* Bytes of an input, taken one after the other; zeros once they are used up. */
struct fuzz_in {
	const uint8_t *p;
	size_t n;
};
static inline bool fuzz_more(const struct fuzz_in *in)
{
	return in->n > 0;
}
static inline void fuzz_take(struct fuzz_in *in, void *dst, size_t n)
{
	size_t got = n < in->n ? n : in->n;

	memset(dst, 0, n);
	if (got)
		memcpy(dst, in->p, got);
	in->p += got;
	in->n -= got;
}
static inline uint8_t fuzz_u8(struct fuzz_in *in)
{
	uint8_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}
static inline uint32_t fuzz_u32(struct fuzz_in *in)
{
	uint32_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}
static inline uint64_t fuzz_u64(struct fuzz_in *in)
{
	uint64_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}
