/* vec - the one grow function behind the macros: doubling, so that n pushes cost O(n). */
#include "base/vec.h"
#include "base/num.h"

int vec_grow_(void **data, size_t *cap, size_t need, size_t elem)
{
	size_t want = *cap ? *cap : 8;
	void *p;

	if (need <= *cap)
		return 0;
	while (want < need)
		if (mul_overflows(want, (size_t)2, &want))
			return -ENOMEM;
	p = mem_reallocn(*data, want, elem);
	if (!p)
		return -ENOMEM;
	*data = p;
	*cap = want;
	return 0;
}
