/* packer - walks the bytes of a GGUF: gap, tensor, gap, tensor, ... tail.
 *
 *  1. One walk serves both directions: a strip pairs bytes of the GGUF with bytes of the packed
 *     file, and the way back swaps the two sides. So what is written by one is what is read by the
 *     other.
 *  2. A strip of a packed tensor is whole units of groups of 16 rows; the rest is cut anywhere.
 *  3. compute runs in the order of the GGUF, so its checksum is a running one.
 *  4. What has been packed is unpacked again, from the target's bytes and held against the
 *     checksum of what was read, before it is called done. */
#include "quant/packer.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "format/packfile.h"
#include "kernels/pack.h"
#include "quant/pipeline.h"

enum { STRIP = 1 << 20, SIDE_MAX = 6 << 20 };
static const uint64_t GAP = UINT64_MAX;         /* item of a strip of no tensor */

struct walk {
	const char *name;
	struct packfile *f;             /* NULL: all of it is one gap, copied */
	/* The outdated file that f takes the place of, its bytes in the place of the GGUF's; room
	 * for the rows of a strip. Or NULL. */
	const struct packfile *old;
	uint8_t *rows;
	bool back;                      /* packed file to GGUF */
	const struct job_io *io;
	Qllm__WorkPhase phase;
	uint64_t size;                  /* of the GGUF */
	uint64_t base, total, pass;     /* for progress: bytes of former passes, all, of this one */
	/* where the next strip begins */
	uint64_t pos;                   /* in the GGUF */
	uint64_t gaps;                  /* bytes of gaps before it */
	size_t i;                       /* of f->order: the tensor at or after it */
	uint64_t at;                    /* groups, or bytes of a plain one, of it that are done */
	XXH3_state_t *gguf, *tensor, *gap;
};

static void walk_deinit(struct walk *w)
{
	XXH3_freeState(w->gguf);
	XXH3_freeState(w->tensor);
	XXH3_freeState(w->gap);
	mem_free(w->rows);
}

static int walk_init(struct walk *w, struct err *err)
{
	w->gguf = XXH3_createState();
	w->tensor = XXH3_createState();
	w->gap = XXH3_createState();
	if (w->old)
		w->rows = mem_alloc(SIDE_MAX);
	if (!w->gguf || !w->tensor || !w->gap || (w->old && !w->rows))
		return err_set(err, -ENOMEM, "out of memory");
	XXH3_128bits_reset(w->gguf);
	XXH3_64bits_reset(w->tensor);
	XXH3_64bits_reset(w->gap);
	if (w->f) {
		XXH3_128bits_update(w->gguf, w->f->head, w->f->head_bytes);
		w->pos = w->f->head_bytes;
	}
	return 0;
}

static size_t index_of(const struct walk *w, size_t i)
{
	return (size_t)(w->f->order[i] - w->f->gguf->tensors);
}

/* The strip at w->pos as (GGUF side, packed side). */
static void cut_gap(struct walk *w, struct pipeline_strip *s, uint64_t end)
{
	uint64_t n = MIN(end - w->pos, (uint64_t)STRIP);

	s->item = GAP;
	s->src = w->pos;
	s->dst = w->f ? w->f->gaps_offset + w->gaps : w->pos;
	s->src_bytes = s->dst_bytes = n;
	w->gaps += n;
	w->pos += n;
}

/* Groups that are packed together, in the new file or in the old one. */
static uint64_t unit_groups(const struct walk *w, size_t item)
{
	size_t is = pack_unit_groups(w->f->tensors[item].packed),
	       was = w->old ? pack_unit_groups(w->old->tensors[item].packed) : 1;

	return MAX(is, was);
}

static void cut_tensor(struct walk *w, struct pipeline_strip *s)
{
	size_t item = index_of(w, w->i);
	const struct tensor *t = &w->f->gguf->tensors[item];
	const struct packfile_tensor *p = &w->f->tensors[item];
	uint64_t n, all = t->n_bytes;

	s->item = item;
	s->part = w->at;
	if (p->packed) {
		uint64_t rows, unit = unit_groups(w, item);

		all = DIV_UP(p->rows, PACK_ROWS);
		n = MIN(all - w->at, MAX(STRIP / (p->group_bytes * unit), (uint64_t)1) * unit);
		rows = MIN(p->rows - w->at * PACK_ROWS, n * PACK_ROWS);
		s->src = t->offset + w->at * PACK_ROWS * p->row_bytes;
		s->src_bytes = rows * p->row_bytes;
		s->dst = p->offset + w->at * p->group_bytes;
		s->dst_bytes = n * p->group_bytes;
	} else {
		n = MIN(all - w->at, (uint64_t)STRIP);
		s->src = t->offset + w->at;
		s->dst = p->offset + w->at;
		s->src_bytes = s->dst_bytes = n;
	}
	w->at += n;
	w->pos = s->src + s->src_bytes;
	if (w->at == all) {
		w->at = 0;
		w->i++;
	}
}

/* Where the strip's bytes are in the old file. The same 16 rows are a group in both. */
static void from_old(const struct walk *w, struct pipeline_strip *s)
{
	const struct packfile_tensor *was, *p;

	if (s->item == GAP) {
		s->src = w->old->gaps_offset + (s->dst - w->f->gaps_offset);
		return;
	}
	was = &w->old->tensors[s->item];
	p = &w->f->tensors[s->item];
	if (was->packed) {
		s->src = was->offset + s->part * was->group_bytes;
		s->src_bytes = s->dst_bytes / p->group_bytes * was->group_bytes;
	} else {
		s->src += was->offset - w->f->gguf->tensors[s->item].offset;
	}
}

static int next_strip(void *user, struct pipeline_strip *s)
{
	struct walk *w = user;
	size_t n = w->f ? w->f->gguf->n_tensors : 0;
	uint64_t until = w->i < n ? w->f->order[w->i]->offset : w->size;

	if (w->at == 0 && w->pos < until)
		cut_gap(w, s, until);
	else if (w->i < n)
		cut_tensor(w, s);
	else
		return PIPELINE_E_END;
	if (w->old)
		from_old(w, s);
	if (w->back) {
		struct pipeline_strip there = *s;

		s->src = there.dst;
		s->src_bytes = there.dst_bytes;
		s->dst = there.src;
		s->dst_bytes = there.src_bytes;
	}
	return 0;
}

static void convert(const struct walk *w, const struct pipeline_strip *s, const uint8_t *in,
                    uint8_t *out)
{
	const struct packfile_tensor *p = s->item == GAP ? NULL : &w->f->tensors[s->item];
	const struct tensor *t = p ? &w->f->gguf->tensors[s->item] : NULL;
	uint64_t packed = w->back ? s->src_bytes : s->dst_bytes, unit;

	if (!p || !p->packed) {
		memcpy(out, in, s->dst_bytes);
		return;
	}
	unit = pack_unit_groups(p->packed);
	for (uint64_t g = 0; g < packed / p->group_bytes; g += unit) {
		uint64_t row = (s->part + g) * PACK_ROWS;
		size_t n = MIN(p->rows - row, unit * PACK_ROWS);
		size_t rows = g * PACK_ROWS * p->row_bytes, group = g * p->group_bytes;

		if (w->back)
			unpack_unit(out + rows, t->type, p->packed, in + group, p->row_bytes, n,
			             t->dim[0]);
		else
			pack_unit(out + group, t->type, p->packed, in + rows, p->row_bytes, n,
			           t->dim[0]);
	}
}

/* The rows that a strip of the old file holds. */
static const uint8_t *unpack_old(struct walk *w, const struct pipeline_strip *s, const uint8_t *in,
                                 uint64_t *ret_bytes)
{
	const struct packfile_tensor *was = s->item == GAP ? NULL : &w->old->tensors[s->item];
	uint64_t rows = 0, unit;

	*ret_bytes = s->src_bytes;
	if (!was || !was->packed)
		return in;
	unit = pack_unit_groups(was->packed);
	for (uint64_t g = 0; g < s->src_bytes / was->group_bytes; g += unit) {
		const struct tensor *t = &w->old->gguf->tensors[s->item];
		size_t n = MIN(was->rows - (s->part + g) * PACK_ROWS, unit * PACK_ROWS);

		unpack_unit(w->rows + rows * was->row_bytes, t->type, was->packed,
		             in + g * was->group_bytes, was->row_bytes, n, t->dim[0]);
		rows += n;
	}
	*ret_bytes = rows * was->row_bytes;
	return w->rows;
}

/* The packed bytes of a tensor are through: keep their sum, or hold it against the one kept. */
static int end_tensor(struct walk *w, uint64_t item, struct err *err)
{
	struct packfile_tensor *p = &w->f->tensors[item];
	const char *name = w->f->gguf->tensors[item].name;
	uint64_t sum = XXH3_64bits_digest(w->tensor);
	char shown[80];

	XXH3_64bits_reset(w->tensor);
	if (!w->back)
		p->sum = sum;
	else if (sum != p->sum)
		return err_set(err, -EBADMSG,
		               "tensor '%s': its checksum is not the one from when it was packed: "
		               "bytes of the file have changed since; import the model again",
		               str_escape(shown, sizeof(shown), name, strlen(name)));
	return 0;
}

static int compute_strip(void *user, const struct pipeline_strip *s, const uint8_t *in,
                         uint8_t *out, struct err *err)
{
	struct walk *w = user;
	uint64_t n_gguf = w->back ? s->dst_bytes : s->src_bytes,
		 n_packed = w->back ? s->src_bytes : s->dst_bytes, end;
	const uint8_t *gguf, *packed = w->back ? in : out;

	if (w->old)
		in = unpack_old(w, s, in, &n_gguf);
	gguf = w->back ? out : in;
	convert(w, s, in, out);
	XXH3_128bits_update(w->gguf, gguf, n_gguf);
	if (s->item == GAP) {
		XXH3_64bits_update(w->gap, packed, n_packed);
		return 0;
	}
	XXH3_64bits_update(w->tensor, packed, n_packed);
	end = (w->back ? s->src : s->dst) + n_packed;
	return end == w->f->tensors[s->item].offset + w->f->tensors[s->item].bytes
	               ? end_tensor(w, s->item, err)
	               : 0;
}

static int on_strip(void *user, uint64_t bytes_read, uint64_t bytes_written)
{
	struct walk *w = user;

	(void)bytes_written;
	w->io->progress(w->io->user, w->phase, w->base + MIN(bytes_read, w->pass), w->total,
	                w->base + bytes_read);
	return atomic_load(w->io->cancel) ? -ECANCELED : 0;
}

/* Bytes of the largest strip on either side. Buffers are pinned for io_uring, page by page: no more
 * than is needed. */
static size_t side_max(const struct walk *w)
{
	uint64_t max = MIN(MAX(w->size, w->f ? w->f->file_size : 0), (uint64_t)STRIP);

	for (size_t i = 0; w->f && i < w->f->gguf->n_tensors; i++) {
		uint64_t unit = unit_groups(w, i), bytes = w->f->tensors[i].group_bytes * unit, old;

		max = MAX(max, bytes);
		old = w->old ? w->old->tensors[i].group_bytes * unit : 0;
		if (old > 0)
			max = MAX(max, MAX(STRIP / bytes, (uint64_t)1) * old);
	}
	return (size_t)max;
}

static int run(struct walk *w, struct packer_result *ret, int src, int dst, enum uring_kind kind,
               struct err *err)
{
	const size_t side = side_max(w);
	const struct pipeline p = {
		.src = src, .dst = dst, .src_max = side, .dst_max = side,
		.next = next_strip, .compute = compute_strip, .progress = on_strip, .user = w,
		.io = kind,
	};
	struct pipeline_result result;
	int r = pipeline_run(&result, &p, err);

	if (r < 0)
		return r;
	ret->bytes_read += result.bytes_read;
	ret->bytes_written += result.bytes_written;
	ret->ring = result.ring;
	ret->direct = result.direct;
	return 0;
}

static void end_sum(const struct walk *w, uint64_t ret[2])
{
	XXH128_hash_t sum = XXH3_128bits_digest(w->gguf);

	ret[0] = sum.low64;
	ret[1] = sum.high64;
}

/* All of the target is there before its first byte is written: a full disk shows now. */
static int allocate(int fd, uint64_t size, struct err *err)
{
	int r = size > 0 && fallocate(fd, 0, 0, (off_t)size) < 0 ? -errno : 0;

	if ((r == -EOPNOTSUPP || r == -ENOSYS) && ftruncate(fd, (off_t)size) == 0)
		r = 0;
	if (r == -ENOSPC || r == -EDQUOT)
		return err_set(err, r, "its new file needs %llu bytes, more than are left there: "
		               "%s; make room and try again", (unsigned long long)size,
		               strerror(-r));
	return r < 0 ? err_set(err, r, "room for %llu bytes in the target: %s",
	                       (unsigned long long)size, strerror(-r))
	             : 0;
}

static int sync_target(int fd, struct err *err)
{
	return fsync(fd) < 0 ? err_set(err, -errno, "writing the target to the disk: %s",
	                               strerror(errno))
	                     : 0;
}

static int not_the_gguf(struct err *err)
{
	return err_set(err, -EBADMSG, "what it unpacks to is not the GGUF it was made of; "
	               "import the model again");
}

/* From an opened packed file; base and total as in struct walk. */
static int unpack(struct packer_result *ret, struct packfile *f, int src, int dst,
                  enum uring_kind kind, const struct job_io *io, uint64_t base, uint64_t total,
                  struct err *err)
{
	_cleanup_(walk_deinit) struct walk w = {
		.f = f, .back = true, .io = io, .size = f->gguf_size, .base = base,
		.total = total, .pass = f->gguf_size,
		.phase = dst < 0 ? QLLM__WORK_PHASE__WORK_CHECKING : QLLM__WORK_PHASE__WORK_WRITING,
	};
	uint64_t sum[2];
	int r = walk_init(&w, err);

	if (r == 0)
		r = run(&w, ret, src, dst, kind, err);
	if (r < 0)
		return r;
	if (XXH3_64bits_digest(w.gap) != f->gaps_sum)
		return err_set(err, -EBADMSG, "the bytes between its tensors have changed since it "
		               "was packed; import the model again");
	end_sum(&w, sum);
	if (sum[0] != f->gguf_sum[0] || sum[1] != f->gguf_sum[1])
		return not_the_gguf(err);
	packfile_sum_text(ret->checksum, f);
	return 0;
}

static int plan_again(struct packfile **ret, struct packfile **ret_old, int src, const char *name,
                      struct err *err)
{
	int r = packfile_open(ret_old, src, name, err);

	if (r < 0)
		return r;
	return (*ret_old)->outdated
	               ? packfile_plan_again(ret, *ret_old, err)
	               : err_set(err, -EINVAL, "it is packed already: export it to have its GGUF");
}

int packer_pack(struct packer_result *ret, int src, int dst, const char *name,
                enum uring_kind kind, const struct job_io *io, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = NULL, *again = NULL, *old = NULL;
	_cleanup_(walk_deinit) struct walk w = { .io = io,
		                                 .phase = QLLM__WORK_PHASE__WORK_PACKING };
	struct packer_result result = { .checksum = "" };
	bool packed = false;
	int r;

	r = packfile_is(&packed, src, name, err);
	if (r == 0)
		r = packed ? plan_again(&f, &old, src, name, err)
		           : packfile_plan(&f, src, name, err);
	if (r == 0)
		r = allocate(dst, f->file_size, err);
	if (r < 0)
		return r;
	w.f = f;
	w.old = old;
	w.size = w.pass = f->gguf_size;
	w.total = f->gguf_size + f->file_size;
	r = walk_init(&w, err);
	if (r == 0)
		r = run(&w, &result, src, dst, kind, err);
	if (r < 0)
		return r;
	end_sum(&w, f->gguf_sum);
	if (old && memcmp(f->gguf_sum, old->gguf_sum, sizeof(f->gguf_sum)) != 0)
		return not_the_gguf(err);
	f->gaps_sum = XXH3_64bits_digest(w.gap);
	r = packfile_write_head(f, dst, err);
	if (r == 0)
		r = packfile_open(&again, dst, name, err);
	if (r == 0)
		r = unpack(&result, again, dst, -1, kind, io, f->gguf_size, w.total, err);
	if (r == 0)
		r = sync_target(dst, err);
	if (r < 0)
		return r;
	result.tensors = f->gguf->n_tensors;
	for (size_t i = 0; i < f->gguf->n_tensors; i++)
		result.packed_tensors += f->tensors[i].packed;
	*ret = result;
	return 0;
}

/* A GGUF as it is: all of it one gap. */
static int copy(struct packer_result *ret, int src, int dst, enum uring_kind kind,
                const struct job_io *io, struct err *err)
{
	_cleanup_(walk_deinit) struct walk w = {
		.io = io,
		.phase = dst < 0 ? QLLM__WORK_PHASE__WORK_SUMMING : QLLM__WORK_PHASE__WORK_WRITING,
	};
	uint64_t sum[2];
	struct stat st;
	int r;

	if (fstat(src, &st) < 0)
		return err_set(err, -errno, "the source: %s", strerror(errno));
	w.size = w.pass = w.total = (uint64_t)st.st_size;
	r = dst < 0 ? 0 : allocate(dst, w.size, err);
	if (r == 0)
		r = walk_init(&w, err);
	if (r == 0)
		r = run(&w, ret, src, dst, kind, err);
	if (r < 0)
		return r;
	end_sum(&w, sum);
	sum_text(ret->checksum, sum);
	return 0;
}

int packer_export(struct packer_result *ret, int src, int dst, const char *name,
                  enum uring_kind kind, const struct job_io *io, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = NULL;
	struct packer_result result = { .checksum = "" };
	bool packed = false;
	int r = packfile_is(&packed, src, name, err);

	if (r < 0)
		return r;
	if (!packed) {
		r = copy(&result, src, dst, kind, io, err);
	} else {
		r = packfile_open(&f, src, name, err);
		if (r == 0 && dst >= 0)
			r = allocate(dst, f->gguf_size, err);
		if (r == 0 && dst >= 0) {
			r = fd_pwrite_all(dst, f->head, f->head_bytes, 0);
			if (r < 0)
				err_set(err, r, "writing the target: %s", strerror(-r));
		}
		if (r == 0)
			r = unpack(&result, f, src, dst, kind, io, 0, f->file_size, err);
	}
	if (r == 0 && dst >= 0)
		r = sync_target(dst, err);
	if (r < 0)
		return r;
	*ret = result;
	return 0;
}
