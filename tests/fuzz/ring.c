/* ring - a script of steps. Bit 0 of the first byte: 1 = libqllm reads a ring that the script
 * writes as a hostile daemon could; 0 = the daemon writes a ring whose `in` page the script
 * scribbles on. Every byte that the reader hands out is touched, and both sides must hold to
 * their invariants whatever the peer says. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/fd.h"
#include "client/conn.h"
#include "tests/fuzz/fuzz.h"

const char fuzz_name[] = "ring";
enum { SIZE = 16384, PAGE = 4096, STEPS_MAX = 200 };

static volatile uint64_t touched;

static void touch(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		touched += ((const uint8_t *)p)[i];
}

/* Numbers that matter: near the last index, near the edges of the ring, or any. */
static uint64_t number(struct fuzz_in *in, uint64_t last)
{
	uint8_t how = fuzz_u8(in);

	switch (how & 3) {
	case 0:
		return last + 16 * (uint64_t)fuzz_u8(in);
	case 1:
		return last + (uint64_t)(int64_t)(int16_t)fuzz_u32(in);
	case 2:
		return last + SIZE - 32 + fuzz_u8(in);
	default:
		return fuzz_u64(in);
	}
}

/* --- the reader against a hostile daemon ------------------------------------------------------ */

static void on_event(void *user, const struct qllm_event *ev)
{
	(void)user;
	if (ev->type == QLLM_EVENT_TOKEN) {
		touch(ev->token->text, ev->token->n_text);
		touch(ev->token->top, ev->token->n_top * sizeof(*ev->token->top));
	} else if (ev->type == QLLM_EVENT_ROW) {
		touch(ev->row->logits, ev->row->n * sizeof(*ev->row->logits));
	}
}

/* A record as a daemon makes them, with lengths that may lie. */
static void write_record(struct fuzz_in *in, uint8_t *data, uint64_t at)
{
	struct ring_record rec = { .type = fuzz_u8(in) & 3, .id = 1 };
	uint8_t body[256] = { 0 };
	uint32_t heads[4];

	rec.len = fuzz_u8(in);
	for (unsigned i = 0; i < 4; i++)
		heads[i] = fuzz_u8(in) & 0x80 ? fuzz_u32(in) : fuzz_u8(in);
	memcpy(body, heads, sizeof(heads));
	if (fuzz_u8(in) & 1)
		rec.len = fuzz_u32(in);
	for (unsigned i = 0; i < sizeof(rec); i++)
		data[(at + i) % SIZE] = ((uint8_t *)&rec)[i];
	for (unsigned i = 0; i < sizeof(body); i++)
		data[(at + sizeof(rec) + i) % SIZE] = body[i];
}

static struct qllm *client(struct ring_reader *ring)
{
	struct call *call = mem_alloc(sizeof(*call));
	struct qllm *q = NULL;

	FUZZ_CHECK(call && qllm_new(&q, NULL) == 0, "no client");
	call->id = 1;
	call->body = QLLM__FRAME__BODY_GENERATE;
	call->fn = on_event;
	list_append(&q->calls, &call->link);
	q->ring = ring;
	return q;
}

/* The same file, but opened otherwise. */
static int reopened(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

/* Welcome came with descriptors that are no ring's: no reader, and a sentence. */
static void reader_refused(int out, int page, unsigned how)
{
	struct ring_reader *r = NULL;
	struct err err = { 0 };
	int fds[2], other = -1, code;

	switch (how % 4) {
	case 0:                         /* cannot be read */
		other = reopened(out, O_WRONLY);
		code = ring_reader_new(&r, other, page, SIZE, &err);
		break;
	case 1:                         /* cannot be written */
		other = reopened(page, O_RDONLY);
		code = ring_reader_new(&r, out, other, SIZE, &err);
		break;
	case 2:
		FUZZ_CHECK(pipe2(fds, O_CLOEXEC) == 0, "pipe");
		code = ring_reader_new(&r, fds[0], fds[1], SIZE, &err);
		close(fds[0]);
		close(fds[1]);
		break;
	default:
		mem_fault_arm(0, false);
		code = ring_reader_new(&r, out, page, SIZE, &err);
		FUZZ_CHECK(mem_fault_fired() && code == -ENOMEM, "%d", code);
		return;
	}
	FUZZ_CHECK(code < 0 && err.text[0], "%d", code);
	if (other >= 0)
		close(other);
}

static void reader(struct fuzz_in *in)
{
	int out = fd_memfd("out", PAGE + SIZE), page = fd_memfd("in", PAGE);
	struct ring_reader *r = NULL;
	struct ring_out_head *head;
	uint64_t write = 0, size = SIZE;
	struct qllm *q;
	uint8_t odd = fuzz_u8(in);

	FUZZ_CHECK(out >= 0 && page >= 0, "no memfd");
	if (odd >= 240 && odd < 250) {
		reader_refused(out, page, odd);
		close(out);
		close(page);
		return;
	}
	if (odd >= 250) {       /* Welcome lies about the size */
		size = number(in, 0);
		if (ring_reader_new(&r, out, page, size, NULL) < 0) {
			close(out);
			close(page);
			return;
		}
		FUZZ_CHECK(size <= SIZE, "%llu bytes were mapped", (unsigned long long)size);
	} else {
		FUZZ_CHECK(ring_reader_new(&r, out, page, SIZE, NULL) == 0, "reader");
	}
	head = mmap(NULL, PAGE + SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
	FUZZ_CHECK(head != MAP_FAILED, "mmap");
	q = client(r);
	for (unsigned i = 0; i < STEPS_MAX && fuzz_more(in); i++) {
		uint8_t *data = (uint8_t *)head + PAGE;
		struct ring_record rec;
		const void *payload;

		switch (fuzz_u8(in) & 7) {
		case 0:
			write = number(in, write);
			atomic_store(&head->write, write);
			break;
		case 1:
			atomic_store(&head->want, number(in, write));
			break;
		case 2:
			fuzz_take(in, data + (number(in, write) & (SIZE - 256)), 32);
			break;
		case 3:
			write_record(in, data, write);
			break;
		case 4:
			if (ring_reader_next(r, &rec, &payload) == 1) {
				FUZZ_CHECK(rec.len <= size, "record of %u bytes", rec.len);
				touch(payload, rec.len);
			}
			break;
		case 5:
			ring_reader_release(r);
			break;
		case 6:
			(void)stream_ring(q);
			break;
		default:
			if (ring_reader_sleep(r))
				ring_reader_awake(r);
		}
	}
	qllm_free(q);
	munmap(head, PAGE + SIZE);
	close(out);
	close(page);
}

/* --- the writer against a hostile client ------------------------------------------------------ */

/* A size that the configuration lets through by mistake, and no memory. */
static void writer_refused(struct fuzz_in *in)
{
	const uint64_t size = number(in, 0);
	struct ring_writer *w = NULL;
	int out = -1, page = -1, r;
	const bool fits = size >= PAGE && (size & (size - 1)) == 0;

	mem_fault_arm(0, false);
	r = ring_writer_new(&w, SIZE, &out, &page);
	FUZZ_CHECK(mem_fault_fired() && r == -ENOMEM, "%d", r);
	if (fits)
		return;
	FUZZ_CHECK(ring_writer_new(&w, size, &out, &page) == -EINVAL, "%llu",
	           (unsigned long long)size);
	FUZZ_CHECK(!w && out < 0 && page < 0, "something was made");
}

static void writer(struct fuzz_in *in)
{
	static uint8_t body[SIZE];
	struct ring_writer *w = NULL;
	struct ring_in_page *page;
	int out = -1, in_fd = -1;
	uint64_t last = 0;
	bool bad = false;

	FUZZ_CHECK(ring_writer_new(&w, SIZE, &out, &in_fd) == 0, "writer");
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, in_fd, 0);
	FUZZ_CHECK(page != MAP_FAILED, "mmap");
	for (unsigned i = 0; i < STEPS_MAX && fuzz_more(in); i++) {
		struct iovec parts[2] = { { body, 0 }, { body, 0 } };
		int64_t room, after;
		int r;

		switch (fuzz_u8(in) % 6) {
		case 0:
			last = number(in, last);
			atomic_store(&page->read, last);
			break;
		case 1:
			atomic_store(&page->waiting, number(in, 0));
			break;
		case 2:
			parts[0].iov_len = fuzz_u8(in);
			parts[1].iov_len = fuzz_u32(in) % (SIZE + 1);
			if (parts[0].iov_len == 255)    /* lengths that no sum can hold */
				parts[1].iov_len = SIZE_MAX - parts[1].iov_len % 255;
			room = ring_writer_free_bytes(w);
			r = ring_writer_put(w, RING_TOKEN, 1, parts, 2);
			after = ring_writer_free_bytes(w);
			FUZZ_CHECK(r == 0 || r == -ENOSPC || r == -EPROTO, "%d", r);
			FUZZ_CHECK(r != -EPROTO || room < 0, "room %lld", (long long)room);
			FUZZ_CHECK(r != 0 || after < room, "no room was taken");
			break;
		case 3:
			(void)ring_writer_publish(w);
			break;
		case 4:
			(void)ring_writer_want(w, number(in, 0));
			break;
		default:
			room = ring_writer_free_bytes(w);
			FUZZ_CHECK(room == -EPROTO || (room >= 0 && room <= SIZE), "%lld",
			           (long long)room);
			FUZZ_CHECK(!bad || room < 0, "a bad ring became good");
			bad = room < 0;
		}
	}
	munmap(page, PAGE);
	ring_writer_free(w);
	close(out);
	close(in_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct fuzz_in in = { p, n };

	uint8_t side = fuzz_u8(&in);

	if (side & 1)
		reader(&in);
	else if (side >= 250)
		writer_refused(&in);
	else
		writer(&in);
	return 0;
}
