/* spawn - a qllm-worker: reached through systemd's socket, or as a child of the daemon.
 *
 * Main thread only. A worker is given one job and answers with frames (proto: worker); when it has
 * ended, whatever the way, on_end is called exactly once, last, and the worker is freed when that
 * returns. After worker_stop nothing is called any more. */
#pragma once
#include "base/err.h"
#include "daemon/daemon.h"
#include "proto/frame.h"

struct worker;
struct worker_events {
	/* the frame is freed after the call; false: enough, nothing but on_end is due */
	bool (*on_frame)(void *user, const struct frame_in *in);
	/* how: "killed by signal 9 (Killed)", or that the connection ended */
	void (*on_end)(void *user, const char *how);
};
/* Connect or start. Where workers come from is in the settings (jobs.worker_socket,
 * jobs.worker_path). -errno with a sentence: none can be had now. */
int worker_start(struct worker **ret, struct daemon *d, const struct worker_events *events,
                 void *user, struct err *err);
/* After worker_start failed with r: is it worth waiting? A socket may come up again; a program that
 * is not there needs somebody to install it. */
bool worker_may_come(const struct daemon *d, int r);
/* Send its job; fds stay the caller's. -errno. */
int worker_send(struct worker *w, const Qllm__Frame *frame, const struct frame_fds *fds);
/* Hang up, which is the order to stop; a child that does not obey in seconds is killed. */
void worker_stop(struct worker *w);
/* At the daemon's end: kill and reap what still runs of them. */
void workers_reap(void);
/* Settings that were left to be decided: systemd's socket where there is one, else the program. */
int workers_find(struct config *c, struct err *err);
