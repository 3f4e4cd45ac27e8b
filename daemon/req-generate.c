/* req-generate - run and chat: prompt to tokens on `prep`, then to the engine; output goes through
 * the ring. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>
#include "base/mem.h"
#include "base/num.h"
#include "daemon/dispatch.h"
#include "daemon/models.h"
#include "daemon/prompt.h"

struct generate {
	struct request *request;        /* until the engine has it */
	const char *note;
	uint64_t seed;
};

static void generate_free(void *data)
{
	struct generate *g = data;

	request_free(g->request);
	mem_free(g);
}

static int set_sampling(struct generate *g, const Qllm__Sampling *s, struct err *err)
{
	struct sampler_params *p = &g->request->sampling;

	if (getrandom(&g->seed, sizeof(g->seed), 0) < 0)
		g->seed = daemon_now_us();
	if (s && s->has_seed)
		g->seed = s->seed;
	p->seed = g->seed;
	if (!s)
		return 0;
	if (s->has_temp)
		p->temp = s->temp;
	if (s->has_top_k)
		p->top_k = s->top_k;
	if (s->has_top_p)
		p->top_p = s->top_p;
	if (s->has_min_p)
		p->min_p = s->min_p;
	if (s->has_typical_p)
		p->typical_p = s->typical_p;
	if (s->has_repeat_penalty)
		p->repeat_penalty = s->repeat_penalty;
	if (s->has_presence_penalty)
		p->presence_penalty = s->presence_penalty;
	if (s->has_frequency_penalty)
		p->frequency_penalty = s->frequency_penalty;
	if (s->has_logprobs)
		p->n_logprobs = s->logprobs;
	if (s->n_bias == 0)
		return 0;
	p->bias = mem_allocn(s->n_bias, sizeof(*p->bias));
	if (!p->bias)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->n_bias; i++)
		p->bias[i] = (struct logit_bias){ s->bias[i]->id, s->bias[i]->bias };
	p->n_bias = (uint32_t)s->n_bias;
	return 0;
}

static int set_stops(struct request *r, const Qllm__Generate *q, struct err *err)
{
	if (q->n_stop > STOP_MAX)
		return err_set(err, -EINVAL, "%zu stop strings were given, at most %d are allowed",
		               q->n_stop, STOP_MAX);
	for (size_t i = 0; i < q->n_stop; i++) {
		const ProtobufCBinaryData *s = &q->stop[i];

		if (s->len == 0 || s->len >= STOP_LEN_MAX || memchr(s->data, 0, s->len))
			return err_set(
				err, -EINVAL,
				"stop string %zu is empty, longer than %d bytes or has a zero byte",
				i + 1, STOP_LEN_MAX - 1);
		r->stop[i] = mem_strndup((const char *)s->data, s->len);
		if (!r->stop[i])
			return err_set(err, -ENOMEM, "out of memory");
		r->n_stop++;
	}
	return 0;
}

/* Templates write the BOS text themselves as a rule: then the vocabulary's own is left out. */
static unsigned rendered_flags(const struct tok *t, const struct sbuf *text)
{
	struct bytes bos = { NULL, 0 };

	if (tok_bos(t) >= 0)
		bos = tok_text(t, tok_bos(t));
	if (bos.n > 0 && text->n >= bos.n && memcmp(text->p, bos.p, bos.n) == 0)
		return TOKENIZE_SPECIAL;
	return TOKENIZE_SPECIAL | TOKENIZE_BOS;
}

static int encode(struct call *c, struct request *r, const char *text, size_t n, unsigned flags,
                  struct err *err)
{
	struct tokens tokens = { 0 };
	int ret = tok_encode(c->model[0]->tok, text, n, flags, 0, &tokens);

	r->tokens = tokens.data;        /* also when cut short: request_free has it */
	r->n_tokens = (uint32_t)tokens.n;
	if (ret < 0)
		return err_set(err, ret, "tokenizing the prompt: %s", strerror(-ret));
	if (tokens.n == 0)
		return err_set(err, -EINVAL, "the prompt is empty");
	return 0;
}

static int encode_prompt(struct call *c, struct generate *g, const Qllm__Generate *q,
                         struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf rendered = { 0 };
	_cleanup_mem_ char *text = NULL;
	size_t n;
	int r;

	if (q->messages) {
		r = prompt_render(c, q->messages, q->tools, &rendered, err);
	} else {
		r = blob_get(q->prompt, &c->in, c->d->config->prompt_bytes, &text, &n, err);
		if (r < 0)
			return r;
		if (!q->raw && !c->model[0]->jinja && !c->model[0]->jinja_error && !q->system)
			g->note = "the model has no chat template: the prompt was taken as it is";
		if (q->raw || g->note)
			return encode(c, g->request, text, n, TOKENIZE_BOS | TOKENIZE_SPECIAL, err);
		r = prompt_render_one(c, text, n, q->system, &rendered, err);
	}
	if (r < 0)
		return r;
	return encode(c, g->request, rendered.p ? rendered.p : "", rendered.n,
	              rendered_flags(c->model[0]->tok, &rendered), err);
}

static int generate_run(struct call *c, struct err *err)
{
	const Qllm__Generate *q = c->in.frame->generate;
	struct generate *g = c->data;
	struct request *r;
	int ret = request_new(&g->request);

	if (ret < 0)
		return ret;
	r = g->request;
	r->kind = REQUEST_GENERATE;
	r->model = model_ref(c->model[0]);
	r->max_tokens = q->max_tokens;
	r->ignore_eos = q->ignore_eos;
	r->special = q->special;
	r->batch_class = q->batch;
	r->lookup = q->has_lookup ? q->lookup : c->d->lookup;
	r->draft = c->model[1] ? model_ref(c->model[1]) : NULL;
	r->no_cache = q->no_cache;
	ret = set_sampling(g, q->sampling, err);
	if (ret == 0)
		ret = set_stops(r, q, err);
	if (ret < 0)
		return ret;
	if (!q->tokens)
		return encode_prompt(c, g, q, err);
	ret = prompt_tokens(c, q->tokens, c->model[0]->tok, &r->tokens, &r->n_tokens, err);
	if (ret == 0 && r->n_tokens == 0)
		ret = err_set(err, -EINVAL, "the list of tokens is empty");
	return ret;
}

/* Also the end of Logits. */
void req_stream_done(struct call *c)
{
	const struct request_result *res = &c->request_result;
	const struct generate *g = c->data;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Done done = QLLM__DONE__INIT;

	done.has_finish = done.has_prompt_tokens = done.has_cached_tokens =
		done.has_completion_tokens = true;
	done.has_prompt_s = done.has_first_token_s = done.has_decode_s = true;
	done.finish = res->finish == FINISH_STOP     ? QLLM__FINISH__FINISHED_STOP
	              : res->finish == FINISH_LENGTH ? QLLM__FINISH__FINISHED_LENGTH
	                                             : QLLM__FINISH__FINISHED_CANCELLED;
	done.prompt_tokens = res->prompt_tokens;
	done.cached_tokens = res->cached_tokens;
	done.completion_tokens = res->completion_tokens;
	done.has_draft_tokens = done.has_draft_accepted = true;
	done.draft_tokens = res->draft_tokens;
	done.draft_accepted = res->draft_accepted;
	done.prompt_s = res->timing.prompt_s;
	done.first_token_s = res->timing.first_token_s;
	done.decode_s = res->timing.decode_s;
	if (g) {
		done.note = (char *)(uintptr_t)g->note;
		done.has_seed = true;
		done.seed = g->seed;
	}
	frame.body_case = QLLM__FRAME__BODY_DONE;
	frame.done = &done;
	call_reply(c, &frame, NULL);
}

static void generate_go(struct call *c)
{
	struct generate *g = c->data;

	call_submit(c, STEAL(g->request), req_stream_done);
}

static void generate_ready(struct call *c)
{
	call_work(c, c->d->prep, generate_run, generate_go);
}

static void generate_first_ready(struct call *c)
{
	const char *draft = c->in.frame->generate->draft;

	if (draft && draft[0])
		call_with_model(c, draft, 1, generate_ready);
	else
		generate_ready(c);
}

void req_generate(struct call *c)
{
	const Qllm__Generate *q = c->in.frame->generate;

	if (!!q->prompt + !!q->messages + !!q->tokens != 1) {
		call_fail_class(c, EXIT_USAGE, -EINVAL,
		                "exactly one of prompt, messages and tokens is needed");
		return;
	}
	c->data = mem_alloc(sizeof(struct generate));
	if (!c->data) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	c->data_free = generate_free;
	call_with_model(c, q->model, 0, generate_first_ready);
}
