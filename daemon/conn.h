/* conn - one client's connection. A client's fault ends that client only. Main thread. */
#pragma once
#include <stdbool.h>
#include <systemd/sd-event.h>
#include "daemon/auth.h"
#include "daemon/daemon.h"
#include "daemon/stream.h"
#include "proto/frame.h"
#include "proto/hello.h"

struct conn {
	struct daemon *d;
	struct list link;               /* d->conns */
	int fd;
	uint64_t number;                /* since start: fairness key, and for the log */
	sd_event_source *io, *hello_timer;
	struct peer peer;
	struct user *user;
	bool greeted;
	char name[HELLO_CLIENT_MAX + 1];
	struct stream *stream;          /* from Hello on */
	struct list calls;              /* struct call.link */
	struct list out;                /* frames that the socket had no room for */
	size_t out_bytes, out_frames;
	struct charge place, fds, ring; /* the connection, its descriptors, its ring */
	/* an administrator beyond the limit: until there is room it gets short answers only */
	bool reserved;
	uint64_t since_us;              /* CLOCK_REALTIME */
};
/* Descriptors that a connection is charged: socket, stream's dup, the ring's two on their way. */
enum { CONN_FDS = 4 };
/* Takes the accepted socket over, also on failure. */
int conn_new(struct daemon *d, int fd);
/* Cancels its requests and frees it. why: for the log, NULL = the client left. */
void conn_close(struct conn *conn, const char *why);
/* Before more than answers at once: an ordinary place, for one that came in by the reserve.
 * -EBUSY. */
int conn_leave_reserve(struct conn *conn, struct err *err);
/* Send or queue. The frame is packed before the call returns; fds stay the caller's. A client that
 * lets the queue grow past its bound is disconnected (later, from the loop: conn stays valid
 * here). */
void conn_send(struct conn *conn, Qllm__Frame *frame, const struct frame_fds *fds);
/* End requests whose client has read no output for limits.stall_seconds: they hold KV pages that
 * others want. */
void conns_end_stalled(struct daemon *d, uint64_t now_us);
/* Tell the client why, then disconnect it from the loop. */
void conn_fault(struct conn *conn, enum exit_class class, const char *text);
