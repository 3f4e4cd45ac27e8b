/* ctl-io - waiting for the daemon, for the terminal and for the clock, with ^C seen everywhere.
 *
 * Signal handlers only set a flag and write to a pipe; every wait polls that pipe, so no signal
 * falls between a test and a sleep. The first ^C cancels the request in flight and lets it end; the
 * second one does not wait. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/num.h"
#include "client/ctl.h"

enum { CANCEL_GRACE_MS = 2000, INPUT_STEP = 64 << 10 };
static volatile sig_atomic_t interrupts;
static int signal_pipe[2] = { -1, -1 };

double ctl_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void on_signal(int signo)
{
	int saved = errno;
	char c = (char)signo;

	interrupts++;
	(void)!write(signal_pipe[1], &c, 1);
	errno = saved;
}

int ctl_signals_init(void)
{
	/* no SA_RESTART: a blocked read ends */
	struct sigaction sa = { .sa_handler = on_signal };

	if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) < 0 || sigaction(SIGINT, &sa, NULL) < 0 ||
	    sigaction(SIGTERM, &sa, NULL) < 0)
		return -errno;
	return 0;
}

bool ctl_interrupted(void)
{
	return interrupts > 0;
}

static void drain_pipe(void)
{
	char buf[64];

	while (read(signal_pipe[0], buf, sizeof(buf)) > 0)
		;
}

void ctl_interrupt_clear(void)
{
	interrupts = 0;
	drain_pipe();
}

/* Milliseconds to the deadline: -1 = none. */
static int time_left(double deadline)
{
	return deadline == 0 ? -1 : (int)CLAMP((deadline - ctl_now()) * 1e3 + 1, 0.0, 1e9);
}

/* Until *done, the deadline (-ETIMEDOUT) or more than `seen` interrupts (-EINTR). */
static int wait_until(struct qllm **q, unsigned n, const bool *done, double deadline, int seen)
{
	struct pollfd p[CTL_CLIENTS_MAX + 1];

	for (unsigned i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = qllm_fd(q[i]), .events = POLLIN, .revents = POLLIN };
	p[n] = (struct pollfd){ .fd = signal_pipe[0], .events = POLLIN };
	for (;;) {
		/* a lost connection ends its requests with an error of their own, so its code is
		 * not needed here */
		for (unsigned i = 0; i < n; i++)
			if (p[i].revents)
				(void)qllm_dispatch(q[i]);
		if (*done)
			return 0;
		if (interrupts > seen)
			return -EINTR;
		if (deadline != 0 && ctl_now() >= deadline)
			return -ETIMEDOUT;
		if (poll(p, n + 1, time_left(deadline)) < 0 && errno != EINTR)
			return -errno;
		if (p[n].revents)
			drain_pipe();
	}
}

int ctl_wait_many(struct ctl *c, struct qllm **q, unsigned n, const bool *done)
{
	int r = wait_until(q, n, done, c->deadline, 0);

	if (r == -EINTR)
		return EXIT_INTERRUPTED;
	if (r == -ETIMEDOUT)
		return ctl_fail(c, EXIT_TIMEOUT, "no end within --timeout %g s", c->timeout);
	return r < 0 ? ctl_fail(c, EXIT_FAILED, "waiting for the daemon: %s", strerror(-r))
	             : EXIT_OK;
}

int ctl_wait(struct ctl *c, const bool *done, uint64_t request)
{
	int r = wait_until(&c->q, 1, done, c->deadline, 0);

	if (r == 0)
		return EXIT_OK;
	if (r != -EINTR && r != -ETIMEDOUT)
		return ctl_fail(c, EXIT_FAILED, "waiting for the daemon: %s", strerror(-r));
	if (request) {
		(void)qllm_cancel(c->q, (int64_t)request);
		(void)wait_until(&c->q, 1, done, ctl_now() + CANCEL_GRACE_MS / 1e3, interrupts);
	}
	out_progress_end(c);
	if (r == -EINTR)
		return EXIT_INTERRUPTED;
	return ctl_fail(c, EXIT_TIMEOUT, "no end within --timeout %g s: cancelled", c->timeout);
}

int ctl_sleep(struct ctl *c, double seconds)
{
	static const bool never;
	double until = ctl_now() + seconds;
	int r = wait_until(&c->q, 1, &never, c->deadline == 0 ? until : MIN(until, c->deadline), 0);

	if (r == -EINTR)
		return EXIT_INTERRUPTED;
	if (r == -ETIMEDOUT && c->deadline != 0 && ctl_now() >= c->deadline)
		return ctl_fail(c, EXIT_TIMEOUT, "--timeout %g s has passed", c->timeout);
	return r == -ETIMEDOUT ? EXIT_OK
	                       : ctl_fail(c, EXIT_FAILED, "waiting: %s", strerror(-r));
}

/* All of fd; -EINTR and -ETIMEDOUT as wait_until. */
static int read_all(struct ctl *c, int fd, struct sbuf *out)
{
	_cleanup_mem_ char *buf = mem_alloc(INPUT_STEP);

	if (!buf)
		return -ENOMEM;
	for (;;) {
		struct pollfd p[] = { { .fd = fd, .events = POLLIN },
			              { .fd = signal_pipe[0], .events = POLLIN } };
		int r = poll(p, 2, time_left(c->deadline));
		ssize_t n;

		if (interrupts > 0)
			return -EINTR;
		if (r == 0)
			return -ETIMEDOUT;
		if (r < 0 || !p[0].revents)
			continue;
		n = read(fd, buf, INPUT_STEP);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (n == 0)
			return 0;
		if (n > 0) {
			r = sbuf_append(out, buf, (size_t)n);
			if (r < 0)
				return r;
		}
	}
}

static int read_into(struct ctl *c, int fd, const char *name, char **ret, size_t *ret_n)
{
	struct sbuf s = { 0 };
	int r = read_all(c, fd, &s);

	if (r == 0) {
		*ret_n = s.n;
		*ret = sbuf_steal(&s);
		r = *ret ? 0 : -ENOMEM;
	}
	sbuf_deinit(&s);
	if (r == 0)
		return EXIT_OK;
	if (r == -EINTR)
		return EXIT_INTERRUPTED;
	return ctl_fail(c, r == -ETIMEDOUT ? EXIT_TIMEOUT : EXIT_FAILED, "%s: %s", name,
	                r == -ETIMEDOUT ? "no end of input within --timeout" : strerror(-r));
}

int ctl_read_path(struct ctl *c, const char *path, char **ret, size_t *ret_n)
{
	_cleanup_close_ int fd = -1;

	if (strcmp(path, "-") == 0)
		return read_into(c, STDIN_FILENO, "stdin", ret, ret_n);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return ctl_fail(c, EXIT_FAILED, "%s: %s", path, strerror(errno));
	return read_into(c, fd, path, ret, ret_n);
}

int ctl_input(struct ctl *c, const char *arg, const char *what, char **ret, size_t *ret_n)
{
	if (!arg && isatty(STDIN_FILENO))
		return ctl_fail(c, EXIT_USAGE, "%s wants %s, or - to read it from stdin",
		                c->cmd->name, what);
	if (!arg || strcmp(arg, "-") == 0)
		return read_into(c, STDIN_FILENO, "stdin", ret, ret_n);
	*ret = mem_strdup(arg);
	*ret_n = strlen(arg);
	return *ret ? EXIT_OK : ctl_fail(c, EXIT_FAILED, "no memory for %s", what);
}
