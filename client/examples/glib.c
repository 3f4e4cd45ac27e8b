/* glib - a desktop program's way: the connection is a source of the GLib main loop, two requests
 * run side by side. Build: cc glib.c $(pkg-config --cflags --libs qllm glib-2.0). Use: glib MODEL
 * PROMPT PROMPT */
#include <glib-unix.h>
#include <qllm.h>
#include <string.h>

struct reply {
	GString *text;
	GMainLoop *loop;
	int *open;                      /* requests that have not ended */
	int code;
};

static void on_event(void *user, const struct qllm_event *ev)
{
	struct reply *reply = user;

	if (ev->type == QLLM_EVENT_TOKEN)
		g_string_append_len(reply->text, ev->token->text, (gssize)ev->token->n_text);
	if (ev->type != QLLM_EVENT_DONE)
		return;
	reply->code = ev->code;
	if (ev->error)
		g_printerr("%s\n", ev->error);
	if (--*reply->open == 0)
		g_main_loop_quit(reply->loop);
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer user)
{
	(void)fd;
	(void)condition;
	qllm_dispatch(user);
	return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
	struct reply replies[2] = { { 0 }, { 0 } };
	g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
	struct qllm *q;
	int open = 0, failed = 0;

	if (argc != 4) {
		g_printerr("usage: %s MODEL PROMPT PROMPT\n", argv[0]);
		return 2;
	}
	if (qllm_new(&q, NULL) < 0)
		return 1;
	g_unix_fd_add(qllm_fd(q), G_IO_IN, on_readable, q);
	for (int i = 0; i < 2; i++) {
		struct qllm_generate_args args = QLLM_GENERATE_INIT;

		replies[i] = (struct reply){ g_string_new(NULL), loop, &open, 0 };
		args.model = argv[1];
		args.prompt = argv[2 + i];
		args.n_prompt = strlen(argv[2 + i]);
		args.max_tokens = 48;
		if (qllm_generate(q, &args, on_event, &replies[i]) < 0) {
			g_printerr("%s\n", qllm_error_text(q));
			failed = 1;
		} else {
			open++;
		}
	}
	if (open > 0)
		g_main_loop_run(loop);
	for (int i = 0; i < 2; i++) {
		if (replies[i].code == 0)
			g_print("%s\n---\n", replies[i].text->str);
		failed |= replies[i].code < 0;
		g_string_free(replies[i].text, TRUE);
	}
	qllm_free(q);
	return failed;
}
