/* engine-prefix - requests and the tree of their lane's pages: what they take from it, what they
 * leave in it, who computes a page that several need, who pays for one that several use.
 *
 * Only full pages of the prompt path are shared, and a sequence computes from n_done on, which is
 * past all of them: so a shared page is never written, and the rest of a prompt that ends inside a
 * page is computed anew.
 * Invariants:
 * 1. prefix_depth(node) * KV_PAGE <= n_done; the table begins with the pages of the nodes on the
 *    way to node.
 * 2. Idle pages are free memory to all but make_room: nobody waits or is preempted while there is
 *    one. */
#include <errno.h>
#include "base/num.h"
#include "engine/engine-impl.h"

static int64_t domain_of(const struct request_state *s)
{
	return s->r->share ? PREFIX_SHARED : (int64_t)s->r->uid;
}

/* === Taking and leaving === */
static const int32_t *page_tokens(const struct request_state *s, uint32_t page)
{
	return s->r->tokens + (size_t)page * KV_PAGE;
}

int engine_enter(struct request_state *s)
{
	int r = kv_seq_new(&s->kv, s->lane->kv);

	if (r == 0 && !s->r->no_cache)
		r = prefix_enter(s->lane->prefix, domain_of(s), &s->node);
	return r;
}

void engine_leave(struct request_state *s)
{
	s->kv = kv_seq_free(s->kv);
	if (s->node)
		prefix_leave(s->lane->prefix, s->node);
	s->node = NULL;
	s->draft_kv = kv_seq_free(s->draft_kv);
	s->n_done = s->draft_done = 0;
}

/* On to a child of s->node whose page has to be in the table. */
static int go_down(struct request_state *s, struct prefix_node *child)
{
	if (kv_seq_share(s->kv, prefix_depth(s->node), prefix_page(child)) < 0)
		return -ENOMEM;
	prefix_descend(s->lane->prefix, child);
	s->node = child;
	return 0;
}

void engine_take(struct request_state *s)
{
	while (s->node) {
		uint32_t page = prefix_depth(s->node), end = (page + 1) * KV_PAGE;
		struct prefix_node *child;

		if (end > seq_reusable(s))
			return;
		child = prefix_find(s->lane->prefix, s->node, page_tokens(s, page));
		/* without memory for the table it computes them */
		if (!child || go_down(s, child) < 0)
			return;
		if (end <= s->n_done)
			continue;
		s->n_cached += end - MIN(end, MAX(s->n_known, s->n_done));
		s->n_done = end;
		s->n_known = MAX(s->n_known, end);
	}
}

void engine_keep(struct request_state *s)
{
	s->n_known = MAX(s->n_known, s->n_done);
	while (s->node) {
		struct prefix *tree = s->lane->prefix;
		uint32_t page = prefix_depth(s->node);
		const int32_t *tokens = page_tokens(s, page);
		struct prefix_node *child;

		if ((page + 1) * KV_PAGE > MIN(s->n_done, s->n_path))
			return;
		child = prefix_find(tree, s->node, tokens);
		if (child)
			go_down(s, child);
		/* without memory it tries again after the next step */
		else if (prefix_add(tree, s->node, tokens, kv_seq_page(s->kv, page), &child) < 0)
			return;
		s->node = child;
	}
}

struct request_state *engine_lead(const struct lane *l, struct request_state *s)
{
	uint32_t page = prefix_depth(s->node), end = (page + 1) * KV_PAGE;
	struct request_state *lead = s;

	if (!s->node || s->grant > 0 || s->n_done >= end || end > seq_reusable(s))
		return s;
	list_for(&l->seqs, it) {
		struct request_state *o = link_seq(it);

		if (o == s || o->node != s->node || o->n_done >= end || end > o->n_path ||
		    (o->closed && o->grant == 0) ||
		    memcmp(page_tokens(o, page), page_tokens(s, page), KV_PAGE * sizeof(int32_t)))
			continue;
		if (o->grant > 0)
			return NULL;
		if (o->n_done > lead->n_done)
			lead = o;
	}
	return lead;
}

/* === Memory === */
uint64_t lane_pages(const struct lane *l)
{
	return kv_pool_used(l->kv) - prefix_idle(l->prefix);
}

/* Give back the page that nobody has used for longest. False: there is none. */
static bool evict(struct engine *e)
{
	struct lane *from = NULL;
	uint64_t oldest = UINT64_MAX, used;

	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);

		if (prefix_oldest(l->prefix, &used) && used < oldest) {
			oldest = used;
			from = l;
		}
	}
	if (!from)
		return false;
	prefix_evict(from->prefix);
	return true;
}

/* Bytes of pages in use or idle; held: of all that memory is held for. */
static uint64_t all_pages(const struct engine *e, bool held)
{
	uint64_t sum = 0;

	list_for(&e->lanes, it) {
		const struct lane *l = container_of(it, struct lane, link);

		sum += (held ? kv_pool_allocated(l->kv) : kv_pool_used(l->kv)) * l->page_bytes;
	}
	return sum;
}

void engine_make_room(struct engine *e, const struct lane *l, uint64_t fixed, uint64_t more)
{
	enum { AT_ONCE = 8 };
	bool some = true;
	uint64_t has;

	while (fixed + all_pages(e, false) + more > e->c.budget && evict(e))
		;
	has = l ? (kv_pool_allocated(l->kv) - kv_pool_used(l->kv)) * l->page_bytes : 0;
	more -= MIN(more, has);
	if (more == 0)
		return;
	/* Free pages go back to the system when memory held would pass the budget, and more idle
	 * ones if they keep it from that. */
	while (some && fixed + all_pages(e, true) + more > e->c.budget) {
		list_for(&e->lanes, it)
			kv_pool_trim(container_of(it, struct lane, link)->kv);
		if (fixed + all_pages(e, true) + more <= e->c.budget)
			return;
		some = false;
		for (unsigned i = 0; i < AT_ONCE && evict(e); i++)
			some = true;
	}
}

/* === Charges === */
/* Pages of s that nobody has paid for in this round. */
static uint64_t unpaid(struct request_state *s, uint64_t round)
{
	return kv_seq_pages(s->kv) - prefix_depth(s->node) + prefix_mark(s->node, round);
}

static void charge(struct request_state *s, uint64_t round, engine_charge_fn fn)
{
	uint64_t pages = unpaid(s, round), draft = s->draft_kv ? kv_seq_pages(s->draft_kv) : 0;

	fn(s, pages + draft,
	   pages * s->lane->page_bytes + (draft > 0 ? draft * s->draft->page_bytes : 0));
}

void engine_charges(struct engine *e, engine_charge_fn fn)
{
	uint64_t all = ++e->round;

	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);

		list_for(&l->seqs, jt) {
			struct request_state *first = link_seq(jt);
			uint64_t round = ++e->round;

			for (struct list *kt = jt; first->charged != all && kt != &l->seqs;
			     kt = kt->next) {
				struct request_state *s = link_seq(kt);

				if (s->r->uid != first->r->uid)
					continue;
				if (s != first)
					s->charged = all;
				charge(s, round, fn);
			}
		}
	}
}

uint64_t engine_pages_if_gone(struct engine *e, const struct request_state *s,
                              engine_goes_fn goes, uint64_t more)
{
	uint64_t round = ++e->round, sum = 0;

	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);
		uint64_t stay = 0;

		if (l == s->lane && s->node)
			stay += prefix_mark(s->node, round);
		list_for(&l->seqs, jt)
			if (!goes(e, link_seq(jt), s, more))
				stay += unpaid(link_seq(jt), round);
		sum += (lane_pages(l) - stay) * l->page_bytes;
	}
	return sum;
}

uint64_t engine_paid(const struct request_state *s)
{
	const struct prefix *tree = s->lane->prefix;
	const struct prefix_node *n;

	if (s->node || s->r->no_cache || s->r->share)
		return 0;
	n = prefix_root(tree, domain_of(s));
	while (n && (prefix_depth(n) + 1) * KV_PAGE <= seq_reusable(s)) {
		const struct prefix_node *child =
			prefix_find(tree, n, page_tokens(s, prefix_depth(n)));

		if (!child || !prefix_is_held(child))
			break;
		n = child;
	}
	return prefix_depth(n);
}
