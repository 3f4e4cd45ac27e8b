/* req-logits - logits of every token through the ring, and bench's read arm. */
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "daemon/dispatch.h"
#include "daemon/models.h"
#include "daemon/prompt.h"

static void request_freev(void *data)
{
	struct request **r = data;

	request_free(*r);
	mem_free(r);
}

/* c->data: struct request *[1]. */
static bool add_request(struct call *c)
{
	c->data = mem_alloc(sizeof(struct request *));
	if (!c->data) {
		call_fail(c, -ENOMEM, NULL);
		return false;
	}
	c->data_free = request_freev;
	return true;
}

static int logits_run(struct call *c, struct err *err)
{
	const Qllm__Logits *q = c->in.frame->logits;
	const struct model *m = c->model[0];
	uint64_t row = m->hp.n_vocab * sizeof(float);
	struct request **at = c->data, *r;
	int ret = request_new(at);

	if (ret < 0)
		return ret;
	r = *at;
	r->kind = REQUEST_LOGITS;
	r->model = model_ref(c->model[0]);
	ret = prompt_tokens(c, q->tokens, m->tok, &r->tokens, &r->n_tokens, err);
	if (ret < 0)
		return ret;
	if (r->n_tokens == 0)
		return err_set(err, -EINVAL, "the list of tokens is empty");
	if (q->has_n_prompt && q->n_prompt > r->n_tokens)
		return err_set(err, -EINVAL, "%u prompt tokens of a list of %u", q->n_prompt,
		               r->n_tokens);
	r->exact = q->exact;
	r->n_prompt = q->has_n_prompt && !q->exact ? q->n_prompt : r->n_tokens;
	if (row > stream_capacity(c->stream))
		return err_set(
			err, -EINVAL,
			"a row of logits has %llu bytes, the connection's ring %llu: ask for more "
			"ring_bytes in Hello",
			(unsigned long long)row,
			(unsigned long long)ring_writer_size(c->stream->ring));
	return 0;
}

static void logits_end(struct call *c)
{
	c->data_free(c->data);
	c->data = NULL;
	c->data_free = NULL;
	req_stream_done(c);
}

static void logits_go(struct call *c)
{
	call_submit(c, STEAL(*(struct request **)c->data), logits_end);
}

static void logits_ready(struct call *c)
{
	call_work(c, c->d->prep, logits_run, logits_go);
}

void req_logits(struct call *c)
{
	if (add_request(c))
		call_with_model(c, c->in.frame->logits->model, 0, logits_ready);
}

/* --- the read arm ----------------------------------------------------------------------------- */

enum { READ_STEPS_MAX = 100000 };

/* Multiply and add for each weight of a matrix that a token passes; attention comes on top. */
static double flops_per_token(const struct model *m)
{
	double n = (double)m->w[SLOT_OUTPUT].n_in * (double)m->w[SLOT_OUTPUT].n_out;

	for (uint32_t il = 0; il < m->hp.n_layer; il++)
		for (unsigned i = 0; i < SLOT_LAYER_COUNT; i++)
			if (m->layers[il].w[i].data && m->layers[il].w[i].n_out > 1)
				n += (double)m->layers[il].w[i].n_in *
				     (double)m->layers[il].w[i].n_out;
	return 2 * n;
}

static void bench_read_done(struct call *c)
{
	const struct model *m = c->model[0];
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__BenchReadReply reply = QLLM__BENCH_READ_REPLY__INIT;

	if (c->request_result.finish == FINISH_CANCELLED) {
		call_fail(c, -ECANCELED, NULL);
		return;
	}
	reply.has_bytes = reply.has_seconds = reply.has_bytes_per_token =
		reply.has_flops_per_token = true;
	reply.bytes = c->request_result.bytes_read;
	reply.seconds = c->request_result.read_s;
	reply.bytes_per_token = m->bytes_per_token;
	reply.flops_per_token = flops_per_token(m);
	frame.body_case = QLLM__FRAME__BODY_BENCH_READ_REPLY;
	frame.bench_read_reply = &reply;
	call_reply(c, &frame, NULL);
}

static void bench_read_ready(struct call *c)
{
	struct request *r;
	int ret = request_new(&r);

	if (ret < 0) {
		call_fail(c, ret, NULL);
		return;
	}
	r->kind = REQUEST_READ;
	r->model = model_ref(c->model[0]);
	r->max_tokens = c->in.frame->bench_read->steps;
	call_submit(c, r, bench_read_done);
}

void req_bench_read(struct call *c)
{
	const Qllm__BenchRead *q = c->in.frame->bench_read;

	if (q->steps < 1 || q->steps > READ_STEPS_MAX) {
		call_fail_class(c, EXIT_USAGE, -EINVAL, "1 to %d steps are allowed",
		                READ_STEPS_MAX);
		return;
	}
	call_with_model(c, q->model, 0, bench_read_ready);
}
