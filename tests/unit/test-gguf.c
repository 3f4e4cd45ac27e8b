/* The GGUF reader against right files and the malformed ones: each is refused with a sentence that
 * names the trouble, in bounded time and memory, without a leak, read through an fd and from memory
 * alike. */
#include "config.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/num.h"
#include "format/gguf.h"
#include "tests/lib/ggufgen.h"

#ifdef QLLM_SANITIZED
enum { SLOW = 20 };
#else
enum { SLOW = 1 };
#endif

/* Three tensors, keys of several kinds. */
static struct ggufgen *fixture(void)
{
	static const char *const words[] = { "one", "", "three" };
	struct ggufgen *g = ggufgen_new(1);

	ggufgen_str(g, "general.architecture", "llama");
	ggufgen_num(g, "n.u8", GGUF_U8, &(uint8_t){ 200 });
	ggufgen_num(g, "n.i8", GGUF_I8, &(int8_t){ -3 });
	ggufgen_num(g, "n.u16", GGUF_U16, &(uint16_t){ 60000 });
	ggufgen_num(g, "n.i16", GGUF_I16, &(int16_t){ 300 });
	ggufgen_num(g, "n.i32", GGUF_I32, &(int32_t){ -70000 });
	ggufgen_u32(g, "n.u32", 4000000000u);
	ggufgen_num(g, "n.u64", GGUF_U64, &(uint64_t){ 1ull << 40 });
	ggufgen_num(g, "n.i64", GGUF_I64, &(int64_t){ 77 });
	ggufgen_f32(g, "n.f32", 1.5f);
	ggufgen_num(g, "n.f64", GGUF_F64, &(double){ 0.25 });
	ggufgen_bool(g, "n.bool", true);
	ggufgen_strs(g, "a.str", words, 3);
	ggufgen_arr(g, "a.f32", GGUF_F32, (float[]){ 1, -2.5f, NAN }, 3);
	ggufgen_arr(g, "a.empty", GGUF_U64, NULL, 0);
	ggufgen_tensor(g, "first", QTYPE_F32, 32, 2, 0, 1);
	ggufgen_tensor(g, "second", QTYPE_Q4_0, 64, 3, 0, 1);
	ggufgen_tensor(g, "third", QTYPE_Q8_0, 32, 0, 0, 1);
	return g;
}

static double cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}
static long peak_kib(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss;
}
/* Both entries refuse it, with -EBADMSG and that text. */
static void refuse_bytes(const uint8_t *p, size_t n, const char *says)
{
	int64_t blocks = mem_live_blocks();
	double start = cpu_ms();
	long peak = peak_kib();
	struct gguf *g = NULL;
	struct err err = { 0 };
	int fd, r = gguf_parse(&g, p, n, n, "x.gguf", &err);

	if (r != -EBADMSG || !strstr(err.text, says))
		print_message("wanted '%s', got %d '%s'\n", says, r, err.text);
	assert_int_equal(r, -EBADMSG);
	assert_non_null(strstr(err.text, says));
	assert_non_null(strstr(err.text, "x.gguf: "));
	assert_null(g);
	err_clear(&err);
	fd = memfd_create("x", MFD_CLOEXEC);
	assert_int_equal(write(fd, p, n), (ssize_t)n);
	assert_int_equal(gguf_open(&g, fd, "x.gguf", &err), -EBADMSG);
	assert_non_null(strstr(err.text, says));
	assert_null(g);
	close(fd);
	assert_int_equal(mem_live_blocks(), blocks);
	assert_true(cpu_ms() - start < 100 * SLOW);
	if (SLOW == 1)
		assert_true(peak_kib() - peak < 16 << 10);
}
static void refuse(struct ggufgen *gen, const char *says)
{
	size_t n;
	uint8_t *p = ggufgen_bytes(gen, &n);

	ggufgen_free(gen);
	refuse_bytes(p, n, says);
	free(p);
}
static struct gguf *accept(struct ggufgen *gen)
{
	struct gguf *g = NULL, *from_fd = NULL;
	struct err err = { 0 };
	size_t n;
	uint8_t *p = ggufgen_bytes(gen, &n);
	int fd = ggufgen_memfd(gen), r = gguf_parse(&g, p, n, n, "x.gguf", &err);

	if (r < 0)
		print_message("%s\n", err.text);
	assert_int_equal(r, 0);
	assert_int_equal(gguf_open(&from_fd, fd, "x.gguf", &err), 0);
	assert_int_equal(from_fd->n_kv, g->n_kv);
	assert_int_equal(from_fd->n_tensors, g->n_tensors);
	assert_int_equal(from_fd->data_offset, g->data_offset);
	gguf_free(from_fd);
	close(fd);
	free(p);
	ggufgen_free(gen);
	return g;
}

static void test_reads_what_was_written(void **state)
{
	struct ggufgen *gen = fixture();
	struct gguf *g;
	size_t n;
	uint8_t *p = ggufgen_bytes(gen, &n);

	(void)state;
	assert_int_equal(gguf_parse(&g, p, n, n, "x", NULL), 0);
	assert_int_equal(g->version, 3);
	assert_int_equal(g->file_size, n);
	assert_int_equal(g->alignment, 32);
	assert_int_equal(g->n_kv, 15);
	assert_int_equal(g->n_tensors, 3);
	assert_null(g->notice);
	for (size_t i = 0; i < 3; i++) {
		const struct tensor *t = gguf_tensor(g, gen->tensor[i].name);

		assert_ptr_equal(t, &g->tensors[i]);
		assert_string_equal(t->name, gen->tensor[i].name);
		assert_int_equal(t->type, gen->tensor[i].type);
		assert_int_equal(t->n_bytes, gen->tensor[i].n_bytes);
		assert_memory_equal(p + t->offset, gen->tensor[i].data, t->n_bytes);
	}
	assert_int_equal(g->tensors[1].n_elems, 192);
	assert_int_equal(g->tensors[1].dim[0], 64);
	assert_int_equal(g->tensors[1].dim[1], 3);
	assert_int_equal(g->tensors[1].dim[2], 1);
	assert_null(gguf_tensor(g, "fourth"));
	assert_non_null(gguf_find(g, "general.architecture"));
	memset(p, 0xff, n);                     /* nothing points into the caller's memory */
	assert_string_equal(g->tensors[2].name, "third");
	gguf_drop_metadata(g);
	assert_int_equal(g->n_kv, 0);
	assert_null(gguf_find(g, "general.architecture"));
	assert_string_equal(gguf_tensor(g, "third")->name, "third");
	free(p);
	gguf_free(g);
	ggufgen_free(gen);
}

static void test_every_type_by_bytes(void **state)
{
	static const struct { uint8_t id; uint16_t block, bytes; } types[] = {
		{ 0, 1, 4 },      { 1, 1, 2 },      { 2, 32, 18 },    { 3, 32, 20 },
		{ 6, 32, 22 },    { 7, 32, 24 },    { 8, 32, 34 },    { 9, 32, 36 },
		{ 10, 256, 84 },  { 11, 256, 110 }, { 12, 256, 144 }, { 13, 256, 176 },
		{ 14, 256, 210 }, { 15, 256, 292 }, { 16, 256, 66 },  { 17, 256, 74 },
		{ 18, 256, 98 },  { 19, 256, 50 },  { 20, 32, 18 },   { 21, 256, 110 },
		{ 22, 256, 82 },  { 23, 256, 136 }, { 24, 1, 1 },     { 25, 1, 2 },
		{ 26, 1, 4 },     { 27, 1, 8 },     { 28, 1, 8 },     { 29, 256, 56 },
		{ 30, 1, 2 },     { 34, 256, 54 },  { 35, 256, 66 },  { 39, 32, 17 },
		{ 40, 64, 36 },   { 41, 128, 18 },  { 42, 64, 18 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct ggufgen *gen = ggufgen_new(i);
		struct gguf *g;

		ggufgen_tensor(gen, "t", types[i].id, (uint64_t)2 * types[i].block, 3, 0, 1);
		ggufgen_tensor(gen, "next", QTYPE_F32, 1, 0, 0, 1);
		g = accept(gen);
		assert_int_equal(g->tensors[0].n_bytes, 6 * types[i].bytes);
		gguf_free(g);
	}
}

static void test_getters_judge_kind_and_range(void **state)
{
	struct gguf *g = accept(fixture());
	struct err err = { 0 };
	struct bytes s = { 0 };
	const void *data;
	uint64_t n;
	uint32_t u = 7;
	float f;
	bool b;

	(void)state;
	assert_int_equal(gguf_get_u32(g, "n.u8", &u, NULL), 0);
	assert_int_equal(u, 200);
	assert_int_equal(gguf_get_u32(g, "n.u16", &u, NULL), 0);
	assert_int_equal(u, 60000);
	assert_int_equal(gguf_get_u32(g, "n.i16", &u, NULL), 0);
	assert_int_equal(u, 300);
	assert_int_equal(gguf_get_u32(g, "n.u32", &u, NULL), 0);
	assert_true(u == 4000000000u);
	assert_int_equal(gguf_get_u32(g, "n.i64", &u, NULL), 0);
	assert_int_equal(u, 77);
	assert_int_equal(gguf_get_u32(g, "n.absent", &u, &err), GGUF_E_ABSENT);
	assert_int_equal(u, 77);
	assert_int_equal(gguf_get_u32(g, "n.i8", &u, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "negative"));
	err_clear(&err);
	assert_int_equal(gguf_get_u32(g, "n.i32", &u, &err), -EBADMSG);
	assert_int_equal(gguf_get_u32(g, "n.u64", &u, NULL), -EBADMSG);
	assert_int_equal(gguf_get_u32(g, "n.f32", &u, NULL), -EBADMSG);
	assert_int_equal(gguf_get_u32(g, "n.bool", &u, NULL), -EBADMSG);
	assert_int_equal(gguf_get_u32(g, "a.empty", &u, NULL), -EBADMSG);
	assert_int_equal(u, 77);
	assert_int_equal(gguf_get_f32(g, "n.f32", &f, NULL), 0);
	assert_true(f == 1.5f);
	assert_int_equal(gguf_get_f32(g, "n.f64", &f, NULL), 0);
	assert_true(f == .25f);
	assert_int_equal(gguf_get_f32(g, "n.u32", &f, NULL), -EBADMSG);
	assert_int_equal(gguf_get_f32(g, "a.f32", &f, NULL), -EBADMSG);
	assert_int_equal(gguf_get_bool(g, "n.bool", &b, NULL), 0);
	assert_true(b);
	assert_int_equal(gguf_get_bool(g, "n.u8", &b, NULL), -EBADMSG);
	assert_int_equal(gguf_get_str(g, "general.architecture", &s, NULL), 0);
	assert_int_equal(s.n, 5);
	assert_memory_equal(s.p, "llama", 5);
	err_clear(&err);
	assert_int_equal(gguf_get_str(g, "a.str", &s, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "a.str"));
	assert_int_equal(gguf_get_arr(g, "a.str", GGUF_STR, &data, &n, NULL), 0);
	assert_int_equal(n, 3);
	assert_memory_equal(((const struct bytes *)data)[2].p, "three", 5);
	assert_int_equal(((const struct bytes *)data)[1].n, 0);
	assert_int_equal(gguf_get_arr(g, "a.f32", GGUF_F32, &data, &n, NULL), 0);
	assert_true(((const float *)data)[1] == -2.5f);
	err_clear(&err);
	assert_int_equal(gguf_get_arr(g, "a.f32", GGUF_U8, &data, &n, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "array of u8"));
	assert_int_equal(gguf_get_arr(g, "n.u32", GGUF_U32, &data, &n, NULL), -EBADMSG);
	assert_int_equal(gguf_get_arr(g, "a.empty", GGUF_U64, &data, &n, NULL), 0);
	assert_int_equal(n, 0);
	gguf_free(g);
}

static void test_json_text(void **state)
{
	struct ggufgen *gen = fixture();
	struct sbuf out = { 0 };
	struct gguf *g;

	(void)state;
	ggufgen_strn(gen, "ugly", "a\"\\\n\x01\xff\xc3\xa9", 8);
	g = accept(gen);
	for (size_t i = 0; i < g->n_kv; i++) {
		assert_int_equal(gguf_value_json(&g->kv[i].v, 2, &out), 0);
		sbuf_append(&out, " ", 1);
	}
	assert_string_equal(
		out.p,
		"\"llama\" 200 -3 60000 300 -70000 4000000000 1099511627776 77 1.5 0.25 true "
		"[\"one\",\"\",\"...\"] [1,-2.5,\"...\"] [] "
		"\"a\\\"\\\\\\u000a\\u0001\\ufffd\xc3\xa9\" ");
	out.n = 0;
	assert_int_equal(gguf_value_json(gguf_find(g, "a.f32"), 0, &out), 0);
	assert_int_equal(gguf_value_json(gguf_find(g, "a.f32"), 3, &out), 0);
	assert_string_equal(out.p, "[\"...\"][1,-2.5,null]");
	sbuf_deinit(&out);
	gguf_free(g);
}

/* G1..G12 */
static void test_bad_headers(void **state)
{
	struct ggufgen *g;
	uint8_t *p, zeros[64] = { 0 };
	size_t n;

	(void)state;
	refuse_bytes(zeros, 0, "the file is empty");
	refuse_bytes(zeros, 64, "not a GGUF file");
	refuse_bytes((const uint8_t *)"PK\3\4..........................", 30, "zip archive");
	refuse_bytes((const uint8_t *)"GGU", 3, "the file ends inside the file header");
	g = fixture();
	p = ggufgen_bytes(g, &n);
	for (size_t i = 1; i < n; i++)
		refuse_bytes(p, i, i < 24 ? "ends inside the file header" : "");
	free(p);
	memcpy(g->magic, "GGUX", 4);
	refuse(g, "not a GGUF file");
	for (uint32_t v = 0; v < 7; v++) {
		char says[32];

		if (v == 2 || v == 3)
			continue;
		(g = fixture())->version = v;
		snprintf(says, sizeof(says), "version %u is not supported", v);
		refuse(g, says);
	}
	(g = fixture())->version = 0x03000000;
	refuse(g, "big-endian");
	(g = fixture())->claim_tensors = UINT64_MAX;
	refuse(g, "claims 18446744073709551615 tensors");
	(g = fixture())->claim_kv = UINT64_MAX;
	refuse(g, "claims 18446744073709551615 metadata keys");
	(g = ggufgen_new(1))->claim_tensors = 1ull << 32;
	refuse(g, "claims 4294967296 tensors");
	g = ggufgen_new(1);
	g->claim_kv = 1 << 24;
	g->trailing = 1 << 20;
	refuse(g, "claims 16777216 metadata keys");
	(g = fixture())->claim_tensors = 100000;
	refuse(g, "claims 100000 tensors");
	(g = fixture())->claim_kv = 60000;
	refuse(g, "claims 60000 metadata keys");
	(g = fixture())->claim_kv = 16;         /* the first tensor read as a key */
	refuse(g, "name of tensor 0");
	(g = fixture())->claim_tensors = 4;
	refuse(g, "tensor");
	gguf_free(accept(ggufgen_new(1)));      /* an empty container is a container */
	(g = fixture())->version = 2;
	gguf_free(accept(g));
}

static struct ggufgen *with_raw(uint32_t kind, const void *payload, size_t n)
{
	struct ggufgen *g = fixture();

	ggufgen_raw(g, "bent", 4, kind, payload, n);
	return g;
}
static struct ggufgen *with_array(uint32_t kind, uint64_t count, const void *payload, size_t n)
{
	uint8_t raw[256];

	memcpy(raw, &kind, 4);
	memcpy(raw + 4, &count, 8);
	memcpy(raw + 12, payload, n);
	return with_raw(GGUF_ARR, raw, n + 12);
}
/* A file that is one key of a claimed length. */
static void refuse_key_len(uint64_t len, const char *says)
{
	struct ggufgen *g = ggufgen_new(1);
	size_t n;
	uint8_t *p;

	ggufgen_str(g, "key", "value");
	p = ggufgen_bytes(g, &n);
	memcpy(p + 24, &len, 8);
	refuse_bytes(p, n, says);
	free(p);
	ggufgen_free(g);
}
/* G13..G30 */
static void test_bad_keys(void **state)
{
	struct ggufgen *g;
	char *big = calloc(1, 70000);

	(void)state;
	refuse_key_len(1ull << 63, "has 9223372036854775808 bytes");
	refuse_key_len(3 + 4 + 8 + 5 + 1, "ends inside metadata key 0");
	refuse_key_len(0, "metadata key 0 is empty");
	memset(big, 'k', 70000);
	g = fixture();
	ggufgen_raw(g, big, 65536, GGUF_U8, "1", 1);
	gguf_free(accept(g));
	g = fixture();
	ggufgen_raw(g, big, 65537, GGUF_U8, "1", 1);
	refuse(g, "at most 65536");
	free(big);
	g = fixture();
	ggufgen_raw(g, "n.u8", 4, GGUF_U8, "1", 1);
	refuse(g, "key 'n.u8' occurs twice");
	g = fixture();
	ggufgen_raw(g, "a\0b", 3, GGUF_U8, "1", 1);
	refuse(g, "not valid text: 'a\\x00b'");
	g = fixture();
	ggufgen_raw(g, "a\xff", 2, GGUF_U8, "1", 1);
	refuse(g, "not valid text: 'a\\xff'");
	refuse(with_raw(13, "1234", 4), "key 'bent' has value type 13");
	refuse(with_raw(UINT32_MAX, "1234", 4), "value type 4294967295");
	refuse(with_raw(GGUF_BOOL, "\2", 1), "boolean 0 has the value 2");
	refuse(with_array(GGUF_BOOL, 3, "\0\1\7", 3), "boolean 2 has the value 7");
	refuse(with_array(GGUF_ARR, 1, "\0\0\0\0\0\0\0\0\0\0\0\0", 12), "array of arrays");
	refuse(with_array(13, 1, "1234", 4), "array of value type 13");
	refuse(with_array(GGUF_U8, 1ull << 63, "1234", 4),
	       "9223372036854775808 u8 values do not fit");
	refuse(with_array(GGUF_U64, (1ull << 61) + 1, "12345678", 8), "u64 values do not fit");
	refuse(with_array(GGUF_STR, 1ull << 61, "12345678", 8), "strings do not fit");
	refuse(with_array(GGUF_STR, 2, "\1\0\0\0\0\0\0\0a\377\377\0\0\0\0\0\0", 17),
	       "string 1 has 65535 bytes");
	refuse(with_array(GGUF_STR, 2, "\1\0\0\0\0\0\0\0a\377\377\377\377\377\377\377\377", 17),
	       "string 1 has");
	refuse(with_raw(GGUF_STR, "\377\377\377\377\377\377\377\177", 8), "string 0 has");
	for (uint64_t align = 0; align < 1ull << 32; align = align ? align * 2 : 1) {
		(g = fixture())->alignment = align >= 8 && align <= 65536 ? align : 32;
		ggufgen_u32(g, "general.alignment", (uint32_t)align);
		if (align >= 8 && align <= 65536)
			gguf_free(accept(g));
		else
			refuse(g, "general.alignment is");
	}
	g = fixture();
	ggufgen_u32(g, "general.alignment", 13);
	refuse(g, "general.alignment is 13");
	g = fixture();
	ggufgen_num(g, "general.alignment", GGUF_I32, &(int32_t){ 32 });
	refuse(g, "general.alignment is of kind i32");
	g = fixture();
	ggufgen_str(g, "general.alignment", "32");
	refuse(g, "general.alignment is of kind string");
	g = fixture();
	ggufgen_arr(g, "general.alignment", GGUF_U32, &(uint32_t){ 32 }, 1);
	refuse(g, "general.alignment is of kind array");
}

static struct ggufgen *bent(struct ggufgen_tensor **t)
{
	struct ggufgen *g = fixture();

	*t = ggufgen_find(g, "second");
	return g;
}
/* G32..G47 */
static void test_bad_tensors(void **state)
{
	static const uint32_t no_types[] = { 4, 5, 31, 32, 33, 36, 37, 38, 43, 133, UINT32_MAX };
	static const uint32_t no_dims[] = { 0, 5, UINT32_MAX };
	struct ggufgen_tensor *t;
	struct ggufgen *g;

	(void)state;
	g = bent(&t);
	t->name = realloc(t->name, 65);
	memset(t->name, 'n', 64);
	t->name[64] = 0;
	t->name_len = 64;
	refuse(g, "has 64 bytes, at most 63");
	g = bent(&t);
	t->name_len = 1ull << 63;
	refuse(g, "name of tensor 1 has 9223372036854775808 bytes");
	g = bent(&t);
	t->name_len = 0;
	refuse(g, "name of tensor 1 is empty");
	g = bent(&t);
	memcpy(t->name, "first\0", 7);
	t->name_len = 5;
	refuse(g, "tensor 'first' occurs twice");
	g = bent(&t);
	t->name[2] = '\xfe';
	refuse(g, "not valid text");
	for (size_t i = 0; i < ARRAY_SIZE(no_dims); i++) {
		g = bent(&t);
		t->n_dims = no_dims[i];
		refuse(g, "dimensions, 1 to 4 are allowed");
	}
	g = bent(&t);
	t->dim[1] = (uint64_t)-3;
	refuse(g, "dimension 1 = 18446744073709551613");
	g = bent(&t);
	t->dim[1] = 0;
	refuse(g, "tensor 'second': dimension 1 is zero");
	g = bent(&t);
	t->dim[1] = 1ull << 57;
	refuse(g, "too large");
	g = bent(&t);
	t->n_dims = 4;
	t->dim[1] = t->dim[2] = t->dim[3] = 1ull << 31;
	refuse(g, "too large");
	g = bent(&t);
	t->dim[1] = (1ull << 42) + 1;
	refuse(g, "reaches past the end");
	g = bent(&t);
	t->type = QTYPE_F64;
	t->dim[0] = INT64_MAX / 8;
	t->dim[1] = 4;
	refuse(g, "overflows");
	g = bent(&t);                           /* 2^64 - 16 bytes of F16: padding it to 32 wraps */
	t->type = QTYPE_F16;
	t->dim[0] = INT64_MAX - 7;
	t->dim[1] = 1;
	refuse(g, "reaches past the end");
	g = bent(&t);                           /* two of 2^63 bytes: their sum wraps */
	t->type = g->tensor[0].type = QTYPE_I8;
	t->dim[0] = g->tensor[0].dim[0] = 1ull << 62;
	t->dim[1] = g->tensor[0].dim[1] = 1;
	refuse(g, "reaches past the end");
	g = bent(&t);
	t->dim[0] = 48;
	refuse(g, "no multiple of the 32 of a Q4_0 block");
	for (size_t i = 0; i < ARRAY_SIZE(no_types); i++) {
		g = bent(&t);
		t->type = no_types[i];
		refuse(g, "which is unknown or was removed");
	}
	g = bent(&t);
	t->offset = 257;
	refuse(g, "is no multiple of the alignment 32");
	g = bent(&t);
	t->offset = 0;
	refuse(g, "tensors 'first' and 'second' overlap");
	g = bent(&t);
	t->offset = 224;
	refuse(g, "tensors 'first' and 'second' overlap");
	g = bent(&t);
	/* its end now lies where the file's last bytes are */
	t->offset = 256 + 128;
	refuse(g, "tensor 'second' (108 bytes) reaches past the end");
	g = bent(&t);
	t->offset = (uint64_t)-32;
	refuse(g, "reaches past the end");
}

/* G44..G49: what is merely odd is accepted and said. */
static void test_oddities_are_noticed(void **state)
{
	struct ggufgen *gen = fixture();
	struct ggufgen_tensor *a, *b, swap;
	struct gguf *g;
	size_t n, end;
	uint8_t *p;

	(void)state;
	gen->gap = 64;
	g = accept(gen);
	assert_string_equal(g->notice, "unused bytes: 128 between tensors, 0 after the last");
	gguf_free(g);
	(gen = fixture())->trailing = 100;      /* of which 30 are the last tensor's padding */
	g = accept(gen);
	assert_string_equal(g->notice, "unused bytes: 0 between tensors, 70 after the last");
	gguf_free(g);
	(gen = fixture())->trailing = 30;
	g = accept(gen);
	assert_null(g->notice);
	gguf_free(g);
	/* descriptors need not be in the order of the data */
	gen = fixture();
	a = ggufgen_find(gen, "first");
	b = ggufgen_find(gen, "third");
	a->offset = 0;
	gen->tensor[1].offset = 256;
	b->offset = 384;
	swap = *a;
	*a = *b;
	*b = swap;
	p = ggufgen_bytes(gen, &n);
	ggufgen_free(gen);
	assert_int_equal(gguf_parse(&g, p, n, n, "x", NULL), 0);
	assert_string_equal(g->tensors[0].name, "third");
	assert_null(g->notice);
	/* the last one, without its padding */
	end = g->tensors[0].offset + g->tensors[0].n_bytes;
	gguf_free(g);
	/* cut short: the tensor that is hit is named */
	for (size_t cut = 1; cut <= end; cut += 3) {
		struct err err = { 0 };

		assert_int_equal(gguf_parse(&g, p, n, end - cut, "x", &err), -EBADMSG);
		assert_non_null(strstr(err.text, "reaches past the end of the file"));
	}
	free(p);
}

/* G26, G50 and a vocabulary as large as they come: time and memory grow with the file, no
 * faster. */
static void test_large_headers(void **state)
{
	struct ggufgen *gen = ggufgen_new(1);
	double start;
	struct gguf *g;
	char key[32], **words = calloc(300000, sizeof(*words));
	size_t n;
	uint8_t *p;

	(void)state;
	for (unsigned i = 0; i < 65536; i++) {
		n = (size_t)snprintf(key, sizeof(key), "key.%u", i);
		ggufgen_raw(gen, key, n, GGUF_U8, "1", 1);
	}
	for (unsigned i = 0; i < 100000; i++) {
		snprintf(key, sizeof(key), "t%u", i);
		ggufgen_tensor(gen, key, QTYPE_F32, 1, 0, 0, 1);
	}
	p = ggufgen_bytes(gen, &n);
	start = cpu_ms();
	assert_int_equal(gguf_parse(&g, p, n, n, "x", NULL), 0);
	assert_true(cpu_ms() - start < 1000 * SLOW);
	assert_int_equal(gguf_tensor(g, "t99999")->offset, g->data_offset + 32 * 99999);
	gguf_free(g);
	free(p);
	ggufgen_raw(gen, "one too many", 12, GGUF_U8, "1", 1);
	refuse(gen, "at most 65536 keys");

	gen = ggufgen_new(1);
	for (unsigned i = 0; i < 300000; i++) {
		snprintf(key, sizeof(key), "token-%u", i);
		words[i] = strdup(key);
	}
	ggufgen_strs(gen, "tokens", (const char *const *)words, 300000);
	p = ggufgen_bytes(gen, &n);
	start = cpu_ms();
	g = accept(gen);
	assert_true(cpu_ms() - start < 1000 * SLOW);
	for (unsigned i = 0; i < 300000; i++) {
		const struct bytes *s = (const struct bytes *)gguf_find(g, "tokens")->data + i;

		assert_int_equal(s->n, strlen(words[i]));
		assert_memory_equal(s->p, words[i], s->n);
		free(words[i]);
	}
	free(words);
	free(p);
	gguf_free(g);
}

/* A value longer than the window, and strings across its edges. */
static void test_values_wider_than_the_window(void **state)
{
	struct ggufgen *gen = fixture();
	size_t n = (1 << 20) + 17;
	uint8_t *big = malloc(n);
	const void *data;
	uint64_t count;
	struct bytes s;
	struct gguf *g;
	int fd;

	(void)state;
	for (size_t i = 0; i < n; i++)
		big[i] = (uint8_t)(i * 7 + i / 251);
	ggufgen_strn(gen, "big.str", big, n);
	ggufgen_arr(gen, "big.u8", GGUF_U8, big, n);
	ggufgen_u32(gen, "after", 12345);
	fd = ggufgen_memfd(gen);
	ggufgen_free(gen);
	assert_int_equal(gguf_open(&g, fd, "x", NULL), 0);
	assert_int_equal(gguf_get_str(g, "big.str", &s, NULL), 0);
	assert_int_equal(s.n, n);
	assert_memory_equal(s.p, big, n);
	assert_int_equal(gguf_get_arr(g, "big.u8", GGUF_U8, &data, &count, NULL), 0);
	assert_int_equal(count, n);
	assert_memory_equal(data, big, n);
	assert_int_equal(*(const uint32_t *)gguf_find(g, "after")->data, 12345);
	gguf_free(g);
	close(fd);
	free(big);
}

/* A hole costs its maker nothing; reading it into memory would cost us. */
static void test_copied_metadata_is_bounded(void **state)
{
	static const struct { uint32_t kind; uint64_t n; } arrays[] = {
		{ GGUF_U8, (128 << 20) + 1 }, { GGUF_F64, 1 << 27 }, { GGUF_STR, (8 << 20) + 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(arrays); i++) {
		struct ggufgen *gen = ggufgen_new(1);
		struct err err = { 0 };
		struct gguf *g = NULL;
		long peak = peak_kib();
		uint8_t payload[12];
		int fd;

		memcpy(payload, &arrays[i].kind, 4);
		memcpy(payload + 4, &arrays[i].n, 8);
		ggufgen_raw(gen, "hole", 4, GGUF_ARR, payload, sizeof(payload));
		fd = ggufgen_memfd(gen);
		ggufgen_free(gen);
		assert_int_equal(ftruncate(fd, 4ll << 30), 0);
		assert_int_equal(gguf_open(&g, fd, "x", &err), -EBADMSG);
		assert_non_null(
			strstr(err.text, "key 'hole': the metadata takes more than 128 MiB"));
		if (SLOW == 1)
			assert_true(peak_kib() - peak < 16 << 10);
		close(fd);
	}
}

static uint64_t bytes_read(void)
{
	uint64_t n = 0;
	FILE *f = fopen("/proc/self/io", "re");

	if (!f || fscanf(f, "rchar: %" SCNu64, &n) != 1)
		skip();
	fclose(f);
	return n;
}
static void test_weights_are_not_read(void **state)
{
	struct ggufgen *gen = fixture();
	struct gguf *g;
	uint64_t before;
	size_t n;
	uint8_t *p;
	int fd = memfd_create("x", MFD_CLOEXEC);

	(void)state;
	/* the last one, claimed to be 1 GiB; a hole in the file */
	gen->tensor[2].n_dims = 2;
	gen->tensor[2].dim[1] = (1 << 30) / 34;
	p = ggufgen_bytes(gen, &n);
	assert_int_equal(write(fd, p, n), (ssize_t)n);
	assert_int_equal(ftruncate(fd, 2ll << 30), 0);
	before = bytes_read();
	assert_int_equal(gguf_open(&g, fd, "x", NULL), 0);
	assert_true(bytes_read() - before < 1 << 20);
	assert_true(g->tensors[2].n_bytes > 1000 << 20);
	gguf_free(g);
	free(p);
	ggufgen_free(gen);
	close(fd);
}

static void test_descriptors_that_are_no_files(void **state)
{
	struct err err = { 0 };
	struct gguf *g = NULL;
	int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)state;
	assert_int_equal(gguf_open(&g, fd, "dir", &err), -EINVAL);
	assert_non_null(strstr(err.text, "dir"));
	close(fd);
	assert_int_equal(gguf_open(&g, -1, "none", NULL), -EBADF);
	fd = memfd_create("x", MFD_CLOEXEC);
	assert_int_equal(gguf_open(&g, fd, "x\n", NULL), -EBADMSG);
	close(fd);
	assert_null(g);
}

static void test_every_allocation_may_fail(void **state)
{
	struct ggufgen *gen = fixture();
	int64_t blocks = mem_live_blocks();
	size_t n;
	uint8_t *p;
	int fd;

	(void)state;
	gen->trailing = 100;                    /* the notice is an allocation, too */
	p = ggufgen_bytes(gen, &n);
	fd = ggufgen_memfd(gen);
	ggufgen_free(gen);
	for (unsigned nth = 0;; nth++) {
		struct err err = { 0 };
		struct gguf *g = NULL;
		int r;

		mem_fault_arm(nth, false);
		r = nth % 2 ? gguf_parse(&g, p, n, n, "x", &err) : gguf_open(&g, fd, "x", &err);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			assert_true(nth > 5);
			gguf_free(g);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(err.code, -ENOMEM);
		assert_null(g);
		assert_int_equal(mem_live_blocks(), blocks);
	}
	assert_int_equal(mem_live_blocks(), blocks);
	free(p);
	close(fd);
}

/* Flipped bytes: parsed or refused, never anything else. */
static void test_random_damage(void **state)
{
	struct ggufgen *gen = fixture();
	int64_t blocks = mem_live_blocks();
	unsigned accepted = 0, rng = 12345;
	size_t n;
	uint8_t *p = ggufgen_bytes(gen, &n), *q = malloc(n);

	(void)state;
	ggufgen_free(gen);
	for (unsigned round = 0; round < 20000 / SLOW; round++) {
		struct gguf *g = NULL;
		int r;

		memcpy(q, p, n);
		for (unsigned i = 0; i <= round % 3; i++) {
			static const uint8_t edges[] = { 0, 1, 0x7f, 0x80, 0xff, 4, 8, 9 };

			rng = rng * 1103515245u + 12345;
			q[(rng >> 8) % n] = edges[rng >> 29];
		}
		r = gguf_parse(&g, q, n, n, "x", NULL);
		assert_true(r == 0 || r == -EBADMSG);
		assert_true((r == 0) == (g != NULL));
		accepted += r == 0;
		gguf_free(g);
	}
	assert_in_range(accepted, 1, 20000 / SLOW - 1);
	assert_int_equal(mem_live_blocks(), blocks);
	free(p);
	free(q);
}

static void test_real_models(void **state)
{
	static const struct {
		const char *file;
		size_t n_kv, n_tensors;
		uint64_t vocab;
	} models[] = {
		{ "smollm2.gguf", 33, 272, 49152 },
		{ "gemma3.gguf", 33, 236, 262144 },
	};
	const char *dir = getenv("QLLM_MODELS");
	char path[4096];

	(void)state;
	if (!dir)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
		struct gguf *g = NULL;
		struct err err = { 0 };
		const void *tokens;
		uint64_t n;
		int fd;

		snprintf(path, sizeof(path), "%s/%s", dir, models[i].file);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		assert_int_equal(gguf_open(&g, fd, path, &err), 0);
		assert_int_equal(g->n_kv, models[i].n_kv);
		assert_int_equal(g->n_tensors, models[i].n_tensors);
		assert_int_equal(
			gguf_get_arr(g, "tokenizer.ggml.tokens", GGUF_STR, &tokens, &n, &err), 0);
		assert_int_equal(n, models[i].vocab);
		assert_null(g->notice);
		gguf_free(g);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_what_was_written),
		cmocka_unit_test(test_every_type_by_bytes),
		cmocka_unit_test(test_getters_judge_kind_and_range),
		cmocka_unit_test(test_json_text),
		cmocka_unit_test(test_bad_headers),
		cmocka_unit_test(test_bad_keys),
		cmocka_unit_test(test_bad_tensors),
		cmocka_unit_test(test_oddities_are_noticed),
		cmocka_unit_test(test_large_headers),
		cmocka_unit_test(test_values_wider_than_the_window),
		cmocka_unit_test(test_copied_metadata_is_bounded),
		cmocka_unit_test(test_weights_are_not_read),
		cmocka_unit_test(test_descriptors_that_are_no_files),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_random_damage),
		cmocka_unit_test(test_real_models),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
