/* ctl-config - what the daemon runs with and where each value came from; and whether it would take
 * a file.
 *
 * There is one parser of the configuration, the daemon's: `config check` runs `qllmd
 * --check-config`, which reads the files and ends, so no answer here can differ from what the
 * daemon will say. */
#include "base/cleanup.h"
#include "base/fd.h"
#include "client/ctl.h"
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SAID_MAX = 16 << 10 };

static const char *text(const json_t *row, const char *key)
{
	const char *s = json_string_value(json_object_get(row, key));

	return s ? s : "";
}

/* The rows whose key is `name`, or all; a new reference. */
static json_t *pick(const json_t *all, const struct ctl *c)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < json_array_size(all); i++) {
		json_t *row = json_array_get(all, i);
		bool wanted = c->args.n < 2;

		for (unsigned k = 1; k < c->args.n; k++)
			wanted |= strcmp(text(row, "key"), ctl_arg(c, k)) == 0;
		if (wanted)
			json_array_append(rows, row);
	}
	return rows;
}

static void print_rows(struct ctl *c, const json_t *rows)
{
	struct out_table t = {
		.head = { "SECTION", "KEY", "VALUE", "DEFAULT", "RELOAD", "SOURCE" },
		.n_columns = 6,
	};

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i), *value = json_object_get(row, "value");
		char number[32];

		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
		if (out_row(&t, text(row, "section"), text(row, "key"),
			    json_is_string(value) ? json_string_value(value) : number,
			    text(row, "default"),
			    json_is_true(json_object_get(row, "reload")) ? "yes" : "no",
			    text(row, "source")) < 0)
			break;
	}
	out_table_print(c, &t);
}

static int run_show(struct ctl *c)
{
	json_t *all = NULL, *rows;
	int code;

	if (qllm_connect(c->q) < 0)
		return ctl_fail_q(c);
	code = ctl_ask_json(c, qllm_config, &all);
	if (code != EXIT_OK)
		return code;
	for (unsigned k = 1; k < c->args.n && code == EXIT_OK; k++) {
		bool known = false;

		for (size_t i = 0; i < json_array_size(all); i++)
			known |= strcmp(text(json_array_get(all, i), "key"), ctl_arg(c, k)) == 0;
		if (!known)
			code = ctl_fail(c, EXIT_USAGE,
					"no setting %.60s: qllmctl config show lists them all",
					ctl_arg(c, k));
	}
	rows = pick(all, c);
	json_decref(all);
	if (code == EXIT_OK && c->json)
		return out_json(c, rows);
	if (code == EXIT_OK)
		print_rows(c, rows);
	json_decref(rows);
	return code;
}

static void exec_daemon(const char *file, int out)
{
	const char *named = getenv("QLLM_DAEMON");
	const char *argv[] = { "qllmd", "--check-config", file ? "--config" : NULL, file, NULL };

	dup2(out, STDERR_FILENO);
	if (named && *named)
		execv(named, (char **)(uintptr_t)argv);
	else
		execv(SBINDIR "/qllmd", (char **)(uintptr_t)argv);
	if (!named || !*named)
		execvp("qllmd", (char **)(uintptr_t)argv);
	_exit(127);
}

/* What qllmd says of the file, mem_free; its exit code, or -errno. */
static int ask_daemon(const char *file, char **ret)
{
	_cleanup_close_ int from = -1;
	_cleanup_mem_ char *said = mem_alloc(SAID_MAX);
	int fd[2], status, r;
	size_t n = 0;
	pid_t pid;

	if (!said)
		return -ENOMEM;
	if (pipe(fd) < 0)
		return -errno;
	fflush(stdout);
	pid = fork();
	if (pid == 0)
		exec_daemon(file, fd[1]);
	r = -errno;
	close(fd[1]);
	from = fd[0];
	if (pid < 0)
		return r;
	while (n + 1 < SAID_MAX) {
		ssize_t got = read(from, said + n, SAID_MAX - 1 - n);

		if (got == 0 || (got < 0 && errno != EINTR))
			break;
		n += got > 0 ? (size_t)got : 0;
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	while (n > 0 && said[n - 1] == '\n')
		n--;
	said[n] = 0;
	*ret = STEAL(said);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
}

static int run_check(struct ctl *c)
{
	const char *file = ctl_arg(c, 1), *shown = file ? file : SYSCONFDIR "/qllmd/qllmd.conf";
	_cleanup_mem_ char *said = NULL;
	const char *why;
	int r;

	if (c->args.n > 2)
		return ctl_fail(c, EXIT_USAGE, "config check takes one FILE");
	r = ask_daemon(file, &said);
	if (r < 0 || r == 127)
		return ctl_fail(
			c, EXIT_FAILED,
			"qllmd, which reads the file, could not be run (%s): install it, or "
			"name it with QLLM_DAEMON",
			r < 0 ? strerror(-r) : SBINDIR "/qllmd");
	why = strncmp(said, "qllmd: ", 7) == 0 ? said + 7 : said;
	if (c->json) {
		int code = out_json(c, json_pack("{s:s, s:b, s:o}", "file", shown, "ok", r == 0,
						 "error",
						 r ? out_text(why, strlen(why)) : json_null()));

		return code != EXIT_OK || r == 0 ? code : EXIT_FAILED;
	}
	if (r != 0)
		return ctl_fail(c, EXIT_FAILED, "%s", *why ? why : "qllmd gave no reason");
	if (!c->quiet)
		printf("%s: ok\n", shown);
	return EXIT_OK;
}

static int run_config(struct ctl *c)
{
	const char *what = ctl_arg(c, 0);

	if (strcmp(what, "show") == 0)
		return run_show(c);
	if (strcmp(what, "check") == 0)
		return run_check(c);
	return ctl_fail(c, EXIT_USAGE, "config wants show or check, not \"%.60s\"", what);
}

const struct ctl_cmd ctl_cmd_config = {
	.name = "config",
	.args = "show|check [KEY...|FILE]",
	.help = "show: each setting, its value and where that came from; check: whether qllmd "
		"would take "
		"FILE (with FILE.d), by its own rules and without a daemon",
	.min_args = 1,
	.max_args = 65,
	.run = run_config,
	.example = "qllmctl config show memory threads",
};
