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
#define AUTH_NO_GROUP ((gid_t)-1)
/* The id of a group, AUTH_NO_GROUP for "" or one that does not exist. Asks the system's databases,
 * which may open files and wait: only where configuration is read. */
gid_t auth_group(const char *name);
/* The peer's groups are those it had when it connected. -errno. */
int auth_peer(struct peer *ret, int sock, gid_t admin_group, struct err *err);
