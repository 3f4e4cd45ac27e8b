/* str - byte strings and growable text. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/mem.h"
#include "base/num.h"

struct bytes {                          /* borrowed, not NUL-terminated */
	const char *p;
	size_t n;
};
#define STR_ARG(b) (int)MIN((b).n, (size_t)200), (b).p   /* for %.*s, bounded */

struct sbuf {                           /* growable, always NUL-terminated once non-NULL */
	char *p;
	size_t n, cap, max;             /* max 0 = unbounded; beyond it appends fail with -ENOSPC */
};
/* 0, -ENOMEM, -ENOSPC; unchanged on failure */
int sbuf_append(struct sbuf *s, const void *p, size_t n);
int sbuf_printf(struct sbuf *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *sbuf_steal(struct sbuf *s); /* NUL-terminated, mem_free; "" when empty; NULL on no memory */
void sbuf_deinit(struct sbuf *s);

bool utf8_valid(const char *p, size_t n);
/* Decode one code point at p (n > 0 bytes left): returns its length 1..4, or 0 when invalid or
 * cut. */
unsigned utf8_decode(const char *p, size_t n, uint32_t *ret_cp);
/* 1..4; 0 for surrogates and > 10FFFF */
unsigned utf8_encode(uint32_t cp, char out[4]);
/* Length of the longest prefix of p[0,n) that does not end inside a code point that could still be
 * completed. */
size_t utf8_complete_prefix(const char *p, size_t n);
/* Printable form of untrusted bytes: control bytes and bad UTF-8 become \xNN, at most `size`-1
 * bytes, "..." when cut. Returns out. */
char *str_escape(char *out, size_t size, const void *p, size_t n);
/* Strict parsers: the whole string, no sign tricks, no spaces; 0, -EINVAL or -ERANGE. */
int str_to_u64(const char *s, uint64_t *ret);
int str_to_double(const char *s, double *ret);
/* Model and user-visible names: [A-Za-z0-9][A-Za-z0-9._-]{0,63} */
bool str_is_name(const char *s);
