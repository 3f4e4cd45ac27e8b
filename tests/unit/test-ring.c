/* test-ring - the data ring: contents across two threads, no lost wake-up in either direction,
 * nonsense, seals. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include "proto/frame.h"
#include "proto/ring.h"

enum { SIZE = 64 << 10, MESSAGES = 1000000, LOCKSTEP = 100000, LOST_MS = 60000 };

struct pair {
	struct ring_writer *w;
	struct ring_reader *r;
	int out, in;
};

static void pair_open(struct pair *p, uint64_t size)
{
	struct err err = { 0 };

	assert_int_equal(ring_writer_new(&p->w, size, &p->out, &p->in), 0);
	assert_int_equal(ring_reader_new(&p->r, p->out, p->in, size, &err), 0);
}

static void pair_close(struct pair *p)
{
	ring_writer_free(p->w);
	ring_reader_free(p->r);
	close(p->out);
	close(p->in);
}

static int put(struct ring_writer *w, uint64_t id, const void *p, size_t n)
{
	struct iovec part = { (void *)(uintptr_t)p, n };

	return ring_writer_put(w, RING_TOKEN, id, &part, 1);
}

static void test_records_come_back(void **state)
{
	struct iovec parts[3] = { { (void *)"abc", 3 }, { NULL, 0 }, { (void *)"defgh", 5 } };
	struct ring_record rec;
	const void *payload;
	struct pair p;

	(void)state;
	pair_open(&p, SIZE);
	assert_int_equal(ring_reader_next(p.r, &rec, &payload), 0);
	assert_int_equal(ring_writer_put(p.w, RING_ROW, 77, parts, 3), 0);
	assert_int_equal(ring_reader_next(p.r, &rec, &payload), 0);    /* not published yet */
	assert_false(ring_writer_publish(p.w));                         /* nobody sleeps */
	assert_int_equal(ring_reader_next(p.r, &rec, &payload), 1);
	assert_int_equal(rec.len, 8);
	assert_int_equal(rec.type, RING_ROW);
	assert_int_equal(rec.id, 77);
	assert_memory_equal(payload, "abcdefgh", 8);
	assert_int_equal(ring_reader_next(p.r, &rec, &payload), 0);
	pair_close(&p);
}

static void test_full_and_wrapped(void **state)
{
	uint8_t big[SIZE];
	struct ring_record rec;
	const void *payload;
	struct pair p;

	(void)state;
	pair_open(&p, SIZE);
	memset(big, 0x5a, sizeof(big));
	/* never fits beside its header */
	assert_int_equal(put(p.w, 1, big, SIZE), -ENOSPC);
	for (unsigned i = 0; i < 1000; i++) {
		size_t n = SIZE - sizeof(struct ring_record) - i * 16;

		assert_int_equal(put(p.w, i, big, n), 0);
		assert_int_equal(put(p.w, i, big, SIZE - n), -ENOSPC);
		ring_writer_publish(p.w);
		assert_int_equal(ring_reader_next(p.r, &rec, &payload), 1);
		assert_int_equal(rec.len, n);
		/* in one piece across the end */
		assert_memory_equal(payload, big, n);
		assert_int_equal(ring_writer_free_bytes(p.w), SIZE - RING_RECORD_BYTES(n));
		ring_reader_release(p.r);
		assert_int_equal(ring_writer_free_bytes(p.w), SIZE);
	}
	pair_close(&p);
}

static void set_read(struct pair *p, uint64_t read)
{
	struct ring_in_page *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, p->in, 0);

	assert_ptr_not_equal(page, MAP_FAILED);
	atomic_store(&page->read, read);
	munmap(page, 4096);
}

static void test_nonsense_is_final(void **state)
{
	static const uint64_t bad[] = { 33, 1u << 20, UINT64_MAX, (uint64_t)1 << 63 };
	char text[16] = "0123456789abcde";
	struct pair p;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		pair_open(&p, SIZE);
		assert_int_equal(put(p.w, 1, text, sizeof(text)), 0);   /* write = 32 */
		set_read(&p, bad[i]);
		assert_int_equal(ring_writer_free_bytes(p.w), -EPROTO);
		set_read(&p, 0);                                        /* nothing is repaired */
		assert_int_equal(put(p.w, 1, text, sizeof(text)), -EPROTO);
		assert_true(ring_writer_want(p.w, SIZE));
		pair_close(&p);
	}
	pair_open(&p, SIZE);
	assert_int_equal(put(p.w, 1, text, sizeof(text)), 0);
	assert_int_equal(put(p.w, 1, text, sizeof(text)), 0);
	set_read(&p, 64);
	assert_int_equal(ring_writer_free_bytes(p.w), SIZE);
	set_read(&p, 32);                                               /* backwards */
	assert_int_equal(ring_writer_free_bytes(p.w), -EPROTO);
	pair_close(&p);
}

static void test_seals(void **state)
{
	char path[40];
	struct pair p;
	void *map;
	int fd;

	(void)state;
	pair_open(&p, SIZE);
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, p.out, 0);
	assert_ptr_equal(map, MAP_FAILED);
	assert_int_equal(errno, EPERM);
	assert_int_equal(write(p.out, "x", 1), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(p.out, 0), -1);
	assert_int_equal(ftruncate(p.in, 0), -1);
	assert_int_equal(fcntl(p.in, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
	assert_int_equal(fallocate(p.out, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p.out);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		assert_int_equal(write(fd, "x", 1), -1);
		close(fd);
	}
	pair_close(&p);
}

static void test_reader_refuses(void **state)
{
	struct ring_reader *r = NULL;
	struct pair p;

	(void)state;
	pair_open(&p, SIZE);
	assert_int_equal(ring_reader_new(&r, p.out, p.in, SIZE * 2, NULL), -EPROTO);
	assert_int_equal(ring_reader_new(&r, p.out, p.in, SIZE - 1, NULL), -EPROTO);
	assert_int_equal(ring_reader_new(&r, p.out, p.in, 0, NULL), -EPROTO);
	assert_int_equal(ring_reader_new(&r, p.in, p.in, SIZE, NULL), -EPROTO);
	assert_null(r);
	pair_close(&p);
}

/* Two sequences share the ring: that one finds room must not take the other's wake-up away. */
static void test_two_sleepers(void **state)
{
	uint8_t big[SIZE / 2] = { 0 };
	struct ring_record rec;
	const void *payload;
	struct pair p;

	(void)state;
	pair_open(&p, SIZE);
	assert_int_equal(put(p.w, 1, big, sizeof(big)), 0);
	ring_writer_publish(p.w);
	assert_true(ring_writer_want(p.w, 1000));
	assert_false(ring_writer_want(p.w, SIZE / 2));
	assert_true(ring_writer_want(p.w, 1000));
	assert_int_equal(ring_reader_next(p.r, &rec, &payload), 1);
	assert_true(ring_reader_release(p.r));
	assert_false(ring_reader_release(p.r));
	assert_true(ring_writer_want(p.w, SIZE / 2));
	pair_close(&p);
}

/* --- two threads ------------------------------------------------------------------------------ */

struct race {
	struct pair p;
	int sock[2];                    /* 0: daemon's, 1: client's */
	uint64_t sent_wakes;
	atomic_bool failed;
};

static size_t length_of(uint64_t i)
{
	return (i * 2654435761u >> 7) % 97;
}

static bool wait_wake(int sock)
{
	struct pollfd pfd = { sock, POLLIN, 0 };
	char buf[64];

	if (poll(&pfd, 1, LOST_MS) != 1)
		return false;
	while (recv(sock, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	return true;
}

/* Till the reader has taken everything, which is when it is about to fall asleep: the moment to
 * race with. */
static void wait_empty(struct race *race)
{
	for (unsigned spins = 0; ring_writer_free_bytes(race->p.w) != SIZE && !race->failed;
	     spins++)
		if (spins > 1000)
			sched_yield();
}

static void *produce(void *arg)
{
	struct race *race = arg;
	char text[128];

	for (uint64_t i = 0; i < MESSAGES && !race->failed; i++) {
		size_t n = length_of(i);

		if (i < LOCKSTEP)
			wait_empty(race);
		memset(text, (int)i, sizeof(text));
		while (put(race->p.w, i, text, n) == -ENOSPC) {
			ring_writer_publish(race->p.w);
			if (!ring_writer_want(race->p.w, RING_RECORD_BYTES(n)) &&
			    !wait_wake(race->sock[0])) {
				race->failed = true;
				return NULL;
			}
		}
		if (ring_writer_publish(race->p.w)) {
			race->sent_wakes++;
			send(race->sock[0], frame_wake, sizeof(frame_wake),
			     MSG_DONTWAIT | MSG_NOSIGNAL);
		}
	}
	return NULL;
}

static bool consume(struct race *race)
{
	struct ring_record rec;
	const uint8_t *payload;
	uint64_t i = 0;

	while (i < MESSAGES) {
		int r = ring_reader_next(race->p.r, &rec, (const void **)&payload);

		if (r < 0)
			return false;
		if (r == 0) {
			if (ring_reader_release(race->p.r))
				send(race->sock[1], frame_wake, sizeof(frame_wake),
				     MSG_DONTWAIT | MSG_NOSIGNAL);
			if (!ring_reader_sleep(race->p.r))
				continue;
			if (!wait_wake(race->sock[1]))
				return false;
			ring_reader_awake(race->p.r);
			continue;
		}
		if (rec.id != i || rec.len != length_of(i))
			return false;
		for (uint32_t k = 0; k < rec.len; k++)
			if (payload[k] != (uint8_t)i)
				return false;
		if ((i++ < LOCKSTEP || i % 7 == 0) && ring_reader_release(race->p.r))
			send(race->sock[1], frame_wake, sizeof(frame_wake),
			     MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	return true;
}

static void test_no_wake_is_lost(void **state)
{
	struct race race = { .failed = false };
	pthread_t thread;
	bool ok;

	(void)state;
	pair_open(&race.p, SIZE);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, race.sock), 0);
	assert_int_equal(pthread_create(&thread, NULL, produce, &race), 0);
	ok = consume(&race);
	race.failed |= !ok;
	pthread_join(thread, NULL);
	assert_true(ok);
	assert_false(race.failed);
	assert_true(race.sent_wakes > 0);
	close(race.sock[0]);
	close(race.sock[1]);
	pair_close(&race.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_records_come_back),
		cmocka_unit_test(test_full_and_wrapped),
		cmocka_unit_test(test_nonsense_is_final),
		cmocka_unit_test(test_seals),
		cmocka_unit_test(test_reader_refuses),
		cmocka_unit_test(test_two_sleepers),
		cmocka_unit_test(test_no_wake_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
