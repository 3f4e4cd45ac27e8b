/* ctl-run - text out of a model: run (one completion) and chat (a conversation). */
#include <editline/readline.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/num.h"
#include "client/ctl.h"

struct run_call {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	bool stream, keep;              /* text to stdout as it comes; text and tokens kept */
	struct sbuf text;
	json_t *tokens, *logprobs, *times;
	bool failed;                    /* out of memory, or stdout is broken */
	bool ended;                     /* result is there */
	double start;
	struct qllm_result result;
	char *note;
};

static json_t *logprobs_json(const struct qllm_token *t)
{
	json_t *top = json_array();

	for (size_t i = 0; i < t->n_top; i++)
		json_array_append_new(top, json_pack("{s:i, s:f}", "id", t->top[i].id, "logprob",
		                                     (double)t->top[i].logprob));
	return json_pack("{s:i, s:f, s:o}", "id", t->id, "logprob", (double)t->logprob, "top", top);
}

static void on_token(struct run_call *call, const struct qllm_token *t)
{
	if (call->stream && t->n_text &&
	    (fwrite(t->text, 1, t->n_text, stdout) != t->n_text || fflush(stdout) != 0))
		call->failed = true;
	if (!call->keep)
		return;
	if (sbuf_append(&call->text, t->text, t->n_text) < 0 ||
	    json_array_append_new(call->tokens, json_integer(t->id)) < 0 ||
	    json_array_append_new(call->times, json_real(ctl_now() - call->start)) < 0)
		call->failed = true;
	if (!isnan(t->logprob) && json_array_append_new(call->logprobs, logprobs_json(t)) < 0)
		call->failed = true;
}

static void on_run(void *user, const struct qllm_event *ev)
{
	struct run_call *call = user;

	if (ev->type == QLLM_EVENT_TOKEN)
		on_token(call, ev->token);
	if (ev->result) {
		call->ended = true;
		call->result = *ev->result;
		call->note = ev->result->note ? mem_strdup(ev->result->note) : NULL;
		call->result.note = NULL;
	}
	ctl_on_event(&call->reply, ev);
}

static void run_init(struct run_call *call, struct ctl *c, bool stream, bool keep)
{
	*call = (struct run_call){
		.reply = { .c = c },
		.stream = stream,
		.keep = keep,
		.tokens = json_array(),
		.logprobs = json_array(),
		.times = json_array(),
	};
}

static void run_deinit(struct run_call *call)
{
	json_decref(call->tokens);
	json_decref(call->logprobs);
	json_decref(call->times);
	sbuf_deinit(&call->text);
	mem_free(call->note);
	ctl_reply_deinit(&call->reply);
}

/* The arrays behind a request's arguments. */
struct sampling_lists {
	VEC(struct qllm_bytes) stop;
	VEC(struct qllm_bias) bias;
};

static int take_bias(struct ctl *c, const char *value, struct sampling_lists *lists)
{
	const char *eq = strchr(value, '=');
	struct qllm_bias bias = { 0, -INFINITY };
	char id[16];
	uint64_t n;
	double x;

	snprintf(id, sizeof(id), "%.*s", eq ? (int)MIN(eq - value, (ptrdiff_t)15) : 0, value);
	if (!eq || str_to_u64(id, &n) < 0 || n > INT32_MAX)
		return ctl_fail(c, EXIT_USAGE, "--logit-bias wants ID=X, not \"%.60s\"", value);
	bias.id = (int32_t)n;
	if (strcmp(eq + 1, "-inf") != 0) {
		if (str_to_double(eq[1] == '-' ? eq + 2 : eq + 1, &x) < 0 || !isfinite(x))
			return ctl_fail(c, EXIT_USAGE,
			                "--logit-bias wants a number or -inf after %s=", id);
		bias.bias = (float)(eq[1] == '-' ? -x : x);
	}
	return vec_push(&lists->bias, bias) < 0 ? ctl_fail(c, EXIT_FAILED, "no memory") : EXIT_OK;
}

static void take_float(struct ctl *c, struct qllm_generate_args *a, const char *name,
                       unsigned field, float *to)
{
	if (!ctl_has(c, name))
		return;
	a->given |= field;
	*to = (float)ctl_number(c, name, 0);
}

static int take_sampling(struct ctl *c, struct qllm_generate_args *a, struct sampling_lists *lists)
{
	int code = EXIT_OK;

	take_float(c, a, "temp", QLLM_TEMP, &a->temp);
	take_float(c, a, "top-p", QLLM_TOP_P, &a->top_p);
	take_float(c, a, "min-p", QLLM_MIN_P, &a->min_p);
	take_float(c, a, "typical-p", QLLM_TYPICAL_P, &a->typical_p);
	take_float(c, a, "repeat-penalty", QLLM_REPEAT_PENALTY, &a->repeat_penalty);
	take_float(c, a, "presence-penalty", QLLM_PRESENCE_PENALTY, &a->presence_penalty);
	take_float(c, a, "frequency-penalty", QLLM_FREQUENCY_PENALTY, &a->frequency_penalty);
	if (ctl_has(c, "top-k"))
		a->given |= QLLM_TOP_K;
	a->top_k = (uint32_t)MIN(ctl_count(c, "top-k", 0), UINT32_MAX);
	if (ctl_has(c, "seed"))
		a->given |= QLLM_SEED;
	a->seed = ctl_count(c, "seed", 0);
	a->max_tokens = (uint32_t)MIN(ctl_count(c, "max-tokens", 0), UINT32_MAX);
	a->logprobs = (uint32_t)MIN(ctl_count(c, "logprobs", 0), UINT32_MAX);
	a->ignore_eos = ctl_has(c, "ignore-eos");
	a->lookup = ctl_has(c, "lookup") - ctl_has(c, "no-lookup");
	a->draft = ctl_text(c, "draft", NULL);
	a->no_cache = ctl_has(c, "no-cache");
	for (size_t i = 0; i < c->given.n && code == EXIT_OK; i++) {
		const struct ctl_given *g = &c->given.data[i];
		struct qllm_bytes stop = { g->value, g->value ? strlen(g->value) : 0 };

		if (strcmp(g->opt->name, "stop") == 0 && stop.n == 0)
			code = ctl_fail(c, EXIT_USAGE, "--stop wants at least one character");
		else if (strcmp(g->opt->name, "stop") == 0 && vec_push(&lists->stop, stop) < 0)
			code = ctl_fail(c, EXIT_FAILED, "no memory");
		else if (strcmp(g->opt->name, "logit-bias") == 0)
			code = take_bias(c, g->value, lists);
	}
	if (code == EXIT_OK && lists->stop.n > 16)
		code = ctl_fail(c, EXIT_USAGE, "at most 16 --stop are taken, %zu were given",
		                lists->stop.n);
	a->stop = lists->stop.data;
	a->n_stop = lists->stop.n;
	a->bias = lists->bias.data;
	a->n_bias = lists->bias.n;
	return code;
}

static void print_timings(const struct qllm_result *r)
{
	fprintf(stderr,
	        "prompt %u tokens (%u cached) in %.3f s, %.1f tokens/s; first token after %.3f s; ",
	        r->prompt_tokens, r->cached_tokens, r->prompt_s,
	        r->prompt_s > 0 ? (r->prompt_tokens - r->cached_tokens) / r->prompt_s : 0,
	        r->first_token_s);
	if (r->draft_tokens > 0)
		fprintf(stderr, "%llu of %llu guesses held; ",
		        (unsigned long long)r->draft_accepted,
		        (unsigned long long)r->draft_tokens);
	fprintf(stderr, "%u tokens in %.3f s, %.1f tokens/s; seed %llu\n", r->completion_tokens,
	        r->decode_s,
	        r->decode_s > 0 && r->completion_tokens > 1
	                ? (r->completion_tokens - 1) / r->decode_s
	                : 0,
	        (unsigned long long)r->seed);
}

static int print_run_json(struct ctl *c, struct run_call *call)
{
	static const char *const finish[] = { "stop", "length", "cancelled" };
	const struct qllm_result *r = &call->result;
	json_t *usage = json_pack("{s:i, s:i, s:i, s:I, s:I}", "prompt_tokens",
	                          (int)r->prompt_tokens, "cached_tokens", (int)r->cached_tokens,
	                          "completion_tokens", (int)r->completion_tokens, "draft_tokens",
	                          (json_int_t)r->draft_tokens, "draft_accepted",
	                          (json_int_t)r->draft_accepted);
	json_t *j = json_pack("{s:o, s:O, s:s, s:o, s:{s:f, s:f, s:f}, s:I}", "text",
	                      out_text(call->text.p ? call->text.p : "", call->text.n), "tokens",
	                      call->tokens, "finish_reason", finish[MIN((unsigned)r->finish, 2u)],
	                      "usage", usage, "timings", "prompt_s", r->prompt_s, "first_token_s",
	                      r->first_token_s, "decode_s", r->decode_s, "seed",
	                      (json_int_t)r->seed);

	if (j && json_array_size(call->logprobs) > 0)
		json_object_set(j, "logprobs", call->logprobs);
	/* when each token reached this process, in seconds since the request was made */
	if (j && ctl_has(c, "verbose"))
		json_object_set(j, "token_s", call->times);
	return out_json(c, j);
}

/* The end of a completion: notes, timings, the JSON object. A cancelled one still tells what it
 * made. */
static int print_run(struct ctl *c, struct run_call *call, int code)
{
	if (call->note && call->ended)
		ctl_note(c, "note: %s", call->note);
	if (call->ended && ctl_has(c, "verbose") && !c->json)
		print_timings(&call->result);
	if (call->failed && code == EXIT_OK)
		return ctl_fail(c, EXIT_FAILED, "stdout: %s",
		                ferror(stdout) ? strerror(errno) : "no memory for the text");
	if (call->ended && c->json) {
		int r = print_run_json(c, call);

		return code == EXIT_OK ? r : code;
	}
	return code;
}

static int run_run(struct ctl *c)
{
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	struct sampling_lists lists = { { 0 }, { 0 } };
	_cleanup_mem_ char *prompt = NULL;
	struct run_call call;
	int code = take_sampling(c, &args, &lists);

	run_init(&call, c, !c->json, c->json);
	args.model = ctl_arg(c, 0);
	args.raw = ctl_has(c, "raw");
	args.system = ctl_text(c, "system", NULL);
	if (code == EXIT_OK && args.raw && args.system)
		code = ctl_fail(c, EXIT_USAGE,
		                "--system is part of the template, which --raw leaves out");
	if (code == EXIT_OK)
		code = ctl_input(c, ctl_arg(c, 1), "PROMPT", &prompt, &args.n_prompt);
	args.prompt = prompt;
	if (code == EXIT_OK) {
		call.start = ctl_now();
		code = ctl_finish(c, qllm_generate(c->q, &args, on_run, &call), &call.reply);
		if (call.stream && c->tty_out && (code == EXIT_OK || call.ended))
			putchar('\n');
		code = print_run(c, &call, code);
	}
	vec_deinit(&lists.stop);
	vec_deinit(&lists.bias);
	run_deinit(&call);
	return code;
}

/* --- chat --- */

static const char chat_help[] =
	"/system TEXT  set or clear the system message\n"
	"/reset        forget the conversation\n"
	"/quit         leave (also ^D)\n"
	"^C            stop the answer\n";

/* $XDG_STATE_HOME/qllm/history; NULL when there is no home to keep it in. */
static char *history_path(void)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	struct sbuf path = { 0 };
	char *p;

	if (state && *state == '/')
		sbuf_printf(&path, "%s/qllm", state);
	else if (home && *home == '/')
		sbuf_printf(&path, "%s/.local/state/qllm", home);
	if (!path.p || (mkdir(path.p, 0700) < 0 && errno != EEXIST)) {
		sbuf_deinit(&path);
		return NULL;
	}
	sbuf_printf(&path, "/history");
	p = sbuf_steal(&path);
	return p;
}

/* A line of any length without its newline; NULL at the end. free() it. */
static char *next_line(bool tty)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	if (tty)
		return readline("> ");
	n = getline(&line, &cap, stdin);
	if (n < 0) {
		free(line);
		return NULL;
	}
	if (n > 0 && line[n - 1] == '\n')
		line[n - 1] = 0;
	return line;
}

static json_t *message(const char *role, const void *p, size_t n)
{
	return json_pack("{s:s, s:o}", "role", role, "content", out_text(p, n));
}

static int chat_turn(struct ctl *c, struct qllm_generate_args *args, json_t *messages)
{
	struct run_call call;
	char *text = json_dumps(messages, JSON_COMPACT);
	int code;

	if (!text)
		return ctl_fail(c, EXIT_FAILED, "no memory");
	run_init(&call, c, true, true);
	args->messages = text;
	call.start = ctl_now();
	c->deadline = c->timeout > 0 ? call.start + c->timeout : 0;
	code = ctl_finish(c, qllm_generate(c->q, args, on_run, &call), &call.reply);
	free(text);
	putchar('\n');
	fflush(stdout);
	/* what was said until ^C stays part of the conversation */
	if (call.ended)
		json_array_append_new(messages, message("assistant", call.text.p ? call.text.p : "",
		                                        call.text.n));
	if (call.ended && ctl_has(c, "verbose"))
		print_timings(&call.result);
	if (call.note)
		ctl_note(c, "note: %s", call.note);
	run_deinit(&call);
	return code;
}

static void set_system(json_t *messages, const char *text)
{
	const json_t *first = json_array_get(messages, 0);
	const char *role = json_string_value(json_object_get(first, "role"));

	if (role && strcmp(role, "system") == 0)
		json_array_remove(messages, 0);
	if (*text)
		json_array_insert_new(messages, 0, message("system", text, strlen(text)));
}

/* true: the line was a command. */
static bool chat_command(struct ctl *c, const char *line, json_t *messages, bool *quit)
{
	if (line[0] != '/')
		return false;
	if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
		*quit = true;
	else if (strcmp(line, "/reset") == 0)
		json_array_clear(messages);
	else if (strncmp(line, "/system", 7) == 0 && (line[7] == ' ' || !line[7]))
		set_system(messages, line[7] ? line + 8 : "");
	else
		fputs(chat_help, stderr);
	(void)c;
	return true;
}

static int chat_loop(struct ctl *c, struct qllm_generate_args *args, json_t *messages, bool tty)
{
	bool quit = false;
	int code = EXIT_OK;

	while (!quit) {
		char *line = next_line(tty);

		if (!line)
			break;
		if (tty && *line)
			add_history(line);
		if (*line && !chat_command(c, line, messages, &quit)) {
			json_array_append_new(messages, message("user", line, strlen(line)));
			code = chat_turn(c, args, messages);
			if (code == EXIT_INTERRUPTED)
				ctl_interrupt_clear();
			else if (code != EXIT_OK && code != EXIT_TIMEOUT)
				quit = true;
		}
		free(line);
	}
	return code == EXIT_INTERRUPTED ? EXIT_OK : code;
}

static int run_chat(struct ctl *c)
{
	struct qllm_generate_args args = QLLM_GENERATE_INIT;
	struct sampling_lists lists = { { 0 }, { 0 } };
	bool tty = isatty(STDIN_FILENO);
	_cleanup_mem_ char *path = tty ? history_path() : NULL;
	json_t *messages = json_array();
	int code = take_sampling(c, &args, &lists);

	args.model = ctl_arg(c, 0);
	if (code == EXIT_OK && ctl_has(c, "system"))
		set_system(messages, ctl_text(c, "system", ""));
	if (tty) {
		using_history();
		if (path)
			read_history(path);
		ctl_note(c, "/help tells the commands; ^D leaves");
	}
	if (code == EXIT_OK)
		code = chat_loop(c, &args, messages, tty);
	if (tty && path)
		write_history(path);
	json_decref(messages);
	vec_deinit(&lists.stop);
	vec_deinit(&lists.bias);
	return code;
}

#define SAMPLING_OPTS                                                                             \
	{ "max-tokens", 'n', CTL_COUNT, "N",                                                      \
	  "At most N tokens; else until the model ends or the context is full" },                 \
		{ "system", 0, CTL_TEXT, "S", "System message" },                                 \
		{ "temp", 0, CTL_NUMBER, "X", "Temperature; 0 is greedy" },                       \
		{ "top-k", 0, CTL_COUNT, "N", "Draw from the N most likely tokens; 0 is off" },   \
		{ "top-p", 0, CTL_NUMBER, "X",                                                    \
		  "Draw from the most likely tokens that hold the share X" },                     \
		{ "min-p", 0, CTL_NUMBER, "X", "Drop tokens less likely than X times the best" }, \
		{ "typical-p", 0, CTL_NUMBER, "X", "Locally typical sampling; 1 is off" },        \
		{ "repeat-penalty", 0, CTL_NUMBER, "X",                                           \
		  "Divide the logits of recent tokens; 1 is off" },                               \
		{ "presence-penalty", 0, CTL_NUMBER, "X",                                         \
		  "Taken off tokens that occurred; 0 is off" },                                   \
		{ "frequency-penalty", 0, CTL_NUMBER, "X",                                        \
		  "Taken off for each occurrence; 0 is off" },                                    \
		{ "logit-bias", 0, CTL_TEXT, "ID=X",                                              \
		  "Add X to a token's logit; -inf bans it; repeatable" },                         \
		{ "seed", 0, CTL_COUNT, "N", "The same seed gives the same text" },               \
		{ "stop", 0, CTL_TEXT, "S", "End before this text; repeatable, at most 16" },     \
		{ "ignore-eos", 0, CTL_FLAG, NULL, "Go on after the end-of-text token" },         \
		{ "no-cache", 0, CTL_FLAG, NULL,                                                  \
		  "Take nothing from earlier prompts and keep nothing of this one for later" },   \
		{ "verbose", 'v', CTL_FLAG, NULL,                                                 \
		  "Timings on stderr; with --json the arrival of each token" },                   \
		{ "lora", 0, CTL_TEXT, "A", "Adapter", .later = true },                           \
		{ "draft", 0, CTL_TEXT, "M2",                                                     \
		  "Let a smaller model of the same vocabulary guess ahead: same text, sooner" },  \
		{ "lookup", 0, CTL_FLAG, NULL,                                                    \
		  "Guess ahead what followed the same words before: same text, sooner" },         \
		{ "no-lookup", 0, CTL_FLAG, NULL, "Do not, where the daemon would" },             \
		{ "json-schema", 0, CTL_TEXT, "FILE", "Schema", .later = true },                  \
	{                                                                                         \
		"grammar", 0, CTL_TEXT, "FILE", "Grammar", .later = true                          \
	}

static const struct ctl_opt run_opts[] = {
	{ "raw", 0, CTL_FLAG, NULL,
	  "No template: the prompt as it is, BOS where the vocabulary adds it" },
	{ "logprobs", 0, CTL_COUNT, "K", "With --json: the K best tokens beside each, at most 20" },
	SAMPLING_OPTS,
	{ 0 },
};
static const struct ctl_opt chat_opts[] = { SAMPLING_OPTS, { 0 } };

const struct ctl_cmd ctl_cmd_run = {
	.name = "run",
	.args = "M [PROMPT|-]",
	.help = "One completion, streamed to stdout",
	.min_args = 1,
	.max_args = 2,
	.flags = CTL_CONNECT,
	.opts = run_opts,
	.run = run_run,
	.example = "qllmctl run m 'What is the capital of France?' --temp 0",
};
const struct ctl_cmd ctl_cmd_chat = {
	.name = "chat",
	.args = "M",
	.help = "A conversation; /help tells its commands",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = chat_opts,
	.run = run_chat,
};
