/* ctl-models - the store and what of it is in memory: import ls show estimate rm load unload
 * ps is-loaded. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "client/ctl.h"

static const char kv_types[] = "f16|kv8|kv4|kivi4|kivi2|tok8|tok4|tok3|tok2";

struct list_call {
	struct ctl_reply reply;         /* first: ctl_on_event gets the same pointer */
	json_t *rows;
	json_t *answer;                 /* of estimate and load */
	bool failed;
};

static void add(struct list_call *call, json_t *row)
{
	if (json_array_append_new(call->rows, row) < 0)
		call->failed = true;
}

static void on_list(void *user, const struct qllm_event *ev)
{
	struct list_call *call = user;
	const struct qllm_model *m = ev->model;
	const struct qllm_loaded *l = ev->loaded;
	const struct qllm_estimate_result *e = ev->estimate;

	if (ev->type == QLLM_EVENT_MODEL)
		add(call,
		    json_pack("{s:s, s:o, s:s, s:I, s:I, s:s, s:b, s:b, s:b, s:b, s:s?}", "name",
		              m->name, "path", out_text(m->path, strlen(m->path)), "architecture",
		              m->architecture, "parameters", (json_int_t)m->parameters, "bytes",
		              (json_int_t)m->bytes, "type", m->type, "loaded", m->loaded, "packed",
		              m->packed, "in_place", m->in_place, "shared", m->shared, "fault",
		              m->fault));
	if (ev->type == QLLM_EVENT_LOADED)
		add(call,
		    json_pack("{s:s, s:s, s:I, s:I, s:i, s:I, s:I, s:I, s:i, s:f, s:b, s:s, s:I}",
		              "name", l->name, "state", l->state, "bytes", (json_int_t)l->bytes,
		              "resident_bytes", (json_int_t)l->resident_bytes, "references",
		              (int)l->references, "kv_pages", (json_int_t)l->kv_pages,
		              "kv_pages_max", (json_int_t)l->kv_pages_max, "kv_bytes",
		              (json_int_t)l->kv_bytes, "ctx", (int)l->ctx, "idle_s", l->idle_s,
		              "pinned", l->pinned, "kv", l->kv, "kv_pages_cached",
		              (json_int_t)l->kv_pages_cached));
	if (e)
		call->answer = json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:b}",
		                         "weights_bytes", (json_int_t)e->weights_bytes, "kv_bytes",
		                         (json_int_t)e->kv_bytes, "kv_bytes_per_token",
		                         (json_int_t)e->kv_bytes_per_token, "activation_bytes",
		                         (json_int_t)e->activation_bytes, "budget_bytes",
		                         (json_int_t)e->budget_bytes, "ctx", (int)e->ctx, "slots",
		                         (int)e->slots, "fits", e->fits);
	if (ev->load)
		call->answer = json_pack("{s:f, s:i, s:b}", "seconds", ev->load->seconds, "ctx",
		                         (int)ev->load->ctx, "was_loaded", ev->load->was_loaded);
	ctl_on_event(&call->reply, ev);
}

static int list_init_(struct ctl *c, struct list_call *call)
{
	*call = (struct list_call){ .reply = { .c = c }, .rows = json_array() };
	return call->rows ? EXIT_OK : ctl_fail(c, EXIT_FAILED, "no memory");
}

static int list_finish(struct ctl *c, struct list_call *call, int64_t id)
{
	int code = ctl_finish(c, id, &call->reply);

	if (code == EXIT_OK && call->failed)
		code = ctl_fail(c, EXIT_FAILED, "no memory for the daemon's answer");
	return code;
}

static void list_deinit(struct list_call *call)
{
	json_decref(call->rows);
	json_decref(call->answer);
	ctl_reply_deinit(&call->reply);
}

static const char *text(const json_t *row, const char *key)
{
	const char *s = json_string_value(json_object_get(row, key));

	return s ? s : "";
}

static uint64_t number(const json_t *row, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(row, key));
}

static bool truth(const json_t *row, const char *key)
{
	return json_is_true(json_object_get(row, key));
}

static void print_names(const json_t *rows)
{
	for (size_t i = 0; i < json_array_size(rows); i++)
		puts(text(json_array_get(rows, i), "name"));
}

/* Parameters for people: 134.5M. */
static void params_text(const struct ctl *c, char out[32], uint64_t n)
{
	if (!c->tty_out)
		snprintf(out, 32, "%llu", (unsigned long long)n);
	else
		snprintf(out, 32, n >= 1000000000 ? "%.1fB" : "%.1fM",
		         (double)n / (n >= 1000000000 ? 1e9 : 1e6));
}

static void print_models(struct ctl *c, const json_t *rows)
{
	struct out_table t = {
		.head = { "NAME", "ARCHITECTURE", ">PARAMETERS", ">SIZE", "TYPE", "STATE", "PATH" },
		.n_columns = 7,
	};
	char size[32], params[32], state[128];

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);
		bool fault = json_is_string(json_object_get(row, "fault"));

		out_bytes(c, size, number(row, "bytes"));
		params_text(c, params, number(row, "parameters"));
		snprintf(state, sizeof(state), "%s%s%s%s",
		         fault                  ? "fault"
		         : truth(row, "loaded") ? "loaded"
		                                : "stored",
		         truth(row, "packed") ? ",packed" : "",
		         truth(row, "in_place") ? ",in-place" : "",
		         truth(row, "shared") ? ",shared" : "");
		if (out_row(&t, text(row, "name"), text(row, "architecture"), params, size,
		            text(row, "type"), state, text(row, "path")) < 0)
			break;
	}
	out_table_print(c, &t);
	for (size_t i = 0; i < json_array_size(rows); i++)
		if (json_is_string(json_object_get(json_array_get(rows, i), "fault")))
			ctl_note(c, "%s: %s", text(json_array_get(rows, i), "name"),
			         text(json_array_get(rows, i), "fault"));
}

static int run_ls(struct ctl *c)
{
	struct list_call call;
	int code = list_init_(c, &call);

	if (code == EXIT_OK)
		code = list_finish(c, &call, qllm_list(c->q, on_list, &call));
	if (code == EXIT_OK && c->json)
		code = out_json(c, json_incref(call.rows));
	else if (code == EXIT_OK && c->quiet)
		print_names(call.rows);
	else if (code == EXIT_OK)
		print_models(c, call.rows);
	list_deinit(&call);
	return code;
}

void ctl_print_ps(struct ctl *c, const json_t *rows)
{
	struct out_table t = {
		.head = { "NAME", "STATE", ">SIZE", ">RESIDENT", ">REQUESTS", "KV",
		          ">KV PAGES", ">KV BYTES", ">CONTEXT", ">IDLE", "PINNED" },
		.n_columns = 11,
	};
	char size[32], resident[32], refs[32], pages[64], kv[32], ctx[32], idle[32];

	for (size_t i = 0; i < json_array_size(rows); i++) {
		const json_t *row = json_array_get(rows, i);

		out_bytes(c, size, number(row, "bytes"));
		out_bytes(c, resident, number(row, "resident_bytes"));
		out_bytes(c, kv, number(row, "kv_bytes"));
		snprintf(refs, sizeof(refs), "%llu", (unsigned long long)number(row, "references"));
		snprintf(pages, sizeof(pages), "%llu/%llu",
		         (unsigned long long)number(row, "kv_pages"),
		         (unsigned long long)number(row, "kv_pages_max"));
		snprintf(ctx, sizeof(ctx), "%llu", (unsigned long long)number(row, "ctx"));
		snprintf(idle, sizeof(idle), "%.0f s",
		         json_number_value(json_object_get(row, "idle_s")));
		if (out_row(&t, text(row, "name"), text(row, "state"), size, resident, refs,
		            text(row, "kv"), pages, kv, ctx, idle,
		            truth(row, "pinned") ? "yes" : "no") < 0)
			break;
	}
	out_table_print(c, &t);
}

int ctl_ask_ps(struct ctl *c, json_t **ret)
{
	struct list_call call;
	int code = list_init_(c, &call);

	if (code == EXIT_OK)
		code = list_finish(c, &call, qllm_ps(c->q, on_list, &call));
	if (code == EXIT_OK)
		*ret = json_incref(call.rows);
	list_deinit(&call);
	return code;
}

static int run_ps(struct ctl *c)
{
	json_t *rows = NULL;
	int code = ctl_ask_ps(c, &rows);

	if (code != EXIT_OK)
		return code;
	if (c->json)
		return out_json(c, rows);
	if (c->quiet)
		print_names(rows);
	else
		ctl_print_ps(c, rows);
	json_decref(rows);
	return code;
}

static int run_is_loaded(struct ctl *c)
{
	struct list_call call;
	int code = list_init_(c, &call);

	if (code == EXIT_OK)
		code = list_finish(c, &call, qllm_list(c->q, on_list, &call));
	if (code == EXIT_OK) {
		code = EXIT_NO_MODEL;
		for (size_t i = 0; i < json_array_size(call.rows); i++)
			if (strcmp(text(json_array_get(call.rows, i), "name"), ctl_arg(c, 0)) == 0)
				code = truth(json_array_get(call.rows, i), "loaded")
				               ? EXIT_OK
				               : EXIT_NOT_LOADED;
		if (code == EXIT_NO_MODEL)
			ctl_fail(c, code, "no model named %.64s; qllmctl ls shows those there are",
			         ctl_arg(c, 0));
	}
	list_deinit(&call);
	return code;
}

/* A name from a file name: without directory and .gguf, what is not allowed in names becomes a
 * minus. */
static void default_name(char out[65], const char *path)
{
	const char *base = strrchr(path, '/');
	size_t n, len = 0;

	base = base ? base + 1 : path;
	n = strlen(base);
	if (n > 5 && strcasecmp(base + n - 5, ".gguf") == 0)
		n -= 5;
	for (size_t i = 0; i < n && len < 64; i++) {
		unsigned char ch = (unsigned char)base[i];

		if (isascii(ch) &&
		    (isalnum(ch) || (len > 0 && (ch == '.' || ch == '_' || ch == '-'))))
			out[len++] = (char)ch;
		else if (len > 0)
			out[len++] = '-';
	}
	out[len] = 0;
}

static int check_source(struct ctl *c, const char *path, int fd)
{
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return ctl_fail(c, EXIT_FAILED, "%s: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return ctl_fail(
			c, EXIT_USAGE,
			"%s is a directory; importing an HF directory is not built yet: give a "
			"GGUF file",
			path);
	if (!S_ISREG(st.st_mode))
		return ctl_fail(c, EXIT_FAILED, "%s is no regular file: give a GGUF file", path);
	return EXIT_OK;
}

static int run_import(struct ctl *c)
{
	struct qllm_import_args args = QLLM_IMPORT_INIT;
	struct list_call call;
	char name[65], full[PATH_MAX];
	const char *path = ctl_arg(c, 0);
	/* O_NONBLOCK: a FIFO must not hang the open; it means nothing for a regular file */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int code = check_source(c, path, fd);

	if (code != EXIT_OK)
		return code;
	default_name(name, path);
	args.name = ctl_text(c, "name", name);
	if (!str_is_name(args.name))
		return ctl_fail(
			c, EXIT_USAGE,
			"\"%.80s\" is no model name: letters, digits, . _ - , at most 64, the "
			"first a letter or digit; choose one with --name",
			args.name);
	args.path = realpath(path, full) ? full : path;
	args.fd = fd;
	args.shared = ctl_has(c, "shared");
	args.in_place = ctl_has(c, "in-place");
	args.detach = ctl_has(c, "no-block");
	code = list_init_(c, &call);
	if (code == EXIT_OK)
		code = list_finish(c, &call, qllm_import(c->q, &args, on_list, &call));
	if (code == EXIT_OK && call.reply.data)
		ctl_note(c, "%s: %s", args.name, call.reply.data);
	if (code == EXIT_OK && c->json && json_array_size(call.rows) > 0)
		code = out_json(c, json_incref(json_array_get(call.rows, 0)));
	else if (code == EXIT_OK)
		code = ctl_say(c, "name", args.name);
	list_deinit(&call);
	return code;
}

/* Commands whose answer is Ok. */
static int simple(struct ctl *c,
                  int64_t (*start)(struct qllm *, const char *, qllm_event_fn, void *),
                  const char *key)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, start(c->q, ctl_arg(c, 0), ctl_on_event, &reply), &reply);

	if (code == EXIT_OK && c->json)
		code = ctl_say(c, key, ctl_arg(c, 0));
	ctl_reply_deinit(&reply);
	return code;
}

static int run_rm(struct ctl *c)
{
	return simple(c, qllm_remove, "removed");
}

static int run_unload(struct ctl *c)
{
	return simple(c, qllm_unload, "unloaded");
}

static void print_value(const char *key, const json_t *v)
{
	char *s;

	if (json_is_string(v)) {
		printf("%s: %s\n", key, json_string_value(v));
		return;
	}
	s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
	printf("%s: %s\n", key, s ? s : "");
	free(s);
}

static void print_object(json_t *j)
{
	const char *key;
	json_t *v;

	json_object_foreach(j, key, v) {
		if (json_is_object(v))
			print_object(v);
		else
			print_value(key, v);
	}
}

static void print_tensors(struct ctl *c, const json_t *tensors)
{
	struct out_table t = { .head = { "NAME", "TYPE", "SHAPE", ">BYTES" }, .n_columns = 4 };

	for (size_t i = 0; i < json_array_size(tensors); i++) {
		const json_t *row = json_array_get(tensors, i),
			     *shape = json_object_get(row, "shape");
		char bytes[32], dims[128] = "";
		size_t n = 0;

		for (size_t d = 0; d < json_array_size(shape) && n < sizeof(dims) - 24; d++)
			n += (size_t)snprintf(dims + n, sizeof(dims) - n, "%s%lld", d ? "x" : "",
			                      json_integer_value(json_array_get(shape, d)));
		out_bytes(c, bytes, number(row, "bytes"));
		if (out_row(&t, text(row, "name"), text(row, "type"), dims, bytes) < 0)
			break;
	}
	out_table_print(c, &t);
}

static int run_show(struct ctl *c)
{
	enum qllm_show_what what = ctl_has(c, "tensors")    ? QLLM_SHOW_TENSORS
	                           : ctl_has(c, "metadata") ? QLLM_SHOW_METADATA
	                           : ctl_has(c, "template") ? QLLM_SHOW_TEMPLATE
	                                                    : QLLM_SHOW_SUMMARY;
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, qllm_show(c->q, ctl_arg(c, 0), what, ctl_on_event, &reply),
	                      &reply);
	json_t *j;

	if (code != EXIT_OK)
		return code;
	j = reply.data ? json_loadb(reply.data, reply.n_data, JSON_ALLOW_NUL, NULL) : NULL;
	ctl_reply_deinit(&reply);
	if (!j)
		return ctl_fail(c, EXIT_FAILED, "the daemon's answer is no JSON");
	out_pager(c);
	if (c->json)
		return out_json(c, j);
	if (what == QLLM_SHOW_TENSORS)
		print_tensors(c, json_object_get(j, "tensors"));
	else if (what == QLLM_SHOW_METADATA)
		print_object(json_object_get(j, "metadata"));
	else if (what == QLLM_SHOW_TEMPLATE)
		fputs(text(j, "template"), stdout);
	else
		print_object(j);
	json_decref(j);
	return EXIT_OK;
}

static int run_estimate(struct ctl *c)
{
	struct qllm_estimate_args args = QLLM_ESTIMATE_INIT;
	struct list_call call;
	char b[5][32];
	int code = list_init_(c, &call);
	const json_t *j;

	args.model = ctl_arg(c, 0);
	args.kv = ctl_text(c, "kv", NULL);
	args.ctx = (uint32_t)ctl_count(c, "ctx", 0);
	args.slots = (uint32_t)ctl_count(c, "slots", 1);
	if (code == EXIT_OK)
		code = list_finish(c, &call, qllm_estimate(c->q, &args, on_list, &call));
	j = call.answer;
	if (code == EXIT_OK && c->json) {
		code = out_json(c, json_incref(call.answer));
	} else if (code == EXIT_OK) {
		out_bytes(c, b[0], number(j, "weights_bytes"));
		out_bytes(c, b[1], number(j, "kv_bytes"));
		out_bytes(c, b[2], number(j, "kv_bytes_per_token"));
		out_bytes(c, b[3], number(j, "activation_bytes"));
		out_bytes(c, b[4], number(j, "budget_bytes"));
		printf("weights      %s, mapped and shared\n", b[0]);
		printf("KV           %s for %llu x %llu tokens (%s a token)\n", b[1],
		       (unsigned long long)number(j, "slots"), (unsigned long long)number(j, "ctx"),
		       b[2]);
		printf("activations  %s\n", b[3]);
		printf("budget       %s: %s\n", b[4], truth(j, "fits") ? "fits" : "does not fit");
	}
	list_deinit(&call);
	return code;
}

static int run_load(struct ctl *c)
{
	struct qllm_load_args args = QLLM_LOAD_INIT;
	struct list_call call;
	int code = list_init_(c, &call);

	args.model = ctl_arg(c, 0);
	args.kv = ctl_text(c, "kv", NULL);
	args.ctx = (uint32_t)ctl_count(c, "ctx", 0);
	args.pin = ctl_has(c, "pin");
	if (code == EXIT_OK)
		code = list_finish(c, &call, qllm_load(c->q, &args, on_list, &call));
	if (code == EXIT_OK && call.answer)
		json_object_set_new(call.answer, "name", json_string(args.model));
	if (code == EXIT_OK && c->json)
		code = out_json(c, json_incref(call.answer));
	else if (code == EXIT_OK)
		ctl_note(c, "%s %s, context %llu tokens", args.model,
		         truth(call.answer, "was_loaded") ? "was loaded already" : "loaded",
		         (unsigned long long)number(call.answer, "ctx"));
	list_deinit(&call);
	return code;
}

static const struct ctl_opt import_opts[] = {
	{ "name", 0, CTL_TEXT, "N", "Name in the store; else made of the file's name" },
	{ "shared", 0, CTL_FLAG, NULL, "Let every user of the daemon see it" },
	{ "in-place", 0, CTL_FLAG, NULL, "Map the file where it lies (administrators)" },
	{ "no-block", 0, CTL_FLAG, NULL, "Return at once; the import goes on" },
	{ 0 },
};
static const struct ctl_opt show_opts[] = {
	{ "tensors", 0, CTL_FLAG, NULL, "Every tensor with type, shape and bytes" },
	{ "metadata", 0, CTL_FLAG, NULL, "Metadata of the file" },
	{ "template", 0, CTL_FLAG, NULL, "Chat template" },
	{ 0 },
};
static const struct ctl_opt estimate_opts[] = {
	{ "ctx", 0, CTL_COUNT, "N", "Context of a sequence in tokens; else the model's own" },
	{ "slots", 0, CTL_COUNT, "N", "Sequences at once, default 1" },
	{ "kv", 0, CTL_CHOICE, kv_types, "Type of the KV cache" },
	{ 0 },
};
static const struct ctl_opt load_opts[] = {
	{ "pin", 0, CTL_FLAG, NULL, "Keep it when idle" },
	{ "kv", 0, CTL_CHOICE, kv_types, "Type of the KV cache" },
	{ "ctx", 0, CTL_COUNT, "N", "Refuse unless memory holds N tokens" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_import = {
	.name = "import",
	.args = "PATH",
	.help = "Bring a GGUF file into the store",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = import_opts,
	.run = run_import,
	.example = "qllmctl import SmolLM2.gguf --name smollm2",
};
const struct ctl_cmd ctl_cmd_ls = {
	.name = "ls",
	.args = "",
	.help = "Models of the store",
	.flags = CTL_CONNECT,
	.run = run_ls,
};
const struct ctl_cmd ctl_cmd_show = {
	.name = "show",
	.args = "M",
	.help = "What a model is made of",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = show_opts,
	.run = run_show,
};
const struct ctl_cmd ctl_cmd_estimate = {
	.name = "estimate",
	.args = "M",
	.help = "Memory that serving would take, without loading",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = estimate_opts,
	.run = run_estimate,
};
const struct ctl_cmd ctl_cmd_rm = {
	.name = "rm",
	.args = "M",
	.help = "Remove a model from the store",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.run = run_rm,
};
const struct ctl_cmd ctl_cmd_load = {
	.name = "load",
	.args = "M",
	.help = "Load a model ahead of its first use",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.opts = load_opts,
	.run = run_load,
};
const struct ctl_cmd ctl_cmd_unload = {
	.name = "unload",
	.args = "M",
	.help = "Free a model's memory",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.run = run_unload,
};
const struct ctl_cmd ctl_cmd_ps = {
	.name = "ps",
	.args = "",
	.help = "Loaded models: size, residency, requests, KV pages, idle time",
	.flags = CTL_CONNECT,
	.run = run_ps,
};
const struct ctl_cmd ctl_cmd_is_loaded = {
	.name = "is-loaded",
	.args = "M",
	.help = "Exit code only: 0 loaded, 3 not loaded, 4 no such model",
	.min_args = 1,
	.max_args = 1,
	.flags = CTL_CONNECT,
	.run = run_is_loaded,
};
