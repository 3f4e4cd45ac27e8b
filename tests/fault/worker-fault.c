/* worker-fault - qllm-worker in this process, by hand, one call of which fails: the first, the
 * second, and so on, until none is left; once alone, and once with all calls after it.
 *
 * A round packs a GGUF, verifies the packed file and exports it. Each command that fails ends with
 * EXIT_FAILED and one line that says why, has left no file and holds no block and no descriptor;
 * one that succeeds has done all of it. The GGUF is as it was. Reads and writes of strips fail
 * where pipeline.c takes their results, so that io_uring's fail too; a short one is no failure. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "proto/hello.h"
#include "quant/uring.h"
#include "tests/fault/fault.h"
#include "tests/lib/ggufgen.h"

/* --- faults ----------------------------------------------------------------------------------- */

enum fault {
	FAULT_NONE,
	FAULT_ALLOC,
	FAULT_MMAP,
	FAULT_OPEN,
	FAULT_FSTAT,
	FAULT_PREAD,
	FAULT_PWRITE,
	FAULT_STRIP,
	FAULT_SHORT,
	FAULT_RING,
	FAULT_FALLOCATE,
	FAULT_SYNC,
	FAULT_RENAME,
	FAULT_FCNTL,
	FAULT_COUNT
};
static const struct fault_kind faults[FAULT_COUNT] = {
	[FAULT_ALLOC] = { "allocation", ENOMEM }, [FAULT_MMAP] = { "mmap", ENOMEM },
	[FAULT_OPEN] = { "open", EMFILE },        [FAULT_FSTAT] = { "fstat", EIO },
	[FAULT_PREAD] = { "pread", EIO },         [FAULT_PWRITE] = { "pwrite", ENOSPC },
	[FAULT_STRIP] = { "a strip", EIO },       [FAULT_SHORT] = { "half a strip", 0 },
	[FAULT_RING] = { "io_uring", ENOMEM },    [FAULT_FALLOCATE] = { "fallocate", ENOSPC },
	[FAULT_SYNC] = { "fsync", EIO },          [FAULT_RENAME] = { "rename", EACCES },
	[FAULT_FCNTL] = { "fcntl", EINVAL },
};

WRAP(FAULT_ALLOC, void *, NULL, calloc, (size_t n, size_t size), (n, size))
WRAP(FAULT_ALLOC, void *, NULL, realloc, (void *p, size_t size), (p, size))
WRAP(FAULT_ALLOC, int, ENOMEM, posix_memalign, (void **p, size_t align, size_t size),
     (p, align, size))
WRAP(FAULT_MMAP, void *, MAP_FAILED, mmap,
     (void *p, size_t n, int prot, int flags, int fd, off_t at), (p, n, prot, flags, fd, at))
WRAP(FAULT_FSTAT, int, -1, fstat, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_PREAD, ssize_t, -1, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
WRAP(FAULT_PWRITE, ssize_t, -1, pwrite, (int fd, const void *p, size_t n, off_t at),
     (fd, p, n, at))
WRAP(FAULT_RING, int, -ENOMEM, io_uring_queue_init_params,
     (unsigned n, struct io_uring *u, struct io_uring_params *p), (n, u, p))
WRAP(FAULT_FALLOCATE, int, -1, fallocate, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n))
WRAP(FAULT_SYNC, int, -1, fsync, (int fd), (fd))
WRAP(FAULT_RENAME, int, -1, rename, (const char *from, const char *to), (from, to))

int __real_uring_wait(struct uring *q, uint64_t *ret_tag, int64_t *ret_result);
int __wrap_uring_wait(struct uring *q, uint64_t *ret_tag, int64_t *ret_result);
int __wrap_uring_wait(struct uring *q, uint64_t *ret_tag, int64_t *ret_result)
{
	int r = __real_uring_wait(q, ret_tag, ret_result);

	if (r == 0 && fault_now(FAULT_STRIP))
		*ret_result = -EIO;
	else if (r == 0 && *ret_result > 1 && fault_now(FAULT_SHORT))
		*ret_result /= 2;
	return r;
}

WRAP_VARIADIC(FAULT_OPEN, open, (const char *path, int flags, ...), flags, mode_t,
              (path, flags, more))
WRAP_VARIADIC(FAULT_FCNTL, fcntl, (int fd, int cmd, ...), cmd, long, (fd, cmd, more))

/* --- files ------------------------------------------------------------------------------------ */

static char dir[64], gguf[80], packed[80], again[80];
static int said_fd;                     /* stdout and stderr of the commands */
static int true_stdout;

static void remove_files(void)
{
	char part[96];

	for (unsigned i = 0; i < 3; i++) {
		const char *name = i == 0 ? gguf : i == 1 ? packed : again;

		snprintf(part, sizeof(part), "%s.part", name);
		unlink(part);
		unlink(name);
	}
	rmdir(dir);
}

static void __attribute__((format(printf, 1, 2), noreturn)) give_up(const char *format, ...)
{
	va_list ap;

	fault_disarm();
	va_start(ap, format);
	dprintf(true_stdout, "FAILED: ");
	vdprintf(true_stdout, format, ap);
	dprintf(true_stdout, "\n");
	va_end(ap);
	remove_files();
	_exit(1);
}

static void must(bool good, const char *what)
{
	if (!good)
		give_up("%s: %s", what, strerror(errno));
}

static uint8_t *bytes_of(const char *path, size_t *ret_n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *p;

	must(fd >= 0 && fstat(fd, &st) == 0, path);
	p = malloc((size_t)st.st_size + 1);
	must(p && fd_pread_all(fd, p, (size_t)st.st_size, 0) == 0, path);
	close(fd);
	*ret_n = (size_t)st.st_size;
	return p;
}

/* A model, with bytes between and behind its tensors. */
static void make_gguf(void)
{
	const struct ggufgen_tiny tiny = { .type = QTYPE_Q4_1, .embd_type = QTYPE_Q8_0, .seed = 3 };
	struct ggufgen *g = ggufgen_tiny(&tiny);
	size_t n;
	uint8_t *p;
	int fd;

	g->gap = 96;
	g->trailing = 333;
	p = ggufgen_bytes(g, &n);
	fd = open(gguf, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(fd >= 0 && fd_pwrite_all(fd, p, n, 0) == 0, gguf);
	close(fd);
	free(p);
	ggufgen_free(g);
}

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	must(d, "/proc/self/fd");
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* --- a round ---------------------------------------------------------------------------------- */

int qllm_worker_main(int argc, char **argv);

/* One command; the fault is armed while it runs. to: the file it makes, or NULL. True: it is
 * done. */
static bool command(const char *name, const char *from, const char *to, bool plain,
                    const char *what)
{
	const char *words[] = { "qllm-worker", name, from, to, plain ? "--plain" : NULL, NULL };
	char **argv = (char **)(uintptr_t)words;
	int argc = 3 + (to != NULL) + (to && plain), status;
	const int64_t blocks = mem_live_blocks();
	const unsigned fds = count_fds();
	char said[2048] = "", part[96];
	ssize_t n;

	must(ftruncate(said_fd, 0) == 0 && lseek(said_fd, 0, SEEK_SET) == 0, "output");
	optind = 0;
	fault_spared = false;
	status = qllm_worker_main(argc, argv);
	fault_spared = true;
	fflush(stdout);
	n = pread(said_fd, said, sizeof(said) - 1, 0);
	said[MAX(n, (ssize_t)0)] = 0;
	if (getenv("QLLM_FAULT_VERBOSE"))
		dprintf(true_stdout, "%s: %s: %d %s", what, name, status, said);
	if (status != EXIT_OK && status != EXIT_FAILED)
		give_up("%s: %s ends with %d", what, name, status);
	if (n <= 1 || strchr(said, '\n') != said + n - 1)
		give_up("%s: %s does not say one line: '%s'", what, name, said);
	if (status == EXIT_FAILED &&
	    (strncmp(said, "qllm-worker: ", 13) != 0 || n < (ssize_t)strlen(from) + 20))
		give_up("%s: %s does not say why: '%s'", what, name, said);
	if (to && (status == EXIT_OK) != (access(to, F_OK) == 0))
		give_up("%s: %s ends with %d, but its file %s", what, name, status,
		        status == EXIT_OK ? "is not there" : "is there");
	snprintf(part, sizeof(part), "%s.part", to ? to : from);
	if (access(part, F_OK) == 0)
		give_up("%s: %s is left", what, part);
	if (mem_live_blocks() != blocks || count_fds() != fds)
		give_up("%s: %s holds %lld blocks and %d descriptors more", what, name,
		        (long long)(mem_live_blocks() - blocks), (int)(count_fds() - fds));
	return status == EXIT_OK;
}

/* True: all of it is done. */
static bool play(bool plain, const char *what)
{
	size_t n, m;
	uint8_t *a = bytes_of(gguf, &n), *b;
	bool good = command("pack", gguf, packed, plain, what);

	good = good && command("verify", packed, NULL, plain, what);
	/* a packed file that is there is right, whatever verifying it met */
	if (access(packed, F_OK) == 0 && command("export", packed, again, plain, what)) {
		b = bytes_of(again, &m);
		if (n != m || memcmp(a, b, n) != 0)
			give_up("%s: it exports other bytes", what);
		free(b);
	} else {
		good = false;
	}
	b = bytes_of(gguf, &m);
	if (n != m || memcmp(a, b, n) != 0)
		give_up("%s: the GGUF has changed", what);
	free(a);
	free(b);
	unlink(packed);
	unlink(again);
	return good;
}

/* All n of one kind, or every step-th. Returns how many rounds had one. */
static unsigned exhaust(enum fault kind, bool all_after, bool plain, long step)
{
	/* the rest of the strip is fetched; the plain path is there for it */
	const bool harmless = kind == FAULT_SHORT || kind == FAULT_RING;
	char what[100];
	unsigned rounds = 0;

	for (long n = 0;; n += step) {
		bool hit, good;

		snprintf(what, sizeof(what), "%s %ld%s%s", faults[kind].name, n,
		         all_after ? " and all after it" : "", plain ? ", plain" : "");
		fault_arm(kind, faults[kind].error, n, all_after);
		good = play(plain, what);
		hit = fault_disarm();
		if (!good && !hit)
			give_up("%s: nothing failed, but it is not done", what);
		if (!good && harmless)
			give_up("%s: it is not done", what);
		if ((n / step % 8 == 0 || !hit) && !play(plain, "afterwards"))
			give_up("%s: afterwards it is not done", what);
		if (!hit)
			return rounds;
		rounds++;
	}
}

int main(void)
{
	const char *mode = getenv("QLLM_CHECK");
	const long sample = !mode                        ? 5
	                    : strcmp(mode, "quick") == 0 ? 19
	                    : strcmp(mode, "long") == 0  ? 1
	                                                 : 5;

	fault_spared = true;
	true_stdout = dup(STDOUT_FILENO);
	said_fd = memfd_create("said", MFD_CLOEXEC);
	snprintf(dir, sizeof(dir), "%s/qllm-fault-XXXXXX",
	         access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	must(said_fd >= 0 && mkdtemp(dir), dir);
	snprintf(gguf, sizeof(gguf), "%s/a.gguf", dir);
	snprintf(packed, sizeof(packed), "%s/a.pack", dir);
	snprintf(again, sizeof(again), "%s/b.gguf", dir);
	make_gguf();
	must(dup2(said_fd, STDOUT_FILENO) >= 0 && dup2(said_fd, STDERR_FILENO) >= 0, "dup2");
	for (unsigned i = 0; i < 3; i++)
		if (!play(i > 0, "without any fault"))
			give_up("without any fault it is not done");
	for (unsigned kind = FAULT_ALLOC; kind < FAULT_COUNT; kind++)
		for (unsigned way = 0; way < 4; way++) {
			/* of these there are hundreds, and the plain path's are others */
			const bool many = kind == FAULT_ALLOC || kind == FAULT_STRIP ||
			                  kind == FAULT_SHORT;
			unsigned n;

			if (way & 2 && !many)
				continue;
			n = exhaust(kind, way & 1, way & 2, many ? sample : 1);

			dprintf(true_stdout, "%s%s%s: %u rounds\n", faults[kind].name,
			        way & 1 ? " and all after it" : "", way & 2 ? ", plain" : "", n);
		}
	remove_files();
	return 0;
}
