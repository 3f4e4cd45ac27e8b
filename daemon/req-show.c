/* req-show - show, estimate: read the model's file on a thread of their own, without
 * loading it for serving. */
#include <errno.h>
#include <string.h>
#include "base/num.h"
#include "daemon/dispatch.h"
#include "daemon/models.h"

enum { METADATA_ITEMS_MAX = 1000 };

/* Opens the file behind the call's entry. */
static int open_entry(struct call *c, struct err *err)
{
	return store_open_model(models_store(c->d->models), &c->entry[0]->meta, err);
}

struct text {
	struct sbuf buf;
};

static void text_free(void *data)
{
	struct text *t = data;

	sbuf_deinit(&t->buf);
	mem_free(t);
}

static int append_json(struct sbuf *out, json_t *json, struct err *err)
{
	char *s = json ? json_dumps(json, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) : NULL;
	int r = s ? sbuf_append(out, s, strlen(s)) : -ENOMEM;

	free(s);
	json_decref(json);
	return r < 0 ? err_set(err, r, "out of memory") : 0;
}

/* Strings of a file in JSON: what is no UTF-8 is shown escaped. */
static json_t *json_bytes(struct bytes b)
{
	_cleanup_mem_ char *shown = NULL;

	if (utf8_valid(b.p, b.n))
		return json_stringn(b.p, b.n);
	shown = mem_alloc(b.n * 4 + 8);
	return shown ? json_string(str_escape(shown, b.n * 4 + 8, b.p, b.n)) : NULL;
}

static int append_tensors(struct sbuf *out, const struct gguf *g, struct err *err)
{
	int r = sbuf_printf(out, ",\"tensors\":[");

	for (size_t i = 0; r == 0 && i < g->n_tensors; i++) {
		const struct tensor *t = &g->tensors[i];
		json_t *shape = json_array();

		for (uint32_t k = 0; k < t->n_dims; k++)
			json_array_append_new(shape, json_integer((json_int_t)t->dim[k]));
		if (i > 0)
			r = sbuf_append(out, ",", 1);
		if (r < 0) {
			json_decref(shape);
			break;
		}
		r = append_json(out,
		                json_pack("{s:s s:s s:o s:I s:I}", "name", t->name, "type",
		                          qtype_name(t->type), "shape", shape, "bytes",
		                          (json_int_t)t->n_bytes, "offset", (json_int_t)t->offset),
		                err);
	}
	return r == 0 ? sbuf_append(out, "]", 1) : r;
}

static int append_metadata(struct sbuf *out, const struct gguf *g, struct err *err)
{
	int r = sbuf_printf(out, ",\"metadata\":{");

	for (size_t i = 0; r == 0 && i < g->n_kv; i++) {
		if (i > 0)
			r = sbuf_append(out, ",", 1);
		if (r == 0)
			r = append_json(out, json_bytes(g->kv[i].key), err);
		if (r == 0)
			r = sbuf_append(out, ":", 1);
		if (r == 0)
			r = gguf_value_json(&g->kv[i].v, METADATA_ITEMS_MAX, out);
	}
	return r == 0 ? sbuf_append(out, "}", 1) : r;
}

static int append_template(struct sbuf *out, const struct gguf *g, struct err *err)
{
	struct bytes text;
	int r = gguf_get_str(g, "tokenizer.chat_template", &text, err);

	if (r < 0)
		return r;
	if (r == GGUF_E_ABSENT)
		return sbuf_printf(out, ",\"template\":null");
	r = sbuf_printf(out, ",\"template\":");
	return r == 0 ? append_json(out, json_bytes(text), err) : r;
}

static int append_hparams(struct sbuf *out, const struct gguf *g, struct err *err)
{
	struct hparams h;
	struct err why = { 0 };
	json_t *json;
	int r = model_hparams(&h, g, &why);

	if (r < 0)      /* such a file can still be shown: say why it cannot be loaded */
		json = json_pack("{s:s}", "error", why.text);
	else
		json = json_pack("{s:I s:I s:I s:I s:I s:I s:I s:I s:I s:f s:f s:f}", "n_vocab",
		                 (json_int_t)h.n_vocab, "n_ctx_train", (json_int_t)h.n_ctx_train,
		                 "n_embd", (json_int_t)h.n_embd, "n_layer", (json_int_t)h.n_layer,
		                 "n_head", (json_int_t)h.n_head, "n_head_kv",
		                 (json_int_t)h.n_head_kv, "head_dim", (json_int_t)h.head_dim,
		                 "n_ff", (json_int_t)h.n_ff, "window", (json_int_t)h.window,
		                 "norm_eps", (double)h.norm_eps, "rope_base", (double)h.rope_base,
		                 "rope_base_local", (double)h.rope_base_local);
	r = sbuf_printf(out, ",\"hyper_parameters\":");
	if (r < 0) {
		json_decref(json);
		return r;
	}
	return append_json(out, json, err);
}

static int show_run(struct call *c, struct err *err)
{
	const struct store_meta *m = &c->entry[0]->meta;
	_cleanup_close_ int fd = open_entry(c, err);
	_cleanup_(gguf_freep) struct gguf *g = NULL;
	bool packed = false;
	struct sbuf *out = &((struct text *)c->data)->buf;
	json_t *head;
	int r = fd < 0 ? fd : packfile_gguf(&g, &packed, fd, m->name, err);

	if (r < 0)
		return r;
	head = json_pack("{s:s s:s s:s s:s s:I s:I s:I s:I s:b s:s?}", "name", m->name,
	                 "path", m->path, "architecture", m->architecture, "type", m->type,
	                 "parameters", (json_int_t)m->parameters, "bytes", (json_int_t)m->bytes,
	                 "n_tensors",
	                 (json_int_t)g->n_tensors, "gguf_version", (json_int_t)g->version, "packed",
	                 (int)packed, "notice", g->notice);
	r = append_json(out, head, err);
	if (r < 0)
		return r;
	out->n--;               /* reopen the object */
	r = append_hparams(out, g, err);
	if (r == 0 && c->in.frame->show->what == QLLM__SHOW_WHAT__SHOW_TENSORS)
		r = append_tensors(out, g, err);
	if (r == 0 && c->in.frame->show->what == QLLM__SHOW_WHAT__SHOW_METADATA)
		r = append_metadata(out, g, err);
	if (r == 0 && c->in.frame->show->what == QLLM__SHOW_WHAT__SHOW_TEMPLATE)
		r = append_template(out, g, err);
	return r == 0 ? sbuf_append(out, "}", 1) : r;
}

static void show_done(struct call *c)
{
	struct text *t = c->data;

	call_reply_text(c, t->buf.p, t->buf.n);
}

void req_show(struct call *c)
{
	struct text *t;

	if ((unsigned)c->in.frame->show->what > QLLM__SHOW_WHAT__SHOW_TEMPLATE) {
		call_fail_class(c, EXIT_USAGE, -EINVAL,
		                "show %d: unknown, the daemon may be older than the client",
		                (int)c->in.frame->show->what);
		return;
	}
	if (!call_with_entry(c, c->in.frame->show->model, 0))
		return;
	t = mem_alloc(sizeof(*t));
	if (!t) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	c->data = t;
	c->data_free = text_free;
	call_work(c, c->d->prep, show_run, show_done);
}

/* --- estimate --------------------------------------------------------------------------------- */

struct estimate {
	struct footprint fp;
	uint64_t kv_bytes, budget;
	uint32_t ctx, slots;
	enum kv_type kv_type;
};

static int estimate_run(struct call *c, struct err *err)
{
	const Qllm__Estimate *q = c->in.frame->estimate;
	const struct store_meta *m = &c->entry[0]->meta;
	_cleanup_close_ int fd = open_entry(c, err);
	_cleanup_(gguf_freep) struct gguf *g = NULL;
	struct estimate *e = c->data;
	struct engine_stats stats;
	struct hparams hp;
	uint64_t one;
	int r = fd < 0 ? fd : packfile_gguf(&g, NULL, fd, m->name, err);

	if (r == 0)
		r = model_hparams(&hp, g, err);
	if (r < 0)
		return r;
	e->ctx = q->ctx ? q->ctx : hp.n_ctx_train;
	e->slots = q->slots ? q->slots : 1;
	model_footprint(&hp, m->bytes, (uint32_t)c->d->config->chunk,
	                (uint32_t)c->d->config->max_sequences, e->kv_type, &e->fp);
	one = engine_kv_bytes(c->d->engine, &hp, e->kv_type, e->ctx);
	if (one == UINT64_MAX || mul_overflows(one, (uint64_t)e->slots, &e->kv_bytes))
		return err_set(err, -EINVAL,
		               "%u slots of %u positions are more than can be counted", e->slots,
		               e->ctx);
	engine_stats(c->d->engine, &stats);
	e->budget = stats.budget;
	return 0;
}

static void estimate_done(struct call *c)
{
	const struct estimate *e = c->data;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__EstimateReply reply = QLLM__ESTIMATE_REPLY__INIT;
	uint64_t sum;

	reply.has_weights_bytes = reply.has_kv_bytes = reply.has_kv_bytes_per_token =
		reply.has_activation_bytes = true;
	reply.has_budget_bytes = reply.has_ctx = reply.has_slots = reply.has_fits = true;
	reply.weights_bytes = e->fp.weights;
	reply.kv_bytes = e->kv_bytes;
	reply.kv_bytes_per_token = e->fp.kv_per_token;
	reply.activation_bytes = e->fp.activations;
	reply.budget_bytes = e->budget;
	reply.ctx = e->ctx;
	reply.slots = e->slots;
	reply.fits = !add_overflows(e->kv_bytes, e->fp.activations, &sum) && sum <= e->budget;
	frame.body_case = QLLM__FRAME__BODY_ESTIMATE_REPLY;
	frame.estimate_reply = &reply;
	call_reply(c, &frame, NULL);
}

void req_estimate(struct call *c)
{
	const Qllm__Estimate *q = c->in.frame->estimate;
	struct estimate *e;
	enum kv_type kv_type;

	if (!call_with_entry(c, q->model, 0) || !models_kv(c, c->entry[0], q->kv, &kv_type))
		return;
	e = mem_alloc(sizeof(*e));
	if (!e) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	e->kv_type = kv_type;
	c->data = e;
	c->data_free = call_free_data;
	call_work(c, c->d->prep, estimate_run, estimate_done);
}
