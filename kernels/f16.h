/* f16 - half precision without hardware; the bits that F16C gives, NaN and subnormals included. */
#pragma once
#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t bits)
{
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

static inline uint32_t f32_bits(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

static inline float f16_load(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = h & 0x7fff;

	if (mag >= 0x7c00)      /* infinity, or a NaN that becomes quiet */
		return f32_from_bits(sign | 0x7f800000 | mag << 13 | (mag > 0x7c00 ? 0x400000 : 0));
	if (mag >= 0x0400)
		return f32_from_bits(sign | ((mag << 13) + 0x38000000));
	return f32_from_bits(sign | f32_bits((float)mag * 0x1p-24f));
}

/* Round to nearest, ties to even. */
static inline uint16_t f16_store(float f)
{
	uint32_t bits = f32_bits(f), sign = bits >> 16 & 0x8000, mag = bits & 0x7fffffff;

	if (mag > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (mag >> 13 & 0x3ff));
	if (mag >= 0x477ff000)  /* 65520: half way from the largest f16 to the next power of two */
		return (uint16_t)(sign | 0x7c00);
	if (mag >= 0x38800000)
		return (uint16_t)(sign | (mag - 0x38000000 + 0xfff + (mag >> 13 & 1)) >> 13);
	/* Subnormal: adding 1/2 leaves the multiple of 2^-24, rounded by the adder, in the low
	 * bits. */
	return (uint16_t)(sign | (f32_bits(f32_from_bits(mag) + 0.5f) - 0x3f000000));
}

static inline float bf16_load(uint16_t h)
{
	return f32_from_bits((uint32_t)h << 16);
}
