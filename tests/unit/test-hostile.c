/* test-hostile - the real daemon against clients that break the rules: each case ends its own connection or request and
 * nothing else. A well-behaved client stays connected through all of them and must get the same answer after each. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
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
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/num.h"
#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/ring.h"
#include "tests/lib/ggufgen.h"

enum { WAIT_MS = 20000, N_TEXT = 16 };

struct client {
	int sock;
	struct ring_reader *ring;
	int in_fd;
	uint32_t id;
};
struct answer {
	Qllm__Frame__BodyCase body;
	uint32_t code, finish, n_tokens;
	int32_t tokens[4096];
	char text[512];
};

static char dir[64], sock_path[100], model_path[100];
static pid_t daemon_pid;
static struct client good;
static struct answer good_answer;
static uint8_t scratch[FRAME_MAX + 1];

/* --- a client ------------------------------------------------------------------------------------------------------ */

static int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, sock_path);
	if (connect(s, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(s);
		return -1;
	}
	return s;
}

/* Next frame within WAIT_MS: 0, or negative when the connection is gone. */
static int next_frame(int sock, struct frame_in *f)
{
	struct pollfd pfd = { sock, POLLIN, 0 };

	if (poll(&pfd, 1, WAIT_MS) != 1)
		fail_msg("no answer in %d ms", WAIT_MS);
	return frame_recv(f, sock, MSG_TO_CLIENT, 0, scratch, NULL) == 0 ? 0 : -1;
}

static void say(int sock, Qllm__Frame *frame, uint32_t id)
{
	frame->has_id = true;
	frame->id = id;
	assert_int_equal(frame_send(sock, frame, NULL, 0), 0);
}

static void say_hello(int sock, uint32_t protocol, uint64_t ring_bytes)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Hello hello = QLLM__HELLO__INIT;

	hello.has_protocol = hello.has_ring_bytes = true;
	hello.protocol = protocol;
	hello.ring_bytes = ring_bytes;
	hello.client = (char *)(uintptr_t)"test";
	frame.body_case = QLLM__FRAME__BODY_HELLO;
	frame.hello = &hello;
	say(sock, &frame, 1);
}

static struct client join(uint64_t ring_bytes)
{
	struct client c = { .sock = dial(), .id = 10 };
	struct frame_in f;
	struct err err = { 0 };

	assert_true(c.sock >= 0);
	say_hello(c.sock, PROTO_VERSION, ring_bytes);
	assert_int_equal(next_frame(c.sock, &f), 0);
	assert_int_equal(f.frame->body_case, QLLM__FRAME__BODY_WELCOME);
	assert_int_equal(ring_reader_new(&c.ring, f.fds.fd[0], f.fds.fd[1], f.frame->welcome->ring_bytes, &err), 0);
	c.in_fd = frame_steal_fd(&f, 1);
	frame_in_deinit(&f);
	return c;
}

static void leave(struct client *c)
{
	ring_reader_free(c->ring);
	close(c->in_fd);
	close(c->sock);
}

static void read_ring(struct client *c, struct answer *a)
{
	struct ring_record rec;
	const void *payload;

	while (ring_reader_next(c->ring, &rec, &payload) == 1)
		if (rec.type == RING_TOKEN && rec.id == c->id && a->n_tokens < ARRAY_SIZE(a->tokens))
			a->tokens[a->n_tokens++] = ((const struct ring_token *)payload)->id;
	if (ring_reader_release(c->ring))
		send(c->sock, frame_wake, sizeof(frame_wake), MSG_NOSIGNAL);
}

/* Read until the final reply of request c->id. */
static int finish(struct client *c, struct answer *a)
{
	memset(a, 0, sizeof(*a));
	for (;;) {
		struct frame_in f;
		bool end;

		read_ring(c, a);
		if (!ring_reader_sleep(c->ring))
			continue;
		if (next_frame(c->sock, &f) < 0)
			return -1;
		ring_reader_awake(c->ring);
		a->body = f.frame->body_case;
		end = f.info->final && f.frame->id == c->id;
		if (a->body == QLLM__FRAME__BODY_ERROR) {
			a->code = f.frame->error->code;
			snprintf(a->text, sizeof(a->text), "%s", f.frame->error->text);
		}
		if (a->body == QLLM__FRAME__BODY_DONE)
			a->finish = f.frame->done->finish;
		frame_in_deinit(&f);
		if (end) {
			read_ring(c, a);
			return 0;
		}
	}
}

static void ask(struct client *c, Qllm__Frame *frame, struct answer *a)
{
	say(c->sock, frame, ++c->id);
	assert_int_equal(finish(c, a), 0);
}

static void fill_generate(Qllm__Frame *frame, Qllm__Generate *g, Qllm__Sampling *s, Qllm__Blob *prompt, uint32_t n)
{
	qllm__frame__init(frame);
	qllm__generate__init(g);
	qllm__sampling__init(s);
	qllm__blob__init(prompt);
	prompt->has_data = true;
	prompt->data.data = (uint8_t *)(uintptr_t)"hello there";
	prompt->data.len = 11;
	s->has_temp = true;
	s->temp = 0;
	g->model = (char *)(uintptr_t)"tiny";
	g->prompt = prompt;
	g->has_raw = g->raw = true;
	g->has_ignore_eos = g->ignore_eos = true;
	g->has_max_tokens = true;
	g->max_tokens = n;
	g->sampling = s;
	frame->body_case = QLLM__FRAME__BODY_GENERATE;
	frame->generate = g;
}

static void generate(struct client *c, uint32_t n, struct answer *a)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;

	fill_generate(&frame, &g, &s, &prompt, n);
	ask(c, &frame, a);
}

static void check_good(void)
{
	static struct answer a;

	assert_int_equal(waitpid(daemon_pid, NULL, WNOHANG), 0);
	/* What a bad client of the same user left open counts against that user's limit for a moment. */
	for (unsigned i = 0; i < 100; i++) {
		generate(&good, N_TEXT, &a);
		if (a.code != EXIT_BUSY)
			break;
		usleep(50000);
	}
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.n_tokens, N_TEXT);
	assert_memory_equal(a.tokens, good_answer.tokens, sizeof(a.tokens[0]) * N_TEXT);
}

/* The daemon hangs up, after at most a few frames. */
static void expect_closed(int sock)
{
	struct frame_in f;

	for (unsigned i = 0; i < 10000; i++) {
		if (next_frame(sock, &f) < 0) {
			close(sock);
			check_good();
			return;
		}
		frame_in_deinit(&f);
	}
	fail_msg("the connection stays open");
}

static void send_raw(int sock, const void *p, size_t n, const int *fds, unsigned n_fds)
{
	int r = fd_sendmsg(sock, p, n, fds, n_fds, 0);

	assert_true(r == 0 || r == -EPIPE || r == -ECONNRESET);
}

/* --- the daemon ---------------------------------------------------------------------------------------------------- */

static int import(struct client *c, const char *name, int fd, bool in_place, struct answer *a)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Import im = QLLM__IMPORT__INIT;
	struct frame_fds fds = { .n = 1 };

	fds.fd[0] = fd;
	im.name = (char *)(uintptr_t)name;
	im.path = model_path;
	im.has_in_place = true;
	im.in_place = in_place;
	frame.body_case = QLLM__FRAME__BODY_IMPORT;
	frame.import = &im;
	frame.has_id = true;
	frame.id = ++c->id;
	assert_int_equal(frame_send(c->sock, &frame, &fds, 0), 0);
	return finish(c, a);
}

static void write_model(const char *path)
{
	struct ggufgen_tiny tiny = { .n_ctx = 512, .seed = 7 };
	struct ggufgen *g = ggufgen_tiny(&tiny);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t n;
	uint8_t *bytes = ggufgen_bytes(g, &n);

	assert_int_equal(fd_write_all(fd, bytes, n), 0);
	close(fd);
	free(bytes);
	ggufgen_free(g);
}

static const char *binary(void)
{
	static char path[512];
	const char *build = getenv("QLLM_BUILDDIR"), *own = getenv("QLLMD");

	snprintf(path, sizeof(path), "%s/qllmd", build ? build : ".");
	return own ? own : path;
}

static int setup(void **state)
{
	char log[100], state_dir[100], cache_dir[100];
	int fd;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	strcpy(dir, "/tmp/qllm-hostile-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(sock_path, sizeof(sock_path), "%s/sock", dir);
	snprintf(model_path, sizeof(model_path), "%s/tiny.gguf", dir);
	snprintf(log, sizeof(log), "%s/log", dir);
	snprintf(state_dir, sizeof(state_dir), "%s/state", dir);
	snprintf(cache_dir, sizeof(cache_dir), "%s/cache", dir);
	write_model(model_path);
	daemon_pid = fork();
	if (daemon_pid == 0) {
		if (!freopen(log, "w", stderr))
			_exit(126);
		execl(binary(), "qllmd", "--socket", sock_path, "--state-dir", state_dir, "--cache-dir", cache_dir, NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 200; i++) {
		int s = dial();

		if (s >= 0) {
			close(s);
			break;
		}
		usleep(50000);
	}
	good = join(RING_BYTES_DEFAULT);
	fd = open(model_path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(import(&good, "tiny", fd, false, &good_answer), 0);
	close(fd);
	assert_int_equal(good_answer.body, QLLM__FRAME__BODY_LIST_REPLY);
	generate(&good, N_TEXT, &good_answer);
	assert_string_equal(good_answer.text, "");
	assert_int_equal(good_answer.n_tokens, N_TEXT);
	return 0;
}

static int teardown(void **state)
{
	char cmd[100];
	int status = 0;

	(void)state;
	leave(&good);
	if (daemon_pid > 0 && waitpid(daemon_pid, &status, WNOHANG) == 0) {
		kill(daemon_pid, SIGKILL);
		waitpid(daemon_pid, &status, 0);
	}
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

/* --- frames -------------------------------------------------------------------------------------------------------- */

static void test_broken_datagrams(void **state)
{
	static uint8_t big[FRAME_MAX + 1];
	static const uint8_t long_varint[] = { 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 };
	int buf_size = 1 << 20;
	struct client c;

	(void)state;
	c = join(0);                                    /* P1 */
	send_raw(c.sock, "", 0, NULL, 0);
	expect_closed(dup(c.sock));
	leave(&c);
	c = join(0);
	setsockopt(c.sock, SOL_SOCKET, SO_SNDBUF, &buf_size, sizeof(buf_size));
	send_raw(c.sock, big, sizeof(big), NULL, 0);
	expect_closed(dup(c.sock));
	leave(&c);
	c = join(0);                                    /* P8 */
	send_raw(c.sock, long_varint, sizeof(long_varint), NULL, 0);
	expect_closed(dup(c.sock));
	leave(&c);
	memset(big, 0x1a, sizeof(big));                 /* P5: nested lengths as deep as a frame can go */
	c = join(0);
	send_raw(c.sock, big, FRAME_MAX, NULL, 0);
	expect_closed(dup(c.sock));
	leave(&c);
}

static void test_random_bodies(void **state)
{
	uint64_t x = 0x9e3779b97f4a7c15u;
	uint8_t buf[256];

	(void)state;
	for (unsigned i = 0; i < 200; i++) {            /* P4 */
		struct client c = join(RING_BYTES_MIN);
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
		send_raw(c.sock, buf, n, NULL, 0);
		leave(&c);
	}
	check_good();
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
	static struct answer a;
	struct client c;
	int sock;

	(void)state;
	frame.body_case = QLLM__FRAME__BODY_STATUS;
	frame.status = &status;
	sock = dial();                                  /* P11: before Hello, Hello twice */
	say(sock, &frame, 3);
	expect_closed(sock);
	c = join(0);
	say_hello(c.sock, PROTO_VERSION, 0);
	expect_closed(dup(c.sock));
	leave(&c);
	sock = dial();                                  /* P10: future version */
	say_hello(sock, PROTO_VERSION + 1, 0);
	expect_closed(sock);
	c = join(0);                                    /* P7: an error, and the connection stays */
	c.id = 0x63;
	send_raw(c.sock, unknown_only, sizeof(unknown_only), NULL, 0);
	assert_int_equal(finish(&c, &a), 0);
	assert_int_equal(a.code, EXIT_USAGE);
	ask(&c, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_STATUS_REPLY);
	cancel.has_request = true;                      /* P12: another client's id is none of this client's */
	cancel.request = good.id;
	frame.body_case = QLLM__FRAME__BODY_CANCEL;
	frame.cancel = &cancel;
	ask(&c, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_OK);
	fill_generate(&frame, &g, &s, &prompt, 300);
	say(c.sock, &frame, 500);
	say(c.sock, &frame, 500);
	expect_closed(dup(c.sock));
	leave(&c);
}

/* --- parameters ---------------------------------------------------------------------------------------------------- */

static void test_parameters(void **state)
{
	static const float temps[] = { -1, 1e30f };
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	static struct answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(temps); i++) {        /* P13 */
		fill_generate(&frame, &g, &s, &prompt, 4);
		s.temp = temps[i];
		ask(&good, &frame, &a);
		if (temps[i] > 0)
			assert_int_equal(a.code, EXIT_USAGE);
		else
			assert_true(a.code == EXIT_USAGE || a.body == QLLM__FRAME__BODY_DONE);
	}
	fill_generate(&frame, &g, &s, &prompt, 4);
	s.temp = NAN;
	ask(&good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	fill_generate(&frame, &g, &s, &prompt, 4);
	s.has_top_p = true;
	s.top_p = NAN;
	ask(&good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	fill_generate(&frame, &g, &s, &prompt, 4);
	s.has_top_k = s.has_logprobs = true;
	s.top_k = 1u << 31;
	ask(&good, &frame, &a);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	s.logprobs = UINT32_MAX;
	ask(&good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	fill_generate(&frame, &g, &s, &prompt, UINT32_MAX);
	ask(&good, &frame, &a);
	assert_true(a.body == QLLM__FRAME__BODY_ERROR || a.body == QLLM__FRAME__BODY_DONE);
	fill_generate(&frame, &g, &s, &prompt, 4);
	g.tokens = &prompt;                                     /* two sources */
	ask(&good, &frame, &a);
	assert_int_equal(a.code, EXIT_USAGE);
	check_good();
}

static void test_token_ids(void **state)
{
	static const int32_t bad[] = { -1, GGUFGEN_TINY_VOCAB, INT32_MAX, INT32_MIN };
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob ids;
	static struct answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {          /* P14 */
		int32_t list[3] = { 1, bad[i], 2 };

		fill_generate(&frame, &g, &s, &ids, 4);
		g.prompt = NULL;
		g.tokens = &ids;
		ids.data.data = (uint8_t *)list;
		ids.data.len = sizeof(list);
		ask(&good, &frame, &a);
		assert_int_equal(a.code, EXIT_USAGE);
		assert_non_null(strstr(a.text, "token 1"));
		ids.data.len = 7;
		ask(&good, &frame, &a);
		assert_int_equal(a.code, EXIT_USAGE);
	}
	check_good();
}

static void test_model_names(void **state)
{
	static const char *const bad[] = { "../../etc/passwd", "", ".", "..", "-x", "a/b", "a\n", "\xff\xfe" };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Load load = QLLM__LOAD__INIT;
	static struct answer a;
	struct client c = join(0);
	char *big = malloc(60000);
	int fd = open(model_path, O_RDONLY | O_CLOEXEC);

	(void)state;
	frame.body_case = QLLM__FRAME__BODY_LOAD;
	frame.load = &load;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {          /* P15 */
		load.model = (char *)(uintptr_t)bad[i];
		ask(&c, &frame, &a);
		assert_int_equal(a.code, EXIT_USAGE);
		assert_int_equal(import(&c, bad[i], fd, false, &a), 0);
		assert_int_equal(a.code, EXIT_USAGE);
	}
	load.model = (char *)(uintptr_t)"absent";
	ask(&c, &frame, &a);
	assert_int_equal(a.code, EXIT_NO_MODEL);
	memset(big, 'a', 59999);
	big[59999] = 0;
	load.model = big;
	say(c.sock, &frame, 999);
	expect_closed(dup(c.sock));
	leave(&c);
	free(big);
	close(fd);
}

/* --- descriptors ----------------------------------------------------------------------------------------------------- */

static void test_fds_where_none_are_due(void **state)
{
	static const unsigned counts[] = { 1, 2, 253 };
	int fds[253];

	(void)state;
	for (size_t i = 0; i < 253; i++)
		fds[i] = good.in_fd;
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {       /* P16 */
		struct client c = join(0);

		send_raw(c.sock, frame_wake, sizeof(frame_wake), fds, counts[i]);
		expect_closed(dup(c.sock));
		leave(&c);
		c = join(0);
		send_raw(c.sock, "", 0, fds, counts[i]);
		expect_closed(dup(c.sock));
		leave(&c);
	}
}

static void test_fds_of_all_kinds(void **state)
{
	int pair[2], fds[10];
	static struct answer a;
	struct client c = join(0);
	unsigned n = 0;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fds[n++] = open(model_path, O_PATH | O_CLOEXEC);        /* P17 */
	fds[n++] = open(dir, O_RDONLY | O_CLOEXEC);
	fds[n++] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	fds[n++] = open(model_path, O_WRONLY | O_CLOEXEC);
	fds[n++] = epoll_create1(EPOLL_CLOEXEC);
	fds[n++] = (int)syscall(SYS_pidfd_open, getpid(), 0);
	fds[n++] = pair[0];
	fds[n++] = dup(c.sock);
	fds[n++] = fd_memfd("empty", 4096);
	for (unsigned i = 0; i < n; i++) {
		if (fds[i] < 0)
			continue;
		assert_int_equal(import(&c, "bad", fds[i], false, &a), 0);
		assert_int_equal(a.body, QLLM__FRAME__BODY_ERROR);
		assert_true(a.code == EXIT_USAGE || a.code == EXIT_FAILED);
		close(fds[i]);
	}
	close(pair[1]);
	leave(&c);
	check_good();
}

static unsigned fds_of_daemon(unsigned *ret_max)
{
	char path[64];
	struct dirent *d;
	unsigned n = 0;
	DIR *fd_dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)daemon_pid);
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
	struct client c = join(0);
	unsigned max;
	int fd = open(model_path, O_RDONLY | O_CLOEXEC);

	(void)state;
	fds_of_daemon(&max);                                    /* P18: the next descriptor is one too many */
	assert_int_equal(prlimit(daemon_pid, RLIMIT_NOFILE, NULL, &old), 0);
	low = (struct rlimit){ 3, old.rlim_max };
	assert_int_equal(prlimit(daemon_pid, RLIMIT_NOFILE, &low, NULL), 0);
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
	expect_closed(dup(c.sock));
	assert_int_equal(prlimit(daemon_pid, RLIMIT_NOFILE, &old, NULL), 0);
	leave(&c);
	close(fd);
	check_good();
}

/* --- ring ---------------------------------------------------------------------------------------------------------- */

static void test_ring_scribbled(void **state)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	uint64_t x = 12345;

	(void)state;
	for (unsigned i = 0; i < 8; i++) {                      /* R1, R2 */
		struct client c = join(0);
		struct ring_in_page *in = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, c.in_fd, 0);

		fill_generate(&frame, &g, &s, &prompt, 400);
		say(c.sock, &frame, 77);
		for (unsigned k = 0; k < 50; k++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			atomic_store(&in->read, i % 2 ? x : x % 4096 * 16);
			atomic_store(&in->waiting, x);
			usleep(200);
		}
		atomic_store(&in->read, UINT64_MAX - 15);
		munmap(in, 4096);
		leave(&c);
	}
	check_good();
}

static void test_never_reads(void **state)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	struct client c = join(RING_BYTES_MIN), killed = join(0);
	static struct answer a;

	(void)state;
	/* R7: the ring holds some hundred tokens with 20 log-probabilities each; the rest waits, everybody else goes on. */
	fill_generate(&frame, &g, &s, &prompt, 480);
	s.has_logprobs = true;
	s.logprobs = 20;
	say(c.sock, &frame, 1000);
	say(killed.sock, &frame, 1000);                         /* R10 */
	leave(&killed);
	for (unsigned i = 0; i < 5; i++)
		check_good();
	/* It reads at last, and nothing is lost. */
	c.id = 1000;
	assert_int_equal(finish(&c, &a), 0);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.n_tokens, 480);
	assert_memory_equal(a.tokens, good_answer.tokens, sizeof(a.tokens[0]) * N_TEXT);
	leave(&c);
	check_good();
}

/* --- amounts ------------------------------------------------------------------------------------------------------- */

static void test_limits(void **state)
{
	int socks[300];
	struct client c = join(0);
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	unsigned busy = 0, n_done = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(socks); i++)          /* R12 */
		socks[i] = dial();
	check_good();
	for (size_t i = 0; i < ARRAY_SIZE(socks); i++)
		if (socks[i] >= 0)
			close(socks[i]);
	check_good();
	fill_generate(&frame, &g, &s, &prompt, 100);
	for (uint32_t i = 0; i < 80; i++)
		say(c.sock, &frame, 2000 + i);
	while (busy + n_done < 80) {
		static struct answer a;
		struct frame_in f;

		read_ring(&c, &a);
		if (!ring_reader_sleep(c.ring))
			continue;
		assert_int_equal(next_frame(c.sock, &f), 0);
		ring_reader_awake(c.ring);
		busy += f.frame->body_case == QLLM__FRAME__BODY_ERROR && f.frame->error->code == EXIT_BUSY;
		n_done += f.frame->body_case == QLLM__FRAME__BODY_DONE;
		frame_in_deinit(&f);
	}
	assert_true(n_done >= 60);
	leave(&c);
	check_good();
}

static void test_replies_unread(void **state)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Show show = QLLM__SHOW__INIT;
	struct client c = join(0);
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
	assert_true(gone);                      /* the queue of replies is bounded: the client loses */
	leave(&c);
	check_good();
}

static void test_truncated_model(void **state)
{
	char kept[100];
	static struct answer a;
	int fd;

	(void)state;
	snprintf(kept, sizeof(kept), "%s", model_path);
	snprintf(model_path, sizeof(model_path), "%s/cut.gguf", dir);
	write_model(model_path);
	fd = open(model_path, O_RDWR | O_CLOEXEC);
	assert_int_equal(import(&good, "cut", fd, true, &a), 0);
	assert_int_equal(a.body, QLLM__FRAME__BODY_LIST_REPLY);
	{
		Qllm__Frame frame;
		Qllm__Generate g;
		Qllm__Sampling s;
		Qllm__Blob prompt;

		fill_generate(&frame, &g, &s, &prompt, 4);
		g.model = (char *)(uintptr_t)"cut";
		ask(&good, &frame, &a);
		assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
		assert_int_equal(ftruncate(fd, 4096), 0);
		ask(&good, &frame, &a);
		assert_int_equal(a.body, QLLM__FRAME__BODY_ERROR);
		assert_int_equal(a.code, EXIT_FAILED);
		ask(&good, &frame, &a);         /* and again: it is not loaded from the cut file */
		assert_int_equal(a.code, EXIT_FAILED);
	}
	close(fd);
	snprintf(model_path, sizeof(model_path), "%s", kept);
	check_good();
}

static void test_no_descriptor_is_lost(void **state)
{
	unsigned before, after = 0, max;

	(void)state;
	before = fds_of_daemon(&max);
	test_fds_where_none_are_due(state);
	test_fds_of_all_kinds(state);
	test_broken_datagrams(state);
	for (unsigned i = 0; i < 50; i++) {     /* foreign ones are closed on a thread of their own */
		after = fds_of_daemon(&max);
		if (after <= before)
			break;
		usleep(100000);
	}
	assert_true(after <= before);
}

/* Last: a running request is allowed to end, then the daemon goes with exit 0 and takes its socket away. */
static void test_terminate(void **state)
{
	struct client c = join(0);
	static struct answer a;
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
	int status = -1;

	(void)state;
	fill_generate(&frame, &g, &s, &prompt, 400);
	say(c.sock, &frame, ++c.id);
	usleep(20000);
	kill(daemon_pid, SIGTERM);
	assert_int_equal(finish(&c, &a), 0);
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.n_tokens, 400);
	for (unsigned i = 0; i < 200 && waitpid(daemon_pid, &status, WNOHANG) == 0; i++)
		usleep(50000);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	daemon_pid = 0;
	assert_int_equal(access(sock_path, F_OK), -1);
	leave(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_broken_datagrams),
		cmocka_unit_test(test_random_bodies),
		cmocka_unit_test(test_rules_of_the_connection),
		cmocka_unit_test(test_parameters),
		cmocka_unit_test(test_token_ids),
		cmocka_unit_test(test_model_names),
		cmocka_unit_test(test_fds_where_none_are_due),
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

	return cmocka_run_group_tests(tests, setup, teardown);
}
