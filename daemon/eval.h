/* eval - perplexity and KL of a model on a text, by requests to the engine like anybody's.
 *
 * llama.cpp: the text's tokens (BOS where the vocabulary adds it, special tokens not parsed) in
 * chunks of ctx without overlap, token 0 of each replaced by BOS if the vocabulary adds it,
 * positions ctx/2+1 .. ctx-1 scored. hf: BOS at the very start only, all positions but the first of
 * each chunk scored.
 * With a reference both models' rows are compared while they come; sums are in double and in order
 * of position, so that the result does not depend on timing. Threads: blocks its caller (a worker);
 * never the main or engine thread. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "engine/engine.h"

typedef void (*eval_progress_fn)(void *user, uint64_t done, uint64_t total);
struct eval_params {
	struct engine *engine;
	struct model *model, *ref;      /* references held by the caller; ref NULL = no KL */
	const char *text;
	size_t n;
	uint32_t ctx, chunks;           /* chunks 0 = all */
	bool hf;
	uint32_t uid;
	uint64_t client, kv_max;        /* as struct request's */
	const atomic_bool *cancel;
	eval_progress_fn progress;
	void *user;
};
struct eval_result {
	double ppl, ppl_stderr;
	uint64_t tokens;                /* scored */
	double kld_mean, kld_p99, kld_max, top1;
};
/* 0, -ECANCELED, -EINVAL (text too short, vocabularies differ), or the engine's error. */
int eval_text(struct eval_result *ret, const struct eval_params *p, struct err *err);
