/* work - threads beside the main loop, and the way back to it.
 *
 * A post is a function to be called on the main thread; a work is a function to be called on one of
 * a group of threads. Both are intrusive: queueing allocates nothing and cannot fail. The same item
 * is queued once at a time. */
#pragma once
#include <stdbool.h>
#include <systemd/sd-event.h>
#include "base/cleanup.h"
#include "base/list.h"

struct post {
	struct list link;
	void (*fn)(struct post *p);
};
struct posts;                           /* the main loop's box */
int posts_new(struct posts **ret, sd_event *event);
struct posts *posts_free(struct posts *p);
void posts_push(struct posts *p, struct post *post);   /* any thread */
/* One that was pushed and has not run: it will not. Main thread. */
void posts_take_back(struct posts *p, struct post *post);
/* main thread: call what is there (also done by the event loop) */
void posts_run(struct posts *p);

struct work {
	struct list link;
	void (*run)(struct work *w);
};
struct workers;
/* n_threads: at most; they start when there is work and none is free. name: static. */
int workers_new(struct workers **ret, const char *name, unsigned n_threads);
void workers_push(struct workers *w, struct work *work);       /* any thread */
/* For a watchdog, always the same thread: true when a thread has been at the same item, or left
 * items lie, since the last call and used no CPU time meanwhile. So an item may take as long as
 * it computes or reads; what waits for clients or for other requests does not belong into a group
 * that is watched. */
bool workers_stuck(struct workers *w);
/* Runs what is queued, then joins. false: a thread did not end within timeout_s (a client's file
 * system hangs); the threads and *w are then left behind and the process should end with _exit. */
bool workers_stop(struct workers *w, unsigned timeout_s);
