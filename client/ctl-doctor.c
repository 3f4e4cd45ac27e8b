/* ctl-doctor - what this machine gives to the daemon and what it lacks, a row each, with advice.
 *
 * 1. It works with and without a daemon: what the daemon can tell (kernels, threads, budget) comes
 *    from its status, the rest is looked up here, of the daemon's process where /proc lets us.
 * 2. A row that cannot be looked up says so and is no fault. "bad" is what keeps clients from being
 *    served; "warn" is what makes them slower or will surprise. */
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/pool.h"
#include "client/ctl.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { TEXT_MAX = 64 << 10, LINE_MAX_ = 320, ANSWER_S = 5 };
enum state { OK, WARN, BAD };
static const char *const state_names[] = { "ok", "warn", "bad" };

struct doctor {
	struct ctl *c;
	json_t *status; /* NULL: no daemon */
	json_t *rows;
	enum state worst;
	const char *socket;
	char pid[16]; /* of the daemon, or "self" */
};

static const char *status_text(const struct doctor *d, const char *key)
{
	const char *s = json_string_value(json_object_get(d->status, key));

	return s ? s : "";
}

static uint64_t status_number(const struct doctor *d, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(d->status, key));
}

static void row(struct doctor *d, const char *check, enum state state, const char *advice,
		const char *format, ...) __attribute__((format(printf, 5, 6)));
static void row(struct doctor *d, const char *check, enum state state, const char *advice,
		const char *format, ...)
{
	char value[LINE_MAX_];
	va_list ap;

	va_start(ap, format);
	vsnprintf(value, sizeof(value), format, ap);
	va_end(ap);
	d->worst = MAX(d->worst, state);
	json_array_append_new(d->rows,
			      json_pack("{s:s, s:s, s:o, s:s}", "check", check, "state",
					state_names[state], "value", out_text(value, strlen(value)),
					"advice", state == OK ? "" : advice));
}

/* A small file, without its last newline; NULL when it cannot be read. */
static char *read_text(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	char *text = NULL;
	size_t n = 0;

	if (fd < 0 || fd_read_file(fd, TEXT_MAX, &text, &n) < 0)
		return NULL;
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = 0;
	return text;
}

static char *read_in(const char *dir, const char *name)
{
	char path[2200];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return read_text(path);
}

static void bytes_text(char out[32], uint64_t n)
{
	if (n >= 1ull << 30)
		snprintf(out, 32, "%.1f GiB", (double)n / (double)(1ull << 30));
	else
		snprintf(out, 32, "%.1f MiB", (double)n / (double)(1ull << 20));
}

/* --- the daemon ------------------------------------------------------------------------------- */

/* A daemon that hangs must not hang us. */
static int ask(struct doctor *d)
{
	struct ctl *c = d->c;
	double timeout = c->timeout, deadline = c->deadline;
	int code;

	if (deadline == 0) {
		c->timeout = ANSWER_S;
		c->deadline = ctl_now() + ANSWER_S;
	}
	code = ctl_ask_status(c, &d->status);
	c->timeout = timeout;
	c->deadline = deadline;
	return code;
}

static void check_daemon(struct doctor *d)
{
	int r = qllm_connect(d->c->q);

	d->socket = qllm_socket(d->c->q);
	if (r == 0 && ask(d) == EXIT_OK) {
		snprintf(d->pid, sizeof(d->pid), "%u", (unsigned)status_number(d, "pid"));
		row(d, "daemon", OK, "", "qllmd %s answers at %s, pid %s",
		    status_text(d, "version"), d->socket, d->pid);
		if (strcmp(status_text(d, "version"), qllm_version()) != 0)
			row(d, "version", WARN,
			    "restart the daemon after an upgrade: systemctl restart qllmd",
			    "daemon %s, libqllm %s", status_text(d, "version"), qllm_version());
		return;
	}
	if (r == 0 || r == -ETIMEDOUT)
		row(d, "daemon", BAD,
		    "it hangs: look at its journal (journalctl -u qllmd), then restart it",
		    "%s accepts connections and does not answer", d->socket);
	else if (r == -EACCES || r == -EPERM)
		row(d, "daemon", BAD,
		    "ask to be added to the group that owns the socket, and log in anew", "%s",
		    qllm_error_text(d->c->q));
	else
		row(d, "daemon", WARN,
		    "start it (systemctl start qllmd.socket, or qllmd), or name its socket with "
		    "--socket; what follows is looked up without it",
		    "no daemon answers at %s", d->socket);
}

static const char *group_text(char out[64], gid_t gid)
{
	const struct group *g = getgrgid(gid);

	if (g)
		snprintf(out, 64, "%s", g->gr_name);
	else
		snprintf(out, 64, "%u", (unsigned)gid);
	return out;
}

static bool in_group(gid_t gid)
{
	gid_t groups[512];
	int n = getgroups(ARRAY_SIZE(groups), groups);

	for (int i = 0; i < n; i++)
		if (groups[i] == gid)
			return true;
	return getegid() == gid;
}

static void check_socket(struct doctor *d)
{
	const struct passwd *owner;
	struct stat st;
	char group[64];

	if (stat(d->socket, &st) < 0) {
		if (errno != ENOENT)
			row(d, "socket", BAD, "its directory must let you pass", "%s: %s",
			    d->socket, strerror(errno));
		return;
	}
	owner = getpwuid(st.st_uid);
	row(d, "socket", S_ISSOCK(st.st_mode) ? OK : BAD, "remove what lies there",
	    "%s, mode %04o, of %s:%s: %s may connect", d->socket, (unsigned)st.st_mode & 07777,
	    owner ? owner->pw_name : "?", group_text(group, st.st_gid),
	    st.st_mode & S_IWOTH   ? "everybody"
	    : st.st_mode & S_IWGRP ? "the group"
				   : "the owner");
	if (geteuid() == 0 || geteuid() == st.st_uid)
		row(d, "access", OK, "", "you may connect as %s",
		    geteuid() == 0 ? "root" : "the owner");
	else if ((st.st_mode & S_IWGRP) && in_group(st.st_gid))
		row(d, "access", OK, "", "you may connect as a member of %s",
		    group_text(group, st.st_gid));
	else if (st.st_mode & S_IWOTH)
		row(d, "access", OK, "", "everybody may connect");
	else
		row(d, "access", BAD,
		    "an administrator adds you: usermod -aG GROUP USER; then log in anew",
		    "you are not a member of %s", group_text(group, st.st_gid));
}

/* --- processor -------------------------------------------------------------------------------- */

static void cpu_name(char out[128])
{
	_cleanup_mem_ char *text = read_text("/proc/cpuinfo");
	char *at = text ? strstr(text, "model name") : NULL;

	at = at ? strchr(at, ':') : NULL;
	snprintf(out, 128, "%.*s", at ? (int)strcspn(at + 1 + strspn(at + 1, " "), "\n") : 7,
		 at ? at + 1 + strspn(at + 1, " ") : "unknown");
}

static void check_cpu(struct doctor *d)
{
	const char *level = status_text(d, "kernels"), *levels = status_text(d, "kernels_levels"),
		   *refused = status_text(d, "kernels_refused"), *last = strrchr(levels, ' ');
	char name[128];

	cpu_name(name);
	if (!d->status) {
		row(d, "cpu", OK, "", "%s; which kernels run on it is the daemon's to say", name);
		return;
	}
	row(d, "cpu", OK, "", "%s", status_text(d, "cpu"));
	last = last ? last + 1 : levels;
	if (strcmp(level, "scalar") == 0)
		row(d, "kernels", WARN,
		    "expect a tenth of the usual speed; a virtual machine may hide the host's "
		    "features: pass them through",
		    "%s: no vector kernels are in use", level);
	else if (*last && strcmp(level, last) != 0)
		row(d, "kernels", WARN,
		    "the daemon was started with QLLM_CPU, which is for tests: take it out of its "
		    "environment",
		    "%s, though this machine can run: %s", level, levels);
	else if (*refused)
		row(d, "kernels", WARN,
		    "prompts take longer than they could; the host's hypervisor or kernel may be "
		    "older than its processor",
		    "%s; the processor has more, which is left off: %s", level, refused);
	else
		row(d, "kernels", OK, "", "%s (of: %s)", level, levels);
}

static void check_threads(struct doctor *d)
{
	const char *why = NULL;
	uint32_t n = pool_default_threads(&why);

	if (d->status) {
		n = (uint32_t)status_number(d, "threads");
		why = status_text(d, "threads_why");
	}
	row(d, "threads", OK, "", "%u: %s", n, why);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void check_memlock(struct doctor *d)
{
	struct rlimit lim;
	char shown[32] = "unlimited";
	pid_t pid = d->status ? (pid_t)status_number(d, "pid") : 0;
	bool own = prlimit(pid, RLIMIT_MEMLOCK, NULL, &lim) < 0;

	if (own && getrlimit(RLIMIT_MEMLOCK, &lim) < 0)
		return;
	if (lim.rlim_cur != RLIM_INFINITY)
		bytes_text(shown, lim.rlim_cur);
	row(d, "memlock", lim.rlim_cur < (64 << 20) ? WARN : OK,
	    "jobs register fewer buffers with the kernel and are slower: set LimitMEMLOCK=64M",
	    "%s, %s", shown, own || !pid ? "of this shell" : "of the daemon");
}

static void check_hugepages(struct doctor *d)
{
	_cleanup_mem_ char *thp = read_text("/sys/kernel/mm/transparent_hugepage/enabled"),
			   *shmem = read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled");

	if (!thp) {
		row(d, "huge pages", WARN, "a kernel with transparent huge pages decodes faster",
		    "this kernel has none");
		return;
	}
	row(d, "huge pages", strstr(thp, "[never]") ? WARN : OK,
	    "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled", "%s; shared memory: %s",
	    thp, shmem ? shmem : "unknown");
}

/* What one directory of a group says; UINT64_MAX: no limit. Version 1 says "none" as a number
 * beyond any machine. */
static uint64_t memory_v2(const char *dir)
{
	_cleanup_mem_ char *text = read_in(dir, "memory.max");
	uint64_t x;

	return text && str_to_u64(text, &x) == 0 ? x : UINT64_MAX;
}

static uint64_t memory_v1(const char *dir)
{
	_cleanup_mem_ char *text = read_in(dir, "memory.limit_in_bytes");
	uint64_t x;

	return text && str_to_u64(text, &x) == 0 && x < 1ull << 60 ? x : UINT64_MAX;
}

static uint64_t percent(long long quota, long long period)
{
	return quota > 0 && period > 0 ? (uint64_t)quota * 100 / (uint64_t)period : UINT64_MAX;
}

/* Percent of one processor. */
static uint64_t cpu_v2(const char *dir)
{
	_cleanup_mem_ char *text = read_in(dir, "cpu.max");
	long long quota, period;

	return text && sscanf(text, "%lld %lld", &quota, &period) == 2 ? percent(quota, period)
								       : UINT64_MAX;
}

static uint64_t cpu_v1(const char *dir)
{
	_cleanup_mem_ char *quota = read_in(dir, "cpu.cfs_quota_us"),
			   *period = read_in(dir, "cpu.cfs_period_us");

	return quota && period ? percent(atoll(quota), atoll(period)) : UINT64_MAX;
}

struct limit { /* where a kind of limit is read */
	const char *controller, *root_v1;
	uint64_t (*v1)(const char *dir), (*v2)(const char *dir);
};

/* A parent's limit binds its children too: the least on the way up. */
static uint64_t least_upward(const char *root, const char *group,
			     uint64_t (*limit)(const char *dir))
{
	char dir[2048];
	uint64_t least = UINT64_MAX;

	if (snprintf(dir, sizeof(dir), "%s%s", root, strcmp(group, "/") ? group : "") >=
	    (int)sizeof(dir))
		return least;
	for (;;) {
		char *slash;

		least = MIN(least, limit(dir));
		slash = strrchr(dir, '/');
		if (!slash || (size_t)(slash - dir) < strlen(root))
			return least;
		*slash = 0;
	}
}

/* Lines of /proc/PID/cgroup: "0::/path" is version 2, "N:cpu,cpuacct:/path" version 1. */
static uint64_t cgroup_limit(struct doctor *d, const struct limit *l, const char **version)
{
	_cleanup_mem_ char *text = NULL;
	char path[64], *save = NULL;
	uint64_t least = UINT64_MAX;

	snprintf(path, sizeof(path), "/proc/%s/cgroup", d->pid);
	text = read_text(path);
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *group = strchr(line, '/'), *names = strchr(line, ':'), padded[256];
		bool v2 = strncmp(line, "0::", 3) == 0;
		uint64_t x = UINT64_MAX;

		if (!group || !names || group <= names + 1)
			continue;
		snprintf(padded, sizeof(padded), ",%.*s,", (int)(group - names - 2), names + 1);
		if (v2)
			x = least_upward("/sys/fs/cgroup", group, l->v2);
		else if (strstr(padded, l->controller))
			x = least_upward(l->root_v1, group, l->v1);
		if (x < least) {
			least = x;
			*version = v2 ? "v2" : "v1";
		}
	}
	return least;
}

static void check_cgroup(struct doctor *d)
{
	static const struct limit memory = { ",memory,", "/sys/fs/cgroup/memory", memory_v1,
					     memory_v2 },
				  cpu = { ",cpu,", "/sys/fs/cgroup/cpu", cpu_v1, cpu_v2 };
	const char *version = "";
	uint64_t least = cgroup_limit(d, &memory, &version);
	char shown[32];

	bytes_text(shown, least);
	if (least == UINT64_MAX)
		row(d, "cgroup memory", OK, "", "no limit");
	else
		row(d, "cgroup memory", least < status_number(d, "budget_bytes") ? WARN : OK,
		    "the budget for KV pages exceeds what the cgroup allows: set engine.memory "
		    "lower, or raise MemoryMax= of the unit",
		    "%s (%s)", shown, version);
	least = cgroup_limit(d, &cpu, &version);
	if (least == UINT64_MAX)
		row(d, "cgroup cpu", OK, "", "no quota");
	else
		row(d, "cgroup cpu", WARN,
		    "a quota pauses all threads together: raise CPUQuota= of the unit, or set "
		    "engine.threads below it",
		    "%llu%% of one processor (%s)", (unsigned long long)least, version);
}

static void check_memory(struct doctor *d)
{
	_cleanup_mem_ char *text = read_text("/proc/meminfo");
	const char *at = text ? strstr(text, "MemAvailable:") : NULL;
	uint64_t budget = status_number(d, "budget_bytes"), used = status_number(d, "used_bytes"),
		 available = at ? strtoull(at + 13, NULL, 10) << 10 : 0;
	char a[32], b[32];

	if (!at)
		return;
	bytes_text(a, available);
	if (!d->status) {
		row(d, "memory", available < 1ull << 30 ? WARN : OK,
		    "little is free: small models only", "%s available", a);
		return;
	}
	bytes_text(b, budget - MIN(used, budget));
	row(d, "memory", available < budget - MIN(used, budget) ? WARN : OK,
	    "the budget promises more than is free, beside the models themselves: set "
	    "engine.memory lower",
	    "%s available, %s of the budget are free", a, b);
}

/* --- what the system offers ------------------------------------------------------------------- */

static void default_state(char out[512])
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

	if (geteuid() == 0 || (!state && !home))
		snprintf(out, 512, "/var/lib/qllmd");
	else if (state)
		snprintf(out, 512, "%s/qllmd", state);
	else
		snprintf(out, 512, "%s/.local/state/qllmd", home);
}

/* File systems that other machines or programs can stop; see the daemon's allow-list for models. */
static const char *remote_name(long type)
{
	static const struct {
		unsigned type;
		const char *name;
	} rows[] = {
		{ NFS_SUPER_MAGIC, "NFS" },   { SMB_SUPER_MAGIC, "SMB" },
		{ 0xff534d42, "CIFS" },       { 0xfe534d42, "SMB2" },
		{ FUSE_SUPER_MAGIC, "FUSE" }, { AFS_SUPER_MAGIC, "AFS" },
		{ V9FS_MAGIC, "9P" },         { CEPH_SUPER_MAGIC, "Ceph" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if ((unsigned)type == rows[i].type)
			return rows[i].name;
	return NULL;
}

static void check_state(struct doctor *d)
{
	char guess[512], shown[32];
	const char *dir = status_text(d, "state_dir"), *remote;
	struct statfs fs;
	uint64_t left;

	if (!*dir) {
		default_state(guess);
		dir = guess;
	}
	if (statfs(dir, &fs) < 0) {
		row(d, "state directory", OK, "", "%s: %s", dir,
		    errno == ENOENT ? "not made yet; the daemon does at its start"
				    : strerror(errno));
		return;
	}
	remote = remote_name((long)fs.f_type);
	left = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	bytes_text(shown, left);
	if (remote)
		row(d, "state directory", BAD,
		    "a model in use would hang with it: put state_dir on a local disk",
		    "%s lies on %s, which can stop answering", dir, remote);
	else if ((unsigned)fs.f_type == TMPFS_MAGIC)
		row(d, "state directory", WARN, "models are lost at a reboot and take memory",
		    "%s lies in memory (tmpfs), %s free", dir, shown);
	else
		row(d, "state directory", left < 2ull << 30 ? WARN : OK,
		    "little room for models: remove some, or move state_dir",
		    "%s, on a local file system, %s free", dir, shown);
}

static void check_uring(struct doctor *d)
{
	_cleanup_mem_ char *off = read_text("/proc/sys/kernel/io_uring_disabled");
	struct io_uring_params p = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 1, &p);

	if (fd >= 0)
		close(fd);
	row(d, "io_uring", fd >= 0 ? OK : WARN,
	    "jobs read and write with pread and pwrite instead, which is slower: set "
	    "kernel.io_uring_disabled to 0, or allow it in the container",
	    "%s%s%s", fd >= 0 ? "available" : "refused by the kernel",
	    off ? ", kernel.io_uring_disabled = " : "", off ? off : "");
}

static void check_memfd(struct doctor *d)
{
	int fd = fd_memfd("qllm-doctor", 4096),
	    r = fd < 0 ? fd : fd_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);

	if (fd >= 0)
		close(fd);
	row(d, "memfd seals", r == 0 ? OK : BAD,
	    "every connection needs sealed memory: a kernel of 5.1 or newer, and a sandbox that "
	    "allows memfd_create",
	    "%s", r == 0 ? "work" : strerror(-r));
}

static void check_units(struct doctor *d)
{
	static const char *const dirs[] = { "/etc/systemd/system", "/usr/local/lib/systemd/system",
					    "/usr/lib/systemd/system", "/lib/systemd/system" };
	bool running = access("/run/systemd/system", F_OK) == 0;

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/qllmd.service", dirs[i]);
		if (access(path, F_OK) < 0)
			continue;
		row(d, "systemd", OK, "", "%s%s", path,
		    running ? "" : "; systemd does not run here");
		return;
	}
	row(d, "systemd", running ? WARN : OK,
	    "without a unit the daemon is not started at boot: install below /usr or /usr/local",
	    running ? "systemd runs, but knows no qllmd.service" : "systemd does not run here");
}

static void check_worker(struct doctor *d)
{
	static const char path[] = LIBEXECDIR "/qllmd/qllm-worker";

	row(d, "worker", access(path, X_OK) == 0 ? OK : WARN,
	    "background jobs and verify need it: make install, or install the package qllmd",
	    "%s%s%s", path, access(path, X_OK) == 0 ? "" : ": ",
	    access(path, X_OK) == 0 ? "" : strerror(errno));
}

static void print_rows(struct ctl *c, const json_t *rows)
{
	static const char *const mark[] = { "ok", "warn", "BAD" };
	static const char *const colour[] = { "\033[32m", "\033[33m", "\033[31m" };

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *r = json_array_get(rows, i);
		const char *state = json_string_value(json_object_get(r, "state")),
			   *advice = json_string_value(json_object_get(r, "advice"));
		unsigned s = 0;

		while (s < BAD && strcmp(state, state_names[s]) != 0)
			s++;
		if (c->quiet && s == OK)
			continue;
		printf("%s%-4s%s  %-15s  %s\n", c->color_out ? colour[s] : "", mark[s],
		       c->color_out ? "\033[0m" : "",
		       json_string_value(json_object_get(r, "check")),
		       json_string_value(json_object_get(r, "value")));
		if (*advice)
			printf("%23s-> %s\n", "", advice);
	}
}

static int run_doctor(struct ctl *c)
{
	static void (*const checks[])(struct doctor * d) = {
		check_daemon, check_socket,  check_cpu,       check_threads, check_memory,
		check_cgroup, check_memlock, check_hugepages, check_state,   check_memfd,
		check_uring,  check_units,   check_worker,
	};
	struct doctor d = { .c = c, .rows = json_array(), .pid = "self" };
	int code = EXIT_OK;

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		checks[i](&d);
	if (json_array_size(d.rows) == 0)
		code = ctl_fail(c, EXIT_FAILED, "no memory for the findings");
	else if (c->json)
		code = out_json(c, json_incref(d.rows));
	else
		print_rows(c, d.rows);
	json_decref(d.rows);
	json_decref(d.status);
	return code != EXIT_OK ? code : d.worst == BAD ? EXIT_FAILED : EXIT_OK;
}

const struct ctl_cmd ctl_cmd_doctor = {
	.name = "doctor",
	.args = "",
	.help = "What this machine gives and lacks, with advice; needs no daemon. Exit code 1 when "
		"something is bad; -q: only what is not well",
	.run = run_doctor,
};
