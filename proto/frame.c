/* frame - datagrams to checked messages and back.
 *
 * 1. Parse first, look at descriptors after: a descriptor is closed here unless the message's row
 *    says that it is due.
 * 2. All memory of a received frame comes from one capped arena; the unpacker's free is a no-op, so
 *    a failed parse releases everything at once.
 * 3. A memfd blob is trusted for its size only after its seals were seen: SHRINK|GROW|WRITE make
 *    size and content final, and no file on FUSE or the network has seals, so that the read cannot
 *    hang. */
#include "proto/frame.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/num.h"

const uint8_t frame_wake[FRAME_WAKE_BYTES] = { 2 << 3 | 2, 0 };

static void plain_close(int fd)
{
	close(fd);
}
static void (*closer)(int fd) = plain_close;

void frame_set_closer(void (*fn)(int fd))
{
	closer = fn;
}

static void *arena_cb_alloc(void *data, size_t size)
{
	return arena_alloc(data, size);
}

static void arena_cb_free(void *data, void *p)
{
	(void)data;
	(void)p;
}

static int check(struct frame_in *f, size_t n, enum msg_dir dir, struct err *err)
{
	f->info = msg_info(f->frame->body_case);
	if (!f->info) {
		if (f->fds.n > 0)
			return err_set(err, -EPROTO, "%u descriptors came with an unknown message",
			               f->fds.n);
		return FRAME_E_UNKNOWN;
	}
	if (!(f->info->dirs & dir))
		return err_set(err, -EPROTO, "message %s does not travel this way", f->info->name);
	if (n > f->info->size_max)
		return err_set(err, -EPROTO, "message %s has %zu bytes, at most %zu are allowed",
		               f->info->name, n, f->info->size_max);
	if (f->fds.n < f->info->fds_min || f->fds.n > f->info->fds_max)
		return err_set(err, -EPROTO,
		               "message %s came with %u descriptors, %u to %u are due",
		               f->info->name, f->fds.n, f->info->fds_min, f->info->fds_max);
	return 0;
}

int frame_parse(struct frame_in *f, const uint8_t *p, size_t n, const struct fd_set_in *fds,
                enum msg_dir dir, struct err *err)
{
	ProtobufCAllocator allocator = { arena_cb_alloc, arena_cb_free, &f->arena };
	int r;

	memset(f, 0, sizeof(*f));
	if (fds)
		f->fds = *fds;
	arena_init(&f->arena, FRAME_ARENA_MAX);
	if (f->fds.truncated)
		r = err_set(err, -EPROTO,
		            "a datagram or its descriptors were cut (limit of open files?)");
	else if (n == 0 || n > FRAME_MAX)
		r = err_set(err, -EPROTO, "datagram of %zu bytes, 1 to %d are allowed", n,
		            FRAME_MAX);
	else if (!(f->frame = qllm__frame__unpack(&allocator, n, p)))
		r = err_set(err, -EPROTO, "datagram of %zu bytes is no message", n);
	else
		r = check(f, n, dir, err);
	if (r < 0)
		frame_in_deinit(f);
	return r;
}

int frame_recv(struct frame_in *f, int sock, enum msg_dir dir, int flags, uint8_t *buf,
               struct err *err)
{
	struct fd_set_in fds = { .n = 0 };
	ssize_t n = fd_recvmsg(sock, buf, FRAME_MAX + 1, &fds, flags);

	if (n == -EAGAIN || n == -EWOULDBLOCK)
		return FRAME_E_AGAIN;
	if (n < 0)
		return err_set(err, (int)n, "receiving failed: %s", strerror((int)-n));
	if (n == 0 && fds.n == 0 && !fds.truncated)
		return FRAME_E_EOF;
	return frame_parse(f, buf, (size_t)n, &fds, dir, err);
}

void frame_in_deinit(struct frame_in *f)
{
	for (unsigned i = 0; i < f->fds.n; i++)
		if (f->fds.fd[i] >= 0)
			closer(f->fds.fd[i]);
	f->fds.n = 0;
	arena_deinit(&f->arena);
	f->frame = NULL;
}

int frame_steal_fd(struct frame_in *f, unsigned i)
{
	return i < f->fds.n ? STEAL_FD(f->fds.fd[i]) : -1;
}

void frame_fds_deinit(struct frame_fds *fds)
{
	for (unsigned i = 0; i < fds->n; i++)
		close(fds->fd[i]);
	fds->n = 0;
}

int frame_fds_add(struct frame_fds *fds, int fd)
{
	if (fds->n == FRAME_FDS_MAX) {
		close(fd);
		return -E2BIG;
	}
	fds->fd[fds->n++] = fd;
	return 0;
}

int frame_pack(const Qllm__Frame *frame, uint8_t **ret, size_t *ret_n)
{
	size_t n = qllm__frame__get_packed_size(frame);
	uint8_t *p;

	if (n > FRAME_MAX)
		return -EMSGSIZE;
	p = mem_alloc(n);
	if (!p)
		return -ENOMEM;
	*ret_n = qllm__frame__pack(frame, p);
	*ret = p;
	return 0;
}

int frame_send(int sock, const Qllm__Frame *frame, const struct frame_fds *fds, int flags)
{
	_cleanup_mem_ uint8_t *p = NULL;
	size_t n;
	int r = frame_pack(frame, &p, &n);

	if (r < 0)
		return r;
	return fd_sendmsg(sock, p, n, fds ? fds->fd : NULL, fds ? fds->n : 0, flags);
}

int blob_put(Qllm__Blob *blob, const void *p, size_t n, struct frame_fds *fds)
{
	int fd, r;

	if (fds->inlined + n <= FRAME_INLINE_MAX) {
		fds->inlined += n;
		blob->has_data = true;
		blob->data.data = (uint8_t *)(uintptr_t)p;      /* protobuf-c has no const */
		blob->data.len = n;
		return 0;
	}
	fd = fd_memfd_from("qllm-blob", p, n);
	if (fd < 0)
		return fd;
	r = frame_fds_add(fds, fd);
	if (r < 0)
		return r;
	blob->has_size = blob->has_fd = true;
	blob->size = n;
	blob->fd = fds->n - 1;
	return 0;
}

static int blob_from_memfd(int fd, uint64_t size, char **ret, struct err *err)
{
	const int need = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	_cleanup_mem_ char *p = NULL;
	int seals = fcntl(fd, F_GET_SEALS), r;
	struct statfs sfs;
	struct stat st;

	if (seals < 0 || (seals & need) != need)
		return err_set(
			err, -EPROTO,
			"the descriptor of a large argument is no memfd sealed SHRINK|GROW|WRITE");
	if (fstatfs(fd, &sfs) < 0 || sfs.f_type == HUGETLBFS_MAGIC || fstat(fd, &st) < 0 ||
	    !S_ISREG(st.st_mode))
		return err_set(err, -EPROTO,
		               "the descriptor of a large argument is no plain memfd");
	if ((uint64_t)st.st_size != size)
		return err_set(err, -EPROTO,
		               "a large argument of %llu bytes came in a memfd of %llu",
		               (unsigned long long)size, (unsigned long long)st.st_size);
	p = mem_alloc(size + 1);
	if (!p)
		return -ENOMEM;
	r = fd_pread_all(fd, p, size, 0);
	if (r < 0)
		return err_set(err, r, "reading a large argument failed: %s", strerror(-r));
	*ret = STEAL(p);
	return 0;
}

int blob_get(const Qllm__Blob *blob, const struct frame_in *f, size_t max, char **ret,
             size_t *ret_n, struct err *err)
{
	uint64_t n = !blob ? 0 : blob->has_size ? blob->size : blob->has_data ? blob->data.len : 0;
	char *p;
	int r;

	if (n > max)
		return err_set(err, -E2BIG, "an argument has %llu bytes, at most %zu are allowed",
		               (unsigned long long)n, max);
	if (blob && blob->has_size) {
		if (blob->has_data || !blob->has_fd || blob->fd >= f->fds.n ||
		    f->fds.fd[blob->fd] < 0)
			return err_set(err, -EPROTO,
			               "a large argument came without its descriptor");
		r = blob_from_memfd(f->fds.fd[blob->fd], n, &p, err);
		if (r < 0)
			return r;
	} else {
		p = mem_alloc(n + 1);
		if (!p)
			return -ENOMEM;
		if (n)
			memcpy(p, blob->data.data, n);
	}
	*ret = p;
	*ret_n = n;
	return 0;
}
