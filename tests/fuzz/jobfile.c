/* jobfile - the bytes are a job's record as a crash, a bad disk or an editor left it. What is
 * accepted has only values that the daemon may rely on, and is the same after being written and
 * read again. */
#include "base/str.h"
#include "daemon/jobfile.h"
#include "tests/fuzz/fuzz.h"

const char fuzz_name[] = "jobfile";

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct job_record r, again;
	struct err err = { 0 };
	char *text, *second;
	int code = job_record_parse(&r, (const char *)p, n, &err);

	FUZZ_CHECK(code <= 0, "%d", code);
	if (code < 0) {
		FUZZ_CHECK(err.text[0], "no sentence for %d", code);
		return 0;
	}
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
	job_record_deinit(&r);
	job_record_deinit(&again);
	return 0;
}
