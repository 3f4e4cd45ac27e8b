/* seq - one request on its way: which tokens to compute next, what becomes of a row of logits, when
 * it is over.
 *
 * A sequence knows its tokens (prompt, then generated ones) and how many of them are in the KV
 * store. Whatever is missing is computed next, so a preempted sequence starts over with n_done = 0
 * and needs no case of its own. Made on the submitting thread (seq_new), then touched by the engine
 * thread only. */
#pragma once
#include "base/err.h"
#include "engine/exec.h"
#include "engine/kv.h"
#include "engine/request.h"
#include "engine/sched.h"
#include "engine/spec.h"
#include "engine/stop.h"

struct lane;
struct prefix_node;
enum { SEQ_TOP_MAX = 20 };

enum message_kind { MESSAGE_REQUEST, MESSAGE_WAKE, MESSAGE_PREPARE, MESSAGE_FORGET };
struct message {                        /* what the engine's inbox carries */
	struct list link;
	enum message_kind kind;
};

struct request_state {
	struct message message;         /* MESSAGE_REQUEST */
	struct request *r;
	struct sched_item sched;
	struct lane *lane;
	struct kv_seq *kv;              /* NULL while it waits */
	/* its first pages are those of the tree down to here; NULL while it waits, or for ever */
	struct prefix_node *node;
	struct sampler *sampler;        /* GENERATE */
	struct detok detok;
	struct stop stop;
	struct sbuf text;               /* of the token at hand */

	uint32_t n_tokens, cap;         /* of r->tokens: known tokens, allocated */
	/* The first n_fast tokens, whole pages, take PATH_PROMPT, those up to n_path, 16 to 47 at
	 * the end of the prompt, PATH_EXACT: most of the noise in the logits of the first answer
	 * comes from there. Their mean KL to the f32 model was 12e-4, 5e-4, 1.9e-4 and 0.5e-4 with
	 * 0, 1, 16 and 32 exact tokens (SmolLM2, 60 prompts, by the oracle of tests/golden). */
	uint32_t n_fast, n_path;
	/* Tokens in the KV store for good. What a step wrote there for guesses that did not hold
	 * lies beyond and is overwritten by the next. */
	uint32_t n_done;
	/* the most that n_done has been; how many of these were found there */
	uint32_t n_known, n_cached;
	uint32_t n_rows;                /* tokens whose row of logits was used */
	/* GENERATE: tokens made and allowed; READ: steps done and asked for */
	uint32_t n_out, max_out;
	size_t room_wanted;             /* parked: room that was missing */

	uint32_t grant;                 /* tokens in the step being built */
	bool ready, chosen;             /* has a decode row to do; has got it */
	bool closed;                    /* takes no more tokens in that step */

	/* Speculation (spec.h). Guesses of the step being built stand behind the known tokens:
	 * r->tokens[n_tokens, n_tokens + n_guess). */
	struct spec *spec;              /* NULL: none */
	uint32_t n_guess, guess_most;   /* taken into the step; offered */
	uint32_t guess_match, guess_at; /* length of the match or SPEC_DRAFT; place of a match */
	bool guess_waits;               /* none was taken: what comes will tell if it was right */
	double guess_chance;            /* that the next guess, and all before it, hold */
	uint64_t n_drafted, n_held;     /* guesses that were computed; that held */
	/* The draft model's side: its lane, NULL without one; its pages, and tokens in them. */
	struct lane *draft;
	struct kv_seq *draft_kv;
	struct sampler *draft_pick;     /* greedy */
	uint32_t draft_done;
	bool drafted;                   /* the guesses of this step are the draft model's */

	/* seconds, monotonic; 0 = not yet */
	double t_submit, t_start, t_prompt, t_first, t_last;
	uint64_t charged;               /* the last round of engine_charges that met it */
	double sum_nll, sum_nll_sq, read_s;
	uint64_t n_scored, bytes_read;
};
double seq_now(void);                   /* monotonic seconds */

/* r has passed request_check; max_out is what context and max_tokens allow. r stays the caller's on
 * error. */
int seq_new(struct request_state **ret, struct request *r, uint32_t max_out);
/* not the request, not its place in sched */
struct request_state *seq_free(struct request_state *s);
DEFINE_FREEP(struct request_state, seq_free)

/* tokens that have to be in the KV store by what is known */
uint32_t seq_total(const struct request_state *s);
/* the same at the request's end, if it goes to its limit */
uint32_t seq_most(const struct request_state *s);
enum exec_path seq_path(const struct request_state *s);         /* of the token at n_done */
bool seq_is_decode(const struct request_state *s);      /* next is one row on the decode path */
/* The first tokens may come from the KV pages of other requests: so many, for their rows of logits
 * are not needed. */
uint32_t seq_reusable(const struct request_state *s);
/* tokens [n_done, border) may go in one slice */
uint32_t seq_border(const struct request_state *s);
/* Rows of logits that are needed of the slice [n_done, n_done + n): those of its last tokens. */
uint32_t seq_logits(const struct request_state *s, uint32_t n);
/* bytes of output they make at most */
size_t seq_room(const struct request_state *s, uint32_t n_logits);

struct row_result {
	int32_t id;                     /* GENERATE: the token drawn */
	float logprob;                  /* SCORE */
	struct logprob own, top[SEQ_TOP_MAX];
};
/* Do its rows of logits need their sums of exponentials (exec_slice.lse)? */
bool seq_wants_lse(const struct request_state *s);
/* How many of a row's largest logits are looked at; 0: all. */
uint32_t seq_top(const struct request_state *s);
/* The part of a row that any thread may do: GENERATE draws, so the rows of a sequence come in order
 * of pos, and a row comes only if it will be used; SCORE looks up. pos: position of the row's
 * token. 0, -EBADMSG for a row that is no distribution. */
int seq_eval_row(struct request_state *s, const struct logits_row *row, uint32_t pos,
                 struct row_result *ret);
/* The rest, on the engine thread, in order of pos: calls the sink. SEQ_E_END with *ret_finish when
 * the request is over by this row. */
enum { _SEQ_E_SUCCESS, SEQ_E_END };
int seq_use_row(struct request_state *s, const float *row, uint32_t pos,
                const struct row_result *result, enum finish *ret_finish);
/* Memory behind the known tokens for n guesses: 0 or -ENOMEM. */
int seq_guess_room(struct request_state *s, uint32_t n);
/* but for finish, code and err */
void seq_result(const struct request_state *s, struct request_result *ret);
/* Sentence for a person: the model's name, made printable. */
enum { MODEL_LABEL_MAX = 80 };
const char *model_label(const struct model *m, char buf[MODEL_LABEL_MAX]);
/* What does not depend on the context: -EINVAL. */
int request_check(const struct request *r, struct err *err);
