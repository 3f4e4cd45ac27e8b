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
	/* of the step being built: decode rows wanted and given; wants prompt tokens computed */
	uint32_t wants, rows;
	bool prompts;
	uint64_t bytes, kv_max;         /* pages held as of the last weighing; limit, 0 = none */
};
struct sched_client {
	struct list link;
	struct sched_user *user;
	uint64_t id, served;
	uint32_t n_items, n_running, rows;
	struct sched_use use;
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

int sched_join(struct sched *s, struct sched_item *it, uint32_t uid, uint64_t client, bool batch,
               uint64_t kv_max)
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
		c->use = (struct sched_use){ .uid = uid, .client = client };
		list_append(&u->clients, &c->link);
	}
	c->n_items++;
	u->kv_max = kv_max;
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

/* Between uids the one with fewer places goes first, whatever happened to the other's; who lost its
 * pages is the first of its own. */
bool sched_admit_before(const struct sched_item *a, const struct sched_item *b)
{
	int r;

	if (!b)
		return true;
	if (a->client->user == b->client->user && (a->preempted || b->preempted))
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

static uint32_t count_users(const struct sched *s)
{
	uint32_t n = 0;

	list_for(&s->users, it)
		n++;
	return n;
}

bool sched_has_place(const struct sched *s, const struct sched_item *it, uint32_t n, uint32_t max)
{
	uint32_t users = count_users(s);

	return n < max || (users > 1 && it->client->user->n_running < MAX(max / users, 1u));
}

/* === Decode rows === */
void sched_step_begin(struct sched *s)
{
	list_for(&s->users, it) {
		struct sched_user *u = container_of(it, struct sched_user, link);

		u->wants = u->rows = 0;
		u->prompts = false;
		list_for(&u->clients, jt)
			container_of(jt, struct sched_client, link)->rows = 0;
	}
}

void sched_ready(struct sched_item *it, bool decode)
{
	if (decode)
		it->client->user->wants++;
	else
		it->client->user->prompts = true;
}

void sched_step_of(const struct sched *s, struct sched_step *ret)
{
	*ret = (struct sched_step){ 0 };
	list_for(&s->users, it) {
		const struct sched_user *u = container_of(it, struct sched_user, link);

		ret->prompt_users += u->prompts;
		ret->uids += u->prompts || u->wants > 0;
		if (u->wants == 0)
			continue;
		ret->users++;
		ret->least = ret->least > 0 ? MIN(ret->least, u->wants) : u->wants;
	}
}

bool sched_row_before(const struct sched_item *a, const struct sched_item *b)
{
	int r;

	if (!b)
		return true;
	r = cmp_u64(a->client->user->rows, b->client->user->rows);
	if (r == 0 && a->client->user == b->client->user)
		r = cmp_u64(a->client->rows, b->client->rows);
	if (r == 0)
		r = cmp_u64(a->turn, b->turn);
	return r != 0 ? r < 0 : a->order < b->order;
}

void sched_row_taken(struct sched *s, struct sched_item *it)
{
	it->client->user->rows++;
	it->client->rows++;
	it->turn = ++s->next_turn;
}

void sched_row_untaken(struct sched_item *it)
{
	it->client->user->rows--;
	it->client->rows--;
}

/* === Pages === */
void sched_weigh_begin(struct sched *s)
{
	list_for(&s->users, it)
		container_of(it, struct sched_user, link)->bytes = 0;
}

void sched_weigh(struct sched_item *it, uint64_t bytes)
{
	it->client->user->bytes += bytes;
}

void sched_weigh_end(struct sched *s, uint64_t room)
{
	s->share = room / MAX(count_users(s), 1u);
}

bool sched_below_limit(const struct sched_item *it, uint64_t more)
{
	const struct sched_user *u = it->client->user;

	return u->kv_max == 0 || (more <= u->kv_max && u->bytes <= u->kv_max - more);
}

int sched_cmp_share(const struct sched *s, const struct sched_item *victim,
                    const struct sched_item *it, uint64_t more)
{
	const struct sched_user *a = victim->client->user, *b = it->client->user;
	bool above = a->bytes > s->share, will_be = b->bytes + more > s->share;

	if (a == b || above == will_be)
		return 0;
	return above ? -1 : 1;
}

bool sched_victim_before(const struct sched *s, const struct sched_item *a,
                         const struct sched_item *b)
{
	uint64_t over_a, over_b;

	if (!b)
		return true;
	if (a->parked != b->parked)
		return a->parked;
	over_a = a->client->user->bytes - MIN(a->client->user->bytes, s->share);
	over_b = b->client->user->bytes - MIN(b->client->user->bytes, s->share);
	return over_a != over_b ? over_a > over_b : a->order > b->order;
}

/* === Use === */
void sched_count_begin(struct sched *s)
{
	list_for(&s->users, it)
		list_for(&container_of(it, struct sched_user, link)->clients, jt) {
			struct sched_use *use = &container_of(jt, struct sched_client, link)->use;

			*use = (struct sched_use){ .uid = use->uid, .client = use->client };
		}
}

void sched_count(struct sched_item *it, bool running, uint64_t pages, uint64_t bytes)
{
	struct sched_use *use = &it->client->use;

	use->parked += it->parked;
	use->running += running && !it->parked;
	use->waiting += !running && !it->parked;
	use->pages += pages;
	use->bytes += bytes;
}

size_t sched_uses(const struct sched *s, struct sched_use *ret, size_t max)
{
	size_t n = 0;

	list_for(&s->users, it)
		list_for(&container_of(it, struct sched_user, link)->clients, jt) {
			if (n < max)
				ret[n] = container_of(jt, struct sched_client, link)->use;
			n++;
		}
	return n;
}
