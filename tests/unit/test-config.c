/* test-config - settings: defaults, files in order, errors that name the place, reload. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/mem.h"
#include "daemon/config.h"

static char dir[64], file[96];

static void write_file(const char *name, const char *text)
{
	char path[160];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int setup(void **state)
{
	char sub[120];

	(void)state;
	strcpy(dir, "/tmp/qllm-config-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/qllmd.conf", dir);
	snprintf(sub, sizeof(sub), "%s.d", file);
	return mkdir(sub, 0700);
}

static int teardown(void **state)
{
	char cmd[128];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

static void test_defaults(void **state)
{
	struct config *c = NULL;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(config_load(&c, file, false, &err), 0);
	assert_int_equal(c->connections_per_uid, 64);
	assert_int_equal(c->queued_per_uid, 64);
	assert_int_equal(c->idle_seconds, 300);
	assert_int_equal(c->drain_seconds, 30);
	assert_int_equal(c->prompt_bytes, 64 << 20);
	assert_string_equal(c->log_level, "info");
	assert_string_equal(c->socket, "");
	config_free(c);
	c = NULL;
	assert_int_equal(config_load(&c, file, true, &err), -ENOENT);
	assert_null(c);
	assert_non_null(strstr(err.text, file));
	for (size_t i = 0; i < config_n_keys; i++) {
		assert_true(config_table[i].help && strlen(config_table[i].help) > 10);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(config_table[i].name, config_table[k].name);
	}
}

static const char *source_of(const struct config *c, const char *name)
{
	for (size_t i = 0; i < config_n_keys; i++)
		if (strcmp(config_table[i].name, name) == 0)
			return c->source[i];
	return NULL;
}

/* Every value says where it was set; a long comment in parts is one line. */
static void test_sources(void **state)
{
	struct config *c = NULL, *other = NULL;
	struct err err = { 0 };
	char text[900], want[160];

	(void)state;
	snprintf(text, sizeof(text),
	         ";%0500d\n[engine]\n\nthreads = 3\n[limits]\nprompt_bytes = 2K", 0);
	write_file("qllmd.conf", text);
	write_file("qllmd.conf.d/10.conf", "[daemon]\nlog_level = debug\n");
	assert_int_equal(config_load(&c, file, true, &err), 0);
	snprintf(want, sizeof(want), "%s:4", file);
	assert_string_equal(source_of(c, "threads"), want);
	snprintf(want, sizeof(want), "%s:6", file);
	assert_string_equal(source_of(c, "prompt_bytes"), want);
	snprintf(want, sizeof(want), "%s.d/10.conf:2", file);
	assert_string_equal(source_of(c, "log_level"), want);
	assert_string_equal(source_of(c, "chunk"), "default");
	assert_int_equal(config_set(c, "chunk", "7", "command line", &err), 0);
	assert_string_equal(source_of(c, "chunk"), "command line");

	/* a reload brings the source along, but only of keys that it applies */
	write_file("qllmd.conf", "[limits]\nprompt_bytes = 3K\n[engine]\nthreads = 5\n");
	assert_int_equal(config_load(&other, file, true, &err), 0);
	assert_int_equal(config_apply_reload(c, other), 0);
	snprintf(want, sizeof(want), "%s:2", file);
	assert_string_equal(source_of(c, "prompt_bytes"), want);
	snprintf(want, sizeof(want), "%s:4", file);
	assert_string_equal(source_of(c, "threads"), want);
	assert_int_equal(c->threads, 3);
	snprintf(text, sizeof(text), "[daemon]\nsocket = /%0500d\n", 0);
	write_file("qllmd.conf", text);
	config_free(other);
	assert_int_equal(config_load(&other, file, true, &err), -EINVAL);
	assert_non_null(strstr(err.text, "qllmd.conf:2: a line of more"));
	write_file("qllmd.conf.d/10.conf", "");
	config_free(c);
}

static void test_files_in_order(void **state)
{
	struct config *c = NULL;
	struct err err = { 0 };

	(void)state;
	write_file(
		"qllmd.conf",
		"# comment\n[daemon]\nsocket = /a\nlog_level=debug\n\n[engine]\nmemory = 3G\n"
		"threads = 2\n");
	write_file("qllmd.conf.d/20-b.conf", "[engine]\nthreads = 4\n");
	write_file("qllmd.conf.d/10-a.conf", "[engine]\nthreads = 3\n[models]\nidle_seconds = 7\n");
	write_file("qllmd.conf.d/ignored.txt", "nonsense\n");
	assert_int_equal(config_load(&c, file, true, &err), 0);
	assert_string_equal(c->socket, "/a");
	assert_string_equal(c->log_level, "debug");
	assert_int_equal(c->memory, 3ull << 30);
	assert_int_equal(c->threads, 4);
	assert_int_equal(c->idle_seconds, 7);
	assert_int_equal(config_set(c, "threads", "5", "test", &err), 0);
	assert_int_equal(c->threads, 5);
	assert_int_equal(config_set(c, "thread", "5", "test", &err), -ENOENT);
	assert_int_equal(config_set(c, "threads", "5x", "test", NULL), -EINVAL);
	assert_int_equal(c->threads, 5);
	config_free(c);
}

/* Vendor below the system's file, that below its drop-ins; each may be missing. */
static void test_vendor_is_below(void **state)
{
	struct config *c = NULL;
	struct err err = { 0 };
	char vendor[120], sys[120], sub[128];

	(void)state;
	snprintf(vendor, sizeof(vendor), "%s/vendor", dir);
	snprintf(sys, sizeof(sys), "%s/sys", dir);
	snprintf(sub, sizeof(sub), "%s.d", sys);
	assert_int_equal(mkdir(sub, 0700), 0);
	write_file("sys", "[engine]\nthreads = 2\nchunk = 20\n");
	write_file("sys.d/10-a.conf", "[engine]\nchunk = 30\n");
	assert_int_equal(config_load_system(&c, vendor, sys, &err), 0);
	assert_int_equal(c->max_sequences, 64);
	c = config_free(c);
	snprintf(sub, sizeof(sub), "%s.d", vendor);
	assert_int_equal(mkdir(sub, 0700), 0);
	write_file("vendor.d/90.conf", "[engine]\nthreads = 8\nchunk = 9\nmax_sequences = 10\n");
	assert_int_equal(config_load_system(&c, vendor, sys, &err), 0);
	assert_int_equal(c->max_sequences, 10);
	assert_int_equal(c->threads, 2);
	assert_int_equal(c->chunk, 30);
	assert_non_null(strstr(source_of(c, "max_sequences"), "vendor.d/90.conf:4"));
	c = config_free(c);
	write_file("vendor.d/90.conf", "[engine]\nthreds = 8\n");
	assert_int_equal(config_load_system(&c, vendor, sys, &err), -EINVAL);
	assert_non_null(strstr(err.text, "vendor.d/90.conf:2"));
}

static void check_refused(const char *text, const char *named)
{
	struct config *c = NULL;
	struct err err = { 0 };

	write_file("qllmd.conf", text);
	assert_int_equal(config_load(&c, file, true, &err), -EINVAL);
	assert_null(c);
	assert_non_null(strstr(err.text, named));
	assert_non_null(strstr(err.text, file));
}

static void test_errors_name_the_place(void **state)
{
	(void)state;
	check_refused("[daemon]\nsockt = /a\n", "sockt");
	check_refused("[daemon]\nsockt = /a\n", ":2:");
	check_refused("[engine]\nsocket = /a\n", "socket");             /* another section's */
	check_refused("[engine]\nthreads = -1\n", "threads");
	check_refused("[engine]\nthreads = 2000\n", "1024");
	check_refused("[engine]\nmemory = 99999999999999T\n", "memory");
	check_refused("[engine]\nmemory = G\n", "memory");
	check_refused("[limits]\nqueued_per_uid = 0\n", "queued_per_uid");
	check_refused("[limits]\nqueued_per_uid\n", ":2:");
	write_file("qllmd.conf", "");
}

static void test_reload(void **state)
{
	struct config *a = NULL, *b = NULL;

	(void)state;
	write_file("qllmd.conf", "");
	assert_int_equal(config_load(&a, file, true, NULL), 0);
	write_file("qllmd.conf",
	           "[daemon]\nsocket = /new\nlog_level = warning\n[limits]\nqueued_per_uid = 5\n"
	           "[engine]\nchunk = 64\n");
	assert_int_equal(config_load(&b, file, true, NULL), 0);
	assert_int_equal(config_apply_reload(a, b), 0);
	assert_string_equal(a->log_level, "warning");
	assert_int_equal(a->queued_per_uid, 5);
	assert_string_equal(a->socket, "");             /* needs a restart */
	assert_int_equal(a->chunk, 128);
	config_free(a);
	config_free(b);
	write_file("qllmd.conf", "");
}

static void test_every_allocation_may_fail(void **state)
{
	(void)state;
	write_file("qllmd.conf", "[daemon]\nsocket = /new\n[engine]\nmemory = 1G\n");
	for (unsigned nth = 0;; nth++) {
		struct config *c = NULL;
		int r;

		mem_fault_arm(nth, false);
		r = config_load(&c, file, true, NULL);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			config_free(c);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		assert_null(c);
		assert_int_equal(mem_live_blocks(), 0);
	}
	assert_int_equal(mem_live_blocks(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_sources),
		cmocka_unit_test(test_files_in_order),
		cmocka_unit_test(test_vendor_is_below),
		cmocka_unit_test(test_errors_name_the_place),
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_every_allocation_may_fail),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
