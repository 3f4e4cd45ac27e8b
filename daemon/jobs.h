/* jobs - work that outlives its client: queued, run by workers, kept on disk.
 *
 * Main thread only. A job is its record (jobfile.h), saved at each change of state by a thread of
 * its own, and what runs of it. Live jobs (queued, running, paused) are charged to their owner;
 * finished ones are kept up to jobs.kept_per_uid. What was queued or running when the daemon ended
 * is queued again at its start. While nothing is queued there is no timer. Packing in the
 * background gives way to requests. */
#pragma once
#include "daemon/call.h"
#include "daemon/jobfile.h"

struct jobs;
struct entry;
struct worker;
struct job {
	struct list link;               /* in order of id */
	struct jobs *jobs;
	struct job_record rec;
	struct charge charge;           /* while live */
	struct worker *worker;          /* while RUNNING, and so is entry */
	struct entry *entry;
	int target;                     /* file that the worker fills, or -1 */
	struct list waiters;            /* struct call.waiting: until it ends or is paused */
	struct list savers;             /* struct call.waiting: until the disk has its state */
	bool attached;                  /* a client waits for the result and wants nothing else */
	const char *phase;              /* static */
	uint64_t done, total, begun_us; /* of this attempt, in bytes */
	uint64_t held_since_us;         /* when it first gave way to requests, or 0 */
	int errnum;                     /* of a failed one, negative */
	/* DONE or FAILED once the worker has said so, else QUEUED */
	enum job_state verdict;
	/* saving */
	struct work save;
	struct post saved;
	char *text;                     /* being written while not NULL */
	bool dirty;                     /* changed meanwhile */
	int save_result;
};
int jobs_new(struct jobs **ret, struct daemon *d, struct err *err);
/* Draining: workers are stopped, who waits is told; the jobs go on after the next start. */
void jobs_drain(struct jobs *js);
/* The calls have ended. What is not saved yet is saved. */
struct jobs *jobs_free(struct jobs *js);

struct list *jobs_list(struct jobs *js);        /* struct job.link */
/* NULL: none of that number, or not for the call's user to see. */
struct job *jobs_find(struct jobs *js, uint64_t id, const struct call *c);
bool job_visible(const struct job *j, const struct call *c);
/* A new job of that user, queued. target: the file that an export fills (consumed, also on
 * failure), else -1. -EBUSY (quota), -ENOMEM. */
int jobs_add(struct jobs *js, struct job **ret, enum job_kind kind, struct user *user,
             const struct entry *e, int target, struct err *err);
/* Queue a pack job for every model that the store has as GGUF, where the settings want it; and for
 * this one, whose packed file turned out to be outdated. */
void jobs_pack_store(struct jobs *js);
void jobs_pack_again(struct jobs *js, const struct entry *e);
/* The model is to go: cancel what packs it. */
void jobs_forget(struct jobs *js, const struct entry *e);
/* The call gets job_reply when the job ends or is paused; at once if it has already. */
void job_wait(struct job *j, struct call *c);
/* The call's data: a job that is cancelled when this call, its only waiter, ends before it. */
void job_attach(struct job *j, struct call *c);
/* The call gets job_reply_info as soon as the disk holds the job's state. */
void job_reply_saved(struct job *j, struct call *c);
/* -ENODATA: its state is none to do that in; -EBUSY: quota. */
int job_pause(struct job *j, struct err *err);
int job_resume(struct job *j, struct err *err);
int job_cancel(struct job *j, struct err *err);
/* Seconds to go, negative = unknown. */
double job_eta(const struct job *j);

/* req-jobs.c: the end of a waiting call; its request says in which form. */
void job_reply(const struct job *j, struct call *c);
void job_reply_info(const struct job *j, struct call *c);
