/* store-fault - a packed file takes the place of a model's GGUF, or of an outdated packed file, and
 * one call of it fails: the first, the second, and so on; once alone, and once with all after it.
 *
 * Whatever fails, the store tells of one model before and after it is opened anew, as after a
 * crash, whose file is there, is of the kind that is told, and holds what was imported. Then the
 * switch is made again, without a fault, and is done. No block and no descriptor is held. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/mem.h"
#include "daemon/store.h"
#include "format/packfile.h"
#include "quant/packer.h"
#include "tests/fault/fault.h"
#include "tests/lib/ggufgen.h"
#include "tests/lib/packold.h"

/* --- faults ----------------------------------------------------------------------------------- */

enum fault {
	FAULT_NONE,
	FAULT_ALLOC,
	FAULT_OPEN,
	FAULT_PREAD,
	FAULT_FSTAT,
	FAULT_WRITE,
	FAULT_SYNC,
	FAULT_LINK,
	FAULT_RENAME,
	FAULT_MODE,
	FAULT_COUNT
};
static const struct fault_kind faults[FAULT_COUNT] = {
	[FAULT_ALLOC] = { "allocation", ENOMEM }, [FAULT_OPEN] = { "openat", EMFILE },
	[FAULT_PREAD] = { "pread", EIO },         [FAULT_FSTAT] = { "fstat", EIO },
	[FAULT_WRITE] = { "write", ENOSPC },      [FAULT_SYNC] = { "fsync", EIO },
	[FAULT_LINK] = { "linkat", ENOSPC },      [FAULT_RENAME] = { "renameat", ENOSPC },
	[FAULT_MODE] = { "fchmod", EPERM },
};

WRAP(FAULT_ALLOC, void *, NULL, calloc, (size_t n, size_t size), (n, size))
WRAP(FAULT_ALLOC, void *, NULL, realloc, (void *p, size_t size), (p, size))
WRAP(FAULT_PREAD, ssize_t, -1, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
WRAP(FAULT_FSTAT, int, -1, fstat, (int fd, struct stat *st), (fd, st))
WRAP(FAULT_WRITE, ssize_t, -1, write, (int fd, const void *p, size_t n), (fd, p, n))
WRAP(FAULT_SYNC, int, -1, fsync, (int fd), (fd))
WRAP(FAULT_LINK, int, -1, linkat, (int d, const char *p, int e, const char *q, int flags),
     (d, p, e, q, flags))
WRAP(FAULT_RENAME, int, -1, renameat, (int d, const char *p, int e, const char *q), (d, p, e, q))
WRAP(FAULT_MODE, int, -1, fchmod, (int fd, mode_t mode), (fd, mode))

WRAP_VARIADIC(FAULT_OPEN, openat, (int d, const char *path, int flags, ...), flags, mode_t,
              (d, path, flags, more))

/* --- the store -------------------------------------------------------------------------------- */

static char state[64];
static int gguf, old;                   /* what is imported: one of these */
static char checksum[SUM_TEXT_MAX];
static const atomic_bool never = false;

static void remove_state(void)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s", state);
	if (system(command) != 0)
		printf("%s stays\n", state);
}

static void __attribute__((format(printf, 1, 2), noreturn)) give_up(const char *format, ...)
{
	va_list ap;

	fault_disarm();
	va_start(ap, format);
	printf("FAILED: ");
	vprintf(format, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
	remove_state();
	_exit(1);
}

static void no_progress(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                        uint64_t bytes_read)
{
	(void)user;
	(void)phase;
	(void)done;
	(void)total;
	(void)bytes_read;
}
static void no_line(void *user, const char *text)
{
	(void)user;
	(void)text;
}
static const struct job_io io = { &never, no_progress, no_line, NULL };

static int go_on(void *user, uint64_t done, uint64_t total)
{
	(void)user;
	(void)done;
	(void)total;
	return 0;
}

static int take_one(void *user, struct store_meta *meta)
{
	struct store_meta *found = user;

	if (found->name)
		give_up("the store has two models");
	*found = *meta;
	return 0;
}

/* The model's file is what the store says, and holds what was imported. */
static void check(struct store *s, const struct store_meta *meta, const char *what)
{
	struct packer_result result;
	struct err err = { 0 };
	bool packed = false;
	int fd = store_open_model(s, meta, &err);

	if (fd < 0)
		give_up("%s: %s", what, err.text);
	if (packfile_is(&packed, fd, "m", &err) < 0 || packed != meta->packed)
		give_up("%s: the file is %spacked, the store says otherwise", what,
		        packed ? "" : "not ");
	if (packer_export(&result, fd, -1, "m", URING_PLAIN, &io, &err) < 0)
		give_up("%s: %s", what, err.text);
	if (strcmp(result.checksum, checksum) != 0)
		give_up("%s: the model has changed", what);
	close(fd);
}

static struct store *open_store(struct store_meta *found)
{
	struct store *s = NULL;
	struct err err = { 0 };

	memset(found, 0, sizeof(*found));
	if (store_open(&s, state, &err) < 0 || store_scan(s, take_one, found, &err) < 0)
		give_up("the store: %s", err.text);
	return s;
}

static int switch_once(struct store *s, struct store_meta *meta, struct err *err)
{
	struct packer_result result;
	int target = store_make_target(s, meta, err), from, r;

	if (target < 0)
		return target;
	from = store_open_model(s, meta, err);
	r = from < 0 ? from : packer_pack(&result, from, target, "m", URING_PLAIN, &io, err);
	if (r == 0) {
		fault_spared = false;
		r = store_switch(s, meta, target, err);
		fault_spared = true;
	}
	if (from >= 0)
		close(from);
	close(target);
	return r;
}

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static void import(struct store *s, int fd)
{
	struct store_meta meta = { .name = mem_strdup("m"), .path = mem_strdup("/m"),
		                   .uid = 7 };
	struct err err = { 0 };

	if (store_import(s, &meta, fd, go_on, NULL, &err) < 0)
		give_up("import: %s", err.text);
	snprintf(checksum, sizeof(checksum), "%s", meta.checksum);
	store_meta_deinit(&meta);
}

/* A model, its switch with a fault, a start, and the switch without. True: there was a fault. */
static bool play(enum fault kind, long n, bool all_after, int from)
{
	const int64_t blocks = mem_live_blocks();
	const unsigned fds = count_fds();
	struct store_meta meta;
	struct err err = { 0 };
	struct store *s = open_store(&meta);
	char what[80];
	bool hit;
	int r;

	snprintf(what, sizeof(what), "%s %ld%s, %s", faults[kind].name, n,
	         all_after ? " and all after it" : "", from == old ? "from an old file" : "");
	import(s, from);
	store_close(s);
	s = open_store(&meta);
	fault_arm(kind, faults[kind].error, n, all_after);
	r = switch_once(s, &meta, &err);
	hit = fault_disarm();
	if (r < 0 && (!hit || !err.text[0]))
		give_up("%s: %d '%s'", what, r, err.text);
	check(s, &meta, what);
	store_meta_deinit(&meta);
	store_close(s);
	s = open_store(&meta);
	if (!meta.name)
		give_up("%s: the model is gone after a start", what);
	check(s, &meta, what);
	err_clear(&err);
	r = r == 0 ? 0 : switch_once(s, &meta, &err);
	/* the new file may have been in place already */
	if (r < 0 && !meta.packed)
		give_up("%s: afterwards: %s", what, err.text);
	check(s, &meta, what);
	if (store_remove(s, &meta, &err) < 0)
		give_up("%s: %s", what, err.text);
	store_meta_deinit(&meta);
	store_close(s);
	if (mem_live_blocks() != blocks || count_fds() != fds)
		give_up("%s: %lld blocks and %d descriptors are held", what,
		        (long long)(mem_live_blocks() - blocks), (int)(count_fds() - fds));
	return hit;
}

int main(void)
{
	const struct ggufgen_tiny tiny = { .type = QTYPE_Q4_1, .embd_type = QTYPE_Q8_0, .seed = 3 };
	struct packer_result result;
	int packed = memfd_create("packed", MFD_CLOEXEC);

	fault_spared = true;
	snprintf(state, sizeof(state), "%s/qllm-fault-XXXXXX",
	         access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	gguf = ggufgen_tiny_model(&tiny);
	old = memfd_create("old", MFD_CLOEXEC);
	if (!mkdtemp(state) || packer_pack(&result, gguf, packed, "m", URING_PLAIN, &io, NULL) < 0)
		give_up("no files");
	packold_make(old, packed, PACK_R16);
	for (unsigned kind = FAULT_ALLOC; kind < FAULT_COUNT; kind++)
		for (unsigned way = 0; way < 4; way++) {
			long n = 0;

			while (play(kind, n, way & 1, way & 2 ? old : gguf))
				n += kind == FAULT_ALLOC && n > 8 ? 5 : 1;
			printf("%s%s%s: %ld\n", faults[kind].name,
			       way & 1 ? " and all after it" : "",
			       way & 2 ? ", from an old file" : "", n);
		}
	remove_state();
	return 0;
}
