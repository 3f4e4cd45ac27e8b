/* conn - reads frames, queues replies, ends clients that break the rules.
 *
 * 1. Only conn_on_io, timers and the owner's shutdown path free a connection; everybody else shuts
 *    the socket down and lets the loop come by (EPOLLHUP), so that no handler holds a dangling
 *    pointer.
 * 2. A turn reads at most READS_MAX frames of one client.
 * 3. The queue of replies is bounded in frames and bytes; who does not read loses the connection,
 *    not the daemon its memory. */
#include "daemon/conn.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "daemon/call.h"
#include "daemon/dispatch.h"
#include "daemon/foreign.h"
#include "daemon/journal.h"

enum { READS_MAX = 16, UNREAD_MAX = 1024, ADMIN_RESERVE = 8 };
/* Closed clients that are logged one by one, and in what time. */
enum { CLOSED_SAID_MAX = 32, CLOSED_EVERY_US = 10000000 };
enum { OUT_FRAMES_MAX = 512, OUT_BYTES_MAX = 4 << 20 };

struct out {
	struct list link;
	uint8_t *data;
	size_t n;
	struct frame_fds fds;
	struct charge bytes, held;      /* memory, memfds included; descriptors */
};

static void out_free(struct out *o)
{
	mem_free(o->data);
	frame_fds_deinit(&o->fds);
	charge_deinit(&o->bytes);
	charge_deinit(&o->held);
	mem_free(o);
}

static int conn_flush(struct conn *conn)
{
	while (!list_empty(&conn->out)) {
		struct out *o = container_of(conn->out.next, struct out, link);
		int r = fd_sendmsg(conn->fd, o->data, o->n, o->fds.fd, o->fds.n, MSG_DONTWAIT);

		if (r == -EAGAIN)
			return 0;
		if (r < 0)
			return r;
		conn->out_bytes -= o->n;
		conn->out_frames--;
		list_remove(&o->link);
		out_free(o);
	}
	sd_event_source_set_io_events(conn->io, EPOLLIN);
	return 0;
}

/* A reply that waits costs memory: its bytes and those of its blobs. */
static int charge_out(struct conn *conn, struct out *o, size_t n)
{
	uint64_t bytes = n;
	struct stat st;
	int r;

	for (unsigned i = 0; i < o->fds.n; i++)
		if (fstat(o->fds.fd[i], &st) == 0)
			bytes += (uint64_t)st.st_size;
	r = charge_take(&o->bytes, conn->user, CHARGE_RING_BYTES, bytes, NULL);
	if (r == 0 && o->fds.n > 0)
		r = charge_take(&o->held, conn->user, CHARGE_FDS, o->fds.n, NULL);
	return r;
}

static int enqueue(struct conn *conn, uint8_t **data, size_t n, const struct frame_fds *fds)
{
	struct out *o;

	if (conn->out_frames >= OUT_FRAMES_MAX || conn->out_bytes + n > OUT_BYTES_MAX)
		return -ENOBUFS;
	o = mem_alloc(sizeof(*o));
	if (!o)
		return -ENOMEM;
	for (unsigned i = 0; fds && i < fds->n; i++) {
		int fd = fcntl(fds->fd[i], F_DUPFD_CLOEXEC, 3);

		if (fd < 0 || frame_fds_add(&o->fds, fd) < 0) {
			out_free(o);
			return -EMFILE;
		}
	}
	if (charge_out(conn, o, n) < 0) {
		out_free(o);
		return -ENOBUFS;
	}
	o->data = STEAL(*data);
	o->n = n;
	conn->out_bytes += n;
	conn->out_frames++;
	list_append(&conn->out, &o->link);
	sd_event_source_set_io_events(conn->io, EPOLLIN | EPOLLOUT);
	return 0;
}

void conn_send(struct conn *conn, Qllm__Frame *frame, const struct frame_fds *fds)
{
	_cleanup_mem_ uint8_t *data = NULL;
	size_t n;
	int r = frame_pack(frame, &data, &n);

	if (r == 0 && list_empty(&conn->out))
		r = fd_sendmsg(conn->fd, data, n, fds ? fds->fd : NULL, fds ? fds->n : 0,
		               MSG_DONTWAIT);
	else if (r == 0)
		r = -EAGAIN;
	if (r == -EAGAIN)
		r = enqueue(conn, &data, n, fds);
	if (r < 0) {
		log_msg(LOG_L_DEBUG, "client %llu: reply lost: %s",
		        (unsigned long long)conn->number, strerror(-r));
		shutdown(conn->fd, SHUT_RDWR);
	}
}

void conn_fault(struct conn *conn, enum exit_class class, const char *text)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Error error = QLLM__ERROR__INIT;

	error.has_code = true;
	error.code = class;
	error.text = (char *)(uintptr_t)text;
	frame.body_case = QLLM__FRAME__BODY_ERROR;
	frame.error = &error;
	conn_send(conn, &frame, NULL);
	shutdown(conn->fd, SHUT_RDWR);
}

static int conn_read(struct conn *conn, struct err *err)
{
	static uint8_t buf[FRAME_MAX + 1];      /* main thread only */

	for (unsigned i = 0; i < READS_MAX; i++) {
		struct frame_in in;
		int r = frame_recv(&in, conn->fd, MSG_TO_DAEMON, MSG_DONTWAIT, buf, err);

		if (r == FRAME_E_AGAIN)
			return 0;
		if (r == FRAME_E_EOF)
			return -ECONNRESET;
		if (r < 0)
			return r;
		r = dispatch_frame(conn, &in, r == FRAME_E_UNKNOWN, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int conn_on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct conn *conn = userdata;
	struct err err = { 0 };
	int r = 0;

	(void)source;
	(void)fd;
	foreign_owner(conn->user);
	if (revents & EPOLLIN)
		r = conn_read(conn, &err);
	if (r == 0 && (revents & EPOLLOUT))
		r = conn_flush(conn);
	if (r == 0 && (revents & (EPOLLHUP | EPOLLERR)))
		r = -ECONNRESET;
	if (r == -ECONNRESET || r == -EPIPE) {
		conn_close(conn, NULL);
	} else if (r < 0) {
		if (err.text[0])
			conn_fault(conn, r == -EBUSY ? EXIT_BUSY : EXIT_USAGE, err.text);
		conn_close(conn, err.text[0] ? err.text : strerror(-r));
	}
	foreign_owner(NULL);
	return 0;       /* never < 0: sd-event would mute the source and leak the connection */
}

static int on_hello_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	conn_close(userdata, "no Hello in time");
	return 0;
}

/* Charge a new connection to its user. An administrator whom the limits leave no place comes in by
 * the reserve. */
static int admit(struct conn *conn, struct err *err)
{
	struct daemon *d = conn->d;
	int r = charge_take(&conn->place, conn->user, CHARGE_CONNECTIONS, 1, err);

	if (r == 0)
		r = charge_take(&conn->fds, conn->user, CHARGE_FDS, CONN_FDS, err);
	if (r == 0 || !conn->peer.admin || d->n_reserved >= ADMIN_RESERVE)
		return r;
	charge_deinit(&conn->place);
	charge_force(&conn->fds, conn->user, CHARGE_FDS, CONN_FDS);
	conn->reserved = true;
	d->n_reserved++;
	return 0;
}

int conn_leave_reserve(struct conn *conn, struct err *err)
{
	int r = conn->reserved ? charge_take(&conn->place, conn->user, CHARGE_CONNECTIONS, 1, err)
	                       : 0;

	if (r == 0 && conn->reserved) {
		conn->reserved = false;
		conn->d->n_reserved--;
	}
	return r;
}

int conn_new(struct daemon *d, int fd)
{
	static uint64_t numbers;
	struct conn *conn = mem_alloc(sizeof(*conn));
	struct err err = { 0 };
	struct timespec t;
	int r;

	if (!conn) {
		close(fd);
		return -ENOMEM;
	}
	conn->d = d;
	conn->fd = fd;
	conn->number = ++numbers;
	clock_gettime(CLOCK_REALTIME, &t);
	conn->since_us = (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
	list_init(&conn->calls);
	list_init(&conn->out);
	list_append(&d->conns, &conn->link);
	d->n_conns++;
	r = auth_peer(&conn->peer, fd, d->admin_gid, NULL);
	if (r == 0) {
		conn->user = user_get(&d->users, conn->peer.uid);
		r = conn->user ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = sd_event_add_io(d->event, &conn->io, fd, EPOLLIN, conn_on_io, conn);
	if (r >= 0)
		r = sd_event_add_time_relative(d->event, &conn->hello_timer, CLOCK_MONOTONIC,
		                               (uint64_t)HELLO_TIMEOUT_S * 1000000, 0,
		                               on_hello_timeout, conn);
	if (r >= 0 && admit(conn, &err) < 0) {
		conn_fault(conn, EXIT_BUSY, err.text);
		conn_close(conn, "its user's limits");
		return -EBUSY;
	}
	if (r < 0)
		conn_close(conn, strerror(-r));
	return r < 0 ? r : 0;
}

static void client_fields(struct journal_fields *j, const struct conn *conn)
{
	journal_add(j, "QLLM_CLIENT", "%llu", (unsigned long long)conn->number);
	journal_add(j, "QLLM_UID", "%u", (unsigned)conn->peer.uid);
	journal_add(j, "QLLM_PID", "%d", (int)conn->peer.pid);
}

/* Closing a socket with unread frames makes the peer's next read fail in place of giving it what
 * was sent last, which says why. After shutdown nothing more can come. */
static void drop_unread(int fd)
{
	uint8_t byte;

	for (unsigned i = 0; i < UNREAD_MAX && recv(fd, &byte, 1, MSG_DONTWAIT) > 0; i++)
		;
}

/* Whoever breaks rules in a loop must not push other messages out of the journal. */
static bool may_say_closed(struct daemon *d)
{
	uint64_t now = daemon_now_us();

	if (now - d->closed_since_us > CLOSED_EVERY_US) {
		if (d->n_closed_unsaid > 0)
			log_msg(LOG_L_NOTICE, "%u more clients were closed before",
			        d->n_closed_unsaid);
		d->closed_since_us = now;
		d->n_closed_said = d->n_closed_unsaid = 0;
	}
	if (d->n_closed_said == CLOSED_SAID_MAX) {
		d->n_closed_unsaid++;
		return false;
	}
	d->n_closed_said++;
	return true;
}

void conn_close(struct conn *conn, const char *why)
{
	struct journal_fields j = { .n = 0 };
	struct daemon *d = conn->d;
	char shown[80];

	client_fields(&j, conn);
	log_fields(why && may_say_closed(d) ? LOG_L_NOTICE : LOG_L_DEBUG,
	           why ? ID_CLIENT_CLOSED : NULL, j.f, j.n,
	           "client %llu (uid %u, %s) %s%s", (unsigned long long)conn->number,
	           (unsigned)conn->peer.uid,
	           str_escape(shown, sizeof(shown), conn->name, strlen(conn->name)),
	           why ? "closed: " : "left", why ? why : "");
	metrics_disconnected(conn, why);
	sd_event_source_disable_unref(conn->io);
	sd_event_source_disable_unref(conn->hello_timer);
	list_for_safe(&conn->calls, it)
		call_orphan(container_of(it, struct call, link));
	list_for_safe(&conn->out, it) {
		list_remove(it);
		out_free(container_of(it, struct out, link));
	}
	shutdown(conn->fd, SHUT_RDWR);
	drop_unread(conn->fd);
	close(conn->fd);
	stream_unref(conn->stream);
	charge_deinit(&conn->ring);
	charge_deinit(&conn->fds);
	charge_deinit(&conn->place);
	d->n_reserved -= conn->reserved;
	if (conn->user)
		user_put(conn->user);
	list_remove(&conn->link);
	mem_free(conn);
	d->n_conns--;
	daemon_check_drained(d);
}

void conns_end_stalled(struct daemon *d, uint64_t now_us)
{
	uint64_t most = d->config->stall_seconds;

	list_for(&d->conns, it) {
		struct conn *conn = container_of(it, struct conn, link);
		struct journal_fields j = { .n = 0 };
		uint64_t since = conn->stream ? atomic_load(&conn->stream->parked_us) : 0;

		if (since == 0 || now_us < since || now_us - since < most * 1000000)
			continue;
		client_fields(&j, conn);
		log_fields(LOG_L_NOTICE, ID_REFUSED, j.f, j.n,
		           "client %llu (uid %u) reads no output for %llu s: its requests end",
		           (unsigned long long)conn->number, (unsigned)conn->peer.uid,
		           (unsigned long long)most);
		atomic_store(&conn->stream->parked_us, 0);
		list_for_safe(&conn->calls, jt) {
			struct call *c = container_of(jt, struct call, link);

			if (c->busy && !c->run)         /* the engine has it */
				call_end(c, EXIT_REFUSED, -EDQUOT,
				         "the request was ended because its client read no output "
				         "for %llu seconds (limits.stall_seconds)",
				         (unsigned long long)most);
		}
	}
}
