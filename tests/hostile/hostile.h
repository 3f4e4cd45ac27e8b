/* hostile - what the files of the hostile client share.
 *
 * A case (P1..P18, R1..R12: tests/README.md) does its misdeeds one after the other; each is a step
 * with a name and with what the daemon may answer. Nothing here waits for the daemon without bound,
 * and nothing asserts: a wrong answer is counted, printed and passed over. One thread a process. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/frame.h"
#include "proto/hello.h"
#include "proto/ring.h"

enum answer {
	SILENT = 1,                     /* nothing within the step's time, and still connected */
	CLOSED = 2,                     /* hung up without a word */
	REFUSED = 4,                    /* a sentence; the connection stays */
	FAULTED = 8,                    /* a sentence, then hung up */
	SERVED = 16,                    /* the request was done */
	BUSY = 32,                      /* a sentence that says to try again: always allowed */
	LATER = 64,                     /* among what is allowed: comes with work, not timed */
};
struct got {
	enum answer answer;
	double ms;                      /* from asking to the answer */
	char text[300];
};
struct client {
	int sock, out_fd, in_fd;        /* -1: none */
	uint64_t ring_bytes;
	uint32_t id;                    /* of the last request */
};
extern const char *model_name, *model_path;     /* one that may be used; its file, or NULL */
extern uint64_t seed;
extern int fuse_fd;                     /* a file whose reads hang for FUSE_HOLD_MS, or -1 */
enum { FUSE_HOLD_MS = 700 };

uint64_t rnd(void);
void pause_ms(unsigned ms);
double now_ms(void);

/* -1: nobody there, or no room in the backlog */
int dial(void);
/* false: not let in; then the step `what` has been noted */
bool join(struct client *c, uint64_t ring_bytes, const char *what);
void leave(struct client *c);
/* Bytes as one datagram; that the daemon has hung up or that there is no room is no error. */
void throw_bytes(int sock, const void *p, size_t n, const int *fds, unsigned n_fds);
/* Pack and throw with the next id of c. */
void say(struct client *c, Qllm__Frame *frame, const int *fds, unsigned n_fds);
/* Until the end of request c->id, of the connection, or of ms. */
struct got await(struct client *c, unsigned ms);
/* Count what came of a step against what may come (bits of enum answer). */
void note(const char *what, struct got got, unsigned allowed);
/* await, note and leave */
void settle(struct client *c, const char *what, unsigned allowed);

/* A right request of n greedy tokens, to be bent. */
struct right {
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob prompt;
};
void right_generate(struct right *r, uint32_t n);

typedef void (*case_fn)(void);
struct hostile_case {
	const char *name, *what;
	case_fn run;
};
extern const struct hostile_case frame_cases[], fd_cases[], ring_cases[];  /* end with NULL */

/* Serve one file in a private mount namespace, by a child that answers everything but reads at
 * once. Needs root; fuse_fd stays -1 where it cannot be had. */
void fuse_start(void);
