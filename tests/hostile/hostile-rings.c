/* The cases of shared memory and of pace: R1 to R12. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/num.h"
#include "tests/hostile/hostile.h"

enum { PAGE = 4096 };

static struct ring_in_page *map_in(const struct client *c)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, c->in_fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* Runs a request of n tokens with 20 log-probabilities each, which fill a ring soon. */
static bool start(struct client *c, uint64_t ring, uint32_t n, const char *what)
{
	struct right r;

	if (!join(c, ring, what))
		return false;
	right_generate(&r, n);
	r.s.has_logprobs = true;
	r.s.logprobs = 20;
	say(c, &r.frame, NULL, 0);
	return true;
}

static void random_indices(void)
{
	struct client c;
	struct ring_in_page *in;

	if (!start(&c, RING_BYTES_MIN, 200, "indices at random"))
		return;
	in = map_in(&c);
	for (unsigned i = 0; in && i < 300; i++) {
		atomic_store(&in->read, rnd() % 3 ? rnd() % PAGE * 16 : rnd());
		atomic_store(&in->waiting, rnd());
		pause_ms(1);
	}
	if (in)
		munmap(in, PAGE);
	settle(&c, "indices at random", LATER | CLOSED | FAULTED | SILENT | SERVED);
}

static void too_far(void)
{
	static const uint64_t ends[] = { UINT64_MAX - 15, 1ull << 63, RING_BYTES_MIN * 2 };

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		struct client c;
		struct ring_in_page *in;

		if (!start(&c, RING_BYTES_MIN, 100, "an index past what was written"))
			continue;
		in = map_in(&c);
		if (in) {
			atomic_store(&in->read, ends[i]);
			munmap(in, PAGE);
		}
		settle(&c, "an index past what was written", LATER | FAULTED);
	}
}

/* Blobs that say more than there is. */
static void sizes(void)
{
	static const struct {
		const char *what;
		uint64_t size;
		uint32_t fd;
	} rows[] = { { "a size of 2^64 - 1", UINT64_MAX, 0 },
		     { "a size of 2^63", 1ull << 63, 0 },
		     { "a byte more than there is", 4097, 0 },
		     { "descriptor 2^32 - 1", 4096, UINT32_MAX },
		     { "descriptor 1 of one", 4096, 1 } };

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		static const char text[4096];
		Qllm__Frame frame = QLLM__FRAME__INIT;
		Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;
		Qllm__Blob blob = QLLM__BLOB__INIT;
		struct client c;
		int fd = fd_memfd_from("text", text, sizeof(text));

		if (fd >= 0 && join(&c, RING_BYTES_MIN, rows[i].what)) {
			frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
			frame.tokenize = &tokenize;
			tokenize.model = (char *)(uintptr_t)model_name;
			tokenize.text = &blob;
			blob.has_size = blob.has_fd = true;
			blob.size = rows[i].size;
			blob.fd = rows[i].fd;
			say(&c, &frame, &fd, 1);
			settle(&c, rows[i].what, REFUSED | FAULTED);
		}
		if (fd >= 0)
			close(fd);
	}
}

static atomic_bool scribble;
static void *scribbler(void *user)
{
	_Atomic uint64_t *at = user;

	for (uint64_t i = 0; atomic_load(&scribble); i++)
		atomic_store(at, i & 1 ? UINT64_MAX : i * 16 % RING_BYTES_MIN);
	return NULL;
}

/* Something else at each look: the text of a memfd that may still be written, and the index. */
static void double_fetch(void)
{
	struct ring_in_page *in;
	pthread_t thread;
	struct client c;
	char *text;
	int fd = fd_memfd("changing", PAGE);

	if (fd < 0)
		return;
	text = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
	if (text != MAP_FAILED && join(&c, RING_BYTES_MIN, "text that changes")) {
		Qllm__Frame frame = QLLM__FRAME__INIT;
		Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;
		Qllm__Blob blob = QLLM__BLOB__INIT;

		atomic_store(&scribble, true);
		if (pthread_create(&thread, NULL, scribbler, text) == 0) {
			frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
			frame.tokenize = &tokenize;
			tokenize.model = (char *)(uintptr_t)model_name;
			tokenize.text = &blob;
			blob.has_size = blob.has_fd = true;
			blob.size = PAGE;
			say(&c, &frame, &fd, 1);
			note("text that changes", await(&c, 5000), REFUSED);
			atomic_store(&scribble, false);
			pthread_join(thread, NULL);
		}
		leave(&c);
	}
	if (text != MAP_FAILED)
		munmap(text, PAGE);
	close(fd);
	if (!start(&c, RING_BYTES_MIN, 100, "an index that changes"))
		return;
	in = map_in(&c);
	atomic_store(&scribble, true);
	if (in && pthread_create(&thread, NULL, scribbler, &in->read) == 0) {
		pause_ms(100);
		atomic_store(&scribble, false);
		pthread_join(thread, NULL);
	}
	if (in)
		munmap(in, PAGE);
	settle(&c, "an index that changes", LATER | CLOSED | FAULTED | SILENT | SERVED);
}

/* What must fail here, in the client: 0 = it failed with EPERM. */
static void local(const char *what, bool refused)
{
	struct got got = { refused ? REFUSED : SERVED, 0, "EPERM" };

	note(what, got, REFUSED);
}

static void resizing(void)
{
	struct client c;
	int hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	if (!start(&c, RING_BYTES_MIN, 60, "resizing"))
		return;
	local("ftruncate of the out ring", ftruncate(c.out_fd, 0) < 0);
	local("growing the out ring", ftruncate(c.out_fd, 1 << 30) < 0);
	local("ftruncate of the in page", ftruncate(c.in_fd, 0) < 0);
	local("a hole in the out ring", fallocate(c.out_fd, hole, 0, PAGE) < 0);
	local("another seal on the out ring", fcntl(c.out_fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
	local("another seal on the in page", fcntl(c.in_fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
	/* nothing forbids this one: it is all zeros then */
	(void)!fallocate(c.in_fd, hole, 0, PAGE);
	settle(&c, "a hole in the in page", LATER | CLOSED | FAULTED | SERVED | SILENT);
}

static void writing(void)
{
	char path[64];
	struct client c;
	void *p;
	int again;

	if (!join(&c, RING_BYTES_MIN, "writing"))
		return;
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, c.out_fd, 0);
	local("the out ring mapped for writing", p == MAP_FAILED);
	local("write to the out ring", pwrite(c.out_fd, "x", 1, 0) < 0);
	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, c.out_fd, 0);
	local("mprotect of the out ring",
	      p != MAP_FAILED && mprotect(p, PAGE, PROT_READ | PROT_WRITE) < 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", c.out_fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	p = again < 0 ? MAP_FAILED
	              : mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
	local("the out ring opened again", p == MAP_FAILED);
	if (again >= 0)
		close(again);
	leave(&c);
}

static void never_reads(void)
{
	struct client c;

	if (!start(&c, RING_BYTES_MIN, 2000, "never reads"))
		return;
	pause_ms(1500);
	note("never reads", await(&c, 1), SILENT | SERVED | REFUSED);
	leave(&c);
}

static void reads_late(void)
{
	struct ring_reader *ring = NULL;
	struct ring_record rec;
	const void *payload;
	struct client c;

	if (!start(&c, RING_BYTES_MIN, 2000, "a token a second"))
		return;
	if (ring_reader_new(&ring, c.out_fd, c.in_fd, c.ring_bytes, NULL) == 0)
		for (unsigned i = 0; i < 3; i++) {
			pause_ms(1000);
			if (ring_reader_next(ring, &rec, &payload) == 1 &&
			    ring_reader_release(ring))
				throw_bytes(c.sock, frame_wake, sizeof(frame_wake), NULL, 0);
		}
	ring_reader_free(ring);
	note("a token a second", await(&c, 1), SILENT | SERVED | REFUSED);
	leave(&c);
}

/* No eventfd is shared: Wake is what can be sent without end. */
static void wakes(void)
{
	struct client c;

	if (!start(&c, RING_BYTES_MIN, 20, "wakes without end"))
		return;
	for (unsigned i = 0; i < 20000; i++)
		throw_bytes(c.sock, frame_wake, sizeof(frame_wake), NULL, 0);
	settle(&c, "20,000 wakes", LATER | SERVED | SILENT | CLOSED | FAULTED);
}

static void stopped_and_killed(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct client c;

		/* its steps are not counted: it will not live to tell */
		if (start(&c, RING_BYTES_MIN, 2000, "stopped"))
			for (;;)
				throw_bytes(c.sock, frame_wake, 1, NULL, 0), pause_ms(1);
		_exit(0);
	}
	if (pid < 0)
		return;
	pause_ms(300);
	kill(pid, SIGSTOP);
	pause_ms(500);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void twice(void)
{
	static const char *const what[] = { "its own out ring as text", "its own in page as text" };

	for (unsigned i = 0; i < 2; i++) {
		Qllm__Frame frame = QLLM__FRAME__INIT;
		Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;
		Qllm__Blob blob = QLLM__BLOB__INIT;
		struct client c;

		if (!join(&c, RING_BYTES_MIN, what[i]))
			continue;
		frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
		frame.tokenize = &tokenize;
		tokenize.model = (char *)(uintptr_t)model_name;
		tokenize.text = &blob;
		blob.has_size = blob.has_fd = true;
		blob.size = i == 0 ? RING_BYTES_MIN + PAGE : PAGE;
		say(&c, &frame, i == 0 ? &c.out_fd : &c.in_fd, 1);
		settle(&c, what[i], REFUSED);
	}
}

static void connects(void)
{
	double start = now_ms(), end = start + 1000;
	struct got got = { .answer = SERVED };
	int socks[50];
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(socks); i++)
		socks[i] = -1;
	while (n < 1000 && now_ms() < end) {
		size_t at = n++ % ARRAY_SIZE(socks);

		if (socks[at] >= 0)
			close(socks[at]);
		socks[at] = dial();
		if (start + n > now_ms())
			pause_ms(1);
	}
	for (size_t i = 0; i < ARRAY_SIZE(socks); i++)
		if (socks[i] >= 0)
			close(socks[i]);
	snprintf(got.text, sizeof(got.text), "%u in %.0f ms", n, now_ms() - start);
	note("1,000 connects a second without Hello", got, SERVED);
}

const struct hostile_case ring_cases[] = {
	{ "R1", "random indices", random_indices },
	{ "R2", "indices too far apart", too_far },
	{ "R3", "sizes that lie", sizes },
	{ "R4", "double fetch", double_fetch },
	{ "R5", "resizing, punching, sealing", resizing },
	{ "R6", "writing the out ring", writing },
	{ "R7", "never reads", never_reads },
	{ "R8", "reads late", reads_late },
	{ "R9", "wakes without end", wakes },
	{ "R10", "stopped, then killed", stopped_and_killed },
	{ "R11", "the daemon's own memory", twice },
	{ "R12", "1,000 connects a second", connects },
	{ NULL },
};
