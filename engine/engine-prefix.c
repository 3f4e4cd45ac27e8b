/* engine-prefix - requests and the tree of their lane's pages: what they take from it, what they
 * leave in it, who computes a page that several need, who pays for one that several use.
 *
 * Only full pages of PATH_PROMPT are shared, and a sequence computes from n_done on, which is past
 * all of them: so a shared page is never written, and the end of a prompt, which takes another
 * path, is computed anew.
 * Invariants:
 * 1. prefix_depth(node) * KV_PAGE <= n_done; the table begins with the pages of the nodes on the
 *    way to node.
 * 2. What a sequence may hold of window pages it holds, and pays for in full, also those that it
 *    shares: they soon are several ones. So sliding takes no bytes that were not its own before,
 *    and cannot fail for want of them.
 * 3. Idle pages are free memory to all but make_room: nobody waits or is preempted while there is
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
	if (s->node)
		prefix_leave(s->lane->prefix, s->node, kv_seq_window_first(s->kv));
	s->kv = kv_seq_free(s->kv);
	s->node = NULL;
	s->draft_kv = kv_seq_free(s->draft_kv);
	s->n_done = s->draft_done = 0;
}

/* Window pages before index `to` go: those of the tree are idle then, if nobody else has them. */
static void drop_windows(struct request_state *s, struct kv_seq *kv, uint32_t to)
{
	uint32_t first = kv_seq_window_first(kv);

	if (to <= first)
		return;
	if (s->node && kv == s->kv)
		prefix_drop_windows(s->lane->prefix, s->node, first, to);
	kv_seq_drop(kv, to);
}

int engine_slide(struct engine *e, struct request_state *s, struct kv_seq *kv, uint32_t end)
{
	uint32_t n_pos = kv_seq_pages(kv) * KV_PAGE;
	int r;

	if (DIV_UP(end, (uint32_t)KV_PAGE) > kv_seq_window_end(kv))
		drop_windows(s, kv, kv_seq_behind(kv, end));
	if (kv_seq_missing(kv, n_pos) == 0)
		return 0;
	engine_make_room(e, kv, n_pos, 0);
	r = kv_seq_reserve(kv, n_pos);
	return r == KV_E_FULL ? -ENOMEM : r;
}

/* On to a child of s->node. Its pages go into the table, that of the window only if s holds windows
 * there; one that the child has lost is given back to it. */
static int go_down(struct request_state *s, struct prefix_node *child)
{
	uint32_t p = prefix_depth(s->node);
	struct kv_page *window = prefix_window(child);
	bool hold = p >= kv_seq_window_first(s->kv);

	if (hold && window && kv_seq_share(s->kv, KV_WINDOW, p, window) < 0)
		return -ENOMEM;
	if (kv_seq_share(s->kv, KV_GLOBAL, p, prefix_page(child)) < 0)
		return -ENOMEM;
	if (hold && !window)
		window = kv_seq_page(s->kv, KV_WINDOW, p);
	if (hold && window)
		prefix_hold_window(s->lane->prefix, child, window);
	prefix_descend(s->lane->prefix, child);
	s->node = child;
	return 0;
}

/* Where s could go on whose table has the window pages from `from` on up to n: the deepest node
 * below n, within what it may take, that has all pages its window reaches from there. n: nowhere.
 * *ret_from: the first of these. */
static struct prefix_node *find_best(const struct request_state *s, struct prefix_node *n,
                                     uint32_t from, uint32_t *ret_from)
{
	const struct kv_pool *kv = s->lane->kv;
	bool windowed = kv_pool_sizes(kv)->part[KV_WINDOW] > 0;
	struct prefix_node *best = n;

	*ret_from = from;
	while ((prefix_depth(n) + 1) * KV_PAGE <= seq_reusable(s)) {
		uint32_t page = prefix_depth(n), seen;

		n = prefix_find(s->lane->prefix, n, page_tokens(s, page));
		if (!n)
			break;
		if (windowed && !prefix_window(n))
			from = page + 1;
		seen = kv_first_seen(kv, (page + 1) * KV_PAGE);
		if (from <= seen || !windowed) {
			best = n;
			*ret_from = seen;
		}
	}
	return best;
}

bool engine_take(struct request_state *s)
{
	struct prefix_node *best;
	uint32_t from, end;

	if (!s->node)
		return false;
	best = find_best(s, s->node, kv_seq_window_first(s->kv), &from);
	/* without memory for the table it computes them */
	if (best == s->node || kv_seq_prepare(s->kv, prefix_depth(best)) < 0)
		return false;
	drop_windows(s, s->kv, from);
	/* on the way to best windows may be missing: no place to stop, and nothing does */
	while (s->node != best)
		go_down(s, prefix_find(s->lane->prefix, s->node,
		                       page_tokens(s, prefix_depth(s->node))));
	end = prefix_depth(best) * KV_PAGE;
	if (end > s->n_done) {
		s->n_cached += end - MIN(end, MAX(s->n_known, s->n_done));
		s->n_done = end;
		s->n_known = MAX(s->n_known, end);
	}
	return true;
}

void engine_keep(struct request_state *s)
{
	s->n_known = MAX(s->n_known, s->n_done);
	while (s->node) {
		struct prefix *tree = s->lane->prefix;
		uint32_t page = prefix_depth(s->node);
		const int32_t *tokens = page_tokens(s, page);
		struct prefix_node *child;

		if ((page + 1) * KV_PAGE > MIN(s->n_done, s->n_fast))
			return;
		child = prefix_find(tree, s->node, tokens);
		if (child)
			go_down(s, child);
		/* without memory it tries again after the next step */
		else if (prefix_add(tree, s->node, tokens,
		                    kv_seq_page(s->kv, KV_GLOBAL, page),
		                    kv_seq_page(s->kv, KV_WINDOW, page), &child) < 0)
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

		if (o == s || o->node != s->node || o->n_done >= end || end > o->n_fast ||
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
uint64_t lane_bytes(const struct lane *l)
{
	return kv_pool_used(l->kv) - prefix_idle_bytes(l->prefix) +
	       prefix_shared_bytes(l->prefix);
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

		sum += held ? kv_pool_allocated(l->kv) : kv_pool_used(l->kv);
	}
	return sum;
}

uint64_t engine_fixed(const struct engine *e)
{
	uint64_t sum = 0;

	list_for(&e->lanes, it)
		sum += container_of(it, struct lane, link)->fixed;
	return sum;
}

/* Would memory held pass the budget? */
static bool too_much_held(const struct engine *e, const struct kv_seq *kv, uint32_t n_pos,
                          uint64_t other)
{
	uint64_t growth = kv ? kv_seq_growth(kv, n_pos) : 0;

	return growth + other > 0 &&
	       engine_fixed(e) + all_pages(e, true) + growth + other > e->c.budget;
}

void engine_make_room(struct engine *e, const struct kv_seq *kv, uint32_t n_pos, uint64_t other)
{
	enum { AT_ONCE = 8 };
	uint64_t more = other + (kv ? kv_seq_missing(kv, n_pos) : 0), fixed = engine_fixed(e);
	bool some = true;

	while (fixed + all_pages(e, false) + more > e->c.budget && evict(e))
		;
	/* Free pages go back to the system when memory held would pass the budget, and more idle
	 * ones if they keep it from that. */
	while (some && too_much_held(e, kv, n_pos, other)) {
		list_for(&e->lanes, it)
			kv_pool_trim(container_of(it, struct lane, link)->kv);
		if (!too_much_held(e, kv, n_pos, other))
			return;
		some = false;
		for (unsigned i = 0; i < AT_ONCE && evict(e); i++)
			some = true;
	}
}

/* === Charges === */
/* Bytes of the global pages of so many nodes. */
static uint64_t node_bytes(const struct lane *l, uint64_t nodes)
{
	return nodes * kv_pool_sizes(l->kv)->part[KV_GLOBAL];
}

/* Bytes of s that nobody has paid for in this round, its window pages in any case; *ret_pages:
 * global ones. */
static uint64_t unpaid(const struct request_state *s, uint64_t round, uint32_t *ret_pages)
{
	uint32_t shared = prefix_depth(s->node), fresh = prefix_mark(s->node, round);

	*ret_pages = kv_seq_pages(s->kv) - shared + fresh;
	return kv_seq_bytes(s->kv) - node_bytes(s->lane, shared) + node_bytes(s->lane, fresh);
}

static void charge(struct request_state *s, uint64_t round, engine_charge_fn fn)
{
	uint32_t pages;
	uint64_t bytes = unpaid(s, round, &pages);

	if (s->draft_kv) {
		pages += kv_seq_pages(s->draft_kv);
		bytes += kv_seq_bytes(s->draft_kv);
	}
	fn(s, pages, bytes);
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
	uint32_t pages;

	list_for(&e->lanes, it) {
		struct lane *l = container_of(it, struct lane, link);
		uint64_t stay = 0;

		if (l == s->lane && s->node)
			stay += unpaid(s, round, &pages);
		list_for(&l->seqs, jt)
			if (!goes(e, link_seq(jt), s, more))
				stay += unpaid(link_seq(jt), round, &pages);
		sum += lane_bytes(l) - stay;
	}
	return sum;
}

uint64_t engine_paid(const struct request_state *s)
{
	struct prefix_node *root, *n;
	uint32_t from, nodes = 0;

	if (s->node || s->r->no_cache || s->r->share)
		return 0;
	root = prefix_root(s->lane->prefix, domain_of(s));
	if (!root)
		return 0;
	for (n = find_best(s, root, 0, &from); n != root; n = prefix_parent(n))
		nodes += prefix_is_held(n);
	return node_bytes(s->lane, nodes);
}
