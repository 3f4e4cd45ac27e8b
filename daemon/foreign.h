/* foreign - closing descriptors that came from clients. On FUSE and dead network mounts close() can
 * hang for ever, so it happens on the intake threads, of which one uid gets a few at a time; what
 * it has beyond that waits in its own queue and stays charged to it. Main thread only. */
#pragma once
#include "daemon/daemon.h"

/* d NULL: from here on they are closed at once. */
void foreign_init(struct daemon *d);
/* Whose descriptors daemon_close_foreign gets from here on (borrowed; NULL = nobody's). Returns who
 * it was before. */
struct user *foreign_owner(struct user *user);
/* An intake thread has become free otherwise, or a limit has changed: closings may go on. */
void foreign_resume(void);
