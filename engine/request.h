/* request - one unit of work for the engine. Built by the caller, owned by the engine from
 * engine_submit on. */
#pragma once
#include <stdatomic.h>
#include "base/list.h"
#include "engine/sampler.h"
#include "engine/sink.h"
#include "model/model.h"

enum request_kind {
	REQUEST_GENERATE,
	REQUEST_LOGITS,                 /* a row of logits for every token */
	/* log-probability of tokens[i] given those before, for i in [score_from, n) */
	REQUEST_SCORE,
	REQUEST_READ,                   /* bench: exec_read_step, max_tokens times */
};
enum { STOP_MAX = 16, STOP_LEN_MAX = 256 };

struct request {                        /* request_new zeroes; fill, then engine_submit */
	enum request_kind kind;
	struct model *model;            /* a reference, released by the engine */
	int32_t *tokens;                /* mem_alloc'ed, owned; ids checked by engine_submit */
	uint32_t n_tokens;
	/* LOGITS: the first n_prompt tokens take the prompt path, the rest decode one by one;
	 * n_tokens = all prompt */
	uint32_t n_prompt;
	uint32_t max_tokens;            /* GENERATE: 0 = until the context is full */
	uint32_t score_from;
	struct sampler_params sampling; /* bias array owned (mem_alloc) */
	char *stop[STOP_MAX];           /* owned, NUL-terminated, non-empty */
	uint32_t n_stop;
	/* GENERATE, for speed alone: guess from the text so far; by a model of the same vocabulary,
	 * a reference, released by the engine. */
	bool lookup;
	struct model *draft;
	bool ignore_eos, special;       /* special: special tokens are visible in text */
	uint32_t uid;
	uint64_t client;                /* fairness key within the uid */
	/* bytes of KV pages that all requests of the uid may hold: an answer ends there, what does
	 * not fit beside others waits; 0 = any */
	uint64_t kv_max;
	bool batch_class;               /* false: interactive */
	/* KV pages of its prompt are of use to requests of other uids that have this set too, and
	 * theirs to it; else only those of one uid share. no_cache: neither take nor leave any. */
	bool share, no_cache;
	bool exact;                     /* all of the prompt takes PATH_EXACT (exec.h) */
	struct sink sink;
	void *user;                     /* for sink */
	atomic_bool cancel;             /* set by anyone; engine_wake afterwards */
	/* engine's own part below */
	struct request_state *state;
	struct list link;
};
int request_new(struct request **ret);
struct request *request_free(struct request *r);
DEFINE_FREEP(struct request, request_free)
