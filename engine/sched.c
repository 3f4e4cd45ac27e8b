/* sched - see the header. Users and clients live as long as they have requests.
 *
 * Invariants:
 * 1. served never falls; one that joins starts at the clock, so it is never owed work from before
 *    it came.
 * 2. n_running counts items of the client (user) with running set. */
#include "engine/sched.h"
#include <errno.h>
#include "base/mem.h"
#include "base/num.h"

struct sched_user {
	struct list link, clients;
	uint32_t uid, n_running;
	uint64_t served, clock;         /* clock: as struct sched's, among the user's clients */
};
struct sched_client {
	struct list link;
	struct sched_user *user;
	uint64_t id, served;
	uint32_t n_items, n_running;
};

void sched_init(struct sched *s)
{
	*s = (struct sched){ 0 };
	list_init(&s->users);
}

static struct sched_user *user_get(struct sched *s, uint32_t uid)
{
	struct sched_user *u;

	list_for(&s->users, it) {
		u = container_of(it, struct sched_user, link);
		if (u->uid == uid)
			return u;
	}
	u = mem_alloc(sizeof(*u));
	if (!u)
		return NULL;
	u->uid = uid;
	u->served = u->clock = s->clock;
	list_init(&u->clients);
	list_append(&s->users, &u->link);
	return u;
}

static void user_drop_if_empty(struct sched_user *u)
{
	if (!list_empty(&u->clients))
		return;
	list_remove(&u->link);
	mem_free(u);
}

int sched_join(struct sched *s, struct sched_item *it, uint32_t uid, uint64_t client, bool batch)
{
	struct sched_user *u = user_get(s, uid);
	struct sched_client *c = NULL;

	if (!u)
		return -ENOMEM;
	list_for(&u->clients, l) {
		struct sched_client *have = container_of(l, struct sched_client, link);

		if (have->id == client) {
			c = have;
			break;
		}
	}
	if (!c) {
		c = mem_alloc(sizeof(*c));
		if (!c) {
			user_drop_if_empty(u);
			return -ENOMEM;
		}
		c->user = u;
		c->id = client;
		c->served = u->clock;
		list_append(&u->clients, &c->link);
	}
	c->n_items++;
	*it = (struct sched_item){ .client = c, .order = s->next_order++, .batch = batch };
	return 0;
}

void sched_leave(struct sched *s, struct sched_item *it)
{
	struct sched_client *c = it->client;
	struct sched_user *u;

	(void)s;
	if (!c)
		return;
	sched_set_running(it, false);
	it->client = NULL;
	if (--c->n_items > 0)
		return;
	u = c->user;
	list_remove(&c->link);
	mem_free(c);
	user_drop_if_empty(u);
}

void sched_set_running(struct sched_item *it, bool running)
{
	if (it->running == running)
		return;
	it->running = running;
	if (running) {
		it->client->n_running++;
		it->client->user->n_running++;
	} else {
		it->client->n_running--;
		it->client->user->n_running--;
	}
}

void sched_charge(struct sched *s, struct sched_item *it, uint32_t n_tokens)
{
	struct sched_client *c = it->client;
	struct sched_user *u = c->user;

	s->clock = MAX(s->clock, u->served);
	u->clock = MAX(u->clock, c->served);
	u->served += n_tokens;
	c->served += n_tokens;
}

/* -1, 0, 1 as a is smaller, equal, larger. */
static int cmp_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static int cmp_served(const struct sched_item *a, const struct sched_item *b)
{
	int r = cmp_u64(a->client->user->served, b->client->user->served);

	if (r == 0 && a->client->user == b->client->user)
		r = cmp_u64(a->client->served, b->client->served);
	return r;
}

bool sched_prompt_before(const struct sched_item *a, const struct sched_item *b)
{
	int r;

	if (!b)
		return true;
	if (a->batch != b->batch)
		return !a->batch;
	r = cmp_served(a, b);
	return r != 0 ? r < 0 : a->order < b->order;
}

bool sched_admit_before(const struct sched_item *a, const struct sched_item *b)
{
	int r;

	if (!b)
		return true;
	if (a->preempted || b->preempted)       /* they have been admitted before: by age */
		return a->preempted != b->preempted ? a->preempted : a->order < b->order;
	if (a->batch != b->batch)
		return !a->batch;
	r = cmp_u64(a->client->user->n_running, b->client->user->n_running);
	if (r == 0)
		r = cmp_u64(a->client->n_running, b->client->n_running);
	if (r == 0)
		r = cmp_served(a, b);
	return r != 0 ? r < 0 : a->order < b->order;
}

bool sched_victim_before(const struct sched_item *a, const struct sched_item *b)
{
	if (!b)
		return true;
	if (a->parked != b->parked)
		return a->parked;
	return a->order > b->order;
}
