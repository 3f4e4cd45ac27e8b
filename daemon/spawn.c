/* spawn - sockets and children.
 *
 * 1. A worker's socket and its process end apart: a child is reaped through its pidfd, however long
 *    after the hang-up; its struct child outlives the worker.
 * 2. The reason of an end is known for children only, so where there is a child its exit is awaited
 *    before on_end; what it sent before is read first.
 * 3. A child gets three descriptors: the socket as stdin, nothing as stdout, the daemon's stderr.
 *    Everything else is close-on-exec, and closed again by number. */
#include "daemon/spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"

enum { KILL_AFTER_US = 5000000, READS_MAX = 16, HOW_MAX = 160 };
extern char **environ;

struct child {
	struct list link;
	pid_t pid;
	int pidfd;
	sd_event_source *exited, *deadline;
	struct worker *worker;          /* NULL once it was stopped */
};
struct worker {
	struct daemon *d;
	const struct worker_events *events;
	void *user;
	int sock;                       /* -1: hung up */
	sd_event_source *io;
	struct child *child;            /* NULL: systemd's, or reaped */
	char how[HOW_MAX];              /* of the end */
};
static struct list children;

/* --- ends ------------------------------------------------------------------------------------- */

static void hang_up(struct worker *w)
{
	w->io = sd_event_source_disable_unref(w->io);
	if (w->sock >= 0)
		close(STEAL_FD(w->sock));
}

static void worker_end(struct worker *w)
{
	hang_up(w);
	w->events->on_end(w->user, w->how);
	mem_free(w);
}

static void child_free(struct child *c)
{
	sd_event_source_disable_unref(c->exited);
	sd_event_source_disable_unref(c->deadline);
	if (c->pidfd >= 0)
		close(c->pidfd);
	list_remove(&c->link);
	mem_free(c);
}

static void child_kill(const struct child *c)
{
	if (pidfd_send_signal(c->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		log_msg(LOG_L_WARN, "worker %d cannot be killed: %s", (int)c->pid, strerror(errno));
}

static int on_kill_time(sd_event_source *source, uint64_t usec, void *user)
{
	const struct child *c = user;

	(void)source;
	(void)usec;
	log_msg(LOG_L_WARN, "worker %d does not stop: it is killed", (int)c->pid);
	child_kill(c);
	return 0;
}

/* The hang-up was the order; this is for who does not hear it. */
static void child_dismiss(struct child *c, sd_event *event)
{
	if (!c->deadline &&
	    sd_event_add_time_relative(event, &c->deadline, CLOCK_MONOTONIC, KILL_AFTER_US, 0,
	                               on_kill_time, c) < 0)
		child_kill(c);
}

static void describe_end(char how[HOW_MAX], const siginfo_t *si)
{
	if (si->si_code == CLD_EXITED)
		snprintf(how, HOW_MAX, "it ended with exit code %d and no result", si->si_status);
	else
		snprintf(how, HOW_MAX, "it was killed by signal %d (%s)", si->si_status,
		         strsignal(si->si_status));
}

static bool worker_read(struct worker *w);

static int on_exited(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct child *c = user;
	struct worker *w = c->worker;
	siginfo_t si = { .si_pid = 0 };

	(void)source;
	(void)fd;
	(void)revents;
	if (waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
		return 0;
	if (w) {
		w->child = NULL;
		describe_end(w->how, &si);
		/* its last frames first; each turn reads a few */
		while (w->sock >= 0 && worker_read(w))
			;
		worker_end(w);
	}
	child_free(c);
	return 0;
}

/* --- frames ----------------------------------------------------------------------------------- */

/* One turn. false: there is no more now, or ever (then sock is -1). */
static bool worker_read(struct worker *w)
{
	static uint8_t buf[FRAME_MAX + 1];      /* main thread only */

	for (unsigned i = 0; i < READS_MAX; i++) {
		struct err err = { 0 };
		struct frame_in in;
		int r = frame_recv(&in, w->sock, MSG_FROM_WORKER, MSG_DONTWAIT, buf, &err);
		bool go_on;

		if (r == FRAME_E_AGAIN)
			return false;
		if (r == 0) {
			go_on = w->events->on_frame(w->user, &in);
			frame_in_deinit(&in);
			if (go_on)
				continue;
		} else if (r == FRAME_E_UNKNOWN) {
			frame_in_deinit(&in);
			continue;               /* a newer worker's */
		} else if (r != FRAME_E_EOF && r != -ECONNRESET) {
			snprintf(w->how, sizeof(w->how), "it sent nonsense: %.100s", err.text);
		}
		hang_up(w);
		return false;
	}
	return true;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct worker *w = user;

	(void)source;
	(void)fd;
	(void)revents;
	worker_read(w);
	if (w->sock >= 0)
		return 0;
	if (w->child)
		child_dismiss(w->child, w->d->event);   /* on_exited goes on */
	else
		worker_end(w);
	return 0;
}

int worker_send(struct worker *w, const Qllm__Frame *frame, const struct frame_fds *fds)
{
	return frame_send(w->sock, frame, fds, MSG_DONTWAIT);
}

void worker_stop(struct worker *w)
{
	hang_up(w);
	if (w->child) {
		w->child->worker = NULL;
		child_dismiss(w->child, w->d->event);
	}
	mem_free(w);
}

void workers_reap(void)
{
	siginfo_t si;

	if (!children.next)
		return;
	list_for_safe(&children, it) {
		struct child *c = container_of(it, struct child, link);

		child_kill(c);
		while (waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED) < 0 && errno == EINTR)
			;
		child_free(c);
	}
}

/* --- settings --------------------------------------------------------------------------------- */

int workers_find(struct config *c, struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf path = { 0 };
	const char *runtime = getenv("XDG_RUNTIME_DIR"), *slash;
	char self[PATH_MAX];
	ssize_t n;
	int r = 0;

	if (!c->worker_socket[0] && (getenv("NOTIFY_SOCKET") || getenv("LISTEN_FDS"))) {
		r = sbuf_printf(&path, "%s/qllm-worker/worker.sock",
		                geteuid() != 0 && runtime ? runtime : "/run");
		if (r == 0 && access(path.p, F_OK) == 0)
			r = config_set(c, "worker_socket", path.p, "default", err);
	}
	if (r < 0 || c->worker_path[0])
		return r;
	path.n = 0;
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[MAX(n, (ssize_t)0)] = 0;
	slash = strrchr(self, '/');
	if (slash)
		r = sbuf_printf(&path, "%.*s/qllm-worker", (int)(slash - self), self);
	if (r < 0)
		return err_set(err, r, "out of memory");
	return config_set(c, "worker_path",
	                  slash && access(path.p, X_OK) == 0 ? path.p
	                                                     : LIBEXECDIR "/qllmd/qllm-worker",
	                  "default", err);
}

bool worker_may_come(const struct daemon *d, int r)
{
	return d->config->worker_socket[0] || (r != -ENOENT && r != -EACCES && r != -ENOEXEC);
}

/* --- start ------------------------------------------------------------------------------------ */

static int dial(const char *path, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int sock = socket(AF_UNIX,
	                                  SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG, "the worker socket's path %.80s... is too long",
		               path);
	strcpy(addr.sun_path, path);
	if (sock < 0 || connect(sock, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_set(err, -errno, "the worker socket %s: %s: is qllm-worker.socket up?",
		               path, strerror(errno));
	return STEAL_FD(sock);
}

/* With signals as a fresh program expects them. */
static int spawn(pid_t *ret, const char *path, int sock)
{
	char *argv[] = { (char *)(uintptr_t) "qllm-worker", (char *)(uintptr_t) "serve", NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r = posix_spawn_file_actions_init(&actions);

	if (r != 0)
		return -r;
	r = posix_spawnattr_init(&attr);
	if (r != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return -r;
	}
	sigemptyset(&none);
	sigfillset(&all);
	r = posix_spawnattr_setsigmask(&attr, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(&attr, &all);
	if (r == 0)
		r = posix_spawnattr_setflags(&attr,
		                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, sock, STDIN_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null",
		                                     O_WRONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
	if (r == 0)
		r = posix_spawn(ret, path, &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

static int start_child(struct worker *w, const char *path, struct err *err)
{
	int pair[2], r;
	struct child *c = mem_alloc(sizeof(*c));

	if (!c)
		return err_set(err, -ENOMEM, "out of memory");
	c->pidfd = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = -errno;
		mem_free(c);
		return err_set(err, r, "no socket pair for a worker: %s", strerror(-r));
	}
	r = spawn(&c->pid, path, pair[1]);
	close(pair[1]);
	w->sock = pair[0];
	if (r < 0) {
		mem_free(c);
		return err_set(err, r,
		               "the worker %s cannot be started: %s: is qllmd installed whole? "
		               "(jobs.worker_path)",
		               path, strerror(-r));
	}
	if (!children.next)
		list_init(&children);
	list_append(&children, &c->link);
	c->pidfd = pidfd_open(c->pid, 0);
	r = c->pidfd < 0 ? -errno : 0;
	if (r == 0)
		r = sd_event_add_io(w->d->event, &c->exited, c->pidfd, EPOLLIN, on_exited, c);
	if (r < 0) {
		kill(c->pid, SIGKILL);
		waitpid(c->pid, NULL, 0);
		child_free(c);
		return err_set(err, r, "watching a worker: %s", strerror(-r));
	}
	c->worker = w;
	w->child = c;
	return 0;
}

int worker_start(struct worker **ret, struct daemon *d, const struct worker_events *events,
                 void *user, struct err *err)
{
	struct worker *w = mem_alloc(sizeof(*w));
	int r;

	if (!w)
		return err_set(err, -ENOMEM, "out of memory");
	*w = (struct worker){ .d = d, .events = events, .user = user, .sock = -1 };
	snprintf(w->how, sizeof(w->how), "its connection ended without a result");
	if (d->config->worker_socket[0]) {
		w->sock = r = dial(d->config->worker_socket, err);
	} else {
		r = start_child(w, d->config->worker_path, err);
	}
	if (r >= 0) {
		r = sd_event_add_io(d->event, &w->io, w->sock, EPOLLIN, on_io, w);
		if (r < 0)
			err_set(err, r, "watching a worker: %s", strerror(-r));
	}
	if (r < 0) {
		worker_stop(w);
		return r;
	}
	*ret = w;
	return 0;
}
