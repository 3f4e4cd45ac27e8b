/* engine-impl - what engine.c (doors and thread), engine-lane.c (memory, models), engine-prefix.c
 * (shared pages) and engine-step.c (steps) share.
 *
 * A lane is a loaded model with its executor, KV pages and admitted sequences. One budget covers
 * the fixed buffers and the pages of all lanes; pages are taken first come, first served, and given
 * up by the youngest. All of it is touched by the engine thread only, but for what is marked. */
#pragma once
#include <pthread.h>
#include <semaphore.h>
#include "base/mbox.h"
#include "engine/engine.h"
#include "engine/exec.h"
#include "engine/pace.h"
#include "engine/prefix.h"
#include "engine/seq.h"

struct lane {
	struct list link;               /* in engine.lanes */
	struct model *model;            /* a reference */
	struct exec *exec;
	struct kv_pool *kv;
	struct prefix *prefix;          /* of kv's pages */
	/* admitted, oldest first, parked ones included; request.link */
	struct list seqs;
	struct list reads;              /* REQUEST_READ; request.link */
	uint32_t n_active;              /* of seqs: not parked */
	uint32_t n_requests;            /* admitted and waiting */
	bool read_turn, forget, poisoned;
	struct pace pace;
	uint32_t guess_turn;            /* steps of one sequence that could guess */
	/* time that prompts may take beside other uids' decode rows; below 0: has to be earned */
	double prompt_credit_s;
	/* what a step of the rows of the uid with the fewest takes, as of the last step; 0 = no
	 * decode rows */
	double solo_s;
	uint64_t fixed, page_bytes;     /* set once */
	enum kv_type kv_type;
	/* Read by any thread under engine.lock. */
	_Atomic uint64_t bytes, cached, requests;       /* bytes: lane_bytes */
};

struct row_job {                        /* a row of logits of the step that just ran */
	struct request_state *s;
	struct logits_row row;
	uint32_t pos;
	/* rows from here on that are evaluated in turn as long as each draws the guess that the
	 * next was computed for; 0: one of those */
	uint32_t chain;
	bool used;                      /* evaluated: code and result are there */
	int code;
	struct row_result result;
};

struct engine {
	struct engine_config c;
	const struct kernels *kernels;
	struct pool *pool;
	const char *threads_why;
	uint32_t max_logits;
	struct mbox *inbox;
	struct message wake;            /* in the inbox at most once: wake_pending */
	atomic_bool wake_pending, quit;
	pthread_t thread;
	bool started;

	/* the shape of lanes: written by the engine thread, read by all */
	pthread_mutex_t lock;
	struct list lanes;              /* the next to have a turn comes first */

	struct sched sched;
	struct list waiting;            /* request.link */
	struct exec_slice *slices;      /* max_seqs + chunk of each */
	struct request_state **rows;
	struct row_job *jobs;           /* max_logits */
	uint64_t clock;                 /* of all prefix trees */
	uint64_t round;                 /* the last mark of engine_charges and its kin */

	/* Published for engine_stats. */
	_Atomic uint64_t used, steps, prompt_tokens, decode_tokens, preemptions;
	_Atomic uint64_t draft_tokens, draft_accepted;
	_Atomic uint64_t cached, cached_tokens, cache_hits;
	_Atomic uint32_t n_running, n_waiting, n_parked;
};

/* engine-lane.c */
uint64_t budget_default(void);
/* engine thread, or under the lock */
struct lane *lane_find(struct engine *e, const struct model *m);
/* makes it when missing */
int lane_get(struct engine *e, struct model *m, enum kv_type kv_type, struct lane **ret,
             struct err *err);
void lane_drop(struct engine *e, struct lane *l);
/* Bytes of budget that pages of model m could use if one sequence ran, and what they are. Any
 * thread. */
uint64_t budget_for_pages(struct engine *e, const struct model *m, struct kv_sizes *ret);
void lane_publish(struct engine *e, struct lane *l);
void engine_park(struct engine *e, struct request_state *s, size_t room);
void engine_unpark(struct engine *e, struct request_state *s);
/* Room for n_pos positions of s; younger or parked sequences of any lane lose their pages for it if
 * they must. 0, KV_E_FULL when s itself had to go back to waiting, -ENOSPC, -ENOMEM. */
int engine_reserve(struct engine *e, struct request_state *s, uint32_t n_pos);
/* Room for n_pos positions in kv, pages that s can do without: takes nothing from anybody. */
bool engine_spare(struct engine *e, struct request_state *s, struct kv_seq *kv, uint32_t n_pos);
/* waiting requests to their lanes, as far as slots and pages go */
void engine_admit(struct engine *e);
/* The end of a request: last call of its sink, everything freed. err: for FINISH_ERROR. */
void engine_finish(struct engine *e, struct request_state *s, enum finish finish,
                   const struct err *err);

/* engine-spec.c */
/* Guesses of the n sequences in engine.rows, which all have a row in the step: at most `most` in
 * all. Returns how many; request_state.n_guess has each one's. */
uint32_t engine_guess(struct engine *e, struct lane *l, uint32_t n, uint32_t most);
/* A step of s, which had the chance to guess, drew id first, and its first `held` guesses. */
void engine_guessed(struct engine *e, struct request_state *s, int32_t id, uint32_t held);
/* s goes on without its draft model, whose pages are given back. */
void engine_draft_end(struct request_state *s);
/* All draft models' pages, or those of s's uid, for somebody who needs pages more. Were there
 * any? */
bool engine_draft_yield(struct engine *e, const struct request_state *s);

/* engine-prefix.c */
/* s gets an empty table and its place in the tree. 0, -ENOMEM: engine_leave then, too. */
int engine_enter(struct request_state *s);
/* Its pages go, but for those that the tree keeps: nothing of it is done any more. */
void engine_leave(struct request_state *s);
/* Take what pages there are of the prompt from n_done on. */
bool engine_take(struct request_state *s);      /* true: it took some */
/* Window pages of kv for rows up to position end - 1, which it has room for: those behind the
 * window go, others take their place. kv: of s, or its draft model's. 0, -ENOMEM. */
int engine_slide(struct engine *e, struct request_state *s, struct kv_seq *kv, uint32_t end);
/* Leave the full pages of the prompt that are done in the tree. */
void engine_keep(struct request_state *s);
/* Prompt rows of s are next: who is to compute them? Itself, or another that has come farther in
 * the same page, which s may take afterwards; NULL: this step has rows of that page already. */
struct request_state *engine_lead(const struct lane *l, struct request_state *s);
/* Bytes of the lane's pages that sequences use, window pages once for each. Idle ones of the tree
 * count as free. */
uint64_t lane_bytes(const struct lane *l);
uint64_t engine_fixed(const struct engine *e);  /* bytes of the fixed buffers of all lanes */
/* Evict idle pages and give memory back until n_pos positions of kv, unless that is NULL, and
 * `other` bytes fit beside all there is, as far as that is possible. */
void engine_make_room(struct engine *e, const struct kv_seq *kv, uint32_t n_pos, uint64_t other);
/* What each admitted request pays for, its draft model's pages included: for a page that several
 * of one uid use, one of them does. */
typedef void (*engine_charge_fn)(struct request_state *s, uint64_t pages, uint64_t bytes);
void engine_charges(struct engine *e, engine_charge_fn fn);
/* Bytes that come free when all go of which `goes` says so, and s stays. */
typedef bool (*engine_goes_fn)(const struct engine *e, const struct request_state *v,
                               const struct request_state *s, uint64_t more);
uint64_t engine_pages_if_gone(struct engine *e, const struct request_state *s, engine_goes_fn goes,
                              uint64_t more);
/* Bytes that s, which waits, will use and its uid pays for already. */
uint64_t engine_paid(const struct request_state *s);

/* engine-step.c */
bool lane_turn(struct engine *e, struct lane *l);       /* one step, if there is one to do */

static inline struct request_state *link_seq(struct list *link)
{
	return container_of(link, struct request, link)->state;
}
