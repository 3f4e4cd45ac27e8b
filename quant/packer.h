/* packer - a GGUF to the store's packed file (format/packfile.h) and back, strip by strip.
 *
 * Both directions go through the GGUF in the order of its bytes, once, and compute its checksum on
 * the way; the way back holds it, and each tensor's, against what the packed file says. io_uring
 * where the kernel lets us. Errors: those of packfile and pipeline. */
#pragma once
#include "base/sum.h"
#include "quant/cmd.h"
#include "quant/uring.h"

struct packer_result {
	char checksum[SUM_TEXT_MAX];            /* of the GGUF */
	uint64_t bytes_read, bytes_written, packed_tensors, tensors;
	bool ring, direct;
};
/* src: a GGUF, or a packed file that is outdated. dst: an empty file open for reading and writing;
 * complete, read again and synced on success, of no use otherwise. */
int packer_pack(struct packer_result *ret, int src, int dst, const char *name,
                enum uring_kind kind, const struct job_io *io, struct err *err);
/* src: a packed file, or a GGUF, which is copied. dst: an empty file open for writing, synced on
 * success; -1: only look whether all is right, which for a GGUF computes the checksum. */
int packer_export(struct packer_result *ret, int src, int dst, const char *name,
                  enum uring_kind kind, const struct job_io *io, struct err *err);
