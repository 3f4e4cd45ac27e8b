/* jobfile - the bytes are a job's record as a crash, a bad disk or an editor left it, in memory and
 * as the file of job 7. What is accepted has only values that the daemon may rely on, is the same
 * after being written and read again, and takes log lines without end. An allocation that fails
 * is told. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "base/fd.h"
#include "base/str.h"
#include "daemon/jobfile.h"
#include "tests/fuzz/fuzz.h"

const char fuzz_name[] = "jobfile";
enum { FILE_ID = 7, LINES = 300 };

static char dir_path[] = "/tmp/qllm-fuzz-jobfile-XXXXXX";
static char file_name[JOB_FILE_NAME_MAX];
static int dir = -1, file = -1;

static void remove_files(void)
{
	unlinkat(dir, file_name, 0);
	rmdir(dir_path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	FUZZ_CHECK(mkdtemp(dir_path), "%s", strerror(errno));
	dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	job_file_name(file_name, FILE_ID);
	file = openat(dir, file_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FUZZ_CHECK(file >= 0, "%s", strerror(errno));
	atexit(remove_files);
	return 0;
}

/* The same bytes as a file: accepted when they are a record, and of that name's job. */
static void check_file(const uint8_t *p, size_t n, bool good, uint64_t id)
{
	struct job_record r;
	struct err err = { 0 };
	int code;

	FUZZ_CHECK(ftruncate(file, 0) == 0 && lseek(file, 0, SEEK_SET) == 0 &&
	                   fd_write_all(file, p, n) == 0, "%s", strerror(errno));
	code = job_file_read(&r, dir, file_name, &err);
	FUZZ_CHECK((code == 0) == (good && id == FILE_ID), "%d %s", code, err.text);
	FUZZ_CHECK(code == 0 || err.text[0], "no sentence for %d", code);
	if (code == 0)
		job_record_deinit(&r);
}

/* Lines without end: the newest are there, the oldest give way, only whole lines. */
static void fill_log(struct job_record *r)
{
	for (unsigned i = 0; i < LINES; i++) {
		const size_t len = strlen(r->error);

		FUZZ_CHECK(job_record_log(r, r->error) == 0, "log");
		FUZZ_CHECK(r->log.n <= JOB_LOG_MAX && r->log.n > len, "%zu", r->log.n);
		FUZZ_CHECK(r->log.p[r->log.n] == 0 && r->log.p[r->log.n - 1] == '\n', "no line");
	}
}

/* One of the allocations fails: nothing is kept of the record. */
static void without_memory(const uint8_t *p, size_t n)
{
	const int64_t blocks = mem_live_blocks();
	struct job_record r;
	struct err err = { 0 };
	int code;

	mem_fault_arm(fuzz_mix(p, n) % 4, false);
	code = job_file_read(&r, dir, file_name, &err);
	if (mem_fault_fired())
		FUZZ_CHECK(code == -ENOMEM && err.text[0], "%d %s", code, err.text);
	if (code == 0)
		job_record_deinit(&r);
	FUZZ_CHECK(mem_live_blocks() == blocks, "blocks are left");
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct job_record r, again;
	struct err err = { 0 };
	char *text, *second;
	int code = job_record_parse(&r, (const char *)p, n, &err);

	FUZZ_CHECK(code <= 0, "%d", code);
	if (code < 0) {
		FUZZ_CHECK(err.text[0], "no sentence for %d", code);
		check_file(p, n, false, 0);
		return 0;
	}
	check_file(p, n, true, r.id);
	without_memory(p, n);
	FUZZ_CHECK(r.id > 0 && r.id <= INT64_MAX, "%llu", (unsigned long long)r.id);
	FUZZ_CHECK(r.kind < JOB_KINDS && r.state < JOB_STATES, "%d %d", r.kind, r.state);
	FUZZ_CHECK(str_is_name(r.model), "%s", r.model);
	FUZZ_CHECK(r.percent >= 0 && r.percent <= 100, "%g", r.percent);
	FUZZ_CHECK(r.log.n <= JOB_LOG_MAX, "%zu", r.log.n);
	FUZZ_CHECK(job_record_log(&r, r.error) == 0 && r.log.n <= JOB_LOG_MAX, "%zu", r.log.n);
	text = job_record_text(&r);
	FUZZ_CHECK(text, "an accepted record cannot be written");
	FUZZ_CHECK(job_record_parse(&again, text, strlen(text), &err) == 0, "%s", err.text);
	second = job_record_text(&again);
	FUZZ_CHECK(second && strcmp(text, second) == 0, "%s became %s", text, second);
	free(text);
	free(second);
	FUZZ_CHECK(job_state_name(r.state)[0] && job_kind_name(r.kind)[0], "no name");
	if (fuzz_mix(p, n) % 8 == 0)    /* takes longer than all else together */
		fill_log(&r);
	job_record_deinit(&r);
	job_record_deinit(&again);
	return 0;
}
