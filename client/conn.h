/* conn - what the files of libqllm share. See conn.c for the invariants. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include "base/err.h"
#include "base/list.h"
#include "client/qllm.h"
#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/ring.h"

struct call {                           /* an open request */
	struct list link;
	uint32_t id;
	Qllm__Frame__BodyCase body;     /* what was asked */
	qllm_event_fn fn;               /* may be NULL */
	void *user;
};
struct qllm {
	char *socket, *client;          /* options; socket NULL = search */
	uint64_t ring_bytes;
	int timeout_ms;

	/* kick: eventfd that makes epoll readable when lost calls wait to be told */
	int epoll, kick;
	pthread_mutex_t lock;           /* guards the four below: senders on any thread */
	int sock;                       /* -1: no connection */
	struct list out;                /* struct out_frame: what the socket had no room for */
	bool polls_out;
	uint32_t last_id;

	char *path;                     /* of the connection, or of the last one */
	bool returning;                 /* that was lost, and nobody has waited for it yet */
	struct ring_reader *ring;
	struct list calls;              /* struct call, open */
	struct list lost;               /* struct call whose connection is gone: DONE is due */
	bool dispatching;
	/* qllm_wait's request, 0 = none; its code when it has ended */
	int64_t wait_id;
	int wait_code;
	unsigned n_events;              /* of this dispatch */
	bool failure_told;              /* the error's text is of a request that failed in it */
	struct err err;
	int err_class;
	uint8_t buf[FRAME_MAX + 1];     /* scratch of frame_recv */
};

/* error.c: remember a failure for qllm_error_text; returns code. */
int error_set(struct qllm *q, int code, int exit_class, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
int error_take(struct qllm *q, int code, int exit_class, const struct err *err);
/* negative errno for a class of Error.code */
int error_of_class(unsigned exit_class);
int error_class_of(int code);                           /* and back, for failures of this side */

/* conn.c */
uint32_t conn_next_id(struct qllm *q);
/* Send, or queue what the socket has no room for. Fds stay the caller's. Any thread. -ENOTCONN,
 * -EMSGSIZE, -ENOMEM; a lost connection is no error here: dispatch will find it. */
int conn_send(struct qllm *q, const Qllm__Frame *frame, const struct frame_fds *fds);
int conn_flush(struct qllm *q);
/* Connected and, as far as can be seen without blocking, still alive; connects otherwise. */
int conn_ready(struct qllm *q);
/* Drop the connection; open calls become lost ones. Not while the ring is being read. */
void conn_lose(struct qllm *q);
/* Wake frame to the daemon; dropped when the socket is full */
void conn_wake(struct qllm *q);

/* stream.c: one received frame, the ring, and the calls that were lost. */
int stream_ring(struct qllm *q);                        /* -EPROTO */
int stream_frame(struct qllm *q, struct frame_in *f);   /* 0 or -errno: close the connection */
void stream_lost(struct qllm *q);

/* call.c */
struct call *call_find(struct qllm *q, uint32_t id);
/* next page of list or ps, same id */
int call_list_more(struct qllm *q, struct call *call, const char *after);
int call_jobs_more(struct qllm *q, const struct call *call, uint64_t after);
