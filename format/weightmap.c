/* weightmap - the mapping and its guard.
 *
 * Weights are read where they lie in the page cache; nothing is copied. The price: whoever may
 * write the file may also truncate it, and the next touch beyond the new end is a SIGBUS in the
 * middle of a kernel. The handler turns that into zeros and a flag, so that one bad file costs its
 * own requests and not the process. The invariants:
 *  1. `ranges` is all that the handler reads, and only through atomics. A slot's `end` is published
 *     last and withdrawn first; a withdrawn slot's memory is unmapped after that.
 *  2. Nobody touches a mapping without holding a reference, so a fault inside a range means that
 *     its slot is live.
 *  3. The handler makes one system call (mmap) a fault and allocates nothing. Two threads that
 *     fault in one range both put zeros over it, which is the same as one doing so.
 *  4. Any other SIGBUS goes where it went before.
 *  5. The map keeps a descriptor of its file and what fstat said before it was mapped. A file
 *     system sets the times of a file that is written to or punched before the call returns, at
 *     most microseconds after the pages have changed: a step that ends in between may pass, the
 *     next one does not. */
#include "format/weightmap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22           /* Linux 5.14 */
#endif
enum {
	RANGES_MAX = 1024,
	SLICE = 8 << 20,                /* bytes read ahead between two looks at the cancel flag */
	MINCORE_PAGES = 4096,
};

struct weightmap {
	atomic_uint refs;
	uint8_t *base;
	size_t size;
	struct range *range;
	int fd;
	struct timespec mtime;          /* when it was mapped */
	bool linked;                    /* it had a name then */
};
/* The slots outlive the maps, because the handler may look at one at any time. */
struct range {
	atomic_uintptr_t start, end;    /* end 0: not in use */
	atomic_bool poisoned;
};
static struct range ranges[RANGES_MAX];
static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;
static struct sigaction former;
static uintptr_t page_size;

static bool guard_heal(uintptr_t addr)
{
	for (size_t i = 0; i < RANGES_MAX; i++) {
		struct range *g = &ranges[i];
		uintptr_t end = atomic_load(&g->end), start = atomic_load(&g->start),
			  page = addr & ~(page_size - 1);

		if (end == 0 || addr < start || addr >= end || atomic_load(&g->end) != end)
			/* the second look: start and end are of one use of the slot */
			continue;
		atomic_store(&g->poisoned, true);
		return mmap((void *)page, end - page, PROT_READ,
		            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
		            0) != MAP_FAILED;
	}
	return false;
}
static void guard_on_sigbus(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code == BUS_ADRERR && guard_heal((uintptr_t)info->si_addr)) {
		errno = saved;
		return;
	}
	if (former.sa_flags & SA_SIGINFO) {
		former.sa_sigaction(sig, info, context);
	} else if (former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN) {
		former.sa_handler(sig);
	} else {
		/* a fault happens again on return; a sent signal is sent again */
		signal(sig, SIG_DFL);
		if (info->si_code <= 0)
			raise(sig);
	}
	errno = saved;
}
static void guard_install(void)
{
	struct sigaction sa = { .sa_sigaction = guard_on_sigbus,
		                .sa_flags = SA_SIGINFO | SA_ONSTACK };

	page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
	sigemptyset(&sa.sa_mask);
	/* first, so that the handler never runs without it */
	sigaction(SIGBUS, NULL, &former);
	sigaction(SIGBUS, &sa, NULL);
}

static struct range *range_take(uintptr_t start, size_t size)
{
	struct range *found = NULL;

	pthread_mutex_lock(&ranges_lock);
	for (size_t i = 0; i < RANGES_MAX && !found; i++) {
		if (atomic_load(&ranges[i].end) != 0)
			continue;
		found = &ranges[i];
		atomic_store(&found->poisoned, false);
		atomic_store(&found->start, start);
		atomic_store(&found->end, start + size);
	}
	pthread_mutex_unlock(&ranges_lock);
	return found;
}

int weightmap_open(struct weightmap **ret, int fd, const char *name, struct err *err)
{
	_cleanup_mem_ struct weightmap *w = NULL;
	_cleanup_close_ int own = -1;
	char shown[80];
	struct stat st;
	void *base;

	str_escape(shown, sizeof(shown), name, strlen(name));
	pthread_once(&guard_once, guard_install);
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", shown, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size <= 0)
		return err_set(err, -EINVAL, "%s: %s, so it cannot be mapped", shown,
		               S_ISREG(st.st_mode) ? "the file is empty"
		                                   : "this is no regular file");
	w = mem_alloc(sizeof(*w));
	if (!w)
		return err_set(err, -ENOMEM, "%s: not enough memory to map it", shown);
	own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0)
		return err_set(err, -errno, "%s: keeping it open: %s", shown, strerror(errno));
	base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return err_set(err, -errno, "%s: mapping %llu bytes: %s", shown,
		               (unsigned long long)st.st_size, strerror(errno));
	w->base = base;
	w->size = (size_t)st.st_size;
	w->mtime = st.st_mtim;
	w->linked = st.st_nlink > 0;
	w->range = range_take((uintptr_t)base, align_up(w->size, page_size));
	if (!w->range) {
		munmap(base, w->size);
		return err_set(err, -EMFILE, "%s: %d model files are mapped already; unload one",
		               shown, RANGES_MAX);
	}
	w->fd = STEAL_FD(own);
	atomic_init(&w->refs, 1);
	*ret = STEAL(w);
	return 0;
}
struct weightmap *weightmap_ref(struct weightmap *w)
{
	atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
	return w;
}
struct weightmap *weightmap_unref(struct weightmap *w)
{
	if (!w || atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	pthread_mutex_lock(&ranges_lock);
	atomic_store(&w->range->end, 0);
	pthread_mutex_unlock(&ranges_lock);
	munmap(w->base, w->size);
	close(w->fd);
	return mem_free(w);
}

const uint8_t *weightmap_data(const struct weightmap *w)
{
	return w->base;
}
uint64_t weightmap_size(const struct weightmap *w)
{
	return w->size;
}
bool weightmap_poisoned(const struct weightmap *w)
{
	return atomic_load(&w->range->poisoned);
}
bool weightmap_recheck(struct weightmap *w)
{
	struct stat st;

	if (!weightmap_poisoned(w) &&
	    (fstat(w->fd, &st) < 0 || (uint64_t)st.st_size != w->size ||
	     st.st_mtim.tv_sec != w->mtime.tv_sec || st.st_mtim.tv_nsec != w->mtime.tv_nsec))
		atomic_store(&w->range->poisoned, true);
	return weightmap_poisoned(w);
}
bool weightmap_unlinked(const struct weightmap *w)
{
	struct stat st;

	return w->linked && fstat(w->fd, &st) == 0 && st.st_nlink == 0;
}
uint64_t weightmap_resident(const struct weightmap *w)
{
	unsigned char in_core[MINCORE_PAGES];
	uint64_t pages = 0, step = MINCORE_PAGES * page_size;

	for (uint64_t off = 0; off < w->size; off += step) {
		size_t n = MIN(step, w->size - off);

		if (mincore(w->base + off, n, in_core) < 0)
			break;
		for (size_t i = 0; i < DIV_UP(n, page_size); i++)
			pages += in_core[i] & 1;
	}
	return MIN(pages * page_size, w->size);
}

/* For kernels before 5.14: one byte a page; the guard catches what is not there. */
static void touch(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += page_size)
		(void)*(const volatile uint8_t *)(p + i);
}
int weightmap_populate(struct weightmap *w, uint64_t off, uint64_t n, const atomic_bool *cancel)
{
	uint64_t end;

	if (add_overflows(off, n, &end) || end > w->size)
		return -EFAULT;
	for (off &= ~(uint64_t)(page_size - 1); off < end; ) {
		size_t slice = MIN(end - off, (uint64_t)SLICE);

		if (cancel && atomic_load_explicit(cancel, memory_order_relaxed))
			return -ECANCELED;
		if (madvise(w->base + off, slice, MADV_POPULATE_READ) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			/* found early what a kernel would have met as SIGBUS */
			if (errno == EFAULT)
				atomic_store(&w->range->poisoned, true);
			if (errno != EINVAL)
				return -errno;
			touch(w->base + off, slice);
		}
		if (weightmap_poisoned(w))
			return -EFAULT;
		off += slice;
	}
	return 0;
}
