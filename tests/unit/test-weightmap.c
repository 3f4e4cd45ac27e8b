/* The weight mapping: contents, references, read-ahead, and above all files that shrink while they
 * are in use. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "format/weightmap.h"

enum { PAGES = 64 };
static size_t page;

/* A memfd of whole pages plus `extra` bytes, none of them zero. */
static int make_file(size_t extra)
{
	size_t n = PAGES * page + extra;
	uint8_t *p = malloc(n);
	int fd = memfd_create("weights", MFD_CLOEXEC);

	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(i % 251 + 1);
	if (fd < 0 || write(fd, p, n) != (ssize_t)n)
		abort();
	free(p);
	return fd;
}
/* Pages under it are replaced while it reads, which is what is tested. */
static __attribute__((no_sanitize("thread"))) unsigned sum(const uint8_t *p, size_t n)
{
	unsigned s = 0;

	for (size_t i = 0; i < n; i++)
		s += ((const volatile uint8_t *)p)[i];
	return s;
}

static sigjmp_buf escape;
static volatile sig_atomic_t foreign_faults;
static void on_foreign(int sig)
{
	(void)sig;
	foreign_faults++;
	siglongjmp(escape, 1);
}
static const uint8_t *foreign_map(void)
{
	int fd = make_file(0);
	const uint8_t *p = mmap(NULL, PAGES * page, PROT_READ, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED || ftruncate(fd, 0) < 0)
		abort();
	close(fd);
	return p;
}

/* cmocka puts its own handlers over the guard's before every test: main() takes the guard's down,
 * tests set it again. */
static struct sigaction guard;
static void guard_on(void)
{
	assert_int_equal(sigaction(SIGBUS, &guard, NULL), 0);
}
/* In a child whose disposition was the default one when the guard came: its own fault is healed,
 * the foreign kills. */
static int status_by_default;
static void fault_by_default(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct weightmap *w;
		int fd = make_file(0);

		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
		signal(SIGBUS, SIG_DFL);        /* sanitizers have a handler of their own */
		if (weightmap_open(&w, fd, "x", NULL) < 0)
			_exit(1);
		if (ftruncate(fd, 0) < 0 || sum(weightmap_data(w), page) != 0 ||
		    !weightmap_poisoned(w))
			_exit(2);
		_exit(sum(foreign_map(), page) ? 3 : 4);
	}
	if (pid < 0 || waitpid(pid, &status_by_default, 0) != pid)
		abort();
}
static void test_foreign_fault_still_kills(void **state)
{
	(void)state;
	assert_true(WIFSIGNALED(status_by_default));
	assert_int_equal(WTERMSIG(status_by_default), SIGBUS);
}
static void test_foreign_fault_is_passed_on(void **state)
{
	struct weightmap *w;
	int fd = make_file(0);

	(void)state;
	guard_on();
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
	if (sigsetjmp(escape, 1) == 0)
		sum(foreign_map(), 1);
	assert_int_equal(foreign_faults, 1);
	assert_false(weightmap_poisoned(w));
	weightmap_unref(w);
	close(fd);
}

static void test_maps_and_counts_references(void **state)
{
	int64_t blocks = mem_live_blocks();
	struct weightmap *w;
	unsigned char in_core;
	void *base;
	int fd = make_file(100);

	(void)state;
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
	close(fd);                              /* the fd is not needed any more */
	assert_int_equal(weightmap_size(w), PAGES * page + 100);
	assert_int_equal(weightmap_data(w)[page], page % 251 + 1);
	assert_ptr_equal(weightmap_ref(w), w);
	assert_null(weightmap_unref(w));
	assert_int_equal(weightmap_data(w)[0], 1);
	assert_false(weightmap_poisoned(w));
	base = (void *)(uintptr_t)weightmap_data(w);
	assert_int_equal(mincore(base, page, &in_core), 0);
	assert_null(weightmap_unref(w));
	assert_int_equal(mincore(base, page, &in_core), -1);   /* ENOMEM: nothing is mapped there */
	assert_null(weightmap_unref(NULL));
	assert_int_equal(mem_live_blocks(), blocks);
}

static void test_refuses_what_is_no_file(void **state)
{
	struct weightmap *w = NULL;
	struct err err = { 0 };
	int p[2], fd = memfd_create("empty", MFD_CLOEXEC);

	(void)state;
	assert_int_equal(weightmap_open(&w, fd, "empty", &err), -EINVAL);
	assert_non_null(strstr(err.text, "empty"));
	close(fd);
	err_clear(&err);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(weightmap_open(&w, p[0], "pipe", &err), -EINVAL);
	assert_non_null(strstr(err.text, "no regular file"));
	close(p[0]);
	close(p[1]);
	assert_int_equal(weightmap_open(&w, -1, "none", NULL), -EBADF);
	fd = open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (fd >= 0) {
		assert_int_equal(write(fd, "x", 1), 1);
		assert_int_equal(weightmap_open(&w, fd, "write-only", NULL), -EACCES);
		close(fd);
	}
	fd = make_file(0);
	mem_fault_arm(0, false);
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), -ENOMEM);
	assert_true(mem_fault_fired());
	close(fd);
	assert_null(w);
}

static void test_truncation_poisons_one_map(void **state)
{
	struct weightmap *w, *other;
	int fd = make_file(100), fd_other = make_file(0);
	unsigned whole;

	(void)state;
	guard_on();
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
	assert_int_equal(weightmap_open(&other, fd_other, "y", NULL), 0);
	whole = sum(weightmap_data(other), PAGES * page);
	assert_int_equal(ftruncate(fd, (off_t)(10 * page)), 0);
	assert_true(sum(weightmap_data(w), 10 * page) > 0);
	assert_false(weightmap_poisoned(w));    /* nothing beyond the cut was touched */
	assert_int_equal(sum(weightmap_data(w) + 20 * page, page), 0);
	assert_true(weightmap_poisoned(w));
	/* the tail page that is not whole */
	assert_int_equal(sum(weightmap_data(w) + PAGES * page, 100), 0);
	/* a second fault, below the first */
	assert_int_equal(sum(weightmap_data(w) + 11 * page, page), 0);
	assert_true(sum(weightmap_data(w), 10 * page) > 0);
	assert_false(weightmap_poisoned(other));
	assert_int_equal(sum(weightmap_data(other), PAGES * page), whole);
	weightmap_unref(w);
	weightmap_unref(other);
	close(fd);
	/* The slot is used again, clean. */
	assert_int_equal(weightmap_open(&w, fd_other, "y", NULL), 0);
	assert_false(weightmap_poisoned(w));
	weightmap_unref(w);
	close(fd_other);
}

static void *reader(void *arg)
{
	struct weightmap *w = arg;
	unsigned s = 0;

	while (!weightmap_poisoned(w))
		s += sum(weightmap_data(w), PAGES * page);
	return (void *)(uintptr_t)(s + sum(weightmap_data(w), PAGES * page) > 0);
}
static void test_threads_survive_truncation(void **state)
{
	struct weightmap *w;
	pthread_t thread[4];
	int fd = make_file(0);
	void *alive;

	(void)state;
	guard_on();
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, reader, w), 0);
	usleep(2000);
	assert_int_equal(ftruncate(fd, (off_t)page), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(thread[i], &alive), 0);
		assert_non_null(alive);
	}
	weightmap_unref(w);
	close(fd);
}

static void test_populate_and_resident(void **state)
{
	struct weightmap *w;
	atomic_bool cancel = false;
	int fd = make_file(100);

	(void)state;
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
	assert_int_equal(weightmap_populate(w, 5, PAGES * page, &cancel), 0);
	assert_int_equal(weightmap_populate(w, 0, weightmap_size(w), NULL), 0);
	assert_int_equal(weightmap_resident(w), weightmap_size(w));
	assert_int_equal(weightmap_populate(w, 0, weightmap_size(w) + 1, NULL), -EFAULT);
	assert_int_equal(weightmap_populate(w, UINT64_MAX, 2, NULL), -EFAULT);
	cancel = true;
	assert_int_equal(weightmap_populate(w, 0, weightmap_size(w), &cancel), -ECANCELED);
	assert_false(weightmap_poisoned(w));
	assert_int_equal(ftruncate(fd, (off_t)(3 * page)), 0);
	assert_int_equal(weightmap_populate(w, 0, 3 * page, NULL), 0);
	assert_int_equal(weightmap_populate(w, 0, weightmap_size(w), NULL), -EFAULT);
	assert_true(weightmap_poisoned(w));
	weightmap_unref(w);
	close(fd);
}

/* What raises no signal: a look at the file tells. */
static void test_writes_and_holes_poison(void **state)
{
	enum { WRITE, PUNCH, LONGER, N };

	(void)state;
	for (int how = 0; how < N; how++) {
		struct weightmap *w;
		int fd = make_file(0), r = 0;

		assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
		assert_false(weightmap_recheck(w));
		assert_false(weightmap_unlinked(w));    /* it never had a name */
		usleep(20000);                          /* the clock of files is coarse */
		if (how == WRITE)
			r = pwrite(fd, "?", 1, 9) - 1;
		else if (how == PUNCH)
			r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page,
			              (off_t)page);
		else
			r = ftruncate(fd, (off_t)((PAGES + 1) * page));
		assert_int_equal(r, 0);
		assert_false(weightmap_poisoned(w));
		assert_true(weightmap_recheck(w));
		assert_true(weightmap_poisoned(w));
		weightmap_unref(w);
		close(fd);
	}
}

static void test_replaced_file_stays_whole(void **state)
{
	char path[] = "/tmp/qllm-weightmap-XXXXXX", other[] = "/tmp/qllm-weightmap-XXXXXX";
	int fd = mkstemp(path), new = mkstemp(other);
	struct weightmap *w;

	(void)state;
	assert_int_equal(write(fd, "weights", 7), 7);
	assert_int_equal(weightmap_open(&w, fd, "x", NULL), 0);
	assert_false(weightmap_unlinked(w));
	assert_int_equal(rename(other, path), 0);
	assert_true(weightmap_unlinked(w));
	assert_false(weightmap_recheck(w));
	assert_memory_equal(weightmap_data(w), "weights", 7);
	weightmap_unref(w);
	unlink(path);
	close(fd);
	close(new);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_foreign_fault_still_kills),
		cmocka_unit_test(test_foreign_fault_is_passed_on),
		cmocka_unit_test(test_maps_and_counts_references),
		cmocka_unit_test(test_refuses_what_is_no_file),
		cmocka_unit_test(test_truncation_poisons_one_map),
		cmocka_unit_test(test_threads_survive_truncation),
		cmocka_unit_test(test_populate_and_resident),
		cmocka_unit_test(test_writes_and_holes_poison),
		cmocka_unit_test(test_replaced_file_stays_whole),
	};

	struct sigaction sa = { .sa_handler = on_foreign };
	struct weightmap *w;
	int fd;

	page = (size_t)sysconf(_SC_PAGESIZE);
	fault_by_default();
	fd = make_file(0);
	if (sigaction(SIGBUS, &sa, NULL) < 0 || weightmap_open(&w, fd, "x", NULL) < 0 ||
	    sigaction(SIGBUS, NULL, &guard) < 0)
		return 1;
	weightmap_unref(w);
	close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
