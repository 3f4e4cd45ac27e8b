/* sink - the engine's only way up. Called on the engine thread; must not block, allocate without
 * bound, or call back into the engine. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/sampler.h"

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };
struct request_timing {
	/* first_token_s counts from submit; decode_s from the first token (LOGITS: from the last
	 * prompt row) to the last */
	double prompt_s, first_token_s, decode_s;
};
struct request_result {
	enum finish finish;
	int code;                       /* FINISH_ERROR: negative errno; text in err */
	const struct err *err;          /* NULL unless FINISH_ERROR */
	/* cached: of the prompt, found in KV pages of others instead of computed */
	uint32_t prompt_tokens, cached_tokens, completion_tokens;
	/* guesses that were computed beside sure tokens, and those that held (spec.h) */
	uint64_t draft_tokens, draft_accepted;
	struct request_timing timing;
	double sum_nll;                 /* REQUEST_SCORE */
	uint64_t n_scored;
	double sum_nll_sq;
	uint64_t bytes_read;            /* REQUEST_READ */
	double read_s;
};
struct sink {
	/* Room for at least n more bytes of output? false parks the sequence until engine_wake.
	 * Asked before rows are computed, perhaps several times for growing or shrinking n: the
	 * last answer holds until the output comes. */
	bool (*room)(void *user, size_t n);
	/* A generated token, the one that ends the generation included: text it makes visible (may
	 * be empty), its log-probabilities (own NULL and n_top 0 unless sampling.n_logprobs >
	 * 0). */
	void (*token)(void *user, int32_t id, const char *text, size_t n, const struct logprob *own,
	              const struct logprob *top, uint32_t n_top);
	/* REQUEST_LOGITS: row of n_vocab floats after token `index`. REQUEST_SCORE: row is NULL and
	 * logprob is that of token index. */
	void (*row)(void *user, uint32_t index, const float *row, uint32_t n_vocab, float logprob);
	/* Last call for a request; then the engine has forgotten it. */
	void (*done)(void *user, const struct request_result *result);
};
