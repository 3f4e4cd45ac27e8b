/* ctl-bench - speed as a client sees it: ordinary requests, timed here.
 *
 * One repeat is three phases in turn, so that a machine that changes speed changes all of them
 * alike: a prompt (pp), a generation (tg), and the read arm, where the daemon streams the same
 * weights through the same threads without computing. Every figure is the median over the repeats.
 * Clients are connections of their own; with more than one, a rate is the sum of what all of them
 * got, from the first token of any to the last of all. Prompts are token arrays drawn anew for each
 * request, so no prefix is ever known. */
#include <errno.h>
#include <string.h>
#include "base/num.h"
#include "client/ctl.h"

enum { READ_STEPS = 16, VOCAB_FALLBACK = 1000 };

struct bench {
	struct ctl *c;
	struct qllm *q[CTL_CLIENTS_MAX];
	unsigned n_clients, open;
	bool done;
	/* first failure of a request; the sentence is its connection's */
	int code;
	unsigned failed;                /* that connection */
	uint32_t n_vocab;
	uint64_t rng;
	VEC(double) first, gaps, whole; /* seconds, over all repeats */
	VEC(double) times;              /* when each token of the last phase came, in order */
};
struct bench_client {
	struct bench *b;
	unsigned index;
	uint32_t tokens;
	double start, first, last;
};
struct rate {                           /* medians come from these */
	/* full: while every client was getting tokens */
	VEC(double) pp, tg, full, read;
};

static uint32_t next_random(struct bench *b)
{
	b->rng = b->rng * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(b->rng >> 33);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts. p in [0, 1], nearest rank; 0 for an empty list. */
static double percentile(double *data, size_t n, double p)
{
	if (n == 0)
		return 0;
	qsort(data, n, sizeof(*data), by_size);
	return data[MIN((size_t)(p * (double)(n - 1) + 0.5), n - 1)];
}

static void on_client(void *user, const struct qllm_event *ev)
{
	struct bench_client *k = user;
	struct bench *b = k->b;
	double now = ctl_now();

	if (ev->type == QLLM_EVENT_TOKEN) {
		if (k->tokens++ == 0)
			k->first = now;
		else if (vec_push(&b->gaps, now - k->last) < 0)
			b->code = -ENOMEM;
		k->last = now;
		if (vec_push(&b->times, now) < 0)
			b->code = -ENOMEM;
	}
	if (ev->type != QLLM_EVENT_DONE)
		return;
	if (ev->code < 0 && b->code == 0) {
		b->code = ev->code;
		b->failed = k->index;
	}
	b->done = --b->open == 0;
}

/* One request on every connection: n_prompt random tokens, n_gen generated. Fills k[]. An exit
 * code. */
static int together(struct bench *b, struct bench_client *k, uint32_t n_prompt, uint32_t n_gen)
{
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	_cleanup_mem_ int32_t *tokens = mem_allocn(n_prompt, sizeof(*tokens));
	int code;

	if (!tokens)
		return ctl_fail(b->c, EXIT_FAILED, "no memory");
	args.model = ctl_arg(b->c, 0);
	args.tokens = tokens;
	args.n_tokens = n_prompt;
	args.max_tokens = n_gen;
	args.ignore_eos = 1;
	args.lookup = -1;               /* the speed of every token, not of lucky guesses */
	args.no_cache = 1;              /* its numbers are of work that is done */
	args.given = QLLM_TEMP;
	b->done = false;
	b->open = 0;
	b->times.n = 0;
	for (unsigned i = 0; i < b->n_clients; i++) {
		int64_t id;

		for (uint32_t t = 0; t < n_prompt; t++)
			tokens[t] = (int32_t)(next_random(b) % b->n_vocab);
		k[i] = (struct bench_client){ .b = b, .index = i, .start = ctl_now() };
		id = qllm_generate(b->q[i], &args, on_client, &k[i]);
		if (id < 0)
			return ctl_fail(b->c, qllm_error_class(b->q[i]), "%s",
			                qllm_error_text(b->q[i]));
		b->open++;
	}
	code = ctl_wait_many(b->c, b->q, b->n_clients, &b->done);
	if (code == EXIT_OK && b->code < 0)
		code = ctl_fail(b->c, qllm_error_class(b->q[b->failed]), "%s",
		                qllm_error_text(b->q[b->failed]));
	for (unsigned i = 0; code == EXIT_OK && i < b->n_clients; i++)
		if (k[i].tokens != n_gen)
			code = ctl_fail(b->c, EXIT_FAILED, "a client got %u of %u tokens",
			                k[i].tokens, n_gen);
	return code;
}

/* Seconds from the earliest start to the latest first token: when all prompts were through. */
static double prompt_seconds(const struct bench *b, const struct bench_client *k)
{
	double start = k[0].start, end = k[0].first;

	for (unsigned i = 1; i < b->n_clients; i++) {
		start = MIN(start, k[i].start);
		end = MAX(end, k[i].first);
	}
	return end - start;
}

static int bench_prompt(struct bench *b, uint32_t p, uint32_t depth, struct rate *rate)
{
	struct bench_client k[CTL_CLIENTS_MAX];
	double base = 0, s;
	int code = depth ? together(b, k, depth, 1) : EXIT_OK;

	if (code == EXIT_OK && depth)
		base = prompt_seconds(b, k);
	if (code == EXIT_OK)
		code = together(b, k, depth + p, 1);
	if (code != EXIT_OK)
		return code;
	s = prompt_seconds(b, k) - base;
	for (unsigned i = 0; i < b->n_clients; i++)
		if (vec_push(&b->first, k[i].first - k[i].start) < 0)
			return ctl_fail(b->c, EXIT_FAILED, "no memory");
	return vec_push(&rate->pp, s > 0 ? p * (double)b->n_clients / s : 0.0) < 0
	               ? ctl_fail(b->c, EXIT_FAILED, "no memory")
	               : EXIT_OK;
}

/* Tokens a second between the last client's first token and the first client's last one; 0 where
 * they never all ran at once. */
static double full_rate(const struct bench *b, const struct bench_client *k)
{
	double from = k[0].first, to = k[0].last;
	size_t n = 0;

	for (unsigned i = 1; i < b->n_clients; i++) {
		from = MAX(from, k[i].first);
		to = MIN(to, k[i].last);
	}
	for (size_t i = 0; i < b->times.n; i++)
		n += b->times.data[i] > from && b->times.data[i] <= to;
	return to > from ? (double)n / (to - from) : 0;
}

static int bench_generate(struct bench *b, uint32_t n, uint32_t depth, struct rate *rate)
{
	struct bench_client k[CTL_CLIENTS_MAX];
	int code = together(b, k, MAX(depth, 1u), n + 1);
	double first, last, tg;

	if (code != EXIT_OK)
		return code;
	first = k[0].first;
	last = k[0].last;
	for (unsigned i = 0; i < b->n_clients; i++) {
		first = MIN(first, k[i].first);
		last = MAX(last, k[i].last);
		if (vec_push(&b->whole, k[i].last - k[i].start) < 0)
			return ctl_fail(b->c, EXIT_FAILED, "no memory");
	}
	tg = last > first ? n * (double)b->n_clients / (last - first) : 0.0;
	return vec_push(&rate->tg, tg) < 0 || vec_push(&rate->full, full_rate(b, k)) < 0
	               ? ctl_fail(b->c, EXIT_FAILED, "no memory")
	               : EXIT_OK;
}

/* Answers of the one-off questions around the run. */
struct facts {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	struct qllm_read_result read;
	json_t *status;
};

static void on_fact(void *user, const struct qllm_event *ev)
{
	struct facts *f = user;

	if (ev->read)
		f->read = *ev->read;
	if (ev->status && !f->status)
		f->status = json_pack("{s:s, s:s, s:i}", "cpu", ev->status->cpu, "kernels",
		                      ev->status->kernels, "threads", (int)ev->status->threads);
	ctl_on_event(&f->reply, ev);
}

static int ask(struct ctl *c, struct facts *f, int64_t id)
{
	f->reply.done = false;
	return ctl_finish(c, id, &f->reply);
}

static int bench_read(struct bench *b, struct facts *f, struct rate *rate)
{
	int code = ask(b->c, f, qllm_bench_read(b->c->q, ctl_arg(b->c, 0), READ_STEPS, on_fact, f));

	if (code != EXIT_OK)
		return code;
	return vec_push(&rate->read,
	                f->read.seconds > 0 ? (double)f->read.bytes / f->read.seconds / 1e9 : 0.0) <
	                       0
	               ? ctl_fail(b->c, EXIT_FAILED, "no memory")
	               : EXIT_OK;
}

/* Load the model, learn its vocabulary's size. */
static int prepare(struct bench *b, struct facts *f)
{
	struct qllm_load_args load = QLLM_LOAD_INIT;
	struct bench_client warm[CTL_CLIENTS_MAX];
	struct ctl *c = b->c;
	json_t *j;
	int code;

	load.model = ctl_arg(c, 0);
	load.kv = ctl_text(c, "kv", NULL);
	code = ask(c, f, qllm_load(c->q, &load, on_fact, f));
	if (code == EXIT_OK)
		code = ask(c, f, qllm_status(c->q, on_fact, f));
	if (code == EXIT_OK)
		code = ask(c, f, qllm_show(c->q, load.model, QLLM_SHOW_SUMMARY, on_fact, f));
	if (code != EXIT_OK)
		return code;
	j = f->reply.data ? json_loadb(f->reply.data, f->reply.n_data, JSON_ALLOW_NUL, NULL) : NULL;
	ctl_reply_deinit(&f->reply);
	b->n_vocab = (uint32_t)json_integer_value(
		json_object_get(json_object_get(j, "hyper_parameters"), "n_vocab"));
	if (b->n_vocab == 0)
		b->n_vocab = VOCAB_FALLBACK;
	json_decref(j);
	code = together(b, warm, 16, 4);
	b->gaps.n = 0;
	return code;
}

/* What is printed, from the medians. A step of several clients reads the weights once. */
struct figures {
	double pp, tg, full, bw, fraction, tflops;
	double latency[3][2];           /* ms: first token, per token, end to end; p50, p99 */
};

static void figures_make(struct figures *g, struct bench *b, const struct facts *f,
                         struct rate *rate)
{
	g->pp = percentile(rate->pp.data, rate->pp.n, 0.5);
	g->tg = percentile(rate->tg.data, rate->tg.n, 0.5);
	g->full = percentile(rate->full.data, rate->full.n, 0.5);
	g->bw = percentile(rate->read.data, rate->read.n, 0.5);
	g->fraction = 0;
	if (g->bw > 0)
		g->fraction = g->tg / b->n_clients * (double)f->read.bytes_per_token /
		              (g->bw * 1e9);
	g->tflops = g->pp * f->read.flops_per_token / 1e12;
	for (unsigned p = 0; p < 2; p++) {
		double at = p ? 0.99 : 0.5;

		g->latency[0][p] = percentile(b->first.data, b->first.n, at) * 1e3;
		g->latency[1][p] = percentile(b->gaps.data, b->gaps.n, at) * 1e3;
		g->latency[2][p] = percentile(b->whole.data, b->whole.n, at) * 1e3;
	}
}

static void report_text(struct bench *b, const struct facts *f, const struct figures *g, uint32_t p,
                        uint32_t n)
{
	static const char *const names[] = { "first token", "per token", "end to end" };

	printf("pp%u  %.1f tokens/s, %.3f TFLOP/s (%.0f MFLOP a token)\n", p, g->pp, g->tflops,
	       f->read.flops_per_token / 1e6);
	printf("tg%u  %.1f tokens/s", n, g->tg);
	if (b->n_clients > 1)
		printf(" of %u clients", b->n_clients);
	if (b->n_clients > 1 && g->full > 0)
		printf(", %.1f while all of them were served", g->full);
	printf("\nread  %.1f GB/s; decoding streams %.2f of it (%llu bytes a token)\n", g->bw,
	       g->fraction, (unsigned long long)f->read.bytes_per_token);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		printf("%-12s p50 %.2f ms, p99 %.2f ms\n", names[i], g->latency[i][0],
		       g->latency[i][1]);
	printf("%s kernels, %lld threads, %s\n",
	       json_string_value(json_object_get(f->status, "kernels")),
	       json_integer_value(json_object_get(f->status, "threads")),
	       json_string_value(json_object_get(f->status, "cpu")));
}

static int report(struct bench *b, struct facts *f, struct rate *rate, uint32_t p, uint32_t n)
{
	struct figures g;
	json_t *j;

	figures_make(&g, b, f, rate);
	if (!b->c->json) {
		report_text(b, f, &g, p, n);
		return EXIT_OK;
	}
	j = json_pack("{s:{s:i, s:f}, s:{s:i, s:f, s:f, s:I, s:f, s:f}, s:f, s:f, s:{s:{s:f, s:f}, "
	              "s:{s:f, s:f}, s:{s:f, s:f}}, s:i}",
	              "pp", "tokens", (int)p, "tok_s", g.pp, "tg", "tokens", (int)n, "tok_s", g.tg,
	              "full_tok_s", g.full, "bytes_per_token",
	              (json_int_t)f->read.bytes_per_token, "read_bw_gb_s", g.bw, "fraction",
	              g.fraction, "flops_per_token", f->read.flops_per_token, "tflops", g.tflops,
	              "latency_ms", "first_token", "p50", g.latency[0][0], "p99", g.latency[0][1],
	              "per_token", "p50", g.latency[1][0], "p99", g.latency[1][1], "end_to_end",
	              "p50", g.latency[2][0], "p99", g.latency[2][1], "clients",
	              (int)b->n_clients);
	if (j)
		json_object_update(j, f->status);
	return out_json(b->c, j);
}

static int open_clients(struct bench *b)
{
	struct qllm_options o = QLLM_OPTIONS_INIT;

	o.socket = qllm_socket(b->c->q);
	o.client = "qllmctl bench";
	for (unsigned i = 0; i < b->n_clients; i++) {
		if (qllm_new(&b->q[i], &o) < 0)
			return ctl_fail(b->c, EXIT_FAILED,
			                "no memory or descriptors for %u clients", b->n_clients);
		if (qllm_connect(b->q[i]) < 0)
			return ctl_fail(b->c, qllm_error_class(b->q[i]), "%s",
			                qllm_error_text(b->q[i]));
	}
	return EXIT_OK;
}

static int run_bench(struct ctl *c)
{
	struct bench b = { .c = c, .rng = 42 };
	struct facts f = { .reply = { .c = c } };
	struct rate rate = { { 0 }, { 0 }, { 0 }, { 0 } };
	uint64_t p = ctl_count(c, "prompt", 512), n = ctl_count(c, "gen", 128),
		 depth = ctl_count(c, "depth", 0);
	uint64_t repeat = ctl_count(c, "repeat", 5), clients = ctl_count(c, "clients", 1);
	int code;

	if (p < 1 || n < 1 || repeat < 1 || p > 1u << 20 || n > 1u << 20 || depth > 1u << 20 ||
	    repeat > 1000)
		return ctl_fail(c, EXIT_USAGE, "-p and -n want 1 to 1048576, --repeat 1 to 1000");
	if (clients < 1 || clients > CTL_CLIENTS_MAX)
		return ctl_fail(c, EXIT_USAGE, "-c wants 1 to %d clients", CTL_CLIENTS_MAX);
	b.n_clients = (unsigned)clients;
	code = open_clients(&b);
	if (code == EXIT_OK)
		code = prepare(&b, &f);
	for (uint64_t i = 0; code == EXIT_OK && i < repeat; i++) {
		code = bench_prompt(&b, (uint32_t)p, (uint32_t)depth, &rate);
		if (code == EXIT_OK)
			code = bench_generate(&b, (uint32_t)n, (uint32_t)depth, &rate);
		if (code == EXIT_OK)
			code = bench_read(&b, &f, &rate);
		out_progress(c, "bench", i + 1, repeat);
	}
	out_progress_end(c);
	if (code == EXIT_OK)
		code = report(&b, &f, &rate, (uint32_t)p, (uint32_t)n);
	for (unsigned i = 0; i < b.n_clients; i++)
		qllm_free(b.q[i]);
	json_decref(f.status);
	vec_deinit(&b.first);
	vec_deinit(&b.gaps);
	vec_deinit(&b.whole);
	vec_deinit(&b.times);
	vec_deinit(&rate.pp);
	vec_deinit(&rate.tg);
	vec_deinit(&rate.full);
	vec_deinit(&rate.read);
	return code;
}

static const struct ctl_opt bench_opts[] = {
	{ "prompt", 'p', CTL_COUNT, "N", "Prompt tokens, default 512" },
	{ "gen", 'n', CTL_COUNT, "N", "Generated tokens, default 128" },
	{ "depth", 'd', CTL_COUNT, "N", "Tokens before either, default 0" },
	{ "clients", 'c', CTL_COUNT, "N", "Connections at once, default 1" },
	{ "repeat", 0, CTL_COUNT, "R", "Repeats; figures are medians, default 5" },
	{ "kv", 0, CTL_CHOICE, "f16|kv8|kv4|kivi4|kivi2|tok8|tok4|tok3|tok2",
	  "Type of the KV cache" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_bench = {
	.name = "bench",
	.args = "M",
	.help = "Speed of prompts and generation against what memory could give",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = bench_opts,
	.run = run_bench,
};
