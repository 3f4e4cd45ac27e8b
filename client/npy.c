/* npy - the header of a NumPy file, so that rows can be streamed behind it as they come.
 * Format 1.0: magic, version, u16 length, a Python literal padded with spaces to a multiple of 64
 * and a newline. */
#include <string.h>
#include "base/num.h"
#include "client/ctl.h"

size_t npy_head(char out[NPY_HEAD_MAX], uint64_t rows, uint64_t cols)
{
	char dict[NPY_HEAD_MAX];
	int n = snprintf(dict, sizeof(dict),
	                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%llu, %llu), }",
	                 (unsigned long long)rows, (unsigned long long)cols);
	size_t total = align_up(10 + (size_t)n + 1, 64);
	size_t body = total - 10;

	memcpy(out, "\x93NUMPY\x01\x00", 8);
	out[8] = (char)(body & 0xff);
	out[9] = (char)(body >> 8);
	memset(out + 10, ' ', body);
	memcpy(out + 10, dict, (size_t)n);
	out[total - 1] = '\n';
	return total;
}
