/* ctl-help - everything that help and the man page say about commands, read off the table. */
#include <string.h>
#include "base/roff.h"
#include "client/ctl.h"

enum { HELP_COLUMN = 30 };

static void line(FILE *f, const char *left, const char *right)
{
	if (strlen(left) < HELP_COLUMN - 2)
		fprintf(f, "  %-*s%s\n", HELP_COLUMN - 2, left, right);
	else
		fprintf(f, "  %s\n%*s%s\n", left, HELP_COLUMN, "", right);
}

static void option_line(FILE *f, const struct ctl_opt *o)
{
	char left[128];
	int n = 0;

	if (o->letter)
		n = snprintf(left, sizeof(left), "-%c, ", o->letter);
	snprintf(left + n, sizeof(left) - (size_t)n, "--%s%s%s", o->name, o->value ? " " : "",
	         o->value ? o->value : "");
	line(f, left, o->help);
}

static void options(FILE *f, const char *title, const struct ctl_opt *list)
{
	if (!list || !list->name)
		return;
	fprintf(f, "\n%s\n", title);
	for (const struct ctl_opt *o = list; o->name; o++)
		if (!o->later)
			option_line(f, o);
}

void ctl_help_all(FILE *f)
{
	char left[128];

	fprintf(f, "usage: qllmctl [options] COMMAND [arguments]\n\n"
	           "Run and manage local language models through qllmd.\n\n"
	           "  qllmctl import model.gguf --name m      bring a model file into the store\n"
	           "  qllmctl run m 'Why is the sky blue?'    one answer, streamed\n"
	           "  qllmctl chat m                          a conversation\n\nCommands\n");
	for (unsigned i = 0; ctl_cmds[i]; i++) {
		if (ctl_cmds[i]->flags & CTL_LATER)
			continue;
		snprintf(left, sizeof(left), "%s %s", ctl_cmds[i]->name, ctl_cmds[i]->args);
		line(f, left, ctl_cmds[i]->help);
	}
	options(f, "Options, before or after the command", ctl_globals);
	fprintf(f, "\nqllmctl help COMMAND says more about one command; see also qllmctl(1).\n");
}

void ctl_help_cmd(FILE *f, const struct ctl_cmd *cmd)
{
	fprintf(f, "usage: qllmctl %s%s%s%s\n\n%s.%s\n", cmd->name, *cmd->args ? " " : "",
	        cmd->args, cmd->opts ? " [options]" : "", cmd->help,
	        cmd->flags & CTL_LATER ? " Not built yet." : "");
	if (cmd->example)
		fprintf(f, "\n  %s\n", cmd->example);
	options(f, "Options", cmd->opts);
}

static void roff_options(FILE *f, const struct ctl_opt *list)
{
	for (const struct ctl_opt *o = list; o && o->name; o++) {
		if (o->later)
			continue;
		fputs(".TP\n", f);
		if (o->letter)
			fprintf(f, "\\fB\\-%c\\fR, ", o->letter);
		fputs("\\fB\\-\\-", f);
		roff_word(f, o->name);
		fputs("\\fR", f);
		if (o->value) {
			fputs(" \\fI", f);
			roff_word(f, o->value);
			fputs("\\fR", f);
		}
		fputc('\n', f);
		roff_lines(f, o->help, ".");
	}
}

void ctl_help_roff(FILE *f)
{
	fputs(".SH OPTIONS\nBefore or after the command.\n", f);
	roff_options(f, ctl_globals);
	fputs(".SH COMMANDS\n", f);
	for (unsigned i = 0; ctl_cmds[i]; i++) {
		const struct ctl_cmd *cmd = ctl_cmds[i];

		if (cmd->flags & CTL_LATER)
			continue;
		fputs(".SS \"", f);
		roff_word(f, cmd->name);
		if (*cmd->args) {
			fputc(' ', f);
			roff_word(f, cmd->args);
		}
		fputs("\"\n", f);
		roff_lines(f, cmd->help, ".");
		roff_options(f, cmd->opts);
	}
}
