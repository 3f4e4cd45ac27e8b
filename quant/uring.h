/* uring - a queue of reads and writes: io_uring, or pread and pwrite behind the same interface.
 *
 * One thread. At most `depth` operations are under way; each names its buffer, which the caller
 * keeps and leaves alone until the operation has come back from uring_wait. Results are those of
 * the kernel: they may be short, and the caller looks. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/cleanup.h"
#include "base/err.h"

enum uring_kind {
	URING_AUTO,             /* io_uring where the kernel lets us, else plain */
	URING_RING,             /* or fail */
	URING_PLAIN,            /* each operation is done when it is queued */
};
struct uring;
/* For the n_fds files (not consumed), from and to the n_bufs buffers; as many of these are
 * registered as RLIMIT_MEMLOCK allows. The ring can do nothing but read and write. -ENOMEM,
 * URING_RING: -errno. */
int uring_new(struct uring **ret, enum uring_kind kind, unsigned depth, const int *fds,
              unsigned n_fds, const struct iovec *bufs, unsigned n_bufs, struct err *err);
struct uring *uring_free(struct uring *q);      /* nothing is under way */
DEFINE_FREEP(struct uring, uring_free)
/* false: plain */
bool uring_is_ring(const struct uring *q);
unsigned uring_registered(const struct uring *q);       /* buffers */

/* n bytes between `offset` of file number `file` and `at` of buffer number `buf`. Fewer than
 * `depth` are under way. */
struct uring_op {
	bool write;
	unsigned file, buf;
	size_t at, n;
	uint64_t offset;
	uint64_t tag;                   /* comes back */
};
void uring_queue(struct uring *q, const struct uring_op *op);
/* The next one that has ended, in any order: its tag and result (bytes, or negative errno).
 * -errno: the queue itself is broken. Something is under way. */
int uring_wait(struct uring *q, uint64_t *ret_tag, int64_t *ret_result);
