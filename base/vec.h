/* vec - growable array of any type: struct { T *data; size_t n, cap; }.
 *   VEC(int) v = {0}; if (vec_push(&v, 3) < 0) return -ENOMEM; vec_deinit(&v); */
#pragma once
#include "base/mem.h"
#include <errno.h>

#define VEC(T) struct { T *data; size_t n, cap; }
/* 0 or -ENOMEM, array unchanged */
int vec_grow_(void **data, size_t *cap, size_t need, size_t elem);
#define vec_reserve(v, need) vec_grow_((void **)&(v)->data, &(v)->cap, (need), sizeof(*(v)->data))
#define vec_push(v, x) \
	(vec_reserve((v), (v)->n + 1) < 0 ? -ENOMEM : ((v)->data[(v)->n++] = (x), 0))
#define vec_append(v, src, count)                                                   \
	(__extension__({                                                            \
		size_t n_ = (count);                                                \
		int r_ = vec_reserve((v), (v)->n + n_);                             \
		if (r_ == 0 && n_) {                                                \
			memcpy((v)->data + (v)->n, (src), n_ * sizeof(*(v)->data)); \
			(v)->n += n_;                                               \
		}                                                                   \
		r_;                                                                 \
	}))
#define vec_deinit(v) (mem_free((v)->data), (v)->data = NULL, (v)->n = (v)->cap = 0)
