/* user - what each uid holds of the daemon, and how much more it may take.
 *
 * Whatever costs the daemon memory, descriptors or threads is taken with charge_take and given back
 * by charge_deinit, exactly once: a charge is part of the thing it pays for (a connection, a call,
 * a queued reply), and a zeroed or discharged one is harmless. Two rules bound a uid, both named in
 * the refusal:
 * - its own limit (limits.*_per_uid, or what `client limit` set until restart);
 * - its share of the daemon's total (limits.max_*): with n uids holding something of a kind, one
 * may hold at most 1/(n+1) of what the others have left. So there is always something for the next
 * to come, however many came before, and one alone has half. A refusal is immediate (-EBUSY, exit
 * 75); nothing here waits. Main thread only. */
#pragma once
#include "base/err.h"
#include "base/list.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct config;
enum charge_kind {
	CHARGE_CONNECTIONS,
	CHARGE_REQUESTS,     /* open ones; those answered at once are free */
	CHARGE_FDS,          /* held or received, until they are really closed */
	CHARGE_RING_BYTES,   /* output rings and replies the socket had no room for */
	CHARGE_PROMPT_BYTES, /* bytes of requests as they came */
	CHARGE_TOKENS,       /* of prompts that wait or run */
	CHARGE_INTAKE,       /* threads that read or close what a client sent */
	CHARGE_JOBS,
	CHARGE_KINDS,
};
/* Bytes of KV pages: the engine counts them and refuses; here is only the limit. */
enum { LIMIT_KV = CHARGE_KINDS, LIMIT_KINDS };

struct users {
	struct list list; /* struct user.link */
	struct config *const *config;
	uint64_t used[CHARGE_KINDS]; /* by all */
	uint64_t fds_total;
};
/* One uid has one piece of work at a time in a group of threads that all share; the rest waits
 * here, so that who comes with one waits for one of each other uid at most. */
struct turn {
	bool busy;
	struct list waiting;            /* struct work.link */
};
enum { TURN_PREP, TURN_SLOW, TURNS };
struct user {
	struct list link;
	struct users *users;
	uid_t uid;
	uint64_t refs; /* holders and charges: the record goes with the last */
	uint64_t used[CHARGE_KINDS];
	uint64_t limit[LIMIT_KINDS]; /* where has_limit */
	bool has_limit[LIMIT_KINDS], kept;
	uint64_t told_us;     /* when a refusal was last logged */
	struct list closings; /* of foreign.c */
	struct turn turns[TURNS]; /* of call.c */
};
struct charge {
	struct user *user; /* NULL: nothing is charged */
	enum charge_kind kind;
	uint64_t n;
};
/* config: set by the time of the first charge. */
void users_init(struct users *u, struct config *const *config);
/* Find or make; takes a reference. NULL: out of memory. */
struct user *user_get(struct users *u, uid_t uid);
struct user *user_find(struct users *u, uid_t uid); /* no reference; NULL when there is none */
struct user *user_ref(struct user *user);
void user_put(struct user *user);

/* n more of a kind into a zeroed charge. -EBUSY: err names the limit, what is held and what was
 * asked for; *c stays zero. */
int charge_take(struct charge *c, struct user *user, enum charge_kind kind, uint64_t n,
		struct err *err);
bool charge_fits(const struct user *user, enum charge_kind kind, uint64_t n);
/* Without asking: for what is there already, and for the reserve of administrators. */
void charge_force(struct charge *c, struct user *user, enum charge_kind kind, uint64_t n);
void charge_deinit(struct charge *c);

/* Name of a kind's limit as configuration and `client limit` know it; NULL past the last kind. */
const char *user_limit_name(unsigned kind);
uint64_t user_limit(const struct user *user, unsigned kind); /* 0 = none (KV) */
/* "KEY=VALUE": overrides the configuration until restart; "KEY=default" goes back to it. -EINVAL.
 */
/* check: only look whether it could be set. */
int user_set_limit(struct user *user, const char *setting, bool check, struct err *err);
