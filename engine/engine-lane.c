/* engine-lane - memory and places: the budget, lanes, who gets pages and who gives them back.
 *
 * Invariants:
 * 1. fixed buffers + used pages of all lanes <= budget, window pages counted for each that has one.
 *    Pages that only a prefix tree holds are given up first; free pages that a lane still holds
 *    memory for are given back to the system as soon as held memory would pass the budget.
 * 2. A request's pages at its limit fit beside all fixed buffers (checked when it arrives and
 *    before a lane is made), so the oldest can always go on once the younger have gone.
 * 3. lane.seqs is ordered by age; a sequence in it has kv, one in engine.waiting has none. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "engine/engine-impl.h"

enum { STEP_LEAST = 64 };               /* more than a step of guesses goes back */

/* === The budget === */
/* memory.max of one cgroup directory, UINT64_MAX without. */
static uint64_t cgroup_limit(const char *dir)
{
	_cleanup_(sbuf_deinit) struct sbuf path = { 0 };
	_cleanup_close_ int fd = -1;
	_cleanup_mem_ char *text = NULL;
	uint64_t limit;
	size_t n;

	if (sbuf_printf(&path, "/sys/fs/cgroup%s/memory.max", dir) < 0)
		return UINT64_MAX;
	fd = open(path.p, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fd_read_file(fd, 64, &text, &n) < 0)
		return UINT64_MAX;
	text[strcspn(text, "\n")] = 0;
	return str_to_u64(text, &limit) == 0 ? limit : UINT64_MAX;      /* "max" is no number */
}

/* The least memory.max from the process's cgroup up to the root. */
static uint64_t cgroup_memory(void)
{
	_cleanup_close_ int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	_cleanup_mem_ char *text = NULL;
	uint64_t least = UINT64_MAX;
	char *dir, *slash;
	size_t n;

	if (fd < 0 || fd_read_file(fd, 64 * 1024, &text, &n) < 0)
		return UINT64_MAX;
	dir = strncmp(text, "0::/", 4) == 0 ? text : strstr(text, "\n0::/");
	if (!dir)
		return UINT64_MAX;
	dir = strchr(dir, '/');
	dir[strcspn(dir, "\n")] = 0;
	for (;;) {
		least = MIN(least, cgroup_limit(dir));
		slash = strrchr(dir, '/');
		if (!slash)
			return least;
		*slash = 0;
	}
}

uint64_t budget_default(void)
{
	uint64_t total = UINT64_MAX, group = cgroup_memory();
	struct sysinfo si;

	if (sysinfo(&si) == 0)
		total = (uint64_t)si.totalram * si.mem_unit;
	total = MIN(total, group);
	return total == UINT64_MAX ? (uint64_t)1 << 30 : total / 2;
}

static uint64_t pages_bytes(const struct engine *e)
{
	uint64_t sum = 0;

	list_for(&e->lanes, it) {
		sum += lane_bytes(container_of(it, struct lane, link));
	}
	return sum;
}

static void footprint_of(const struct engine *e, const struct model *m, enum kv_type kv_type,
                         struct footprint *ret)
{
	model_footprint(&m->hp, m->n_bytes, e->c.max_seqs + e->c.chunk, e->max_logits, kv_type,
	                ret);
}

static struct kv_shape shape_of(const struct engine *e, const struct hparams *hp,
                                enum kv_type kv_type)
{
	return (struct kv_shape){ hp->n_layer, hp->n_head_kv, hp->head_dim, kv_type, hp->window,
		                  hp->window_period, MAX(e->c.chunk, (uint32_t)STEP_LEAST) };
}

uint64_t engine_kv_bytes(const struct engine *e, const struct hparams *hp, enum kv_type type,
                         uint32_t n_pos)
{
	struct kv_shape shape = shape_of(e, hp, type);
	struct kv_sizes z;

	return kv_sizes_of(&shape, &z) ? kv_sizes_bytes(&z, n_pos) + z.extra : UINT64_MAX;
}

uint64_t budget_for_pages(struct engine *e, const struct model *m, struct kv_sizes *ret)
{
	struct kv_shape shape = shape_of(e, &m->hp, KV_F16);
	struct kv_sizes z = { .part = { 1 } };
	struct footprint fp;
	uint64_t fixed;
	struct lane *l;

	(void)kv_sizes_of(&shape, &z);
	footprint_of(e, m, KV_F16, &fp);
	pthread_mutex_lock(&e->lock);
	l = lane_find(e, m);
	if (l)
		z = *kv_pool_sizes(l->kv);
	fixed = engine_fixed(e) + z.extra + (l ? 0 : fp.activations);
	pthread_mutex_unlock(&e->lock);
	*ret = z;
	return e->c.budget > fixed ? e->c.budget - fixed : 0;
}

/* === Lanes === */
struct lane *lane_find(struct engine *e, const struct model *m)
{
	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);

		if (l->model == m)
			return l;
	}
	return NULL;
}

static uint64_t most_bytes(const struct request_state *s)
{
	const struct kv_sizes *z = kv_pool_sizes(s->lane->kv);

	return kv_sizes_bytes(z, seq_most(s)) + z->extra;
}

/* What the largest request that the engine has accepted may come to need. */
static uint64_t promised_bytes(const struct engine *e)
{
	uint64_t most = 0;

	list_for(&e->waiting, it)
		most = MAX(most, most_bytes(link_seq(it)));
	list_for(&e->lanes, it)
		list_for(&container_of(it, struct lane, link)->seqs, jt)
			most = MAX(most, most_bytes(link_seq(jt)));
	return most;
}

static int check_fixed(const struct engine *e, const struct model *m, uint64_t fixed, uint64_t page,
                       struct err *err)
{
	uint64_t taken = engine_fixed(e) + promised_bytes(e),
		 left = e->c.budget > taken ? e->c.budget - taken : 0;
	char label[MODEL_LABEL_MAX];

	if (fixed <= left && page <= left - fixed)
		return 0;
	return err_set(
		err, -ENOSPC,
		"model %s needs %llu MiB of buffers, the engine's budget of %llu MiB has %llu MiB "
		"left: raise the budget or unload another model",
		model_label(m, label), (unsigned long long)((fixed + page) >> 20),
		(unsigned long long)(e->c.budget >> 20), (unsigned long long)(left >> 20));
}

static struct lane *lane_free(struct lane *l)
{
	if (!l)
		return NULL;
	prefix_free(l->prefix);
	kv_pool_free(l->kv);
	exec_free(l->exec);
	if (l->model)
		model_unref(l->model);
	return mem_free(l);
}
DEFINE_FREEP(struct lane, lane_free)

static int lane_new(struct engine *e, struct model *m, enum kv_type kv_type, struct lane **ret,
                    struct err *err)
{
	_cleanup_(lane_freep) struct lane *l = NULL;
	struct kv_shape shape = shape_of(e, &m->hp, kv_type);
	struct footprint fp;
	int r;

	footprint_of(e, m, kv_type, &fp);
	r = check_fixed(e, m, fp.activations, fp.kv_page, err);
	if (r < 0)
		return r;
	l = mem_alloc(sizeof(*l));
	if (!l)
		return err_set(err, -ENOMEM, "no memory for another model");
	list_init(&l->seqs);
	list_init(&l->reads);
	l->model = model_ref(m);
	pace_init(&l->pace, &m->hp);
	engine_make_room(e, NULL, 0, fp.activations);
	r = exec_new(&l->exec, m, e->kernels, e->pool, e->c.max_seqs + e->c.chunk, e->max_logits,
	             err);
	if (r < 0)
		return err_set(err, r, "no memory for the buffers of another model");
	l->fixed = exec_bytes(l->exec);
	r = check_fixed(e, m, l->fixed, fp.kv_page, err);
	if (r < 0)
		return r;
	r = kv_pool_new(&l->kv, &shape, e->c.budget - l->fixed);
	if (r == 0)
		r = prefix_new(&l->prefix, l->kv, &e->clock);
	if (r < 0)
		return err_set(err, r, "no memory for the pages of another model");
	l->kv_type = kv_type;
	l->page_bytes = kv_sizes_page(kv_pool_sizes(l->kv));
	*ret = STEAL(l);
	return 0;
}

int lane_get(struct engine *e, struct model *m, enum kv_type kv_type, struct lane **ret,
             struct err *err)
{
	struct lane *l = lane_find(e, m);
	char label[MODEL_LABEL_MAX];
	int r;

	if (l && (l->poisoned || model_poisoned(m)))
		return err_set(
			err, -EIO,
			"the file of model %s was cut, written to or not readable while computing: "
			"try again when its other requests have ended",
			model_label(m, label));
	if (!l) {
		r = lane_new(e, m, kv_type, &l, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&e->lock);
		list_append(&e->lanes, &l->link);
		pthread_mutex_unlock(&e->lock);
	}
	*ret = l;
	return 0;
}

void lane_drop(struct engine *e, struct lane *l)
{
	pthread_mutex_lock(&e->lock);
	list_remove(&l->link);
	pthread_mutex_unlock(&e->lock);
	lane_free(l);
}

void lane_publish(struct engine *e, struct lane *l)
{
	(void)e;
	atomic_store_explicit(&l->bytes, lane_bytes(l), memory_order_relaxed);
	atomic_store_explicit(&l->cached, prefix_pages(l->prefix), memory_order_relaxed);
	atomic_store_explicit(&l->requests, l->n_requests, memory_order_relaxed);
}

/* === Sequences and pages === */
void engine_park(struct engine *e, struct request_state *s, size_t room)
{
	(void)e;
	s->sched.parked = true;
	s->room_wanted = room;
	if (s->kv)
		s->lane->n_active--;
}

void engine_unpark(struct engine *e, struct request_state *s)
{
	(void)e;
	s->sched.parked = false;
	if (s->kv)
		s->lane->n_active++;
}

/* Back to waiting without pages; its tokens stay, and are computed again after its next admission,
 * but for those of the prompt whose pages the tree still has then. */
static void preempt(struct engine *e, struct request_state *s)
{
	if (!s->sched.parked)
		s->lane->n_active--;
	engine_leave(s);
	s->sched.preempted = true;
	sched_set_running(&s->sched, false);
	list_remove(&s->r->link);
	list_append(&e->waiting, &s->r->link);
	atomic_fetch_add_explicit(&e->preemptions, 1, memory_order_relaxed);
}

static void weigh_one(struct request_state *s, uint64_t pages, uint64_t bytes)
{
	(void)pages;
	sched_weigh(&s->sched, bytes);
}

/* What every uid holds and what an equal share would be. */
static void weigh(struct engine *e)
{
	uint64_t fixed = engine_fixed(e);

	sched_weigh_begin(&e->sched);
	engine_charges(e, weigh_one);
	sched_weigh_end(&e->sched, e->c.budget > fixed ? e->c.budget - fixed : 0);
}

/* May s, which needs `more` bytes, take the pages of v? Parked ones give theirs to all; between
 * uids the share decides; else age does, but not for one that is not admitted yet. */
static bool gives_way(const struct engine *e, const struct request_state *v,
                      const struct request_state *s, uint64_t more)
{
	int r;

	if (v->sched.parked)
		return true;
	r = sched_cmp_share(&e->sched, &v->sched, &s->sched, more);
	if (r != 0)
		return r < 0;
	return s->sched.running && v->sched.order > s->sched.order;
}

/* The first to lose its pages for `more` bytes of s; own: of its uid only. */
static struct request_state *find_victim(struct engine *e, const struct request_state *s,
                                         uint64_t more, bool own, bool *ret_others)
{
	struct request_state *best = NULL;

	*ret_others = false;
	weigh(e);
	list_for(&e->lanes, it)
		list_for(&container_of(it, struct lane, link)->seqs, jt) {
			struct request_state *v = link_seq(jt);

			if (v == s || kv_seq_pages(v->kv) == 0 || (own && v->r->uid != s->r->uid))
				continue;
			*ret_others = true;
			if (gives_way(e, v, s, more) &&
			    sched_victim_before(&e->sched, &v->sched, best ? &best->sched : NULL))
				best = v;
		}
	return best;
}

static uint64_t pages_left(struct engine *e)
{
	uint64_t taken = engine_fixed(e) + pages_bytes(e);

	return e->c.budget > taken ? e->c.budget - taken : 0;
}

static uint64_t bytes_missing(const struct request_state *s, uint32_t n_pos)
{
	const struct kv_sizes *z = kv_pool_sizes(s->lane->kv);

	return s->kv ? kv_seq_missing(s->kv, n_pos) : kv_sizes_bytes(z, n_pos) + z->extra;
}

int engine_reserve(struct engine *e, struct request_state *s, uint32_t n_pos)
{
	for (;;) {
		uint64_t more = bytes_missing(s, n_pos);
		struct request_state *victim;
		bool others, limited = false;
		int r;

		if (more == 0)
			return 0;
		if (s->r->kv_max > 0) {
			weigh(e);
			limited = !sched_below_limit(&s->sched, more);
		}
		if (more <= pages_left(e) && !limited) {
			engine_make_room(e, s->kv, n_pos, 0);
			r = kv_seq_reserve(s->kv, n_pos);
			if (r != KV_E_FULL)
				return r;
		}
		if (engine_draft_yield(e, limited ? s : NULL))
			continue;
		victim = find_victim(e, s, more, limited, &others);
		if (victim) {
			preempt(e, victim);
		} else if (others) {
			preempt(e, s);
			return KV_E_FULL;
		} else {
			return -ENOSPC;
		}
	}
}

/* Every running sequence may want a page before the new one has got anywhere: leave it to them, or
 * the newcomer would be preempted at once. */
static uint64_t headroom(const struct engine *e)
{
	uint64_t sum = 0;

	list_for(&e->lanes, it) {
		const struct lane *l = container_of(it, struct lane, link);

		sum += l->n_active * l->page_bytes;
	}
	return sum;
}

bool engine_spare(struct engine *e, struct request_state *s, struct kv_seq *kv, uint32_t n_pos)
{
	uint64_t more = kv_seq_missing(kv, n_pos);

	if (more == 0)
		return true;
	weigh(e);
	if (more + headroom(e) > pages_left(e) || !sched_below_limit(&s->sched, more))
		return false;
	engine_make_room(e, kv, n_pos, 0);
	return kv_seq_reserve(kv, n_pos) == 0;
}

static void insert_by_age(struct lane *l, struct request_state *s)
{
	struct list *at = l->seqs.prev;

	while (at != &l->seqs && link_seq(at)->sched.order > s->sched.order)
		at = at->prev;
	list_append(at->next, &s->r->link);     /* before at's successor */
}

/* Bytes that s could have if all gave way that must, the page that is kept for each included. */
static uint64_t could_have(struct engine *e, const struct request_state *s, uint64_t more)
{
	uint64_t sum = engine_pages_if_gone(e, s, gives_way, more);

	list_for(&e->lanes, it) {
		const struct lane *l = container_of(it, struct lane, link);

		list_for(&l->seqs, jt)
			if (!link_seq(jt)->sched.parked && gives_way(e, link_seq(jt), s, more))
				sum += l->page_bytes;
	}
	return sum;
}

/* Room for `more` bytes of s and for who runs beside it: from parked ones, and from a uid above its
 * share for one below, with the `due` bytes that s has to pay for then. Nobody loses pages when
 * even all of them were too few. */
static int free_for(struct engine *e, struct request_state *s, uint64_t more, uint64_t due)
{
	struct request_state *victim;
	bool others;

	if (more + headroom(e) > pages_left(e))
		engine_draft_yield(e, NULL);
	weigh(e);
	if (more + headroom(e) > pages_left(e) + could_have(e, s, due))
		return headroom(e) > 0 ? KV_E_FULL : -ENOSPC;
	while (more + headroom(e) > pages_left(e)) {
		victim = find_victim(e, s, due, false, &others);
		if (!victim)
			return headroom(e) > 0 ? KV_E_FULL : -ENOSPC;
		preempt(e, victim);
	}
	return 0;
}

/* Bytes that the uid of s, which waits, pays more once it runs. */
static uint64_t pages_due(const struct request_state *s)
{
	return bytes_missing(s, seq_total(s)) - engine_paid(s);
}

/* What of its prompt others have computed it takes before anything is given up for the rest. */
static int admit_pages(struct engine *e, struct request_state *s)
{
	uint64_t more, due = pages_due(s);
	int r = engine_enter(s);

	if (r == 0) {
		engine_take(s);
		more = bytes_missing(s, seq_total(s));
		r = free_for(e, s, more, due);
	}
	if (r == 0) {
		engine_make_room(e, s->kv, seq_total(s), 0);
		r = kv_seq_reserve(s->kv, seq_total(s));
	}
	if (r != 0)
		engine_leave(s);
	return r;
}

/* Not yet: no place in its lane, or its uid holds what it may. */
static bool has_to_wait(const struct engine *e, const struct request_state *s)
{
	return s->sched.parked ||
	       (s->r->kv_max > 0 && !sched_below_limit(&s->sched, pages_due(s))) ||
	       !sched_has_place(&e->sched, &s->sched, s->lane->n_active, e->c.max_seqs);
}

/* The waiting request that goes next, among those whose lane has a place. */
static struct request_state *next_waiting(struct engine *e)
{
	struct request_state *best = NULL;

	if (!list_empty(&e->waiting))
		weigh(e);
	list_for(&e->waiting, it) {
		struct request_state *s = link_seq(it);

		if (has_to_wait(e, s))
			continue;
		if (sched_admit_before(&s->sched, best ? &best->sched : NULL))
			best = s;
	}
	return best;
}

void engine_admit(struct engine *e)
{
	struct request_state *s;

	/* The first that does not fit stops the rest: a large request is not overtaken for ever by
	 * small ones. */
	while ((s = next_waiting(e))) {
		struct err err = { 0 };
		int r = admit_pages(e, s);

		if (r == KV_E_FULL)
			return;
		if (r < 0) {
			err_set(&err, r, r == -ENOMEM ? "no memory for the request's pages" :
			        "the request does not fit the engine's budget any more");
			engine_finish(e, s, FINISH_ERROR, &err);
			continue;
		}
		list_remove(&s->r->link);
		insert_by_age(s->lane, s);
		s->lane->n_active++;
		s->sched.preempted = false;
		sched_set_running(&s->sched, true);
	}
}
