/* frame - one datagram = one packed Frame, with descriptors. The codec of both ends.
 *
 * A received frame lives in a capped arena (protobuf-c has no limit of its own: 64 KiB can ask for
 * megabytes); all pointers in it die with frame_in_deinit. Nothing here interprets a message beyond
 * the table's limits (proto/msg.h). Errors of frame_recv that are not FRAME_E_* mean that the peer
 * broke the protocol or left: close the connection. Threads: any, one frame at a time by one
 * thread. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "base/fd.h"
#include "base/mem.h"
#include "proto/msg.h"

enum {
	FRAME_MAX = 64 << 10,           /* packed bytes */
	/* of all blobs of a frame together; larger ones travel as memfd */
	FRAME_INLINE_MAX = 60 << 10,
	FRAME_ARENA_MAX = 1 << 20,
	FRAME_FDS_MAX = 4,              /* descriptors a frame may carry */
	FRAME_WAKE_BYTES = 2,
};
extern const uint8_t frame_wake[FRAME_WAKE_BYTES];     /* a packed Frame { wake {} } */

enum {
	_FRAME_E_SUCCESS,
	FRAME_E_AGAIN,                  /* nothing to read now */
	FRAME_E_EOF,                    /* the peer closed */
	/* well-formed, but no known message: frame->id is valid; answer Error and go on */
	FRAME_E_UNKNOWN,
};
struct frame_in {
	struct arena arena;
	Qllm__Frame *frame;
	const struct msg_info *info;
	struct fd_set_in fds;           /* FD is -1 where it was stolen (frame_steal_fd) */
};
/* Receive and check one frame that may travel in direction `dir`. buf: FRAME_MAX + 1 bytes of
 * scratch. On 0 and FRAME_E_UNKNOWN the caller owns *f (frame_in_deinit); otherwise nothing. flags:
 * MSG_DONTWAIT or 0. -EPROTO: garbage, wrong direction, oversize, cut, wrong number of descriptors;
 * -errno of recvmsg. */
int frame_recv(struct frame_in *f, int sock, enum msg_dir dir, int flags, uint8_t *buf,
               struct err *err);
/* The same from bytes already read; fds are taken over. */
int frame_parse(struct frame_in *f, const uint8_t *p, size_t n, const struct fd_set_in *fds,
                enum msg_dir dir, struct err *err);
void frame_in_deinit(struct frame_in *f);       /* closes descriptors that were not stolen */
/* How descriptors of received frames are closed; default close(). A server sets it to close them
 * where blocking hurts nobody: on FUSE and dead network mounts close can hang. Before the first
 * frame. */
void frame_set_closer(void (*fn)(int fd));
int frame_steal_fd(struct frame_in *f, unsigned i);     /* -1 when absent */

/* Descriptors to go with a frame that is being built; owned until frame_fds_deinit. */
struct frame_fds {
	int fd[FRAME_FDS_MAX];
	unsigned n;
	size_t inlined;                 /* blob bytes inside the frame so far */
};
void frame_fds_deinit(struct frame_fds *fds);
/* Add a descriptor (taken over); -E2BIG past FRAME_FDS_MAX (the descriptor is closed). */
int frame_fds_add(struct frame_fds *fds, int fd);
/* Pack into a new block (mem_free). -EMSGSIZE past FRAME_MAX (a bug of the caller, or too many
 * strings), -ENOMEM. */
int frame_pack(const Qllm__Frame *frame, uint8_t **ret, size_t *ret_n);
/* Pack and send at once; 0, -EAGAIN, -EMSGSIZE, -errno. fds may be NULL; they stay the caller's. */
int frame_send(int sock, const Qllm__Frame *frame, const struct frame_fds *fds, int flags);

/* Fill an initialised blob with p[0,n): borrowed inline while small (p must live until the frame is
 * packed), else copied into a sealed memfd appended to fds. 0 or -errno. */
int blob_put(Qllm__Blob *blob, const void *p, size_t n, struct frame_fds *fds);
/* Bytes of a blob of frame f; NULL blob = absent = n 0. *ret is NUL-terminated, mem_free. -E2BIG
 * past max, -EPROTO: descriptor missing, unsealed, not a memfd, or of another size. Never maps;
 * reads with pread. */
int blob_get(const Qllm__Blob *blob, const struct frame_in *f, size_t max, char **ret,
             size_t *ret_n, struct err *err);
