/* jobfile - a job's record, in memory and as STATE/jobs/<id>.json.
 *
 * The file is replaced as a whole and synced, so that it is the old one or the new one after any
 * crash. Threads: any, one at a time on a record. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "base/str.h"
#include "base/sum.h"

enum job_state {
	JOB_QUEUED,
	JOB_RUNNING,
	JOB_PAUSED,
	JOB_FAILED,
	JOB_DONE,
	JOB_CANCELLED,
	JOB_STATES,
};
enum job_kind { JOB_VERIFY, JOB_PACK, JOB_EXPORT, JOB_KINDS };
enum {
	JOB_TEXT_MAX = ERR_TEXT_MAX,
	JOB_LOG_MAX = 64 << 10,         /* bytes of log lines: the oldest go first */
	JOB_FILE_MAX = 512 << 10,       /* of the file: a log may double when it is escaped */
	JOB_FILE_NAME_MAX = 32,
};
struct job_record {
	uint64_t id;                    /* from 1; rises */
	enum job_kind kind;
	enum job_state state;
	uid_t uid;                      /* who asked for it */
	char model[68];                 /* a name (str_is_name), and whose it is */
	uid_t model_uid;
	bool model_shared;
	unsigned failures;              /* ends of its worker without a result, since resume */
	uint64_t created, started, ended;       /* seconds since 1970, 0 = not yet */
	double percent;
	uint64_t bytes_read, bytes_written;
	char error[JOB_TEXT_MAX], result[JOB_TEXT_MAX], checksum[SUM_TEXT_MAX];
	struct sbuf log;                /* lines, each with its newline */
};
const char *job_state_name(enum job_state s);           /* "queued" */
const char *job_kind_name(enum job_kind k);             /* "verify" */
static inline bool job_state_is_final(enum job_state s)
{
	return s == JOB_FAILED || s == JOB_DONE || s == JOB_CANCELLED;
}

/* The file's text; free() it. NULL: no memory. */
char *job_record_text(const struct job_record *r);
/* From text[0,n). -EBADMSG: no job of this program; err says what is wrong. */
int job_record_parse(struct job_record *ret, const char *text, size_t n, struct err *err);
void job_record_deinit(struct job_record *r);
/* Append a line (bytes of others are escaped), forgetting the oldest half when full. -ENOMEM. */
int job_record_log(struct job_record *r, const char *line);

void job_file_name(char ret[JOB_FILE_NAME_MAX], uint64_t id);
/* Read file `name` of directory dir. -EBADMSG also when the name does not fit the id within. */
int job_file_read(struct job_record *ret, int dir, const char *name, struct err *err);
