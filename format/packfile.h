/* packfile - the store's own file of a model: all bytes of a GGUF, its matrices in the packed
 * layout (kernels/pack.h), so that it is mapped and computed on as it lies, and the GGUF can be
 * written again byte for byte.
 *
 * Little-endian. 128 bytes of header, then the GGUF's head (its bytes up to the first tensor,
 * verbatim), then one record of 48 bytes a tensor, in the head's order. The data section begins at
 * the next multiple of 2 MiB: tensors in the order of the GGUF, each at a multiple of 64, then the
 * GGUF's gaps (bytes of it that belong to no tensor), one after the other. Where everything lies
 * follows from the head and from which tensors are packed: a file that says otherwise is refused.
 *
 *   header  0 "QLLMPACK"   8 u32 version   12 u32 layout   16 u64 file size   24 u64 GGUF size
 *           32 u64 head bytes   40 u64 gap bytes   48 u64 tensors
 *           56 u64 data section   64 u64 checksum of the gaps   72 u64 0
 *           80 XXH3-128 of head and records, low half first
 *           96 XXH3-128 of the whole GGUF   112 u64 0   120 u64 XXH3 of bytes 0 to 119
 *   record  0 u32 type   4 u32 form: 0 rows as in the GGUF, 1 packed, 2 packed in two parts
 *           8 u64 elements a row
 *           16 u64 rows   24 u64 offset   32 u64 bytes   40 u64 XXH3 of its bytes
 *
 * Errors: -EBADMSG with a sentence for what is damaged, -ENOTSUP for another version or layout,
 * -errno, -ENOMEM. Threads: an opened packfile is read-only. */
#pragma once
#include "base/cleanup.h"
#include "base/sum.h"
#include "format/gguf.h"
#include "kernels/pack.h"

enum { PACKFILE_VERSION = 1, PACKFILE_MAGIC = 8, PACKFILE_DATA_ALIGN = 2 << 20 };

struct packfile_tensor {
	enum pack_form packed;
	/* of one row, in the GGUF; packed: of one group of 16 rows */
	uint64_t row_bytes, group_bytes;
	uint64_t rows;
	uint64_t offset, bytes;         /* in the packed file */
	uint64_t sum;                   /* XXH3 of those bytes */
};
struct packfile {
	uint64_t file_size, gguf_size, data_offset;
	uint64_t gaps_offset, gaps_bytes, gaps_sum;
	uint8_t *head;                  /* the GGUF's, verbatim; then room for the records */
	uint64_t head_bytes;
	struct gguf *gguf;              /* of the head: extents are those of the GGUF */
	struct packfile_tensor *tensors; /* gguf->n_tensors */
	const struct tensor **order;    /* the GGUF's tensors by offset */
	uint64_t gguf_sum[2];           /* XXH3-128, low half first */
	/* as good as any, but written before this layout, or before a type had a packed form */
	bool outdated;
};

/* Does fd begin like one? A file that cannot be read is neither: -errno. */
int packfile_is(bool *ret, int fd, const char *name, struct err *err);
/* Where all of a GGUF is to lie; its head is read from fd, once, and judged as it was read. No sums
 * yet. `name` is for messages. */
int packfile_plan(struct packfile **ret, int fd, const char *name, struct err *err);
/* Where all of the GGUF in an outdated file is to lie now. */
int packfile_plan_again(struct packfile **ret, const struct packfile *old, struct err *err);
/* Header, head and records, once the sums are known. */
int packfile_write_head(struct packfile *f, int fd, struct err *err);
/* Open and check all but the data's sums. */
int packfile_open(struct packfile **ret, int fd, const char *name, struct err *err);
struct packfile *packfile_free(struct packfile *f);
DEFINE_FREEP(struct packfile, packfile_free)
/* The checksum of the GGUF as sum_file writes it. */
void packfile_sum_text(char ret[SUM_TEXT_MAX], const struct packfile *f);

/* The GGUF's view of a file of either kind: metadata, and tensors with their extents in the GGUF.
 * ret_packed may be NULL. */
int packfile_gguf(struct gguf **ret, bool *ret_packed, int fd, const char *name, struct err *err);
