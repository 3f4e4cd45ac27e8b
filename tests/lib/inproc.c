/* inproc - daemon/main.c is compiled here under another name for its main (tests/lib/local.mk). */
#include "tests/lib/inproc.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "base/fd.h"
#include "base/num.h"
#include "proto/hello.h"
#include "tests/lib/ggufgen.h"

enum { START_MS = 60000, STEP_MS = 5, REMOVE_TRIES = 50, REMOVE_MS = 20 };

char inproc_dir[64], inproc_model[96];
static char sock_path[96];
static pthread_t thread;
static int exit_status = -1;

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "inproc: %s: %s\n", what, strerror(errno));
	abort();
}

static void *serve(void *arg)
{
	static char state[96], cache[96], config[96];
	const char *level = getenv("QLLM_LOG_LEVEL") ? getenv("QLLM_LOG_LEVEL") : "error";
	const char *argv[] = { "qllmd",     "--config",  config, "--socket",    sock_path,
		               "--state-dir", state,     "--cache-dir", cache, "--threads", "1",
		               "--log-level", level,     NULL };
	FILE *f;

	(void)arg;
	snprintf(state, sizeof(state), "%s/state", inproc_dir);
	snprintf(cache, sizeof(cache), "%s/cache", inproc_dir);
	snprintf(config, sizeof(config), "%s/conf", inproc_dir);
	f = fopen(config, "w");
	/* no worker beside a program under test */
	need(f && fputs("[models]\npack = 0\n", f) >= 0 && fclose(f) == 0, config);
	exit_status = qllmd_main((int)ARRAY_SIZE(argv) - 1, (char **)(uintptr_t)argv);
	return NULL;
}

static void write_model(void)
{
	struct ggufgen_tiny tiny = { .n_ctx = 128, .n_embd = 32, .n_layer = 1, .head_dim = 16,
		                     .seed = 7 };
	struct ggufgen *g = ggufgen_tiny(&tiny);
	int fd = open(inproc_model, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	size_t n;
	uint8_t *bytes = ggufgen_bytes(g, &n);

	need(fd >= 0 && fd_write_all(fd, bytes, n) == 0, inproc_model);
	close(fd);
	free(bytes);
	ggufgen_free(g);
}

void inproc_start(bool terminate)
{
	sigset_t set;
	int s = -1;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	if (terminate)
		pthread_sigmask(SIG_BLOCK, &set, NULL);
	strcpy(inproc_dir, "/tmp/qllm-inproc-XXXXXX");
	need(mkdtemp(inproc_dir), inproc_dir);
	snprintf(sock_path, sizeof(sock_path), "%s/sock", inproc_dir);
	snprintf(inproc_model, sizeof(inproc_model), "%s/tiny.gguf", inproc_dir);
	write_model();
	need(pthread_create(&thread, NULL, serve, NULL) == 0, "thread");
	for (unsigned ms = 0; s < 0 && ms < START_MS && exit_status < 0; ms += STEP_MS) {
		s = inproc_dial();
		if (s < 0)
			usleep(STEP_MS * 1000);
	}
	need(s >= 0, "the daemon does not start");
	close(s);
}

int inproc_stop(void)
{
	kill(getpid(), SIGTERM);
	pthread_join(thread, NULL);
	inproc_remove_files();
	return exit_status;
}

void inproc_remove_files(void)
{
	char cmd[120];
	int r = -1;

	/* a daemon that goes on until the process ends may just be writing a file there */
	snprintf(cmd, sizeof(cmd), "rm -rf '%s' 2>/dev/null", inproc_dir);
	for (unsigned i = 0; r != 0 && i < REMOVE_TRIES; i++) {
		if (i > 0)
			usleep(REMOVE_MS * 1000);
		r = system(cmd);
	}
	need(r == 0, cmd);
}

int inproc_dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	need(s >= 0, "socket");
	strcpy(addr.sun_path, sock_path);
	if (connect(s, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(s);
		return -1;
	}
	return s;
}

void inproc_done(struct frame_in *f)
{
	for (unsigned i = 0; i < f->fds.n; i++)
		close(frame_steal_fd(f, i));
	frame_in_deinit(f);
}

int inproc_next(int sock, struct frame_in *f, int wait_ms)
{
	static uint8_t buf[FRAME_MAX + 1];
	struct pollfd pfd = { sock, POLLIN, 0 };
	int r;

	do      /* libFuzzer's alarm interrupts it, once in a while */
		r = poll(&pfd, 1, wait_ms);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return -ETIMEDOUT;
	r = r < 0 ? -errno : frame_recv(f, sock, MSG_TO_CLIENT, 0, buf, NULL);
	return r > 0 ? -ECONNRESET : r;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int inproc_ask(int sock, Qllm__Frame *frame, uint32_t id, const int *fds, unsigned n_fds,
               struct frame_in *ret, int wait_ms)
{
	int64_t end = now_ms() + wait_ms;
	_cleanup_mem_ uint8_t *p = NULL;
	size_t n;
	int r;

	frame->has_id = true;
	frame->id = id;
	r = frame_pack(frame, &p, &n);
	if (r == 0)
		r = fd_sendmsg(sock, p, n, fds, n_fds, 0);
	while (r == 0) {
		int64_t left = end - now_ms();

		r = inproc_next(sock, ret, left > 0 ? (int)left : 0);
		if (r < 0 || (ret->info->final && ret->frame->id == id))
			return r;
		inproc_done(ret);
	}
	return r;
}

int inproc_join(int wait_ms)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Hello hello = QLLM__HELLO__INIT;
	struct frame_in f;
	int s = inproc_dial(), r;

	if (s < 0)
		return -ECONNREFUSED;
	hello.has_protocol = hello.has_ring_bytes = true;
	hello.protocol = PROTO_VERSION;
	hello.ring_bytes = RING_BYTES_MIN;
	frame.body_case = QLLM__FRAME__BODY_HELLO;
	frame.hello = &hello;
	r = inproc_ask(s, &frame, 1, NULL, 0, &f, wait_ms);
	if (r == 0) {
		if (f.frame->body_case != QLLM__FRAME__BODY_WELCOME)
			r = -ECONNRESET;
		inproc_done(&f);
	}
	if (r < 0) {
		close(s);
		return r;
	}
	return s;
}

int inproc_import(int sock, uint32_t id, const char *name, int wait_ms)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Import im = QLLM__IMPORT__INIT;
	int fd = open(inproc_model, O_RDONLY | O_CLOEXEC), r;
	struct frame_in f;

	need(fd >= 0, inproc_model);
	im.name = (char *)(uintptr_t)name;
	im.path = inproc_model;
	frame.body_case = QLLM__FRAME__BODY_IMPORT;
	frame.import = &im;
	r = inproc_ask(sock, &frame, id, &fd, 1, &f, wait_ms);
	close(fd);
	if (r < 0)
		return r;
	r = f.frame->body_case == QLLM__FRAME__BODY_LIST_REPLY ? 0 : -EREMOTEIO;
	inproc_done(&f);
	return r;
}
