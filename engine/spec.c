/* spec - an index of n-grams without chains, and running rates of guesses that held.
 *
 * For every position and each length in `grams` the hash of the tokens that end there names one
 * slot, which holds the latest such position. A look-up compares tokens, so a slot that another
 * n-gram took loses a guess and never makes a wrong one. The table doubles with the text.
 * Invariants:
 * 1. A slot holds a position p with 0 < p < n: there is a token after the n-gram.
 * 2. Nothing here reaches the text of an answer: time alone depends on it. */
#include "engine/spec.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"

enum { TABLE_LEAST = 1024, KINDS = 7, KIND_DRAFT = KINDS - 1 };
static const uint32_t grams[] = { 8, 4, 3, 2 };

/* Shortest match of each kind but the last, and how often its guesses hold until that is known:
 * rather too low for what is rarely right, since a wrong guess costs what a right one gains. */
static const uint32_t kind_from[KIND_DRAFT] = { 0, 3, 4, 6, 9, 16 };
static const double prior[KINDS] = { 0.3, 0.5, 0.6, 0.75, 0.85, 0.92, 0.7 };
static const double PRIOR_WEIGHT = 4;           /* in guesses */
static const double KEEP = 0.95, FADE = 0.99;   /* of the record a guess; a match not tried */

struct rate {
	double held, tried;
};
struct spec {
	uint32_t *slot;
	uint32_t n_slots;               /* 0 or a power of two */
	uint32_t n;                     /* tokens indexed */
	struct rate rate[KINDS];
};

int spec_new(struct spec **ret)
{
	struct spec *s = mem_alloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	*ret = s;
	return 0;
}

struct spec *spec_free(struct spec *s)
{
	if (!s)
		return NULL;
	mem_free(s->slot);
	return mem_free(s);
}

/* === The index === */
static uint32_t *slot_of(const struct spec *s, const int32_t *end, uint32_t gram)
{
	uint64_t h = gram;

	for (uint32_t i = 1; i <= gram; i++)
		h = (h ^ (uint32_t)end[-(int32_t)i]) * 0x9e3779b97f4a7c15u;
	return &s->slot[(h ^ h >> 29) * 0xbf58476d1ce4e5b9u >> 32 & (s->n_slots - 1)];
}

/* Room for n tokens at half load. A table that cannot grow stays. */
static void grow(struct spec *s, uint32_t n)
{
	uint64_t want = 2 * (uint64_t)n * ARRAY_SIZE(grams),
		 size = MAX(s->n_slots, (uint32_t)TABLE_LEAST);
	uint32_t *slot;

	if (s->n_slots >= want || n > UINT32_MAX / 32)
		return;
	while (size < want)
		size *= 2;
	slot = mem_allocn(size, sizeof(*slot));
	if (!slot)
		return;
	mem_free(s->slot);
	s->slot = slot;
	s->n_slots = (uint32_t)size;
	s->n = 0;                       /* all of it again */
}

void spec_index(struct spec *s, const int32_t *tokens, uint32_t n)
{
	grow(s, n);
	if (s->n_slots == 0)
		return;
	for (uint32_t p = MAX(s->n, 1u); p < n; p++)
		for (size_t g = 0; g < ARRAY_SIZE(grams); g++)
			if (p >= grams[g])
				*slot_of(s, tokens + p, grams[g]) = p;
	s->n = n;
}

/* Tokens that tokens[0, p) and tokens[0, n) have in common at their ends. */
static uint32_t common(const int32_t *tokens, uint32_t p, uint32_t n)
{
	uint32_t k = 0;

	while (k < p && k < SPEC_MATCH_MOST && tokens[p - 1 - k] == tokens[n - 1 - k])
		k++;
	return k;
}

uint32_t spec_find(const struct spec *s, const int32_t *tokens, uint32_t n, uint32_t *ret_at)
{
	uint32_t best = 0, at = 0;

	for (size_t g = 0; g < ARRAY_SIZE(grams) && s->n_slots > 0; g++) {
		uint32_t p = n >= grams[g] ? *slot_of(s, tokens + n, grams[g]) : 0;
		uint32_t k = p > 0 ? common(tokens, p, n) : 0;

		if (k >= 2 && (k > best || (k == best && p > at))) {
			best = k;
			at = p;
		}
	}
	*ret_at = at;
	return best;
}

void spec_copy(int32_t *tokens, uint32_t n_tokens, uint32_t at, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		tokens[n_tokens + i] = tokens[at + i];
}

/* === Chances === */
/* A guess that holds makes the match longer, but what is hoped for counts half. */
static unsigned kind_of(uint32_t match, uint32_t i)
{
	unsigned k = KIND_DRAFT;

	if (match == SPEC_DRAFT)
		return KIND_DRAFT;
	while (match + i / 2 < kind_from[--k])
		;
	return k;
}

double spec_chance(const struct spec *s, uint32_t match, uint32_t i)
{
	unsigned k = kind_of(match, i);
	const struct rate *r = &s->rate[k];

	return (prior[k] * PRIOR_WEIGHT + r->held) / (PRIOR_WEIGHT + r->tried);
}

static void fade(struct rate *r, double keep)
{
	r->held *= keep;
	r->tried *= keep;
}

void spec_learn(struct spec *s, uint32_t match, uint32_t n, uint32_t held)
{
	for (uint32_t i = 0; i < n && i <= held; i++) {
		struct rate *r = &s->rate[kind_of(match, i)];

		fade(r, KEEP);
		r->held += i < held;
		r->tried += 1;
	}
}

void spec_fade(struct spec *s, uint32_t match)
{
	fade(&s->rate[kind_of(match, 0)], FADE);
}
