/* cursor - every read goes through cur_take, which alone compares with the end.
 *
 * Invariants:
 * 1. base <= p <= end.
 * 2. Once bad, always bad: nothing moves and every read yields zero. */
#include "base/cursor.h"

const void *cur_take(struct cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || n > (size_t)(c->end - c->p)) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	return p;
}

/* Bytes are put together one by one: right on any byte order, and one load after optimization. */
static uint64_t take_le(struct cursor *c, unsigned n)
{
	const uint8_t *p = cur_take(c, n);
	uint64_t x = 0;

	if (!p)
		return 0;
	for (unsigned i = 0; i < n; i++)
		x |= (uint64_t)p[i] << (8 * i);
	return x;
}

uint8_t cur_u8(struct cursor *c)
{
	return (uint8_t)take_le(c, 1);
}

uint16_t cur_u16le(struct cursor *c)
{
	return (uint16_t)take_le(c, 2);
}

uint32_t cur_u32le(struct cursor *c)
{
	return (uint32_t)take_le(c, 4);
}

uint64_t cur_u64le(struct cursor *c)
{
	return take_le(c, 8);
}

struct bytes cur_str64(struct cursor *c, uint64_t max)
{
	uint64_t n = cur_u64le(c);
	const char *p;

	if (c->bad || n > max || n > cur_left(c)) {
		c->bad = true;
		return (struct bytes){ "", 0 };
	}
	p = cur_take(c, (size_t)n);
	return (struct bytes){ p, (size_t)n };
}
