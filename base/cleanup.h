/* cleanup - scope-bound ownership. `_cleanup_(foo_freep) struct foo *f = NULL;` frees on every
 * return; STEAL(f) hands the pointer on and leaves NULL behind. DEFINE_FREEP(foo_free) makes
 * foo_freep for a `T *foo_free(T *)` that accepts NULL and returns NULL. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define STEAL(p) (__extension__({ __typeof__(p) steal_ = (p); (p) = NULL; steal_; }))
#define STEAL_FD(fd) (__extension__({ int steal_ = (fd); (fd) = -1; steal_; }))
#define DEFINE_FREEP(T, fn) \
	static inline void fn##p(T **p) { *p = fn(*p); }

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}
static inline void cleanup_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
static inline void cleanup_fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}
#define _cleanup_free_ _cleanup_(cleanup_freep)
#define _cleanup_close_ _cleanup_(cleanup_closep)
#define _cleanup_fclose_ _cleanup_(cleanup_fclosep)
