/* sampler - logits to a token. The chain, in this order: logit bias, penalties, (temp <= 0: argmax,
 * lowest id wins ties) top-k, typical-p, top-p, min-p, temperature, draw. Deterministic for
 * (params, seed, history): own PCG-like generator, one draw a token, so batching and machine change
 * nothing.
 * NaN in the logits: -EBADMSG. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "base/err.h"
#include "engine/logits.h"

struct logit_bias {
	int32_t id;
	float bias;                     /* added; -INFINITY bans */
};
struct sampler_params {                 /* sampler_params_default() */
	float temp;                     /* 0.8; <= 0 greedy */
	uint32_t top_k;                 /* 40; 0 = off */
	float top_p, min_p, typical_p;  /* 0.95, 0.05, 1 (off) */
	float repeat_penalty;           /* 1 = off; over the last 64 tokens, prompt included */
	float presence_penalty, frequency_penalty;     /* 0 = off */
	uint64_t seed;
	struct logit_bias *bias;        /* copied by sampler_new */
	uint32_t n_bias;
	/* top-k log-probabilities to report (<= 20), of the raw distribution */
	uint32_t n_logprobs;
};
struct logprob {
	int32_t id;
	float logprob;
};
struct sampler;
void sampler_params_default(struct sampler_params *p);
/* Ranges: temp in [0, 100], top_p/min_p/typical_p in [0, 1], penalties finite and in (0, 10] /
 * [-10, 10], ids < n_vocab. -EINVAL. */
int sampler_check(const struct sampler_params *p, uint32_t n_vocab, struct err *err);
int sampler_new(struct sampler **ret, const struct sampler_params *p, uint32_t n_vocab);
struct sampler *sampler_free(struct sampler *s);
DEFINE_FREEP(struct sampler, sampler_free)
/* How many of a row's largest logits sampler_sample() looks at: others may be -INFINITY. 0: all. */
uint32_t sampler_top(const struct sampler *s);
void sampler_accept(struct sampler *s, int32_t id);     /* history: prompt tokens and chosen ones */
/* logits is not changed. own: log-probability of the chosen token; top: n_logprobs entries, best
 * first (may be NULL). */
int sampler_sample(struct sampler *s, const struct logits_row *logits, int32_t *ret,
                   struct logprob *own, struct logprob *top);
