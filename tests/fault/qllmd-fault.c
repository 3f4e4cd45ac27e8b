/* qllmd-fault - a whole daemon in this process, one call of which fails: the first, the second, and
 * so on, until a round of requests has no call left that could fail; once alone, and once with all
 * calls after it.
 *
 * A round is import, load, show, tokenize, template, generate, unload and remove on a connection of
 * its own. Whatever fails in it, every request must end within WAIT_MS (an error, or the connection
 * is closed), the next round must be all right, and after it no block of memory and no descriptor
 * more than before may be held. The linker puts the functions below in the place of the C library's
 * (tests/fault/local.mk); calls of the test's own thread never fail. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/num.h"
#include "tests/fault/fault.h"
#include "tests/lib/inproc.h"

/* --- faults ----------------------------------------------------------------------------------- */

enum fault {
	FAULT_NONE,
	FAULT_ALLOC,
	FAULT_MMAP,
	FAULT_RECVMSG,
	FAULT_OPEN,
	FAULT_MEMFD,
	FAULT_PREAD,
	FAULT_FSTAT,
	FAULT_SENDMSG,
	FAULT_FCNTL,
	FAULT_FALLOCATE,
	FAULT_WRITE,
	FAULT_SYNC,
	FAULT_LINK,
	FAULT_COUNT
};
static const struct fault_kind faults[FAULT_COUNT] = {
	[FAULT_ALLOC] = { "allocation", ENOMEM },  [FAULT_MMAP] = { "mmap", ENOMEM },
	[FAULT_RECVMSG] = { "recvmsg", ENOBUFS },  [FAULT_OPEN] = { "open", EMFILE },
	[FAULT_MEMFD] = { "memfd_create", EMFILE }, [FAULT_PREAD] = { "pread", EIO },
	[FAULT_FSTAT] = { "fstat", EIO },          [FAULT_SENDMSG] = { "sendmsg", ENOBUFS },
	[FAULT_FCNTL] = { "fcntl", EMFILE },       [FAULT_FALLOCATE] = { "fallocate", ENOSPC },
	[FAULT_WRITE] = { "write", ENOSPC },       [FAULT_SYNC] = { "fsync", EIO },
	[FAULT_LINK] = { "linkat", ENOSPC },
};

WRAP(FAULT_ALLOC, void *, NULL, calloc, (size_t n, size_t size), (n, size))
WRAP(FAULT_ALLOC, void *, NULL, realloc, (void *p, size_t size), (p, size))
WRAP(FAULT_ALLOC, int, ENOMEM, posix_memalign, (void **p, size_t align, size_t size),
     (p, align, size))
WRAP(FAULT_MMAP, void *, MAP_FAILED, mmap,
     (void *p, size_t n, int prot, int flags, int fd, off_t at), (p, n, prot, flags, fd, at))
WRAP(FAULT_RECVMSG, ssize_t, -1, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags))
WRAP(FAULT_SENDMSG, ssize_t, -1, sendmsg, (int fd, const struct msghdr *m, int flags),
     (fd, m, flags))
WRAP(FAULT_MEMFD, int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(FAULT_PREAD, ssize_t, -1, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
WRAP(FAULT_FSTAT, int, -1, fstat, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_FALLOCATE, int, -1, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
WRAP(FAULT_WRITE, ssize_t, -1, copy_file_range,
     (int in, off_t *in_at, int out, off_t *out_at, size_t n, unsigned flags),
     (in, in_at, out, out_at, n, flags))
WRAP(FAULT_SYNC, int, -1, fsync, (int fd), (fd))
WRAP(FAULT_LINK, int, -1, linkat, (int d, const char *p, int e, const char *q, int flags),
     (d, p, e, q, flags))

/* Files only: adding to an eventfd's number cannot fail. */
ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
	struct stat st;

	if (__real_fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fault_now(FAULT_WRITE))
		return -1;
	return __real_write(fd, p, n);
}

WRAP_VARIADIC(FAULT_OPEN, open, (const char *path, int flags, ...), flags, mode_t,
              (path, flags, more))
WRAP_VARIADIC(FAULT_OPEN, openat, (int d, const char *path, int flags, ...), flags, mode_t,
              (d, path, flags, more))
WRAP_VARIADIC(FAULT_FCNTL, fcntl, (int fd, int cmd, ...), cmd, long, (fd, cmd, more))

/* --- a round of requests ---------------------------------------------------------------------- */

static int wait_ms = 5000;

static void __attribute__((format(printf, 1, 2), noreturn)) give_up(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	printf("FAILED: ");
	vprintf(format, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
	inproc_remove_files();
	_exit(1);
}

struct round {
	int sock;
	uint32_t id;
	bool good;                      /* everything was answered, and not by an Error */
	char why[300];                  /* the first failure */
};

static void ask(struct round *r, const char *name, Qllm__Frame__BodyCase body, void *message,
                int fd)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	struct frame_in f;
	int got;

	if (r->sock < 0)
		return;
	frame.body_case = body;
	frame.hello = message;          /* all arms share their place */
	got = inproc_ask(r->sock, &frame, ++r->id, &fd, fd >= 0, &f, wait_ms);
	if (got == -ETIMEDOUT)
		give_up("%s hangs", name);
	if (got < 0) {
		if (r->good)
			snprintf(r->why, sizeof(r->why), "%s: %s", name, strerror(-got));
		close(r->sock);
		r->sock = -1;
		r->good = false;
		return;
	}
	if (f.frame->body_case == QLLM__FRAME__BODY_ERROR) {
		if (r->good)
			snprintf(r->why, sizeof(r->why), "%s: %s", name,
			         f.frame->error->text);
		r->good = false;
	}
	inproc_done(&f);
}

static Qllm__Blob blob(const char *text)
{
	Qllm__Blob b = QLLM__BLOB__INIT;

	b.has_data = true;
	b.data.data = (uint8_t *)(uintptr_t)text;
	b.data.len = strlen(text);
	return b;
}

#define ASK(r, name, BODY, message, fd) \
	ask((r), (name), QLLM__FRAME__BODY_##BODY, (message), (fd))

static struct round play(const char *model)
{
	struct round r = { .sock = inproc_join(wait_ms), .id = 10, .good = true };
	Qllm__Import im = QLLM__IMPORT__INIT;
	Qllm__Load load = QLLM__LOAD__INIT;
	Qllm__Show show = QLLM__SHOW__INIT;
	Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;
	Qllm__Template template = QLLM__TEMPLATE__INIT;
	Qllm__Generate g = QLLM__GENERATE__INIT;
	Qllm__Unload unload = QLLM__UNLOAD__INIT;
	Qllm__Remove rm = QLLM__REMOVE__INIT;
	Qllm__Blob text = blob("hello there"),
		   talk = blob("[{\"role\":\"user\",\"content\":\"hello\"}]");
	char *name = (char *)(uintptr_t)model;
	int fd = open(inproc_model, O_RDONLY | O_CLOEXEC);

	if (r.sock == -ETIMEDOUT)
		give_up("a connection hangs");
	if (r.sock < 0) {
		snprintf(r.why, sizeof(r.why), "no Welcome: %s", strerror(-r.sock));
		r.good = false;
	}
	im.name = load.model = show.model = tokenize.model = template.model = g.model =
		unload.model = rm.model = name;
	im.path = inproc_model;
	tokenize.text = &text;
	template.messages = g.messages = &talk;
	show.has_what = true;
	show.what = QLLM__SHOW_WHAT__SHOW_METADATA;
	g.has_max_tokens = g.has_ignore_eos = g.ignore_eos = true;
	g.max_tokens = 3;
	ASK(&r, "import", IMPORT, &im, fd);
	ASK(&r, "load", LOAD, &load, -1);
	ASK(&r, "show", SHOW, &show, -1);
	ASK(&r, "tokenize", TOKENIZE, &tokenize, -1);
	ASK(&r, "template", TEMPLATE, &template, -1);
	ASK(&r, "generate", GENERATE, &g, -1);
	ASK(&r, "unload", UNLOAD, &unload, -1);
	ASK(&r, "remove", REMOVE, &rm, -1);
	close(fd);
	if (r.sock >= 0)
		close(r.sock);
	return r;
}

/* --- what is held ----------------------------------------------------------------------------- */

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!d)
		give_up("/proc/self/fd: %s", strerror(errno));
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool holds(int64_t blocks, unsigned fds)
{
	return mem_live_blocks() > blocks || count_fds() > fds;
}

/* Wait until nothing of a round is held. One that failed may have left its model: it goes, by a
 * client without faults. */
static void settle(int64_t blocks, unsigned fds, const char *what)
{
	double end = seconds() + wait_ms / 1000.0;

	while (holds(blocks, fds)) {
		Qllm__Unload unload = QLLM__UNLOAD__INIT;
		Qllm__Remove rm = QLLM__REMOVE__INIT;
		struct round r = { .id = 10 };

		usleep(1000);
		if (!holds(blocks, fds))
			break;
		if (seconds() > end)
			give_up("%s: %lld blocks and %u descriptors are held, %lld and %u before",
			        what, (long long)mem_live_blocks(), count_fds(),
			        (long long)blocks, fds);
		r.sock = inproc_join(wait_ms);
		if (r.sock < 0)
			give_up("%s: the daemon takes no connection afterwards", what);
		unload.model = rm.model = (char *)(uintptr_t)"faulty";
		ASK(&r, "unload", UNLOAD, &unload, -1);
		ASK(&r, "remove", REMOVE, &rm, -1);
		if (r.sock >= 0)
			close(r.sock);
		usleep(4000);
	}
}

/* All n of one kind of fault, or every step-th. Returns how many rounds had one. */
static unsigned exhaust(enum fault kind, bool all_after, long step, int64_t blocks, unsigned fds)
{
	char what[100];
	unsigned rounds = 0;

	for (long n = 0;; n += step) {
		struct round r;
		bool hit;

		snprintf(what, sizeof(what), "%s %ld%s", faults[kind].name, n,
		         all_after ? " and all after it" : "");
		fault_arm(kind, faults[kind].error, n, all_after);
		r = play("faulty");
		hit = fault_disarm();
		if (getenv("QLLM_FAULT_VERBOSE"))
			printf("%s: %s\n", what, r.good ? "all right" : r.why);
		if (!hit && !r.good)
			give_up("%s: nothing failed, but %s", what, r.why);
		settle(blocks, fds, what);
		r = play("next");
		if (!r.good)
			give_up("%s: afterwards %s", what, r.why);
		settle(blocks, fds, what);
		if (!hit)
			return rounds;
		rounds++;
	}
}

int main(void)
{
	const char *slow = getenv("QLLM_SLOW"), *mode = getenv("QLLM_CHECK");
	/* the quick run takes samples; kinds with under five calls still have one */
	const long step = mode && strcmp(mode, "quick") == 0 ? 5 : 1;
	double start = seconds();
	int64_t blocks;
	struct round r;
	unsigned fds;
	int status;

	if (slow)
		wait_ms *= atoi(slow);
	fault_spared = true;
	inproc_start(true);
	for (unsigned i = 0; i < 3; i++) {
		r = play("first");
		if (!r.good)
			give_up("without any fault: %s", r.why);
	}
	usleep(100000);
	blocks = mem_live_blocks();
	fds = count_fds();
	for (unsigned kind = FAULT_ALLOC; kind < FAULT_COUNT; kind++)
		for (unsigned all = 0; all < 2; all++) {
			unsigned n = exhaust(kind, all, step, blocks, fds);

			printf("%s%s: %u rounds, %.1f s so far\n", faults[kind].name,
			       all ? " and all after it" : "", n, seconds() - start);
			fflush(stdout);
		}
	status = inproc_stop();
	if (status != 0)
		give_up("the daemon ended with %d", status);
	return 0;
}
