/* base: errors, cursor, text, containers, mailbox, descriptors, allocation. */
#include "base/cleanup.h"
#include "base/cursor.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mbox.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/roff.h"
#include "base/str.h"
#include "base/sum.h"
#include "base/vec.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <cmocka.h>

static void test_err_first_sentence_wins(void **state)
{
	struct err err = { 0 };
	char big[600];

	(void)state;
	assert_int_equal(err_set(&err, -EINVAL, "inner %d", 7), -EINVAL);
	assert_int_equal(err_set(&err, -ENOMEM, "outer"), -ENOMEM);
	assert_int_equal(err.code, -EINVAL);
	assert_string_equal(err.text, "inner 7");
	assert_int_equal(err_prefix(&err, -EIO, "file %s", "a\nb"), -EINVAL);
	assert_string_equal(err.text, "file a b: inner 7");
	assert_int_equal(err_set(NULL, -EIO, "nobody listens"), -EIO);
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	err_prefix(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
}

static void test_cursor_turns_bad_for_good(void **state)
{
	static const uint8_t bytes[] = { 1, 2, 3, 4, 5, 6, 7,   8,   9,   3, 0,
		                         0, 0, 0, 0, 0, 0, 'a', 'b', 'c', 1 };
	struct cursor c = cur_init(bytes, sizeof(bytes));
	struct bytes s;

	(void)state;
	assert_int_equal(cur_u8(&c), 1);
	assert_int_equal(cur_u64le(&c), 0x0908070605040302);
	s = cur_str64(&c, 3);
	assert_int_equal(s.n, 3);
	assert_memory_equal(s.p, "abc", 3);
	assert_int_equal(cur_left(&c), 1);
	assert_int_equal(cur_u16le(&c), 0);
	assert_true(c.bad);
	assert_int_equal(cur_u8(&c), 0);        /* although one byte is there */
	assert_int_equal(cur_left(&c), 0);
	c = cur_init(bytes + 9, sizeof(bytes) - 9);
	s = cur_str64(&c, 2);
	assert_true(c.bad);
	assert_int_equal(s.n, 0);
	c = cur_init("\xff\xff\xff\xff\xff\xff\xff\xff" "a", 9);
	assert_int_equal(cur_str64(&c, UINT64_MAX).n, 0);
	assert_true(c.bad);
}

static void test_num(void **state)
{
	uint64_t x = 5;

	(void)state;
	assert_true(align_overflows(UINT64_MAX - 2, 8, &x));
	assert_int_equal(x, 5);
	assert_false(align_overflows(17, 16, &x));
	assert_int_equal(x, 32);
	assert_int_equal(CLAMP(9, 1, MIN(4, MAX(2, 3))), 3);
	assert_true(is_pow2(64));
	assert_false(is_pow2(0));
	assert_int_equal(DIV_UP(7, 3), 3);
}

static void test_utf8(void **state)
{
	static const struct {
		const char *s;
		size_t complete;
		bool valid;
	} rows[] = {
		{ "", 0, true },
		{ "abc", 3, true },
		{ "\xc3\xa9", 2, true },
		{ "\xe2\x82\xac", 3, true },
		{ "\xf0\x9f\x98\x80", 4, true },
		{ "a\xf0\x9f\x98", 1, false },
		{ "a\xf0\x9f", 1, false },
		{ "a\xf0", 1, false },
		{ "a\xe2\x82", 1, false },
		{ "a\xc3", 1, false },
		{ "a\x80", 2, false },
		{ "\xc0\x80", 2, false },
		{ "\xc0", 1, false },
		{ "\xed\xa0\x80", 3, false },
		{ "\xed\xa0", 2, false },
		{ "\xe0\x80", 2, false },
		{ "\xf4\x90", 2, false },
		{ "\xf8", 1, false },
		{ "\x80\x80\x80\x80", 4, false },
		{ "\xf5\x80", 2, false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(utf8_valid(rows[i].s, strlen(rows[i].s)), rows[i].valid);
		assert_int_equal(utf8_complete_prefix(rows[i].s, strlen(rows[i].s)),
		                 rows[i].complete);
	}
	for (uint32_t cp = 0; cp <= 0x110000; cp++) {
		uint32_t back = 0;
		char out[4];
		unsigned n = utf8_encode(cp, out);

		if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff)) {
			assert_int_equal(n, 0);
			continue;
		}
		if (utf8_decode(out, n, &back) != n || back != cp ||
		    utf8_decode(out, n - 1, &back) != 0)
			fail_msg("U+%04X does not come back", cp);
	}
}

static void test_str_escape(void **state)
{
	char out[16];

	(void)state;
	assert_string_equal(str_escape(out, sizeof(out), "ab\n\xff", 4), "ab\\x0a\\xff");
	assert_string_equal(str_escape(out, sizeof(out), "123456789012345", 15), "123456789012345");
	assert_string_equal(str_escape(out, sizeof(out), "1234567890123456", 16),
	                    "123456789012...");
	assert_string_equal(str_escape(out, sizeof(out), "12345678\xe2\x82\xac\n.", 13),
	                    "12345678\xe2\x82\xac...");
	assert_string_equal(str_escape(out, 8, "1234\n", 5), "1234...");
	assert_string_equal(str_escape(out, 3, "1234", 4), "..");
	assert_string_equal(str_escape(out, 1, "1234", 4), "");
	assert_string_equal(str_escape(out, sizeof(out), "\xe2\x80\xae", 3), "\\xe2\\x80\\xae");
	assert_string_equal(str_escape(out, sizeof(out), "\xc2\x85", 2), "\\xc2\\x85");
	assert_string_equal(str_escape(out, sizeof(out), "", 0), "");
}

static void test_parsers(void **state)
{
	static const char *const bad_u64[] = { "", " 1", "+1", "-1", "1 ", "0x1", "1e3" };
	static const char *const bad_double[] = { "",    " 1", "+1", "1 ", "0x1", "nan",
		                                  "inf", "-",  ".",  "1e", "--1", "1,5" };
	uint64_t u = 77;
	double d = 77;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad_u64); i++)
		assert_int_equal(str_to_u64(bad_u64[i], &u), -EINVAL);
	assert_int_equal(str_to_u64("18446744073709551616", &u), -ERANGE);
	assert_int_equal(u, 77);
	assert_int_equal(str_to_u64("18446744073709551615", &u), 0);
	assert_true(u == UINT64_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(bad_double); i++)
		assert_int_equal(str_to_double(bad_double[i], &d), -EINVAL);
	assert_int_equal(str_to_double("1e999", &d), -ERANGE);
	assert_true(d == 77);
	assert_int_equal(str_to_double("-1.25e1", &d), 0);
	assert_true(d == -12.5);
	assert_true(str_is_name("a") && str_is_name("Q4_K.gguf-1"));
	assert_false(str_is_name("") || str_is_name(".a") || str_is_name("a/b") ||
	             str_is_name("a b"));
	assert_true(
		str_is_name("0123456789012345678901234567890123456789012345678901234567890123"));
	assert_false(
		str_is_name("01234567890123456789012345678901234567890123456789012345678901234"));
}

static void test_sbuf(void **state)
{
	struct sbuf s = { .max = 100 };
	char *p;

	(void)state;
	p = sbuf_steal(&s);
	assert_string_equal(p, "");
	mem_free(p);
	for (int i = 0; i < 10; i++)
		assert_int_equal(sbuf_printf(&s, "%08d..", i), 0);
	assert_int_equal(sbuf_append(&s, "x", 1), -ENOSPC);
	assert_int_equal(s.n, 100);
	assert_int_equal(s.p[100], 0);
	p = sbuf_steal(&s);
	assert_int_equal(strlen(p), 100);
	mem_free(p);
	mem_fault_arm(0, false);
	assert_int_equal(sbuf_append(&s, "x", 1), -ENOMEM);
	assert_true(mem_fault_fired());
	assert_int_equal(s.n, 0);
	assert_int_equal(sbuf_append(&s, "x", 1), 0);
	assert_string_equal(s.p, "x");
	sbuf_deinit(&s);
	assert_int_equal(mem_live_blocks(), 0);
}

static void test_vec(void **state)
{
	VEC(int) v = { 0 };
	int more[] = { 7, 8 };

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(vec_push(&v, i), 0);
	assert_int_equal(vec_append(&v, more, 2), 0);
	assert_int_equal(v.n, 1002);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(v.data[i], i);
	assert_int_equal(v.data[1001], 8);
	assert_int_equal(vec_reserve(&v, SIZE_MAX / 2), -ENOMEM);
	assert_int_equal(v.n, 1002);
	vec_deinit(&v);
	assert_int_equal(mem_live_blocks(), 0);
}

/* Against a plain array, with removals: probe runs must survive the back shift. */
static void test_map_against_array(void **state)
{
	static void *want[512];
	struct map *m = NULL;
	uint32_t seed = 1;
	size_t n = 0;

	(void)state;
	assert_int_equal(map_new(&m), 0);
	assert_null(map_get(m, "x", 1));
	assert_null(map_remove(m, "x", 1));
	for (int step = 0; step < 20000; step++) {
		uint32_t key;

		seed = seed * 1664525 + 1013904223;
		key = seed >> 23;
		if (seed & 1024) {
			int r = map_add(m, &key, sizeof(key), &want[key]);

			assert_int_equal(r, want[key] ? MAP_E_EXISTS : 0);
			n += r == 0;
			want[key] = &want[key];
		} else {
			void *got = map_remove(m, &key, sizeof(key));

			assert_ptr_equal(got, want[key]);
			n -= got != NULL;
			want[key] = NULL;
		}
		assert_int_equal(map_size(m), n);
	}
	for (uint32_t key = 0; key < ARRAY_SIZE(want); key++) {
		assert_ptr_equal(map_get(m, &key, sizeof(key)), want[key]);
		assert_int_equal(map_has(m, &key, sizeof(key), NULL), want[key] != NULL);
	}
	assert_int_equal(map_add(m, "", 0, NULL), 0);
	assert_true(map_has(m, "", 0, NULL));
	map_free(m);
	assert_int_equal(mem_live_blocks(), 0);
}

static void test_map_survives_every_failed_allocation(void **state)
{
	(void)state;
	for (unsigned nth = 0;; nth++) {
		struct map *m = NULL;
		int added = 0;
		bool fired;

		mem_fault_arm(nth, false);
		if (map_new(&m) == 0)
			for (int key = 0; key < 40; key++)
				added += map_add(m, &key, sizeof(key), m) == 0;
		fired = mem_fault_fired();
		if (m)
			assert_int_equal(map_size(m), added);
		map_free(m);
		assert_int_equal(mem_live_blocks(), 0);
		if (!fired) {
			assert_int_equal(added, 40);
			return;
		}
	}
}

/* Blocks that held something before are zero throughout, whether pages were wiped or given back. */
static void test_aligned_is_zero(void **state)
{
	static const size_t sizes[] = { 1,     4095,   65535,   65536,         65537,
		                        70000, 200001, 1 << 20, (4 << 20) + 13 };

	(void)state;
	for (unsigned round = 0; round < 3; round++)
		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			unsigned char *p = mem_aligned((size_t)8 << 3 * round, sizes[i]);

			assert_non_null(p);
			for (size_t k = 0; k < sizes[i]; k++)
				if (p[k])
					fail_msg("round %u, %zu bytes: byte %zu is %u", round,
					         sizes[i], k, p[k]);
			memset(p, 0xa5, sizes[i]);
			mem_free(p);
		}
}

static void test_mem(void **state)
{
	struct arena a;
	char *s;
	void *p;

	(void)state;
	assert_null(mem_allocn(SIZE_MAX / 2, 3));
	assert_null(mem_reallocn(NULL, SIZE_MAX / 2, 3));
	p = mem_aligned(4096, 100);
	assert_int_equal((uintptr_t)p % 4096, 0);
	assert_int_equal(((char *)p)[99], 0);
	mem_free(p);
	mem_fault_arm(1, true);
	p = mem_alloc(1);
	assert_non_null(p);
	assert_null(mem_alloc(1));
	assert_null(mem_aligned(64, 1));
	assert_null(mem_strdup("x"));
	assert_true(mem_fault_fired());
	mem_free(p);
	p = mem_strndup("abc", 2);
	assert_string_equal(p, "ab");
	mem_free(p);
	arena_init(&a, 1 << 20);
	for (int i = 0; i < 1000; i++) {
		s = arena_alloc(&a, 100);
		assert_int_equal((uintptr_t)s % 16, 0);
		for (int j = 0; j < 100; j++)
			assert_int_equal(s[j], 0);
		memset(s, 0xff, 100);
	}
	s = arena_strndup(&a, "hello", 4);
	assert_string_equal(s, "hell");
	assert_null(arena_alloc(&a, 1 << 20));
	assert_null(arena_alloc(&a, SIZE_MAX - 3));
	assert_non_null(arena_alloc(&a, 200000));
	arena_deinit(&a);
	assert_int_equal(mem_live_blocks(), 0);
}

struct letter {
	int from, number;
	struct list node;
};
struct sender {
	struct mbox *box;
	int id;
	struct letter letters[5000];
	pthread_t thread;
};

static void *send_all(void *arg)
{
	struct sender *s = arg;

	for (int i = 0; i < (int)ARRAY_SIZE(s->letters); i++) {
		s->letters[i] = (struct letter){ .from = s->id, .number = i };
		mbox_push(s->box, &s->letters[i].node);
	}
	return NULL;
}

static void test_mbox_many_senders(void **state)
{
	static struct sender senders[3];
	struct mbox *box = NULL;
	int next[3] = { 0 }, got = 0;
	struct pollfd pfd;

	(void)state;
	assert_int_equal(mbox_new(&box), 0);
	assert_null(mbox_pop(box));
	assert_int_equal(mbox_wait(box, 1), 0);
	for (int i = 0; i < 3; i++) {
		senders[i].box = box;
		senders[i].id = i;
		assert_int_equal(pthread_create(&senders[i].thread, NULL, send_all, &senders[i]),
		                 0);
	}
	while (got < 15000) {
		struct list *item;

		assert_int_equal(mbox_wait(box, 10000), 1);
		while ((item = mbox_pop(box))) {
			struct letter *l = container_of(item, struct letter, node);

			assert_int_equal(l->number, next[l->from]++);
			got++;
		}
	}
	for (int i = 0; i < 3; i++)
		pthread_join(senders[i].thread, NULL);
	pfd = (struct pollfd){ .fd = mbox_fd(box), .events = POLLIN };
	assert_null(mbox_pop(box));
	assert_int_equal(poll(&pfd, 1, 0), 0);
	mbox_push(box, &senders[0].letters[0].node);
	assert_int_equal(poll(&pfd, 1, 0), 1);
	assert_non_null(mbox_pop(box));
	mbox_free(box);
	assert_int_equal(mem_live_blocks(), 0);
}

static void test_fd_rights(void **state)
{
	struct fd_set_in in = { .n = 0 };
	int pair[2], fds[FD_SCM_MAX], sealed;
	char buf[8], *text = NULL;
	size_t n = 0;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	sealed = fd_memfd_from("test", "hello", 5);
	assert_true(sealed >= 0);
	assert_true(pwrite(sealed, "J", 1, 0) < 0);
	assert_int_equal(fcntl(sealed, F_GET_SEALS) & 0xf,
	                 F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	for (int i = 0; i < FD_SCM_MAX; i++)
		fds[i] = sealed;
	assert_int_equal(fd_sendmsg(pair[0], "abc", 3, fds, FD_SCM_MAX, 0), 0);
	assert_int_equal(fd_recvmsg(pair[1], buf, sizeof(buf), &in, 0), 3);
	assert_int_equal(in.n, FD_SCM_MAX);
	assert_false(in.truncated);
	assert_true(fcntl(in.fd[252], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fd_pread_all(in.fd[252], buf, 5, 0), 0);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(fd_pread_all(in.fd[252], buf, 6, 0), -EIO);
	assert_int_equal(fd_pread_all(in.fd[252], buf, 2, UINT64_MAX - 1), -EOVERFLOW);
	assert_int_equal(fd_read_file(in.fd[252], 5, &text, &n), 0);
	assert_int_equal(n, 5);
	assert_string_equal(text, "hello");
	mem_free(text);
	fd_set_close(&in);
	assert_int_equal(fd_sendmsg(pair[0], "0123456789", 10, &sealed, 1, 0), 0);
	assert_int_equal(fd_recvmsg(pair[1], buf, sizeof(buf), NULL, 0), 8);
	assert_int_equal(fd_sendmsg(pair[0], "0123456789", 10, NULL, 0, 0), 0);
	assert_int_equal(fd_recvmsg(pair[1], buf, sizeof(buf), &in, 0), 8);
	assert_true(in.truncated);
	assert_int_equal(fd_recvmsg(pair[1], buf, sizeof(buf), &in, MSG_DONTWAIT), -EAGAIN);
	close(sealed);
	close(pair[0]);
	close(pair[1]);
}

static int stop_at_half(void *user, uint64_t done)
{
	return done >= *(const uint64_t *)user ? -ECANCELED : 0;
}

static void test_sum_file(void **state)
{
	static char big[3 << 20];
	char sum[SUM_TEXT_MAX], other[SUM_TEXT_MAX];
	uint64_t half = 1 << 20;
	int fd;

	(void)state;
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + i / 251);
	fd = fd_memfd_from("sum", big, sizeof(big));
	assert_true(fd >= 0);
	assert_int_equal(sum_file(sum, fd, 0, NULL, NULL, NULL), 0);
	assert_string_equal(sum, "xxh3-128:99aa06d3014798d86001c324468d497f");
	assert_int_equal(sum_file(sum, fd, sizeof(big), NULL, NULL, NULL), 0);
	assert_int_equal(sum_file(other, fd, sizeof(big) - 1, NULL, NULL, NULL), 0);
	assert_string_not_equal(sum, other);
	/* a file that is shorter than was said has no sum */
	assert_int_equal(sum_file(other, fd, sizeof(big) + 1, NULL, NULL, NULL), -EIO);
	assert_int_equal(sum_file(other, fd, sizeof(big), stop_at_half, &half, NULL), -ECANCELED);
	close(fd);
}

static void test_fd_read_file_bounds(void **state)
{
	static const size_t sizes[] = { 0, 1, 4094, 4095, 4096, 4097, 8191, 8192, 100000 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		size_t n = sizes[i], got = 0;
		char *text = NULL;
		int fd = fd_memfd("test", n);

		assert_true(fd >= 0);
		assert_int_equal(fd_read_file(fd, n, &text, &got), 0);
		assert_int_equal(got, n);
		assert_int_equal(text[n], 0);
		mem_free(text);
		assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
		if (n > 0)
			assert_int_equal(fd_read_file(fd, n - 1, &text, &got), -EFBIG);
		close(fd);
	}
	assert_int_equal(fd_memfd("test", UINT64_MAX), -EFBIG);
	assert_int_equal(mem_live_blocks(), 0);
}

static struct {
	int calls, level;
	unsigned n_fields;
	char text[4096];
} logged;

static void log_hook(enum log_level level, const char *message_id, const struct log_field *fields,
                     unsigned n_fields, const char *text)
{
	(void)message_id;
	(void)fields;
	logged.calls++;
	logged.level = (int)level;
	logged.n_fields = n_fields;
	snprintf(logged.text, sizeof(logged.text), "%s", text);
	errno = EIO;
}

static void test_log(void **state)
{
	const struct log_field field = { "QLLM_UID", "1000" };
	char big[5000];

	(void)state;
	log_set_hook(log_hook);
	errno = ENOENT;
	log_msg(LOG_L_WARN, "%s: %m", "file");
	assert_int_equal(errno, ENOENT);
	assert_int_equal(logged.calls, 1);
	assert_int_equal(logged.level, LOG_L_WARN);
	assert_string_equal(logged.text, "file: No such file or directory");
	log_msg(LOG_L_DEBUG, "below the level");
	assert_int_equal(logged.calls, 1);
	log_set_level(LOG_L_DEBUG);
	log_fields(LOG_L_DEBUG, NULL, &field, 1, "at the level");
	assert_int_equal(logged.calls, 2);
	assert_int_equal(logged.n_fields, 1);
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	log_msg(LOG_L_INFO, "%s", big);
	assert_int_equal(strlen(logged.text), 2047);
	assert_string_equal(logged.text + 2044, "...");
	log_set_hook(NULL);
	log_set_level(LOG_L_INFO);
}

/* Lines that mean what they say: a sentence each, never a request, never too long for a page. */
static void test_roff(void **state)
{
	static const char first[] =
		"One.\nTwo\\-fold \\e end.\n\\&.d and 'quoted\na\\-b\n---\n";
	char text[4096] = "", *line, *save = NULL;
	FILE *f = fmemopen(text, sizeof(text) - 1, "w");

	(void)state;
	assert_non_null(f);
	roff_lines(f, "One. Two-fold \\ end", ".");
	roff_lines(f, ".d and 'quoted", "");
	roff_word(f, "a-b");
	roff_lines(f, "", "");
	fputs("---\n", f);
	roff_lines(f,
	           "a sentence of many words, with --options and .files and 'quotes' where a line "
	           "could break: --a --b --c --d --e --f .g .h .i .j .k .l .m .n .o .p .q .r .s",
	           ".");
	fclose(f);
	assert_int_equal(strncmp(text, first, strlen(first)), 0);
	line = strstr(text, "---\n") + 4;
	for (line = strtok_r(line, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		assert_true(strlen(line) <= 80);
		assert_true(line[0] != '.' && line[0] != '\'');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_err_first_sentence_wins),
		cmocka_unit_test(test_cursor_turns_bad_for_good),
		cmocka_unit_test(test_num),
		cmocka_unit_test(test_utf8),
		cmocka_unit_test(test_str_escape),
		cmocka_unit_test(test_parsers),
		cmocka_unit_test(test_sbuf),
		cmocka_unit_test(test_vec),
		cmocka_unit_test(test_map_against_array),
		cmocka_unit_test(test_map_survives_every_failed_allocation),
		cmocka_unit_test(test_mem),
		cmocka_unit_test(test_aligned_is_zero),
		cmocka_unit_test(test_mbox_many_senders),
		cmocka_unit_test(test_fd_rights),
		cmocka_unit_test(test_sum_file),
		cmocka_unit_test(test_fd_read_file_bounds),
		cmocka_unit_test(test_log),
		cmocka_unit_test(test_roff),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
