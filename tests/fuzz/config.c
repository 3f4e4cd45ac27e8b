/* config - FILE, NUL, DROP-IN, NUL, VENDOR'S DROP-IN, NUL, NAME=VALUE of the command line; what is
 * not there stays empty. Files that are accepted give only values that the table allows, and each
 * of them can be written out and read again. An allocation that fails is told, and leaves nothing.
 *
 * The files are symbolic links to three memfds, so that an input costs no disk. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "daemon/config.h"
#include "base/fd.h"
#include "tests/fuzz/fuzz.h"

const char fuzz_name[] = "config";
enum { MAIN_FILE, DROP_IN, VENDOR, FILES };

static const char *const links[FILES] = { "own", "own.d/10.conf", "vendor.d/20.conf" };
static char dir[] = "/tmp/qllm-fuzz-config-XXXXXX", paths[FILES][64], own[64], vendor[64];
static int fds[FILES];

static void remove_files(void)
{
	char path[80];

	for (unsigned i = 0; i < FILES; i++)
		unlink(paths[i]);
	snprintf(path, sizeof(path), "%s.d", own);
	rmdir(path);
	snprintf(path, sizeof(path), "%s.d", vendor);
	rmdir(path);
	rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[80];

	(void)argc;
	(void)argv;
	FUZZ_CHECK(mkdtemp(dir), "%s", strerror(errno));
	atexit(remove_files);
	snprintf(own, sizeof(own), "%s/own", dir);
	snprintf(vendor, sizeof(vendor), "%s/vendor", dir);
	snprintf(path, sizeof(path), "%s.d", own);
	FUZZ_CHECK(mkdir(path, 0700) == 0, "%s", strerror(errno));
	snprintf(path, sizeof(path), "%s.d", vendor);
	FUZZ_CHECK(mkdir(path, 0700) == 0, "%s", strerror(errno));
	for (unsigned i = 0; i < FILES; i++) {
		fds[i] = memfd_create("config", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[i]);
		snprintf(paths[i], sizeof(paths[i]), "%s/%s", dir, links[i]);
		FUZZ_CHECK(fds[i] >= 0 && symlink(path, paths[i]) == 0, "%s", strerror(errno));
	}
	return 0;
}

/* The files' parts of the input; the rest is what follows them. */
static void write_files(const uint8_t *p, size_t n, char rest[128])
{
	for (unsigned i = 0; i < FILES; i++) {
		const uint8_t *nul = n ? memchr(p, 0, n) : NULL;
		size_t part = nul ? (size_t)(nul - p) : n;

		FUZZ_CHECK(ftruncate(fds[i], 0) == 0 && lseek(fds[i], 0, SEEK_SET) == 0 &&
		                   fd_write_all(fds[i], p, part) == 0, "%s", strerror(errno));
		p += nul ? part + 1 : part;
		n -= nul ? part + 1 : part;
	}
	n = n < 127 ? n : 127;
	memcpy(rest, p, n);
	rest[n] = 0;
}

/* What the daemon does with its files at the start, and again for --set and for a reload. */
static int load(struct config **ret, const char *setting, struct err *err)
{
	struct config *c = NULL, *other = NULL;
	char name[128];
	char *value;
	int r = config_load_system(&c, vendor, own, err);

	snprintf(name, sizeof(name), "%s", setting);
	value = strchr(name, '=');
	if (r == 0 && value) {
		*value++ = 0;
		r = config_set(c, name, value, "--set", err);
	}
	if (r == 0)
		r = config_load(&other, "/nonexistent", false, err);
	if (r == 0) {
		r = config_apply_reload(other, c);
		if (r < 0)
			err_set(err, r, "no memory for a reload");
	}
	config_free(other);
	if (r < 0)
		config_free(c);
	else
		*ret = c;
	return r;
}

static void without_memory(const uint8_t *p, size_t n, const char *setting, int expected)
{
	const int64_t blocks = mem_live_blocks();
	struct config *c = NULL;
	struct err err = { 0 };
	int r;

	mem_fault_arm(fuzz_mix(p, n) % 512, false);
	r = load(&c, setting, &err);
	if (mem_fault_fired())
		FUZZ_CHECK(r < 0 && err.text[0], "%d, without memory", r);
	else
		FUZZ_CHECK(r == expected, "%d, then %d", expected, r);
	config_free(c);
	FUZZ_CHECK(mem_live_blocks() == blocks, "blocks are left");
}

static void check_key(struct config *c, const struct config_key *key)
{
	struct sbuf was = { 0 }, is = { 0 };
	struct err err = { 0 };

	FUZZ_CHECK(config_text(c, key, &was) == 0, "%s", key->name);
	if (key->type != CONFIG_STR) {
		uint64_t v;

		memcpy(&v, (const char *)c + key->offset, sizeof(v));
		/* the default may stand for "decided at start" */
		FUZZ_CHECK((v >= key->min && v <= key->max) || key->def[0] == 0 || v == 0,
		           "%s = %s", key->name, was.p);
	}
	if (was.n > 0 && config_set(c, key->name, was.p, "again", &err) == 0) {
		FUZZ_CHECK(config_text(c, key, &is) == 0, "%s", key->name);
		FUZZ_CHECK(strcmp(was.p, is.p) == 0, "%s: %s became %s", key->name, was.p, is.p);
	}
	sbuf_deinit(&was);
	sbuf_deinit(&is);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct config *c = NULL;
	struct err err = { 0 };
	char setting[128];
	int r;

	write_files(p, n, setting);
	r = load(&c, setting, &err);
	FUZZ_CHECK(r <= 0, "%d", r);
	FUZZ_CHECK(r == 0 || err.text[0], "no sentence for %d", r);
	for (size_t i = 0; r == 0 && i < config_n_keys; i++)
		check_key(c, &config_table[i]);
	config_free(c);
	without_memory(p, n, setting, r);
	return 0;
}
