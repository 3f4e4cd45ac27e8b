/* req-text - tokenize, detokenize, template: on `prep`, with the model pinned before its vocabulary
 * is touched. */
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "base/num.h"
#include "daemon/dispatch.h"
#include "daemon/models.h"
#include "daemon/prompt.h"

struct result {
	struct tokens tokens;
	struct sbuf text;
};

static void result_free(void *data)
{
	struct result *res = data;

	mem_free(res->tokens.data);
	sbuf_deinit(&res->text);
	mem_free(res);
}

static bool add_result(struct call *c)
{
	c->data = mem_alloc(sizeof(struct result));
	if (!c->data) {
		call_fail(c, -ENOMEM, NULL);
		return false;
	}
	c->data_free = result_free;
	return true;
}

static void reply_with_text(struct call *c)
{
	struct result *res = c->data;

	call_reply_text(c, res->text.p, res->text.n);
}

/* --- tokenize --------------------------------------------------------------------------------- */

static int tokenize_run(struct call *c, struct err *err)
{
	const Qllm__Tokenize *q = c->in.frame->tokenize;
	struct result *res = c->data;
	_cleanup_mem_ char *text = NULL;
	size_t n;
	int r = blob_get(q->text, &c->in, c->d->config->prompt_bytes, &text, &n, err);

	if (r < 0)
		return r;
	return tok_encode(c->model[0]->tok, text, n,
	                  (q->no_bos ? 0 : TOKENIZE_BOS) | (q->no_special ? 0 : TOKENIZE_SPECIAL),
	                  0, &res->tokens);
}

static void tokenize_done(struct call *c)
{
	struct result *res = c->data;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__TokensReply reply = QLLM__TOKENS_REPLY__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	_cleanup_(frame_fds_deinit) struct frame_fds fds = { .n = 0 };
	int r = blob_put(&blob, res->tokens.data, res->tokens.n * sizeof(int32_t), &fds);

	if (r < 0) {
		call_fail(c, r, NULL);
		return;
	}
	reply.tokens = &blob;
	frame.body_case = QLLM__FRAME__BODY_TOKENS_REPLY;
	frame.tokens_reply = &reply;
	call_reply(c, &frame, &fds);
}

static void tokenize_ready(struct call *c)
{
	call_work(c, c->d->prep, tokenize_run, tokenize_done);
}

void req_tokenize(struct call *c)
{
	if (add_result(c))
		call_with_model(c, c->in.frame->tokenize->model, 0, tokenize_ready);
}

/* --- detokenize ------------------------------------------------------------------------------- */

static int detokenize_run(struct call *c, struct err *err)
{
	const struct tok *t = c->model[0]->tok;
	struct result *res = c->data;
	struct detok detok;
	uint32_t n;
	int r = prompt_tokens(c, c->in.frame->detokenize->tokens, t, &res->tokens.data, &n, err);

	if (r < 0)
		return r;
	detok_init(&detok, t, true);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		r = detok_push(&detok, res->tokens.data[i], &res->text);
	return r == 0 ? detok_flush(&detok, &res->text) : r;
}

static void detokenize_ready(struct call *c)
{
	call_work(c, c->d->prep, detokenize_run, reply_with_text);
}

void req_detokenize(struct call *c)
{
	if (add_result(c))
		call_with_model(c, c->in.frame->detokenize->model, 0, detokenize_ready);
}

/* --- template --------------------------------------------------------------------------------- */

static int template_run(struct call *c, struct err *err)
{
	const Qllm__Template *q = c->in.frame->template_;
	struct result *res = c->data;

	return prompt_render(c, q->messages, q->tools, &res->text, err);
}

static void template_ready(struct call *c)
{
	call_work(c, c->d->prep, template_run, reply_with_text);
}

void req_template(struct call *c)
{
	if (add_result(c))
		call_with_model(c, c->in.frame->template_->model, 0, template_ready);
}
