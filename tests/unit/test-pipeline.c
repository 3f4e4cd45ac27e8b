/* The read / compute / write pipeline: io_uring and the plain path give the same bytes from the
 * same strips, and a source that ends early, a full disk or an order to stop ends it with that. */
#include "config.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "quant/pipeline.h"

enum { SIZE = 3000001, STRIP = 40000 };

struct job {
	uint64_t at, computed, stop_after, lie;
	unsigned n_compute;
};

static int new_file(size_t n)
{
	char name[] = "/tmp/qllm-pipeline-XXXXXX";
	int fd = mkstemp(name);
	uint8_t *p = malloc(n ? n : 1);
	uint32_t x = 1;

	assert_true(fd >= 0 && p);
	unlink(name);
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
	assert_int_equal(fd_pwrite_all(fd, p, n, 0), 0);
	free(p);
	return fd;
}

/* Strips of odd lengths; each result stands twice as far, byte by byte doubled. */
static int next(void *user, struct pipeline_strip *s)
{
	struct job *j = user;
	uint64_t size = SIZE + j->lie, n = MIN(size - j->at, STRIP - j->at % 777);

	if (n == 0)
		return PIPELINE_E_END;
	*s = (struct pipeline_strip){ j->at, n, 2 * j->at, 2 * n, 1, j->at };
	j->at += n;
	return 0;
}
static int compute(void *user, const struct pipeline_strip *s, const uint8_t *in, uint8_t *out,
                   struct err *err)
{
	struct job *j = user;

	(void)err;
	assert_int_equal(s->part, j->computed);         /* in order */
	j->computed += s->src_bytes;
	j->n_compute++;
	for (uint64_t i = 0; i < s->src_bytes; i++) {
		out[2 * i] = in[i];
		out[2 * i + 1] = (uint8_t)~in[i];
	}
	return 0;
}
static int progress(void *user, uint64_t bytes_read, uint64_t bytes_written)
{
	struct job *j = user;

	(void)bytes_written;
	return j->stop_after && bytes_read > j->stop_after ? -ECANCELED : 0;
}

static int run(struct job *j, int src, int dst, enum uring_kind kind,
               struct pipeline_result *result, struct err *err)
{
	const struct pipeline p = { src, dst, STRIP, 2 * STRIP, next, compute, progress, j, kind };

	return pipeline_run(result, &p, err);
}

static bool have_ring(void)
{
	const int fd = new_file(0);
	char block[8];
	struct iovec v = { block, sizeof(block) };
	struct uring *q = NULL;
	int r = uring_new(&q, URING_RING, 2, &fd, 1, &v, 1, NULL);

	uring_free(q);
	close(fd);
	return r == 0;
}

static void test_ring_and_plain_agree(void **state)
{
	static const enum uring_kind kinds[] = { URING_PLAIN, URING_AUTO };
	uint8_t *a = malloc(SIZE), *b = malloc(2 * SIZE);
	int src = new_file(SIZE);

	(void)state;
	assert_int_equal(fd_pread_all(src, a, SIZE, 0), 0);
	assert_true(a && b);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct pipeline_result result = { 0 };
		struct job j = { 0 };
		int dst = new_file(0);

		assert_int_equal(run(&j, src, dst, kinds[k], &result, NULL), 0);
		assert_int_equal(result.bytes_read, SIZE);
		assert_int_equal(result.bytes_written, 2 * SIZE);
		assert_int_equal(result.ring, k == 1 && have_ring());
		assert_int_equal(lseek(dst, 0, SEEK_END), 2 * SIZE);
		assert_int_equal(fd_pread_all(dst, b, 2 * SIZE, 0), 0);
		for (size_t i = 0; i < SIZE; i++)
			if (b[2 * i] != a[i] || (b[2 * i + 1] ^ a[i]) != 0xff)
				fail_msg("byte %zu", i);
		close(dst);
	}
	close(src);
	free(a);
	free(b);
}

/* Reads that bypass the page cache give the same; where the file system has none, they do not
 * happen. */
static void test_cold_source(void **state)
{
	struct pipeline_result result = { 0 };
	uint8_t *a = malloc(SIZE), *b = malloc(2 * SIZE);
	int src = new_file(SIZE), dst = new_file(0), flags;
	struct job j = { 0 };

	(void)state;
	assert_int_equal(fd_pread_all(src, a, SIZE, 0), 0);
	fsync(src);
	posix_fadvise(src, 0, 0, POSIX_FADV_DONTNEED);
	flags = fcntl(src, F_GETFL);
	assert_int_equal(run(&j, src, dst, URING_AUTO, &result, NULL), 0);
	assert_int_equal(fcntl(src, F_GETFL), flags);
	assert_int_equal(result.bytes_read, SIZE);
	assert_int_equal(fd_pread_all(dst, b, 2 * SIZE, 0), 0);
	for (size_t i = 0; i < SIZE; i++)
		if (b[2 * i] != a[i])
			fail_msg("byte %zu", i);
	close(src);
	close(dst);
	free(a);
	free(b);
}

/* A run that was killed leaves O_DIRECT on; the next one finds the bytes in the page cache. */
static void test_direct_left_on(void **state)
{
	struct pipeline_result result = { 0 };
	int src = new_file(SIZE), dst = new_file(0), flags = fcntl(src, F_GETFL);
	struct job j = { 0 };
	struct err err = { 0 };

	(void)state;
	if (fcntl(src, F_SETFL, flags | O_DIRECT) < 0)
		skip();                 /* this file system has none */
	if (run(&j, src, dst, URING_AUTO, &result, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(result.bytes_read, SIZE);
	assert_int_equal(fcntl(src, F_GETFL), flags);
	close(src);
	close(dst);
}

static void test_source_ends_early(void **state)
{
	int src = new_file(SIZE), dst = new_file(0);

	(void)state;
	for (unsigned kind = URING_AUTO; kind <= URING_PLAIN; kind++) {
		struct job j = { .lie = 5 };
		struct pipeline_result result = { 0 };
		struct err err = { 0 };

		if (kind == URING_RING)
			continue;
		assert_int_equal(run(&j, src, dst, kind, &result, &err), -EIO);
		assert_non_null(strstr(err.text, "the source ends inside"));
		assert_true(j.computed <= SIZE);
	}
	close(src);
	close(dst);
}

static void test_stop(void **state)
{
	int src = new_file(SIZE), dst = new_file(0);

	(void)state;
	for (unsigned kind = URING_AUTO; kind <= URING_PLAIN; kind++) {
		struct job j = { .stop_after = SIZE / 2 };
		struct pipeline_result result = { 0 };

		if (kind == URING_RING)
			continue;
		assert_int_equal(run(&j, src, dst, kind, &result, NULL), -ECANCELED);
		assert_true(j.computed < SIZE);
	}
	close(src);
	close(dst);
}

static void test_disk_full(void **state)
{
	const struct rlimit small = { SIZE, RLIM_INFINITY };
	struct rlimit before;
	int src = new_file(SIZE);

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	for (unsigned kind = URING_AUTO; kind <= URING_PLAIN; kind++) {
		struct pipeline_result result = { 0 };
		struct err err = { 0 };
		int dst = new_file(0);
		struct job j = { 0 };

		if (kind == URING_RING)
			continue;
		setrlimit(RLIMIT_FSIZE, &small);
		assert_int_equal(run(&j, src, dst, kind, &result, &err), -EFBIG);
		setrlimit(RLIMIT_FSIZE, &before);
		assert_non_null(strstr(err.text, "writing "));
		close(dst);
	}
	close(src);
}

static void test_every_allocation_may_fail(void **state)
{
	int src = new_file(SIZE), dst = new_file(0);
	int64_t blocks = mem_live_blocks();

	(void)state;
	for (uint64_t nth = 0;; nth++) {
		struct pipeline_result result = { 0 };
		struct job j = { 0 };
		int r;

		mem_fault_arm(nth, false);
		r = run(&j, src, dst, URING_AUTO, &result, NULL);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(mem_live_blocks(), blocks);
	}
	assert_int_equal(mem_live_blocks(), blocks);
	close(src);
	close(dst);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring_and_plain_agree),
		cmocka_unit_test(test_cold_source),
		cmocka_unit_test(test_direct_left_on),
		cmocka_unit_test(test_source_ends_early),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_disk_full),
		cmocka_unit_test(test_every_allocation_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
