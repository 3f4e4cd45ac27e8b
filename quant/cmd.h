/* cmd - kinds of work: one row each, by hand and for the daemon alike.
 *
 * by_hand() gets its own arguments (argv[0] is the name of the command) and returns an exit code;
 * it has told stderr why when that is not 0. serve() gets the job's frame, whose number of
 * descriptors was checked, and trusts nothing else of it; it opens no path. Both look at
 * io->cancel at least every few megabytes and give up with -ECANCELED. */
#pragma once
#include <stdatomic.h>
#include "base/err.h"
#include "base/sum.h"
#include "proto/frame.h"

struct job_io {
	const atomic_bool *cancel;
	/* of the whole job, in bytes; may be called as often as is handy */
	void (*progress)(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
	                 uint64_t bytes_read);
	void (*line)(void *user, const char *text);     /* for the job's log */
	void *user;
};
struct job_result {
	char text[ERR_TEXT_MAX];                        /* one sentence */
	char checksum[SUM_TEXT_MAX];                    /* "" where there is none */
	uint64_t bytes_read, bytes_written;
};
struct cmd {
	const char *name, *args, *help;
	Qllm__WorkKind kind;
	unsigned n_fds;                 /* that its job comes with: the model, and a target */
	int (*by_hand)(int argc, char **argv);
	int (*serve)(const struct frame_in *in, const struct job_io *io, struct job_result *ret,
	             struct err *err);
};
extern const struct cmd cmd_verify, cmd_pack, cmd_export;
const struct cmd *cmd_of_kind(Qllm__WorkKind kind);     /* NULL: not built */

/* io of a command by hand: lines, and with `progress` also numbers, go to stderr. */
struct job_io cmd_io_by_hand(bool progress);
/* serve.c: one job over the socket that systemd or the daemon gave us; an exit code. */
int serve(void);
