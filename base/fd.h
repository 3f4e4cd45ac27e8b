/* fd - descriptors: whole reads and writes, SCM_RIGHTS, sealed memfds. Errors: negative errno.
 * EINTR is handled. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct stat;

/* -EIO when the file ends early */
int fd_pread_all(int fd, void *buf, size_t n, uint64_t offset);
int fd_write_all(int fd, const void *buf, size_t n);
int fd_pwrite_all(int fd, const void *buf, size_t n, uint64_t offset);
/* Read a whole small file; -EFBIG past max. *ret is NUL-terminated, mem_free. */
int fd_read_file(int fd, size_t max, char **ret, size_t *ret_n);

/* Write NAME in directory `dir` anew, mode 0600: complete and synced under another name (a dot
 * before it), then put in its place. On failure what was there stays. */
int fd_replace_file(int dir, const char *name, const void *p, size_t n);
/* That fd, which came from somebody else, is a regular file open for reading (no O_PATH). `what`
 * begins the sentence: "the model". -EINVAL, -errno. */
int fd_check_source(int fd, const char *what, struct stat *ret, struct err *err);

enum { FD_SCM_MAX = 253 };
/* fds received with one datagram; the caller closes or steals them */
struct fd_set_in {
	int fd[FD_SCM_MAX];
	unsigned n;
	bool truncated;                 /* MSG_CTRUNC or MSG_TRUNC */
};
/* One datagram. Returns its length (0 = end or empty datagram), or negative errno.
 * MSG_CMSG_CLOEXEC, MSG_DONTWAIT by flags. */
ssize_t fd_recvmsg(int sock, void *buf, size_t size, struct fd_set_in *fds, int flags);
/* One datagram with up to 253 fds (kept by the caller). 0 or negative errno (-EAGAIN when full).
 * MSG_NOSIGNAL. */
int fd_sendmsg(int sock, const void *buf, size_t n, const int *fds, unsigned n_fds, int flags);
void fd_set_close(struct fd_set_in *fds);

/* memfd of `size` bytes, allocated now (fallocate), MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_NOEXEC_SEAL
 * where known. Returns fd or negative errno. Seal afterwards with fd_seal. */
int fd_memfd(const char *name, uint64_t size);
int fd_seal(int fd, unsigned seals);                                    /* F_SEAL_* */
/* A memfd holding exactly p[0,n), sealed SHRINK|GROW|WRITE|SEAL; fd or negative errno. */
int fd_memfd_from(const char *name, const void *p, size_t n);
