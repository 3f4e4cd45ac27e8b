/* out - how things look. stdout carries data only; the progress bar is the one thing drawn on
 * stderr over itself. People on a terminal get units, bold heads and a pager; a pipe gets plain
 * digits and nothing cut. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/num.h"
#include "client/ctl.h"

enum { BAR_WIDTH = 30 };

int out_json(struct ctl *c, json_t *j)
{
	size_t flags = JSON_ENCODE_ANY | (c->tty_out ? JSON_INDENT(2) : JSON_COMPACT);
	int r = j ? json_dumpf(j, stdout, flags) : -1;

	json_decref(j);
	if (r < 0)
		return ctl_fail(c, EXIT_FAILED, "no memory for the answer as JSON");
	putchar('\n');
	return EXIT_OK;
}

json_t *out_text(const void *p, size_t n)
{
	const char *s = p;
	struct sbuf clean = { 0 };
	json_t *j;
	int r = 0;

	if (utf8_valid(s, n))
		return json_stringn(s, n);
	for (size_t i = 0; i < n && r == 0;) {
		uint32_t cp;
		unsigned len = utf8_decode(s + i, n - i, &cp);

		r = len ? sbuf_append(&clean, s + i, len) : sbuf_append(&clean, "\xef\xbf\xbd", 3);
		i += len ? len : 1;
	}
	j = r == 0 ? json_stringn(clean.p, clean.n) : NULL;
	sbuf_deinit(&clean);
	return j;
}

static void human(char out[32], uint64_t n)
{
	static const char unit[] = "KMGTP";
	double x = (double)n / 1000;
	unsigned u = 0;

	if (n < 1000) {
		snprintf(out, 32, "%u B", (unsigned)n);
		return;
	}
	for (; x >= 1000 && u < sizeof(unit) - 2; u++)
		x /= 1000;
	snprintf(out, 32, x < 10 ? "%.2f %cB" : x < 100 ? "%.1f %cB" : "%.0f %cB", x, unit[u]);
}

void out_bytes(const struct ctl *c, char out[32], uint64_t n)
{
	if (c->tty_out)
		human(out, n);
	else
		snprintf(out, 32, "%llu", (unsigned long long)n);
}

/* The child inherits what it needs; stdout becomes its stdin. Without a working pager the text just
 * comes. */
void out_pager(struct ctl *c)
{
	const char *pager = getenv("PAGER");
	int fd[2];

	if (!c->tty_out || !c->pager || c->pager_pid ||
	    (pager && (!*pager || strcmp(pager, "cat") == 0)) || pipe(fd) < 0)
		return;
	fflush(stdout);
	c->pager_pid = fork();
	if (c->pager_pid == 0) {
		dup2(fd[0], STDIN_FILENO);
		close(fd[0]);
		close(fd[1]);
		setenv("LESS", "FRX", 0);
		execl("/bin/sh", "sh", "-c", pager ? pager : "less || cat", (char *)NULL);
		_exit(127);
	}
	close(fd[0]);
	if (c->pager_pid > 0)
		dup2(fd[1], STDOUT_FILENO);
	else
		c->pager_pid = 0;
	close(fd[1]);
}

int out_close(struct ctl *c)
{
	int failed;

	out_progress_end(c);
	failed = fflush(stdout) != 0 || ferror(stdout) ? errno : 0;
	if (c->pager_pid > 0) {
		close(STDOUT_FILENO);
		while (waitpid(c->pager_pid, NULL, 0) < 0 && errno == EINTR)
			;
		return EXIT_OK;
	}
	return failed ? ctl_fail(c, EXIT_FAILED, "stdout: %s", strerror(failed)) : EXIT_OK;
}

void out_progress(struct ctl *c, const char *what, uint64_t done, uint64_t total)
{
	double now = ctl_now(), share = total ? (double)MIN(done, total) / (double)total : 0;
	unsigned full = (unsigned)lrint(share * BAR_WIDTH);
	double step = c->progress == CTL_PROGRESS_BAR ? 0.05 : 1;
	bool last = total && done >= total;

	if (c->progress == CTL_PROGRESS_NONE || (now - c->progress_last < step && !last))
		return;
	c->progress_last = now;
	if (c->progress == CTL_PROGRESS_JSON) {
		fprintf(stderr, "{\"phase\":\"%s\",\"done\":%llu,\"total\":%llu}\n", what,
		        (unsigned long long)done, (unsigned long long)total);
		return;
	}
	if (c->progress == CTL_PROGRESS_PLAIN) {
		fprintf(stderr, "%s %llu/%llu\n", what, (unsigned long long)done,
		        (unsigned long long)total);
		return;
	}
	fprintf(stderr, "\r\033[K%-8s [%.*s%.*s] %3.0f%%", what, (int)full,
	        "##############################", (int)(BAR_WIDTH - full),
	        "                              ", share * 100);
	fflush(stderr);
	c->progress_open = true;
}

void out_progress_end(struct ctl *c)
{
	if (c->progress_open)
		fputs("\r\033[K", stderr);
	c->progress_open = false;
}

int out_row(struct out_table *t, ...)
{
	va_list ap;
	int r = 0;

	va_start(ap, t);
	for (unsigned i = 0; i < t->n_columns; i++) {
		const char *cell = va_arg(ap, const char *);
		char *copy = mem_strdup(cell);

		if (!copy || vec_push(&t->cells, copy) < 0) {
			mem_free(copy);
			r = -ENOMEM;
			break;
		}
	}
	va_end(ap);
	return r;
}

/* Columns are code points, near enough to what a terminal shows for names and numbers. */
static unsigned width(const char *s)
{
	unsigned n = 0;

	for (; *s; s++)
		n += (*s & 0xc0) != 0x80;
	return n;
}

static void print_cell(const char *s, unsigned wide, bool right, bool last)
{
	unsigned pad = wide - MIN(width(s), wide);

	if (right)
		printf("%*s%s", (int)pad, "", s);
	else
		printf("%s%*s", s, last ? 0 : (int)pad, "");
	fputs(last ? "\n" : "  ", stdout);
}

void out_table_print(struct ctl *c, struct out_table *t)
{
	unsigned wide[OUT_COLUMNS_MAX] = { 0 };
	size_t rows = t->cells.n / t->n_columns;

	for (unsigned i = 0; i < t->n_columns; i++) {
		wide[i] = c->legend ? width(t->head[i] + (t->head[i][0] == '>')) : 0;
		for (size_t r = 0; r < rows; r++)
			wide[i] = MAX(wide[i], width(t->cells.data[r * t->n_columns + i]));
	}
	if (c->legend && !c->quiet && rows > 0) {
		fputs(c->color_out ? "\033[1m" : "", stdout);
		for (unsigned i = 0; i < t->n_columns; i++)
			print_cell(t->head[i] + (t->head[i][0] == '>'), wide[i],
			           t->head[i][0] == '>', i + 1 == t->n_columns);
		fputs(c->color_out ? "\033[0m" : "", stdout);
	}
	for (size_t r = 0; r < rows; r++)
		for (unsigned i = 0; i < t->n_columns; i++)
			print_cell(t->cells.data[r * t->n_columns + i], wide[i],
			           t->head[i][0] == '>', i + 1 == t->n_columns);
	for (size_t i = 0; i < t->cells.n; i++)
		mem_free(t->cells.data[i]);
	vec_deinit(&t->cells);
}
