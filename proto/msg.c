/* msg - one row a message. A new message is a line here, an arm in qllm.proto, and its handler's
 * row in daemon/dispatch.c or its reader in client/.
 *
 * 1. Rows stand in the order of the arms' numbers (checked by the unit test), so the table reads
 *    like the .proto.
 * 2. Requests without bytes of users are small: their limit is small too. */
#include "proto/msg.h"
#include "base/num.h"
#include "proto/frame.h"

enum { SMALL = 1 << 10, MEDIUM = 8 << 10 };

#define ROW(BODY, type_, text, ...)                               \
	{                                                         \
		.body = QLLM__FRAME__BODY_##BODY, .name = text,   \
		.desc = &qllm__##type_##__descriptor, __VA_ARGS__ \
	}
#define ASK .dirs = MSG_TO_DAEMON
#define SAY .dirs = MSG_TO_CLIENT
#define END .dirs = MSG_TO_CLIENT, .final = true
#define WORK .dirs = MSG_FROM_WORKER

static const struct msg_info table[] = {
	ROW(WAKE, wake, "wake", .dirs = MSG_TO_DAEMON | MSG_TO_CLIENT, .size_max = 16),
	ROW(HELLO, hello, "hello", ASK, .size_max = SMALL),
	ROW(WELCOME, welcome, "welcome", END, .size_max = SMALL, .fds_min = 2, .fds_max = 2),
	ROW(OK, ok, "ok", END, .size_max = MEDIUM),
	ROW(ERROR, error, "error", END, .size_max = MEDIUM),
	ROW(PROGRESS, progress, "progress", SAY, .size_max = SMALL),
	ROW(CANCEL, cancel, "cancel", ASK, .size_max = SMALL),
	ROW(VERSION, version, "version", ASK, .size_max = SMALL),
	ROW(VERSION_REPLY, version_reply, "version-reply", END, .size_max = SMALL),
	ROW(STATUS, status, "status", ASK, .size_max = SMALL),
	ROW(STATUS_REPLY, status_reply, "status-reply", END, .size_max = FRAME_MAX),
	ROW(LIST, list, "list", ASK, .size_max = SMALL),
	ROW(LIST_REPLY, list_reply, "list-reply", END, .size_max = FRAME_MAX),
	ROW(IMPORT, import, "import", ASK, .size_max = MEDIUM, .perm = PERM_ANY, .fds_min = 1,
	    .fds_max = 1),
	ROW(REMOVE, remove, "remove", ASK, .size_max = SMALL, .perm = PERM_OWNER),
	ROW(SHOW, show, "show", ASK, .size_max = SMALL),
	ROW(VERIFY, verify, "verify", ASK, .size_max = SMALL),
	ROW(ESTIMATE, estimate, "estimate", ASK, .size_max = SMALL),
	ROW(ESTIMATE_REPLY, estimate_reply, "estimate-reply", END, .size_max = SMALL),
	ROW(LOAD, load, "load", ASK, .size_max = SMALL),
	ROW(LOAD_REPLY, load_reply, "load-reply", END, .size_max = SMALL),
	ROW(UNLOAD, unload, "unload", ASK, .size_max = SMALL, .perm = PERM_OWNER),
	ROW(PS, ps, "ps", ASK, .size_max = SMALL),
	ROW(PS_REPLY, ps_reply, "ps-reply", END, .size_max = FRAME_MAX),
	ROW(EXPORT, export, "export", ASK, .size_max = SMALL, .fds_min = 1, .fds_max = 1),
	ROW(TOKENIZE, tokenize, "tokenize", ASK, .size_max = FRAME_MAX, .fds_max = 1),
	ROW(TOKENS_REPLY, tokens_reply, "tokens-reply", END, .size_max = FRAME_MAX, .fds_max = 1),
	ROW(DETOKENIZE, detokenize, "detokenize", ASK, .size_max = FRAME_MAX, .fds_max = 1),
	ROW(TEXT_REPLY, text_reply, "text-reply", END, .size_max = FRAME_MAX, .fds_max = 1),
	ROW(TEMPLATE, template, "template", ASK, .size_max = FRAME_MAX, .fds_max = 2),
	ROW(GENERATE, generate, "generate", ASK, .size_max = FRAME_MAX, .fds_max = 2),
	ROW(DONE, done, "done", END, .size_max = SMALL),
	ROW(LOGITS, logits, "logits", ASK, .size_max = FRAME_MAX, .fds_max = 1),
	ROW(EVAL, eval, "eval", ASK, .size_max = FRAME_MAX, .fds_max = 1),
	ROW(EVAL_REPLY, eval_reply, "eval-reply", END, .size_max = SMALL),
	ROW(BENCH_READ, bench_read, "bench-read", ASK, .size_max = SMALL),
	ROW(BENCH_READ_REPLY, bench_read_reply, "bench-read-reply", END, .size_max = SMALL),
	ROW(JOB_LIST, job_list, "job-list", ASK, .size_max = SMALL),
	ROW(JOB_LIST_REPLY, job_list_reply, "job-list-reply", END, .size_max = FRAME_MAX),
	ROW(JOB_DO, job_do, "job-do", ASK, .size_max = SMALL),
	ROW(JOB_LOG, job_log, "job-log", ASK, .size_max = SMALL),
	ROW(CLIENTS, clients, "clients", ASK, .size_max = SMALL),
	ROW(KICK, kick, "kick", ASK, .size_max = SMALL),
	ROW(LIMIT, limit, "limit", ASK, .size_max = MEDIUM),
	ROW(CONFIG, config, "config", ASK, .size_max = SMALL),
	ROW(METRICS, metrics, "metrics", ASK, .size_max = SMALL),
	ROW(ACTIVITY, activity, "activity", ASK, .size_max = SMALL),
	ROW(MONITOR, monitor, "monitor", ASK, .size_max = SMALL),
	ROW(NOTICE, notice, "notice", SAY, .size_max = MEDIUM),
	ROW(WORK_JOB, work_job, "work-job", .dirs = MSG_TO_WORKER, .size_max = MEDIUM, .fds_min = 1,
	    .fds_max = 2),
	ROW(WORK_PROGRESS, work_progress, "work-progress", WORK, .size_max = SMALL),
	ROW(WORK_LINE, work_line, "work-line", WORK, .size_max = MEDIUM),
	ROW(WORK_DONE, work_done, "work-done", WORK, .size_max = MEDIUM),
	ROW(WORK_FAILED, work_failed, "work-failed", WORK, .size_max = MEDIUM),
};

const struct msg_info *msg_info(Qllm__Frame__BodyCase body)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].body == body)
			return &table[i];
	return NULL;
}

const struct msg_info *msg_at(unsigned i)
{
	return i < ARRAY_SIZE(table) ? &table[i] : NULL;
}
