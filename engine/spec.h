/* spec - guesses of what a sequence says next, and how often such guesses came true.
 *
 * A guess costs a row of a step instead of a step of its own. It is checked by computing it: the
 * row before it draws as always, and what follows counts only as long as the draw is the guess. So
 * guesses change the time that a text takes and nothing else.
 *
 * Lookup: how the sequence ends may have stood in it before; then what followed there is guessed.
 * The longer the match, the better the guess, so chances are kept by length of match.
 * Threads: one at a time. */
#pragma once
#include <stdint.h>
#include "base/cleanup.h"

enum {
	SPEC_MOST = 15,                 /* guesses of one sequence in a step */
	SPEC_MATCH_MOST = 32,           /* tokens; longer matches count as this */
	SPEC_DRAFT = 0,                 /* as a match: guesses of a draft model */
};
struct spec;
int spec_new(struct spec **ret);                /* -ENOMEM */
struct spec *spec_free(struct spec *s);
DEFINE_FREEP(struct spec, spec_free)
/* Index what is new in tokens[0, n); those seen before must be unchanged. Without memory for a
 * larger index old entries give way sooner, that is all. */
void spec_index(struct spec *s, const int32_t *tokens, uint32_t n);
/* The longest match of the end of tokens[0, n), all of them indexed, with something before it; the
 * latest of equally long ones. Returns its length in tokens and in *ret_at the place after it; 0
 * when there is none of at least two tokens. */
uint32_t spec_find(const struct spec *s, const int32_t *tokens, uint32_t n, uint32_t *ret_at);
/* Write n guesses to tokens[n_tokens, n_tokens + n): what stood at `at` and after it, going on into
 * the guesses themselves where the text ends. */
void spec_copy(int32_t *tokens, uint32_t n_tokens, uint32_t at, uint32_t n);

/* Chance of guess i (from 0) given that those before it hold; match: length, or SPEC_DRAFT. */
double spec_chance(const struct spec *s, uint32_t match, uint32_t i);
/* Of n guesses the first `held` were right. */
void spec_learn(struct spec *s, uint32_t match, uint32_t n, uint32_t held);
/* A guess was not made, so nothing is known of it: its record fades a little, so that what once
 * failed is tried again. */
void spec_fade(struct spec *s, uint32_t match);
