/* notify - what the service manager hears from us: readiness, a line of status, the watchdog.
 * Without a manager all of it does nothing and arms no timer. Main thread. */
#pragma once
#include "daemon/daemon.h"

struct notify;
/* Arms the watchdog's timer when the manager asked for one. */
int notify_new(struct notify **ret, struct daemon *d, struct err *err);
struct notify *notify_free(struct notify *n);
void notify_ready(struct notify *n);            /* after start, and again after a reload */
void notify_reloading(struct notify *n);
/* Stopping: asks for as much time as draining may take. */
void notify_stopping(struct notify *n);
/* Requests or loaded models may have changed: the status follows within a second. NULL: nothing. */
void notify_changed(struct notify *n);
