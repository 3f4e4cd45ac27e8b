/* stream - the daemon's end of a connection's data ring; the one part whose code runs on the engine
 * thread.
 *
 * The stream owns a dup of the socket, so that a wake-up never goes to a reused descriptor number;
 * it lives as long as its connection or any request that writes to it. References: any thread.
 * Writing: the engine thread. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "daemon/work.h"
#include "engine/sink.h"
#include "proto/ring.h"

struct daemon;
struct stream {
	struct daemon *d;
	atomic_uint refs;
	struct ring_writer *ring;
	int sock;                       /* dup */
	/* the client's index was nonsense: the main thread hears of it and hangs up */
	atomic_bool bad;
	struct post fault;
	_Atomic uint64_t parked_us;     /* since when a sequence waits for room, 0 = none does */
	uint64_t reserved;              /* engine thread: room promised to calls and not used yet */
	bool contended;                 /* engine thread: a call was refused because of that */
	struct post kick;               /* look at parked sequences again */
	atomic_bool kick_pending;
};
/* *ret_out, *ret_in: for the client, owned by the caller. 0 or -errno. */
int stream_new(struct stream **ret, struct daemon *d, int sock, uint64_t size, int *ret_out,
               int *ret_in);
struct stream *stream_ref(struct stream *s);
struct stream *stream_unref(struct stream *s);          /* returns NULL */
DEFINE_FREEP(struct stream, stream_unref)
/* Largest n for which room(n) can ever be true. */
uint64_t stream_capacity(const struct stream *s);
/* For requests whose `user` is a struct call with stream and id set; done posts the call to the
 * main thread. */
extern const struct sink stream_sink;
