/* auth - SO_PEERCRED and SO_PEERGROUPS: what the kernel vouches for, never what the client says. */
#include "daemon/auth.h"
#include <errno.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/mem.h"

gid_t auth_group(const char *name)
{
	const struct group *g = name[0] ? getgrnam(name) : NULL;

	return g ? g->gr_gid : AUTH_NO_GROUP;
}

static int in_group(int sock, gid_t primary, gid_t gid, bool *ret)
{
	_cleanup_mem_ gid_t *groups = NULL;
	socklen_t n = 0;

	*ret = gid == primary;
	if (*ret)
		return 0;
	/* The first call tells the size. */
	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, NULL, &n) == 0)
		return 0;
	if (errno != ERANGE)
		return -errno;
	groups = mem_alloc(n);
	if (!groups)
		return -ENOMEM;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0)
		return -errno;
	for (size_t i = 0; i < n / sizeof(*groups); i++)
		if (groups[i] == gid)
			*ret = true;
	return 0;
}

int auth_peer(struct peer *ret, int sock, gid_t admin_group, struct err *err)
{
	struct ucred cred;
	socklen_t n = sizeof(cred);
	bool member = false;
	int r;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 || n != sizeof(cred))
		return err_set(err, -errno, "the kernel does not tell who connected: %s",
		               strerror(errno));
	if (admin_group != AUTH_NO_GROUP) {
		r = in_group(sock, cred.gid, admin_group, &member);
		if (r < 0)
			return err_set(err, r, "groups of a client: %s", strerror(-r));
	}
	*ret = (struct peer){ .uid = cred.uid, .pid = cred.pid,
		              .admin = cred.uid == 0 || cred.uid == geteuid() || member };
	return 0;
}
