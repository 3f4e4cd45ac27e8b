/* ctl-args - the command line against the table.
 *
 * 1. Global options may stand before or after the command; the command's own only after it.
 * 2. An option's value is the next word or follows "=" (long) or the letter (short); it may begin
 *    with a minus.
 * 3. "--" ends options; "-" alone is a positional argument (stdin).
 * 4. Values are checked here by kind, so a wrong one is exit 2 before anything else happens. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include "base/num.h"
#include "client/ctl.h"

/* Edit distance with transpositions, rows of the table kept on the stack; long words are never
 * near. */
static unsigned distance(const char *a, const char *b)
{
	enum { MAX = 32 };
	size_t na = strlen(a), nb = strlen(b);
	unsigned d[MAX + 1][MAX + 1];

	if (na > MAX || nb > MAX)
		return MAX;
	for (size_t i = 0; i <= na; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= nb; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		for (size_t j = 1; j <= nb; j++) {
			unsigned best = MIN(d[i - 1][j], d[i][j - 1]) + 1;

			best = MIN(best, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = MIN(best, d[i - 2][j - 2] + 1);
			d[i][j] = best;
		}
	}
	return d[na][nb];
}

/* Near enough to be a slip of the fingers: a third of the word, at least one. */
static bool is_near(const char *typed, const char *word, unsigned *best)
{
	unsigned limit = (unsigned)MAX(strlen(word) / 3, (size_t)1), d = distance(typed, word);

	if (d > limit || d >= *best)
		return false;
	*best = d;
	return true;
}

const struct ctl_cmd *ctl_find(const char *name)
{
	for (unsigned i = 0; ctl_cmds[i]; i++)
		if (strcmp(ctl_cmds[i]->name, name) == 0)
			return ctl_cmds[i];
	return NULL;
}

const char *ctl_nearest_cmd(const char *name)
{
	const char *nearest = NULL;
	unsigned best = UINT32_MAX;

	for (unsigned i = 0; ctl_cmds[i]; i++)
		if (is_near(name, ctl_cmds[i]->name, &best))
			nearest = ctl_cmds[i]->name;
	return nearest;
}

static const struct ctl_opt *find_in(const struct ctl_opt *list, const char *name, size_t n,
                                     char letter)
{
	for (const struct ctl_opt *o = list; o && o->name; o++)
		if (letter ? o->letter == letter
		           : strlen(o->name) == n && memcmp(o->name, name, n) == 0)
			return o;
	return NULL;
}

/* A command's own options come first: -v and -n may mean something else to another command. */
static const struct ctl_opt *find_opt(const struct ctl *c, const char *name, size_t n, char letter)
{
	const struct ctl_opt *o = c->cmd ? find_in(c->cmd->opts, name, n, letter) : NULL;

	return o ? o : find_in(ctl_globals, name, n, letter);
}

static const char *nearest_opt(const struct ctl *c, const char *name)
{
	const struct ctl_opt *lists[] = { c->cmd ? c->cmd->opts : NULL, ctl_globals };
	const char *nearest = NULL;
	unsigned best = UINT32_MAX;

	for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
		for (const struct ctl_opt *o = lists[i]; o && o->name; o++)
			if (is_near(name, o->name, &best))
				nearest = o->name;
	return nearest;
}

static bool is_choice(const char *choices, const char *value)
{
	size_t n = strlen(value);

	for (const char *p = choices; *p;) {
		size_t len = strcspn(p, "|");

		if (len == n && memcmp(p, value, n) == 0)
			return true;
		p += len + (p[len] == '|');
	}
	return false;
}

static int check_value(const struct ctl_opt *o, const char *value, struct err *err)
{
	uint64_t u;
	double d;
	int r;

	switch (o->kind) {
	case CTL_COUNT:
		r = str_to_u64(value, &u);
		if (r < 0)
			return err_set(err, r, "--%s wants a whole number from 0, not \"%.60s\"",
			               o->name, value);
		return 0;
	case CTL_NUMBER:
		/* str_to_double takes no sign; a minus is ours to accept */
		r = str_to_double(value[0] == '-' ? value + 1 : value, &d);
		if (r < 0 || !isfinite(d))
			return err_set(err, -EINVAL, "--%s wants a number, not \"%.60s\"", o->name,
			               value);
		return 0;
	case CTL_CHOICE:
		if (!is_choice(o->value, value))
			return err_set(err, -EINVAL, "--%s wants one of %s, not \"%.60s\"", o->name,
			               o->value, value);
		return 0;
	default:
		return 0;
	}
}

static int take(struct ctl *c, const struct ctl_opt *o, const char *value, struct err *err)
{
	struct ctl_given g = { o, value };
	int r = value ? check_value(o, value, err) : 0;

	if (o->later)
		return err_set(err, -ENOSYS, "--%s is not built yet", o->name);
	return r < 0 ? r : vec_push(&c->given, g);
}

/* One word that begins with "--". *i is moved when the value is the next word. */
static int parse_long(struct ctl *c, int argc, char **argv, int *i, struct err *err)
{
	const char *name = argv[*i] + 2, *eq = strchr(name, '='), *near;
	const struct ctl_opt *o = find_opt(c, name, eq ? (size_t)(eq - name) : strlen(name), 0);

	if (!o) {
		near = nearest_opt(c, name);
		return err_set(err, -EINVAL, "unknown option \"--%.60s\"%s%s%s", name,
		               near ? "; did you mean --" : "", near ? near : "", near ? "?" : "");
	}
	if (o->kind == CTL_FLAG)
		return eq ? err_set(err, -EINVAL, "--%s takes no value", o->name)
		          : take(c, o, NULL, err);
	if (eq)
		return take(c, o, eq + 1, err);
	if (*i + 1 >= argc)
		return err_set(err, -EINVAL, "--%s wants %s after it", o->name, o->value);
	return take(c, o, argv[++*i], err);
}

/* One word of short options: flags may be bundled, a value ends the bundle. */
static int parse_short(struct ctl *c, int argc, char **argv, int *i, struct err *err)
{
	for (const char *p = argv[*i] + 1; *p; p++) {
		const struct ctl_opt *o = find_opt(c, NULL, 0, *p);
		int r;

		if (!o)
			return err_set(err, -EINVAL, "unknown option \"-%c\"", *p);
		if (o->kind != CTL_FLAG) {
			if (p[1])
				return take(c, o, p + 1, err);
			if (*i + 1 >= argc)
				return err_set(err, -EINVAL, "-%c wants %s after it", *p, o->value);
			return take(c, o, argv[++*i], err);
		}
		r = take(c, o, NULL, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_command(struct ctl *c, const char *word, struct err *err)
{
	const char *near;

	c->cmd = ctl_find(word);
	if (c->cmd)
		return 0;
	near = ctl_nearest_cmd(word);
	return err_set(err, -EINVAL, "unknown command \"%.60s\"%s%s%s", word,
	               near ? "; did you mean " : "", near ? near : "",
	               near ? "?" : " (qllmctl help lists them)");
}

static bool when(const char *word, bool automatic)
{
	return strcmp(word, "auto") == 0 ? automatic : strcmp(word, "always") == 0;
}

/* NO_COLOR (no-color.org) and TERM=dumb speak for "auto" only: --color=always is a request of
 * now. */
static void apply_globals(struct ctl *c)
{
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM"),
		   *word = ctl_text(c, "progress", "auto");
	bool plain = (no_color && *no_color) || (term && strcmp(term, "dumb") == 0);

	c->json = ctl_has(c, "json");
	c->quiet = ctl_has(c, "quiet");
	c->legend = !ctl_has(c, "no-legend");
	c->pager = !ctl_has(c, "no-pager");
	c->help = ctl_has(c, "help");
	c->timeout = ctl_number(c, "timeout", 0);
	c->color_out = when(ctl_text(c, "color", "auto"), c->tty_out && !plain);
	c->color_err = when(ctl_text(c, "color", "auto"), c->tty_err && !plain);
	if (strcmp(word, "plain") == 0)
		c->progress = CTL_PROGRESS_PLAIN;
	else if (strcmp(word, "json") == 0)
		c->progress = CTL_PROGRESS_JSON;
	else if (strcmp(word, "auto") == 0 && c->tty_err && !c->quiet)
		c->progress = CTL_PROGRESS_BAR;
}

static int check_args(const struct ctl *c, struct err *err)
{
	const struct ctl_cmd *cmd = c->cmd;

	if (c->timeout < 0)
		return err_set(err, -EINVAL, "--timeout wants seconds, not less than 0");
	if (!cmd || c->help || (cmd->flags & CTL_LATER))
		return 0;
	if (c->args.n < cmd->min_args)
		return err_set(err, -EINVAL, "%s wants %s", cmd->name, cmd->args);
	if (c->args.n > cmd->max_args)
		return err_set(
			err, -EINVAL,
			"%s takes %s%s; \"%.60s\" is too much (quote text that holds spaces)",
			cmd->name, *cmd->args ? "only " : "no arguments", cmd->args,
			c->args.data[cmd->max_args]);
	return 0;
}

int ctl_parse(struct ctl *c, int argc, char **argv, struct err *err)
{
	bool options = true;
	int r = 0;

	for (int i = 1; i < argc && r == 0; i++) {
		char *word = argv[i];

		/* what is not built yet has no options to check */
		if (c->cmd && (c->cmd->flags & CTL_LATER))
			break;
		if (options && strcmp(word, "--") == 0)
			options = false;
		else if (options && word[0] == '-' && word[1] == '-')
			r = parse_long(c, argc, argv, &i, err);
		else if (options && word[0] == '-' && word[1])
			r = parse_short(c, argc, argv, &i, err);
		else if (!c->cmd)
			r = parse_command(c, word, err);
		else
			r = vec_push(&c->args, word);
	}
	if (r == 0) {
		apply_globals(c);
		r = check_args(c, err);
	}
	return r == 0 ? 0 : r == -ENOMEM ? EXIT_FAILED : EXIT_USAGE;
}

void ctl_deinit(struct ctl *c)
{
	vec_deinit(&c->given);
	vec_deinit(&c->args);
}

/* The last one given counts. */
static const struct ctl_given *given(const struct ctl *c, const char *opt)
{
	for (size_t i = c->given.n; i-- > 0;)
		if (strcmp(c->given.data[i].opt->name, opt) == 0)
			return &c->given.data[i];
	return NULL;
}

bool ctl_has(const struct ctl *c, const char *opt)
{
	return given(c, opt) != NULL;
}

const char *ctl_text(const struct ctl *c, const char *opt, const char *otherwise)
{
	const struct ctl_given *g = given(c, opt);

	return g ? g->value : otherwise;
}

uint64_t ctl_count(const struct ctl *c, const char *opt, uint64_t otherwise)
{
	const char *value = ctl_text(c, opt, NULL);
	uint64_t n;

	return value && str_to_u64(value, &n) == 0 ? n : otherwise;
}

double ctl_number(const struct ctl *c, const char *opt, double otherwise)
{
	const char *value = ctl_text(c, opt, NULL);
	double d;

	if (!value || str_to_double(value[0] == '-' ? value + 1 : value, &d) < 0)
		return otherwise;
	return value[0] == '-' ? -d : d;
}

const char *ctl_arg(const struct ctl *c, unsigned i)
{
	return i < c->args.n ? c->args.data[i] : NULL;
}
