/* user - a short list, since a machine has few users that talk to the daemon at once.
 *
 * 1. users.used[k] is the sum of used[k] over all users, and that the sum of the live charges.
 * 2. A charge holds a reference to its user, so the record outlives whatever it counts.
 * 3. A user with limits of its own stays until restart: its record holds a reference to itself. */
#include "daemon/user.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/journal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Descriptors that are nobody's: models, logs, the loop, and connections of administrators. */
enum { FDS_OWN = 128, TELL_EVERY_US = 1000000 };

static const struct {
	const char *what, *own, *total;
	size_t own_at, total_at;
} kinds[LIMIT_KINDS] = {
#define KIND(what, own, total)                                                                     \
	{                                                                                          \
		what, #own, #total, offsetof(struct config, own), offsetof(struct config, total)   \
	}
	[CHARGE_CONNECTIONS] = KIND("connections", connections_per_uid, max_connections),
	[CHARGE_REQUESTS] = KIND("open requests", queued_per_uid, max_queued),
	[CHARGE_FDS] = KIND("descriptors", fds_per_uid, max_fds),
	[CHARGE_RING_BYTES] = KIND("bytes of output rings", ring_bytes_per_uid, max_ring_bytes),
	[CHARGE_PROMPT_BYTES] = KIND("bytes of prompts", prompt_bytes_per_uid, max_prompt_bytes),
	[CHARGE_TOKENS] = KIND("prompt tokens in the queue", tokens_per_uid, max_tokens),
	[CHARGE_INTAKE] = KIND("reading threads", intake_per_uid, max_intake),
	[CHARGE_JOBS] = KIND("jobs", jobs_per_uid, max_jobs),
	[LIMIT_KV] = { "bytes of KV pages", "kv_bytes_per_uid", NULL,
		       offsetof(struct config, kv_bytes_per_uid), 0 },
};

static uint64_t setting(const struct config *c, size_t at)
{
	return *(const uint64_t *)((const char *)c + at);
}

void users_init(struct users *u, struct config *const *config)
{
	struct rlimit lim = { .rlim_cur = 1024 };

	*u = (struct users){ .config = config };
	list_init(&u->list);
	getrlimit(RLIMIT_NOFILE, &lim);
	u->fds_total = lim.rlim_max > 2 * FDS_OWN ? lim.rlim_max - FDS_OWN : lim.rlim_max / 2;
}

struct user *user_ref(struct user *user)
{
	user->refs++;
	return user;
}

struct user *user_find(struct users *u, uid_t uid)
{
	list_for (&u->list, it) {
		struct user *user = container_of(it, struct user, link);

		if (user->uid == uid)
			return user;
	}
	return NULL;
}

struct user *user_get(struct users *u, uid_t uid)
{
	struct user *user = user_find(u, uid);

	if (user)
		return user_ref(user);
	user = mem_alloc(sizeof(*user));
	if (!user)
		return NULL;
	user->users = u;
	user->uid = uid;
	list_init(&user->closings);
	for (unsigned i = 0; i < TURNS; i++)
		list_init(&user->turns[i].waiting);
	list_append(&u->list, &user->link);
	return user_ref(user);
}

void user_put(struct user *user)
{
	if (--user->refs > 0)
		return;
	list_remove(&user->link);
	mem_free(user);
}

/* --- charges ---------------------------------------------------------------------------------- */

static uint64_t total_of(const struct users *u, unsigned kind)
{
	uint64_t total = setting(*u->config, kinds[kind].total_at);

	return kind == CHARGE_FDS ? MIN(total, u->fds_total) : total;
}

/* What the share rule leaves one uid to hold, with what it has. */
static uint64_t share_of(const struct user *user, unsigned kind)
{
	const struct users *u = user->users;
	uint64_t total = total_of(u, kind), others = u->used[kind] - user->used[kind], n = 1;

	list_for (&u->list, it) {
		const struct user *other = container_of(it, struct user, link);

		n += other != user && other->used[kind] > 0;
	}
	return others < total ? (total - others) / (n + 1) : 0;
}

static void tell(struct user *user, const struct err *err)
{
	struct journal_fields j = { .n = 0 };
	uint64_t now = daemon_now_us();

	if (user->told_us != 0 && now - user->told_us < TELL_EVERY_US)
		return;
	user->told_us = now;
	journal_add(&j, "QLLM_UID", "%u", (unsigned)user->uid);
	log_fields(LOG_L_NOTICE, ID_REFUSED, j.f, j.n, "refused: %s", err->text);
}

bool charge_fits(const struct user *user, enum charge_kind kind, uint64_t n)
{
	uint64_t most = MIN(user_limit(user, kind), share_of(user, kind));

	return n <= most && user->used[kind] <= most - n;
}

int charge_take(struct charge *c, struct user *user, enum charge_kind kind, uint64_t n,
		struct err *err)
{
	uint64_t have = user->used[kind], own = user_limit(user, kind),
		 share = share_of(user, kind);
	struct err why = { 0 };

	if (charge_fits(user, kind, n)) {
		charge_force(c, user, kind, n);
		return 0;
	}
	if (n > own || have > own - n)
		err_set(&why, -EBUSY,
			"user %u holds %llu %s and wants %llu more, %llu are allowed "
			"(limits.%s): try again when some are free",
			(unsigned)user->uid, (unsigned long long)have, kinds[kind].what,
			(unsigned long long)n, (unsigned long long)own, kinds[kind].own);
	else
		err_set(&why, -EBUSY,
			"user %u holds %llu %s and wants %llu more, its share of the daemon's %llu "
			"is %llu now (limits.%s): try again when others have left",
			(unsigned)user->uid, (unsigned long long)have, kinds[kind].what,
			(unsigned long long)n, (unsigned long long)total_of(user->users, kind),
			(unsigned long long)share, kinds[kind].total);
	tell(user, &why);
	return err_set(err, -EBUSY, "%s", why.text);
}

void charge_force(struct charge *c, struct user *user, enum charge_kind kind, uint64_t n)
{
	*c = (struct charge){ user_ref(user), kind, n };
	user->used[kind] += n;
	user->users->used[kind] += n;
}

void charge_deinit(struct charge *c)
{
	struct user *user = c->user;

	if (!user)
		return;
	user->used[c->kind] -= c->n;
	user->users->used[c->kind] -= c->n;
	*c = (struct charge){ 0 };
	user_put(user);
}

/* --- limits ----------------------------------------------------------------------------------- */

const char *user_limit_name(unsigned kind)
{
	return kind < LIMIT_KINDS ? kinds[kind].own : NULL;
}

uint64_t user_limit(const struct user *user, unsigned kind)
{
	return user->has_limit[kind] ? user->limit[kind]
				     : setting(*user->users->config, kinds[kind].own_at);
}

static void set(struct user *user, unsigned kind, bool has, uint64_t value)
{
	bool any = false;

	user->has_limit[kind] = has;
	user->limit[kind] = value;
	for (unsigned i = 0; i < LIMIT_KINDS; i++)
		any |= user->has_limit[i];
	if (any && !user->kept)
		user_ref(user);
	if (!any && user->kept) {
		user->kept = false;
		user_put(user);
		return;
	}
	user->kept = any;
}

int user_set_limit(struct user *user, const char *text, bool check, struct err *err)
{
	const char *eq = strchr(text, '=');
	char shown[64];
	_cleanup_(config_freep) struct config *scratch = mem_alloc(sizeof(*scratch));
	int r;

	if (!scratch)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; eq && i < LIMIT_KINDS; i++) {
		if (strlen(kinds[i].own) != (size_t)(eq - text) ||
		    strncmp(kinds[i].own, text, (size_t)(eq - text)) != 0)
			continue;
		if (strcmp(eq + 1, "default") == 0) {
			if (!check)
				set(user, i, false, 0);
			return 0;
		}
		r = config_set(scratch, kinds[i].own, eq + 1, "client limit", err);
		if (r == 0 && !check)
			set(user, i, true, setting(scratch, kinds[i].own_at));
		return r;
	}
	return err_set(err, -EINVAL,
		       "%s is no limit: KEY=VALUE is needed, where KEY is a key of [limits] that "
		       "ends in _per_uid",
		       str_escape(shown, sizeof(shown), text, strlen(text)));
}
