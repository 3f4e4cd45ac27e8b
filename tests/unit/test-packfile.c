/* The packed file: a GGUF of every type goes in and comes out byte for byte, and a file with any
 * bit turned, cut anywhere, or with a lying header is refused with a sentence. */
#include "config.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "format/packfile.h"
#include "kernels/pack.h"
#include "quant/packer.h"
#include "tests/lib/ggufgen.h"
#include "tests/lib/packold.h"

static const atomic_bool never = false;

static void no_progress(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                        uint64_t bytes_read)
{
	(void)user;
	(void)phase;
	(void)bytes_read;
	assert_true(done <= total);
}
static void no_line(void *user, const char *text)
{
	(void)user;
	(void)text;
}
static const struct job_io io = { &never, no_progress, no_line, NULL };

static int new_file(void)
{
	return memfd_create("packed", MFD_CLOEXEC);
}
static uint8_t *bytes_of(int fd, size_t *ret_n)
{
	struct stat st;
	uint8_t *p;

	assert_int_equal(fstat(fd, &st), 0);
	p = malloc((size_t)st.st_size + 1);
	assert_int_equal(fd_pread_all(fd, p, (size_t)st.st_size, 0), 0);
	*ret_n = (size_t)st.st_size;
	return p;
}

/* Every type as a matrix with ragged rows and as a vector, a stack of matrices, gaps and a tail. */
static struct ggufgen *all_types(void)
{
	struct ggufgen *g = ggufgen_new(7);
	char name[40];

	g->gap = 96;
	g->trailing = 333;
	ggufgen_str(g, "general.architecture", "llama");
	for (unsigned t = 0; t < QTYPE_COUNT; t++) {
		const struct qtype_info *info = qtype_info(t);

		if (!info)
			continue;
		snprintf(name, sizeof(name), "matrix.%s", info->name);
		ggufgen_tensor(g, name, t, 3u * info->block, 37, 0, 1);
		snprintf(name, sizeof(name), "row.%s", info->name);
		ggufgen_tensor(g, name, t, 2u * info->block, 0, 0, 1);
	}
	/* more than one strip, and a last run of 15 groups */
	ggufgen_tensor(g, "output.weight", QTYPE_Q8_0, 2048, 1000, 0, 1);
	ggufgen_tensor(g, "token_embd.weight", QTYPE_Q8_0, 64, 1000, 0, 1);
	return g;
}

static int packed_of(int gguf, struct packer_result *ret)
{
	int fd = new_file();
	struct err err = { 0 };

	if (packer_pack(ret, gguf, fd, "x", URING_AUTO, &io, &err) < 0)
		fail_msg("%s", err.text);
	return fd;
}

static void round_trip(struct ggufgen *g, uint64_t packed_least)
{
	struct packer_result there, back;
	int gguf = ggufgen_memfd(g), again = new_file(), packed = packed_of(gguf, &there);
	size_t n, m;
	uint8_t *a = bytes_of(gguf, &n), *b;
	char sum[SUM_TEXT_MAX];

	assert_true(there.packed_tensors >= packed_least);
	assert_int_equal(packer_export(&back, packed, again, "x", URING_PLAIN, &io, NULL), 0);
	b = bytes_of(again, &m);
	assert_int_equal(n, m);
	assert_memory_equal(a, b, n);
	assert_int_equal(sum_file(sum, gguf, n, NULL, NULL, NULL), 0);
	assert_string_equal(there.checksum, sum);
	assert_string_equal(back.checksum, sum);
	free(a);
	free(b);
	close(gguf);
	close(again);
	close(packed);
	ggufgen_free(g);
}

static void test_round_trip(void **state)
{
	const struct ggufgen_tiny tiny = { .type = QTYPE_Q4_1, .seed = 3 };
	struct ggufgen *empty = ggufgen_new(1);

	(void)state;
	ggufgen_str(empty, "general.architecture", "llama");
	round_trip(all_types(), 14);
	round_trip(ggufgen_tiny(&tiny), 10);
	round_trip(empty, 0);
}

/* The layout as it is written down in pack.h and packfile.h. */
static void test_places(void **state)
{
	struct packer_result result;
	struct packfile *f = NULL;
	struct ggufgen *g = all_types();
	int gguf = ggufgen_memfd(g), fd = packed_of(gguf, &result), empty = new_file();
	uint64_t end = 0;
	unsigned n_split = 0;
	bool is = false;

	(void)state;
	assert_int_equal(packfile_is(&is, fd, "x", NULL), 0);
	assert_true(is);
	assert_int_equal(packfile_is(&is, gguf, "x", NULL), 0);
	assert_false(is);
	is = true;
	assert_int_equal(packfile_is(&is, empty, "x", NULL), 0);
	assert_false(is);
	assert_int_equal(packfile_open(&f, fd, "x", NULL), 0);
	assert_int_equal(f->data_offset % PACKFILE_DATA_ALIGN, 0);
	for (size_t i = 0; i < f->gguf->n_tensors; i++) {
		const struct tensor *t = f->order[i];
		const struct packfile_tensor *p = &f->tensors[t - f->gguf->tensors];
		uint8_t *group, row[4096];

		assert_int_equal(p->offset % 64, 0);
		assert_true(p->offset >= MAX(end, f->data_offset));
		end = p->offset + p->bytes;
		assert_int_equal(p->packed != PACK_NONE, t->n_dims == 2 && pack_supported(t->type));
		n_split += p->packed == PACK_SPLIT;
		if (!p->packed)
			continue;
		/* the last row, from its unit */
		size_t unit = PACK_ROWS * pack_unit_groups(p->packed);
		size_t in_unit = (p->rows - 1) % unit;
		size_t bytes = (in_unit / PACK_ROWS + 1) * p->group_bytes;

		group = malloc(bytes);
		assert_int_equal(fd_pread_all(fd, group, bytes, end - bytes), 0);
		unpack_row(row, t->type, p->packed, group, in_unit + 1, in_unit, t->dim[0]);
		assert_memory_equal(row, ggufgen_find(g, t->name)->data + (p->rows - 1) *
		                    p->row_bytes, p->row_bytes);
		free(group);
	}
	assert_int_equal(n_split, 1);
	packfile_free(f);
	close(empty);
	close(gguf);
	close(fd);
	ggufgen_free(g);
}

/* A file of an older form reads, exports, and is packed to the same bytes as its GGUF; one whose
 * bytes have changed is not. */
static void check_outdated(enum pack_form form)
{
	struct packer_result result, again;
	struct packfile *f = NULL;
	struct ggufgen *g = all_types();
	int gguf = ggufgen_memfd(g), fd = packed_of(gguf, &result), old = new_file(), out;
	struct err err = { 0 };
	size_t n, m;
	uint8_t *a, *b;

	packold_make(old, fd, form);
	assert_int_equal(packfile_open(&f, old, "x", &err), 0);
	assert_true(f->outdated);
	out = new_file();
	assert_int_equal(packer_export(&again, old, out, "x", URING_AUTO, &io, &err), 0);
	assert_string_equal(again.checksum, result.checksum);
	close(out);
	for (unsigned kind = URING_AUTO; kind <= URING_PLAIN; kind++) {
		out = new_file();
		if (packer_pack(&again, old, out, "x", kind, &io, &err) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(again.packed_tensors, result.packed_tensors);
		a = bytes_of(fd, &n);
		b = bytes_of(out, &m);
		assert_int_equal(n, m);
		assert_memory_equal(a, b, n);
		free(a);
		free(b);
		close(out);
	}
	out = new_file();
	assert_int_equal(packer_pack(&again, fd, out, "x", URING_AUTO, &io, &err), -EINVAL);
	assert_non_null(strstr(err.text, "packed already"));
	assert_int_equal(fd_pwrite_all(old, "damage", 6, f->tensors[3].offset), 0);
	err_clear(&err);
	assert_int_equal(packer_pack(&again, old, out, "x", URING_AUTO, &io, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "import the model again"));
	packfile_free(f);
	close(out);
	close(old);
	close(fd);
	close(gguf);
	ggufgen_free(g);
}

static void test_outdated(void **state)
{
	(void)state;
	check_outdated(PACK_NONE);
	check_outdated(PACK_R16);
}

static void refused(const uint8_t *p, size_t n, const char *says)
{
	struct packfile *f = NULL;
	struct err err = { 0 };
	int64_t blocks = mem_live_blocks();
	int fd = new_file(), r;

	assert_int_equal(fd_pwrite_all(fd, p, n, 0), 0);
	r = packfile_open(&f, fd, "x", &err);
	if (r != -EBADMSG && r != -ENOTSUP)
		fail_msg("%s: %d", says, r);
	if (!strstr(err.text, says))
		fail_msg("'%s' lacks '%s'", err.text, says);
	assert_int_equal(mem_live_blocks(), blocks);
	close(fd);
}

/* Sums made right again, so that what lies behind them is looked at. */
static void sign(uint8_t *p, bool meta)
{
	uint64_t head, tensors, sum;
	XXH128_hash_t wide;

	memcpy(&head, p + 32, 8);
	memcpy(&tensors, p + 48, 8);
	if (meta) {
		wide = XXH3_128bits(p + 128, head + tensors * 48);
		memcpy(p + 80, &wide.low64, 8);
		memcpy(p + 88, &wide.high64, 8);
	}
	sum = XXH3_64bits(p, 120);
	memcpy(p + 120, &sum, 8);
}

static void test_damage(void **state)
{
	static const struct {
		size_t at, n;           /* in the header, or in the first record */
		bool record;
		uint64_t value;
		const char *says;
	} lies[] = {
		{ 8, 4, false, 2, "in version 2, layout" },
		{ 12, 4, false, 99, "layout 99" },
		{ 16, 8, false, 1, "its header says 1" },
		{ 24, 8, false, UINT64_MAX, "claims a head" },
		{ 24, 8, false, 5000, "damaged" },
		{ 32, 8, false, 200ull << 20, "claims a head" },
		{ 32, 8, false, UINT64_MAX - 100, "claims a head" },
		{ 40, 8, false, 7, "its header says" },
		{ 48, 8, false, 1u << 20, "claims a head" },
		{ 48, 8, false, 1, "checksum of its metadata" },
		{ 56, 8, false, 0, "its header says" },
		{ 72, 8, false, 1, "checksum of its header" },
		{ 0, 4, true, 2, "is recorded with type 2" },
		{ 4, 4, true, 3, "in form 3" },
		{ 8, 8, true, 33, "33 x " },
		{ 16, 8, true, UINT64_MAX, "are right" },
		{ 24, 8, true, 4096, "at 4096 where" },
		{ 24, 8, true, UINT64_MAX - 63, "are right" },
		{ 32, 8, true, UINT64_MAX, "are right" },
	};
	const struct ggufgen_tiny tiny = { .type = QTYPE_Q8_0, .embd_type = QTYPE_Q8_0, .seed = 3 };
	struct ggufgen *g = ggufgen_tiny(&tiny);
	struct packer_result result;
	int gguf = ggufgen_memfd(g), fd = packed_of(gguf, &result);
	size_t n;
	uint8_t *whole = bytes_of(fd, &n), *p = malloc(n);
	uint64_t head;

	(void)state;
	memcpy(&head, whole + 32, 8);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		memcpy(p, whole, n);
		memcpy(p + (lies[i].record ? 128 + head : 0) + lies[i].at, &lies[i].value,
		       lies[i].n);
		sign(p, lies[i].record);
		refused(p, n, lies[i].says);
	}
	/* any byte of header, head and records */
	for (size_t i = 0; i < 128 + head + 48; i += i < 128 ? 1 : 97) {
		memcpy(p, whole, n);
		p[i] ^= 0x10;
		refused(p, n, i < 16 ? "" : "damaged");
	}
	for (size_t i = 0; i < n; i = i < 200 ? i + 7 : i + n / 9)
		refused(whole, i, "damaged");
	free(p);
	free(whole);
	close(fd);
	close(gguf);
	ggufgen_free(g);
}

/* A bit of the weights: the head is right, and the tensor is named. */
static void test_damaged_weights(void **state)
{
	struct packer_result result;
	struct packfile *f = NULL;
	struct ggufgen *g = all_types();
	int gguf = ggufgen_memfd(g), fd = packed_of(gguf, &result);
	struct err err = { 0 };
	uint8_t byte;

	(void)state;
	assert_int_equal(packfile_open(&f, fd, "x", NULL), 0);
	for (size_t i = 0; i < f->gguf->n_tensors; i += 5) {
		uint64_t at = f->tensors[i].offset + f->tensors[i].bytes / 2;

		err_clear(&err);
		assert_int_equal(fd_pread_all(fd, &byte, 1, at), 0);
		byte ^= 1;
		assert_int_equal(fd_pwrite_all(fd, &byte, 1, at), 0);
		assert_int_equal(packer_export(&result, fd, -1, "x", URING_AUTO, &io, &err),
		                 -EBADMSG);
		assert_non_null(strstr(err.text, f->gguf->tensors[i].name));
		byte ^= 1;
		assert_int_equal(fd_pwrite_all(fd, &byte, 1, at), 0);
	}
	assert_int_equal(fd_pread_all(fd, &byte, 1, f->gaps_offset + 5), 0);
	byte ^= 1;
	assert_int_equal(fd_pwrite_all(fd, &byte, 1, f->gaps_offset + 5), 0);
	err_clear(&err);
	assert_int_equal(packer_export(&result, fd, -1, "x", URING_AUTO, &io, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "between its tensors"));
	packfile_free(f);
	close(fd);
	close(gguf);
	ggufgen_free(g);
}

static void test_every_allocation_may_fail(void **state)
{
	const struct ggufgen_tiny tiny = { .type = QTYPE_Q8_0, .seed = 3 };
	struct ggufgen *g = ggufgen_tiny(&tiny);
	struct packer_result result;
	int gguf = ggufgen_memfd(g), fd = packed_of(gguf, &result);
	int64_t blocks = mem_live_blocks();

	(void)state;
	for (uint64_t nth = 0;; nth++) {
		struct packfile *f = NULL;
		int r;

		mem_fault_arm(nth, false);
		r = packfile_open(&f, fd, "x", NULL);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			packfile_free(f);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(mem_live_blocks(), blocks);
	}
	close(fd);
	close(gguf);
	ggufgen_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_outdated),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_damaged_weights),
		cmocka_unit_test(test_every_allocation_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
