/* store - files of the models.
 *
 * 1. Names were checked (str_is_name) before they get here and are joined to directory descriptors
 *    only.
 * 2. What is read from a client's descriptor is checked again in our own copy: the client can
 *    change its file meanwhile.
 * 3. A packed file takes the place of another by rename, so that there is always one.
 * 4. A target is linked complete and synced, or not at all (O_TMPFILE; where the file system lacks
 *    it, a dot file that the next start removes). */
#include "daemon/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "model/model.h"

enum { COPY_STEP = 16 << 20, COPY_BUF = 1 << 20, META_MAX = 64 << 10, FILE_NAME_MAX = 80 };

struct store {
	char *dir;                      /* STATE/models, for messages */
	int fd, lock;
};

void store_meta_deinit(struct store_meta *m)
{
	mem_free(m->name);
	mem_free(m->path);
	mem_free(m->architecture);
	mem_free(m->type);
	memset(m, 0, sizeof(*m));
}

/* Like mkdir -p with mode 0700 for what is missing. */
static int make_dirs(const char *path, struct err *err)
{
	_cleanup_mem_ char *p = mem_strdup(path);

	if (!p)
		return err_set(err, -ENOMEM, "out of memory");
	for (char *at = p + 1; ; at++) {
		char end = *at;

		if (end != '/' && end != 0)
			continue;
		*at = 0;
		if (mkdir(p, 0700) < 0 && errno != EEXIST)
			return err_set(err, -errno, "%s: %s", p, strerror(errno));
		*at = end;
		if (end == 0)
			return 0;
	}
}

int store_open(struct store **ret, const char *state_dir, struct err *err)
{
	_cleanup_(store_closep) struct store *s = mem_alloc(sizeof(*s));
	_cleanup_(sbuf_deinit) struct sbuf dir = { 0 };
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->fd = s->lock = -1;
	r = sbuf_printf(&dir, "%s/models", state_dir);
	if (r < 0)
		return err_set(err, r, "out of memory");
	r = make_dirs(dir.p, err);
	if (r < 0)
		return r;
	s->fd = open(dir.p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->fd < 0)
		return err_set(err, -errno, "%s: %s", dir.p, strerror(errno));
	s->lock = openat(s->fd, ".lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock < 0)
		return err_set(err, -errno, "%s/.lock: %s", dir.p, strerror(errno));
	if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
		return err_set(err, errno == EWOULDBLOCK ? -EBUSY : -errno,
		               "%s is in use by another qllmd: give this one "
		               "another --state-dir",
		               dir.p);
	s->dir = sbuf_steal(&dir);
	if (!s->dir)
		return err_set(err, -ENOMEM, "out of memory");
	*ret = STEAL(s);
	return 0;
}

struct store *store_close(struct store *s)
{
	if (!s)
		return NULL;
	if (s->fd >= 0)
		close(s->fd);
	if (s->lock >= 0)
		close(s->lock);
	mem_free(s->dir);
	return mem_free(s);
}

static void owner_name(char out[FILE_NAME_MAX], const struct store_meta *meta)
{
	if (meta->shared)
		snprintf(out, FILE_NAME_MAX, "shared");
	else
		snprintf(out, FILE_NAME_MAX, "%u", (unsigned)meta->uid);
}

static int open_owner(struct store *s, const struct store_meta *meta, bool make, struct err *err)
{
	char owner[FILE_NAME_MAX];
	int fd;

	owner_name(owner, meta);
	if (make && mkdirat(s->fd, owner, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "%s/%s: %s", s->dir, owner, strerror(errno));
	fd = openat(s->fd, owner, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_set(err, -errno, "%s/%s: %s", s->dir, owner, strerror(errno)) : fd;
}

/* --- metadata --------------------------------------------------------------------------------- */

static int write_meta(int dir, const struct store_meta *m, struct err *err)
{
	char final[FILE_NAME_MAX + 16];
	json_t *json;
	char *text;
	int r;

	json = json_pack("{s:s s:s s:s s:s s:s s:I s:b s:b s:b s:I s:I s:I s:I s:I}", "name",
	                 m->name, "checksum", m->checksum, "path", m->path, "architecture",
	                 m->architecture, "type", m->type, "uid", (json_int_t)m->uid, "shared",
	                 (int)m->shared, "in_place", (int)m->in_place, "packed", (int)m->packed,
	                 "parameters", (json_int_t)m->parameters, "bytes", (json_int_t)m->bytes,
	                 "dev", (json_int_t)m->dev, "ino", (json_int_t)m->ino, "mtime_ns",
	                 (json_int_t)m->mtime_ns);
	text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
	json_decref(json);
	if (!text)
		return err_set(err, -EINVAL, "the path or type of model %s is not UTF-8", m->name);
	snprintf(final, sizeof(final), "%s.json", m->name);
	r = fd_replace_file(dir, final, text, strlen(text));
	free(text);
	if (r < 0)
		return err_set(err, r, "writing %s: %s", final, strerror(-r));
	return 0;
}

/* Of a model that had none: on failure it has none. */
static int write_new_meta(int dir, const struct store_meta *m, struct err *err)
{
	char name[FILE_NAME_MAX + 16];
	int r = write_meta(dir, m, err);

	if (r < 0) {
		snprintf(name, sizeof(name), "%s.json", m->name);
		unlinkat(dir, name, 0);
	}
	return r;
}

static const char *text_of(json_t *json, const char *key)
{
	const char *s = json_string_value(json_object_get(json, key));

	return s ? s : "";
}

static char *dup_str(json_t *json, const char *key)
{
	return mem_strdup(text_of(json, key));
}

static int read_meta(int dir, const char *file, struct store_meta *ret)
{
	_cleanup_close_ int fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_mem_ char *text = NULL;
	struct store_meta m = { 0 };
	json_t *json;
	size_t n = 0;
	int r = fd < 0 ? -errno : fd_read_file(fd, META_MAX, &text, &n);

	if (r < 0)
		return r;
	json = json_loadb(text, n, 0, NULL);
	if (!json_is_object(json)) {
		json_decref(json);
		return -EBADMSG;
	}
	m.name = dup_str(json, "name");
	m.path = dup_str(json, "path");
	m.architecture = dup_str(json, "architecture");
	m.type = dup_str(json, "type");
	m.uid = (uid_t)json_integer_value(json_object_get(json, "uid"));
	m.shared = json_is_true(json_object_get(json, "shared"));
	m.in_place = json_is_true(json_object_get(json, "in_place"));
	m.packed = json_is_true(json_object_get(json, "packed"));
	m.parameters = (uint64_t)json_integer_value(json_object_get(json, "parameters"));
	m.bytes = (uint64_t)json_integer_value(json_object_get(json, "bytes"));
	m.dev = (uint64_t)json_integer_value(json_object_get(json, "dev"));
	m.ino = (uint64_t)json_integer_value(json_object_get(json, "ino"));
	m.mtime_ns = (uint64_t)json_integer_value(json_object_get(json, "mtime_ns"));
	snprintf(m.checksum, sizeof(m.checksum), "%s", text_of(json, "checksum"));
	json_decref(json);
	n = strlen(file) - strlen(".json");
	if (!m.name || !m.path || !m.architecture || !m.type)
		r = -ENOMEM;
	else if (!str_is_name(m.name) || strlen(m.name) != n || memcmp(m.name, file, n) != 0)
		r = -EBADMSG;
	if (r < 0) {
		store_meta_deinit(&m);
		return r;
	}
	*ret = m;
	return 0;
}

static bool ends_with(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);

	return n > k && strcmp(s + n - k, tail) == 0;
}

static void file_name(char out[FILE_NAME_MAX + 16], const char *name, bool packed)
{
	snprintf(out, FILE_NAME_MAX + 16, "%s.%s", name, packed ? "pack" : "gguf");
}

/* Removes what an interrupted import left: dot files, and weights whose .json was never written. */
static void sweep(struct store *s, const char *owner, int dir, const char *file)
{
	char json[NAME_MAX + 1];
	struct stat st;
	bool left = file[0] == '.';

	if (ends_with(file, ".gguf") || ends_with(file, ".pack")) {
		snprintf(json, sizeof(json), "%.*s.json", (int)(strlen(file) - 5), file);
		left |= fstatat(dir, json, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
	}
	if (left && unlinkat(dir, file, 0) == 0)
		log_msg(LOG_L_NOTICE, "removed %s/%s/%s: left by an interrupted import", s->dir,
		        owner, file);
}

/* Removes the file that an interrupted switch left: the one which the .json does not name. */
static void sweep_other(struct store *s, const char *owner, int dir, const struct store_meta *m)
{
	char name[FILE_NAME_MAX + 16];
	struct stat st;

	file_name(name, m->name, m->packed);
	if (!m->in_place && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;                         /* then the other is all there is */
	for (unsigned packed = 0; packed < 2; packed++) {
		file_name(name, m->name, packed);
		if ((m->in_place || packed != m->packed) && unlinkat(dir, name, 0) == 0)
			log_msg(LOG_L_NOTICE, "removed %s/%s/%s: left by an interrupted packing",
			        s->dir, owner, name);
	}
}

static int scan_owner(struct store *s, const char *owner, store_fn fn, void *user)
{
	_cleanup_close_ int fd = openat(s->fd, owner,
	                                O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct dirent *d;
	DIR *dir;
	int r = 0;

	if (fd < 0)
		return 0;
	dir = fdopendir(dup(fd));
	if (!dir)
		return -errno;
	while (r == 0 && (d = readdir(dir))) {
		struct store_meta meta;

		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		sweep(s, owner, fd, d->d_name);
		if (d->d_name[0] == '.' || !ends_with(d->d_name, ".json"))
			continue;
		r = read_meta(fd, d->d_name, &meta);
		if (r == 0) {
			sweep_other(s, owner, fd, &meta);
			r = fn(user, &meta);
		} else if (r != -ENOMEM) {
			log_msg(LOG_L_WARN, "%s/%s/%s is not readable: the model is left out",
			        s->dir, owner, d->d_name);
			r = 0;
		}
	}
	closedir(dir);
	return r;
}

int store_scan(struct store *s, store_fn fn, void *user, struct err *err)
{
	struct dirent *d;
	DIR *dir = fdopendir(dup(s->fd));
	int r = 0;

	if (!dir)
		return err_set(err, -errno, "%s: %s", s->dir, strerror(errno));
	while (r == 0 && (d = readdir(dir)))
		if (d->d_name[0] != '.')
			r = scan_owner(s, d->d_name, fn, user);
	closedir(dir);
	return r < 0 ? err_set(err, r, "%s: %s", s->dir, strerror(-r)) : 0;
}

/* --- import ----------------------------------------------------------------------------------- */

/* What a model file says about itself, for `ls`; a packed one also the checksum of its GGUF. */
static int describe(struct store_meta *m, int fd, struct err *err)
{
	_cleanup_(packfile_freep) struct packfile *f = NULL;
	_cleanup_(gguf_freep) struct gguf *own = NULL;
	const struct gguf *g;
	uint64_t by_type[QTYPE_COUNT] = { 0 };
	struct bytes arch = { "", 0 };
	unsigned best = 0;
	int r;

	m->checksum[0] = 0;
	r = packfile_is(&m->packed, fd, m->name, err);
	if (r < 0)
		return r;
	r = m->packed ? packfile_open(&f, fd, m->name, err) : gguf_open(&own, fd, m->name, err);
	if (r < 0)
		return r;
	g = f ? f->gguf : own;
	if (f)
		packfile_sum_text(m->checksum, f);
	r = gguf_get_str(g, "general.architecture", &arch, err);
	if (r < 0)
		return r;
	m->parameters = 0;
	for (size_t i = 0; i < g->n_tensors; i++) {
		m->parameters += g->tensors[i].n_elems;
		by_type[g->tensors[i].type] += g->tensors[i].n_bytes;
	}
	for (unsigned i = 0; i < QTYPE_COUNT; i++)
		if (by_type[i] > by_type[best])
			best = i;
	mem_free(m->architecture);
	mem_free(m->type);
	m->architecture = mem_strndup(arch.p, MIN(arch.n, (size_t)64));
	m->type = mem_strdup(g->n_tensors ? qtype_name(best) : "");
	m->bytes = f ? f->file_size : g->file_size;
	return m->architecture && m->type ? 0 : err_set(err, -ENOMEM, "out of memory");
}

/* File systems whose reads cannot hang on a network or a user's process. */
static bool is_local(int fd)
{
	static const unsigned long local[] = {
		EXT4_SUPER_MAGIC,     XFS_SUPER_MAGIC,
		BTRFS_SUPER_MAGIC,    TMPFS_MAGIC,
		F2FS_SUPER_MAGIC,     OVERLAYFS_SUPER_MAGIC,
		SQUASHFS_MAGIC,       0xE0F5E1E2 /* erofs */,
		0x2FC12FC1 /* zfs */, 0xCA451A4E /* bcachefs */,
	};
	struct statfs sfs;

	if (fstatfs(fd, &sfs) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(local); i++)
		if ((unsigned long)sfs.f_type == local[i])
			return true;
	return false;
}

static uint64_t mtime_ns(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
}

int store_same_file(const struct store_meta *m, int fd, struct err *err)
{
	struct stat st;

	if (!m->in_place)
		return 0;
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", m->path, strerror(errno));
	if (st.st_dev != m->dev || st.st_ino != m->ino || mtime_ns(&st) != m->mtime_ns ||
	    (uint64_t)st.st_size != m->bytes)
		return err_set(
			err, -EIO,
			"%s is not the file that was imported (replaced or written to): `qllmctl "
			"rm` the model and import it again",
			m->path);
	return 0;
}

static int open_in_place(const struct store_meta *m, struct err *err)
{
	_cleanup_close_ int fd = -1;
	int r;

	if (m->path[0] != '/')
		return err_set(err, -EINVAL, "a model in place needs an absolute path");
	fd = open(m->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_set(err, errno == ENOENT ? -EIO : -errno,
		               "%s: %s: bring the file back, or `qllmctl rm` the model", m->path,
		               strerror(errno));
	r = store_same_file(m, fd, err);
	return r < 0 ? r : STEAL_FD(fd);
}

static int import_in_place(struct store *s, struct store_meta *m, int fd, const struct stat *st,
                           struct err *err)
{
	_cleanup_close_ int dir = -1, again = -1;
	int r;

	if (!is_local(fd))
		return err_set(
			err, -EPERM,
			"%s lies on a file system that may hang (network, FUSE): import it without "
			"--in-place",
			m->path);
	m->dev = st->st_dev;
	m->ino = st->st_ino;
	m->mtime_ns = mtime_ns(st);
	r = describe(m, fd, err);
	if (r < 0)
		return r;
	again = open_in_place(m, err);
	if (again < 0)
		return again;
	dir = open_owner(s, m, true, err);
	return dir < 0 ? dir : write_new_meta(dir, m, err);
}

static int copy_bytes(int to, int from, uint64_t size, store_progress_fn progress, void *user,
                      struct err *err)
{
	_cleanup_mem_ char *buf = NULL;
	uint64_t done = 0;
	int r;

	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	while (done < size) {
		loff_t in = (loff_t)done, out = (loff_t)done;
		ssize_t n = buf ? -1
		                : copy_file_range(from, &in, to, &out,
		                                  MIN(size - done, (uint64_t)COPY_STEP), 0);

		if (n <= 0 && !buf) {           /* other file systems, old kernels: by hand */
			buf = mem_alloc(COPY_BUF);
			if (!buf)
				return err_set(err, -ENOMEM, "out of memory");
		}
		if (n <= 0) {
			n = (ssize_t)MIN(size - done, (uint64_t)COPY_BUF);
			r = fd_pread_all(from, buf, (size_t)n, done);
			if (r < 0)
				return err_set(err, r, "reading the model at byte %llu: %s",
				               (unsigned long long)done, strerror(-r));
			r = fd_pwrite_all(to, buf, (size_t)n, done);
			if (r < 0)
				return err_set(err, r, "writing the model at byte %llu of %llu: %s",
				               (unsigned long long)done, (unsigned long long)size,
				               strerror(-r));
		}
		done += (uint64_t)n;
		r = progress(user, done, size);
		if (r < 0)
			return r;
	}
	return 0;
}

static int link_target(int dir, int fd, const char *tmp, const char *name)
{
	char proc[40];

	if (fsync(fd) < 0 || fchmod(fd, 0444) < 0)
		return -errno;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (tmp ? linkat(dir, tmp, dir, name, 0)
	        : linkat(AT_FDCWD, proc, dir, name, AT_SYMLINK_FOLLOW))
		return -errno;
	if (fsync(dir) < 0) {
		int r = -errno;

		unlinkat(dir, name, 0);
		return r;
	}
	return 0;
}

/* In the place of the file that has the name. */
static int replace_target(int dir, int fd, const char *tmp, const char *model, const char *name)
{
	char fresh[FILE_NAME_MAX + 16];
	int r;

	snprintf(fresh, sizeof(fresh), ".fresh-%s", model);
	unlinkat(dir, fresh, 0);
	r = link_target(dir, fd, tmp, fresh);
	if (r < 0)
		return r;
	if (renameat(dir, fresh, dir, name) < 0) {
		r = -errno;
		unlinkat(dir, fresh, 0);
		return r;
	}
	return fsync(dir) < 0 ? -errno : 0;
}

struct summing {
	store_progress_fn progress;
	void *user;
	uint64_t size;
};

static int on_summed(void *user, uint64_t done)
{
	const struct summing *s = user;

	(void)done;
	return s->progress(s->user, s->size, s->size);
}

/* To be linked when complete. Where the file system has no files without a name, one with a dot, of
 * which the next start removes what is left. */
static int open_unnamed(int dir, const char *tmp, bool *ret_named)
{
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	*ret_named = fd < 0;
	if (fd >= 0)
		return fd;
	unlinkat(dir, tmp, 0);
	fd = openat(dir, tmp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

static int import_copy(struct store *s, struct store_meta *m, int fd, uint64_t size,
                       store_progress_fn progress, void *user, struct err *err)
{
	char tmp[FILE_NAME_MAX + 16], name[FILE_NAME_MAX + 16];
	_cleanup_close_ int dir = open_owner(s, m, true, err), to = -1;
	bool named = false;
	struct statvfs vfs;
	int r;

	if (dir < 0)
		return dir;
	snprintf(tmp, sizeof(tmp), ".import-%s", m->name);
	if (fstatvfs(dir, &vfs) == 0 && (uint64_t)vfs.f_bavail * vfs.f_frsize < size)
		return err_set(
			err, -ENOSPC, "the store %s has %llu MB left, the model needs %llu", s->dir,
			(unsigned long long)((uint64_t)vfs.f_bavail * vfs.f_frsize / 1000000),
			(unsigned long long)(size / 1000000));
	to = open_unnamed(dir, tmp, &named);
	if (to < 0)
		return err_set(err, to, "%s: %s", s->dir, strerror(-to));
	r = copy_bytes(to, fd, size, progress, user, err);
	if (r == 0)
		r = describe(m, to, err);
	if (r == 0 && !m->packed)
		r = sum_file(m->checksum, to, m->bytes, on_summed,
		             &(struct summing){ progress, user, size }, err);
	file_name(name, m->name, m->packed);
	if (r == 0) {
		r = link_target(dir, to, named ? tmp : NULL, name);
		if (r < 0)
			err_set(err, r, "%s/%s: %s", s->dir, name, strerror(-r));
	}
	if (named)
		unlinkat(dir, tmp, 0);
	if (r < 0)
		return r;
	r = write_new_meta(dir, m, err);
	if (r < 0)
		unlinkat(dir, name, 0);
	return r;
}

int store_import(struct store *s, struct store_meta *meta, int fd, store_progress_fn progress,
                 void *user, struct err *err)
{
	struct stat st;
	int r = fd_check_source(fd, "the model", &st, err);

	if (r < 0)
		return r;
	if (meta->in_place)
		return import_in_place(s, meta, fd, &st, err);
	r = describe(meta, fd, err);            /* refuse early; the copy is what counts */
	if (r < 0)
		return r;
	return import_copy(s, meta, fd, (uint64_t)st.st_size, progress, user, err);
}

int store_open_model(struct store *s, const struct store_meta *meta, struct err *err)
{
	char name[FILE_NAME_MAX + 16];
	_cleanup_close_ int dir = -1;
	int fd;

	if (meta->in_place)
		return open_in_place(meta, err);
	dir = open_owner(s, meta, false, err);
	if (dir < 0)
		return dir;
	file_name(name, meta->name, meta->packed);
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? err_set(err, -errno, "%s/%s: %s", s->dir, name, strerror(errno)) : fd;
}

int store_make_target(struct store *s, const struct store_meta *meta, struct err *err)
{
	_cleanup_close_ int dir = open_owner(s, meta, true, err);
	char tmp[FILE_NAME_MAX + 16];
	bool named;
	int fd;

	if (dir < 0)
		return dir;
	snprintf(tmp, sizeof(tmp), ".pack-%s", meta->name);
	fd = open_unnamed(dir, tmp, &named);
	return fd < 0 ? err_set(err, fd, "%s: %s", s->dir, strerror(-fd)) : fd;
}

/* *to: the same model as that packed file has it. */
static int packed_meta(struct store_meta *to, const struct store_meta *from, int fd,
                       struct err *err)
{
	int r;

	*to = (struct store_meta){ .uid = from->uid, .shared = from->shared };
	to->name = mem_strdup(from->name);
	to->path = mem_strdup(from->path);
	if (!to->name || !to->path)
		return err_set(err, -ENOMEM, "out of memory");
	r = describe(to, fd, err);
	if (r == 0 && !to->packed)
		r = err_set(err, -EBADMSG, "the worker made no packed file");
	if (r == 0 && from->checksum[0] && strcmp(from->checksum, to->checksum) != 0)
		r = err_set(err, -EBADMSG,
		            "the GGUF has the checksum %s, at import it had %s: bytes of it have "
		            "changed in the store; import the model again",
		            to->checksum, from->checksum);
	return r;
}

/* Whether the .json on the disk is the new one is not known when writing it has failed: the packed
 * file goes only if it surely is the old one. One that stays is replaced or swept later. */
static void drop_unnamed(int dir, const struct store_meta *meta, const char *packed)
{
	_cleanup_(store_meta_deinit) struct store_meta there = { 0 };
	char json[FILE_NAME_MAX + 16];

	snprintf(json, sizeof(json), "%s.json", meta->name);
	if (read_meta(dir, json, &there) == 0 && !there.packed)
		unlinkat(dir, packed, 0);
}

int store_switch(struct store *s, struct store_meta *meta, int fd, struct err *err)
{
	char tmp[FILE_NAME_MAX + 16], name[FILE_NAME_MAX + 16], old[FILE_NAME_MAX + 16];
	_cleanup_close_ int dir = open_owner(s, meta, false, err);
	_cleanup_(store_meta_deinit) struct store_meta next = { 0 };
	struct store_meta former = *meta;
	struct stat st;
	int r;

	if (dir < 0)
		return dir;
	r = packed_meta(&next, meta, fd, err);
	if (r < 0)
		return r;
	snprintf(tmp, sizeof(tmp), ".pack-%s", meta->name);
	file_name(name, meta->name, true);
	file_name(old, meta->name, false);
	r = replace_target(dir, fd, fstat(fd, &st) == 0 && st.st_nlink > 0 ? tmp : NULL,
	                   meta->name, name);
	unlinkat(dir, tmp, 0);
	if (r < 0)
		return err_set(err, r, "%s/%s: %s", s->dir, name, strerror(-r));
	r = write_meta(dir, &next, err);
	if (r < 0) {
		drop_unnamed(dir, meta, name);
		return r;
	}
	*meta = next;
	next = former;                  /* freed at the end */
	unlinkat(dir, old, 0);
	return 0;
}

int store_remove(struct store *s, const struct store_meta *meta, struct err *err)
{
	char json[FILE_NAME_MAX + 16], file[FILE_NAME_MAX + 16];
	_cleanup_close_ int dir = open_owner(s, meta, false, err);

	if (dir < 0)
		return dir;
	snprintf(json, sizeof(json), "%s.json", meta->name);
	file_name(file, meta->name, meta->packed);
	if (unlinkat(dir, json, 0) < 0 && errno != ENOENT)
		return err_set(err, -errno, "%s/%s: %s", s->dir, json, strerror(errno));
	if (!meta->in_place && unlinkat(dir, file, 0) < 0 && errno != ENOENT)
		return err_set(err, -errno, "%s/%s: %s", s->dir, file, strerror(errno));
	return fsync(dir) < 0 ? err_set(err, -errno, "%s: %s", s->dir, strerror(errno)) : 0;
}
