/* inproc - the real qllmd, its main and all, in a thread of the test's own process, so that
 * sanitizers, coverage and injected faults reach it; and a client that speaks frames by hand.
 *
 * One daemon a process, in a folder below /tmp that inproc_stop removes; $QLLM_LOG_LEVEL is what it
 * logs (error). A tiny random model lies there, not imported. Errors of the test's own side end the
 * process with a sentence. Clients: one thread, which may be any but the daemon's. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "proto/frame.h"

extern char inproc_dir[64], inproc_model[96];
/* Starts the daemon and waits for its socket. terminate: SIGTERM is blocked in the calling thread,
 * which is to be the only other one, so that inproc_stop can end the daemon. */
void inproc_start(bool terminate);
/* Lets it drain; its exit status. */
int inproc_stop(void);
void inproc_remove_files(void);

/* A connection: -1 when the daemon takes none. */
int inproc_dial(void);
/* A connection after Welcome; -ETIMEDOUT, or negative when the daemon hung up. */
int inproc_join(int wait_ms);
/* Next frame within wait_ms: 0; -ETIMEDOUT; negative when the connection is gone. */
int inproc_next(int sock, struct frame_in *f, int wait_ms);
/* End of a frame received: frame_in_deinit would close its descriptors the daemon's way, which is
 * for the daemon's thread alone. */
void inproc_done(struct frame_in *f);
/* Send a request under `id`, with descriptors that stay the caller's, and wait for its final
 * reply. */
int inproc_ask(int sock, Qllm__Frame *frame, uint32_t id, const int *fds, unsigned n_fds,
               struct frame_in *ret, int wait_ms);
/* Put the tiny model under that name into the store: 0, or negative when the daemon refused. */
int inproc_import(int sock, uint32_t id, const char *name, int wait_ms);

int qllmd_main(int argc, char **argv);                  /* daemon/main.c */
