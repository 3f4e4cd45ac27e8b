/* listen - the socket clients connect to: systemd's, or our own at a path. */
#pragma once
#include "daemon/daemon.h"

struct listener;
/* fd of systemd (sd_listen_fds), else binds d->config->socket; a stale socket is replaced, a live
 * one is -EADDRINUSE. */
int listener_new(struct listener **ret, struct daemon *d, struct err *err);
/* removes the socket file if it is still ours */
struct listener *listener_free(struct listener *l);
/* Path of the socket that systemd passed, to be freed; -ENOENT: none was, or it has none. May be
 * called before listener_new, which takes it. */
int listener_passed(char **ret);
const char *listener_path(const struct listener *l);
