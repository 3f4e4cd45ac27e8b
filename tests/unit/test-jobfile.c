/* test-jobfile - records of jobs: both ways, damaged, and with every allocation failing. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/fd.h"
#include "base/num.h"
#include "daemon/jobfile.h"

static struct job_record sample(void)
{
	struct job_record r = {
		.id = 12, .kind = JOB_VERIFY, .state = JOB_FAILED, .uid = 4294967294u,
		.model = "a.b-c_d", .model_uid = 3, .model_shared = true, .failures = 2,
		.created = 1700000000, .started = 1700000001, .ended = 1700000002,
		.percent = 37.5, .bytes_read = 1ull << 40, .bytes_written = 7,
		.error = "tensor 'x\xc3\xa4', row 3: \"quoted\" and \\ kept", .result = "none",
		.checksum = "xxh3-128:0123",
	};

	assert_int_equal(job_record_log(&r, "first"), 0);
	assert_int_equal(job_record_log(&r, "bad\n\x01\xff bytes"), 0);
	return r;
}

static void test_round_trip(void **state)
{
	struct job_record r = sample(), back;
	char *text = job_record_text(&r);

	(void)state;
	assert_non_null(text);
	assert_int_equal(job_record_parse(&back, text, strlen(text), NULL), 0);
	assert_int_equal(back.id, r.id);
	assert_int_equal(back.state, r.state);
	assert_int_equal(back.uid, r.uid);
	assert_int_equal(back.model_uid, r.model_uid);
	assert_true(back.model_shared);
	assert_int_equal(back.failures, 2);
	assert_int_equal(back.created, r.created);
	assert_int_equal(back.started, r.started);
	assert_int_equal(back.ended, r.ended);
	assert_true(back.percent == 37.5);
	assert_int_equal(back.bytes_read, r.bytes_read);
	assert_int_equal(back.bytes_written, 7);
	assert_string_equal(back.model, r.model);
	assert_string_equal(back.error, r.error);
	assert_string_equal(back.result, r.result);
	assert_string_equal(back.checksum, r.checksum);
	assert_string_equal(back.log.p, "first\nbad\\x0a\\x01\\xff bytes\n");
	free(text);
	job_record_deinit(&r);
	job_record_deinit(&back);
}

/* Every field missing, and of every wrong type or range. */
static void test_wrong_fields(void **state)
{
	static const struct {
		const char *key, *value;
	} bends[] = {
		{ "version", "2" },           { "version", "\"1\"" },    { "id", "0" },
		{ "id", "-1" },               { "id", "1.5" },           { "kind", "\"nothing\"" },
		{ "kind", "3" },              { "state", "\"asleep\"" }, { "state", "null" },
		{ "uid", "4294967296" },      { "uid", "-1" },           { "model", "\"../x\"" },
		{ "model", "\"\"" },          { "model", "[]" },
		{ "model_uid", "true" },      { "model_shared", "1" },   { "failures", "1001" },
		{ "created", "\"now\"" },     { "started", "-5" },       { "ended", "{}" },
		{ "percent", "\"half\"" },    { "bytes_read", "-1" },    { "bytes_written", "1e3" },
		{ "error", "7" },             { "result", "false" },     { "checksum", "0" },
		{ "log", "[\"a\"]" },
		{ "checksum", "\"01234567890123456789012345678901234567890123456789\"" },
	};
	struct job_record r = sample(), back;
	char *text = job_record_text(&r);
	json_t *whole = json_loads(text, 0, NULL);
	const char *key;
	json_t *value;

	(void)state;
	free(text);
	for (size_t i = 0; i < ARRAY_SIZE(bends); i++) {
		json_t *bent = json_copy(whole);
		struct err err = { 0 };

		json_object_set_new(bent, bends[i].key,
		                    json_loads(bends[i].value, JSON_DECODE_ANY, NULL));
		text = json_dumps(bent, 0);
		assert_int_equal(job_record_parse(&back, text, strlen(text), &err), -EBADMSG);
		assert_non_null(strstr(err.text, bends[i].key));
		free(text);
		json_decref(bent);
	}
	json_object_foreach(whole, key, value) {
		json_t *bent = json_copy(whole);

		json_object_del(bent, key);
		text = json_dumps(bent, 0);
		assert_int_equal(job_record_parse(&back, text, strlen(text), NULL), -EBADMSG);
		free(text);
		json_decref(bent);
	}
	json_decref(whole);
	job_record_deinit(&r);
}

/* Every prefix, and every byte replaced: an error or a sound record, never a crash. */
static void test_damage(void **state)
{
	struct job_record r = sample(), back;
	char *text = job_record_text(&r);
	size_t n = strlen(text), accepted = 0;

	(void)state;
	for (size_t i = 0; i < n; i++)
		assert_int_equal(job_record_parse(&back, text, i, NULL), -EBADMSG);
	for (size_t i = 0; i < n; i++) {
		char was = text[i];

		for (unsigned k = 0; k < 4; k++) {
			text[i] = "\0\"9{"[k];
			if (job_record_parse(&back, text, n, NULL) < 0)
				continue;
			accepted++;
			assert_true(str_is_name(back.model) && back.id > 0);
			assert_true(back.percent >= 0 && back.percent <= 100);
			job_record_deinit(&back);
		}
		text[i] = was;
	}
	assert_true(accepted > 0);      /* a digit, a letter of a sentence */
	free(text);
	job_record_deinit(&r);
}

static void test_log_is_bounded(void **state)
{
	struct job_record r = { .id = 1 };
	char line[400];

	(void)state;
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(line, sizeof(line), "%u %0300u", i, i);
		assert_int_equal(job_record_log(&r, line), 0);
		assert_true(r.log.n <= JOB_LOG_MAX);
	}
	assert_true(r.log.n > JOB_LOG_MAX / 4);
	/* whole lines, the last ones */
	assert_true(r.log.p[r.log.n - 1] == '\n');
	assert_int_equal(strncmp(r.log.p + r.log.n - 305, "999 0", 5), 0);
	assert_int_equal(strtoul(r.log.p, NULL, 10) + (unsigned)(r.log.n / 305), 1000);
	job_record_deinit(&r);
}

static void test_files(void **state)
{
	char dir[] = "/tmp/qllm-jobfile-XXXXXX", name[JOB_FILE_NAME_MAX];
	struct job_record r = sample(), back;
	struct err err = { 0 };
	char *text = job_record_text(&r);
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	job_file_name(name, r.id);
	assert_string_equal(name, "12.json");
	assert_int_equal(job_file_read(&back, fd, name, &err), -ENOENT);
	assert_int_equal(fd_replace_file(fd, name, text, strlen(text)), 0);
	assert_int_equal(job_file_read(&back, fd, name, NULL), 0);
	job_record_deinit(&back);
	/* under another's name; as a link; as what is no file */
	assert_int_equal(renameat(fd, name, fd, "13.json"), 0);
	assert_int_equal(job_file_read(&back, fd, "13.json", NULL), -EBADMSG);
	assert_int_equal(symlinkat("13.json", fd, name), 0);
	assert_int_equal(job_file_read(&back, fd, name, NULL), -ELOOP);
	assert_int_equal(job_file_read(&back, fd, ".", NULL), -EISDIR);
	unlinkat(fd, name, 0);
	unlinkat(fd, "13.json", 0);
	close(fd);
	assert_int_equal(rmdir(dir), 0);        /* no half-written file is left */
	free(text);
	job_record_deinit(&r);
}

static void test_every_allocation_may_fail(void **state)
{
	struct job_record r = sample(), back;
	char *text = job_record_text(&r);
	uint64_t n = 0;
	int result;

	(void)state;
	do {
		mem_fault_arm(n++, false);
		result = job_record_parse(&back, text, strlen(text), NULL);
		if (result == 0)
			job_record_deinit(&back);
		else
			assert_int_equal(result, -ENOMEM);
	} while (mem_fault_fired());
	assert_int_equal(result, 0);
	assert_true(n > 1);
	free(text);
	job_record_deinit(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_wrong_fields),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_log_is_bounded),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_every_allocation_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
