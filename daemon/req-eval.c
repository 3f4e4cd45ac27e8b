/* req-eval - eval: one or two models pinned, then minutes on the `slow` group. */
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "daemon/conn.h"
#include "daemon/dispatch.h"
#include "daemon/eval.h"
#include "daemon/models.h"

struct eval_call {
	struct eval_result result;
	uint64_t client, kv_max;
	double seconds;
};

static void on_progress(void *user, uint64_t done, uint64_t total)
{
	call_progress(user, "evaluating", done, total, "chunks");
}

static int eval_run(struct call *c, struct err *err)
{
	const Qllm__Eval *q = c->in.frame->eval;
	struct eval_call *e = c->data;
	uint64_t started = daemon_now_us();
	_cleanup_mem_ char *text = NULL;
	struct eval_params p = {
		.engine = c->d->engine,
		.model = c->model[0],
		.ref = c->model[1],
		.ctx = q->ctx,
		.chunks = q->chunks,
		.hf = q->protocol && strcmp(q->protocol, "hf") == 0,
		.uid = c->user->uid,
		.client = e->client,
		.kv_max = e->kv_max,
		.cancel = &c->cancel,
		.progress = on_progress,
		.user = c,
	};
	int r = blob_get(q->text, &c->in, c->d->config->prompt_bytes, &text, &p.n, err);

	if (r < 0)
		return r;
	p.text = text;
	r = eval_text(&e->result, &p, err);
	e->seconds = (double)(daemon_now_us() - started) / 1e6;
	return r;
}

static void eval_done(struct call *c)
{
	const struct eval_call *e = c->data;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__EvalReply reply = QLLM__EVAL_REPLY__INIT;

	reply.has_ppl = reply.has_ppl_stderr = reply.has_tokens = reply.has_seconds = true;
	reply.ppl = e->result.ppl;
	reply.ppl_stderr = e->result.ppl_stderr;
	reply.tokens = e->result.tokens;
	reply.seconds = e->seconds;
	if (c->model[1]) {
		reply.has_kld_mean = reply.has_kld_p99 = reply.has_kld_max = reply.has_top1 = true;
		reply.kld_mean = e->result.kld_mean;
		reply.kld_p99 = e->result.kld_p99;
		reply.kld_max = e->result.kld_max;
		reply.top1 = e->result.top1;
	}
	frame.body_case = QLLM__FRAME__BODY_EVAL_REPLY;
	frame.eval_reply = &reply;
	call_reply(c, &frame, NULL);
}

static void eval_ready(struct call *c)
{
	call_work(c, c->d->slow, eval_run, eval_done);
}

static void eval_first_ready(struct call *c)
{
	const char *ref = c->in.frame->eval->ref;

	if (ref && ref[0])
		call_with_model(c, ref, 1, eval_ready);
	else
		eval_ready(c);
}

void req_eval(struct call *c)
{
	const Qllm__Eval *q = c->in.frame->eval;
	struct entry *model = models_find(c, q->model);
	struct eval_call *e;

	if (!model || !models_want_kv(c, model, q->kv))
		return;
	if (q->protocol && q->protocol[0] && strcmp(q->protocol, "hf") != 0 &&
	    strcmp(q->protocol, "llama.cpp") != 0) {
		call_fail_class(c, EXIT_USAGE, -EINVAL,
		                "unknown protocol: llama.cpp and hf are known");
		return;
	}
	e = mem_alloc(sizeof(*e));
	if (!e) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	e->client = c->conn->number;
	e->kv_max = user_limit(c->user, LIMIT_KV);
	c->data = e;
	c->data_free = call_free_data;
	call_with_model(c, q->model, 0, eval_first_ready);
}
