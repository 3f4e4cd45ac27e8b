/* sum - one buffer, one pass. What was read is dropped from nowhere: the page cache keeps it for
 * whoever maps the file next. */
#include "base/sum.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

enum { STEP = 1 << 20 };

static void free_statep(XXH3_state_t **s)
{
	XXH3_freeState(*s);
}

void sum_text(char ret[SUM_TEXT_MAX], const uint64_t sum[2])
{
	snprintf(ret, SUM_TEXT_MAX, "xxh3-128:%016llx%016llx", (unsigned long long)sum[1],
	         (unsigned long long)sum[0]);
}

int sum_file(char ret[SUM_TEXT_MAX], int fd, uint64_t size, sum_progress_fn progress, void *user,
             struct err *err)
{
	_cleanup_(free_statep) XXH3_state_t *state = XXH3_createState();
	_cleanup_mem_ char *buf = mem_alloc(STEP);
	XXH128_hash_t sum;

	if (!state || !buf || XXH3_128bits_reset(state) != XXH_OK)
		return err_set(err, -ENOMEM, "out of memory");
	for (uint64_t done = 0; done < size;) {
		size_t n = (size_t)MIN(size - done, (uint64_t)STEP);
		int r = fd_pread_all(fd, buf, n, done);

		if (r < 0)
			return err_set(err, r, "reading %zu bytes at %llu of %llu: %s", n,
			               (unsigned long long)done, (unsigned long long)size,
			               strerror(-r));
		XXH3_128bits_update(state, buf, n);
		done += n;
		r = progress ? progress(user, done) : 0;
		if (r < 0)
			return r;
	}
	sum = XXH3_128bits_digest(state);
	sum_text(ret, (const uint64_t[]){ sum.low64, sum.high64 });
	return 0;
}
