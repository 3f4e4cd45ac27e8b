/* cursor - bounds-checked little-endian reader over bytes. A read past the end yields 0 (or an
 * empty string) and turns the cursor bad for good: one test a record is enough. */
#pragma once
#include "base/str.h"

struct cursor {
	const uint8_t *base, *p, *end;
	bool bad;
};
static inline struct cursor cur_init(const void *p, size_t n)
{
	return (struct cursor){ p, p, (const uint8_t *)p + n, false };
}
static inline size_t cur_left(const struct cursor *c)
{
	return c->bad ? 0 : (size_t)(c->end - c->p);
}
static inline size_t cur_offset(const struct cursor *c)
{
	return (size_t)(c->p - c->base);
}
const void *cur_take(struct cursor *c, size_t n);       /* n bytes in place, or NULL and bad */
uint8_t cur_u8(struct cursor *c);
uint16_t cur_u16le(struct cursor *c);
uint32_t cur_u32le(struct cursor *c);
uint64_t cur_u64le(struct cursor *c);
/* u64 length, then bytes; longer than max or than what is left turns the cursor bad. */
struct bytes cur_str64(struct cursor *c, uint64_t max);
