/* sched - whose turn it is: shares of prompt work, of a step's decode rows, of places and of pages.
 *
 * Two levels everywhere: first between uids, then between the clients of one. Prompt work goes by
 * deficit round robin in its virtual-time form: every uid and every client has a count of prompt
 * tokens served; the smallest count goes next, so a long prompt and many connections of one user
 * weigh no more than one short prompt of another. A client that (re)appears starts level with the
 * one served last: nobody saves up shares by being idle. Decode rows of a step go one by one to the
 * uid that has fewest in it, then to the client, then to the sequence that waited longest; so a
 * step with room for few gives each uid the same number as far as it has use for them. Pages: who
 * is above an equal share gives way to who is not. Threads: engine thread only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/list.h"

struct sched_user;
struct sched_client;
struct sched {
	struct list users;
	/* served of the uid that was charged last, before the charge */
	uint64_t clock;
	uint64_t next_order, next_turn;
	uint64_t share;                 /* bytes of pages, as of the last sched_weigh_end */
};
struct sched_item {                     /* a request's part; between join and leave */
	struct sched_client *client;
	uint64_t order;                 /* arrival number: smaller is older */
	uint64_t turn;                  /* when it had its last decode row */
	bool batch;                     /* class: after all interactive ones */
	bool preempted;                 /* lost its pages: first of its uid to come back */
	bool parked;                    /* its sink has no room */
	bool running;
};
void sched_init(struct sched *s);
/* kv_max: bytes of pages that the uid may hold, 0 = no limit; the last one given counts. 0,
 * -ENOMEM */
int sched_join(struct sched *s, struct sched_item *it, uint32_t uid, uint64_t client, bool batch,
               uint64_t kv_max);
void sched_leave(struct sched *s, struct sched_item *it);
void sched_set_running(struct sched_item *it, bool running);
void sched_charge(struct sched *s, struct sched_item *it, uint32_t n_tokens);
/* Strict orders; b may be NULL (then a comes first). */
bool sched_admit_before(const struct sched_item *a, const struct sched_item *b);
bool sched_prompt_before(const struct sched_item *a, const struct sched_item *b);
/* May one more of the uid's run where n of all uids do and max are meant to? With others about it
 * may beyond max as far as its own share of max goes: who came first cannot keep them out. */
bool sched_has_place(const struct sched *s, const struct sched_item *it, uint32_t n, uint32_t max);

/* --- decode rows of one step: begin, sched_ready for each, then pick and take --- */
struct sched_step {
	/* uids that want rows, and the smallest number that one of them wants; uids that want
	 * prompt tokens computed; that want either */
	uint32_t users, least, prompt_users, uids;
};
void sched_step_begin(struct sched *s);
void sched_ready(struct sched_item *it, bool decode);
void sched_step_of(const struct sched *s, struct sched_step *ret);
bool sched_row_before(const struct sched_item *a, const struct sched_item *b);
void sched_row_taken(struct sched *s, struct sched_item *it);
/* It does not use that row after all. */
void sched_row_untaken(struct sched_item *it);

/* --- pages: begin, sched_weigh for each that holds some, end --- */
void sched_weigh_begin(struct sched *s);
void sched_weigh(struct sched_item *it, uint64_t bytes);
/* room: bytes for the pages of all. */
void sched_weigh_end(struct sched *s, uint64_t room);
/* May `it` have `more` bytes by its uid's limit? */
bool sched_below_limit(const struct sched_item *it, uint64_t more);
/* Its uid is above its share, and that of `it`, with `more` bytes, is not: -1; the other way round:
 * 1; else 0. */
int sched_cmp_share(const struct sched *s, const struct sched_item *victim,
                    const struct sched_item *it, uint64_t more);
/* Who loses pages first: parked ones, which make no progress, then those of a uid above its share,
 * the farthest first, and of one uid the youngest. */
bool sched_victim_before(const struct sched *s, const struct sched_item *a,
                         const struct sched_item *b);

/* --- what each client uses --- */
struct sched_use {
	uint32_t uid;
	uint64_t client;
	uint32_t running, waiting, parked;
	uint64_t pages, bytes;          /* KV */
};
/* Between begin and the last count the counts are nobody's to read: the caller has a lock. */
void sched_count_begin(struct sched *s);
void sched_count(struct sched_item *it, bool running, uint64_t pages, uint64_t bytes);
/* At most max of them into ret; returns how many there are. */
size_t sched_uses(const struct sched *s, struct sched_use *ret, size_t max);
