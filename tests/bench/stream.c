/* stream - clients with clocks of their own, for the benches: each has a connection, all start at
 * once, and what they saw is printed as JSON.
 *
 *   stream SOCKET MODEL CLIENTS SHARED OWN GEN [again]
 *       prompts of SHARED tokens that are the same for all, then OWN tokens of each client; GEN
 *       tokens are generated. A daemon that is not there yet is waited for, 10 s.
 *   {"first_s": [...], "cached_tokens": [...], "tok_s", "full_tok_s", "total_s", "first_at",
 *    "done_at"}
 *       seconds to each client's first token; tokens a second of all after the first one of any,
 *       and while all were generating (0: they never were); the times on CLOCK_MONOTONIC of the
 *       first token and of the end */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/qllm.h"

enum { CLIENTS_MAX = 64, TOKENS_MAX = 1 << 20, VOCAB = 30000, WAIT_MS = 10000 };

struct client {
	struct qllm *q;
	int64_t id;
	double start, first, last;
	uint32_t tokens, cached;
	int done, code;
	double *times;                  /* of each token */
	uint32_t room;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void on_event(void *user, const struct qllm_event *ev)
{
	struct client *c = user;

	if (ev->type == QLLM_EVENT_TOKEN) {
		c->last = now();
		if (c->tokens < c->room)
			c->times[c->tokens] = c->last;
		if (c->tokens++ == 0)
			c->first = c->last;
	} else if (ev->type == QLLM_EVENT_DONE) {
		c->done = 1;
		c->code = ev->code;
		if (ev->error)
			fprintf(stderr, "stream: %s\n", ev->error);
		if (ev->result)
			c->cached = ev->result->cached_tokens;
	}
}

/* Until all have ended; the number that failed. */
static int wait_for_all(struct client *c, int n)
{
	struct pollfd fds[CLIENTS_MAX];
	int open = n, failed = 0;

	for (int i = 0; i < n; i++)
		fds[i] = (struct pollfd){ .fd = qllm_fd(c[i].q), .events = POLLIN };
	while (open > 0) {
		if (poll(fds, (nfds_t)n, -1) < 0 && errno != EINTR)
			return n;
		for (int i = 0; i < n; i++) {
			if (fds[i].revents == 0)
				continue;
			qllm_dispatch(c[i].q);
			if (c[i].done) {
				fds[i].fd = -1;
				failed += c[i].code < 0 || c[i].tokens == 0;
				open--;
			}
		}
	}
	return failed;
}

static int connect_all(struct client *c, int n, const char *socket)
{
	struct qllm_options o = QLLM_OPTIONS_INIT;
	const double until = now() + WAIT_MS * 1e-3;

	o.socket = socket;
	o.client = "stream";
	for (int i = 0; i < n; i++) {
		if (qllm_new(&c[i].q, &o) < 0)
			return -1;
		while (qllm_connect(c[i].q) < 0) {
			if (now() > until) {
				fprintf(stderr, "stream: %s\n", qllm_error_text(c[i].q));
				return -1;
			}
			nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
		}
	}
	return 0;
}

/* Tokens a second between the last client's first token and the first client's last one. */
static double full_rate(const struct client *c, int n)
{
	double from = c[0].first, to = c[0].last;
	uint64_t tokens = 0;

	for (int i = 1; i < n; i++) {
		from = c[i].first > from ? c[i].first : from;
		to = c[i].last < to ? c[i].last : to;
	}
	for (int i = 0; i < n; i++)
		for (uint32_t t = 0; t < c[i].tokens && t < c[i].room; t++)
			tokens += c[i].times[t] > from && c[i].times[t] <= to;
	return to > from ? (double)tokens / (to - from) : 0.0;
}

/* The same rng, the same prompts. */
static int start_all(struct client *c, int n, const char *model, const uint32_t *count,
                     uint64_t rng)
{
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	const uint32_t shared = count[0], own = count[1];
	int32_t *tokens = calloc(shared + own, sizeof(*tokens));

	if (!tokens)
		return -1;
	args.model = model;
	args.tokens = tokens;
	args.n_tokens = shared + own;
	args.max_tokens = count[2];
	args.ignore_eos = 1;
	args.given = QLLM_TEMP;
	args.lookup = -1;               /* as in qllmctl bench */
	for (int i = 0; i < n; i++) {
		for (uint32_t t = i == 0 ? 0 : shared; t < shared + own; t++) {
			rng = rng * 6364136223846793005u + 1442695040888963407u;
			tokens[t] = (int32_t)((rng >> 33) % VOCAB);
		}
		c[i] = (struct client){ .q = c[i].q, .times = c[i].times };
		free(c[i].times);
		c[i].room = count[2];
		c[i].times = calloc(count[2] + 1, sizeof(*c[i].times));
		c[i].start = now();
		c[i].id = qllm_generate(c[i].q, &args, on_event, &c[i]);
		if (c[i].id < 0 || !c[i].times) {
			fprintf(stderr, "stream: %s\n", qllm_error_text(c[i].q));
			free(tokens);
			return -1;
		}
	}
	free(tokens);
	return 0;
}

static void print(const struct client *c, int n)
{
	double start = c[0].start, first = c[0].first, last = c[0].last;
	uint64_t tokens = 0;

	printf("{\"first_s\": [");
	for (int i = 0; i < n; i++) {
		printf("%s%.6f", i ? ", " : "", c[i].first - c[i].start);
		first = c[i].first < first ? c[i].first : first;
		last = c[i].last > last ? c[i].last : last;
		tokens += c[i].tokens - 1;
	}
	printf("], \"cached_tokens\": [");
	for (int i = 0; i < n; i++)
		printf("%s%u", i ? ", " : "", c[i].cached);
	printf("], \"tok_s\": %.4f, \"full_tok_s\": %.4f, \"total_s\": %.6f, \"first_at\": %.6f, "
	       "\"done_at\": %.6f}\n",
	       last > first ? (double)tokens / (last - first) : 0.0, full_rate(c, n),
	       last - start, first, last);
}

int main(int argc, char **argv)
{
	static struct client c[CLIENTS_MAX];
	const uint64_t rng = (uint64_t)(now() * 1e9);
	const int again = argc == 8 && strcmp(argv[7], "again") == 0;
	uint32_t count[3], known[3];
	int n, failed, status = 1;

	if (argc != 7 + again || (n = atoi(argv[3])) < 1 || n > CLIENTS_MAX) {
		fprintf(stderr, "usage: %s SOCKET MODEL CLIENTS SHARED OWN GEN [again]\n", argv[0]);
		return 2;
	}
	for (int i = 0; i < 3; i++)
		count[i] = (uint32_t)atoi(argv[4 + i]);
	if (count[0] > TOKENS_MAX || count[1] > TOKENS_MAX ||
	    count[2] > TOKENS_MAX || count[0] + count[1] == 0) {
		fprintf(stderr, "stream: a prompt has 1 to %d tokens\n", TOKENS_MAX);
		return 2;
	}
	memcpy(known, count, sizeof(known));
	known[2] = 1;
	failed = connect_all(c, n, argv[1]);
	if (failed == 0 && again)
		failed = start_all(c, n, argv[2], known, rng) || wait_for_all(c, n);
	if (failed == 0)
		failed = start_all(c, n, argv[2], count, rng) || wait_for_all(c, n);
	if (failed == 0) {
		print(c, n);
		status = 0;
	}
	for (int i = 0; i < n; i++) {
		qllm_free(c[i].q);
		free(c[i].times);
	}
	return status;
}
