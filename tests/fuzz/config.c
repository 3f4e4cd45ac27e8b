/* config - the bytes are a configuration file. A file that is accepted has only values that the
 * table allows, and each of them can be written out and read again. */
#include <sys/mman.h>
#include <unistd.h>
#include "daemon/config.h"
#include "base/fd.h"
#include "tests/fuzz/fuzz.h"

const char fuzz_name[] = "config";

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
	struct config *c = NULL, *other = NULL;
	struct err err = { 0 };
	char path[64];
	int fd = memfd_create("config", MFD_CLOEXEC), r;

	FUZZ_CHECK(fd >= 0 && fd_write_all(fd, p, n) == 0, "no memfd");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = config_load(&c, path, true, &err);
	FUZZ_CHECK(r <= 0, "%d", r);
	FUZZ_CHECK(r == 0 || err.text[0], "no sentence for %d", r);
	if (r == 0) {
		for (size_t i = 0; i < config_n_keys; i++)
			check_key(c, &config_table[i]);
		FUZZ_CHECK(config_load(&other, "/nonexistent", false, NULL) == 0, "defaults");
		FUZZ_CHECK(config_apply_reload(other, c) == 0, "reload");
	}
	config_free(c);
	config_free(other);
	close(fd);
	return 0;
}
