/* pipeline - read, compute, write: strips of one file become strips of another.
 *
 * The caller says, strip by strip, which bytes of the source it needs and where the result goes;
 * while one strip is computed, the next ones are read and the former ones written. compute() is
 * called in the order of the strips, on the caller's thread, with all of a strip's bytes: a file
 * that ends early is an error before it is called. At most 64 MiB of buffers, whatever the file.
 *
 * Reads bypass the page cache (O_DIRECT) where the source is not in it and its file system can;
 * writes go through it, since what was written is about to be mapped. */
#pragma once
#include "quant/uring.h"

enum { PIPELINE_STRIP_MAX = 12 << 20 };         /* source and target bytes of one strip together */

struct pipeline_strip {
	uint64_t src, src_bytes;
	uint64_t dst, dst_bytes;        /* 0 bytes: compute gets no room and nothing is written */
	uint64_t item, part;            /* the caller's: what the strip is */
};
struct pipeline {
	int src, dst;                   /* dst -1: nothing is written, ever */
	size_t src_max, dst_max;        /* of any one strip; together <= PIPELINE_STRIP_MAX */
	/* The next strip: 0, PIPELINE_E_END, or negative errno. */
	int (*next)(void *user, struct pipeline_strip *ret);
	/* dst_bytes of out are the strip's result; all of them are written. Negative: give up. */
	int (*compute)(void *user, const struct pipeline_strip *s, const uint8_t *in, uint8_t *out,
	               struct err *err);
	/* after each strip that is through; negative: give up with that. May be NULL. */
	int (*progress)(void *user, uint64_t bytes_read, uint64_t bytes_written);
	void *user;
	enum uring_kind io;
};
enum { _PIPELINE_E_SUCCESS, PIPELINE_E_END };
struct pipeline_result {
	uint64_t bytes_read, bytes_written;
	bool ring, direct;              /* how: io_uring, and with reads past the page cache */
};
/* -EIO when the source ends inside a strip, -ECANCELED, -errno, -ENOMEM, what a callback said. */
int pipeline_run(struct pipeline_result *ret, const struct pipeline *p, struct err *err);
