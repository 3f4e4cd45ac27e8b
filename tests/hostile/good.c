/* good - a well-behaved client of libqllm that asks the same thing again and again and keeps the
 * score: what was answered, what failed and with which words, how long each token took to come.
 *
 *   good --socket S --model M --prompt TEXT [-n TOKENS] [--seconds S] [--requests N] [--uid UID]
 *        [--keep-going] [--gaps FILE]
 *
 * One line of JSON on stdout at the end, which SIGINT brings about. Without --keep-going the first
 * failure ends it. --gaps: seconds between consecutive tokens of one answer, doubles in the
 * machine's order. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "client/qllm.h"

enum { TEXT_MAX = 1 << 16, PAUSE_US = 20000 };

struct score {
	char text[TEXT_MAX];            /* of this answer */
	size_t n_text;
	double last;                    /* when its last token came, 0 = none yet */
	bool over;                      /* text was full */
	double *gaps;
	size_t n_gaps, cap;
	json_t *texts, *errors;         /* distinct answers and their numbers; "class: sentence" */
	unsigned requests, ok, failed;
	double longest_s;               /* without an answer, end to end */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void add_gap(struct score *s, double gap)
{
	if (s->n_gaps == s->cap) {
		double *more = realloc(s->gaps, (s->cap = s->cap ? 2 * s->cap : 4096) *
		                                        sizeof(*more));

		if (!more)
			abort();
		s->gaps = more;
	}
	s->gaps[s->n_gaps++] = gap;
}

static void on_event(void *user, const struct qllm_event *ev)
{
	struct score *s = user;
	double t = now();

	if (ev->type != QLLM_EVENT_TOKEN)
		return;
	if (s->last > 0)
		add_gap(s, t - s->last);
	s->last = t;
	if (ev->token->n_text > TEXT_MAX - s->n_text) {
		s->over = true;
		return;
	}
	memcpy(s->text + s->n_text, ev->token->text, ev->token->n_text);
	s->n_text += ev->token->n_text;
}

/* count[key]++; bytes that are no UTF-8 are spelled out. */
static void count(json_t *counts, const char *p, size_t n)
{
	static char key[4 * TEXT_MAX + 1];
	json_t *one = json_stringn(p, n);
	size_t at = 0;

	for (size_t i = 0; i < n; i++)
		at += (size_t)snprintf(key + at, 5,
		                       !one || p[i] == '\\' || !p[i] ? "\\x%02x" : "%c",
		                       !one || p[i] == '\\' || !p[i] ? (unsigned char)p[i] : p[i]);
	key[at] = 0;
	json_decref(one);
	json_object_set_new(counts, key,
	                    json_integer(json_integer_value(json_object_get(counts, key)) + 1));
}

/* SIGINT ends the loop after the answer that is being read. */
static volatile sig_atomic_t ended;
static void on_interrupt(int sig)
{
	(void)sig;
	ended = 1;
}

static bool one_request(struct qllm *q, struct score *s, const struct qllm_generate_args *args)
{
	char sentence[600];
	int64_t id;
	int r;

	s->requests++;
	s->n_text = 0;
	s->last = 0;
	id = qllm_generate(q, args, on_event, s);
	do
		r = id < 0 ? (int)id : qllm_wait(q, id, -1);
	while (r == -EINTR);
	if (r == 0 && !s->over) {
		s->ok++;
		count(s->texts, s->text, s->n_text);
		return true;
	}
	s->failed++;
	snprintf(sentence, sizeof(sentence), "%d: %s", qllm_error_class(q), qllm_error_text(q));
	count(s->errors, sentence, strlen(sentence));
	return false;
}

static bool save_gaps(const struct score *s, const char *path)
{
	FILE *f = fopen(path, "wb");
	bool good = f && fwrite(s->gaps, sizeof(double), s->n_gaps, f) == s->n_gaps;

	return f && fclose(f) == 0 && good;
}

static int report(struct score *s, const char *gaps)
{
	json_t *out = json_pack("{s:i s:i s:i s:f s:o s:o}", "requests", (int)s->requests, "ok",
	                        (int)s->ok, "failed", (int)s->failed, "longest_s", s->longest_s,
	                        "texts", s->texts, "errors", s->errors);

	if (gaps && !save_gaps(s, gaps)) {
		fprintf(stderr, "good: %s: %s\n", gaps, strerror(errno));
		return 1;
	}
	if (!out || json_dumpf(out, stdout, 0) < 0)
		return 1;
	putchar('\n');
	json_decref(out);
	return s->failed > 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "model", required_argument, NULL, 'm' },
		{ "prompt", required_argument, NULL, 'p' },
		{ "seconds", required_argument, NULL, 'S' },
		{ "requests", required_argument, NULL, 'R' },
		{ "uid", required_argument, NULL, 'u' },
		{ "gaps", required_argument, NULL, 'g' },
		{ "keep-going", no_argument, NULL, 'k' },
		{ NULL },
	};
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	struct qllm_options options = QLLM_OPTIONS_INIT;
	static struct score s;
	const char *gaps = NULL;
	double seconds = 1e9, end, since;
	unsigned requests = UINT32_MAX;
	bool keep_going = false;
	struct qllm *q;
	int opt;

	args.max_tokens = 64;
	args.given = QLLM_TEMP;
	while ((opt = getopt_long(argc, argv, "n:", longs, NULL)) >= 0) {
		switch (opt) {
		case 's': options.socket = optarg; break;
		case 'm': args.model = optarg; break;
		case 'p': args.prompt = optarg; break;
		case 'n': args.max_tokens = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'S': seconds = strtod(optarg, NULL); break;
		case 'R': requests = (unsigned)strtoul(optarg, NULL, 10); break;
		case 'g': gaps = optarg; break;
		case 'k': keep_going = true; break;
		case 'u':
			if (setgroups(0, NULL) < 0 ||
			    setuid((uid_t)strtoul(optarg, NULL, 10)) < 0) {
				fprintf(stderr, "good: setuid: %s\n", strerror(errno));
				return 2;
			}
			break;
		default: return 2;
		}
	}
	if (!args.model || !args.prompt)
		return 2;
	args.n_prompt = strlen(args.prompt);
	s.texts = json_object();
	s.errors = json_object();
	signal(SIGINT, on_interrupt);
	if (qllm_new(&q, &options) < 0)
		return 1;
	end = now() + seconds;
	since = now();
	while (!ended && s.requests < requests && now() < end) {
		bool good = one_request(q, &s, &args);
		double t = now();

		if (t - since > s.longest_s)
			s.longest_s = t - since;
		if (good)
			since = t;
		else if (keep_going)
			usleep(PAUSE_US);
		else
			break;
	}
	qllm_free(q);
	return report(&s, gaps);
}
