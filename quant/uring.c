/* uring - the ring, and its plain stand-in.
 *
 *  1. The ring is born disabled, is given its files, buffers and list of permitted operations, and
 *     only then works: whatever a bug may queue later, it can neither open nor connect. liburing
 *     2.3 declares the two calls for that without exporting them, so they are made by number.
 *  2. Registering is an economy: what RLIMIT_MEMLOCK does not let us register is used all the same.
 *  3. Plain results wait in a ring of their own, so that both kinds look alike from outside. */
#include "quant/uring.h"
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/mem.h"
#include "base/num.h"

struct ended {
	uint64_t tag;
	int64_t result;
};
struct uring {
	bool ring;
	struct io_uring u;
	int *fds;
	struct iovec *bufs;
	unsigned n_registered;
	bool fixed_files;
	/* plain: depth results, the oldest first */
	struct ended *ended;
	unsigned depth, first, n_ended;
};

struct uring *uring_free(struct uring *q)
{
	if (!q)
		return NULL;
	if (q->ring)
		io_uring_queue_exit(&q->u);
	mem_free(q->fds);
	mem_free(q->bufs);
	mem_free(q->ended);
	return mem_free(q);
}

/* Kernels before 5.10 know no restrictions and no disabled ring: setup fails there, and the plain
 * path is taken. */
static int restrict_and_enable(struct uring *q)
{
	static const uint8_t ops[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED,
		                       IORING_OP_WRITE_FIXED };
	struct io_uring_restriction list[ARRAY_SIZE(ops) + 1];

	memset(list, 0, sizeof(list));
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		list[i].opcode = IORING_RESTRICTION_SQE_OP;
		list[i].sqe_op = ops[i];
	}
	list[ARRAY_SIZE(ops)].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	list[ARRAY_SIZE(ops)].sqe_flags = IOSQE_FIXED_FILE;
	if (syscall(__NR_io_uring_register, q->u.ring_fd, IORING_REGISTER_RESTRICTIONS, list,
	            ARRAY_SIZE(list)) < 0 ||
	    syscall(__NR_io_uring_register, q->u.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
	            0) < 0)
		return -errno;
	return 0;
}

static int start_ring(struct uring *q, unsigned n_fds, unsigned n_bufs)
{
	struct io_uring_params params = { .flags = IORING_SETUP_R_DISABLED };
	unsigned n = n_bufs;
	int r = io_uring_queue_init_params(q->depth, &q->u, &params);

	if (r < 0)
		return r;
	q->ring = true;
	q->fixed_files = io_uring_register_files(&q->u, q->fds, n_fds) == 0;
	while (n > 0 && io_uring_register_buffers(&q->u, q->bufs, n) < 0)
		n /= 2;
	q->n_registered = n;
	r = restrict_and_enable(q);
	if (r < 0) {
		io_uring_queue_exit(&q->u);
		q->ring = false;
	}
	return r;
}

int uring_new(struct uring **ret, enum uring_kind kind, unsigned depth, const int *fds,
              unsigned n_fds, const struct iovec *bufs, unsigned n_bufs, struct err *err)
{
	_cleanup_(uring_freep) struct uring *q = mem_alloc(sizeof(*q));
	int r = -ENOSYS;

	if (q) {
		q->depth = depth;
		q->fds = mem_memdup(fds, n_fds * sizeof(*fds));
		q->bufs = mem_memdup(bufs, n_bufs * sizeof(*bufs));
		q->ended = mem_allocn(depth, sizeof(*q->ended));
	}
	if (!q || !q->fds || !q->bufs || !q->ended)
		return err_set(err, -ENOMEM, "not enough memory for reading and writing");
	if (kind != URING_PLAIN)
		r = start_ring(q, n_fds, n_bufs);
	if (r < 0 && kind == URING_RING)
		return err_set(err, r, "io_uring: %s", strerror(-r));
	*ret = STEAL(q);
	return 0;
}

bool uring_is_ring(const struct uring *q)
{
	return q->ring;
}
unsigned uring_registered(const struct uring *q)
{
	return q->n_registered;
}

static int64_t do_plain(const struct uring *q, const struct uring_op *op)
{
	char *p = (char *)q->bufs[op->buf].iov_base + op->at;
	ssize_t n;

	do
		n = op->write ? pwrite(q->fds[op->file], p, op->n, (off_t)op->offset)
		              : pread(q->fds[op->file], p, op->n, (off_t)op->offset);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void uring_queue(struct uring *q, const struct uring_op *op)
{
	char *p = (char *)q->bufs[op->buf].iov_base + op->at;
	bool fixed = op->buf < q->n_registered;
	int file = q->fixed_files ? (int)op->file : q->fds[op->file];
	struct io_uring_sqe *sqe;

	if (!q->ring) {
		q->ended[(q->first + q->n_ended++) % q->depth] =
			(struct ended){ op->tag, do_plain(q, op) };
		return;
	}
	sqe = io_uring_get_sqe(&q->u);  /* there is room: at most depth are under way */
	if (fixed && op->write)
		io_uring_prep_write_fixed(sqe, file, p, (unsigned)op->n, op->offset, (int)op->buf);
	else if (fixed)
		io_uring_prep_read_fixed(sqe, file, p, (unsigned)op->n, op->offset, (int)op->buf);
	else if (op->write)
		io_uring_prep_write(sqe, file, p, (unsigned)op->n, op->offset);
	else
		io_uring_prep_read(sqe, file, p, (unsigned)op->n, op->offset);
	if (q->fixed_files)
		sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = op->tag;
	io_uring_submit(&q->u);
}

int uring_wait(struct uring *q, uint64_t *ret_tag, int64_t *ret_result)
{
	struct io_uring_cqe *cqe;
	int r;

	if (!q->ring) {
		*ret_tag = q->ended[q->first].tag;
		*ret_result = q->ended[q->first].result;
		q->first = (q->first + 1) % q->depth;
		q->n_ended--;
		return 0;
	}
	do
		r = io_uring_submit_and_wait(&q->u, 1);
	while (r == -EINTR || r == -EAGAIN);
	if (r >= 0)
		r = io_uring_peek_cqe(&q->u, &cqe);
	if (r < 0)
		return r;
	*ret_tag = cqe->user_data;
	*ret_result = cqe->res;
	io_uring_cqe_seen(&q->u, cqe);
	return 0;
}
