/* request - its memory and the checks that need no engine. */
#include "engine/request.h"
#include <errno.h>
#include "base/mem.h"
#include "base/str.h"
#include "engine/seq.h"

enum { READ_STEPS_MAX = 1000000 };

int request_new(struct request **ret)
{
	struct request *r = mem_alloc(sizeof(*r));

	if (!r)
		return -ENOMEM;
	sampler_params_default(&r->sampling);
	*ret = r;
	return 0;
}

struct request *request_free(struct request *r)
{
	if (!r)
		return NULL;
	seq_free(r->state);
	mem_free(r->tokens);
	mem_free(r->sampling.bias);
	for (uint32_t i = 0; i < STOP_MAX; i++)
		mem_free(r->stop[i]);
	if (r->model)
		model_unref(r->model);
	if (r->draft)
		model_unref(r->draft);
	return mem_free(r);
}

const char *model_label(const struct model *m, char buf[MODEL_LABEL_MAX])
{
	const char *name = m->name && m->name[0] ? m->name : m->architecture;

	return name ? str_escape(buf, MODEL_LABEL_MAX, name, strlen(name)) : "(unnamed)";
}

static int check_stops(const struct request *r, struct err *err)
{
	if (r->n_stop > STOP_MAX)
		return err_set(err, -EINVAL, "%u stop strings were given, at most %d are allowed",
		               r->n_stop, STOP_MAX);
	for (uint32_t i = 0; i < r->n_stop; i++) {
		size_t n = r->stop[i] ? strlen(r->stop[i]) : 0;

		if (n == 0)
			return err_set(err, -EINVAL, "stop string %u is empty", i + 1);
		if (n > STOP_LEN_MAX)
			return err_set(err, -EINVAL,
			               "stop string %u has %zu bytes, at most %d are allowed",
			               i + 1, n, STOP_LEN_MAX);
	}
	return 0;
}

static int check_tokens(const struct request *r, struct err *err)
{
	uint32_t n_vocab = r->model->hp.n_vocab;

	if (r->n_tokens == 0 || !r->tokens)
		return err_set(err, -EINVAL, "the prompt is empty: at least one token is needed");
	for (uint32_t i = 0; i < r->n_tokens; i++)
		if (r->tokens[i] < 0 || (uint32_t)r->tokens[i] >= n_vocab)
			return err_set(
				err, -EINVAL,
				"token %u of the prompt has id %d, ids of this model are 0 to %u",
				i, r->tokens[i], n_vocab - 1);
	return 0;
}

static int check_kind(const struct request *r, struct err *err)
{
	switch (r->kind) {
	case REQUEST_GENERATE:
		if (!r->sink.token)
			return err_set(err, -EINVAL,
			               "the request has nobody to give its tokens to");
		return sampler_check(&r->sampling, r->model->hp.n_vocab, err);
	case REQUEST_LOGITS:
		if (!r->sink.row)
			return err_set(err, -EINVAL, "the request has nobody to give its rows to");
		if (r->n_prompt > r->n_tokens)
			return err_set(err, -EINVAL,
			               "%u prompt tokens were named, there are only %u tokens",
			               r->n_prompt, r->n_tokens);
		return 0;
	case REQUEST_SCORE:
		if (r->score_from == 0 || r->score_from >= r->n_tokens)
			return err_set(
				err, -EINVAL,
				"scores from token %u on: must be 1 to %u, the first has nothing "
				"before it",
				r->score_from, r->n_tokens - 1);
		return 0;
	case REQUEST_READ:
		if (r->max_tokens == 0 || r->max_tokens > READ_STEPS_MAX)
			return err_set(err, -EINVAL,
			               "%u read steps were asked for, 1 to %d are allowed",
			               r->max_tokens, READ_STEPS_MAX);
		return 0;
	}
	return err_set(err, -EINVAL, "unknown kind of request %d", (int)r->kind);
}

/* A guess is an id: it must mean the same text to both. */
static int check_draft(const struct request *r, struct err *err)
{
	const struct tok *a = r->model->tok, *b = r->draft->tok;
	char label[MODEL_LABEL_MAX], draft[MODEL_LABEL_MAX];
	bool same = r->model->hp.n_vocab == r->draft->hp.n_vocab;

	for (uint32_t i = 0; same && a != b && i < tok_n_vocab(a); i++) {
		struct bytes x = tok_text(a, (int32_t)i), y = tok_text(b, (int32_t)i);

		same = x.n == y.n && memcmp(x.p, y.p, x.n) == 0;
	}
	if (same)
		return 0;
	return err_set(err, -EINVAL,
	               "model %s cannot draft for model %s: their vocabularies differ",
	               model_label(r->draft, draft), model_label(r->model, label));
}

int request_check(const struct request *r, struct err *err)
{
	int ret;

	if (!r->model)
		return err_set(err, -EINVAL, "the request names no model");
	if (!r->sink.room || !r->sink.done)
		return err_set(err, -EINVAL, "the request has no sink");
	ret = r->kind == REQUEST_READ ? 0 : check_tokens(r, err);
	if (ret == 0)
		ret = check_kind(r, err);
	if (ret == 0)
		ret = check_stops(r, err);
	if (ret == 0 && r->kind == REQUEST_GENERATE && r->draft)
		ret = check_draft(r, err);
	return ret;
}
