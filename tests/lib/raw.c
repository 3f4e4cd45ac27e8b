#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/num.h"
#include "proto/hello.h"
#include "tests/lib/ggufgen.h"
#include "tests/lib/raw.h"

enum { WAIT_MS = 20000 };

char raw_dir[64], raw_model_path[100];
pid_t raw_daemon;
struct raw_client raw_good;
struct raw_answer raw_good_answer;
static char sock_path[100];
static uint8_t scratch[FRAME_MAX + 1];

/* --- a client --------------------------------------------------------------------------------- */

int raw_dial(void)
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

int raw_next_frame(int sock, struct frame_in *f)
{
	struct pollfd pfd = { sock, POLLIN, 0 };

	if (poll(&pfd, 1, WAIT_MS) != 1)
		fail_msg("no answer in %d ms", WAIT_MS);
	return frame_recv(f, sock, MSG_TO_CLIENT, 0, scratch, NULL) == 0 ? 0 : -1;
}

void raw_say(int sock, Qllm__Frame *frame, uint32_t id)
{
	frame->has_id = true;
	frame->id = id;
	assert_int_equal(frame_send(sock, frame, NULL, 0), 0);
}

void raw_hello(int sock, uint32_t protocol, uint64_t ring_bytes)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Hello hello = QLLM__HELLO__INIT;

	hello.has_protocol = hello.has_ring_bytes = true;
	hello.protocol = protocol;
	hello.ring_bytes = ring_bytes;
	hello.client = (char *)(uintptr_t)"test";
	frame.body_case = QLLM__FRAME__BODY_HELLO;
	frame.hello = &hello;
	raw_say(sock, &frame, 1);
}

struct raw_client raw_join(uint64_t ring_bytes)
{
	struct raw_client c = { .sock = raw_dial(), .id = 10 };
	struct frame_in f;
	struct err err = { 0 };

	assert_true(c.sock >= 0);
	raw_hello(c.sock, PROTO_VERSION, ring_bytes);
	assert_int_equal(raw_next_frame(c.sock, &f), 0);
	assert_int_equal(f.frame->body_case, QLLM__FRAME__BODY_WELCOME);
	assert_int_equal(ring_reader_new(&c.ring, f.fds.fd[0], f.fds.fd[1],
	                                 f.frame->welcome->ring_bytes, &err),
	                 0);
	c.in_fd = frame_steal_fd(&f, 1);
	frame_in_deinit(&f);
	return c;
}

void raw_leave(struct raw_client *c)
{
	ring_reader_free(c->ring);
	close(c->in_fd);
	close(c->sock);
}

void raw_read_ring(struct raw_client *c, struct raw_answer *a)
{
	struct ring_record rec;
	const void *payload;

	while (ring_reader_next(c->ring, &rec, &payload) == 1)
		if (rec.type == RING_TOKEN && rec.id == c->id &&
		    a->n_tokens < ARRAY_SIZE(a->tokens))
			a->tokens[a->n_tokens++] = ((const struct ring_token *)payload)->id;
	if (ring_reader_release(c->ring))
		send(c->sock, frame_wake, sizeof(frame_wake), MSG_NOSIGNAL);
}

static void keep_text(const struct frame_in *f, struct raw_answer *a)
{
	char *text;
	size_t n;

	assert_int_equal(blob_get(f->frame->text_reply->text, f, 1 << 26, &text, &n, NULL), 0);
	a->n_text = n;
	snprintf(a->text, sizeof(a->text), "%s", text);
	mem_free(text);
}

int raw_finish(struct raw_client *c, struct raw_answer *a)
{
	memset(a, 0, sizeof(*a));
	for (;;) {
		struct frame_in f;
		bool end;

		raw_read_ring(c, a);
		if (!ring_reader_sleep(c->ring))
			continue;
		if (raw_next_frame(c->sock, &f) < 0)
			return -1;
		ring_reader_awake(c->ring);
		a->body = f.frame->body_case;
		end = f.info->final && f.frame->id == c->id;
		if (a->body == QLLM__FRAME__BODY_ERROR) {
			a->code = f.frame->error->code;
			snprintf(a->text, sizeof(a->text), "%s", f.frame->error->text);
		}
		if (a->body == QLLM__FRAME__BODY_TEXT_REPLY)
			keep_text(&f, a);
		if (a->body == QLLM__FRAME__BODY_DONE)
			a->finish = f.frame->done->finish;
		frame_in_deinit(&f);
		if (end) {
			raw_read_ring(c, a);
			return 0;
		}
	}
}

void raw_ask_fds(struct raw_client *c, Qllm__Frame *frame, const struct frame_fds *fds,
                 struct raw_answer *a)
{
	frame->has_id = true;
	frame->id = ++c->id;
	assert_int_equal(frame_send(c->sock, frame, fds, 0), 0);
	assert_int_equal(raw_finish(c, a), 0);
}

void raw_ask(struct raw_client *c, Qllm__Frame *frame, struct raw_answer *a)
{
	raw_ask_fds(c, frame, NULL, a);
}

void raw_fill_generate(Qllm__Frame *frame, Qllm__Generate *g, Qllm__Sampling *s, Qllm__Blob *prompt,
                       uint32_t n)
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

void raw_generate(struct raw_client *c, uint32_t n, struct raw_answer *a)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;

	raw_fill_generate(&frame, &g, &s, &prompt, n);
	raw_ask(c, &frame, a);
}

void raw_check_good(void)
{
	static struct raw_answer a;

	assert_int_equal(waitpid(raw_daemon, NULL, WNOHANG), 0);
	/* What a bad client of the same user left open counts against that user's limit for a
	 * moment. */
	for (unsigned i = 0; i < 100; i++) {
		raw_generate(&raw_good, RAW_TEXT, &a);
		if (a.code != EXIT_BUSY)
			break;
		usleep(50000);
	}
	assert_int_equal(a.body, QLLM__FRAME__BODY_DONE);
	assert_int_equal(a.n_tokens, RAW_TEXT);
	assert_memory_equal(a.tokens, raw_good_answer.tokens, sizeof(a.tokens[0]) * RAW_TEXT);
}

void raw_expect_closed(int sock)
{
	struct frame_in f;

	for (unsigned i = 0; i < 10000; i++) {
		if (raw_next_frame(sock, &f) < 0) {
			close(sock);
			raw_check_good();
			return;
		}
		frame_in_deinit(&f);
	}
	fail_msg("the connection stays open");
}

void raw_send(int sock, const void *p, size_t n, const int *fds, unsigned n_fds)
{
	int r = fd_sendmsg(sock, p, n, fds, n_fds, 0);

	assert_true(r == 0 || r == -EPIPE || r == -ECONNRESET);
}

/* --- the daemon ------------------------------------------------------------------------------- */

int raw_import(struct raw_client *c, const char *name, int fd, bool in_place, struct raw_answer *a)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Import im = QLLM__IMPORT__INIT;
	struct frame_fds fds = { .n = 1 };

	fds.fd[0] = fd;
	im.name = (char *)(uintptr_t)name;
	im.path = raw_model_path;
	im.has_in_place = true;
	im.in_place = in_place;
	frame.body_case = QLLM__FRAME__BODY_IMPORT;
	frame.import = &im;
	frame.has_id = true;
	frame.id = ++c->id;
	assert_int_equal(frame_send(c->sock, &frame, &fds, 0), 0);
	return raw_finish(c, a);
}

void raw_write_model(const char *path, const char *chat_template)
{
	struct ggufgen_tiny tiny = { .n_ctx = 512, .seed = 7 };
	struct ggufgen *g = ggufgen_tiny(&tiny);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t n;
	uint8_t *bytes;

	if (chat_template)
		ggufgen_str(g, "tokenizer.chat_template", chat_template);
	bytes = ggufgen_bytes(g, &n);
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

int raw_setup(void **state)
{
	char log[100], state_dir[100], cache_dir[100];
	int fd;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	strcpy(raw_dir, "/tmp/qllm-hostile-XXXXXX");
	if (!mkdtemp(raw_dir))
		return -1;
	snprintf(sock_path, sizeof(sock_path), "%s/sock", raw_dir);
	snprintf(raw_model_path, sizeof(raw_model_path), "%s/tiny.gguf", raw_dir);
	snprintf(log, sizeof(log), "%s/log", raw_dir);
	snprintf(state_dir, sizeof(state_dir), "%s/state", raw_dir);
	snprintf(cache_dir, sizeof(cache_dir), "%s/cache", raw_dir);
	raw_write_model(raw_model_path, NULL);
	raw_daemon = fork();
	if (raw_daemon == 0) {
		if (!freopen(log, "w", stderr))
			_exit(126);
		execl(binary(), "qllmd", "--socket", sock_path, "--state-dir", state_dir,
		      "--cache-dir", cache_dir, NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 200; i++) {
		int s = raw_dial();

		if (s >= 0) {
			close(s);
			break;
		}
		usleep(50000);
	}
	raw_good = raw_join(RING_BYTES_DEFAULT);
	fd = open(raw_model_path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(raw_import(&raw_good, "tiny", fd, false, &raw_good_answer), 0);
	close(fd);
	assert_int_equal(raw_good_answer.body, QLLM__FRAME__BODY_LIST_REPLY);
	raw_generate(&raw_good, RAW_TEXT, &raw_good_answer);
	assert_string_equal(raw_good_answer.text, "");
	assert_int_equal(raw_good_answer.n_tokens, RAW_TEXT);
	return 0;
}

int raw_teardown(void **state)
{
	char cmd[100];
	int status = 0;

	(void)state;
	raw_leave(&raw_good);
	if (raw_daemon > 0) {
		if (waitpid(raw_daemon, &status, WNOHANG) == 0) {
			kill(raw_daemon, SIGKILL);
			waitpid(raw_daemon, &status, 0);
		}
		/* it has not ended by request and with exit 0: its last words say why */
		snprintf(cmd, sizeof(cmd), "tail -n 60 '%s/log'", raw_dir);
		status = system(cmd);
	}
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", raw_dir);
	return system(cmd);
}

void raw_wait_end(void)
{
	int status = -1;

	for (unsigned i = 0; i < 200 && waitpid(raw_daemon, &status, WNOHANG) == 0; i++)
		usleep(50000);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	raw_daemon = 0;
	assert_int_equal(access(sock_path, F_OK), -1);
}
