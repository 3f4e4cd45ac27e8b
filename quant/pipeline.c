/* pipeline - slots that go round: free, being read, computed in turn, being written, free.
 *
 *  1. A slot has at most one operation under way, so its buffers have one user at any time.
 *  2. Slots take strips in order, and compute follows the same order: slot i + 1 is computed after
 *     slot i, however their reads end.
 *  3. A read counts when every byte of the strip is there. A short one is continued; one that ends
 *     with 0 is the end of the file and an error: what a buffer held before never reaches compute.
 *  4. Whatever ends a run, all that is under way comes back before the buffers are freed.
 *  5. O_DIRECT wants whole blocks: the read is widened to them, and `lead` is what precedes the
 *     strip in the buffer. The first refusal (EINVAL), and every short read, ends O_DIRECT for the
 *     rest of the run. */
#include "quant/pipeline.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/mem.h"
#include "base/num.h"

enum {
	BUFFERS_MAX = 64 << 20,
	SLOTS_MAX = 8,
	SLOTS_MIN = 2,
	BLOCK = 4096,                   /* of O_DIRECT */
	PROBES = 8,                     /* looks at whether the source is in the page cache */
	FILE_SRC = 0,
	FILE_DST = 1,
};
enum slot_state { FREE, READING, READY, WRITING };
struct slot {
	enum slot_state state;
	struct pipeline_strip strip;
	size_t lead, want, done;        /* of the operation under way, in bytes */
	uint64_t offset;                /* in its file */
};
struct run {
	const struct pipeline *p;
	struct uring *q;
	struct iovec bufs[2 * SLOTS_MAX];       /* in and out of each slot */
	struct slot slots[SLOTS_MAX];
	unsigned n_slots, n_busy;
	unsigned tail, turn;            /* slots that take the next strip, and are computed next */
	bool ended;                     /* no more strips */
	bool direct;
	int src_flags;
	uint64_t src_size;
	struct pipeline_result result;
	struct err *err;
};

/* Not even a first look finds it in the page cache. Where the question is not understood, reads go
 * through it. */
static bool is_cold(int fd, uint64_t size)
{
	unsigned cold = 0;
	char byte;

	for (unsigned i = 0; i < PROBES; i++) {
		struct iovec v = { &byte, 1 };

		if (preadv2(fd, &v, 1, (off_t)(size / PROBES * i), RWF_NOWAIT) < 0) {
			if (errno != EAGAIN)
				return false;
			cold++;
		}
	}
	return cold > PROBES / 2;
}

static void end_direct(struct run *run)
{
	if (run->direct)
		(void)fcntl(run->p->src, F_SETFL, run->src_flags);
	run->direct = false;
}

/* The flag is the open file's, which others may hold too: a worker that was killed leaves it on. */
static void try_direct(struct run *run)
{
	int flags = fcntl(run->p->src, F_GETFL);

	run->src_flags = flags & ~O_DIRECT;
	run->direct = flags >= 0 && is_cold(run->p->src, run->src_size) &&
	              fcntl(run->p->src, F_SETFL, flags | O_DIRECT) == 0;
	run->result.direct = run->direct;
	if (!run->direct && flags >= 0 && flags != run->src_flags)
		(void)fcntl(run->p->src, F_SETFL, run->src_flags);
}

static void put_op(struct run *run, unsigned i)
{
	struct slot *s = &run->slots[i];
	bool write = s->state == WRITING;
	struct uring_op op = {
		.write = write, .file = write ? FILE_DST : FILE_SRC, .buf = 2 * i + write,
		.at = s->done, .n = s->want - s->done, .offset = s->offset + s->done, .tag = i,
	};

	uring_queue(run->q, &op);
	run->n_busy++;
}

static void put_read(struct run *run, unsigned i)
{
	struct slot *s = &run->slots[i];
	uint64_t begin = s->strip.src, end = begin + s->strip.src_bytes;

	if (run->direct) {
		begin &= ~(uint64_t)(BLOCK - 1);
		end = align_up(end, BLOCK);
	}
	s->state = READING;
	s->offset = begin;
	s->lead = (size_t)(s->strip.src - begin);
	s->want = (size_t)(end - begin);
	s->done = 0;
	if (s->strip.src_bytes > 0)
		put_op(run, i);
	else
		s->state = READY;
}

/* Give strips to all slots that are free. */
static int fill(struct run *run)
{
	while (!run->ended && run->slots[run->tail].state == FREE) {
		struct slot *s = &run->slots[run->tail];
		uint64_t end;
		int r = run->p->next(run->p->user, &s->strip);

		if (r == PIPELINE_E_END) {
			run->ended = true;
			break;
		}
		if (r < 0)
			return r;
		if (s->strip.src_bytes > run->p->src_max || s->strip.dst_bytes > run->p->dst_max ||
		    add_overflows(s->strip.src, s->strip.src_bytes, &end) || end > run->src_size)
			return err_set(run->err, -EIO, "the source ends inside of what is to be "
			               "read: %llu bytes at %llu of %llu",
			               (unsigned long long)s->strip.src_bytes,
			               (unsigned long long)s->strip.src,
			               (unsigned long long)run->src_size);
		put_read(run, run->tail);
		run->tail = (run->tail + 1) % run->n_slots;
	}
	return 0;
}

static int on_read(struct run *run, unsigned i, int64_t n)
{
	struct slot *s = &run->slots[i];

	if (n == -EINVAL && run->direct) {
		end_direct(run);
		run->result.direct = false;
		put_read(run, i);
		return 0;
	}
	if (n < 0)
		return err_set(run->err, (int)n, "reading %zu bytes at %llu: %s", s->want - s->done,
		               (unsigned long long)(s->offset + s->done), strerror((int)-n));
	s->done += (size_t)n;
	if (s->done >= s->lead + s->strip.src_bytes) {
		s->state = READY;
		run->result.bytes_read += s->strip.src_bytes;
		return 0;
	}
	if (n == 0)
		return err_set(run->err, -EIO, "the source ends at byte %llu: it was cut while it "
		               "was read", (unsigned long long)(s->offset + s->done));
	end_direct(run);                /* the rest begins anywhere */
	put_op(run, i);
	return 0;
}

static int on_written(struct run *run, unsigned i, int64_t n)
{
	struct slot *s = &run->slots[i];

	if (n <= 0)
		return err_set(run->err, n < 0 ? (int)n : -EIO, "writing %zu bytes at %llu: %s",
		               s->want - s->done, (unsigned long long)(s->offset + s->done),
		               strerror(n < 0 ? (int)-n : EIO));
	s->done += (size_t)n;
	if (s->done < s->want) {
		put_op(run, i);
		return 0;
	}
	run->result.bytes_written += s->want;
	s->state = FREE;
	return 0;
}

static int wait_one(struct run *run)
{
	uint64_t i = 0;
	int64_t n = 0;
	int r = uring_wait(run->q, &i, &n);

	if (r < 0)
		return err_set(run->err, r, "waiting for reads and writes: %s", strerror(-r));
	run->n_busy--;
	return run->slots[i].state == READING ? on_read(run, (unsigned)i, n)
	                                      : on_written(run, (unsigned)i, n);
}

/* Compute the strip whose turn it is; its bytes are there. */
static int compute(struct run *run)
{
	unsigned i = run->turn;
	struct slot *s = &run->slots[i];
	const uint8_t *in = (const uint8_t *)run->bufs[2 * i].iov_base + s->lead;
	uint8_t *out = run->bufs[2 * i + 1].iov_base;
	int r = run->p->compute(run->p->user, &s->strip, in, out, run->err);

	if (r < 0)
		return r;
	run->turn = (i + 1) % run->n_slots;
	s->state = FREE;
	if (run->p->dst >= 0 && s->strip.dst_bytes > 0) {
		s->state = WRITING;
		s->offset = s->strip.dst;
		s->want = s->strip.dst_bytes;
		s->done = 0;
		put_op(run, i);
	}
	return run->p->progress ? run->p->progress(run->p->user, run->result.bytes_read,
	                                           run->result.bytes_written)
	                        : 0;
}

static int work(struct run *run)
{
	for (;;) {
		int r = fill(run);

		if (r == 0 && run->slots[run->turn].state == READY)
			r = compute(run);
		else if (r == 0 && run->n_busy > 0)
			r = wait_one(run);
		else if (r == 0)
			return 0;       /* no strips, nothing under way */
		if (r < 0)
			return r;
	}
}

/* All that is under way, whatever becomes of it. Where even that fails, the buffers stay: the
 * kernel may still write to them. */
static void drain(struct run *run)
{
	uint64_t tag;
	int64_t n;

	while (run->n_busy > 0 && uring_wait(run->q, &tag, &n) == 0)
		run->n_busy--;
}

static int init(struct run *run)
{
	const struct pipeline *p = run->p;
	size_t in = align_up(p->src_max, BLOCK) + 2 * BLOCK, out = align_up(p->dst_max, BLOCK);
	const int fds[] = { p->src, p->dst };
	struct stat st;

	if (fstat(p->src, &st) < 0)
		return err_set(run->err, -errno, "the source: %s", strerror(errno));
	run->src_size = (uint64_t)st.st_size;
	if (p->src_max + p->dst_max > PIPELINE_STRIP_MAX)
		return err_set(run->err, -EINVAL, "strips of %zu bytes are too large", p->src_max);
	run->n_slots = CLAMP(BUFFERS_MAX / (in + out), (size_t)SLOTS_MIN, (size_t)SLOTS_MAX);
	/* a small file needs few */
	if (run->src_size / MAX(p->src_max, (size_t)1) < run->n_slots)
		run->n_slots = MAX(run->src_size / MAX(p->src_max, (size_t)1),
		                   (size_t)SLOTS_MIN);
	for (unsigned i = 0; i < 2 * run->n_slots; i++) {
		size_t n = i % 2 == 0 ? in : MAX(out, (size_t)BLOCK);

		run->bufs[i] = (struct iovec){ mem_aligned(BLOCK, n), n };
		if (!run->bufs[i].iov_base)
			return err_set(run->err, -ENOMEM, "not enough memory for %u buffers",
			               2 * run->n_slots);
	}
	try_direct(run);
	return uring_new(&run->q, p->io, run->n_slots, fds, p->dst >= 0 ? 2 : 1, run->bufs,
	                 2 * run->n_slots, run->err);
}

int pipeline_run(struct pipeline_result *ret, const struct pipeline *p, struct err *err)
{
	struct run run = { .p = p, .err = err };
	int r = init(&run);

	if (r == 0) {
		run.result.ring = uring_is_ring(run.q);
		r = work(&run);
		drain(&run);
	}
	uring_free(run.q);
	end_direct(&run);
	for (unsigned i = 0; i < 2 * run.n_slots && run.n_busy == 0; i++)
		mem_free(run.bufs[i].iov_base);
	if (r < 0)
		return r;
	*ret = run.result;
	return 0;
}
