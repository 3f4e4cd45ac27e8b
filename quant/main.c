/* qllm-worker - one job: for the daemon over a socket (serve), or by hand (a command). */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include "base/num.h"
#include "proto/hello.h"
#include "quant/cmd.h"

static const struct cmd *const cmds[] = { &cmd_verify, &cmd_pack, &cmd_export };

const struct cmd *cmd_of_kind(Qllm__WorkKind kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(cmds); i++)
		if (cmds[i]->kind == kind)
			return cmds[i];
	return NULL;
}

static void by_hand_progress(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                             uint64_t bytes_read)
{
	static unsigned last = 101;
	unsigned percent = total ? (unsigned)((double)done * 100 / (double)total) : 0;

	(void)user;
	(void)bytes_read;
	if (percent == last)
		return;
	last = percent;
	fprintf(stderr, "%s %u%%\n",
	        phase == QLLM__WORK_PHASE__WORK_SUMMING    ? "summing"
	        : phase == QLLM__WORK_PHASE__WORK_CHECKING ? "checking"
	        : phase == QLLM__WORK_PHASE__WORK_PACKING  ? "packing"
	        : phase == QLLM__WORK_PHASE__WORK_WRITING  ? "writing"
	                                                   : "opening",
	        percent);
}

static void by_hand_silent(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                           uint64_t bytes_read)
{
	(void)user;
	(void)phase;
	(void)done;
	(void)total;
	(void)bytes_read;
}

static void by_hand_line(void *user, const char *text)
{
	(void)user;
	(void)text;             /* the result says it all */
}

struct job_io cmd_io_by_hand(bool progress)
{
	static const atomic_bool never = false;

	return (struct job_io){ &never, progress ? by_hand_progress : by_hand_silent, by_hand_line,
		                NULL };
}

static void usage(FILE *f)
{
	fputs("qllm-worker COMMAND [ARGUMENT...]: one job on a model file, by hand.\n\n", f);
	for (size_t i = 0; i < ARRAY_SIZE(cmds); i++)
		fprintf(f, "  %s %s\n                    %s\n", cmds[i]->name, cmds[i]->args,
		        cmds[i]->help);
	fputs("  serve             take one job from qllmd over the socket that it or systemd "
	      "passes\n"
	      "  --version         print the version and exit\n"
	      "  --help            this text\n\n"
	      "Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage.\n",
	      f);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	prctl(PR_SET_NAME, "qllm-worker");
	if (strcmp(name, "--help") == 0) {
		usage(stdout);
		return EXIT_OK;
	}
	if (strcmp(name, "--version") == 0) {
		printf("qllm-worker %s\n", QLLM_VERSION);
		return EXIT_OK;
	}
	if (strcmp(name, "serve") == 0 && argc == 2)
		return serve();
	for (size_t i = 0; i < ARRAY_SIZE(cmds); i++)
		if (strcmp(cmds[i]->name, name) == 0)
			return cmds[i]->by_hand(argc - 1, argv + 1);
	fprintf(stderr, "qllm-worker: %s%s: qllm-worker --help lists the commands\n",
	        name[0] ? "unknown command " : "no command", name);
	return EXIT_USAGE;
}
