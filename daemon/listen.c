/* listen - binds under a temporary name and renames over the path, so that the path is never
 * without a listener and never has one with wrong permissions. A path is stale when connecting to
 * it is refused. */
#include "daemon/listen.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "daemon/conn.h"

enum { BACKLOG = 128, ACCEPTS_MAX = 32, PAUSE_US = 100000 };

struct listener {
	struct daemon *d;
	int fd;
	bool own;                       /* bound here, not passed */
	char *path;
	dev_t dev;
	ino_t ino;
	sd_event_source *io, *pause;
};

static int on_resume(sd_event_source *source, uint64_t usec, void *user)
{
	struct listener *l = user;

	(void)source;
	(void)usec;
	sd_event_source_set_enabled(l->io, SD_EVENT_ON);
	return 0;
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	struct listener *l = user;

	(void)revents;
	for (unsigned i = 0; i < ACCEPTS_MAX; i++) {
		int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (sock >= 0) {
			conn_new(l->d, sock);
			continue;
		}
		if (errno == EAGAIN)
			break;
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		/* Out of descriptors or memory: the backlog stays readable, so look again later. */
		log_msg(LOG_L_WARN, "no connection can be accepted now: %s", strerror(errno));
		sd_event_source_set_enabled(source, SD_EVENT_OFF);
		sd_event_source_set_time_relative(l->pause, PAUSE_US);
		sd_event_source_set_enabled(l->pause, SD_EVENT_ONESHOT);
		break;
	}
	return 0;
}

static int set_addr(struct sockaddr_un *addr, const char *path, struct err *err)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(addr->sun_path))
		return err_set(err, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", path,
		               sizeof(addr->sun_path) - 1);
	strcpy(addr->sun_path, path);
	return 0;
}

static int refuse_live(const char *path, const struct sockaddr_un *addr, struct err *err)
{
	_cleanup_close_ int probe = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST,
		               "%s exists and is no socket: remove it or choose another --socket",
		               path);
	probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	if (connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
		return err_set(err, -EADDRINUSE, "another daemon listens on %s", path);
	return errno == ECONNREFUSED || errno == ENOENT
	               ? 0
	               : err_set(err, -errno, "%s: %s", path, strerror(errno));
}

/* Group access only for a daemon of the system, and only to the group that is meant. */
static void set_access(const struct daemon *d, const char *path)
{
	const struct group *g = geteuid() == 0 && d->config->socket_group[0]
	                                ? getgrnam(d->config->socket_group)
	                                : NULL;

	if (g && chown(path, (uid_t)-1, g->gr_gid) == 0 && chmod(path, 0660) == 0)
		return;
	chmod(path, 0600);
	if (geteuid() == 0)
		log_msg(LOG_L_NOTICE, "no group %s: only root may connect to %s",
		        d->config->socket_group, d->config->socket);
}

static int make_parent(const char *path, struct err *err)
{
	_cleanup_mem_ char *dir = mem_strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!dir)
		return err_set(err, -ENOMEM, "out of memory");
	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return err_set(err, -errno, "%s: %s", dir, strerror(errno));
	return 0;
}

static int bind_own(struct listener *l, struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf tmp = { 0 };
	const char *path = l->d->config->socket;
	struct sockaddr_un addr;
	struct stat st;
	int r = set_addr(&addr, path, err);

	if (r == 0)
		r = make_parent(path, err);
	if (r == 0)
		r = refuse_live(path, &addr, err);
	if (r == 0 && sbuf_printf(&tmp, "%s.%d", path, (int)getpid()) < 0)
		r = err_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = set_addr(&addr, tmp.p, err);
	if (r < 0)
		return r;
	l->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return err_set(err, -errno, "socket: %s", strerror(errno));
	unlink(tmp.p);
	if (bind(l->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_set(err, -errno, "%s: %s", tmp.p, strerror(errno));
	set_access(l->d, tmp.p);
	if (listen(l->fd, BACKLOG) < 0 || rename(tmp.p, path) < 0 || stat(path, &st) < 0) {
		r = err_set(err, -errno, "%s: %s", path, strerror(errno));
		unlink(tmp.p);
		return r;
	}
	l->own = true;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->path = mem_strdup(path);
	return l->path ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int passed_path(char **ret)
{
	struct sockaddr_un addr = { 0 };
	socklen_t size = sizeof(addr) - 1;
	char *path;

	if (getsockname(SD_LISTEN_FDS_START, (struct sockaddr *)&addr, &size) < 0)
		return -errno;
	path = mem_strdup(addr.sun_path);
	if (!path)
		return -ENOMEM;
	*ret = path;
	return 0;
}

int listener_passed(char **ret)
{
	char *path;
	int r;

	if (sd_listen_fds(0) <= 0)
		return -ENOENT;
	r = passed_path(&path);
	if (r < 0)
		return r;
	if (path[0] != '/') {
		mem_free(path);
		return -ENOENT;
	}
	*ret = path;
	return 0;
}

static int take_passed(struct listener *l, int n, struct err *err)
{
	int r;

	if (n != 1 || sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_SEQPACKET, 1, NULL, 0) <= 0)
		return err_set(
			err, -EINVAL,
			"one listening Unix socket of type SEQPACKET is expected from systemd, got "
			"%d descriptors",
			n);
	l->fd = SD_LISTEN_FDS_START;
	if (fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) | O_NONBLOCK) < 0)
		return err_set(err, -errno, "the passed socket: %s", strerror(errno));
	r = passed_path(&l->path);
	return r < 0 ? err_set(err, r, "the passed socket: %s", strerror(-r)) : 0;
}

int listener_new(struct listener **ret, struct daemon *d, struct err *err)
{
	struct listener *l = mem_alloc(sizeof(*l));
	int n = sd_listen_fds(1), r;

	if (!l)
		return err_set(err, -ENOMEM, "out of memory");
	l->d = d;
	l->fd = -1;
	r = n > 0 ? take_passed(l, n, err) : bind_own(l, err);
	if (r == 0) {
		r = sd_event_add_io(d->event, &l->io, l->fd, EPOLLIN, on_accept, l);
		if (r >= 0)
			r = sd_event_add_time_relative(d->event, &l->pause, CLOCK_MONOTONIC, 0, 0,
			                               on_resume, l);
		if (r >= 0)
			r = sd_event_source_set_enabled(l->pause, SD_EVENT_OFF);
		if (r < 0)
			err_set(err, r, "event loop: %s", strerror(-r));
	}
	if (r < 0) {
		listener_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

struct listener *listener_free(struct listener *l)
{
	struct stat st;

	if (!l)
		return NULL;
	sd_event_source_disable_unref(l->io);
	sd_event_source_disable_unref(l->pause);
	if (l->own && l->path && stat(l->path, &st) == 0 && st.st_dev == l->dev &&
	    st.st_ino == l->ino)
		unlink(l->path);
	if (l->fd >= 0)
		close(l->fd);
	mem_free(l->path);
	return mem_free(l);
}

const char *listener_path(const struct listener *l)
{
	return l ? l->path : "";
}
