/* packfile - the first byte says how the others are meant: as the beginning of a packed file, with
 * its checksums made right or left alone, or as the head of a GGUF that is packed first. Weights
 * follow: zeros, one number, or noise.
 *
 * Either there is a sentence, or every tensor lies inside the file, where no other lies, and each
 * row of it can be taken out; what is exported can be read again and is the same when it is
 * exported twice, or after it was packed anew; a GGUF comes back byte for byte. A model that loads
 * is verified. An allocation that fails is told, and no block is left. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/fd.h"
#include "base/num.h"
#include "format/packfile.h"
#include "kernels/pack.h"
#include "model/model.h"
#include "quant/packer.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/ggufgen.h"
#include "tests/lib/packold.h"

const char fuzz_name[] = "packfile";
enum {
	SIGNED = 1, GGUF = 2, FILLING = 12,     /* bits of the first byte */
	HEADER = 128, RECORD = 48, HEAD_BYTES_AT = 32, TENSORS_AT = 48,
	TAIL = 64 << 10,                        /* of a GGUF */
	SIZE_LIMIT = PACKFILE_DATA_ALIGN + (1 << 20),
};

static uint64_t number(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* --- the file --------------------------------------------------------------------------------- */

static int new_file(void)
{
	int fd = memfd_create("packfile", MFD_CLOEXEC);

	FUZZ_CHECK(fd >= 0, "%s", strerror(errno));
	return fd;
}

static uint64_t size_of(int fd)
{
	struct stat st;

	FUZZ_CHECK(fstat(fd, &st) == 0, "%s", strerror(errno));
	return (uint64_t)st.st_size;
}

static uint8_t *read_at(int fd, uint64_t at, uint64_t n)
{
	uint8_t *p = malloc(n ? n : 1);         /* of just that size: a read past its end is seen */

	FUZZ_CHECK(p && fd_pread_all(fd, p, n, at) == 0, "%llu bytes at %llu",
	           (unsigned long long)n, (unsigned long long)at);
	return p;
}

/* Bytes from `at` to the file's end. */
static void fill(int fd, uint64_t at, unsigned how)
{
	uint64_t size = size_of(fd), n = at < size ? size - at : 0;
	uint32_t x = 7;
	uint8_t *p;

	if (how == 0 || n == 0)
		return;
	p = malloc(n);
	FUZZ_CHECK(p, "no memory");
	for (uint64_t i = 0; i < n; i++)
		p[i] = how == 1 ? 0x2c : (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	FUZZ_CHECK(fd_pwrite_all(fd, p, n, at) == 0, "fill");
	free(p);
}

static void sign(uint8_t *p, size_t n)
{
	uint64_t head = number(p + HEAD_BYTES_AT), tensors = number(p + TENSORS_AT), sum;
	XXH128_hash_t meta;

	if (head <= n && tensors <= n && HEADER + head + tensors * RECORD <= n) {
		meta = XXH3_128bits(p + HEADER, head + tensors * RECORD);
		memcpy(p + 80, &meta.low64, 8);
		memcpy(p + 88, &meta.high64, 8);
	}
	sum = XXH3_64bits(p, HEADER - 8);
	memcpy(p + HEADER - 8, &sum, 8);
}

/* As large as its header says, where that is small. */
static int packed_file(const uint8_t *bytes, size_t n, unsigned flags)
{
	int fd = new_file();
	uint8_t *p = malloc(n + 1);
	uint64_t size = n;

	FUZZ_CHECK(p, "no memory");
	memcpy(p, bytes, n);
	if (n >= HEADER && flags & SIGNED)
		sign(p, n);
	if (n >= HEADER && number(p + 16) > n && number(p + 16) <= SIZE_LIMIT)
		size = number(p + 16);
	FUZZ_CHECK(fd_pwrite_all(fd, p, n, 0) == 0 && ftruncate(fd, (off_t)size) == 0, "memfd");
	fill(fd, MAX(n, (size_t)PACKFILE_DATA_ALIGN), (flags & FILLING) >> 2);
	free(p);
	return fd;
}

/* --- packing ---------------------------------------------------------------------------------- */

static const atomic_bool never = false;
static void no_progress(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                        uint64_t bytes_read)
{
	(void)user;
	(void)bytes_read;
	FUZZ_CHECK(done <= total, "phase %d", (int)phase);
}
static void no_line(void *user, const char *text)
{
	(void)user;
	(void)text;
}
static const struct job_io io = { &never, no_progress, no_line, NULL };

static void same_bytes(int a, int b, const char *what)
{
	uint64_t n = size_of(a);
	uint8_t *p = read_at(a, 0, n), *q;

	FUZZ_CHECK(size_of(b) == n, "%s: sizes", what);
	q = read_at(b, 0, n);
	FUZZ_CHECK(memcmp(p, q, n) == 0, "%s: bytes", what);
	free(p);
	free(q);
}

/* What begins with these bytes as a packed file, or -1 when it is no GGUF. */
static int pack(const uint8_t *p, size_t n, unsigned flags)
{
	int gguf = new_file(), packed = new_file(), back = new_file(), r;
	struct packer_result result;
	struct err err = { 0 };

	FUZZ_CHECK(fd_pwrite_all(gguf, p, n, 0) == 0 && ftruncate(gguf, (off_t)(n + TAIL)) == 0,
	           "memfd");
	fill(gguf, n, (flags & FILLING) >> 2);
	r = packer_pack(&result, gguf, packed, "gguf", URING_PLAIN, &io, &err);
	FUZZ_CHECK(r == 0 || (r < 0 && err.text[0]), "%d without a sentence", r);
	if (r == 0) {
		r = packer_export(&result, packed, back, "pack", URING_PLAIN, &io, &err);
		FUZZ_CHECK(r == 0, "%s", err.text);
		same_bytes(gguf, back, "a GGUF that was packed");
	}
	close(gguf);
	close(back);
	if (r == 0)
		return packed;
	close(packed);
	return -1;
}

/* --- what an accepted file promises ----------------------------------------------------------- */

static void read_tensor(const struct packfile *f, size_t i, int fd)
{
	const struct packfile_tensor *p = &f->tensors[i];
	const struct tensor *t = &f->gguf->tensors[i];
	uint64_t unit = PACK_ROWS * pack_unit_groups(p->packed);
	uint8_t *bytes = read_at(fd, p->offset, p->bytes), *row;

	FUZZ_CHECK(p->rows * p->row_bytes == t->n_bytes, "%s", t->name);
	FUZZ_CHECK(p->packed || p->bytes == t->n_bytes, "%s", t->name);
	if (p->packed) {
		FUZZ_CHECK(p->bytes == DIV_UP(p->rows, PACK_ROWS) * p->group_bytes, "%s", t->name);
		row = malloc(p->row_bytes);
		FUZZ_CHECK(row, "no memory");
		for (uint64_t at = 0; at < p->rows; at++)
			unpack_row(row, t->type, p->packed,
			           bytes + at / unit * (unit / PACK_ROWS) * p->group_bytes,
			           MIN(p->rows - at / unit * unit, unit), at % unit, t->dim[0]);
		free(row);
	}
	free(bytes);
}

static void read_tensors(const struct packfile *f, int fd)
{
	char sum[SUM_TEXT_MAX];
	uint64_t end = f->data_offset;

	packfile_sum_text(sum, f);
	FUZZ_CHECK(f->file_size == size_of(fd) && f->gguf_size <= f->file_size, "sizes");
	for (size_t i = 0; i < f->gguf->n_tensors; i++) {
		size_t at = (size_t)(f->order[i] - f->gguf->tensors);
		const struct packfile_tensor *p = &f->tensors[at];

		FUZZ_CHECK(p->offset >= end && p->offset % 64 == 0, "tensor %zu", at);
		FUZZ_CHECK(p->bytes <= f->file_size - p->offset, "tensor %zu", at);
		end = p->offset + p->bytes;
		read_tensor(f, at, fd);
	}
	FUZZ_CHECK(f->gaps_offset >= end && f->gaps_bytes <= f->file_size - f->gaps_offset, "gaps");
}

static uint64_t sum_at(int fd, uint64_t at, uint64_t n)
{
	uint8_t *p = read_at(fd, at, n);
	uint64_t sum = XXH3_64bits(p, n);

	free(p);
	return sum;
}

/* An outdated file, and the GGUF that it exports to. */
static void pack_again(int fd, int gguf)
{
	int packed = new_file(), back = new_file();
	struct packer_result result;
	struct err err = { 0 };

	FUZZ_CHECK(packer_pack(&result, fd, packed, "old", URING_PLAIN, &io, &err) == 0, "%s",
	           err.text);
	FUZZ_CHECK(packer_export(&result, packed, back, "pack", URING_PLAIN, &io, &err) == 0, "%s",
	           err.text);
	same_bytes(gguf, back, "packed anew");
	close(packed);
	close(back);
}

/* With all sums as the bytes have them, it exports, twice the same; with those of the input it
 * may. */
static void export(struct packfile *f, int fd)
{
	int first = new_file(), second = new_file(), r;
	struct packer_result result;
	struct gguf *g = NULL;
	struct packfile *again = NULL;
	struct err err = { 0 };
	XXH128_hash_t sum;
	bool packed = true;
	uint8_t *p;

	r = packer_export(&result, fd, first, "pack", URING_PLAIN, &io, &err);
	FUZZ_CHECK(r == 0 || (r == -EBADMSG && err.text[0]), "%d %s", r, err.text);
	for (size_t i = 0; i < f->gguf->n_tensors; i++)
		f->tensors[i].sum = sum_at(fd, f->tensors[i].offset, f->tensors[i].bytes);
	f->gaps_sum = sum_at(fd, f->gaps_offset, f->gaps_bytes);
	FUZZ_CHECK(packfile_write_head(f, fd, &err) == 0, "%s", err.text);
	/* now only the sum of all may be wrong, which comes last */
	r = packer_export(&result, fd, first, "pack", URING_PLAIN, &io, &err);
	FUZZ_CHECK(r == 0 || r == -EBADMSG, "%d %s", r, err.text);
	p = read_at(first, 0, f->gguf_size);
	sum = XXH3_128bits(p, f->gguf_size);
	free(p);
	f->gguf_sum[0] = sum.low64;
	f->gguf_sum[1] = sum.high64;
	FUZZ_CHECK(packfile_write_head(f, fd, &err) == 0, "%s", err.text);
	r = packer_export(&result, fd, second, "pack", URING_PLAIN, &io, &err);
	FUZZ_CHECK(r == 0, "%s", err.text);
	same_bytes(first, second, "exported twice");
	FUZZ_CHECK(packfile_gguf(&g, &packed, second, "gguf", &err) == 0 && !packed, "%s",
	           err.text);
	FUZZ_CHECK(g->n_tensors == f->gguf->n_tensors, "tensors");
	gguf_free(g);
	/* its head, written here, says this layout: only its forms can be old */
	FUZZ_CHECK(packfile_open(&again, fd, "pack", &err) == 0, "%s", err.text);
	if (again->outdated)
		pack_again(fd, first);
	packfile_free(again);
	close(first);
	close(second);
}

static void load(int fd)
{
	struct model *m = NULL;
	struct err err = { 0 };
	int r = model_load(&m, fd, "file", &err);

	FUZZ_CHECK(r == 0 || (r < 0 && err.text[0]), "%d without a sentence", r);
	if (r == 0) {
		r = model_verify(m, NULL, &err);
		FUZZ_CHECK(r == 0 || err.text[0], "%d without a sentence", r);
	}
	model_unref(m);
}

static void without_memory(int fd, uint32_t mix)
{
	const int64_t blocks = mem_live_blocks();
	struct packfile *f = NULL;
	struct err err = { 0 };
	int r;

	mem_fault_arm(mix % 16, false);
	r = packfile_open(&f, fd, "pack", &err);
	if (mem_fault_fired())
		FUZZ_CHECK(r == -ENOMEM && err.text[0], "%d %s", r, err.text);
	packfile_free(f);
	FUZZ_CHECK(mem_live_blocks() == blocks, "blocks are left");
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const uint32_t mix = fuzz_mix(p, n);
	const int64_t blocks = mem_live_blocks();
	const unsigned flags = n > 0 ? p[0] : 0;
	struct packfile *f = NULL;
	struct err err = { 0 };
	int fd, r;

	if (n == 0)
		return 0;
	fd = flags & GGUF ? pack(p + 1, n - 1, flags) : packed_file(p + 1, n - 1, flags);
	if (fd < 0)
		return 0;
	r = packfile_open(&f, fd, "pack", &err);
	FUZZ_CHECK(r == 0 || (r < 0 && err.text[0]), "%d without a sentence", r);
	FUZZ_CHECK(r == 0 || !(flags & GGUF), "%s", err.text);
	load(fd);
	if (r == 0) {
		read_tensors(f, fd);
		without_memory(fd, mix);
		if (mix % 4 == 0)       /* takes longer than all else together */
			export(f, fd);
	}
	packfile_free(f);
	close(fd);
	FUZZ_CHECK(mem_live_blocks() == blocks, "blocks are left");
	return 0;
}

/* --- mutation that knows where the numbers stand ---------------------------------------------- */

/* A GGUF that may be packed: a model, or matrices of all types. */
static struct ggufgen *any_gguf(unsigned *seed)
{
	const struct ggufgen_tiny tiny = { .n_layer = 1,
		                           .n_embd = 32,
		                           .type = fuzz_next(seed) % 2 ? QTYPE_Q8_0 : QTYPE_F16,
		                           .embd_type = QTYPE_Q8_0,
		                           .no_template = true,
		                           .seed = 1 };
	struct ggufgen *g = fuzz_next(seed) % 2 ? ggufgen_tiny(&tiny) : NULL;
	char name[40];

	if (!g) {
		g = ggufgen_new(fuzz_next(seed));
		ggufgen_str(g, "general.architecture", "llama");
		for (unsigned i = fuzz_next(seed) % 6; i > 0; i--) {
			unsigned type = fuzz_next(seed) % QTYPE_COUNT;
			const struct qtype_info *info = qtype_info(type);

			snprintf(name, sizeof(name), "t%u", i);
			if (info)
				ggufgen_tensor(g, name, type,
				               (1u + fuzz_next(seed) % 3) * info->block,
				               fuzz_next(seed) % 40, 0, 1);
		}
	}
	g->gap = fuzz_next(seed) % 3 * 32;
	g->trailing = fuzz_next(seed) % 3 * 17;
	return g;
}

/* *fd becomes the GGUF's file as an older version would have written it. */
static void age(int *fd, int gguf)
{
	int packed = new_file(), old = new_file();
	struct packer_result result;

	if (packer_pack(&result, gguf, packed, "fresh", URING_PLAIN, &io, NULL) == 0) {
		packold_make(old, packed, PACK_R16);
		close(*fd);
		*fd = old;
	} else {
		close(old);
	}
	close(packed);
}

static size_t fresh(uint8_t *p, size_t max, unsigned *seed)
{
	struct ggufgen *gen = any_gguf(seed);
	int gguf = ggufgen_memfd(gen), fd = new_file();
	struct packfile *f = NULL;
	uint8_t *bytes;
	size_t n = 0;

	p[0] = (uint8_t)(fuzz_next(seed) % 16 | SIGNED);
	if (packfile_plan(&f, gguf, "fresh", NULL) == 0 && packfile_write_head(f, fd, NULL) == 0) {
		if (fuzz_next(seed) % 2)
			age(&fd, gguf);
		bytes = read_at(p[0] & GGUF ? gguf : fd, 0,
		                p[0] & GGUF ? f->head_bytes : size_of(fd));
		n = p[0] & GGUF ? f->head_bytes : size_of(fd);
		n = MIN(n, max - 1);
		memcpy(p + 1, bytes, n);
		free(bytes);
	}
	packfile_free(f);
	close(gguf);
	close(fd);
	ggufgen_free(gen);
	return n + 1;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
	static const struct {
		uint8_t at, size;
	} header[] = { { 8, 4 },  { 12, 4 }, { 16, 8 }, { 24, 8 }, { 32, 8 }, { 40, 8 },
		       { 48, 8 }, { 56, 8 }, { 64, 8 }, { 72, 8 } },
	  record[] = { { 0, 4 }, { 4, 4 }, { 8, 8 }, { 16, 8 }, { 24, 8 }, { 32, 8 }, { 40, 8 } };
	unsigned how = fuzz_next(&seed) % 16, i;
	uint64_t head, tensors;

	if (max > 1 && how == 0 && fuzz_next(&seed) % 4 == 0)
		return fresh(p, max, &seed);
	if (n > 0 && how == 1)
		p[0] = (uint8_t)(fuzz_next(&seed) % 16);
	if (n > HEADER && how > 1 && how < 6) {
		i = fuzz_next(&seed) % ARRAY_SIZE(header);
		fuzz_bend(p + 1 + header[i].at, header[i].size, &seed);
		return n;
	}
	head = n > HEADER ? number(p + 1 + HEAD_BYTES_AT) : n;
	tensors = n > HEADER ? number(p + 1 + TENSORS_AT) : 0;
	if (head < n && tensors > 0 && tensors < n && 1 + HEADER + head + tensors * RECORD <= n &&
	    how > 5 && how < 12) {
		i = fuzz_next(&seed) % ARRAY_SIZE(record);
		fuzz_bend(p + 1 + HEADER + head + fuzz_next(&seed) % tensors * RECORD +
		                  record[i].at, record[i].size, &seed);
		return n;
	}
	return LLVMFuzzerMutate ? LLVMFuzzerMutate(p, n, max) : n;
}
