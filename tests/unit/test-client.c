/* libqllm against a daemon played by a thread: handshake, streaming, order of ring and frames,
 * cancel from another thread, prompts too large for a frame, errors, loss and reconnection. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "client/qllm.h"
#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/ring.h"

/* The daemon: accepts `accepts` clients one after the other and answers until they leave or say
 * "bye". */
struct fake {
	char dir[64], path[96];
	int listener;
	unsigned accepts;
	uint32_t protocol;
	pthread_t thread;
	size_t prompt_n;                /* of the last Generate */
	char prompt_first, prompt_last;
	unsigned cancels;
	uint8_t buf[FRAME_MAX + 1];
};

static void send_error(int sock, uint32_t id, uint32_t code, const char *text)
{
	Qllm__Frame f = QLLM__FRAME__INIT;
	Qllm__Error e = QLLM__ERROR__INIT;

	e.has_code = true;
	e.code = code;
	e.text = (char *)(uintptr_t)text;
	f.has_id = true;
	f.id = id;
	f.body_case = QLLM__FRAME__BODY_ERROR;
	f.error = &e;
	assert_int_equal(frame_send(sock, &f, NULL, 0), 0);
}

static void send_done(int sock, uint32_t id, Qllm__Finish finish, uint32_t tokens)
{
	Qllm__Frame f = QLLM__FRAME__INIT;
	Qllm__Done d = QLLM__DONE__INIT;

	d.has_finish = d.has_completion_tokens = true;
	d.finish = finish;
	d.completion_tokens = tokens;
	f.has_id = true;
	f.id = id;
	f.body_case = QLLM__FRAME__BODY_DONE;
	f.done = &d;
	assert_int_equal(frame_send(sock, &f, NULL, 0), 0);
}

static void put_token(int sock, struct ring_writer *w, uint32_t id, int32_t token, const char *text)
{
	struct ring_token t = { token, NAN, 0, (uint32_t)strlen(text) };
	struct iovec parts[] = { { &t, sizeof(t) }, { (void *)(uintptr_t)text, strlen(text) } };

	while (ring_writer_put(w, RING_TOKEN, id, parts, 2) == -ENOSPC)
		usleep(200);
	if (ring_writer_publish(w))
		(void)fd_sendmsg(sock, frame_wake, FRAME_WAKE_BYTES, NULL, 0, MSG_DONTWAIT);
}

/* "many": 20,000 tokens, more than the ring holds; "wait": two tokens, then none until cancelled;
 * "bye": hang up. */
static bool answer_generate(struct fake *k, int sock, struct ring_writer *w, struct frame_in *in)
{
	const Qllm__Frame *f = in->frame;
	_cleanup_mem_ char *prompt = NULL;

	assert_int_equal(blob_get(f->generate->prompt, in, 64 << 20, &prompt, &k->prompt_n, NULL),
	                 0);
	k->prompt_first = k->prompt_n ? prompt[0] : 0;
	k->prompt_last = k->prompt_n ? prompt[k->prompt_n - 1] : 0;
	if (strcmp(prompt, "bye") == 0)
		return false;
	if (strcmp(prompt, "wait") == 0) {
		put_token(sock, w, f->id, 1, "a");
		put_token(sock, w, f->id, 2, "b");
		return true;
	}
	if (strcmp(prompt, "many") == 0) {
		for (int i = 0; i < 20000; i++)
			put_token(sock, w, f->id, i, "word ");
		send_done(sock, f->id, QLLM__FINISH__FINISHED_LENGTH, 20000);
		return true;
	}
	put_token(sock, w, f->id, 5, "Par");
	put_token(sock, w, f->id, 6, "is");
	send_done(sock, f->id, QLLM__FINISH__FINISHED_STOP, 2);
	return true;
}

static bool answer(struct fake *k, int sock, struct ring_writer *w, struct frame_in *in)
{
	const Qllm__Frame *f = in->frame;
	Qllm__Frame out = QLLM__FRAME__INIT;
	Qllm__ListReply list = QLLM__LIST_REPLY__INIT;
	Qllm__ModelInfo info = QLLM__MODEL_INFO__INIT, *infos[1] = { &info };

	switch (f->body_case) {
	case QLLM__FRAME__BODY_GENERATE:
		return answer_generate(k, sock, w, in);
	case QLLM__FRAME__BODY_CANCEL:
		k->cancels++;
		send_done(sock, f->cancel->request, QLLM__FINISH__FINISHED_CANCELLED, 2);
		return true;
	case QLLM__FRAME__BODY_LIST:
		/* two pages of one model each */
		info.name = f->list->after ? (char *)(uintptr_t)"beta" : (char *)(uintptr_t)"alpha";
		list.models = infos;
		list.n_models = 1;
		list.has_more = true;
		list.more = !f->list->after;
		out.has_id = true;
		out.id = f->id;
		out.body_case = QLLM__FRAME__BODY_LIST_REPLY;
		out.list_reply = &list;
		assert_int_equal(frame_send(sock, &out, NULL, 0), 0);
		return true;
	case QLLM__FRAME__BODY_WAKE:
		return true;
	default:
		send_error(sock, f->id, EXIT_NO_MODEL, "no model named x");
		return true;
	}
}

static void welcome(struct fake *k, int sock, struct ring_writer **w)
{
	Qllm__Frame f = QLLM__FRAME__INIT;
	Qllm__Welcome m = QLLM__WELCOME__INIT;
	struct frame_fds fds = { 0 };
	int out, in;

	assert_int_equal(ring_writer_new(w, RING_BYTES_MIN, &out, &in), 0);
	assert_int_equal(frame_fds_add(&fds, out), 0);
	assert_int_equal(frame_fds_add(&fds, in), 0);
	m.has_protocol = m.has_ring_bytes = true;
	m.protocol = k->protocol;
	m.ring_bytes = ring_writer_size(*w);
	f.body_case = QLLM__FRAME__BODY_WELCOME;
	f.welcome = &m;
	assert_int_equal(frame_send(sock, &f, &fds, 0), 0);
	frame_fds_deinit(&fds);
}

static void *fake_run(void *user)
{
	struct fake *k = user;

	for (unsigned i = 0; i < k->accepts; i++) {
		_cleanup_close_ int sock = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC);
		_cleanup_(ring_writer_freep) struct ring_writer *w = NULL;
		bool go_on = true;

		while (go_on) {
			struct frame_in in;
			int r = frame_recv(&in, sock, MSG_TO_DAEMON, 0, k->buf, NULL);

			if (r != 0)
				break;
			if (in.frame->body_case == QLLM__FRAME__BODY_HELLO)
				welcome(k, sock, &w);
			else
				go_on = answer(k, sock, w, &in);
			frame_in_deinit(&in);
		}
	}
	return NULL;
}

static void fake_listen(struct fake *k)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	strcpy(sa.sun_path, k->path);
	k->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(k->listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(k->listener, 4), 0);
	assert_int_equal(pthread_create(&k->thread, NULL, fake_run, k), 0);
}

static void fake_start(struct fake *k, unsigned accepts, uint32_t protocol)
{
	memset(k, 0, sizeof(*k));
	strcpy(k->dir, "/tmp/qllm-test-XXXXXX");
	assert_non_null(mkdtemp(k->dir));
	snprintf(k->path, sizeof(k->path), "%s/s", k->dir);
	k->accepts = accepts;
	k->protocol = protocol;
	fake_listen(k);
}

/* Its directory stays, so that another can take its place. */
static void fake_end(struct fake *k)
{
	pthread_join(k->thread, NULL);
	close(k->listener);
	unlink(k->path);
}

static void fake_stop(struct fake *k)
{
	fake_end(k);
	rmdir(k->dir);
}

static struct qllm *client(const struct fake *k)
{
	struct qllm_options o = QLLM_OPTIONS_INIT;
	struct qllm *q;

	o.socket = k->path;
	assert_int_equal(qllm_new(&q, &o), 0);
	return q;
}

static void ask(struct qllm_generate_args *a, const char *prompt)
{
	*a = (struct qllm_generate_args)QLLM_GENERATE_INIT;
	a->model = "m";
	a->prompt = prompt;
	a->n_prompt = strlen(prompt);
}

struct seen {
	unsigned tokens, models, dones;
	int32_t last;
	bool in_order, after_done;
	int code, finish;
	char names[64];
	pthread_t canceller;
	struct qllm *q;
	int64_t id;
};

static void on_event(void *user, const struct qllm_event *ev)
{
	struct seen *s = user;

	s->after_done |= s->dones > 0;
	if (ev->type == QLLM_EVENT_TOKEN) {
		s->in_order = s->tokens == 0 || ev->token->id == s->last + 1 ? s->in_order : false;
		s->last = ev->token->id;
		s->tokens++;
	}
	if (ev->type == QLLM_EVENT_MODEL)
		strcat(s->names, ev->model->name);
	if (ev->type == QLLM_EVENT_DONE) {
		s->dones++;
		s->code = ev->code;
		s->finish = ev->result ? ev->result->finish : -1;
	}
}

static void test_complete(void **state)
{
	struct fake k;
	struct qllm_generate_args a;
	struct qllm *q;
	char *text;
	size_t n;

	(void)state;
	fake_start(&k, 1, PROTO_VERSION);
	q = client(&k);
	ask(&a, "capital of France?");
	assert_int_equal(qllm_complete(q, &a, &text, &n), 0);
	assert_string_equal(text, "Paris");
	assert_int_equal(n, 5);
	qllm_text_free(text);
	qllm_free(q);
	fake_stop(&k);
}

/* More tokens than the ring holds at once: both sides sleep and wake, and the end comes after the
 * last token. */
static void test_many(void **state)
{
	struct fake k;
	struct qllm_generate_args a;
	struct seen s = { .in_order = true };
	struct qllm *q;

	(void)state;
	fake_start(&k, 1, PROTO_VERSION);
	q = client(&k);
	ask(&a, "many");
	assert_int_equal(qllm_wait(q, qllm_generate(q, &a, on_event, &s), 30000), 0);
	assert_int_equal(s.tokens, 20000);
	assert_true(s.in_order);
	assert_int_equal(s.dones, 1);
	assert_false(s.after_done);
	assert_int_equal(s.finish, QLLM_FINISH_LENGTH);
	qllm_free(q);
	fake_stop(&k);
}

static void *cancel_later(void *user)
{
	struct seen *s = user;

	usleep(20000);
	assert_int_equal(qllm_cancel(s->q, s->id), 0);
	return NULL;
}

static void test_cancel_from_thread(void **state)
{
	struct fake k;
	struct qllm_generate_args a;
	struct seen s = { .in_order = true };

	(void)state;
	fake_start(&k, 1, PROTO_VERSION);
	s.q = client(&k);
	ask(&a, "wait");
	s.id = qllm_generate(s.q, &a, on_event, &s);
	assert_true(s.id > 0);
	assert_int_equal(qllm_wait(s.q, s.id, 1), -ETIMEDOUT);
	assert_int_equal(pthread_create(&s.canceller, NULL, cancel_later, &s), 0);
	assert_int_equal(qllm_wait(s.q, s.id, 10000), 0);
	pthread_join(s.canceller, NULL);
	assert_int_equal(s.finish, QLLM_FINISH_CANCELLED);
	assert_int_equal(s.tokens, 2);
	/* it has ended: cancelling again, or waiting, finds nothing */
	assert_int_equal(qllm_wait(s.q, s.id, 0), -ESRCH);
	qllm_free(s.q);
	fake_stop(&k);
	assert_int_equal(k.cancels, 1);
}

static void test_large_prompt(void **state)
{
	struct fake k;
	struct qllm_generate_args a;
	size_t n = 3 << 20, got;
	char *prompt = mem_alloc(n), *text;
	struct qllm *q;

	(void)state;
	assert_non_null(prompt);
	memset(prompt, 'x', n);
	prompt[0] = 'a';
	prompt[n - 1] = 'z';
	fake_start(&k, 1, PROTO_VERSION);
	q = client(&k);
	ask(&a, "");
	a.prompt = prompt;
	a.n_prompt = n;
	assert_int_equal(qllm_complete(q, &a, &text, &got), 0);
	qllm_text_free(text);
	qllm_free(q);
	fake_stop(&k);
	assert_int_equal(k.prompt_n, n);
	assert_int_equal(k.prompt_first, 'a');
	assert_int_equal(k.prompt_last, 'z');
	mem_free(prompt);
}

static void test_errors(void **state)
{
	struct fake k;
	struct qllm_generate_args a = QLLM_GENERATE_INIT;
	struct qllm *q;

	(void)state;
	fake_start(&k, 1, PROTO_VERSION);
	q = client(&k);
	assert_int_equal(qllm_wait(q, qllm_remove(q, "x", NULL, NULL), 10000), -ENOENT);
	assert_int_equal(qllm_error_class(q), EXIT_NO_MODEL);
	assert_string_equal(qllm_error_text(q), "no model named x");
	/* no prompt at all; a struct without its size */
	assert_int_equal(qllm_generate(q, &a, NULL, NULL), -EINVAL);
	a.size = 0;
	assert_int_equal(qllm_generate(q, &a, NULL, NULL), -EINVAL);
	assert_int_equal(qllm_wait(q, 12345, 0), -ESRCH);
	qllm_free(q);
	fake_stop(&k);
}

static void test_list_pages(void **state)
{
	struct fake k;
	struct seen s = { 0 };
	struct qllm *q;

	(void)state;
	fake_start(&k, 1, PROTO_VERSION);
	q = client(&k);
	assert_int_equal(qllm_wait(q, qllm_list(q, on_event, &s), 10000), 0);
	assert_string_equal(s.names, "alphabeta");
	assert_int_equal(s.dones, 1);
	qllm_free(q);
	fake_stop(&k);
}

/* The daemon goes away: the open request ends with -ECONNRESET, the next one finds its successor,
 * and the descriptor that a main loop polls stays the same. */
static void test_reconnect(void **state)
{
	struct fake k;
	struct qllm_generate_args a;
	struct seen s = { .in_order = true }, hung = { .in_order = true };
	struct qllm *q;
	int64_t id;
	char *text;
	int fd;

	(void)state;
	fake_start(&k, 2, PROTO_VERSION);
	q = client(&k);
	fd = qllm_fd(q);
	ask(&a, "wait");
	id = qllm_generate(q, &a, on_event, &hung);
	assert_true(id > 0);
	ask(&a, "bye");
	assert_int_equal(qllm_wait(q, qllm_generate(q, &a, on_event, &s), 10000), -ECONNRESET);
	assert_int_equal(qllm_error_class(q), EXIT_UNREACHABLE);
	assert_int_equal(hung.dones, 1);
	assert_int_equal(hung.code, -ECONNRESET);
	ask(&a, "again");
	assert_int_equal(qllm_complete(q, &a, &text, NULL), 0);
	assert_string_equal(text, "Paris");
	qllm_text_free(text);
	assert_int_equal(qllm_fd(q), fd);
	qllm_free(q);
	fake_stop(&k);
}

static void *return_late(void *user)
{
	struct fake *k = user;

	usleep(400000);
	fake_listen(k);
	return NULL;
}

/* The first call after a loss waits for the daemon; when it does not come back, the next ones do
 * not. */
static void test_daemon_returns(void **state)
{
	struct fake k, again;
	struct qllm_options o = QLLM_OPTIONS_INIT;
	struct qllm_generate_args a;
	struct seen s = { .in_order = true };
	struct qllm *q;
	struct timespec t0, t1;
	pthread_t thread;
	char *text;

	(void)state;
	fake_start(&k, 1, PROTO_VERSION);
	again = k;
	o.socket = k.path;
	o.timeout_ms = 2000;                    /* how long it waits as well */
	assert_int_equal(qllm_new(&q, &o), 0);
	ask(&a, "bye");
	assert_int_equal(qllm_wait(q, qllm_generate(q, &a, on_event, &s), 10000), -ECONNRESET);
	fake_end(&k);
	assert_int_equal(pthread_create(&thread, NULL, return_late, &again), 0);
	ask(&a, "again");
	assert_int_equal(qllm_complete(q, &a, &text, NULL), 0);
	assert_string_equal(text, "Paris");
	qllm_text_free(text);
	pthread_join(thread, NULL);
	ask(&a, "bye");
	assert_int_equal(qllm_wait(q, qllm_generate(q, &a, on_event, &s), 10000), -ECONNRESET);
	fake_stop(&again);
	assert_true(qllm_generate(q, &a, on_event, &s) < 0);
	assert_int_equal(qllm_error_class(q), EXIT_UNREACHABLE);
	assert_non_null(strstr(qllm_error_text(q), "went away"));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_true(qllm_generate(q, &a, on_event, &s) < 0);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	assert_true(t1.tv_sec - t0.tv_sec <= 1);
	assert_int_equal(qllm_error_class(q), EXIT_UNREACHABLE);
	assert_non_null(strstr(qllm_error_text(q), "no qllmd answers"));
	qllm_free(q);
}

static void test_wrong_protocol(void **state)
{
	struct fake k;
	struct qllm *q;

	(void)state;
	fake_start(&k, 1, PROTO_VERSION + 1);
	q = client(&k);
	assert_int_equal(qllm_connect(q), -EPROTO);
	assert_int_equal(qllm_error_class(q), EXIT_UNREACHABLE);
	assert_non_null(strstr(qllm_error_text(q), "protocol"));
	qllm_free(q);
	fake_stop(&k);
}

static void test_no_daemon(void **state)
{
	struct qllm_options o = QLLM_OPTIONS_INIT;
	struct qllm *q;

	(void)state;
	o.socket = "/tmp/qllm-test-no-such-directory/s";
	assert_int_equal(qllm_new(&q, &o), 0);
	assert_int_equal(qllm_status(q, NULL, NULL), -ENOENT);
	assert_int_equal(qllm_error_class(q), EXIT_UNREACHABLE);
	qllm_free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_complete),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_cancel_from_thread),
		cmocka_unit_test(test_large_prompt),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_list_pages),
		cmocka_unit_test(test_reconnect),
		cmocka_unit_test(test_daemon_returns),
		cmocka_unit_test(test_wrong_protocol),
		cmocka_unit_test(test_no_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
