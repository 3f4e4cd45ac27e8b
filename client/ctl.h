/* ctl - what the files of qllmctl share: the command table, parsed arguments, output, waiting.
 *
 * A command is one row (struct ctl_cmd). The parser, `help`, --help and the command list of
 * qllmctl(1) read the rows, so nothing about a command is said twice. A row's run() returns an exit
 * code (enum exit_class); it has told stderr why when that is not 0. Data goes to stdout,
 * everything else to stderr. Threads: one. */
#pragma once
#include <jansson.h>
#include <stdio.h>
#include "base/err.h"
#include "base/str.h"
#include "base/vec.h"
#include "client/qllm.h"
#include "proto/hello.h"

enum ctl_kind {                         /* what the parser accepts as a value */
	CTL_FLAG,                       /* none */
	CTL_TEXT,
	CTL_COUNT,                      /* an unsigned integer */
	CTL_NUMBER,                     /* a finite number, minus sign allowed */
	CTL_CHOICE,                     /* one of the words of `value`, separated by | */
};
struct ctl_opt {                        /* lists end with a row without name */
	const char *name;               /* long name without dashes */
	char letter;                    /* short form, or 0 */
	enum ctl_kind kind;
	const char *value;              /* what help calls the value; NULL for flags */
	const char *help;
	bool later;                     /* known, not built yet: exit 2 */
};
enum ctl_flags {
	CTL_CONNECT = 1 << 0,           /* run() gets a connected ctl->q */
	/* receives rows of logits: the connection needs a larger ring */
	CTL_ROWS = 1 << 2,
	CTL_LATER = 1 << 1,             /* known, not built yet: exit 2 whatever the arguments */
};
struct ctl;
struct ctl_cmd {
	const char *name, *args, *help;
	unsigned min_args, max_args, flags;
	const struct ctl_opt *opts;     /* NULL: none of its own */
	int (*run)(struct ctl *c);
	const char *example;            /* one command line for help, or NULL */
};
extern const struct ctl_opt ctl_globals[];
extern const struct ctl_cmd ctl_cmd_status, ctl_cmd_is_ready, ctl_cmd_is_loaded, ctl_cmd_version,
	ctl_cmd_help, ctl_cmd_ls, ctl_cmd_import, ctl_cmd_rm, ctl_cmd_show, ctl_cmd_verify,
	ctl_cmd_estimate, ctl_cmd_load, ctl_cmd_unload, ctl_cmd_ps, ctl_cmd_run, ctl_cmd_chat,
	ctl_cmd_tokenize, ctl_cmd_detokenize, ctl_cmd_template, ctl_cmd_logits, ctl_cmd_eval,
	ctl_cmd_bench, ctl_cmd_doctor, ctl_cmd_config, ctl_cmd_top, ctl_cmd_monitor,
	ctl_cmd_metrics, ctl_cmd_completion, ctl_cmd_client, ctl_cmd_export;
extern const struct ctl_cmd ctl_cmd_job;                /* ctl-jobs.c, as is verify */
extern const struct ctl_cmd *const ctl_cmds[];          /* in the order of help; ends with NULL */

enum ctl_when { CTL_AUTO, CTL_ALWAYS, CTL_NEVER };
enum ctl_progress { CTL_PROGRESS_NONE, CTL_PROGRESS_BAR, CTL_PROGRESS_PLAIN, CTL_PROGRESS_JSON };
struct ctl_given {
	const struct ctl_opt *opt;
	const char *value;              /* NULL for flags */
};
struct ctl {
	const struct ctl_cmd *cmd;
	VEC(struct ctl_given) given;    /* options as they came, globals included */
	VEC(char *) args;               /* positional, borrowed from argv */
	bool json, quiet, legend, pager, help;
	bool tty_out, tty_err, color_out, color_err;
	enum ctl_progress progress;
	double timeout;                 /* seconds, 0 = none */
	double deadline;                /* ctl_now() scale, 0 = none */
	struct qllm *q;
	bool progress_open;             /* a bar stands on the terminal's last line */
	double progress_last;
	pid_t pager_pid;
};

/* ctl-args.c. Errors: a sentence in err and EXIT_USAGE. */
int ctl_parse(struct ctl *c, int argc, char **argv, struct err *err);
void ctl_deinit(struct ctl *c);
const struct ctl_cmd *ctl_find(const char *name);
const char *ctl_nearest_cmd(const char *name); /* for "did you mean", NULL when nothing is near */
bool ctl_has(const struct ctl *c, const char *opt);
const char *ctl_text(const struct ctl *c, const char *opt, const char *otherwise);
uint64_t ctl_count(const struct ctl *c, const char *opt, uint64_t otherwise);
double ctl_number(const struct ctl *c, const char *opt, double otherwise);
const char *ctl_arg(const struct ctl *c, unsigned i);   /* NULL when absent */

/* ctl-help.c */
void ctl_help_all(FILE *f);
void ctl_help_cmd(FILE *f, const struct ctl_cmd *cmd);
void ctl_help_roff(FILE *f);                            /* the COMMANDS section of qllmctl(1) */

/* ctl-io.c: signals, waiting, input. */
double ctl_now(void);                                   /* monotonic seconds */
int ctl_signals_init(void);
bool ctl_interrupted(void);
/* Forget a ^C: chat goes on after it. */
void ctl_interrupt_clear(void);
/* Dispatch until *done. ^C and the deadline cancel `request` (when not 0) and wait shortly for its
 * end. Returns 0, or the exit code EXIT_TIMEOUT, EXIT_INTERRUPTED, EXIT_UNREACHABLE with the reason
 * told. */
int ctl_wait(struct ctl *c, const bool *done, uint64_t request);
/* Let time pass: EXIT_OK, or what ctl_wait returns. */
int ctl_sleep(struct ctl *c, double seconds);
/* The same as ctl_wait for n connections of the command's own; nothing is cancelled: the command
 * ends and closes them. */
enum { CTL_CLIENTS_MAX = 64 };
int ctl_wait_many(struct ctl *c, struct qllm **q, unsigned n, const bool *done);
/* The argument itself, or all of stdin for "-" and, where stdin is no terminal, for NULL. mem_free
 * *ret. An exit code. */
int ctl_input(struct ctl *c, const char *arg, const char *what, char **ret, size_t *ret_n);
int ctl_read_path(struct ctl *c, const char *path, char **ret,
                  size_t *ret_n); /* a whole file, or "-" */

/* ctl-call.c: a request in flight. */
int ctl_fail(struct ctl *c, int exit_code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* silent with -q */
void ctl_note(struct ctl *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
int ctl_fail_q(struct ctl *c);          /* tell qllm_error_text; returns its class */
struct ctl_reply {                      /* user data of ctl_on_event; zeroed but for c */
	struct ctl *c;
	bool done;
	int code;
	char *data;                     /* NUL-terminated copy of event->data, or NULL */
	size_t n_data;
};
void ctl_reply_deinit(struct ctl_reply *r);
/* Shows progress, keeps the end. An event function that wants more calls this one too. */
void ctl_on_event(void *user, const struct qllm_event *ev);
/* Wait for the end of the request that a qllm_ call has returned; tells what went wrong. An exit
 * code. */
int ctl_finish(struct ctl *c, int64_t id, struct ctl_reply *r);
/* Answers as JSON, *ret to be json_decref'ed on EXIT_OK; failures are told. */
int ctl_ask_status(struct ctl *c, json_t **ret);        /* as `status --json` */
int ctl_ask_ps(struct ctl *c, json_t **ret);
void ctl_print_ps(struct ctl *c, const json_t *rows);
/* ask: qllm_config or qllm_activity, whose data is JSON */
typedef int64_t (*ctl_ask_fn)(struct qllm *q, qllm_event_fn fn, void *user);
int ctl_ask_json(struct ctl *c, ctl_ask_fn ask, json_t **ret);
/* {"key":"value"} with --json, the bare value otherwise; nothing with -q. */
int ctl_say(struct ctl *c, const char *key, const char *value);

/* out.c */
/* steals j; NULL = no memory. An exit code. */
int out_json(struct ctl *c, json_t *j);
/* JSON string; bytes that are no UTF-8 become U+FFFD */
json_t *out_text(const void *p, size_t n);
/* human on a terminal, plain digits in a pipe */
void out_bytes(const struct ctl *c, char out[32], uint64_t n);
/* from here on stdout goes through the pager, on a terminal */
void out_pager(struct ctl *c);
/* flush; EXIT_FAILED when stdout could not take all */
int out_close(struct ctl *c);
void out_progress(struct ctl *c, const char *what, uint64_t done, uint64_t total);
void out_progress_end(struct ctl *c);

enum { OUT_COLUMNS_MAX = 16 };
struct out_table {                      /* aligned with spaces; no column is cut */
	const char *head[OUT_COLUMNS_MAX];      /* a name that begins with > is right-aligned */
	unsigned n_columns;
	VEC(char *) cells;
};
int out_row(struct out_table *t, ...);  /* n_columns strings, copied */
void out_table_print(struct ctl *c, struct out_table *t);       /* and frees */

/* ctl-ids.c: token ids as people and JSON write them: [1,2], {"tokens":[1,2]}, "1 2 3", "1,2". VEC
 * data is mem_free'd. */
struct ctl_ids {
	int32_t *data;
	size_t n, cap;
};
/* appends; -EINVAL */
int ctl_ids_parse(struct ctl_ids *ids, const char *p, size_t n, struct err *err);

/* npy.c */
/* Header of a C-order little-endian float32 array, 64-byte aligned; returns its length, at most
 * NPY_HEAD_MAX. */
enum { NPY_HEAD_MAX = 192 };
size_t npy_head(char out[NPY_HEAD_MAX], uint64_t rows, uint64_t cols);
