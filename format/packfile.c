/* packfile - plan, head and reader of the packed file.
 *
 *  1. Where things lie is computed (place), by writer and reader alike, from the GGUF's own tensor
 *     table, which gguf.c has checked; the records only repeat it, and a record that differs is
 *     damage. So no offset of the file is ever followed without being known to be right, and none
 *     overlap.
 *  2. Nothing behind the header is believed before its checksum was right, and nothing sizes an
 *     allocation before it was held against its cap and the file's size.
 *  3. What was read is what is judged: head and records are copied once. */
#include "format/packfile.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/cursor.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "kernels/pack.h"

enum {
	HEADER = 128,
	RECORD = 48,
	HEAD_MAX = 192 << 20,           /* above what gguf.c keeps of one */
	TENSORS_MAX = 1 << 17,
	ALIGN = 64,
	GROUP_MAX = 4 << 20,            /* of a group, which the packer holds as a whole */
	SHOWN = 80,
};
static const char magic[PACKFILE_MAGIC + 1] = "QLLMPACK";

static int bad(const char *name, struct err *err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int bad(const char *name, struct err *err, const char *format, ...)
{
	char text[ERR_TEXT_MAX], shown[SHOWN];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	return err_set(err, -EBADMSG, "%s: the packed file is damaged: %s; import the model again",
	               str_escape(shown, sizeof(shown), name, strlen(name)), text);
}
static int no_memory(struct err *err)
{
	return err_set(err, -ENOMEM, "not enough memory for the head of a packed file");
}
static int io_error(const char *name, int code, const char *what, struct err *err)
{
	char shown[SHOWN];

	return err_set(err, code, "%s: %s: %s",
	               str_escape(shown, sizeof(shown), name, strlen(name)), what, strerror(-code));
}

struct packfile *packfile_free(struct packfile *f)
{
	if (!f)
		return NULL;
	gguf_free(f->gguf);
	mem_free(f->head);
	mem_free(f->tensors);
	mem_free(f->order);
	return mem_free(f);
}

int packfile_is(bool *ret, int fd, const char *name, struct err *err)
{
	char start[PACKFILE_MAGIC] = "";
	struct stat st;
	int r = fstat(fd, &st) < 0 ? -errno : 0;

	if (r == 0 && st.st_size >= PACKFILE_MAGIC)
		r = fd_pread_all(fd, start, sizeof(start), 0);
	if (r < 0)
		return io_error(name, r, "reading its first bytes", err);
	*ret = memcmp(start, magic, sizeof(start)) == 0;
	return 0;
}

void packfile_sum_text(char ret[SUM_TEXT_MAX], const struct packfile *f)
{
	sum_text(ret, f->gguf_sum);
}

/* --- places ----------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
	const struct tensor *x = *(const struct tensor *const *)a,
			    *y = *(const struct tensor *const *)b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int init_tensors(struct packfile *f, struct err *err)
{
	size_t n = f->gguf->n_tensors;

	f->tensors = mem_allocn(MAX(n, 1u), sizeof(*f->tensors));
	f->order = mem_allocn(MAX(n, 1u), sizeof(*f->order));
	if (!f->tensors || !f->order)
		return no_memory(err);
	for (size_t i = 0; i < n; i++) {
		const struct tensor *t = f->order[i] = &f->gguf->tensors[i];
		struct packfile_tensor *p = &f->tensors[i];

		p->rows = t->n_elems / t->dim[0];
		p->row_bytes = t->n_bytes / p->rows;
	}
	qsort(f->order, n, sizeof(*f->order), by_offset);
	return 0;
}

/* Matrices of a type that has a packed form; vectors and stacks of matrices lie as rows. */
static bool packs(const struct tensor *t)
{
	uint64_t group;

	return t->n_dims == 2 && t->dim[1] > 1 && pack_supported(t->type) &&
	       pack_group_bytes(&group, t->type, t->dim[0]) == 0 && group <= GROUP_MAX;
}

/* The matrix whose products are logits, most of which nobody wants, is packed in two parts. */
static enum pack_form best_form(const struct gguf *g, const struct tensor *t)
{
	if (!packs(t))
		return PACK_NONE;
	if (!pack_splits(t->type, t->dim[0]))
		return PACK_R16;
	if (strcmp(t->name, "output.weight") == 0)
		return PACK_SPLIT;
	/* the matrix of the embeddings serves where there is no other */
	return strcmp(t->name, "token_embd.weight") == 0 && !gguf_tensor(g, "output.weight")
	               ? PACK_SPLIT
	               : PACK_R16;
}

/* From head_bytes and each tensor's `packed`: every offset and size. -EOVERFLOW. */
static int place(struct packfile *f)
{
	uint64_t at, records = f->gguf->n_tensors * (uint64_t)RECORD, pos = f->head_bytes;

	if (add_overflows(HEADER + records, f->head_bytes, &at) ||
	    align_overflows(at, PACKFILE_DATA_ALIGN, &at))
		return -EOVERFLOW;
	f->data_offset = at;
	f->gaps_bytes = 0;
	for (size_t i = 0; i < f->gguf->n_tensors; i++) {
		const struct tensor *t = f->order[i];
		struct packfile_tensor *p = &f->tensors[t - f->gguf->tensors];

		p->bytes = t->n_bytes;
		p->group_bytes = 0;
		if (p->packed &&
		    (pack_group_bytes(&p->group_bytes, t->type, t->dim[0]) < 0 ||
		     mul_overflows(p->group_bytes, DIV_UP(p->rows, PACK_ROWS), &p->bytes)))
			return -EOVERFLOW;
		p->offset = at;
		f->gaps_bytes += t->offset - pos;
		pos = t->offset + t->n_bytes;
		if (add_overflows(at, p->bytes, &at) || align_overflows(at, ALIGN, &at))
			return -EOVERFLOW;
	}
	f->gaps_bytes += f->gguf_size - pos;
	f->gaps_offset = at;
	return add_overflows(at, f->gaps_bytes, &f->file_size) || f->file_size > INT64_MAX
	               ? -EOVERFLOW
	               : 0;
}

/* The GGUF that f->head begins. */
static int parse_head(struct packfile *f, const char *name, struct err *err)
{
	int r = gguf_parse(&f->gguf, f->head, f->head_bytes, f->gguf_size, name, err);

	if (r < 0)
		return r;
	if (MIN(f->gguf->data_offset, f->gguf_size) != f->head_bytes)
		return bad(name, err,
		           "the GGUF's head has %" PRIu64 " bytes, its tensors begin at %" PRIu64,
		           f->head_bytes, f->gguf->data_offset);
	return init_tensors(f, err);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* From the parsed head, which is consumed: packed is what can be. */
static int plan(struct packfile **ret, struct packfile *parsed, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = parsed;

	for (size_t i = 0; i < f->gguf->n_tensors; i++)
		f->tensors[i].packed = best_form(f->gguf, &f->gguf->tensors[i]);
	if (place(f) < 0)
		return err_set(err, -EFBIG, "its packed form would be too large for a file");
	*ret = STEAL(f);
	return 0;
}

int packfile_plan(struct packfile **ret, int fd, const char *name, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = mem_alloc(sizeof(*f));
	_cleanup_(gguf_freep) struct gguf *first = NULL;
	int r;

	if (!f)
		return no_memory(err);
	r = gguf_open(&first, fd, name, err);
	if (r < 0)
		return r;
	f->gguf_size = first->file_size;
	f->head_bytes = MIN(first->data_offset, first->file_size);
	if (f->head_bytes > HEAD_MAX)
		return err_set(err, -EFBIG, "its metadata takes more than %d MiB", HEAD_MAX >> 20);
	f->head = mem_alloc(f->head_bytes + first->n_tensors * (uint64_t)RECORD + 1);
	if (!f->head)
		return no_memory(err);
	r = fd_pread_all(fd, f->head, f->head_bytes, 0);
	if (r < 0)
		return io_error(name, r, "reading the header", err);
	r = parse_head(f, name, err);
	if (r == 0 && f->gguf->n_tensors != first->n_tensors)
		r = err_set(err, -EBADMSG, "the file was written to while it was read");
	if (r < 0)
		return r;
	return plan(ret, STEAL(f), err);
}

int packfile_plan_again(struct packfile **ret, const struct packfile *old, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = mem_alloc(sizeof(*f));
	uint64_t records = old->gguf->n_tensors * (uint64_t)RECORD;
	int r;

	if (!f)
		return no_memory(err);
	f->gguf_size = old->gguf_size;
	f->head_bytes = old->head_bytes;
	f->head = mem_alloc(f->head_bytes + records + 1);
	if (!f->head)
		return no_memory(err);
	memcpy(f->head, old->head, f->head_bytes);
	r = parse_head(f, "its head", err);
	if (r < 0)
		return r;
	return plan(ret, STEAL(f), err);
}

static uint8_t *put(uint8_t *p, uint64_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		*p++ = (uint8_t)(v >> (8 * i));
	return p;
}

static void put_records(uint8_t *p, const struct packfile *f)
{
	for (size_t i = 0; i < f->gguf->n_tensors; i++) {
		const struct packfile_tensor *t = &f->tensors[i];

		p = put(p, f->gguf->tensors[i].type, 4);
		p = put(p, t->packed, 4);
		p = put(p, f->gguf->tensors[i].dim[0], 8);
		p = put(p, t->rows, 8);
		p = put(p, t->offset, 8);
		p = put(p, t->bytes, 8);
		p = put(p, t->sum, 8);
	}
}

int packfile_write_head(struct packfile *f, int fd, struct err *err)
{
	uint64_t n = f->head_bytes + f->gguf->n_tensors * (uint64_t)RECORD;
	uint8_t header[HEADER] = { 0 }, *p = header;
	XXH128_hash_t meta;
	int r;

	put_records(f->head + f->head_bytes, f);
	meta = XXH3_128bits(f->head, n);
	memcpy(p, magic, PACKFILE_MAGIC);
	p = put(p + PACKFILE_MAGIC, PACKFILE_VERSION, 4);
	p = put(p, PACK_LAYOUT_VERSION, 4);
	p = put(p, f->file_size, 8);
	p = put(p, f->gguf_size, 8);
	p = put(p, f->head_bytes, 8);
	p = put(p, f->gaps_bytes, 8);
	p = put(p, f->gguf->n_tensors, 8);
	p = put(p, f->data_offset, 8);
	p = put(p, f->gaps_sum, 8);
	p = put(p, 0, 8);
	p = put(put(p, meta.low64, 8), meta.high64, 8);
	p = put(put(p, f->gguf_sum[0], 8), f->gguf_sum[1], 8);
	p = put(p, 0, 8);
	put(p, XXH3_64bits(header, (size_t)(p - header)), 8);
	r = fd_pwrite_all(fd, f->head, n, HEADER);
	if (r == 0)
		r = fd_pwrite_all(fd, header, sizeof(header), 0);
	return r < 0 ? err_set(err, r, "writing the packed file's head: %s", strerror(-r)) : 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct header {
	uint64_t n_tensors, data_offset, gaps_bytes, meta[2];
};

static int read_header(struct packfile *f, struct header *h, int fd, const char *name,
                       struct err *err)
{
	uint8_t raw[HEADER];
	struct cursor c = cur_init(raw, sizeof(raw));
	uint32_t version, layout;
	uint64_t size, rest;
	char shown[SHOWN];
	struct stat st;
	int r = fstat(fd, &st) < 0 ? -errno : fd_pread_all(fd, raw, sizeof(raw), 0);

	if (r == -EIO || (r == 0 && memcmp(raw, magic, PACKFILE_MAGIC) != 0))
		return bad(name, err, "it does not begin like one");
	if (r < 0)
		return io_error(name, r, "reading the header", err);
	(void)cur_take(&c, PACKFILE_MAGIC);
	version = cur_u32le(&c);
	layout = cur_u32le(&c);
	if (version != PACKFILE_VERSION || layout < PACK_LAYOUT_OLDEST ||
	    layout > PACK_LAYOUT_VERSION) {
		bool newer = version > PACKFILE_VERSION || layout > PACK_LAYOUT_VERSION;

		return err_set(err, -ENOTSUP,
		               "%s was packed by %s qllmd, in version %" PRIu32 ", layout %" PRIu32
		               ", which this one (%d, %d to %d) cannot read: import the model "
		               "again, or export it with that qllmd",
		               str_escape(shown, sizeof(shown), name, strlen(name)),
		               newer ? "a newer" : "an older", version, layout,
		               PACKFILE_VERSION, PACK_LAYOUT_OLDEST, PACK_LAYOUT_VERSION);
	}
	f->outdated = layout < PACK_LAYOUT_VERSION;
	f->file_size = cur_u64le(&c);
	f->gguf_size = cur_u64le(&c);
	f->head_bytes = cur_u64le(&c);
	h->gaps_bytes = cur_u64le(&c);
	h->n_tensors = cur_u64le(&c);
	h->data_offset = cur_u64le(&c);
	f->gaps_sum = cur_u64le(&c);
	rest = cur_u64le(&c);
	h->meta[0] = cur_u64le(&c);
	h->meta[1] = cur_u64le(&c);
	f->gguf_sum[0] = cur_u64le(&c);
	f->gguf_sum[1] = cur_u64le(&c);
	rest |= cur_u64le(&c);
	if (cur_u64le(&c) != XXH3_64bits(raw, HEADER - 8) || rest != 0)
		return bad(name, err, "the checksum of its header is wrong");
	size = (uint64_t)st.st_size;
	if (f->file_size != size)
		return bad(name, err, "it has %" PRIu64 " bytes, its header says %" PRIu64, size,
		           f->file_size);
	if (f->head_bytes > HEAD_MAX || f->head_bytes > size || f->head_bytes > f->gguf_size ||
	    f->gguf_size > INT64_MAX || h->n_tensors > TENSORS_MAX ||
	    HEADER + f->head_bytes + h->n_tensors * RECORD > size)
		return bad(name, err,
		           "its header claims a head of %" PRIu64 " bytes and %" PRIu64 " tensors",
		           f->head_bytes, h->n_tensors);
	return 0;
}

/* How each tensor is packed, from the records; and what the records repeat, against place(). */
static int check_records(struct packfile *f, const struct header *h, const char *name,
                         struct err *err)
{
	size_t n = f->gguf->n_tensors;
	const uint8_t *records = f->head + f->head_bytes;
	struct cursor c = cur_init(records, n * RECORD);
	uint64_t said = f->file_size;   /* place() computes it anew */
	char shown[SHOWN];

	for (size_t i = 0; i < n; i++) {
		const struct tensor *t = &f->gguf->tensors[i];
		uint32_t type = cur_u32le(&c), form = cur_u32le(&c);

		str_escape(shown, sizeof(shown), t->name, strlen(t->name));
		if (type != t->type || form >= PACK_FORMS || (form != PACK_NONE && !packs(t)) ||
		    (form == PACK_SPLIT && !pack_splits(t->type, t->dim[0])))
			return bad(name, err, "tensor '%s' is recorded with type %" PRIu32
			           " in form %" PRIu32, shown, type, form);
		f->tensors[i].packed = (enum pack_form)form;
		f->outdated |= f->tensors[i].packed < best_form(f->gguf, t);
		(void)cur_take(&c, RECORD - 8);
	}
	if (place(f) < 0 || f->data_offset != h->data_offset || f->gaps_bytes != h->gaps_bytes ||
	    f->file_size != said)
		return bad(name, err,
		           "its tensors need %" PRIu64 " bytes, its header says %" PRIu64,
		           f->file_size, said);
	c = cur_init(records, n * RECORD);
	for (size_t i = 0; i < n; i++) {
		const struct tensor *t = &f->gguf->tensors[i];
		struct packfile_tensor *p = &f->tensors[i];
		uint64_t dim, rows, offset, bytes;

		(void)cur_take(&c, 8);
		dim = cur_u64le(&c);
		rows = cur_u64le(&c);
		offset = cur_u64le(&c);
		bytes = cur_u64le(&c);
		p->sum = cur_u64le(&c);
		if (dim != t->dim[0] || rows != p->rows || offset != p->offset || bytes != p->bytes)
			return bad(name, err, "tensor '%s' is recorded with %" PRIu64 " x %" PRIu64
			           " elements in %" PRIu64 " bytes at %" PRIu64 " where %" PRIu64
			           " bytes at %" PRIu64 " are right",
			           str_escape(shown, sizeof(shown), t->name, strlen(t->name)), dim,
			           rows, bytes, offset, p->bytes, p->offset);
	}
	return 0;
}

int packfile_open(struct packfile **ret, int fd, const char *name, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = mem_alloc(sizeof(*f));
	struct header h = { 0 };
	uint64_t n;
	XXH128_hash_t sum;
	int r;

	if (!f)
		return no_memory(err);
	r = read_header(f, &h, fd, name, err);
	if (r < 0)
		return r;
	n = f->head_bytes + h.n_tensors * RECORD;
	f->head = mem_alloc(n + 1);
	if (!f->head)
		return no_memory(err);
	r = fd_pread_all(fd, f->head, n, HEADER);
	if (r < 0)
		return io_error(name, r, "reading the head", err);
	sum = XXH3_128bits(f->head, n);
	if (sum.low64 != h.meta[0] || sum.high64 != h.meta[1])
		return bad(name, err, "the checksum of its metadata is wrong");
	r = parse_head(f, name, err);
	if (r < 0)
		return r;
	if (f->gguf->n_tensors != h.n_tensors)
		return bad(name, err, "its header counts %" PRIu64 " tensors, the GGUF in it %zu",
		           h.n_tensors, f->gguf->n_tensors);
	r = check_records(f, &h, name, err);
	if (r < 0)
		return r;
	*ret = STEAL(f);
	return 0;
}

int packfile_gguf(struct gguf **ret, bool *ret_packed, int fd, const char *name, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = NULL;
	bool packed = false;
	int r = packfile_is(&packed, fd, name, err);

	if (r < 0)
		return r;
	if (packed) {
		r = packfile_open(&f, fd, name, err);
		if (r == 0)
			*ret = STEAL(f->gguf);
	} else {
		r = gguf_open(ret, fd, name, err);
	}
	if (r == 0 && ret_packed)
		*ret_packed = packed;
	return r;
}
