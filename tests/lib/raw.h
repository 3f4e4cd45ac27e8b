/* raw - a qllmd of the test's own and clients that speak frames by hand, rightly or not.
 *
 * raw_setup starts the daemon on a tiny random model named "tiny" and leaves one well-behaved
 * client in it, raw_good, whose answer raw_check_good compares after every misdeed of the others.
 * Anything that ought not to happen fails the cmocka test that runs. One thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "proto/frame.h"
#include "proto/ring.h"

enum { RAW_TEXT = 16 };            /* tokens of raw_good's answer */

struct raw_client {
	int sock;
	struct ring_reader *ring;
	int in_fd;
	uint32_t id;                    /* of the last request that raw_ask sent */
};
struct raw_answer {
	Qllm__Frame__BodyCase body;     /* of the final reply */
	uint32_t code, finish, n_tokens;
	int32_t tokens[4096];
	char text[4096];                /* of Error and TextReply, cut to fit */
	size_t n_text;                  /* of TextReply, all of it */
};
extern char raw_dir[64], raw_model_path[100];
extern pid_t raw_daemon;
extern struct raw_client raw_good;
extern struct raw_answer raw_good_answer;

int raw_setup(void **state);
int raw_teardown(void **state);
/* After SIGTERM: it takes its socket away and ends with 0, which under ASan also says that nothing
 * leaked. */
void raw_wait_end(void);

/* A connection: bare, or after Hello. raw_dial returns -1 when there is no daemon. */
int raw_dial(void);
void raw_hello(int sock, uint32_t protocol, uint64_t ring_bytes);
struct raw_client raw_join(uint64_t ring_bytes);
void raw_leave(struct raw_client *c);

void raw_say(int sock, Qllm__Frame *frame, uint32_t id);
/* Any bytes as one datagram; that the daemon has hung up already is no error. */
void raw_send(int sock, const void *p, size_t n, const int *fds, unsigned n_fds);
/* The next frame, which must come within 20 s: 0, or negative when the connection is gone. */
int raw_next_frame(int sock, struct frame_in *f);
void raw_read_ring(struct raw_client *c, struct raw_answer *a);
/* Read until the final reply of request c->id; -1 when the connection is gone. */
int raw_finish(struct raw_client *c, struct raw_answer *a);
void raw_ask(struct raw_client *c, Qllm__Frame *frame, struct raw_answer *a);
/* The same with descriptors beside the frame. */
void raw_ask_fds(struct raw_client *c, Qllm__Frame *frame, const struct frame_fds *fds,
                 struct raw_answer *a);

/* A right request of n greedy tokens, to be bent. */
void raw_fill_generate(Qllm__Frame *frame, Qllm__Generate *g, Qllm__Sampling *s, Qllm__Blob *prompt,
                       uint32_t n);
void raw_generate(struct raw_client *c, uint32_t n, struct raw_answer *a);
int raw_import(struct raw_client *c, const char *name, int fd, bool in_place, struct raw_answer *a);
/* Write the tiny model; template NULL = the one it has. */
void raw_write_model(const char *path, const char *chat_template);

/* The daemon lives, and raw_good gets the answer it got at first. */
void raw_check_good(void);
/* The daemon hangs up on `sock` (closed here), after at most a few frames, and on nobody else. */
void raw_expect_closed(int sock);
