/* ctl-text - text, tokens and logits without generating: tokenize detokenize template logits
 * eval. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/num.h"
#include "client/ctl.h"

static int run_tokenize(struct ctl *c)
{
	_cleanup_mem_ char *text = NULL;
	struct ctl_reply reply = { .c = c };
	unsigned flags = (ctl_has(c, "no-bos") ? QLLM_NO_BOS : 0u) |
	                 (ctl_has(c, "no-special") ? QLLM_NO_SPECIAL : 0u);
	const int32_t *ids;
	json_t *list;
	size_t n;
	int code = ctl_input(c, ctl_arg(c, 1), "TEXT", &text, &n);

	if (code == EXIT_OK)
		code = ctl_finish(
			c, qllm_tokenize(c->q, ctl_arg(c, 0), text, n, flags, ctl_on_event, &reply),
			&reply);
	ids = (const int32_t *)(const void *)reply.data;
	n = reply.n_data / sizeof(*ids);
	if (code == EXIT_OK && c->json) {
		list = json_array();
		for (size_t i = 0; i < n; i++)
			json_array_append_new(list, json_integer(ids[i]));
		code = out_json(c, json_pack("{s:o}", "tokens", list));
	} else if (code == EXIT_OK) {
		for (size_t i = 0; i < n; i++)
			printf("%s%d", i ? " " : "", ids[i]);
		putchar('\n');
	}
	ctl_reply_deinit(&reply);
	return code;
}

/* Ids of all arguments from `first` on, or of stdin. */
static int ids_of_args(struct ctl *c, unsigned first, struct ctl_ids *ids)
{
	_cleanup_mem_ char *text = NULL;
	struct err err = { 0 };
	size_t n;
	int r = 0, code = EXIT_OK;

	if (c->args.n <= first || strcmp(ctl_arg(c, first), "-") == 0) {
		code = ctl_input(c, ctl_arg(c, first), "IDS", &text, &n);
		if (code == EXIT_OK)
			r = ctl_ids_parse(ids, text, n, &err);
	}
	for (unsigned i = first; !text && r == 0 && i < c->args.n; i++)
		r = ctl_ids_parse(ids, ctl_arg(c, i), strlen(ctl_arg(c, i)), &err);
	if (r < 0)
		return ctl_fail(c, EXIT_USAGE, "token ids: %s",
		                err.text[0] ? err.text : strerror(-r));
	return code;
}

static int run_detokenize(struct ctl *c)
{
	struct ctl_reply reply = { .c = c };
	struct ctl_ids ids = { 0 };
	int code = ids_of_args(c, 1, &ids);

	if (code == EXIT_OK)
		code = ctl_finish(
			c,
			qllm_detokenize(c->q, ctl_arg(c, 0), ids.data, ids.n, ctl_on_event, &reply),
			&reply);
	if (code == EXIT_OK && c->json)
		code = out_json(c, json_pack("{s:o}", "text",
		                             out_text(reply.data ? reply.data : "", reply.n_data)));
	else if (code == EXIT_OK)
		fwrite(reply.data ? reply.data : "", 1, reply.n_data, stdout);
	vec_deinit(&ids);
	ctl_reply_deinit(&reply);
	return code;
}

/* A file that must hold JSON; what the daemon gets is the text as it stands. */
static int read_json(struct ctl *c, const char *path, char **ret)
{
	_cleanup_mem_ char *text = NULL;
	json_error_t at;
	json_t *j;
	size_t n;
	int code = ctl_read_path(c, path, &text, &n);

	if (code != EXIT_OK)
		return code;
	j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
	if (!json_is_array(j)) {
		code = j ? ctl_fail(c, EXIT_FAILED, "%s: wants a JSON list", path)
		         : ctl_fail(c, EXIT_FAILED, "%s: line %d: %s", path, at.line, at.text);
		json_decref(j);
		return code;
	}
	json_decref(j);
	*ret = STEAL(text);
	return EXIT_OK;
}

static int run_template(struct ctl *c)
{
	_cleanup_mem_ char *messages = NULL, *tools = NULL;
	const char *path = ctl_text(c, "messages", NULL), *path_tools = ctl_text(c, "tools", NULL);
	struct ctl_reply reply = { .c = c };
	int code;

	if (!path)
		return ctl_fail(
			c, EXIT_USAGE,
			"template wants --messages FILE, a JSON list of {\"role\",\"content\"}");
	code = read_json(c, path, &messages);
	if (code == EXIT_OK && path_tools)
		code = read_json(c, path_tools, &tools);
	if (code == EXIT_OK)
		code = ctl_finish(
			c,
			qllm_template(c->q, ctl_arg(c, 0), messages, tools, ctl_on_event, &reply),
			&reply);
	if (code == EXIT_OK && c->json)
		code = out_json(c, json_pack("{s:o}", "prompt",
		                             out_text(reply.data ? reply.data : "", reply.n_data)));
	else if (code == EXIT_OK)
		fwrite(reply.data ? reply.data : "", 1, reply.n_data, stdout);
	ctl_reply_deinit(&reply);
	return code;
}

/* Rows go to a file as they come: beside the target under a temporary name, linked over it at the
 * end, so that nobody reads half an array. Devices and pipes are written to directly. */
struct logits_call {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	FILE *f;
	size_t n_tokens;
	uint64_t n_vocab, next;         /* floats expected next */
	int error;                      /* first failure; errno of the file, or EPROTO */
};

static void on_logits(void *user, const struct qllm_event *ev)
{
	struct logits_call *call = user;
	const struct qllm_row *row = ev->row;
	char head[NPY_HEAD_MAX];

	if (ev->type == QLLM_EVENT_ROW && !call->error) {
		if (call->next == 0) {
			call->n_vocab = row->n_vocab;
			if (fwrite(head, npy_head(head, call->n_tokens, row->n_vocab), 1,
			           call->f) != 1)
				call->error = errno;
		}
		if (row->n_vocab != call->n_vocab ||
		    (uint64_t)row->index * row->n_vocab + row->first != call->next)
			call->error = EPROTO;
		else if (row->n && fwrite(row->logits, row->n * sizeof(float), 1, call->f) != 1)
			call->error = errno;
		call->next += row->n;
		out_progress(call->reply.c, "logits", row->index + 1, call->n_tokens);
	}
	ctl_on_event(&call->reply, ev);
}

static int read_ids(struct ctl *c, const char *path, struct ctl_ids *ids)
{
	_cleanup_mem_ char *text = NULL;
	struct err err = { 0 };
	size_t n;
	int r, code = ctl_read_path(c, path, &text, &n);

	if (code != EXIT_OK)
		return code;
	r = ctl_ids_parse(ids, text, n, &err);
	if (r == 0 && ids->n == 0)
		r = err_set(&err, -EINVAL, "no token ids");
	return r < 0 ? ctl_fail(c, EXIT_FAILED, "%s: %s", path,
	                        err.text[0] ? err.text : strerror(-r))
	             : EXIT_OK;
}

static int logits_to(struct ctl *c, const char *out, const struct ctl_ids *ids, uint32_t n_prompt)
{
	struct logits_call call = { .reply = { .c = c }, .n_tokens = ids->n };
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_mem_ char *temp = NULL;
	struct sbuf name = { 0 };
	struct stat st;
	bool direct = stat(out, &st) == 0 && !S_ISREG(st.st_mode);
	int code;

	if (sbuf_printf(&name, "%s%s", out, direct ? "" : ".partial") < 0 ||
	    !(temp = sbuf_steal(&name)))
		return ctl_fail(c, EXIT_FAILED, "no memory");
	f = call.f = fopen(temp, "we");
	if (!f)
		return ctl_fail(c, EXIT_FAILED, "%s: %s", temp, strerror(errno));
	code = ctl_finish(
		c, qllm_logits(c->q, ctl_arg(c, 0), ids->data, ids->n, n_prompt, on_logits, &call),
		&call.reply);
	if (code == EXIT_OK && fflush(f) != 0 && !call.error)
		call.error = errno;
	if (code == EXIT_OK && !call.error && call.next != call.n_vocab * ids->n)
		call.error = EPROTO;
	if (code == EXIT_OK && call.error)
		code = ctl_fail(c, EXIT_FAILED, "%s: %s", out,
		                call.error == EPROTO ? "the daemon's rows do not fit together"
		                                     : strerror(call.error));
	if (!direct && code == EXIT_OK && rename(temp, out) < 0)
		code = ctl_fail(c, EXIT_FAILED, "%s: %s", out, strerror(errno));
	if (!direct && code != EXIT_OK)
		unlink(temp);
	if (code == EXIT_OK && c->json)
		code = out_json(c,
		                json_pack("{s:o, s:[I, I]}", "out", out_text(out, strlen(out)),
		                          "shape", (json_int_t)ids->n, (json_int_t)call.n_vocab));
	return code;
}

static int run_logits(struct ctl *c)
{
	const char *path = ctl_text(c, "tokens", NULL), *out = ctl_text(c, "out", NULL);
	struct ctl_ids ids = { 0 };
	const char *way = ctl_text(c, "path", "prompt");
	uint64_t n_prompt;
	int code;

	if (!path || !out)
		return ctl_fail(c, EXIT_USAGE, "logits wants --tokens FILE and --out F.npy");
	if (ctl_has(c, "path") && ctl_has(c, "prompt-tokens"))
		return ctl_fail(c, EXIT_USAGE, "logits takes --path or --prompt-tokens, not both");
	code = read_ids(c, path, &ids);
	if (code == EXIT_OK) {
		n_prompt = ctl_count(c, "prompt-tokens", strcmp(way, "decode") == 0 ? 0 : ids.n);
		if (strcmp(way, "exact") == 0)
			code = logits_to(c, out, &ids, QLLM_EXACT);
		else if (n_prompt > ids.n)
			code = ctl_fail(c, EXIT_USAGE,
			                "--prompt-tokens %llu is more than the %zu tokens of %s",
			                (unsigned long long)n_prompt, ids.n, path);
		else
			code = logits_to(c, out, &ids, (uint32_t)n_prompt);
	}
	vec_deinit(&ids);
	return code;
}

struct eval_call {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	struct qllm_eval_result result;
};

static void on_eval(void *user, const struct qllm_event *ev)
{
	struct eval_call *call = user;

	if (ev->eval)
		call->result = *ev->eval;
	ctl_on_event(&call->reply, ev);
}

static int print_eval(struct ctl *c, const struct qllm_eval_result *e)
{
	json_t *j;

	if (!c->json) {
		printf("perplexity %.4f +/- %.4f over %llu tokens\n", e->ppl, e->ppl_stderr,
		       (unsigned long long)e->tokens);
		if (e->has_kld)
			printf("KL divergence mean %.3g, p99 %.3g, max %.3g; same top token "
			       "%.2f%%\n",
			       e->kld_mean, e->kld_p99, e->kld_max, e->top1 * 100);
		return EXIT_OK;
	}
	j = json_pack("{s:f, s:f, s:I, s:f}", "ppl", e->ppl, "ppl_stderr", e->ppl_stderr, "tokens",
	              (json_int_t)e->tokens, "seconds", e->seconds);
	if (j && e->has_kld) {
		json_object_set_new(j, "kld_mean", json_real(e->kld_mean));
		json_object_set_new(j, "kld_p99", json_real(e->kld_p99));
		json_object_set_new(j, "kld_max", json_real(e->kld_max));
		json_object_set_new(j, "top1", json_real(e->top1));
	}
	return out_json(c, j);
}

static int run_eval(struct ctl *c)
{
	struct qllm_eval_args args = QLLM_EVAL_INIT;
	struct eval_call call = { .reply = { .c = c } };
	_cleanup_mem_ char *text = NULL;
	const char *path = ctl_text(c, "text", NULL);
	int code;

	if (!path)
		return ctl_fail(c, EXIT_USAGE, "eval wants --text FILE");
	code = ctl_read_path(c, path, &text, &args.n_text);
	if (code != EXIT_OK)
		return code;
	args.model = ctl_arg(c, 0);
	args.text = text;
	args.ctx = (uint32_t)ctl_count(c, "ctx", 512);
	args.chunks = (uint32_t)ctl_count(c, "chunks", 0);
	args.protocol = ctl_text(c, "protocol", NULL);
	args.ref = ctl_text(c, "ref", NULL);
	args.kv = ctl_text(c, "kv", NULL);
	code = ctl_finish(c, qllm_eval(c->q, &args, on_eval, &call), &call.reply);
	ctl_reply_deinit(&call.reply);
	return code == EXIT_OK ? print_eval(c, &call.result) : code;
}

static const struct ctl_opt tokenize_opts[] = {
	{ "no-bos", 0, CTL_FLAG, NULL, "Do not add BOS where the vocabulary asks for it" },
	{ "no-special", 0, CTL_FLAG, NULL, "Take special tokens in the text as plain characters" },
	{ 0 },
};
static const struct ctl_opt template_opts[] = {
	{ "messages", 0, CTL_TEXT, "FILE", "JSON list of {\"role\",\"content\"}; - is stdin" },
	{ "tools", 0, CTL_TEXT, "FILE", "JSON list of tools" },
	{ 0 },
};
static const struct ctl_opt logits_opts[] = {
	{ "tokens", 0, CTL_TEXT, "FILE", "JSON list of token ids; - is stdin; no BOS is added" },
	{ "out", 0, CTL_TEXT, "F.npy",
	  "float32 array [tokens, vocabulary]; row t holds the logits after token t" },
	{ "path", 0, CTL_CHOICE, "prompt|decode|exact",
	  "How all tokens are computed, default prompt; exact: as eval does" },
	{ "prompt-tokens", 0, CTL_COUNT, "N",
	  "The first N take the prompt path, the rest decode, as run does" },
	{ 0 },
};
static const struct ctl_opt eval_opts[] = {
	{ "text", 0, CTL_TEXT, "FILE", "Text to score; - is stdin" },
	{ "ctx", 0, CTL_COUNT, "N", "Tokens a chunk, default 512" },
	{ "chunks", 0, CTL_COUNT, "N", "Only the first N chunks" },
	{ "protocol", 0, CTL_CHOICE, "llama.cpp|hf",
	  "How chunks are cut and scored, default llama.cpp" },
	{ "ref", 0, CTL_TEXT, "M2", "Also the divergence from this model" },
	{ "kv", 0, CTL_CHOICE, "f16|kv8|kv4|kivi4|kivi2|tok8|tok4|tok3|tok2",
	  "Type of the KV cache" },
	{ "task", 0, CTL_TEXT, "T", "Score a task", .later = true },
	{ "shots", 0, CTL_COUNT, "N", "Examples before each question", .later = true },
	{ "judge", 0, CTL_TEXT, "M3", "Model that judges answers", .later = true },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_tokenize = {
	.name = "tokenize",
	.args = "M [TEXT|-]",
	.help = "Token ids of a text; any bytes are allowed",
	.min_args = 1,
	.max_args = 2,
	.flags = CTL_CONNECT,
	.opts = tokenize_opts,
	.run = run_tokenize,
};
const struct ctl_cmd ctl_cmd_detokenize = {
	.name = "detokenize",
	.args = "M [IDS|-]",
	.help = "Bytes of token ids, as numbers or a JSON list",
	.min_args = 1,
	.max_args = UINT32_MAX,
	.flags = CTL_CONNECT,
	.run = run_detokenize,
};
const struct ctl_cmd ctl_cmd_template = {
	.name = "template",
	.args = "M",
	.help = "Render messages with the model's chat template",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = template_opts,
	.run = run_template,
};
const struct ctl_cmd ctl_cmd_logits = {
	.name = "logits",
	.args = "M",
	.help = "Logits after every token, as a NumPy file",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT | CTL_ROWS,
	.opts = logits_opts,
	.run = run_logits,
	.example = "qllmctl logits m --tokens ids.json --out logits.npy",
};
const struct ctl_cmd ctl_cmd_eval = {
	.name = "eval",
	.args = "M",
	.help = "Perplexity of a text, and divergence from another model",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = eval_opts,
	.run = run_eval,
};
