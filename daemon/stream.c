/* stream - sink of the engine: tokens and rows into the ring, wake-ups to the socket.
 *
 * 1. Nothing here blocks: the ring either has room or the sequence is parked, sends are
 *    MSG_DONTWAIT.
 * 2. A client whose index is nonsense loses its connection (the main loop says why and hangs up);
 *    until then its output is dropped and the others go on.
 * 3. Calls of one connection share its ring: room() promises bytes to a call, put() draws on the
 *    promise, done() gives the rest back; what is promised to one is no room for another.
 * 4. done() cuts the tie between call and request under the call's lock, so that a cancel on the
 *    main thread never touches a request that the engine has freed. */
#include "daemon/stream.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/socket.h>
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "daemon/call.h"
#include "daemon/conn.h"
#include "proto/frame.h"

/* What a record takes beyond its text or floats: header, fixed part, 20 best, padding. */
enum { RECORD_SLACK = 256 };

static void on_kick(struct post *p)
{
	struct stream *s = container_of(p, struct stream, kick);

	atomic_store(&s->kick_pending, false);
	if (s->d->engine)               /* it may have ended meanwhile */
		engine_wake(s->d->engine);
	stream_unref(s);
}

static void on_fault(struct post *p)
{
	static const char why[] = "the ring's read index is not between what was read and written";
	struct stream *s = container_of(p, struct stream, fault);

	list_for(&s->d->conns, it) {
		struct conn *conn = container_of(it, struct conn, link);

		if (conn->stream != s)
			continue;
		log_msg(LOG_L_NOTICE, "client %llu (uid %u): %s",
		        (unsigned long long)conn->number, (unsigned)conn->peer.uid, why);
		conn_fault(conn, EXIT_USAGE, why);
	}
	stream_unref(s);
}

int stream_new(struct stream **ret, struct daemon *d, int sock, uint64_t size, int *ret_out,
               int *ret_in)
{
	_cleanup_(stream_unrefp) struct stream *s = mem_alloc(sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	atomic_init(&s->refs, 1);
	s->d = d;
	s->kick.fn = on_kick;
	s->fault.fn = on_fault;
	s->sock = fcntl(sock, F_DUPFD_CLOEXEC, 3);
	if (s->sock < 0)
		return -errno;
	r = ring_writer_new(&s->ring, size, ret_out, ret_in);
	if (r < 0)
		return r;
	*ret = STEAL(s);
	return 0;
}

struct stream *stream_ref(struct stream *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

struct stream *stream_unref(struct stream *s)
{
	if (s && atomic_fetch_sub(&s->refs, 1) == 1) {
		if (s->sock >= 0)
			close(s->sock);
		ring_writer_free(s->ring);
		mem_free(s);
	}
	return NULL;
}

uint64_t stream_capacity(const struct stream *s)
{
	return ring_writer_size(s->ring) - RECORD_SLACK;
}

static void turn_bad(struct stream *s)
{
	if (atomic_exchange(&s->bad, true))
		return;
	stream_ref(s);
	posts_push(s->d->posts, &s->fault);
}

/* Give up to n promised bytes back; who was refused because of them may look again. */
static void release(struct call *call, uint64_t n)
{
	struct stream *s = call->stream;

	n = MIN(n, call->reserved);
	call->reserved -= n;
	s->reserved -= n;
	if (n == 0 || !s->contended || atomic_exchange(&s->kick_pending, true))
		return;
	s->contended = false;
	stream_ref(s);
	posts_push(s->d->posts, &s->kick);
}

static bool stream_room(void *user, size_t n)
{
	struct call *call = user;
	struct stream *s = call->stream;
	uint64_t none = 0, others, need = n + RECORD_SLACK;

	if (atomic_load(&s->bad))
		/* output is dropped until the loop has cancelled the call */
		return true;
	release(call, call->reserved);
	others = s->reserved;
	if (need > ring_writer_size(s->ring))
		return false;           /* the engine asks again for fewer rows */
	if (others + need > ring_writer_size(s->ring) && others > 0) {
		s->contended = true;
	} else if (ring_writer_want(s->ring, others + need)) {
		call->reserved = need;
		s->reserved += need;
		atomic_store(&s->parked_us, 0);
		return true;
	}
	atomic_compare_exchange_strong(&s->parked_us, &none, daemon_now_us());
	return false;
}

static void put(struct call *call, uint32_t type, const struct iovec *parts, unsigned n_parts)
{
	struct stream *s = call->stream;
	size_t len = 0;
	int r = atomic_load(&s->bad) ? -EPROTO
	                             : ring_writer_put(s->ring, type, call->id, parts, n_parts);

	for (unsigned i = 0; i < n_parts; i++)
		len += parts[i].iov_len;
	release(call, RING_RECORD_BYTES(len));
	if (r == -EPROTO)
		turn_bad(s);
	else if (r < 0)
		atomic_store(&call->overflow, true);
	else if (ring_writer_publish(s->ring))
		send(s->sock, frame_wake, sizeof(frame_wake), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void stream_token(void *user, int32_t id, const char *text, size_t n,
                         const struct logprob *own, const struct logprob *top, uint32_t n_top)
{
	struct call *call = user;
	struct ring_token rec = { .id = id,
		                  .logprob = own ? own->logprob : NAN,
		                  .n_text = (uint32_t)n };
	struct ring_top best[20];
	struct iovec parts[3] = { { &rec, sizeof(rec) } };

	metrics_token(call);
	rec.n_top = MIN(n_top, (uint32_t)ARRAY_SIZE(best));
	for (uint32_t i = 0; i < rec.n_top; i++)
		best[i] = (struct ring_top){ top[i].id, top[i].logprob };
	parts[1] = (struct iovec){ best, rec.n_top * sizeof(*best) };
	parts[2] = (struct iovec){ (void *)(uintptr_t)text, n };
	put(call, RING_TOKEN, parts, 3);
}

static void stream_row(void *user, uint32_t index, const float *row, uint32_t n_vocab,
                       float logprob)
{
	struct call *call = user;

	if (row) {
		struct ring_row rec = {
			.index = index, .n_vocab = n_vocab, .first = 0, .n = n_vocab
		};
		struct iovec parts[] = { { &rec, sizeof(rec) },
			                 { (void *)(uintptr_t)row, n_vocab * sizeof(float) } };

		put(call, RING_ROW, parts, 2);
	} else {
		struct ring_score rec = { .index = index, .logprob = logprob };
		struct iovec part = { &rec, sizeof(rec) };

		put(call, RING_SCORE, &part, 1);
	}
}

static void stream_done(void *user, const struct request_result *result)
{
	struct call *call = user;

	release(call, call->reserved);
	call_request_done(call, result);
}

const struct sink stream_sink = { stream_room, stream_token, stream_row, stream_done };
