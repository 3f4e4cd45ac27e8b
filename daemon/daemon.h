/* daemon - what the parts of the process share. One object, made by main.c; main thread only unless
 * said otherwise. */
#pragma once
#include <stdbool.h>
#include <systemd/sd-event.h>
#include "base/list.h"
#include "daemon/config.h"
#include "daemon/metrics.h"
#include "daemon/user.h"
#include "daemon/work.h"
#include "engine/engine.h"

struct conn;
struct jobs;
struct models;
struct listener;
struct notify;
struct daemon {
	struct config *config;
	gid_t admin_gid;                /* of admin_group; AUTH_NO_GROUP: nobody */
	sd_event *event;
	struct posts *posts;
	struct workers *prep;           /* templates, tokenizing, loading */
	struct workers *slow;           /* eval: minutes */
	struct workers *intake;         /* clients' descriptors: may hang for ever */
	struct engine *engine;          /* any thread */
	const struct kernels *kernels;  /* read-only */
	const char *kernels_name;
	struct users users;
	struct metrics metrics;
	struct models *models;
	struct jobs *jobs;
	struct listener *listener;
	struct notify *notify;          /* NULL before the loop is set up */
	struct list conns;              /* struct conn.link */
	unsigned n_conns, n_calls;
	unsigned n_reserved;            /* of n_conns: administrators beyond the limits */
	/* clients closed since then: logged one by one, and only counted */
	uint64_t closed_since_us;
	unsigned n_closed_said, n_closed_unsaid;
	bool draining, stopping;
	bool lookup;                    /* requests look up, unless they say */
	uint64_t started_us;            /* CLOCK_MONOTONIC */
	sd_event_source *tick;          /* housekeeping; off while there is nothing to watch */
	sd_event_source *deadline;      /* of draining */
};
uint64_t daemon_now_us(void);                   /* CLOCK_MONOTONIC; any thread */
/* Call when something appeared that housekeeping must watch (a loaded model, an open request). */
void daemon_watch(struct daemon *d);
/* Call when a request or connection ended: draining may be complete. */
void daemon_check_drained(struct daemon *d);
/* Close a descriptor that came from a client, off the loop. Main thread. */
void daemon_close_foreign(int fd);
