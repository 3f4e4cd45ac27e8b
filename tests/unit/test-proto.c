/* test-proto - message table, frames and blobs: what a peer may send and what is refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/str.h"
#include "proto/frame.h"

static void test_table_is_complete(void **state)
{
	const ProtobufCMessageDescriptor *frame = &qllm__frame__descriptor;
	unsigned rows = 0;
	int last = 0;

	(void)state;
	for (unsigned i = 0; msg_at(i); i++, rows++) {
		const struct msg_info *m = msg_at(i);
		const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(
			frame, (unsigned)m->body);

		assert_true((int)m->body > last);       /* in order, hence no row twice */
		last = (int)m->body;
		assert_non_null(f);
		assert_ptr_equal(f->descriptor, m->desc);
		assert_true(m->dirs != 0 && m->size_max > 0 && m->size_max <= FRAME_MAX);
		assert_true(m->fds_min <= m->fds_max && m->fds_max <= FRAME_FDS_MAX);
		assert_true(!m->final || m->dirs == MSG_TO_CLIENT);
		assert_ptr_equal(msg_info(m->body), m);
	}
	/* every arm has a row; one field is the id */
	assert_int_equal(rows, frame->n_fields - 1);
	assert_null(msg_info(QLLM__FRAME__BODY__NOT_SET));
}

/* No message contains itself: the unpacker's recursion ends. */
static unsigned depth_of(const ProtobufCMessageDescriptor *d, unsigned level)
{
	unsigned most = level;

	assert_true(level < 8);
	for (unsigned i = 0; i < d->n_fields; i++)
		if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE) {
			unsigned x = depth_of(d->fields[i].descriptor, level + 1);

			most = x > most ? x : most;
		}
	return most;
}

static void test_no_recursion(void **state)
{
	(void)state;
	assert_true(depth_of(&qllm__frame__descriptor, 0) <= 4);
}

static int parse(const void *p, size_t n, enum msg_dir dir)
{
	struct frame_in f;
	struct err err = { 0 };
	int r = frame_parse(&f, p, n, NULL, dir, &err);

	if (r >= 0)
		frame_in_deinit(&f);
	else
		assert_true(err.text[0] != 0);
	return r;
}

static size_t pack_show(uint8_t *buf, const char *model)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Show show = QLLM__SHOW__INIT;

	frame.has_id = true;
	frame.id = 9;
	frame.body_case = QLLM__FRAME__BODY_SHOW;
	show.model = (char *)(uintptr_t)model;
	frame.show = &show;
	return qllm__frame__pack(&frame, buf);
}

static void test_refused_bytes(void **state)
{
	static const uint8_t long_varint[] = { 0x08, 0xff, 0xff, 0xff, 0xff, 0xff,
		                               0xff, 0xff, 0xff, 0xff, 0xff, 0x01 };
	/* Wake as a number: an unknown field */
	static const uint8_t wrong_wire[] = { 0x10, 0x05 };
	static const uint8_t unknown_only[] = { 0xc2, 0x3e, 0x01, 'x' };  /* field 1000 */
	static const uint8_t cut[] = { 0x1a, 0x7f, 0x08 };
	uint8_t *big = calloc(1, FRAME_MAX + 1);
	uint8_t small[64];
	size_t n;

	(void)state;
	assert_int_equal(parse("", 0, MSG_TO_DAEMON), -EPROTO);
	assert_int_equal(parse(big, FRAME_MAX + 1, MSG_TO_DAEMON), -EPROTO);
	assert_int_equal(parse(big, FRAME_MAX, MSG_TO_DAEMON), -EPROTO);
	assert_int_equal(parse(long_varint, sizeof(long_varint), MSG_TO_DAEMON), -EPROTO);
	assert_true(parse(wrong_wire, sizeof(wrong_wire), MSG_TO_DAEMON) != 0);
	assert_int_equal(parse(unknown_only, sizeof(unknown_only), MSG_TO_DAEMON), FRAME_E_UNKNOWN);
	assert_int_equal(parse(cut, sizeof(cut), MSG_TO_DAEMON), -EPROTO);
	n = pack_show(small, "m");
	assert_int_equal(parse(small, n, MSG_TO_DAEMON), 0);
	assert_int_equal(parse(small, n, MSG_TO_CLIENT), -EPROTO);      /* travels the other way */
	memset(big, 'a', 2000);
	big[2000] = 0;
	{
		uint8_t packed[2100];

		n = pack_show(packed, (char *)big);
		/* past the row's limit */
		assert_int_equal(parse(packed, n, MSG_TO_DAEMON), -EPROTO);
	}
	free(big);
}

static void test_memory_is_capped(void **state)
{
	uint8_t *p = malloc(FRAME_MAX);
	size_t n = 0;

	(void)state;
	/* list_reply (field 21) full of empty ModelInfo: 2 bytes each, some 200 in memory. */
	p[n++] = 0xaa;
	p[n++] = 0x01;
	p[n++] = 0xf0;
	p[n++] = 0xff;
	p[n++] = 0x03;
	while (n < 5 + 0xfff0) {
		p[n++] = 0x0a;
		p[n++] = 0x00;
	}
	assert_int_equal(parse(p, n, MSG_TO_CLIENT), -EPROTO);
	free(p);
}

static void test_two_arms_last_wins(void **state)
{
	uint8_t buf[128];
	size_t n = pack_show(buf, "m");
	struct frame_in f;

	(void)state;
	buf[n++] = frame_wake[0];
	buf[n++] = frame_wake[1];
	assert_int_equal(frame_parse(&f, buf, n, NULL, MSG_TO_DAEMON, NULL), 0);
	assert_int_equal(f.frame->body_case, QLLM__FRAME__BODY_WAKE);
	assert_int_equal(f.frame->id, 9);
	frame_in_deinit(&f);
}

static void test_random_bytes(void **state)
{
	uint64_t x = 88172645463325252u;
	uint8_t buf[512];

	(void)state;
	for (unsigned i = 0; i < 50000; i++) {
		size_t n = pack_show(buf, "some-model"), len;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		len = i % 2 ? n : x % sizeof(buf);
		for (size_t k = 0; k < len; k++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			if (i % 2 == 0 || x % 8 == 0)
				buf[k] = (uint8_t)(x >> 32);
		}
		parse(buf, len, x & 1 ? MSG_TO_DAEMON : MSG_TO_CLIENT);
	}
	assert_int_equal(mem_live_blocks(), 0);
}

static void test_every_allocation_may_fail(void **state)
{
	uint8_t buf[128];
	size_t n = pack_show(buf, "m");

	(void)state;
	for (unsigned nth = 0;; nth++) {
		struct frame_in f;
		int r;

		mem_fault_arm(nth, false);
		r = frame_parse(&f, buf, n, NULL, MSG_TO_DAEMON, NULL);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			frame_in_deinit(&f);
			break;
		}
		assert_int_equal(r, -EPROTO);
	}
	assert_int_equal(mem_live_blocks(), 0);
}

/* --- over a socket ---------------------------------------------------------------------------- */

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static uint8_t scratch[FRAME_MAX + 1];

static void test_socket_rules(void **state)
{
	unsigned before = open_fds();
	struct frame_in f;
	uint8_t buf[128];
	int s[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC), two[2] = { null, null };
	size_t n = pack_show(buf, "m");

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, MSG_DONTWAIT, scratch, NULL),
	                 FRAME_E_AGAIN);
	/* Descriptors where none are due, and with an empty datagram: refused, and none stays
	 * open. */
	assert_int_equal(fd_sendmsg(s[1], buf, n, two, 2, 0), 0);
	assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, MSG_DONTWAIT, scratch, NULL), -EPROTO);
	assert_int_equal(fd_sendmsg(s[1], "", 0, two, 1, 0), 0);
	assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, MSG_DONTWAIT, scratch, NULL), -EPROTO);
	/* Import without its descriptor. */
	{
		Qllm__Frame frame = QLLM__FRAME__INIT;
		Qllm__Import import = QLLM__IMPORT__INIT;
		struct frame_fds fds = { .n = 0 };

		frame.body_case = QLLM__FRAME__BODY_IMPORT;
		frame.import = &import;
		assert_int_equal(frame_send(s[1], &frame, &fds, 0), 0);
		assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, MSG_DONTWAIT, scratch, NULL),
		                 -EPROTO);
		assert_int_equal(frame_fds_add(&fds, dup(null)), 0);
		assert_int_equal(frame_send(s[1], &frame, &fds, 0), 0);
		assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, MSG_DONTWAIT, scratch, NULL),
		                 0);
		assert_int_equal(f.fds.n, 1);
		close(frame_steal_fd(&f, 0));
		assert_int_equal(frame_steal_fd(&f, 0), -1);
		frame_in_deinit(&f);
		frame_fds_deinit(&fds);
	}
	close(s[1]);
	assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, 0, scratch, NULL), FRAME_E_EOF);
	close(s[0]);
	close(null);
	assert_int_equal(open_fds(), before);
}

static int send_tokenize(int sock, const Qllm__Blob *blob, const struct frame_fds *fds)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;

	frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
	frame.tokenize = &tokenize;
	tokenize.text = (Qllm__Blob *)(uintptr_t)blob;
	return frame_send(sock, &frame, fds, 0);
}

/* What blob_get says to a blob that was sent with descriptor fd (taken over; -1: none). */
static int get_sent(const Qllm__Blob *blob, int fd, char **ret, size_t *ret_n)
{
	struct frame_fds fds = { .n = 0 };
	struct frame_in f;
	int s[2], r;

	if (fd >= 0)
		assert_int_equal(frame_fds_add(&fds, fd), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(send_tokenize(s[1], blob, &fds), 0);
	assert_int_equal(frame_recv(&f, s[0], MSG_TO_DAEMON, 0, scratch, NULL), 0);
	r = blob_get(f.frame->tokenize->text, &f, 1 << 20, ret, ret_n, NULL);
	frame_in_deinit(&f);
	frame_fds_deinit(&fds);
	close(s[0]);
	close(s[1]);
	return r;
}

static void check_round_trip(size_t n)
{
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct frame_fds fds = { .n = 0 };
	char *data = malloc(n + 1), *got = NULL;
	size_t got_n = 1;

	for (size_t i = 0; i < n; i++)
		data[i] = (char)(i * 31);
	assert_int_equal(blob_put(&blob, data, n, &fds), 0);
	assert_int_equal(fds.n, n > FRAME_INLINE_MAX);
	assert_int_equal(get_sent(&blob, fds.n ? fds.fd[0] : -1, &got, &got_n), 0);
	assert_int_equal(got_n, n);
	assert_memory_equal(got, data, n);
	assert_int_equal(got[n], 0);
	mem_free(got);
	free(data);
}

static void test_blobs(void **state)
{
	Qllm__Blob blob = QLLM__BLOB__INIT;
	char *got = NULL, text[100] = "x";
	size_t n;
	int fd;

	(void)state;
	check_round_trip(0);
	check_round_trip(1);
	check_round_trip(FRAME_INLINE_MAX);
	check_round_trip(FRAME_INLINE_MAX + 1);
	check_round_trip(1 << 20);
	blob.has_size = blob.has_fd = true;
	blob.size = (1 << 20) + 1;
	assert_int_equal(get_sent(&blob, -1, &got, &n), -E2BIG);
	blob.size = 100;
	/* no descriptor */
	assert_int_equal(get_sent(&blob, -1, &got, &n), -EPROTO);
	/* no seals */
	assert_int_equal(get_sent(&blob, fd_memfd("t", 100), &got, &n), -EPROTO);
	fd = fd_memfd("t", 100);
	fd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW);
	/* can be written */
	assert_int_equal(get_sent(&blob, fd, &got, &n), -EPROTO);
	assert_int_equal(get_sent(&blob, fd_memfd_from("t", text, 99), &got, &n), -EPROTO);
	assert_int_equal(get_sent(&blob, open("/dev/zero", O_RDONLY | O_CLOEXEC), &got, &n),
	                 -EPROTO);
	assert_int_equal(get_sent(&blob, open("/proc/self/exe", O_RDONLY | O_CLOEXEC), &got, &n),
	                 -EPROTO);
	assert_int_equal(get_sent(&blob, open("/", O_PATH | O_CLOEXEC), &got, &n), -EPROTO);
	blob.fd = 3;
	assert_int_equal(get_sent(&blob, fd_memfd_from("t", text, 100), &got, &n), -EPROTO);
	blob.fd = 0;
	assert_int_equal(get_sent(&blob, fd_memfd_from("t", text, 100), &got, &n), 0);
	mem_free(got);
	assert_int_equal(mem_live_blocks(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_complete),
		cmocka_unit_test(test_no_recursion),
		cmocka_unit_test(test_refused_bytes),
		cmocka_unit_test(test_memory_is_capped),
		cmocka_unit_test(test_two_arms_last_wins),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_socket_rules),
		cmocka_unit_test(test_blobs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
