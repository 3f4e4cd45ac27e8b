/* blocking - the shortest program: ask, wait, print.
 * Build: cc blocking.c $(pkg-config --cflags --libs qllm). Use: blocking MODEL PROMPT */
#include <qllm.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	struct qllm *q;
	char *text;
	size_t n;
	int r;

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
	args.given = QLLM_TEMP;         /* greedy; what is not given is the daemon's default */
	args.temp = 0;
	r = qllm_complete(q, &args, &text, &n);
	if (r < 0) {
		fprintf(stderr, "%s\n", qllm_error_text(q));
		r = qllm_error_class(q);
	} else {
		fwrite(text, 1, n, stdout);
		putchar('\n');
		qllm_text_free(text);
	}
	qllm_free(q);
	return r;
}
