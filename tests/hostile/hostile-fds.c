/* The cases of descriptors: P16 to P18, and the FUSE file among them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/num.h"
#include "tests/hostile/hostile.h"

/* --- a file system whose reads hang ----------------------------------------------------------- */

int fuse_fd = -1;
enum { FUSE_FILE = 2, FUSE_FILE_BYTES = 1 << 20 };

static void fuse_answer(int dev, uint64_t unique, int error, const void *p, size_t n)
{
	char buf[sizeof(struct fuse_out_header) + 256];
	struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + n),
		                        .error = error,
		                        .unique = unique };

	memcpy(buf, &head, sizeof(head));
	if (n > 0)
		memcpy(buf + sizeof(head), p, n);
	(void)!write(dev, buf, sizeof(head) + n);
}

static struct fuse_attr fuse_attr_of(uint64_t node)
{
	return (struct fuse_attr){
		.ino = node,
		.size = node == FUSE_FILE ? FUSE_FILE_BYTES : 0,
		.mode = node == FUSE_FILE ? S_IFREG | 0444 : S_IFDIR | 0755,
		.nlink = 1,
		.blksize = 4096,
	};
}

static void fuse_one(int dev, const struct fuse_in_header *in)
{
	struct fuse_init_out init = { .major = 7, .minor = 31, .max_write = 4096 };
	struct fuse_attr_out attr = { .attr_valid = 3600, .attr = fuse_attr_of(in->nodeid) };
	struct fuse_entry_out entry = { .nodeid = FUSE_FILE,
		                        .entry_valid = 3600,
		                        .attr_valid = 3600,
		                        .attr = fuse_attr_of(FUSE_FILE) };
	struct fuse_open_out opened = { .fh = 1 };

	switch (in->opcode) {
	case FUSE_INIT: fuse_answer(dev, in->unique, 0, &init, sizeof(init)); break;
	case FUSE_GETATTR: fuse_answer(dev, in->unique, 0, &attr, sizeof(attr)); break;
	case FUSE_LOOKUP: fuse_answer(dev, in->unique, 0, &entry, sizeof(entry)); break;
	case FUSE_OPEN: fuse_answer(dev, in->unique, 0, &opened, sizeof(opened)); break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: break;
	case FUSE_READ:
	case FUSE_FLUSH:
		pause_ms(FUSE_HOLD_MS);
		fuse_answer(dev, in->unique, -EIO, NULL, 0);
		break;
	case FUSE_RELEASE: fuse_answer(dev, in->unique, 0, NULL, 0); break;
	default: fuse_answer(dev, in->unique, -ENOSYS, NULL, 0); break;
	}
}

static void fuse_serve(int dev)
{
	static uint64_t buf[(256 << 10) / sizeof(uint64_t)];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() != 1) {
		ssize_t n = read(dev, buf, sizeof(buf));

		if (n < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT)
			break;
		if (n >= (ssize_t)sizeof(struct fuse_in_header))
			fuse_one(dev, (const struct fuse_in_header *)buf);
	}
	_exit(0);
}

void fuse_start(void)
{
	static const char dir[] = "/tmp";
	char options[100];
	int dev;

	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return;
	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return;
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other",
	         dev);
	/* over /tmp: a directory that is surely there, and nobody else sees it */
	if (mount("hostile", dir, "fuse", MS_NOSUID | MS_NODEV, options) == 0) {
		if (fork() == 0)
			fuse_serve(dev);
		fuse_fd = open("/tmp/model.gguf", O_RDONLY | O_CLOEXEC);
		umount2(dir, MNT_DETACH);
	}
	close(dev);
}

/* --- P16 -------------------------------------------------------------------------------------- */

static void import_frame(Qllm__Frame *frame, Qllm__Import *im, const char *name)
{
	qllm__frame__init(frame);
	qllm__import__init(im);
	im->name = (char *)(uintptr_t)name;
	frame->body_case = QLLM__FRAME__BODY_IMPORT;
	frame->import = im;
}

static void uninvited(void)
{
	static const struct {
		const char *what;
		unsigned n;
	} rows[] = { { "a descriptor with Wake", 1 },
		     { "2 descriptors with Wake", 2 },
		     { "253 descriptors with Wake", 253 } };
	Qllm__Frame frame;
	Qllm__Import im;
	struct client c;
	int fds[253], null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = null;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (!join(&c, RING_BYTES_MIN, rows[i].what))
			continue;
		throw_bytes(c.sock, frame_wake, sizeof(frame_wake), fds, rows[i].n);
		settle(&c, rows[i].what, FAULTED);
	}
	import_frame(&frame, &im, "none");
	if (join(&c, RING_BYTES_MIN, "import without a descriptor")) {
		say(&c, &frame, NULL, 0);
		settle(&c, "import without a descriptor", FAULTED);
	}
	if (join(&c, RING_BYTES_MIN, "import of two")) {
		say(&c, &frame, fds, 2);
		settle(&c, "import of two", FAULTED);
	}
	if (join(&c, RING_BYTES_MIN, "a descriptor ahead of its frame")) {
		throw_bytes(c.sock, "", 0, fds, 1);
		say(&c, &frame, NULL, 0);
		settle(&c, "a descriptor ahead of its frame", FAULTED | CLOSED);
	}
	close(null);
}

/* --- P17 -------------------------------------------------------------------------------------- */

static int sealed(const char *name, unsigned flags, size_t size, int seals)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd >= 0 && (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, seals) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* As a model, which must be a regular file that can be read; and as text, which must be a sealed
 * memfd of 4096 bytes. later: reading it takes time. Closes it. */
static void try_fd(const char *what, int fd, bool later)
{
	Qllm__Frame frame;
	Qllm__Import im;
	Qllm__Tokenize tokenize = QLLM__TOKENIZE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct client c;
	char step[100];

	if (fd < 0) {
		note(what, (struct got){ BUSY, 0, "not to be had here" }, BUSY);
		return;
	}
	snprintf(step, sizeof(step), "%s as a model", what);
	if (join(&c, RING_BYTES_MIN, step)) {
		import_frame(&frame, &im, "bad");
		say(&c, &frame, &fd, 1);
		settle(&c, step, REFUSED | (later ? LATER : 0));
	}
	snprintf(step, sizeof(step), "%s as text", what);
	if (join(&c, RING_BYTES_MIN, step)) {
		qllm__frame__init(&frame);
		frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
		frame.tokenize = &tokenize;
		tokenize.model = (char *)(uintptr_t)model_name;
		tokenize.text = &blob;
		blob.has_size = blob.has_fd = true;
		blob.size = 4096;
		blob.fd = 0;
		say(&c, &frame, &fd, 1);
		settle(&c, step, REFUSED);
	}
	close(fd);
}

static void connection_itself(void)
{
	Qllm__Frame frame;
	Qllm__Import im;
	struct client c;

	if (!join(&c, RING_BYTES_MIN, "the connection itself"))
		return;
	import_frame(&frame, &im, "bad");
	say(&c, &frame, &c.sock, 1);
	settle(&c, "the connection itself", REFUSED);
}

static void kinds(void)
{
	enum { ALL = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };
	const char *path = model_path ? model_path : "/etc/hostname";
	int pair[2];

	try_fd("an O_PATH descriptor", open(path, O_PATH | O_CLOEXEC), false);
	try_fd("a directory", open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), false);
	try_fd("/dev/zero", open("/dev/zero", O_RDONLY | O_CLOEXEC), false);
	try_fd("/dev/full, written only", open("/dev/full", O_WRONLY | O_CLOEXEC), false);
	try_fd("an epoll", epoll_create1(EPOLL_CLOEXEC), false);
	try_fd("a pidfd", (int)syscall(SYS_pidfd_open, getpid(), 0), false);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0) {
		close(pair[1]);
		try_fd("a socket", pair[0], false);
	}
	try_fd("an unsealed memfd", fd_memfd("unsealed", 4096), false);
	try_fd("a half sealed memfd", sealed("half", 0, 4096, F_SEAL_SHRINK | F_SEAL_GROW), false);
	try_fd("a memfd that is too short", sealed("short", 0, 4095, ALL), false);
	/* 0 pages are needed to make it; a kernel without any refuses the import's read */
	try_fd("a memfd of huge pages", sealed("huge", MFD_HUGETLB, 2 << 20, ALL), false);
	connection_itself();
	if (fuse_fd >= 0)
		try_fd("a FUSE file that hangs", dup(fuse_fd), true);
}

/* --- P18 -------------------------------------------------------------------------------------- */

/* Descriptors in flight to a daemon that is slow to take them, until the kernel says stop; and a
 * client that can hold no more itself, so that the daemon's Welcome arrives without its rings. */
static void no_room(void)
{
	struct rlimit old, low;
	struct client c;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), s;
	static const uint8_t hello[] = { 0x1a, 0x02, 0x08, 0x01 };

	if (null < 0 || getrlimit(RLIMIT_NOFILE, &old) < 0)
		return;
	if (join(&c, RING_BYTES_MIN, "descriptors in flight")) {
		int fds[100];

		for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
			fds[i] = null;
		for (unsigned i = 0; i < 50; i++)
			throw_bytes(c.sock, frame_wake, sizeof(frame_wake), fds, ARRAY_SIZE(fds));
		settle(&c, "5,000 descriptors in flight", FAULTED | CLOSED);
	}
	s = dial();
	if (s >= 0) {
		struct got got = { .answer = CLOSED };

		c = (struct client){ .sock = s, .out_fd = -1, .in_fd = -1 };
		low = (struct rlimit){ 4, old.rlim_max };
		setrlimit(RLIMIT_NOFILE, &low);
		throw_bytes(s, hello, sizeof(hello), NULL, 0);
		got = await(&c, 1000);
		setrlimit(RLIMIT_NOFILE, &old);
		note("a Welcome whose rings find no room", got, CLOSED | SILENT | SERVED);
		leave(&c);
	}
	close(null);
}

const struct hostile_case fd_cases[] = {
	{ "P16", "descriptors where none are due", uninvited },
	{ "P17", "descriptors of all kinds", kinds },
	{ "P18", "no room for descriptors", no_room },
	{ NULL },
};
