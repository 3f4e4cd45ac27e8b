/* sched - whose turn it is: shares of prompt work, order of admission, choice of victims.
 *
 * Deficit round robin in its virtual-time form, on two levels: every uid, and within it every
 * client, has a count of prompt tokens served; the smallest count goes next, so a long prompt and
 * many connections of one user weigh no more than one short prompt of another. A client that
 * (re)appears starts level with the one served last: nobody saves up shares by being idle. Decode
 * rows are not charged, every running sequence has one in every step. Threads: engine thread
 * only. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/list.h"

struct sched_user;
struct sched_client;
struct sched {
	struct list users;
	/* served of the uid that was charged last, before the charge */
	uint64_t clock;
	uint64_t next_order;
};
struct sched_item {                     /* a request's part; between join and leave */
	struct sched_client *client;
	uint64_t order;                 /* arrival number: smaller is older */
	bool batch;                     /* class: after all interactive ones */
	bool preempted;                 /* lost its pages: first to come back */
	bool parked;                    /* its sink has no room */
	bool running;
};
void sched_init(struct sched *s);
/* 0, -ENOMEM */
int sched_join(struct sched *s, struct sched_item *it, uint32_t uid, uint64_t client, bool batch);
void sched_leave(struct sched *s, struct sched_item *it);
void sched_set_running(struct sched_item *it, bool running);
void sched_charge(struct sched *s, struct sched_item *it, uint32_t n_tokens);
/* Strict orders; b may be NULL (then a comes first). */
bool sched_admit_before(const struct sched_item *a, const struct sched_item *b);
bool sched_prompt_before(const struct sched_item *a, const struct sched_item *b);
/* Who loses pages first: parked ones, which make no progress, then the youngest. */
bool sched_victim_before(const struct sched_item *a, const struct sched_item *b);
