/* ctl-main - qllmctl from argv to exit code. */
#include "config.h"
#include <errno.h>
#include <locale.h>
#include <string.h>
#include <unistd.h>
#include "client/ctl.h"

enum { ROWS_RING_BYTES = 8 << 20 };     /* a row of 262,144 floats is 1 MiB */

static int connect_daemon(struct ctl *c)
{
	struct qllm_options o = QLLM_OPTIONS_INIT;
	int r;

	o.socket = ctl_text(c, "socket", NULL);
	o.client = "qllmctl " PACKAGE_VERSION;
	if (c->cmd->flags & CTL_ROWS)
		o.ring_bytes = ROWS_RING_BYTES;
	if (c->timeout > 0 && c->timeout < 10)
		o.timeout_ms = (int)(c->timeout * 1e3) + 1;
	r = qllm_new(&c->q, &o);
	if (r < 0)
		return ctl_fail(c, EXIT_FAILED, "libqllm: %s", strerror(-r));
	if (!(c->cmd->flags & CTL_CONNECT))
		return EXIT_OK;
	return qllm_connect(c->q) < 0 ? ctl_fail_q(c) : EXIT_OK;
}

static int run(struct ctl *c)
{
	int code;

	if (!c->cmd || c->help) {
		FILE *f = c->help ? stdout : stderr;

		if (c->help)
			out_pager(c);
		if (c->cmd)
			ctl_help_cmd(f, c->cmd);
		else
			ctl_help_all(f);
		return c->help ? EXIT_OK : EXIT_USAGE;
	}
	if (c->cmd->flags & CTL_LATER)
		return ctl_fail(c, EXIT_USAGE,
		                "%s is not built yet; qllmctl help lists the commands that are",
		                c->cmd->name);
	if (c->timeout > 0)
		c->deadline = ctl_now() + c->timeout;
	code = connect_daemon(c);
	return code == EXIT_OK ? c->cmd->run(c) : code;
}

int main(int argc, char **argv)
{
	struct ctl c = { 0 };
	struct err err = { 0 };
	int code, close_code;

	setlocale(LC_CTYPE, "");
	c.tty_out = isatty(STDOUT_FILENO);
	c.tty_err = isatty(STDERR_FILENO);
	code = ctl_parse(&c, argc, argv, &err);
	if (code != EXIT_OK)
		ctl_fail(&c, code, "%s", err.text[0] ? err.text : "no memory");
	else if (ctl_signals_init() < 0)
		code = ctl_fail(&c, EXIT_FAILED, "signals: %s", strerror(errno));
	else
		code = run(&c);
	qllm_free(c.q);
	close_code = out_close(&c);
	ctl_deinit(&c);
	return code == EXIT_OK ? close_code : code;
}
