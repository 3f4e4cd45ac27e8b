/* call - one open request of one connection, from its frame to its final reply.
 *
 * A handler (dispatch.h) gets the call on the main thread and either replies at once or moves it
 * on: call_work() to a group of threads, call_with_model() until a model is there, call_submit() to
 * the engine. Each of these ends in `then` on the main thread, or in an Error reply made here when
 * the step failed. A call ends with exactly one of call_reply, call_ok, call_fail, which free it.
 * If its connection has gone meanwhile it ends the same way, without a frame.
 *
 * Threads: main, but for `run` functions (on their worker; they own the call meanwhile and may use
 * frame, err, data, model), call_progress (worker) and call_request_done (engine). */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "daemon/daemon.h"
#include "daemon/stream.h"
#include "daemon/work.h"
#include "engine/request.h"
#include "proto/frame.h"
#include "proto/hello.h"

struct call;
struct entry;
typedef int (*call_run_fn)(struct call *c, struct err *err);
typedef void (*call_then_fn)(struct call *c);

/* open request, descriptors, bytes, tokens, intake, job */
enum { CALL_CHARGES = 6 };
struct call {
	struct work work;
	struct post post;               /* worker or engine has ended its step */
	struct list link;               /* conn->calls while conn */
	struct list waiting;            /* entry's waiters */
	struct daemon *d;
	struct conn *conn;              /* NULL once the client has gone */
	struct user *user;
	bool admin;
	const struct dispatch_row *row;
	uint32_t id;
	struct frame_in in;
	struct charge charges[CALL_CHARGES];
	unsigned n_charges;
	atomic_bool cancel;
	bool busy;                      /* a worker or the engine holds it */
	bool detached;                  /* its reply was sent; goes on in silence */
	struct workers *group;          /* of the step */
	struct turn *turn;              /* its user's, NULL = the group is not taken in turns */
	call_run_fn run;                /* NULL during the engine's step */
	call_then_fn then;
	int result;
	struct err err;
	struct err ended;               /* call_end: why; code 0 = it was not */
	enum exit_class ended_class;
	struct entry *entry[2];         /* models in use, released at the end */
	struct model *model[2];         /* references that worker threads may use */
	/* for metrics */
	uint64_t started_us;
	enum exit_class outcome;        /* of the Error it ended with */
	bool cancelled;
	uint64_t dropped;               /* notices, of a monitor */
	uint64_t last_token_us;         /* engine thread; 0 = none yet */
	_Atomic uint32_t n_tokens;
	void *data;                     /* of the handler */
	void (*data_free)(void *data);
	/* progress */
	struct post tick;
	atomic_bool tick_pending;
	_Atomic uint64_t progress_done, progress_total, progress_us;
	const char *progress_phase, *progress_unit;
	/* engine */
	struct stream *stream;
	pthread_mutex_t lock;           /* over request */
	struct request *request;        /* while the engine has it */
	struct request_result request_result;
	uint64_t reserved;              /* engine thread: ring bytes promised to it */
	/* the ring had no room where the engine was told there was */
	atomic_bool overflow;
};

/* Takes the frame over. NULL: out of memory, the frame stays the caller's. */
struct call *call_new(struct conn *conn, const struct dispatch_row *row, struct frame_in *in);

/* Charge n more to the call's user until it ends. false: refused, and the call has been failed. */
bool call_charge(struct call *c, enum charge_kind kind, uint64_t n);

/* sets the id; fds may be NULL, are sent */
void call_reply(struct call *c, Qllm__Frame *frame, struct frame_fds *fds);
void call_ok(struct call *c, const char *text);
void call_reply_text(struct call *c, const char *text, size_t n);
/* Error by errno (class by call_exit_class) with the sentence in err, or strerror. -ECANCELED of a
 * streaming call: Done. */
void call_fail(struct call *c, int r, const struct err *err);
void call_fail_class(struct call *c, enum exit_class class, int r, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
enum exit_class call_exit_class(int r);

/* On prep and slow a uid has one call at a time; the others wait for it. */
void call_work(struct call *c, struct workers *group, call_run_fn run, call_then_fn then);
/* Hand r (its user and sink are set here) to the engine; `then` runs after its last output with
 * request_result set. */
void call_submit(struct call *c, struct request *r, call_then_fn then);
void call_cancel(struct call *c);
/* Cancel it for a reason that its client is told in place of the result. */
void call_end(struct call *c, enum exit_class class, int r, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* The same, told at once: the call goes on in silence until its step has ended. */
void call_dismiss(struct call *c, enum exit_class class, int r, const char *text);
/* The client has gone: cancel, and end without reply. */
void call_orphan(struct call *c);
/* Reply with an Ok now and go on without the client. */
void call_detach(struct call *c, const char *text);

/* phase, unit: static strings. At most ten a second go out. */
void call_progress(struct call *c, const char *phase, uint64_t done, uint64_t total,
                   const char *unit);
void call_free_data(void *data);                /* data_free for a plain block */
void call_request_done(struct call *c, const struct request_result *result);
