/* tensors - container-neutral table of named tensors, and typed metadata. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/str.h"
#include "kernels/qtype.h"

enum { TENSOR_DIMS_MAX = 4, TENSOR_NAME_MAX = 63 };
struct tensor {
	const char *name;               /* NUL-terminated, valid UTF-8, owned by the container */
	enum qtype type;
	uint32_t n_dims;                /* 1..4 */
	uint64_t dim[TENSOR_DIMS_MAX];  /* GGUF order: dim[0] = elements a row; unused are 1 */
	uint64_t n_elems, n_bytes;      /* checked: never overflow */
	uint64_t offset;                /* absolute in the file; offset + n_bytes <= file size */
};
