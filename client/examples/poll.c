/* poll - a program with a poll() loop of its own: text streams as it is made, and a line on stdin
 * cancels it. Build: cc poll.c $(pkg-config --cflags --libs qllm). Use: poll MODEL PROMPT */
#include <poll.h>
#include <qllm.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct state {
	int done, code;
};

static void on_event(void *user, const struct qllm_event *ev)
{
	struct state *state = user;

	switch (ev->type) {
	case QLLM_EVENT_TOKEN:
		fwrite(ev->token->text, 1, ev->token->n_text, stdout);
		fflush(stdout);
		break;
	case QLLM_EVENT_DONE:
		state->done = 1;
		state->code = ev->code;
		if (ev->error)
			fprintf(stderr, "%s\n", ev->error);
		else
			fprintf(stderr, "\n%u tokens in %.2f s\n", ev->result->completion_tokens,
			        ev->result->decode_s);
		break;
	default:
		break;
	}
}

static void loop(struct qllm *q, struct state *state, int64_t id)
{
	struct pollfd fds[] = { { .fd = qllm_fd(q), .events = POLLIN },
		                { .fd = STDIN_FILENO, .events = POLLIN } };
	char line[256];

	while (!state->done) {
		if (poll(fds, 2, -1) < 0)
			return;
		if (fds[1].revents) {
			if (read(STDIN_FILENO, line, sizeof(line)) > 0)
				qllm_cancel(q, id);
			else
				fds[1].fd = -1;         /* end of input: poll passes it over */
		}
		if (fds[0].revents)
			/* a lost connection ends the request: on_event hears of it */
			qllm_dispatch(q);
	}
}

int main(int argc, char **argv)
{
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	struct state state = { 0 };
	struct qllm *q;
	int64_t id;

	if (argc != 3) {
		fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]);
		return 2;
	}
	if (qllm_new(&q, NULL) < 0)
		return 1;
	args.model = argv[1];
	args.prompt = argv[2];
	args.n_prompt = strlen(argv[2]);
	args.max_tokens = 64;
	id = qllm_generate(q, &args, on_event, &state);
	if (id < 0) {
		fprintf(stderr, "%s\n", qllm_error_text(q));
		state.code = (int)id;
	} else {
		loop(q, &state, id);
	}
	qllm_free(q);
	return state.code < 0;
}
