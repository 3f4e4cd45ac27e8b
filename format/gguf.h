/* gguf - GGUF v2 and v3 reader. Containers, no meaning: what a key or tensor is for is model/'s
 * matter.
 *
 * Everything that steers an address is copied and checked here (caps below, checked arithmetic,
 * extents inside the file); nothing is read twice. Cost is bounded: < 16 MiB beyond the copied
 * metadata, linear time. Errors: -EBADMSG with a sentence that names key, tensor or offset;
 * -ENOMEM. Threads: a parsed gguf is read-only. */
#pragma once
#include "base/cleanup.h"
#include "format/tensors.h"

enum gguf_kind {
	GGUF_U8,
	GGUF_I8,
	GGUF_U16,
	GGUF_I16,
	GGUF_U32,
	GGUF_I32,
	GGUF_F32,
	GGUF_BOOL,
	GGUF_STR,
	GGUF_ARR,
	GGUF_U64,
	GGUF_I64,
	GGUF_F64,
	GGUF_KIND_COUNT
};

struct gguf_value {
	enum gguf_kind kind;            /* element kind when array */
	bool array;
	uint64_t n;                     /* elements; 1 for a scalar */
	/* numbers: packed little-endian, aligned for their kind; strings: struct bytes[n] */
	const void *data;
};
struct gguf_kv {
	struct bytes key;
	struct gguf_value v;
};
struct gguf {
	uint32_t version;
	uint64_t file_size, data_offset, alignment;
	struct gguf_kv *kv;
	size_t n_kv;
	struct tensor *tensors;
	size_t n_tensors;
	/* e.g. trailing bytes after the last tensor; NULL when none */
	char *notice;
	struct gguf_priv *priv;
};

/* Parse the header from an fd by pread (the file is never mapped for this). `name` is for
 * messages. */
int gguf_open(struct gguf **ret, int fd, const char *name, struct err *err);
/* Parse from memory that holds the header; file_size is the whole file's. */
int gguf_parse(struct gguf **ret, const void *p, size_t n, uint64_t file_size, const char *name,
               struct err *err);
struct gguf *gguf_free(struct gguf *g);
DEFINE_FREEP(struct gguf, gguf_free)
/* Free all keys and values, whose arrays are as large as a vocabulary; afterwards every key is
 * absent. Tensors stay. Not while another thread looks at g. */
void gguf_drop_metadata(struct gguf *g);

/* NULL when absent */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);
/* hash lookup; NULL when absent */
const struct tensor *gguf_tensor(const struct gguf *g, const char *name);
/* Typed getters. Absent: 1 (GGUF_E_ABSENT), *ret untouched. Wrong kind, count or range: -EBADMSG
 * with a sentence. */
enum { _GGUF_E_SUCCESS, GGUF_E_ABSENT };
/* any integer kind that fits */
int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret, struct err *err);
/* f32 or f64 */
int gguf_get_f32(const struct gguf *g, const char *key, float *ret, struct err *err);
int gguf_get_bool(const struct gguf *g, const char *key, bool *ret, struct err *err);
int gguf_get_str(const struct gguf *g, const char *key, struct bytes *ret, struct err *err);
int gguf_get_arr(const struct gguf *g, const char *key, enum gguf_kind kind, const void **ret,
                 uint64_t *ret_n, struct err *err);
/* JSON text of a value for `show --metadata`; arrays beyond max_items end in "...". Appends to
 * out. */
int gguf_value_json(const struct gguf_value *v, uint64_t max_items, struct sbuf *out);
const char *gguf_kind_name(uint32_t kind);
