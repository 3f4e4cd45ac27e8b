/* engine - the compute thread: scheduler, batches, sequences of all loaded models.
 *
 * One thread owns all sequences; everybody else talks to it through its inbox. Each turn: take the
 * inbox; decode rows first, then prompt tokens within the step's budget, round robin over (uid,
 * client) with deficit; run one step per model; sample; hand to sinks. It sleeps without wake-ups
 * when there is nothing to do. */
#pragma once
#include "base/err.h"
#include "engine/request.h"
#include "engine/sched.h"
#include "kernels/kernels.h"

struct engine;
/* When to compute guesses (engine/spec.h); it changes no answer. */
enum engine_guess {
	GUESS_WHERE_IT_PAYS,
	GUESS_NEVER,
	GUESS_ALWAYS,                   /* for measurements: whatever they cost */
};
struct engine_config {
	uint32_t threads;               /* 0 = pool_default_threads() */
	/* bytes for KV pages and buffers of all models; 0 = half of total memory */
	uint64_t budget;
	/* prompt tokens a step, default 128: bounds the delay of other clients' tokens */
	uint32_t chunk;
	uint32_t max_seqs;              /* sequences decoded together, default 64 */
	enum engine_guess guess;
};
int engine_new(struct engine **ret, const struct engine_config *c, const struct kernels *k,
               struct err *err);
struct engine *engine_free(struct engine *e);           /* cancels what runs, joins the thread */
/* Takes ownership of r in every case. Checks: ids, lengths against the context (-E2BIG with need
 * and have), parameters (-EINVAL), budget (-ENOSPC: could never fit), the uid's limit of pages
 * (-EDQUOT). On error r is freed, no sink call was made. Any thread. */
int engine_submit(struct engine *e, struct request *r, struct err *err);
/* after r->cancel = true, or when a sink has room again */
void engine_wake(struct engine *e);
/* What the pages of a sequence of n_pos tokens take; UINT64_MAX: more than can be counted. Any
 * thread. */
uint64_t engine_kv_bytes(const struct engine *e, const struct hparams *hp, enum kv_type type,
                         uint32_t n_pos);
/* Context a request of this model may use: min(n_ctx_train, what the budget holds). */
uint32_t engine_context(struct engine *e, const struct model *m);
/* Forget a model's buffers (unload). Its requests must have ended. Asynchronous; drops the engine's
 * reference. */
int engine_forget(struct engine *e, struct model *m);
/* Build the executor and KV pool of a model ahead of its first request, which would take F16. A
 * model that has them already keeps its type. Any thread; returns when done. */
int engine_prepare(struct engine *e, struct model *m, enum kv_type kv_type, struct err *err);

/* For a watchdog, always the same thread: the index of a compute thread (0: the engine's own)
 * that is in a step, or leaves messages lie, and has not moved since the last call, or -1. A step
 * may last as long as it likes: each chunk of it is a move. Never waits for compute. */
int engine_stuck(struct engine *e);

struct engine_stats {                   /* a snapshot, never waits for compute */
	uint32_t threads, threads_active, running, waiting, parked;
	uint64_t budget, used, steps, prompt_tokens, decode_tokens, beats, preemptions;
	/* guesses computed beside sure tokens, and those that held */
	uint64_t draft_tokens, draft_accepted;
	/* Bytes of pages that only the prefix trees hold, not in used; prompt tokens found in pages
	 * of others by requests that have ended, and how many requests found some. */
	uint64_t cached, cached_tokens, cache_hits;
	char threads_why[128];
};
void engine_stats(struct engine *e, struct engine_stats *ret);
/* A row for every client that has requests, as of the last step: at most max into ret; returns how
 * many there are. Any thread. */
size_t engine_uses(struct engine *e, struct sched_use *ret, size_t max);
struct engine_model_stats {
	/* pages: those of requests; cached: those of the prefix tree, in use or not */
	uint64_t kv_pages, kv_pages_max, kv_cached, bytes;
	uint32_t requests;
};
void engine_model_stats(struct engine *e, const struct model *m, struct engine_model_stats *ret);
