/* conn - the connection of a struct qllm: found, made, kept, lost, made again.
 *
 * 1. The epoll descriptor is what the caller polls. It holds the socket of the moment and the kick,
 *    so it stays the same number over reconnections and wants only POLLIN of its poller, whatever
 *    we wait for.
 * 2. Any thread may send (qllm_cancel); so the socket, the queue behind it and the ids are under
 *    the lock. Everything else belongs to the one thread that uses the struct.
 * 3. Frames keep their order: nothing is sent past a queued one.
 * 4. A failed send loses nothing but time: the socket then reads as closed, and dispatch ends the
 *    calls.
 * 5. A daemon that was there and went away is most likely starting anew: the first call after the
 *    loss waits for it a little, and for that socket alone. The calls after a wait in vain do not
 *    wait again, so that a program without its daemon fails fast. */
#include "config.h"
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "client/conn.h"

enum { RETURN_MS = 5000, RETURN_STEP_US = 20000 };

struct out_frame {
	struct list link;
	uint8_t *p;
	size_t n;
	struct frame_fds fds;           /* duplicates, owned */
};

static void out_free(struct out_frame *o)
{
	list_remove(&o->link);
	frame_fds_deinit(&o->fds);
	mem_free(o->p);
	mem_free(o);
}

/* Caller holds the lock. */
static void poll_out(struct qllm *q, bool on)
{
	struct epoll_event ev = { .events = EPOLLIN | (on ? EPOLLOUT : 0) };

	if (q->polls_out != on && q->sock >= 0 &&
	    epoll_ctl(q->epoll, EPOLL_CTL_MOD, q->sock, &ev) == 0)
		q->polls_out = on;
}

/* Caller holds the lock. Takes the packed bytes over in every case. */
static int queue_out(struct qllm *q, uint8_t *p, size_t n, const struct frame_fds *fds)
{
	struct out_frame *o = mem_alloc(sizeof(*o));

	if (!o) {
		mem_free(p);
		return -ENOMEM;
	}
	o->p = p;
	o->n = n;
	list_append(&q->out, &o->link);
	for (unsigned i = 0; fds && i < fds->n; i++) {
		int fd = dup(fds->fd[i]), r = fd < 0 ? -errno : frame_fds_add(&o->fds, fd);

		if (r < 0) {
			out_free(o);
			return r;
		}
	}
	poll_out(q, true);
	return 0;
}

static bool is_loss(int r)
{
	return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -EBADF;
}

int conn_send(struct qllm *q, const Qllm__Frame *frame, const struct frame_fds *fds)
{
	uint8_t *p = NULL;
	size_t n;
	int r = frame_pack(frame, &p, &n);

	if (r < 0)
		return r;
	pthread_mutex_lock(&q->lock);
	if (q->sock < 0) {
		r = -ENOTCONN;
	} else {
		r = -EAGAIN;
		if (list_empty(&q->out))
			r = fd_sendmsg(q->sock, p, n, fds ? fds->fd : NULL, fds ? fds->n : 0,
			               MSG_DONTWAIT);
		if (r == -EAGAIN)
			r = queue_out(q, STEAL(p), n, fds);
		else if (is_loss(r))
			r = 0;
	}
	pthread_mutex_unlock(&q->lock);
	mem_free(p);
	return r;
}

int conn_flush(struct qllm *q)
{
	int r = 0;

	pthread_mutex_lock(&q->lock);
	while (q->sock >= 0 && !list_empty(&q->out)) {
		struct out_frame *o = container_of(q->out.next, struct out_frame, link);

		r = fd_sendmsg(q->sock, o->p, o->n, o->fds.fd, o->fds.n, MSG_DONTWAIT);
		if (r < 0)
			break;
		out_free(o);
	}
	if (list_empty(&q->out))
		poll_out(q, false);
	pthread_mutex_unlock(&q->lock);
	return r == -EAGAIN ? 0 : r;
}

void conn_wake(struct qllm *q)
{
	pthread_mutex_lock(&q->lock);
	if (q->sock >= 0)
		(void)fd_sendmsg(q->sock, frame_wake, FRAME_WAKE_BYTES, NULL, 0, MSG_DONTWAIT);
	pthread_mutex_unlock(&q->lock);
}

uint32_t conn_next_id(struct qllm *q)
{
	uint32_t id;

	pthread_mutex_lock(&q->lock);
	if (++q->last_id == 0)
		q->last_id = 1;
	id = q->last_id;
	pthread_mutex_unlock(&q->lock);
	return id;
}

void conn_lose(struct qllm *q)
{
	uint64_t one = 1;

	pthread_mutex_lock(&q->lock);
	list_for_safe(&q->out, it)
		out_free(container_of(it, struct out_frame, link));
	if (q->sock >= 0) {
		close(q->sock);         /* leaves the epoll set by itself */
		q->returning = true;
	}
	q->sock = -1;
	q->polls_out = false;
	pthread_mutex_unlock(&q->lock);
	q->ring = ring_reader_free(q->ring);
	list_for_safe(&q->calls, it) {
		list_remove(it);
		list_append(&q->lost, it);
	}
	if (!list_empty(&q->lost))
		(void)!write(q->kick, &one, sizeof(one));
}

/* One attempt. -errno of connect; err has the reason in words only when the daemon itself
 * objected. */
static int dial(struct qllm *q, const char *path, int *ret, struct err *err)
{
	struct timeval tv = { .tv_sec = q->timeout_ms / 1000,
		              .tv_usec = q->timeout_ms % 1000 * 1000 };
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;

	if (strlen(path) >= sizeof(sa.sun_path))
		return err_set(err, -ENAMETOOLONG,
		               "%.200s: longer than the %zu bytes a socket path may have", path,
		               sizeof(sa.sun_path) - 1);
	memcpy(sa.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* bound both the connection (a full backlog blocks) and the handshake behind it */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	*ret = STEAL_FD(fd);
	return 0;
}

/* Welcome brings the two descriptors of the data plane; an Error in its place ends the attempt with
 * the daemon's words. */
static int welcome(struct frame_in *f, struct ring_reader **ret, int *ret_class, struct err *err)
{
	const Qllm__Frame *frame = f->frame;

	if (frame->body_case == QLLM__FRAME__BODY_ERROR) {
		const Qllm__Error *e = frame->error;

		*ret_class = (int)e->code;
		return err_set(err, e->errnum > 0 ? -e->errnum : error_of_class(e->code), "%s",
		               e->text ? e->text : "the daemon refused the connection");
	}
	if (frame->body_case != QLLM__FRAME__BODY_WELCOME)
		return err_set(err, -EPROTO, "the daemon did not answer with Welcome");
	if (frame->welcome->protocol != PROTO_VERSION)
		return err_set(
			err, -EPROTO,
			"the daemon speaks protocol %u, this library %u: update the older one",
			frame->welcome->protocol, PROTO_VERSION);
	if (f->fds.n < 2)
		return err_set(err, -EPROTO, "the daemon's Welcome lacks the ring descriptors");
	return ring_reader_new(ret, f->fds.fd[0], f->fds.fd[1], frame->welcome->ring_bytes, err);
}

static int handshake(struct qllm *q, int fd, struct ring_reader **ret, int *ret_class,
                     struct err *err)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Hello hello = QLLM__HELLO__INIT;
	struct frame_in f;
	int r;

	hello.has_protocol = true;
	hello.protocol = PROTO_VERSION;
	hello.client = q->client;
	hello.has_ring_bytes = q->ring_bytes > 0;
	hello.ring_bytes = q->ring_bytes;
	frame.body_case = QLLM__FRAME__BODY_HELLO;
	frame.hello = &hello;
	r = frame_send(fd, &frame, NULL, 0);
	/* A daemon that has closed already may have said why before. */
	if (r == 0 || is_loss(r))
		r = frame_recv(&f, fd, MSG_TO_CLIENT, 0, q->buf, err);
	if (r == -EAGAIN || r == FRAME_E_AGAIN)
		return err_set(err, -ETIMEDOUT,
		               "the daemon accepted the connection but did not answer within %d ms",
		               q->timeout_ms);
	if (r == FRAME_E_EOF || is_loss(r))
		return err_set(err, -ECONNRESET,
		               "the daemon closed the connection at once (its log says why)");
	if (r < 0)
		return r;
	r = r == FRAME_E_UNKNOWN
	            ? err_set(err, -EPROTO, "the daemon's first frame is unknown to this library")
	            : welcome(&f, ret, ret_class, err);
	frame_in_deinit(&f);
	return r;
}

static int attach(struct qllm *q, int *fd, struct ring_reader **ring, const char *path)
{
	struct epoll_event ev = { .events = EPOLLIN };
	char *copy = mem_strdup(path);

	if (!copy)
		return -ENOMEM;
	if (epoll_ctl(q->epoll, EPOLL_CTL_ADD, *fd, &ev) < 0) {
		mem_free(copy);
		return -errno;
	}
	mem_free(q->path);
	q->path = copy;
	q->ring = STEAL(*ring);
	(void)ring_reader_sleep(q->ring);       /* the caller may poll before its first dispatch */
	pthread_mutex_lock(&q->lock);
	q->sock = STEAL_FD(*fd);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

/* Candidates: the one that was lost just now; else the option, or QLLM_SOCKET, or the user's daemon
 * and then the system's. */
static unsigned candidates(const struct qllm *q, char user[108 + 32], const char *ret[2])
{
	const char *env = getenv("QLLM_SOCKET"), *run = getenv("XDG_RUNTIME_DIR");
	unsigned n = 0;

	if (q->returning && q->path) {
		ret[0] = q->path;
		return 1;
	}
	if (q->socket || (env && *env)) {
		ret[0] = q->socket ? q->socket : env;
		return 1;
	}
	if (run && *run == '/') {
		int len = snprintf(user, 108 + 32, "%s/" SOCKET_USER, run);

		if (len > 0 && len < 108 + 32)
			ret[n++] = user;
	}
	ret[n++] = SOCKET_SYSTEM;
	return n;
}

/* One round over the candidates. */
static int connect_once(struct qllm *q)
{
	char user[108 + 32];
	const char *path[2];
	unsigned n = candidates(q, user, path), i;
	_cleanup_close_ int fd = -1;
	_cleanup_(ring_reader_freep) struct ring_reader *ring = NULL;
	int r = -ENOENT, exit_class = EXIT_UNREACHABLE;
	struct err err = { 0 };

	for (i = 0; i < n; i++) {
		r = dial(q, path[i], &fd, &err);
		if (r != -ENOENT && r != -ECONNREFUSED)
			break;
	}
	if (r == -ENOENT || r == -ECONNREFUSED)
		return error_set(
			q, r, exit_class,
			"no qllmd answers at %s%s%s (%s): start it, or name its socket with "
			"QLLM_SOCKET or --socket",
			path[0], n > 1 ? " or " : "", n > 1 ? path[1] : "", strerror(-r));
	if (r == -EACCES || r == -EPERM)
		return error_set(q, r, exit_class,
		                 "%s: permission denied: join the group that owns the socket",
		                 path[i]);
	if (r == 0)
		r = handshake(q, fd, &ring, &exit_class, &err);
	if (r == 0)
		r = attach(q, &fd, &ring, path[i]);
	if (r < 0) {
		err_set(&err, r, "%s", strerror(-r));
		return error_set(q, r, exit_class, "%s: %s", path[i], err.text);
	}
	return 0;
}

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec * 1e-6;
}

/* Nobody listens, or whoever did is just leaving. */
static bool is_absence(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED || is_loss(r);
}

int qllm_connect(struct qllm *q)
{
	int wait_ms = q->returning ? MIN(q->timeout_ms, (int)RETURN_MS) : 0, r;
	double end = now_ms() + wait_ms;

	if (q->sock >= 0)
		return 0;
	for (;;) {
		r = connect_once(q);
		if (!is_absence(r) || now_ms() >= end)
			break;
		usleep(RETURN_STEP_US);
	}
	q->returning = false;
	if (wait_ms > 0 && is_absence(r))
		return error_set(
			q, r, EXIT_UNREACHABLE,
			"the daemon at %s went away and was not back after %.1f s: see whether it "
			"runs, then try again",
			qllm_socket(q), wait_ms / 1e3);
	return r;
}

int conn_ready(struct qllm *q)
{
	struct pollfd p = { .fd = q->sock };    /* POLLHUP and POLLERR come unasked */

	/* inside an event function the ring is in use; a loss shows after it */
	if (q->sock >= 0 && !q->dispatching && poll(&p, 1, 0) > 0 &&
	    (p.revents & (POLLHUP | POLLERR)))
		conn_lose(q);
	return q->sock >= 0 ? 0 : qllm_connect(q);
}

static void qllm_freep_(struct qllm **q)
{
	qllm_free(*q);
}

int qllm_new(struct qllm **ret, const struct qllm_options *options)
{
	struct qllm_options o = QLLM_OPTIONS_INIT;
	_cleanup_(qllm_freep_) struct qllm *q = mem_alloc(sizeof(*q));
	struct epoll_event ev = { .events = EPOLLIN };

	if (!q)
		return -ENOMEM;
	if (options)
		memcpy(&o, options, MIN(options->size, sizeof(o)));
	q->sock = q->epoll = q->kick = -1;
	pthread_mutex_init(&q->lock, NULL);
	list_init(&q->out);
	list_init(&q->calls);
	list_init(&q->lost);
	q->ring_bytes = o.ring_bytes;
	q->timeout_ms = o.timeout_ms > 0 ? o.timeout_ms : 10000;
	q->client = mem_strndup(o.client ? o.client : "libqllm " PACKAGE_VERSION,
	                        o.client ? strnlen(o.client, HELLO_CLIENT_MAX)
	                                 : strlen("libqllm " PACKAGE_VERSION));
	q->socket = o.socket ? mem_strdup(o.socket) : NULL;
	if (!q->client || (o.socket && !q->socket))
		return -ENOMEM;
	q->epoll = epoll_create1(EPOLL_CLOEXEC);
	q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->epoll < 0 || q->kick < 0 || epoll_ctl(q->epoll, EPOLL_CTL_ADD, q->kick, &ev) < 0)
		return -errno;
	*ret = STEAL(q);
	return 0;
}

struct qllm *qllm_free(struct qllm *q)
{
	if (!q)
		return NULL;
	conn_lose(q);
	list_for_safe(&q->lost, it) {
		list_remove(it);
		mem_free(container_of(it, struct call, link));
	}
	if (q->kick >= 0)
		close(q->kick);
	if (q->epoll >= 0)
		close(q->epoll);
	pthread_mutex_destroy(&q->lock);
	mem_free(q->path);
	mem_free(q->socket);
	mem_free(q->client);
	return mem_free(q);
}

int qllm_fd(const struct qllm *q)
{
	return q->epoll;
}

const char *qllm_socket(const struct qllm *q)
{
	const char *env = getenv("QLLM_SOCKET");

	return q->path ? q->path : q->socket ? q->socket : env && *env ? env : SOCKET_SYSTEM;
}

const char *qllm_version(void)
{
	return PACKAGE_VERSION;
}

/* Read frames till the socket has no more; 0, or why the connection is over. */
static int read_frames(struct qllm *q)
{
	for (;;) {
		struct frame_in f;
		struct err err = { 0 };
		int r = frame_recv(&f, q->sock, MSG_TO_CLIENT, MSG_DONTWAIT, q->buf, &err);

		if (r == FRAME_E_AGAIN)
			return 0;
		if (r == FRAME_E_EOF)
			return -ECONNRESET;
		if (r < 0)
			return r;
		r = r == FRAME_E_UNKNOWN ? 0 : stream_frame(q, &f);
		frame_in_deinit(&f);
		if (r < 0)
			return r;
	}
}

int qllm_dispatch(struct qllm *q)
{
	uint64_t n;
	int r = 0;

	if (q->dispatching)
		return error_set(q, -EDEADLK, EXIT_FAILED,
		                 "qllm_dispatch was called inside an event function");
	q->dispatching = true;
	q->n_events = 0;
	q->failure_told = false;
	(void)!read(q->kick, &n, sizeof(n));
	if (q->sock >= 0) {
		ring_reader_awake(q->ring);
		do {
			r = stream_ring(q);
			if (r == 0)
				r = read_frames(q);
			if (r == 0)
				r = conn_flush(q);
		} while (r == 0 && !ring_reader_sleep(q->ring));
	}
	q->dispatching = false;
	if (r < 0)
		conn_lose(q);
	q->dispatching = true;
	stream_lost(q);
	q->dispatching = false;
	if (r == 0)
		return (int)MIN(q->n_events, (unsigned)INT32_MAX);
	/* A request that failed has said more. */
	return q->failure_told ? -ECONNRESET
	                       : error_set(q, -ECONNRESET, EXIT_UNREACHABLE,
	                                   "the connection to %s was lost", qllm_socket(q));
}

int qllm_wait(struct qllm *q, int64_t id, int timeout_ms)
{
	double end = timeout_ms < 0 ? 0 : now_ms() + timeout_ms;
	struct pollfd p = { .fd = q->epoll, .events = POLLIN };
	bool lost = false;

	if (id <= 0 || id > UINT32_MAX)
		return error_set(q, -ESRCH, EXIT_FAILED, "no such open request");
	list_for(&q->lost, it)
		lost |= container_of(it, struct call, link)->id == (uint32_t)id;
	if (!lost && !call_find(q, (uint32_t)id))
		return error_set(q, -ESRCH, EXIT_FAILED, "no such open request");
	q->wait_id = id;
	while (q->wait_id) {
		double left = timeout_ms < 0 ? -1 : MAX(end - now_ms(), 0.0);
		int r;

		r = qllm_dispatch(q);
		if (!q->wait_id || r == -EDEADLK)
			break;
		if (timeout_ms >= 0 && left <= 0) {
			q->wait_id = 0;
			return error_set(q, -ETIMEDOUT, EXIT_TIMEOUT, "no end within %d ms",
			                 timeout_ms);
		}
		if (poll(&p, 1, left < 0 ? -1 : (int)left + 1) < 0) {
			q->wait_id = 0;
			return error_set(q, -errno, EXIT_INTERRUPTED, "waiting: %s",
			                 strerror(errno));
		}
	}
	return q->wait_code;
}

int qllm_cancel(struct qllm *q, int64_t id)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Cancel cancel = QLLM__CANCEL__INIT;
	int r;

	if (id <= 0 || id > UINT32_MAX)
		return -EINVAL;
	cancel.has_request = true;
	cancel.request = (uint32_t)id;
	frame.has_id = true;
	frame.id = conn_next_id(q);     /* its Ok finds no call and is dropped */
	frame.body_case = QLLM__FRAME__BODY_CANCEL;
	frame.cancel = &cancel;
	r = conn_send(q, &frame, NULL);
	return r == -ENOTCONN ? 0 : r;
}
