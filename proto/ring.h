/* ring - the data plane: one single-producer single-consumer byte ring a connection, daemon to
 * client.
 *
 * Two memfds, both made and sealed by the daemon. `out`: one page of struct ring_out_head, then
 * `size` bytes of data (a power of two); only the daemon writes it, the client maps it read-only
 * (FUTURE_WRITE forbids more). `in`: one page of struct ring_in_page, written by the client.
 * Indices count bytes for ever and are masked on use; the data is mapped twice in a row, so that no
 * record is ever split. A record is a struct ring_record and `len` bytes of payload, padded to 16.
 *
 * Sleeping (both ways alike): the sleeper stores its flag, seq_cst fence, looks at the peer's index
 * again, and only then polls the socket; the other side stores its index, seq_cst fence, reads the
 * flag, and sends a Wake frame (MSG_DONTWAIT; EAGAIN may be dropped, since then a datagram is
 * pending anyway) if the flag has a value that it has not answered yet. Flags therefore hold a new
 * value for each sleep; 0 = awake.
 *
 * Trust: each side keeps sizes and its own index in private memory, reads the peer's index once a
 * call and answers -EPROTO to nonsense (then the connection is to be closed). Records are copied
 * out by the client before use where that matters; the daemon reads nothing but indices and flags.
 *
 * Threads: a writer is used by one thread at a time, a reader likewise. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/cleanup.h"
#include "base/err.h"

struct ring_out_head {
	_Atomic uint64_t write;         /* bytes ever written */
	/* 0, or: the daemon sleeps till the client's read index has reached this */
	_Atomic uint64_t want;
};
struct ring_in_page {
	_Atomic uint64_t read;          /* bytes ever consumed */
	_Atomic uint64_t waiting;       /* 0, or: the client sleeps; a new value each time */
};

enum ring_type {
	/* struct ring_token, struct ring_top[n_top], n_text bytes of text */
	RING_TOKEN = 1,
	RING_ROW = 2,                   /* struct ring_row, n floats */
	RING_SCORE = 3,                 /* struct ring_score */
};
struct ring_record {
	/* payload bytes; enum ring_type (unknown types are skipped) */
	uint32_t len, type;
	uint64_t id;                    /* request */
};
struct ring_token {
	int32_t id;
	/* of the chosen token, raw distribution; NaN when not asked for */
	float logprob;
	uint32_t n_top, n_text;
};
struct ring_top {
	int32_t id;
	float logprob;
};
/* part of a row: floats [first, first + n) of n_vocab, after token `index` */
struct ring_row {
	uint32_t index, n_vocab, first, n;
};
struct ring_score {
	uint32_t index;
	float logprob;
};
/* Bytes a record of `len` payload bytes takes in the ring. */
#define RING_RECORD_BYTES(len) (sizeof(struct ring_record) + (((size_t)(len) + 15) & ~(size_t)15))

/* --- the daemon's end --- */
struct ring_writer;
/* size: power of two. *ret_out, *ret_in: sealed descriptors for the client, owned by the caller.
 * -ENOMEM or errno. */
int ring_writer_new(struct ring_writer **ret, uint64_t size, int *ret_out, int *ret_in);
struct ring_writer *ring_writer_free(struct ring_writer *w);
DEFINE_FREEP(struct ring_writer, ring_writer_free)
uint64_t ring_writer_size(const struct ring_writer *w);
/* Free bytes now; -EPROTO when the client's index is nonsense (for good). */
int64_t ring_writer_free_bytes(struct ring_writer *w);
/* One record made of parts; visible to the client after ring_writer_publish. 0, -ENOSPC,
 * -EPROTO. */
int ring_writer_put(struct ring_writer *w, uint32_t type, uint64_t id, const struct iovec *parts,
                    unsigned n_parts);
/* Show what was put; true: the client sleeps, send it a Wake. */
bool ring_writer_publish(struct ring_writer *w);
/* Sleep for n free bytes (n <= size): true when they are there already, false: the client will send
 * Wake when at least n bytes (and half of the ring) are free. Several sequences may sleep by the
 * one flag: after a Wake ask for each of them again. -EPROTO is reported as true: the next put
 * tells. */
bool ring_writer_want(struct ring_writer *w, uint64_t n);

/* --- the client's end --- */
struct ring_reader;
/* Maps both descriptors (not consumed). size from Welcome; descriptors shorter than that are
 * refused: -EPROTO. */
int ring_reader_new(struct ring_reader **ret, int out_fd, int in_fd, uint64_t size,
                    struct err *err);
struct ring_reader *ring_reader_free(struct ring_reader *r);
DEFINE_FREEP(struct ring_reader, ring_reader_free)
/* Next record, in place: valid until ring_reader_release. 1 = there is one, 0 = none, -EPROTO. A
 * second call without release gives the following record. */
int ring_reader_next(struct ring_reader *r, struct ring_record *ret, const void **ret_payload);
/* Give back everything that ring_reader_next has passed. true: the daemon sleeps for room, send it
 * a Wake. */
bool ring_reader_release(struct ring_reader *r);
/* Before polling the socket: true = sleep, a Wake will come for new records; false = records are
 * there, read on. Call ring_reader_awake after the poll. */
bool ring_reader_sleep(struct ring_reader *r);
void ring_reader_awake(struct ring_reader *r);
