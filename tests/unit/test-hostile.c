/* test-hostile - the real daemon against clients that break the rules: each case ends its own
 * connection or request and nothing else. A well-behaved client stays connected through all of them
 * and must get the same answer after each. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/num.h"
#include "proto/hello.h"
#include "tests/lib/ggufgen.h"
#include "tests/lib/raw.h"

/* --- frames ----------------------------------------------------------------------------------- */

static void test_broken_datagrams(void **state)
{
	static uint8_t big[FRAME_MAX + 1];
	static const uint8_t long_varint[] = { 0x08, 0xff, 0xff, 0xff, 0xff, 0xff,
		                               0xff, 0xff, 0xff, 0xff, 0xff, 0x01 };
	int buf_size = 1 << 20;
	struct raw_client c;

	(void)state;
	c = raw_join(0);                                    /* P1 */
	raw_send(c.sock, "", 0, NULL, 0);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
	c = raw_join(0);
	setsockopt(c.sock, SOL_SOCKET, SO_SNDBUF, &buf_size, sizeof(buf_size));
	raw_send(c.sock, big, sizeof(big), NULL, 0);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
	c = raw_join(0);                                    /* P8 */
	raw_send(c.sock, long_varint, sizeof(long_varint), NULL, 0);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
	/* P5: nested lengths as deep as a frame can go */
	memset(big, 0x1a, sizeof(big));
	c = raw_join(0);
	raw_send(c.sock, big, FRAME_MAX, NULL, 0);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
}

/* A datagram is a frame: byte by byte means one frame of one byte, and half a frame is a bad
 * frame. */
static void test_cut_frames(void **state)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	uint8_t *whole;
	size_t n;

	(void)state;
	raw_fill_generate(&frame, &g, &s, &prompt, 4);
	frame.has_id = true;
	frame.id = 5;
	assert_int_equal(frame_pack(&frame, &whole, &n), 0);
	for (size_t cut = 1; cut < n; cut++) {          /* P2, P3 */
		struct raw_client c = raw_join(RING_BYTES_MIN);

		raw_send(c.sock, whole, cut, NULL, 0);
		raw_leave(&c);
	}
	mem_free(whole);
	raw_check_good();
}

/* Small on the wire, large in memory: the arena of a frame or a limit of the message ends it. */
static void test_many_small_fields(void **state)
{
	static const struct {
		const char *what;
		bool nested;                            /* in Sampling rather than in Generate */
		uint8_t item[4];
		unsigned n_item;
	} rows[] = {
		{ "stop", false, { 0x52, 0x00 }, 2 },
		{ "bias", true, { 0x52, 0x00 }, 2 },
		{ "unknown", false, { 0xc2, 0x3e, 0x01, 'x' }, 4 },
		{ "unknown in sampling", true, { 0xc0, 0x3e, 0x01 }, 3 },
	};
	/* of 65028 */
	static const uint8_t generate_63[] = { 0x08, 0x63, 0x92, 0x03, 0x84, 0xfc, 0x03 };
	/* of 65024 */
	static const uint8_t sampling[] = { 0x4a, 0x80, 0xfc, 0x03 };
	static uint8_t buf[FRAME_MAX];
	static struct raw_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {         /* P6 */
		struct raw_client c = raw_join(0);
		size_t n = sizeof(generate_63), end = n + 65028;

		memcpy(buf, generate_63, n);
		if (rows[i].nested) {
			memcpy(buf + n, sampling, sizeof(sampling));
			n += sizeof(sampling);
		}
		for (; n + rows[i].n_item <= end; n += rows[i].n_item)
			memcpy(buf + n, rows[i].item, rows[i].n_item);
		while (n < end)
			buf[n++] = 0;
		c.id = 0x63;
		raw_send(c.sock, buf, n, NULL, 0);
		if (raw_finish(&c, &a) == 0 && a.body != QLLM__FRAME__BODY_ERROR)
			fail_msg("%s: answered by %d", rows[i].what, (int)a.body);
		raw_leave(&c);
		raw_check_good();
	}
}

/* Well-formed, and something is missing or meaningless: one error, and the connection stays. */
static void test_incomplete_messages(void **state)
{
	static const struct {
		const char *what;
		uint8_t bytes[24];
		unsigned n;
	} rows[] = {
		{ "load without a name", { 0xe2, 0x01, 0x00 }, 3 },
		{ "generate without anything", { 0x92, 0x03, 0x00 }, 3 },
		{ "generate without a prompt",
		  { 0x92, 0x03, 0x06, 0x0a, 0x04, 't', 'i', 'n', 'y' },
		  9 },
		{ "detokenize without anything", { 0xd2, 0x02, 0x00 }, 3 },
		{ "template without messages",
		  { 0xe2, 0x02, 0x06, 0x0a, 0x04, 't', 'i', 'n', 'y' },
		  9 },
		{ "show of an unknown kind",
		  { 0xc2, 0x01, 0x08, 0x0a, 0x04, 't', 'i', 'n', 'y', 0x10, 0x63 },
		  11 },
		{ "a blob of 9 bytes that has no descriptor",
		  { 0xc2, 0x02, 0x0a, 0x0a, 0x04, 't', 'i', 'n', 'y', 0x12, 0x02, 0x10, 0x09 },
		  13 },
		{ "a blob in descriptor 7 of none",
		  { 0xc2, 0x02, 0x0c, 0x0a, 0x04, 't', 'i', 'n', 'y', 0x12, 0x04, 0x10, 0x09, 0x18,
		    0x07 },
		  15 },
		{ "a name with a NUL",
		  { 0xe2, 0x01, 0x07, 0x0a, 0x05, 't', 'i', 0, 'n', 'y' },
		  10 },
		{ "an unknown message", { 0xc2, 0x3e, 0x01, 'x' }, 4 },
	};
	struct raw_client c = raw_join(0);
	static struct raw_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {         /* P7, P9, P10, P15 */
		uint8_t buf[32] = { 0x08 };

		buf[1] = (uint8_t)++c.id;
		memcpy(buf + 2, rows[i].bytes, rows[i].n);
		raw_send(c.sock, buf, rows[i].n + 2, NULL, 0);
		if (raw_finish(&c, &a) < 0)
			fail_msg("%s: the connection is gone", rows[i].what);
		if (a.body != QLLM__FRAME__BODY_ERROR || !a.text[0])
			fail_msg("%s: answered by %d, code %u", rows[i].what, (int)a.body, a.code);
	}
	raw_leave(&c);
	raw_check_good();
}

static void test_random_bodies(void **state)
{
	uint64_t x = 0x9e3779b97f4a7c15u;
	uint8_t buf[256];

	(void)state;
	for (unsigned i = 0; i < 200; i++) {            /* P4 */
		struct raw_client c = raw_join(RING_BYTES_MIN);
		size_t n;

		for (size_t k = 0; k < sizeof(buf); k++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			buf[k] = (uint8_t)x;
		}
		/* A right start now and then, so that handlers are reached as well. */
		n = 4 + x % 200;
		buf[0] = 0x08;
		buf[1] = 5;
		if (i % 2) {
			unsigned arm = (unsigned)(msg_at((unsigned)(x >> 20) % 36)->body);

			buf[2] = (uint8_t)((arm << 3 | 2) | (arm > 15 ? 0x80 : 0));
			buf[3] = (uint8_t)(arm > 15 ? arm >> 4 : n - 4);
			if (arm > 15)
				buf[4] = (uint8_t)(n - 5);
		}
		raw_send(c.sock, buf, n, NULL, 0);
		raw_leave(&c);
	}
	raw_check_good();
}

static void test_rules_of_the_connection(void **state)
{
	static const uint8_t unknown_only[] = { 0x08, 0x63, 0xc2, 0x3e, 0x01, 'x' };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Status status = QLLM__STATUS__INIT;
	Qllm__Cancel cancel = QLLM__CANCEL__INIT;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	static struct raw_answer a;
	struct raw_client c;
	int sock;

	(void)state;
	frame.body_case = QLLM__FRAME__BODY_STATUS;
	frame.status = &status;
	sock = raw_dial();                                  /* P11: before Hello, Hello twice */
	raw_say(sock, &frame, 3);
	raw_expect_closed(sock);
	c = raw_join(0);
	raw_hello(c.sock, PROTO_VERSION, 0);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
	sock = raw_dial();                                  /* P10: future version */
	raw_hello(sock, PROTO_VERSION + 1, 0);
	raw_expect_closed(sock);
	/* P7: an error, and the connection stays */
	c = raw_join(0);
	c.id = 0x63;
	raw_send(c.sock, unknown_only, sizeof(unknown_only), NULL, 0);
	assert_int_equal(raw_finish(&c, &a), 0);
	assert_int_equal(a.code, EXIT_USAGE);
	raw_ask(&c, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_STATUS_REPLY);
	/* P12: another client's id is none of this client's */
	cancel.has_request = true;
	cancel.request = raw_good.id;
	frame.body_case = QLLM__FRAME__BODY_CANCEL;
	frame.cancel = &cancel;
	raw_ask(&c, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_OK);
	raw_fill_generate(&frame, &g, &s, &prompt, 300);
	raw_say(c.sock, &frame, 500);
	raw_say(c.sock, &frame, 500);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
}

/* --- parameters ------------------------------------------------------------------------------- */

static void test_parameters(void **state)
{
	static const float temps[] = { -1, 1e30f };
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	static struct raw_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(temps); i++) {        /* P13 */
		raw_fill_generate(&frame, &g, &s, &prompt, 4);
		s.temp = temps[i];
		raw_ask(&raw_good, &frame, &a);
		if (temps[i] > 0)
			assert_int_equal(a.code, EXIT_USAGE);
		else
			assert_true(a.code == EXIT_USAGE || a.body == QLLM__FRAME__BODY_DONE);
	}
	raw_fill_generate(&frame, &g, &s, &prompt, 4);
	s.temp = NAN;
	raw_ask(&raw_good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	raw_fill_generate(&frame, &g, &s, &prompt, 4);
	s.has_top_p = true;
	s.top_p = NAN;
	raw_ask(&raw_good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	raw_fill_generate(&frame, &g, &s, &prompt, 4);
	s.has_top_k = s.has_logprobs = true;
	s.top_k = 1u << 31;
	raw_ask(&raw_good, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	s.logprobs = UINT32_MAX;
	raw_ask(&raw_good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	raw_fill_generate(&frame, &g, &s, &prompt, 0);          /* 0 = until the context is full */
	raw_ask(&raw_good, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.finish, QLLM__FINISH__FINISHED_LENGTH);
	raw_fill_generate(&frame, &g, &s, &prompt, UINT32_MAX);
	raw_ask(&raw_good, &frame, &a);
	assert_true(a.body == QLLM__FRAME__BODY_ERROR || a.body == QLLM__FRAME__BODY_DONE);
	raw_fill_generate(&frame, &g, &s, &prompt, 4);
	g.tokens = &prompt;                                     /* two sources */
	raw_ask(&raw_good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	raw_check_good();
}

static void test_token_ids(void **state)
{
	static const int32_t bad[] = { -1, GGUFGEN_TINY_VOCAB, INT32_MAX, INT32_MIN };
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob ids;
	static struct raw_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {          /* P14 */
		int32_t list[3] = { 1, bad[i], 2 };

		raw_fill_generate(&frame, &g, &s, &ids, 4);
		g.prompt = NULL;
		g.tokens = &ids;
		ids.data.data = (uint8_t *)list;
		ids.data.len = sizeof(list);
		raw_ask(&raw_good, &frame, &a);
		assert_int_equal(a.code, EXIT_USAGE);
		assert_non_null(strstr(a.text, "token 1"));
		ids.data.len = 7;
		raw_ask(&raw_good, &frame, &a);
		assert_int_equal(a.code, EXIT_USAGE);
	}
	raw_check_good();
}

static void test_model_names(void **state)
{
	static const char *const bad[] = { "../../etc/passwd", "", ".", "..", "-x", "a/b", "a\n",
		                           "\xff\xfe" };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Load load = QLLM__LOAD__INIT;
	static struct raw_answer a;
	struct raw_client c = raw_join(0);
	char *big = malloc(60000);
	int fd = open(raw_model_path, O_RDONLY | O_CLOEXEC);

	(void)state;
	frame.body_case = QLLM__FRAME__BODY_LOAD;
	frame.load = &load;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {          /* P15 */
		load.model = (char *)(uintptr_t)bad[i];
		raw_ask(&c, &frame, &a);
		assert_int_equal(a.code, EXIT_USAGE);
		assert_int_equal(raw_import(&c, bad[i], fd, false, &a), 0);
		assert_int_equal(a.code, EXIT_USAGE);
	}
	load.model = (char *)(uintptr_t)"absent";
	raw_ask(&c, &frame, &a);
	assert_int_equal(a.code, EXIT_NO_MODEL);
	memset(big, 'a', 59999);
	big[59999] = 0;
	load.model = big;
	raw_say(c.sock, &frame, 999);
	raw_expect_closed(dup(c.sock));
	raw_leave(&c);
	free(big);
	close(fd);
}

/* --- descriptors ------------------------------------------------------------------------------ */

static void test_fds_where_none_are_due(void **state)
{
	static const unsigned counts[] = { 1, 2, 253 };
	int fds[253];

	(void)state;
	for (size_t i = 0; i < 253; i++)
		fds[i] = raw_good.in_fd;
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {       /* P16 */
		struct raw_client c = raw_join(0);

		raw_send(c.sock, frame_wake, sizeof(frame_wake), fds, counts[i]);
		raw_expect_closed(dup(c.sock));
		raw_leave(&c);
		c = raw_join(0);
		raw_send(c.sock, "", 0, fds, counts[i]);
		raw_expect_closed(dup(c.sock));
		raw_leave(&c);
	}
}

/* Import takes exactly one, with the frame that says so. */
static void test_import_of_no_file_or_two(void **state)
{
	int fd = open(raw_model_path, O_RDONLY | O_CLOEXEC), two[2] = { fd, fd };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Import im = QLLM__IMPORT__INIT;
	uint8_t *p;
	size_t n;

	(void)state;
	im.name = (char *)(uintptr_t)"none";
	frame.body_case = QLLM__FRAME__BODY_IMPORT;
	frame.import = &im;
	assert_int_equal(frame_pack(&frame, &p, &n), 0);
	/* P16: none, two, one that comes before its frame */
	for (unsigned i = 0; i < 3; i++) {
		struct raw_client c = raw_join(0);

		if (i == 2)
			raw_send(c.sock, "", 0, two, 1);
		raw_send(c.sock, p, n, two, i == 1 ? 2 : 0);
		raw_expect_closed(dup(c.sock));
		raw_leave(&c);
	}
	mem_free(p);
	close(fd);
}

static int sealed(const char *name, unsigned flags, size_t size, int seals)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd >= 0 && (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, seals) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* What is no file with weights in it, and no sealed memfd of the size that is said. */
static unsigned open_kinds(int sock, int *fds)
{
	enum { ALL = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };
	unsigned n = 0;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	close(pair[1]);
	fds[n++] = open(raw_model_path, O_PATH | O_CLOEXEC);
	fds[n++] = open(raw_dir, O_RDONLY | O_CLOEXEC);
	fds[n++] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	fds[n++] = open(raw_model_path, O_WRONLY | O_CLOEXEC);
	fds[n++] = epoll_create1(EPOLL_CLOEXEC);
	fds[n++] = (int)syscall(SYS_pidfd_open, getpid(), 0);
	fds[n++] = pair[0];
	fds[n++] = dup(sock);                   /* the connection itself, in its own queue */
	fds[n++] = fd_memfd("unsealed", 4096);
	fds[n++] = sealed("half sealed", 0, 4096, F_SEAL_SHRINK | F_SEAL_GROW);
	fds[n++] = sealed("too short", 0, 4095, ALL);
	/* -1 where there are none */
	fds[n++] = sealed("huge pages", MFD_HUGETLB, 2 << 20, ALL);
	return n;
}

static void test_fds_of_all_kinds(void **state)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct raw_client c = raw_join(0);
	static struct raw_answer a;
	unsigned n, n_open = 0;
	int fds[12];

	(void)state;
	frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
	frame.tokenize = &tokenize;
	tokenize.model = (char *)(uintptr_t)"tiny";
	tokenize.text = &blob;
	blob.has_size = blob.has_fd = true;
	n = open_kinds(c.sock, fds);
	for (unsigned i = 0; i < n; i++) {              /* P17 */
		struct frame_fds one = { .n = 1 };

		if (fds[i] < 0)
			continue;
		n_open++;
		assert_int_equal(raw_import(&c, "bad", fds[i], false, &a), 0);
		assert_int_equal(a.body, QLLM__FRAME__BODY_ERROR);
		assert_true(a.code == EXIT_USAGE || a.code == EXIT_FAILED);
		one.fd[0] = fds[i];
		blob.size = i == n - 1 ? 2 << 20 : 4096;
		raw_ask_fds(&c, &frame, &one, &a);
		assert_int_equal(a.body, QLLM__FRAME__BODY_ERROR);
		assert_true(a.code == EXIT_USAGE || a.code == EXIT_FAILED);
		close(fds[i]);
	}
	assert_true(n_open >= n - 1);
	raw_leave(&c);
	raw_check_good();
}

static unsigned fds_of_daemon(unsigned *ret_max)
{
	char path[64];
	struct dirent *d;
	unsigned n = 0;
	DIR *fd_dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)raw_daemon);
	fd_dir = opendir(path);
	assert_non_null(fd_dir);
	*ret_max = 0;
	while ((d = readdir(fd_dir)))
		if (d->d_name[0] != '.') {
			n++;
			*ret_max = MAX(*ret_max, (unsigned)atoi(d->d_name));
		}
	closedir(fd_dir);
	return n;
}

static void test_no_descriptors_left(void **state)
{
	struct rlimit old, low;
	struct raw_client c = raw_join(0);
	unsigned max;
	int fd = open(raw_model_path, O_RDONLY | O_CLOEXEC);

	(void)state;
	/* P18: the next descriptor is one too many */
	fds_of_daemon(&max);
	assert_int_equal(prlimit(raw_daemon, RLIMIT_NOFILE, NULL, &old), 0);
	low = (struct rlimit){ 3, old.rlim_max };
	assert_int_equal(prlimit(raw_daemon, RLIMIT_NOFILE, &low, NULL), 0);
	{
		Qllm__Frame frame = QLLM__FRAME__INIT;
		Qllm__Import im = QLLM__IMPORT__INIT;
		struct frame_fds fds = { .n = 1 };

		fds.fd[0] = fd;
		im.name = (char *)(uintptr_t)"cut";
		frame.body_case = QLLM__FRAME__BODY_IMPORT;
		frame.import = &im;
		assert_int_equal(frame_send(c.sock, &frame, &fds, 0), 0);
	}
	raw_expect_closed(dup(c.sock));
	assert_int_equal(prlimit(raw_daemon, RLIMIT_NOFILE, &old, NULL), 0);
	raw_leave(&c);
	close(fd);
	raw_check_good();
}

/* --- ring ------------------------------------------------------------------------------------- */

static void test_ring_scribbled(void **state)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	uint64_t x = 12345;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {                      /* R1, R2 */
		struct raw_client c = raw_join(0);
		struct ring_in_page *in = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
		                               c.in_fd, 0);

		raw_fill_generate(&frame, &g, &s, &prompt, 400);
		raw_say(c.sock, &frame, 77);
		for (unsigned k = 0; k < 50; k++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			atomic_store(&in->read, i % 2 ? x : x % 4096 * 16);
			atomic_store(&in->waiting, x);
			usleep(200);
		}
		atomic_store(&in->read, UINT64_MAX - 15);
		munmap(in, 4096);
		raw_leave(&c);
	}
	raw_check_good();
}

static void test_never_reads(void **state)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	struct raw_client c = raw_join(RING_BYTES_MIN), killed = raw_join(0);
	static struct raw_answer a;

	(void)state;
	/* R7: the ring holds some hundred tokens with 20 log-probabilities each; the rest waits,
	 * everybody else goes on. */
	raw_fill_generate(&frame, &g, &s, &prompt, 480);
	s.has_logprobs = true;
	s.logprobs = 20;
	raw_say(c.sock, &frame, 1000);
	raw_say(killed.sock, &frame, 1000);                         /* R10 */
	raw_leave(&killed);
	for (unsigned i = 0; i < 5; i++)
		raw_check_good();
	/* It reads at last, and nothing is lost. */
	c.id = 1000;
	assert_int_equal(raw_finish(&c, &a), 0);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.n_tokens, 480);
	assert_memory_equal(a.tokens, raw_good_answer.tokens, sizeof(a.tokens[0]) * RAW_TEXT);
	raw_leave(&c);
	raw_check_good();
}

/* --- amounts ---------------------------------------------------------------------------------- */

static void test_limits(void **state)
{
	int socks[300];
	struct raw_client c = raw_join(0);
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	unsigned busy = 0, n_done = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(socks); i++)          /* R12 */
		socks[i] = raw_dial();
	raw_check_good();
	for (size_t i = 0; i < ARRAY_SIZE(socks); i++)
		if (socks[i] >= 0)
			close(socks[i]);
	raw_check_good();
	raw_fill_generate(&frame, &g, &s, &prompt, 100);
	for (uint32_t i = 0; i < 80; i++)
		raw_say(c.sock, &frame, 2000 + i);
	while (busy + n_done < 80) {
		static struct raw_answer a;
		struct frame_in f;

		raw_read_ring(&c, &a);
		if (!ring_reader_sleep(c.ring))
			continue;
		assert_int_equal(raw_next_frame(c.sock, &f), 0);
		ring_reader_awake(c.ring);
		busy += f.frame->body_case == QLLM__FRAME__BODY_ERROR &&
		        f.frame->error->code == EXIT_BUSY;
		n_done += f.frame->body_case == QLLM__FRAME__BODY_DONE;
		frame_in_deinit(&f);
	}
	assert_true(n_done >= 60);
	raw_leave(&c);
	raw_check_good();
}

static void test_replies_unread(void **state)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Show show = QLLM__SHOW__INIT;
	struct raw_client c = raw_join(0);
	bool gone = false;

	(void)state;
	show.model = (char *)(uintptr_t)"tiny";
	show.has_what = true;
	show.what = QLLM__SHOW_WHAT__SHOW_METADATA;
	frame.body_case = QLLM__FRAME__BODY_SHOW;
	frame.show = &show;
	frame.has_id = true;
	for (uint32_t i = 1; i < 20000 && !gone; i++) {
		int r;

		frame.id = i;
		r = frame_send(c.sock, &frame, NULL, MSG_DONTWAIT);
		if (r == -EAGAIN)
			usleep(1000);
		gone = r == -EPIPE || r == -ECONNRESET;
	}
	/* the queue of replies is bounded: the client loses */
	assert_true(gone);
	raw_leave(&c);
	raw_check_good();
}

static void test_truncated_model(void **state)
{
	char kept[100];
	static struct raw_answer a;
	int fd;

	(void)state;
	snprintf(kept, sizeof(kept), "%s", raw_model_path);
	snprintf(raw_model_path, sizeof(raw_model_path), "%s/cut.gguf", raw_dir);
	raw_write_model(raw_model_path, NULL);
	fd = open(raw_model_path, O_RDWR | O_CLOEXEC);
	assert_int_equal(raw_import(&raw_good, "cut", fd, true, &a), 0);
	assert_int_equal(a.body, QLLM__FRAME__BODY_LIST_REPLY);
	{
		Qllm__Frame frame;
		Qllm__Generate g;
		Qllm__Sampling s;
		Qllm__Blob prompt;

		raw_fill_generate(&frame, &g, &s, &prompt, 4);
		g.model = (char *)(uintptr_t)"cut";
		raw_ask(&raw_good, &frame, &a);
		assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
		assert_int_equal(ftruncate(fd, 4096), 0);
		raw_ask(&raw_good, &frame, &a);
		assert_int_equal(a.body, QLLM__FRAME__BODY_ERROR);
		assert_int_equal(a.code, EXIT_FAILED);
		/* and again: it is not loaded from the cut file */
		raw_ask(&raw_good, &frame, &a);
		assert_int_equal(a.code, EXIT_FAILED);
	}
	close(fd);
	snprintf(raw_model_path, sizeof(raw_model_path), "%s", kept);
	raw_check_good();
}

static void test_no_descriptor_is_lost(void **state)
{
	unsigned before, after = 0, max;

	(void)state;
	before = fds_of_daemon(&max);
	test_fds_where_none_are_due(state);
	test_fds_of_all_kinds(state);
	test_broken_datagrams(state);
	/* foreign ones are closed on a thread of their own */
	for (unsigned i = 0; i < 50; i++) {
		after = fds_of_daemon(&max);
		if (after <= before)
			break;
		usleep(100000);
	}
	assert_true(after <= before);
}

/* Last: a running request is allowed to end, then the daemon goes with exit 0 and takes its socket
 * away. */
static void test_terminate(void **state)
{
	struct raw_client c = raw_join(0);
	static struct raw_answer a;
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;

	(void)state;
	raw_fill_generate(&frame, &g, &s, &prompt, 400);
	raw_say(c.sock, &frame, ++c.id);
	usleep(20000);
	kill(raw_daemon, SIGTERM);
	assert_int_equal(raw_finish(&c, &a), 0);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.n_tokens, 400);
	raw_wait_end();
	raw_leave(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_broken_datagrams),
		cmocka_unit_test(test_cut_frames),
		cmocka_unit_test(test_many_small_fields),
		cmocka_unit_test(test_incomplete_messages),
		cmocka_unit_test(test_random_bodies),
		cmocka_unit_test(test_rules_of_the_connection),
		cmocka_unit_test(test_parameters),
		cmocka_unit_test(test_token_ids),
		cmocka_unit_test(test_model_names),
		cmocka_unit_test(test_fds_where_none_are_due),
		cmocka_unit_test(test_import_of_no_file_or_two),
		cmocka_unit_test(test_fds_of_all_kinds),
		cmocka_unit_test(test_no_descriptors_left),
		cmocka_unit_test(test_ring_scribbled),
		cmocka_unit_test(test_never_reads),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_replies_unread),
		cmocka_unit_test(test_truncated_model),
		cmocka_unit_test(test_no_descriptor_is_lost),
		cmocka_unit_test(test_terminate),
	};

	return cmocka_run_group_tests(tests, raw_setup, raw_teardown);
}
