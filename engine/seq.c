/* seq - the life of a request, without engine, batch or threads around it.
 *
 * Invariants:
 * 1. n_done <= n_tokens; a row of logits is used once (n_rows), however often its token is
 *    computed.
 * 2. A slice never crosses from one path to another, nor from rows already used to new
 *    ones on the decode path: which path computes a token depends on its index alone.
 * 3. sink.room is asked before a row is computed, so using it never has to wait. */
#include "engine/seq.h"
#include <errno.h>
#include <math.h>
#include <time.h>
#include "base/mem.h"
#include "base/num.h"

enum {
	/* text of one token, held text before it, and the record */
	ROOM_TOKEN = TOK_PIECE_MAX + STOP_LEN_MAX + 64,
	ROOM_ROW = 64,                                  /* a row's record without its floats */
	TAIL_LEAST = 16,                                /* prompt tokens on PATH_EXACT */
};

double seq_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int seq_new(struct request_state **ret, struct request *r, uint32_t max_out)
{
	_cleanup_(seq_freep) struct request_state *s = mem_alloc(sizeof(*s));
	int e;

	if (!s)
		return -ENOMEM;
	s->message.kind = MESSAGE_REQUEST;
	s->r = r;
	s->t_submit = seq_now();
	s->n_tokens = s->cap = r->n_tokens;
	s->n_path = r->kind == REQUEST_LOGITS ? r->n_prompt : r->n_tokens;
	if (!r->exact && s->n_path > TAIL_LEAST)
		s->n_fast = (s->n_path - TAIL_LEAST) / KV_PAGE * KV_PAGE;
	s->max_out = max_out;
	if (r->kind == REQUEST_GENERATE) {
		e = sampler_new(&s->sampler, &r->sampling, r->model->hp.n_vocab);
		if (e < 0)
			return e;
		for (uint32_t i = 0; i < r->n_tokens; i++)
			sampler_accept(s->sampler, r->tokens[i]);
		if (r->lookup || r->draft) {
			e = spec_new(&s->spec);
			if (e < 0)
				return e;
		}
		if (r->lookup)
			spec_index(s->spec, r->tokens, r->n_tokens);
		if (r->draft) {
			const struct sampler_params greedy = { .top_p = 1, .typical_p = 1,
				                               .repeat_penalty = 1 };

			e = sampler_new(&s->draft_pick, &greedy, r->draft->hp.n_vocab);
			if (e < 0)
				return e;
		}
		detok_init(&s->detok, r->model->tok, r->special);
		stop_init(&s->stop, (const char *const *)r->stop, r->n_stop);
	}
	*ret = STEAL(s);
	return 0;
}

struct request_state *seq_free(struct request_state *s)
{
	if (!s)
		return NULL;
	kv_seq_free(s->kv);
	sampler_free(s->sampler);
	sampler_free(s->draft_pick);
	spec_free(s->spec);
	stop_deinit(&s->stop);
	sbuf_deinit(&s->text);
	return mem_free(s);
}

/* === What to compute === */
uint32_t seq_total(const struct request_state *s)
{
	switch (s->r->kind) {
	case REQUEST_READ:
		return 0;
	case REQUEST_SCORE:
		return s->n_tokens - 1;         /* nobody asks what follows the last token */
	case REQUEST_GENERATE:
	case REQUEST_LOGITS:
		break;
	}
	return s->n_tokens;
}

uint32_t seq_most(const struct request_state *s)
{
	return seq_total(s) + (s->r->kind == REQUEST_GENERATE ? s->max_out - s->n_out : 0);
}

enum exec_path seq_path(const struct request_state *s)
{
	if (s->n_done < s->n_fast)
		return PATH_PROMPT;
	return s->n_done < s->n_path ? PATH_EXACT : PATH_DECODE;
}

bool seq_is_decode(const struct request_state *s)
{
	if (s->n_done < s->n_path || s->r->kind == REQUEST_SCORE)
		return false;
	return s->r->kind == REQUEST_LOGITS ? s->n_done >= s->n_rows : s->n_done + 1 == s->n_tokens;
}

uint32_t seq_border(const struct request_state *s)
{
	uint32_t total = seq_total(s);

	if (s->n_done < s->n_path)
		return MIN(s->n_done < s->n_fast ? s->n_fast : s->n_path, total);
	if (seq_is_decode(s))
		return s->n_done + 1;
	/* Preempted: the decode part again, in one slice as far as its rows were used. */
	return s->r->kind == REQUEST_LOGITS ? s->n_rows : total;
}

/* The first token whose row of logits is still needed. */
static uint32_t first_row(const struct request_state *s)
{
	switch (s->r->kind) {
	case REQUEST_READ:
		return UINT32_MAX;
	case REQUEST_GENERATE:
		return s->n_tokens - 1;
	case REQUEST_LOGITS:
		break;
	case REQUEST_SCORE:
		return MAX(s->n_rows, s->r->score_from - 1);
	}
	return s->n_rows;
}

uint32_t seq_logits(const struct request_state *s, uint32_t n)
{
	uint32_t end = s->n_done + n, from = MAX(first_row(s), s->n_done);

	return end > from ? end - from : 0;
}

uint32_t seq_reusable(const struct request_state *s)
{
	return MIN(s->n_fast, first_row(s));
}

size_t seq_room(const struct request_state *s, uint32_t n_logits)
{
	size_t row = ROOM_ROW;

	if (s->r->kind == REQUEST_GENERATE)
		return n_logits * (ROOM_TOKEN + (size_t)s->r->sampling.n_logprobs *
		                                        sizeof(struct logprob));
	if (s->r->kind == REQUEST_LOGITS)
		row += (size_t)s->r->model->hp.n_vocab * sizeof(float);
	return row * n_logits;
}

/* === What becomes of a row === */
bool seq_wants_lse(const struct request_state *s)
{
	return s->r->kind == REQUEST_SCORE || s->r->sampling.n_logprobs > 0;
}

uint32_t seq_top(const struct request_state *s)
{
	return s->r->kind == REQUEST_GENERATE ? sampler_top(s->sampler) : 0;
}

int seq_eval_row(struct request_state *s, const struct logits_row *row, uint32_t pos,
                 struct row_result *ret)
{
	bool report = s->r->sampling.n_logprobs > 0;
	double lse;
	int e;

	if (s->r->kind == REQUEST_GENERATE) {
		e = sampler_sample(s->sampler, row, &ret->id, report ? &ret->own : NULL,
		                   report ? ret->top : NULL);
		if (e == 0)
			sampler_accept(s->sampler, ret->id);
		return e;
	}
	if (s->r->kind != REQUEST_SCORE)
		return 0;
	lse = logits_lse(row->lse, logits_blocks(s->r->model->hp.n_vocab));
	if (!isfinite(lse))
		return -EBADMSG;
	ret->logprob = (float)((double)row->x[s->r->tokens[pos + 1]] - lse);
	return 0;
}

int seq_guess_room(struct request_state *s, uint32_t n)
{
	uint32_t cap;
	int32_t *p;

	if (n <= s->cap - s->n_tokens)
		return 0;
	cap = s->cap + MAX(s->cap / 2, 64u);
	p = mem_reallocn(s->r->tokens, cap, sizeof(*p));
	if (!p)
		return -ENOMEM;
	s->r->tokens = p;
	s->cap = cap;
	return 0;
}

/* The drawn token: into the history, through detokenizer and stop strings, to the sink. */
static int use_token(struct request_state *s, const struct row_result *result,
                     enum finish *ret_finish)
{
	struct request *r = s->r;
	bool eog = !r->ignore_eos && tok_is_eog(r->model->tok, result->id), last;
	uint32_t n_top = r->sampling.n_logprobs;
	int e;

	e = seq_guess_room(s, 1);
	if (e < 0)
		return e;
	r->tokens[s->n_tokens++] = result->id;
	s->n_out++;
	s->t_last = seq_now();
	if (s->t_first == 0)
		s->t_first = s->t_last;
	last = eog || s->n_out == s->max_out;
	s->text.n = 0;
	e = detok_push(&s->detok, result->id, &s->text);
	if (e == 0 && last)
		e = detok_flush(&s->detok, &s->text);
	if (e == 0)
		e = stop_push(&s->stop, s->text.p, s->text.n, last);
	if (e < 0)
		return e;
	r->sink.token(r->user, result->id, s->stop.out > 0 ? s->stop.text.p : "", s->stop.out,
	              n_top > 0 ? &result->own : NULL, result->top, n_top);
	if (!last && !s->stop.hit)
		return 0;
	*ret_finish = eog || s->stop.hit ? FINISH_STOP : FINISH_LENGTH;
	return SEQ_E_END;
}

int seq_use_row(struct request_state *s, const float *row, uint32_t pos,
                const struct row_result *result, enum finish *ret_finish)
{
	struct request *r = s->r;
	float logprob = result->logprob;

	s->n_rows = pos + 1;
	if (pos + 1 >= s->n_path && s->t_prompt == 0)
		s->t_prompt = seq_now();
	if (r->kind == REQUEST_GENERATE)
		return use_token(s, result, ret_finish);
	if (r->kind == REQUEST_SCORE) {
		s->sum_nll -= (double)logprob;
		s->sum_nll_sq += (double)logprob * (double)logprob;
		s->n_scored++;
		if (r->sink.row)
			r->sink.row(r->user, pos + 1, NULL, r->model->hp.n_vocab, logprob);
	} else {
		r->sink.row(r->user, pos, row, r->model->hp.n_vocab, 0);
	}
	s->t_last = seq_now();
	if (s->n_rows < seq_total(s))
		return 0;
	*ret_finish = FINISH_STOP;
	return SEQ_E_END;
}

void seq_result(const struct request_state *s, struct request_result *ret)
{
	double end = s->t_prompt > 0 ? s->t_prompt : s->t_last;

	*ret = (struct request_result){
		.prompt_tokens = s->r->n_tokens, .cached_tokens = s->n_cached,
		.completion_tokens = s->r->kind == REQUEST_GENERATE ? s->n_out : 0,
		.sum_nll = s->sum_nll, .n_scored = s->n_scored, .sum_nll_sq = s->sum_nll_sq,
		.bytes_read = s->bytes_read, .read_s = s->read_s,
		.draft_tokens = s->n_drafted, .draft_accepted = s->n_held,
	};
	if (s->t_start > 0 && end > s->t_start)
		ret->timing.prompt_s = end - s->t_start;
	if (s->t_first > 0)
		ret->timing.first_token_s = s->t_first - s->t_submit;
	if (s->t_prompt > 0 && s->t_last > s->t_prompt)
		ret->timing.decode_s = s->t_last - s->t_prompt;
}
