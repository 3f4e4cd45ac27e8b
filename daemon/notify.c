/* notify - sd_notify.
 *
 * The watchdog is fed by hand: that this function runs shows that the loop turns; it stays silent
 * as long as a compute thread in a step, or the prep thread with an item, has not moved since the
 * last look, or one of them leaves its work lie. Four looks fit into the manager's time, so a
 * thread must stand still for three quarters of it before the daemon is ended. Threads for
 * evaluations and for clients' descriptors are not watched: the one waits for other requests, the
 * other for file systems of clients, and neither holds up anybody else.
 *
 * The status is sent when its text has changed, at most once a second; nothing is armed
 * meanwhile. */
#include "daemon/notify.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include "base/log.h"
#include "base/mem.h"
#include "daemon/journal.h"
#include "daemon/models.h"

enum { LOOKS = 4, STATUS_US = 1000000, STATUS_MAX = 160, STOP_US = 15000000 };

struct notify {
	struct daemon *d;
	bool manager, ready;
	sd_event_source *status, *watchdog;
	uint64_t look_us;               /* between two looks */
	bool stuck;                     /* said so already */
	char said[STATUS_MAX];
};

/* --- status ----------------------------------------------------------------------------------- */

static void say(struct notify *n, const char *state)
{
	char text[STATUS_MAX];
	unsigned loaded = 0;

	list_for(models_list(n->d->models), it)
		loaded += container_of(it, struct entry, link)->state == ENTRY_LOADED;
	snprintf(text, sizeof(text), "%s: %u %s, %u %s loaded",
	         n->d->draining ? "Draining" : "Serving", n->d->n_calls,
	         n->d->n_calls == 1 ? "request" : "requests", loaded,
	         loaded == 1 ? "model" : "models");
	if (!state[0] && strcmp(text, n->said) == 0)
		return;
	snprintf(n->said, sizeof(n->said), "%s", text);
	sd_notifyf(0, "%sSTATUS=%s", state, text);
}

static int on_status(sd_event_source *source, uint64_t usec, void *user)
{
	(void)source;
	(void)usec;
	say(user, "");
	return 0;
}

void notify_changed(struct notify *n)
{
	int on = SD_EVENT_ON;

	if (!n || !n->ready ||
	    (sd_event_source_get_enabled(n->status, &on) >= 0 && on != SD_EVENT_OFF))
		return;
	sd_event_source_set_time_relative(n->status, STATUS_US);
	sd_event_source_set_enabled(n->status, SD_EVENT_ONESHOT);
}

void notify_ready(struct notify *n)
{
	n->ready = n->manager;
	if (n->ready)
		say(n, "READY=1\n");
}

void notify_reloading(struct notify *n)
{
	if (n->manager)
		sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
		           (unsigned long long)daemon_now_us());
}

void notify_stopping(struct notify *n)
{
	char state[80];

	snprintf(state, sizeof(state), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu\n",
	         (unsigned long long)(n->d->config->drain_seconds * 1000000 + STOP_US));
	if (n->manager)
		say(n, state);
}

/* --- watchdog --------------------------------------------------------------------------------- */

/* Both are always asked: each look is the start of the next. */
static bool all_move(struct notify *n)
{
	int thread = engine_stuck(n->d->engine);
	bool prep = workers_stuck(n->d->prep);
	struct journal_fields j = { .n = 0 };

	if (thread >= 0)
		journal_add(&j, "QLLM_THREAD", "%d", thread);
	else if (prep)
		journal_add(&j, "QLLM_THREAD", "prep");
	if (j.n > 0 && !n->stuck)
		log_fields(LOG_L_ERR, ID_WATCHDOG, j.f, j.n,
		           "%s %s hangs: it has not moved for %llu ms; unless it does the watchdog "
		           "ends the daemon",
		           thread >= 0 ? "compute thread" : "thread", j.values[0],
		           (unsigned long long)n->look_us / 1000);
	n->stuck = prep || thread >= 0;
	return !n->stuck;
}

static int on_look(sd_event_source *source, uint64_t usec, void *user)
{
	struct notify *n = user;

	(void)usec;
	if (all_move(n))
		sd_notify(0, "WATCHDOG=1");
	sd_event_source_set_time_relative(source, n->look_us);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* --- life ------------------------------------------------------------------------------------- */

int notify_new(struct notify **ret, struct daemon *d, struct err *err)
{
	struct notify *n = mem_alloc(sizeof(*n));
	uint64_t limit = 0;
	int r;

	if (!n)
		return err_set(err, -ENOMEM, "out of memory");
	n->d = d;
	n->manager = getenv("NOTIFY_SOCKET") != NULL;
	r = sd_event_add_time_relative(d->event, &n->status, CLOCK_MONOTONIC, 0, STATUS_US / 2,
	                               on_status, n);
	if (r >= 0)
		r = sd_event_source_set_enabled(n->status, SD_EVENT_OFF);
	if (r >= 0 && sd_watchdog_enabled(0, &limit) > 0 && limit >= LOOKS) {
		n->look_us = limit / LOOKS;
		r = sd_event_add_time_relative(d->event, &n->watchdog, CLOCK_MONOTONIC, n->look_us,
		                               n->look_us / LOOKS, on_look, n);
	}
	if (r < 0) {
		notify_free(n);
		return err_set(err, r, "event loop: %s", strerror(-r));
	}
	*ret = n;
	return 0;
}

struct notify *notify_free(struct notify *n)
{
	if (!n)
		return NULL;
	sd_event_source_disable_unref(n->status);
	sd_event_source_disable_unref(n->watchdog);
	return mem_free(n);
}
