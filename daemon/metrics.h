/* metrics - what has happened since the start: counters, two histograms, and the notices that
 * `qllmctl monitor` watches.
 *
 * Hooks stand where things happen and cost a few additions; a notice is built only while somebody
 * watches, and nothing here owns a timer, so that an idle daemon stays asleep. Neither numbers nor
 * notices hold text of prompts or answers. Main thread, but for metrics_token. */
#pragma once
#include "base/list.h"
#include "base/str.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct call;
struct conn;
struct daemon;
struct entry;

enum { METRICS_BOUNDS = 12, METRICS_BODIES = 128 };
struct histogram {
	const double *bounds; /* seconds, METRICS_BOUNDS of them, rising */
	/* one for each bound, and one for what lies above */
	_Atomic uint64_t count[METRICS_BOUNDS + 1];
	_Atomic uint64_t sum_us;
};
enum outcome { /* how a request ended */
	       OUTCOME_OK,
	       OUTCOME_FAILED,
	       OUTCOME_USAGE,
	       OUTCOME_NOT_LOADED,
	       OUTCOME_NO_MODEL,
	       OUTCOME_REFUSED,
	       OUTCOME_BUSY,
	       OUTCOME_CANCELLED,
	       OUTCOME_GONE, /* its client left before */
	       OUTCOME_N,
};
struct metrics {
	uint64_t requests[METRICS_BODIES][OUTCOME_N]; /* by arm of Frame */
	/* frames answered with "busy" before they became requests */
	uint64_t turned_away;
	uint64_t connections, loads, load_failures, unloads, faults, dropped;
	/* from the frame's arrival to the first token; between tokens of a request */
	struct histogram first_token, per_token;
	struct list monitors; /* struct call.waiting */
};
const char *outcome_name(enum outcome o);

void metrics_init(struct metrics *m);
void metrics_connected(struct conn *conn); /* it has said Hello */
/* It is about to go, and watches no longer. */
void metrics_disconnected(struct conn *conn, const char *why);
void metrics_begin(struct call *c);
void metrics_end(struct call *c);
void metrics_token(struct call *c); /* engine thread */
void metrics_loaded(struct daemon *d, const struct entry *e);
void metrics_unloaded(struct daemon *d, const struct entry *e);
/* A model that could not be loaded (loading) or failed in use; text: why. */
void metrics_fault(struct daemon *d, const struct entry *e, bool loading, const char *text);
/* state: "queued", "done"...; text may be NULL */
void metrics_job(struct daemon *d, uid_t uid, const char *kind, const char *model,
		 const char *state, const char *text);

/* The call watches from now on; it ends when it is cancelled or the daemon drains. */
void metrics_watch(struct call *c);
void metrics_end_watches(struct daemon *d);
/* Name of the model a request is about, cut and escaped; "" where there is none. */
const char *metrics_model_of(const struct call *c, char out[80]);

/* All of it as Prometheus text 0.0.4; models that the call's user does not see are left out. */
int metrics_text(struct call *c, struct sbuf *out);
