/* auth - who is at the other end of a socket. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"

struct peer {
	uid_t uid;
	pid_t pid;
	bool admin;                     /* uid 0, the daemon's own uid, or a member of the group */
};
/* admin_group: name or "". The peer's groups are those it had when it connected. -errno. */
int auth_peer(struct peer *ret, int sock, const char *admin_group, struct err *err);
