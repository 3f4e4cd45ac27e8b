/* ctl-completion - scripts for bash, zsh and fish, written from the command table.
 *
 * What a word may be is read off its name in the table: M is a model, J a job, FILE, PATH and their
 * kin a file, COMMAND a command, lower-case words themselves. Models and jobs are asked of the
 * daemon when the user presses the key, with a short limit; no daemon, no words. */
#include "base/num.h"
#include "client/ctl.h"
#include <ctype.h>
#include <string.h>

enum place { NOTHING, WORDS, MODELS, JOBS, FILES, COMMANDS };

static bool among(const char *word, size_t n, const char *const *list)
{
	for (; *list; list++)
		if (strlen(*list) == n && memcmp(*list, word, n) == 0)
			return true;
	return false;
}

/* One name: of a positional argument or of an option's value. */
static enum place place_of(const char *word, size_t n)
{
	static const char *const models[] = { "M", "M2", "M3", "MODEL", NULL };
	static const char *const jobs[] = { "J", "JOB", NULL };
	static const char *const files[] = { "FILE", "PATH",  "DIR", "SRC",    "DST",
					     "F",    "F.npy", "OUT", "A.gguf", NULL };

	if (n > 3 && memcmp(word + n - 3, "...", 3) == 0)
		n -= 3;
	if (among(word, n, models))
		return MODELS;
	if (among(word, n, jobs))
		return JOBS;
	if (among(word, n, files))
		return FILES;
	if (among(word, n, (const char *const[]){ "COMMAND", NULL }))
		return COMMANDS;
	return n > 0 && islower((unsigned char)word[0]) ? WORDS : NOTHING;
}

/* Alternatives are separated by |; the first that can be completed counts. */
static enum place place_of_all(const char *p, size_t n)
{
	while (n > 0) {
		size_t len = strcspn(p, "|");
		enum place place;

		len = MIN(len, n);
		place = place_of(p, len);
		if (place != NOTHING)
			return place;
		len += len < n;
		p += len;
		n -= len;
	}
	return NOTHING;
}

/* Positional argument i of a command: its part of .args without brackets. The last one repeats
 * where it says "...". */
static enum place positional(const struct ctl_cmd *cmd, unsigned i, const char **ret, size_t *ret_n)
{
	const char *p = cmd->args;

	for (;;) {
		size_t n;

		p += strspn(p, " [");
		n = strcspn(p, " ]");
		if (n == 0)
			return NOTHING;
		if (i-- == 0) {
			enum place place = place_of_all(p, n);

			/* "ls|show J|wait J": words stand at the first place, wherever written */
			*ret = place == WORDS ? cmd->args : p;
			*ret_n = place == WORDS ? strlen(cmd->args) : n;
			return place;
		}
		p += n;
		p += strspn(p, "]");
	}
}

/* The lower-case words of p[0,n), between bars, blanks and brackets. */
static void put_words(FILE *f, const char *p, size_t n)
{
	const char *between = "", *end = p + n;

	while (p < end) {
		size_t len = 0;

		while (p + len < end && !strchr("| []", p[len]))
			len++;
		if (len > 0 && islower((unsigned char)p[0])) {
			fprintf(f, "%s%.*s", between, (int)len, p);
			between = " ";
		}
		p += len + 1;
	}
}

/* --- bash and zsh: one skeleton, two ways to offer words -------------------------------------- */

static void put_place(FILE *f, bool zsh, enum place place, const char *words, size_t n)
{
	static const char *const bash_place[] = {
		":", NULL, "_qllmctl_models", "_qllmctl_jobs", "_qllmctl_files", "_qllmctl_commands"
	};
	static const char *const zsh_place[] = {
		":", NULL, "_qllmctl_models", "_qllmctl_jobs", "_files", "_qllmctl_commands"
	};

	if (place != WORDS) {
		fputs(zsh ? zsh_place[place] : bash_place[place], f);
		return;
	}
	fputs(zsh ? "compadd -- " : "_qllmctl_words '", f);
	put_words(f, words, n);
	fputs(zsh ? "" : "'", f);
}

/* Every list of options there is: the globals with NULL, then each command's own. */
static const struct ctl_opt *list_at(unsigned i, const struct ctl_cmd **ret)
{
	*ret = i == 0 ? NULL : ctl_cmds[i - 1];
	return i == 0 ? ctl_globals : ctl_cmds[i - 1]->opts;
}

static unsigned n_lists(void)
{
	unsigned n = 0;

	while (ctl_cmds[n])
		n++;
	return n + 1;
}

static bool shown(const struct ctl_cmd *cmd)
{
	return !cmd || !(cmd->flags & CTL_LATER);
}

/* "*:--socket|run:--temp|run:-t": a pattern of command and option. */
static void put_pattern(FILE *f, const struct ctl_cmd *cmd, const struct ctl_opt *o)
{
	fprintf(f, "%s:--%s", cmd ? cmd->name : "*", o->name);
	if (o->letter)
		fprintf(f, "|%s:-%c", cmd ? cmd->name : "*", o->letter);
}

static void put_values(FILE *f, bool zsh)
{
	const struct ctl_cmd *cmd;

	for (unsigned i = 0; i < n_lists(); i++) {
		const struct ctl_opt *list = list_at(i, &cmd);

		for (const struct ctl_opt *o = list; o && o->name && shown(cmd); o++) {
			enum place place = NOTHING;

			if (o->kind == CTL_FLAG || o->later)
				continue;
			if (o->kind == CTL_CHOICE)
				place = WORDS;
			else if (o->kind == CTL_TEXT)
				place = place_of_all(o->value, strlen(o->value));
			fputc('\t', f);
			put_pattern(f, cmd, o);
			fputs(") ", f);
			put_place(f, zsh, place, o->value, strlen(o->value));
			fputs("; return ;;\n", f);
		}
	}
}

/* Options that take the next word, so that it is not counted as an argument. */
static void put_takers(FILE *f)
{
	const struct ctl_cmd *cmd;
	const char *between = "";

	for (unsigned i = 0; i < n_lists(); i++) {
		const struct ctl_opt *list = list_at(i, &cmd);

		for (const struct ctl_opt *o = list; o && o->name && shown(cmd); o++) {
			if (o->kind == CTL_FLAG || o->later)
				continue;
			fputs(between, f);
			put_pattern(f, cmd, o);
			between = "|";
		}
	}
}

static void put_arguments(FILE *f, bool zsh)
{
	for (unsigned i = 0; ctl_cmds[i]; i++) {
		const struct ctl_cmd *cmd = ctl_cmds[i];
		enum place place;
		const char *p;
		size_t n;

		for (unsigned k = 0; k < 3 && shown(cmd); k++) {
			place = positional(cmd, k, &p, &n);
			if (place == NOTHING)
				continue;
			fprintf(f, "\t%s:%u) ", cmd->name, k);
			put_place(f, zsh, place, p, n);
			fputs(" ;;\n", f);
		}
	}
}

static void put_option_names(FILE *f, const struct ctl_opt *list)
{
	for (const struct ctl_opt *o = list; o && o->name; o++)
		if (!o->later)
			fprintf(f, " --%s", o->name);
}

static void put_options(FILE *f)
{
	for (unsigned i = 0; ctl_cmds[i]; i++) {
		if (!shown(ctl_cmds[i]) || !ctl_cmds[i]->opts)
			continue;
		fprintf(f, "\t%s) own='", ctl_cmds[i]->name);
		put_option_names(f, ctl_cmds[i]->opts);
		fputs("' ;;\n", f);
	}
}

static void put_commands(FILE *f)
{
	for (unsigned i = 0; ctl_cmds[i]; i++)
		if (shown(ctl_cmds[i]))
			fprintf(f, " %s", ctl_cmds[i]->name);
}

/* The part that both shells read alike; `first` is the index of the first word after qllmctl. */
static void put_scan(FILE *f, const char *words, const char *first, const char *end)
{
	fprintf(f,
		"\tfor ((i = %s; i < %s; i++)); do\n"
		"\t\tword=${%s[i]}\n"
		"\t\tcase \"${cmd}:${word}\" in\n"
		"\t\t*:--socket) socket=${%s[i+1]}; ((i++)) ;;\n\t\t",
		first, end, words, words);
	put_takers(f);
	/* bash takes "--kv=f16" for three words */
	fprintf(f, ") ((i++)); [[ ${%s[i]} != = ]] || ((i++)) ;;\n", words);
	fputs("\t\t*:-?*) ;;\n"
	      "\t\t*) if [[ -z $cmd ]]; then cmd=$word; else ((n++)); fi ;;\n"
	      "\t\tesac\n"
	      "\tdone\n",
	      f);
}

static void put_bash(FILE *f)
{
	fputs("# bash completion of qllmctl, written by `qllmctl completion bash`.\n"
	      "_qllmctl_ask() { qllmctl ${socket:+--socket \"$socket\"} --timeout 2 \"$@\" "
	      "2>/dev/null; }\n"
	      "_qllmctl_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$cur\")); }\n"
	      "_qllmctl_models() { _qllmctl_words \"$(_qllmctl_ask ls -q)\"; }\n"
	      "_qllmctl_jobs() { _qllmctl_words \"$(_qllmctl_ask job ls -q)\"; }\n"
	      "_qllmctl_files() {\n"
	      "\tlocal IFS=$'\\n'\n"
	      "\tcompopt -o filenames 2>/dev/null\n"
	      "\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n"
	      "}\n"
	      "_qllmctl_commands() {\n\t_qllmctl_words '",
	      f);
	put_commands(f);
	fputs("'\n}\n"
	      "_qllmctl() {\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
	      "\tlocal cmd= socket= own= word i n=0\n"
	      "\tCOMPREPLY=()\n"
	      "\t[[ $cur != = ]] || cur=\n"
	      "\t[[ $prev != = ]] || prev=${COMP_WORDS[COMP_CWORD-2]}\n",
	      f);
	put_scan(f, "COMP_WORDS", "1", "COMP_CWORD");
	fputs("\tcase \"${cmd}:${prev}\" in\n", f);
	put_values(f, false);
	fputs("\tesac\n"
	      "\tif [[ $cur == -* ]]; then\n"
	      "\t\tcase $cmd in\n",
	      f);
	put_options(f);
	fputs("\t\tesac\n"
	      "\t\t_qllmctl_words \"$own",
	      f);
	put_option_names(f, ctl_globals);
	fputs("\"\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\t[[ -n $cmd ]] || { _qllmctl_commands; return; }\n"
	      "\tcase \"${cmd}:${n}\" in\n",
	      f);
	put_arguments(f, false);
	fputs("\tesac\n"
	      "}\n"
	      "complete -F _qllmctl qllmctl\n",
	      f);
}

static void put_zsh(FILE *f)
{
	fputs("#compdef qllmctl\n"
	      "# zsh completion of qllmctl, written by `qllmctl completion zsh`.\n"
	      "_qllmctl_ask() { qllmctl ${socket:+--socket} ${socket:+\"$socket\"} --timeout 2 "
	      "\"$@\" 2>/dev/null }\n"
	      "_qllmctl_models() { compadd -- ${(f)\"$(_qllmctl_ask ls -q)\"} }\n"
	      "_qllmctl_jobs() { compadd -- ${(f)\"$(_qllmctl_ask job ls -q)\"} }\n"
	      "_qllmctl_commands() {\n\tcompadd --",
	      f);
	put_commands(f);
	fputs("\n}\n"
	      "_qllmctl() {\n"
	      "\tlocal prev=${words[CURRENT-1]} cmd= socket= own= word i n=0\n"
	      "\tif [[ $PREFIX == --*=* ]]; then\n"
	      "\t\tprev=${PREFIX%%=*}\n"
	      "\t\tcompset -P '*='\n"
	      "\tfi\n",
	      f);
	put_scan(f, "words", "2", "CURRENT");
	fputs("\tcase \"${cmd}:${prev}\" in\n", f);
	put_values(f, true);
	fputs("\tesac\n"
	      "\tif [[ $PREFIX == -* ]]; then\n"
	      "\t\tcase $cmd in\n",
	      f);
	put_options(f);
	fputs("\t\tesac\n"
	      "\t\tcompadd -- ${=own}",
	      f);
	put_option_names(f, ctl_globals);
	fputs("\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\t[[ -n $cmd ]] || { _qllmctl_commands; return }\n"
	      "\tcase \"${cmd}:${n}\" in\n",
	      f);
	put_arguments(f, true);
	fputs("\tesac\n"
	      "}\n"
	      "if [[ ${funcstack[1]} == _qllmctl ]]; then _qllmctl \"$@\"; else compdef _qllmctl "
	      "qllmctl; fi\n",
	      f);
}

/* --- fish: a line a word ---------------------------------------------------------------------- */

static void fish_quoted(FILE *f, const char *s)
{
	fputc('\'', f);
	for (; *s; s++) {
		if (*s == '\'' || *s == '\\')
			fputc('\\', f);
		fputc(*s, f);
	}
	fputc('\'', f);
}

static void fish_place(FILE *f, enum place place, const char *words, size_t n)
{
	switch (place) {
	case WORDS:
		fputs(" -a '", f);
		put_words(f, words, n);
		fputc('\'', f);
		break;
	case MODELS:
		fputs(" -a '(qllmctl --timeout 2 ls -q 2>/dev/null)'", f);
		break;
	case JOBS:
		fputs(" -a '(qllmctl --timeout 2 job ls -q 2>/dev/null)'", f);
		break;
	case FILES:
		fputs(" -F", f);
		break;
	case COMMANDS:
		fputs(" -a '", f);
		put_commands(f);
		fputc('\'', f);
		break;
	case NOTHING:
		break;
	}
}

static void fish_options(FILE *f, const struct ctl_cmd *cmd, const struct ctl_opt *list)
{
	for (const struct ctl_opt *o = list; o && o->name; o++) {
		enum place place = NOTHING;

		if (o->later)
			continue;
		fputs("complete -c qllmctl", f);
		if (cmd)
			fprintf(f, " -n '__fish_seen_subcommand_from %s'", cmd->name);
		fprintf(f, " -l %s", o->name);
		if (o->letter)
			fprintf(f, " -s %c", o->letter);
		if (o->kind == CTL_CHOICE)
			place = WORDS;
		else if (o->kind == CTL_TEXT)
			place = place_of_all(o->value, strlen(o->value));
		if (o->kind != CTL_FLAG)
			fputs(place == FILES ? " -r" : " -x", f);
		fish_place(f, place, o->value, o->value ? strlen(o->value) : 0);
		fputs(" -d ", f);
		fish_quoted(f, o->help);
		fputc('\n', f);
	}
}

static void put_fish(FILE *f)
{
	fputs("# fish completion of qllmctl, written by `qllmctl completion fish`.\n"
	      "complete -c qllmctl -f\n",
	      f);
	fish_options(f, NULL, ctl_globals);
	for (unsigned i = 0; ctl_cmds[i]; i++) {
		const struct ctl_cmd *cmd = ctl_cmds[i];
		const char *p;
		size_t n;

		if (!shown(cmd))
			continue;
		fprintf(f, "complete -c qllmctl -n __fish_use_subcommand -a %s -d ", cmd->name);
		fish_quoted(f, cmd->help);
		fputc('\n', f);
		fish_options(f, cmd, cmd->opts);
		for (unsigned k = 0; k < 3; k++) {
			enum place place = positional(cmd, k, &p, &n);

			if (place == NOTHING)
				continue;
			fprintf(f, "complete -c qllmctl -n '__fish_seen_subcommand_from %s'",
				cmd->name);
			fish_place(f, place, p, n);
			fputc('\n', f);
		}
	}
}

static int run_completion(struct ctl *c)
{
	static const struct {
		const char *name;
		void (*put)(FILE *f);
	} shells[] = { { "bash", put_bash }, { "zsh", put_zsh }, { "fish", put_fish } };

	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		if (strcmp(ctl_arg(c, 0), shells[i].name) != 0)
			continue;
		shells[i].put(stdout);
		return EXIT_OK;
	}
	return ctl_fail(c, EXIT_USAGE, "completion is there for bash, zsh and fish, not \"%.60s\"",
			ctl_arg(c, 0));
}

const struct ctl_cmd ctl_cmd_completion = {
	.name = "completion",
	.args = "bash|zsh|fish",
	.help = "Completion script of a shell, on stdout; make install puts all three in place",
	.min_args = 1,
	.max_args = 1,
	.run = run_completion,
	.example = "source <(qllmctl completion bash)",
};
