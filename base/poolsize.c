/* poolsize - how many threads this process may use: the least of its affinity mask, its cgroups'
 * CPU quotas and the physical cores behind the mask. What cannot be read does not limit. */
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/pool.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>

enum { CPUS_MAX = 4096, FILE_MAX = 64 << 10, PATH_BYTES = 4096 };

static char *read_text(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	char *text = NULL;

	if (fd < 0 || fd_read_file(fd, FILE_MAX, &text, NULL) < 0)
		return NULL;
	return text;
}

/* The first CPU of the core that `cpu` belongs to; hyper-threads of a core share it. */
static unsigned core_of(unsigned cpu)
{
	_cleanup_mem_ char *text = NULL;
	char path[128];
	unsigned first;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
	         cpu);
	text = read_text(path);
	return text && sscanf(text, "%u", &first) == 1 && first < CPUS_MAX ? first : cpu;
}

/* CPUs in the affinity mask, and the cores behind them. */
static void count_cpus(uint32_t *ret_cpus, uint32_t *ret_cores)
{
	_cleanup_mem_ cpu_set_t *mask = mem_alloc(CPU_ALLOC_SIZE(CPUS_MAX));
	bool seen[CPUS_MAX] = { false };

	*ret_cpus = *ret_cores = 0;
	if (!mask || sched_getaffinity(0, CPU_ALLOC_SIZE(CPUS_MAX), mask) < 0)
		return;
	for (unsigned cpu = 0; cpu < CPUS_MAX; cpu++) {
		unsigned core;

		if (!CPU_ISSET_S(cpu, CPU_ALLOC_SIZE(CPUS_MAX), mask))
			continue;
		++*ret_cpus;
		core = core_of(cpu);
		*ret_cores += !seen[core];
		seen[core] = true;
	}
}

static uint32_t quota_cpus(long long quota, long long period)
{
	return quota > 0 && period > 0 ? (uint32_t)CLAMP(DIV_UP(quota, period), 1, CPUS_MAX)
	                               : UINT32_MAX;
}

/* The quota of one cgroup directory, either version; UINT32_MAX when it sets none. */
static uint32_t quota_at(const char *dir, bool v2)
{
	_cleanup_mem_ char *text = NULL, *period_text = NULL;
	char path[PATH_BYTES + 64];
	long long quota, period;

	if (v2) {
		snprintf(path, sizeof(path), "%s/cpu.max", dir);
		text = read_text(path);
		return text && sscanf(text, "%lld %lld", &quota, &period) == 2
		               ? quota_cpus(quota, period)
		               : UINT32_MAX;
	}
	snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir);
	text = read_text(path);
	snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir);
	period_text = read_text(path);
	return text && period_text && sscanf(text, "%lld", &quota) == 1 &&
	                       sscanf(period_text, "%lld", &period) == 1
	               ? quota_cpus(quota, period)
	               : UINT32_MAX;
}

/* A parent's quota binds its children too: take the least on the way up to the mount point. */
static uint32_t quota_upward(const char *root, const char *group, bool v2)
{
	char dir[PATH_BYTES];
	size_t root_len = strlen(root);
	uint32_t least = UINT32_MAX;

	if (snprintf(dir, sizeof(dir), "%s%s", root, strcmp(group, "/") ? group : "") >=
	    (int)sizeof(dir))
		return least;
	for (;;) {
		char *slash;

		least = MIN(least, quota_at(dir, v2));
		slash = strrchr(dir, '/');
		if (!slash || (size_t)(slash - dir) < root_len)
			return least;
		*slash = 0;
	}
}

/* Lines of /proc/self/cgroup: "0::/path" is version 2, "N:cpu,cpuacct:/path" version 1. */
static uint32_t cgroup_cpus(void)
{
	_cleanup_mem_ char *text = read_text("/proc/self/cgroup");
	uint32_t least = UINT32_MAX;
	char *save = NULL;

	if (!text)
		return least;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':'),
		     *group = controllers ? strchr(controllers + 1, ':') : NULL;
		char padded[256];

		if (!group)
			continue;
		*group++ = 0;
		controllers++;
		if (!*controllers) {
			least = MIN(least, quota_upward("/sys/fs/cgroup", group, true));
			continue;
		}
		snprintf(padded, sizeof(padded), ",%s,", controllers);
		if (strstr(padded, ",cpu,"))
			least = MIN(least, quota_upward("/sys/fs/cgroup/cpu", group, false));
	}
	return least;
}

uint32_t pool_default_threads(const char **why)
{
	static _Thread_local char sentence[160];
	uint32_t cpus, cores, quota = cgroup_cpus(), n;
	const char *reason = "affinity mask";

	count_cpus(&cpus, &cores);
	if (cpus == 0)
		cpus = cores = 1;
	n = cpus;
	if (cores < n) {
		n = cores;
		reason = "physical cores";
	}
	if (quota < n) {
		n = quota;
		reason = "cgroup CPU quota";
	}
	if (quota == UINT32_MAX)
		snprintf(sentence, sizeof(sentence),
		         "%s: %u CPUs allowed, %u physical cores, no CPU quota", reason, cpus,
		         cores);
	else
		snprintf(sentence, sizeof(sentence),
		         "%s: %u CPUs allowed, %u physical cores, quota of %u CPUs", reason, cpus,
		         cores, quota);
	if (why)
		*why = sentence;
	return n;
}
