/* fd - loops around system calls that may do less than asked, and the cmsg bookkeeping.
 *
 * Invariants:
 * 1. A call that fails leaves no new descriptor open.
 * 2. Received descriptors are close-on-exec from the start and always owned by someone: the
 *    caller's set, or closed here. */
#include "base/fd.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int fd_pread_all(int fd, void *buf, size_t n, uint64_t offset)
{
	char *p = buf;
	uint64_t end;

	if (add_overflows(offset, (uint64_t)n, &end) || end > INT64_MAX)
		return -EOVERFLOW;
	while (n > 0) {
		ssize_t got = pread(fd, p, n, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -EIO;
		p += got;
		n -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}

int fd_write_all(int fd, const void *buf, size_t n)
{
	const char *p = buf;

	while (n > 0) {
		ssize_t put = write(fd, p, n);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		p += put;
		n -= (size_t)put;
	}
	return 0;
}

int fd_pwrite_all(int fd, const void *buf, size_t n, uint64_t offset)
{
	const char *p = buf;
	uint64_t end;

	if (add_overflows(offset, (uint64_t)n, &end) || end > INT64_MAX)
		return -EOVERFLOW;
	while (n > 0) {
		ssize_t put = pwrite(fd, p, n, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		p += put;
		n -= (size_t)put;
		offset += (uint64_t)put;
	}
	return 0;
}

int fd_read_file(int fd, size_t max, char **ret, size_t *ret_n)
{
	_cleanup_mem_ char *buf = NULL;
	size_t n = 0, cap = 0;

	/* Until read says end: files of /proc and /sys claim size 0 and pipes have none. */
	for (;;) {
		ssize_t got;

		if (n + 1 >= cap) {
			char *p;

			/* At most max + 2: one byte too many is seen, and a NUL fits. */
			cap = cap ? MIN(cap, SIZE_MAX / 2) * 2 : 4096;
			cap = MIN(cap, max < SIZE_MAX - 2 ? max + 2 : max);
			p = mem_realloc(buf, cap);
			if (!p)
				return -ENOMEM;
			buf = p;
		}
		got = read(fd, buf + n, cap - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
		if (n > max)
			return -EFBIG;
	}
	buf[n] = 0;
	*ret = STEAL(buf);
	if (ret_n)
		*ret_n = n;
	return 0;
}

int fd_replace_file(int dir, const char *name, const void *p, size_t n)
{
	_cleanup_(sbuf_deinit) struct sbuf tmp = { 0 };
	_cleanup_close_ int fd = -1;
	int r = sbuf_printf(&tmp, ".%s", name);

	if (r < 0)
		return r;
	fd = openat(dir, tmp.p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	r = fd < 0 ? -errno : fd_write_all(fd, p, n);
	if (r == 0 && (fsync(fd) < 0 || renameat(dir, tmp.p, dir, name) < 0 || fsync(dir) < 0))
		r = -errno;
	if (r < 0)
		unlinkat(dir, tmp.p, 0);
	return r;
}

int fd_check_source(int fd, const char *what, struct stat *ret, struct err *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) == O_WRONLY)
		return err_set(err, -EINVAL, "the descriptor of %s is not open for reading", what);
	if (fstat(fd, ret) < 0)
		return err_set(err, -errno, "the descriptor of %s: %s", what, strerror(errno));
	if (!S_ISREG(ret->st_mode))
		return err_set(err, -EINVAL, "%s is not a regular file", what);
	return 0;
}

union scm_space {                       /* aligned for struct cmsghdr */
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * FD_SCM_MAX)];
};

ssize_t fd_recvmsg(int sock, void *buf, size_t size, struct fd_set_in *fds, int flags)
{
	union scm_space space;
	struct iovec iov = { buf, size };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = space.bytes,
		.msg_controllen = sizeof(space.bytes),
	};
	struct fd_set_in got = { .n = 0 };
	ssize_t n;

	do
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (got.n < FD_SCM_MAX)
				got.fd[got.n++] = fd;
			else
				close(fd);
		}
	}
	got.truncated = (msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
	if (fds)
		*fds = got;
	else
		fd_set_close(&got);
	return n;
}

int fd_sendmsg(int sock, const void *buf, size_t n, const int *fds, unsigned n_fds, int flags)
{
	union scm_space space = { .bytes = { 0 } };
	struct iovec iov = { (void *)(uintptr_t)buf, n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t put;

	if (n_fds > FD_SCM_MAX)
		return -EINVAL;
	if (n_fds > 0) {
		struct cmsghdr *c;

		msg.msg_control = space.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		put = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	while (put < 0 && errno == EINTR);
	if (put < 0)
		return -errno;
	return (size_t)put == n ? 0 : -EIO;     /* datagrams go whole; a stream socket may not */
}

void fd_set_close(struct fd_set_in *fds)
{
	for (unsigned i = 0; i < fds->n; i++)
		if (fds->fd[i] >= 0)
			close(fds->fd[i]);
	fds->n = 0;
}

int fd_memfd(const char *name, uint64_t size)
{
	_cleanup_close_ int fd = memfd_create(name,
	                                      MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	int r;

	if (size > INT64_MAX)
		return -EFBIG;
	if (fd < 0 && errno == EINVAL)          /* kernels before 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (size > 0) {
		do
			r = fallocate(fd, 0, 0, (off_t)size);
		while (r < 0 && errno == EINTR);
		if (r < 0)
			return -errno;
	}
	return STEAL_FD(fd);
}

int fd_seal(int fd, unsigned seals)
{
	return fcntl(fd, F_ADD_SEALS, (int)seals) < 0 ? -errno : 0;
}

int fd_memfd_from(const char *name, const void *p, size_t n)
{
	_cleanup_close_ int fd = fd_memfd(name, n);
	int r;

	if (fd < 0)
		return STEAL_FD(fd);
	r = fd_pwrite_all(fd, p, n, 0);
	if (r < 0)
		return r;
	r = fd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
	if (r < 0)
		return r;
	return STEAL_FD(fd);
}
