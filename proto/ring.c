/* ring - both ends of the data ring.
 *
 * 1. The peer's index is read once a call, checked against what this side knows (it may only grow,
 *    and never past or farther behind the other index than the ring is long), and the checked copy
 *    is used from then on.
 * 2. A bad index turns the ring bad for good: nothing is repaired.
 * 3. The writer touches the shared head page only to store; its own index and the size live in
 *    private memory, since a client that somehow wrote the page must not steer a store of the
 *    daemon. */
#include "proto/ring.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

struct ring_writer {
	struct ring_out_head *head;
	struct ring_in_page *in;
	uint8_t *data;                  /* mapped twice in a row */
	uint64_t size, write, read;     /* read: the client's index as last checked */
	uint64_t answered, page;
	bool bad;
};
struct ring_reader {
	const struct ring_out_head *head;
	struct ring_in_page *in;
	const uint8_t *data;
	uint64_t size, next, released, write, answered, sleeps, page;
};

static uint64_t page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* [head page][data][data again] in one reservation; returns the head or NULL with errno. */
static void *map_twice(int fd, uint64_t size, uint64_t page, int prot)
{
	uint8_t *base = mmap(NULL, page + 2 * size, PROT_NONE,
	                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return NULL;
	if (mmap(base, page + size, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
	    mmap(base + page + size, size, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)page) ==
	            MAP_FAILED) {
		int saved = errno;

		munmap(base, page + 2 * size);
		errno = saved;
		return NULL;
	}
	return base;
}

int ring_writer_new(struct ring_writer **ret, uint64_t size, int *ret_out, int *ret_in)
{
	_cleanup_(ring_writer_freep) struct ring_writer *w = mem_alloc(sizeof(*w));
	_cleanup_close_ int out = -1, in = -1;
	int r;

	if (!w)
		return -ENOMEM;
	w->page = page_size();
	if (!is_pow2(size) || size < w->page)
		return -EINVAL;
	w->size = size;
	out = fd_memfd("qllm-ring-out", w->page + size);
	if (out < 0)
		return out;
	in = fd_memfd("qllm-ring-in", w->page);
	if (in < 0)
		return in;
	/* Our writable mapping must exist before FUTURE_WRITE forbids new ones. */
	w->head = map_twice(out, size, w->page, PROT_READ | PROT_WRITE);
	if (!w->head)
		return -errno;
	w->data = (uint8_t *)w->head + w->page;
	w->in = mmap(NULL, w->page, PROT_READ | PROT_WRITE, MAP_SHARED, in, 0);
	if (w->in == MAP_FAILED) {
		w->in = NULL;
		return -errno;
	}
	r = fd_seal(out, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
	if (r == 0)
		r = fd_seal(in, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (r < 0)
		return r;
	*ret_out = STEAL_FD(out);
	*ret_in = STEAL_FD(in);
	*ret = STEAL(w);
	return 0;
}

struct ring_writer *ring_writer_free(struct ring_writer *w)
{
	if (!w)
		return NULL;
	if (w->head)
		munmap(w->head, w->page + 2 * w->size);
	if (w->in)
		munmap(w->in, w->page);
	return mem_free(w);
}

uint64_t ring_writer_size(const struct ring_writer *w)
{
	return w->size;
}

int64_t ring_writer_free_bytes(struct ring_writer *w)
{
	uint64_t read = atomic_load_explicit(&w->in->read, memory_order_acquire);

	if (w->bad || read < w->read || read > w->write || w->write - read > w->size) {
		w->bad = true;
		return -EPROTO;
	}
	w->read = read;
	return (int64_t)(w->size - (w->write - read));
}

int ring_writer_put(struct ring_writer *w, uint32_t type, uint64_t id, const struct iovec *parts,
                    unsigned n_parts)
{
	struct ring_record rec = { .type = type, .id = id };
	uint8_t *p = w->data + (w->write & (w->size - 1));
	size_t len = 0;
	int64_t room;

	for (unsigned i = 0; i < n_parts; i++)
		if (add_overflows(len, parts[i].iov_len, &len))
			return -ENOSPC;
	if (len > w->size || RING_RECORD_BYTES(len) > w->size)
		return -ENOSPC;
	room = ring_writer_free_bytes(w);
	if (room < 0)
		return (int)room;
	if ((uint64_t)room < RING_RECORD_BYTES(len))
		return -ENOSPC;
	rec.len = (uint32_t)len;
	memcpy(p, &rec, sizeof(rec));
	p += sizeof(rec);
	for (unsigned i = 0; i < n_parts; i++) {
		if (parts[i].iov_len)
			memcpy(p, parts[i].iov_base, parts[i].iov_len);
		p += parts[i].iov_len;
	}
	w->write += RING_RECORD_BYTES(len);
	return 0;
}

bool ring_writer_publish(struct ring_writer *w)
{
	uint64_t waiting;

	atomic_store_explicit(&w->head->write, w->write, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	waiting = atomic_load_explicit(&w->in->waiting, memory_order_relaxed);
	if (waiting == 0 || waiting == w->answered)
		return false;
	w->answered = waiting;
	return true;
}

bool ring_writer_want(struct ring_writer *w, uint64_t n)
{
	int64_t room = ring_writer_free_bytes(w);
	uint64_t target;

	n = MIN(n, w->size);
	if (room < 0 || (uint64_t)room >= n)
		return true;            /* the flag stays: another sequence may sleep by it */
	/* read index at which that much is free */
	target = w->write - w->size + MAX(n, w->size / 2);
	atomic_store_explicit(&w->head->want, target, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	room = ring_writer_free_bytes(w);
	return room < 0 || (uint64_t)room >= n;
}

int ring_reader_new(struct ring_reader **ret, int out_fd, int in_fd, uint64_t size, struct err *err)
{
	_cleanup_(ring_reader_freep) struct ring_reader *r = mem_alloc(sizeof(*r));
	struct stat out, in;

	if (!r)
		return -ENOMEM;
	r->page = page_size();
	r->size = size;
	if (!is_pow2(size) || size < r->page || size > (1ull << 32) || fstat(out_fd, &out) < 0 ||
	    fstat(in_fd, &in) < 0 || (uint64_t)out.st_size < r->page + size ||
	    (uint64_t)in.st_size < r->page)
		return err_set(err, -EPROTO,
		               "the daemon's ring of %llu bytes does not fit its descriptors",
		               (unsigned long long)size);
	r->head = map_twice(out_fd, size, r->page, PROT_READ);
	if (!r->head)
		return err_set(err, -errno, "mapping the daemon's ring failed: %s",
		               strerror(errno));
	r->data = (const uint8_t *)r->head + r->page;
	r->in = mmap(NULL, r->page, PROT_READ | PROT_WRITE, MAP_SHARED, in_fd, 0);
	if (r->in == MAP_FAILED) {
		r->in = NULL;
		return err_set(err, -errno, "mapping the ring's index page failed: %s",
		               strerror(errno));
	}
	*ret = STEAL(r);
	return 0;
}

struct ring_reader *ring_reader_free(struct ring_reader *r)
{
	if (!r)
		return NULL;
	if (r->head)
		munmap((void *)(uintptr_t)r->head, r->page + 2 * r->size);
	if (r->in)
		munmap(r->in, r->page);
	return mem_free(r);
}

int ring_reader_next(struct ring_reader *r, struct ring_record *ret, const void **ret_payload)
{
	const uint8_t *p = r->data + (r->next & (r->size - 1));
	struct ring_record rec;

	if (r->next == r->write) {
		uint64_t write = atomic_load_explicit(&r->head->write, memory_order_acquire);

		if (write < r->write || write - r->released > r->size)
			return -EPROTO;
		r->write = write;
		if (r->next == write)
			return 0;
	}
	memcpy(&rec, p, sizeof(rec));
	if (r->write - r->next < sizeof(rec) || RING_RECORD_BYTES(rec.len) > r->write - r->next)
		return -EPROTO;
	r->next += RING_RECORD_BYTES(rec.len);
	*ret = rec;
	*ret_payload = p + sizeof(rec);
	return 1;
}

bool ring_reader_release(struct ring_reader *r)
{
	uint64_t want;

	if (r->released == r->next)
		return false;
	r->released = r->next;
	atomic_store_explicit(&r->in->read, r->released, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	want = atomic_load_explicit(&r->head->want, memory_order_relaxed);
	if (want == 0 || want == r->answered || r->released < want)
		return false;
	r->answered = want;
	return true;
}

bool ring_reader_sleep(struct ring_reader *r)
{
	atomic_store_explicit(&r->in->waiting, ++r->sleeps, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&r->head->write, memory_order_acquire) == r->next)
		return true;
	ring_reader_awake(r);
	return false;
}

void ring_reader_awake(struct ring_reader *r)
{
	atomic_store_explicit(&r->in->waiting, 0, memory_order_relaxed);
}
