/* prefix - nodes are found through one map: by the number of the node above and the tokens, roots
 * by their domain. Both are compared in full, a hash alone never decides.
 *
 * Invariants:
 * 1. held counts the sequences that hold the node or one below it, so a parent's is never less than
 *    a child's.
 * 2. A node with held 0 is in `idle` (roots never are). It comes after all idle nodes below it: one
 *    that leaves puts its nodes at the end from the deepest upwards. So the first has no children.
 * 3. A node's window page is in `windows` while it has one that nobody holds; who holds it holds
 *    the node.
 * 4. A root without children that nobody holds is gone. */
#include "engine/prefix.h"

#include <errno.h>
#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/num.h"

struct node_key {
	uint64_t parent;
	int32_t tokens[KV_PAGE];
};
struct prefix_node {
	struct prefix_node *parent;     /* NULL: a root */
	struct kv_page *page, *window;
	struct list idle, window_idle;
	int64_t domain;                 /* of a root */
	uint64_t number, used, mark;    /* used: when it became idle */
	uint64_t window_used;
	uint32_t held, window_held, depth, n_children;
	struct node_key key;            /* but of a root */
};
struct prefix {
	struct kv_pool *kv;
	uint64_t *clock;
	struct map *nodes;
	struct list idle, windows;      /* the longest unused first */
	uint64_t n_pages, n_idle, next_number;
	uint64_t n_windows, n_shared;   /* idle; holders beyond the first of each */
};

int prefix_new(struct prefix **ret, struct kv_pool *kv, uint64_t *clock)
{
	_cleanup_(prefix_freep) struct prefix *t = mem_alloc(sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->kv = kv;
	t->clock = clock;
	list_init(&t->idle);
	list_init(&t->windows);
	if (map_new(&t->nodes) < 0)
		return -ENOMEM;
	*ret = STEAL(t);
	return 0;
}

struct prefix *prefix_free(struct prefix *t)
{
	if (!t)
		return NULL;
	while (!list_empty(&t->idle) || !list_empty(&t->windows))
		prefix_evict(t);
	map_free(t->nodes);
	return mem_free(t);
}

uint64_t prefix_pages(const struct prefix *t)
{
	return t->n_pages;
}

uint64_t prefix_idle_bytes(const struct prefix *t)
{
	const struct kv_sizes *z = kv_pool_sizes(t->kv);

	return t->n_idle * z->part[KV_GLOBAL] + t->n_windows * z->part[KV_WINDOW];
}

uint64_t prefix_shared_bytes(const struct prefix *t)
{
	return t->n_shared * kv_pool_sizes(t->kv)->part[KV_WINDOW];
}

static uint64_t oldest_node(const struct prefix *t)
{
	return list_empty(&t->idle) ? UINT64_MAX :
	       container_of(t->idle.next, struct prefix_node, idle)->used;
}

static uint64_t oldest_window(const struct prefix *t)
{
	return list_empty(&t->windows) ? UINT64_MAX :
	       container_of(t->windows.next, struct prefix_node, window_idle)->window_used;
}

bool prefix_oldest(const struct prefix *t, uint64_t *ret)
{
	uint64_t used = MIN(oldest_node(t), oldest_window(t));

	if (used == UINT64_MAX)
		return false;
	*ret = used;
	return true;
}

/* n's window page, which nobody holds, if it has one */
static void evict_window(struct prefix *t, struct prefix_node *n)
{
	if (!n->window)
		return;
	list_remove(&n->window_idle);
	t->n_windows--;
	kv_page_unref(t->kv, n->window);
	n->window = NULL;
}

static void drop_root_if_unused(struct prefix *t, struct prefix_node *root)
{
	if (root->held > 0 || root->n_children > 0)
		return;
	map_remove(t->nodes, &root->domain, sizeof(root->domain));
	mem_free(root);
}

void prefix_evict(struct prefix *t)
{
	struct prefix_node *n, *parent;

	if (oldest_window(t) < oldest_node(t)) {
		evict_window(t, container_of(t->windows.next, struct prefix_node, window_idle));
		return;
	}
	n = container_of(t->idle.next, struct prefix_node, idle);
	parent = n->parent;
	evict_window(t, n);
	list_remove(&n->idle);
	t->n_idle--;
	t->n_pages--;
	map_remove(t->nodes, &n->key, sizeof(n->key));
	kv_page_unref(t->kv, n->page);
	mem_free(n);
	parent->n_children--;
	if (!parent->parent)
		drop_root_if_unused(t, parent);
}

struct prefix_node *prefix_root(const struct prefix *t, int64_t domain)
{
	return map_get(t->nodes, &domain, sizeof(domain));
}

int prefix_enter(struct prefix *t, int64_t domain, struct prefix_node **ret)
{
	struct prefix_node *root = prefix_root(t, domain);

	if (!root) {
		root = mem_alloc(sizeof(*root));
		if (!root)
			return -ENOMEM;
		root->domain = domain;
		root->number = t->next_number++;
		if (map_add(t->nodes, &domain, sizeof(domain), root) != 0) {
			mem_free(root);
			return -ENOMEM;
		}
	}
	root->held++;
	*ret = root;
	return 0;
}

static void drop_window(struct prefix *t, struct prefix_node *n, uint64_t now)
{
	if (--n->window_held > 0) {
		t->n_shared--;
		return;
	}
	n->window_used = now;
	list_append(&t->windows, &n->window_idle);
	t->n_windows++;
}

void prefix_drop_windows(struct prefix *t, struct prefix_node *n, uint32_t first, uint32_t end)
{
	uint64_t now = ++*t->clock;

	for (; n && n->depth > first; n = n->parent)
		if (n->depth <= end && n->window)
			drop_window(t, n, now);
}

void prefix_hold_window(struct prefix *t, struct prefix_node *n, struct kv_page *window)
{
	if (!n->window) {
		n->window = kv_page_ref(window);
	} else if (n->window_held == 0) {
		list_remove(&n->window_idle);
		t->n_windows--;
	} else {
		t->n_shared++;
	}
	n->window_held++;
}

void prefix_leave(struct prefix *t, struct prefix_node *n, uint32_t window)
{
	uint64_t now = ++*t->clock;

	while (n) {
		struct prefix_node *parent = n->parent;

		if (n->depth > window && n->window)
			drop_window(t, n, now);
		n->held--;
		if (!parent) {
			drop_root_if_unused(t, n);
		} else if (n->held == 0) {
			n->used = now;
			list_append(&t->idle, &n->idle);
			t->n_idle++;
		}
		n = parent;
	}
}

struct prefix_node *prefix_find(const struct prefix *t, const struct prefix_node *n,
                                const int32_t *tokens)
{
	struct node_key key = { .parent = n->number };

	memcpy(key.tokens, tokens, sizeof(key.tokens));
	return map_get(t->nodes, &key, sizeof(key));
}

void prefix_descend(struct prefix *t, struct prefix_node *child)
{
	if (child->held++ > 0)
		return;
	list_remove(&child->idle);
	t->n_idle--;
}

int prefix_add(struct prefix *t, struct prefix_node *n, const int32_t *tokens, struct kv_page *page,
               struct kv_page *window, struct prefix_node **ret)
{
	_cleanup_mem_ struct prefix_node *c = mem_alloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->key.parent = n->number;
	memcpy(c->key.tokens, tokens, sizeof(c->key.tokens));
	if (map_add(t->nodes, &c->key, sizeof(c->key), c) != 0)
		return -ENOMEM;
	c->parent = n;
	c->depth = n->depth + 1;
	c->number = t->next_number++;
	c->page = kv_page_ref(page);
	c->held = 1;
	if (window)
		prefix_hold_window(t, c, window);
	n->n_children++;
	t->n_pages++;
	*ret = STEAL(c);
	return 0;
}

uint32_t prefix_depth(const struct prefix_node *n)
{
	return n ? n->depth : 0;
}

struct prefix_node *prefix_parent(const struct prefix_node *n)
{
	return n->parent;
}

bool prefix_is_held(const struct prefix_node *n)
{
	return n->held > 0;
}

struct kv_page *prefix_page(const struct prefix_node *n)
{
	return n->page;
}

struct kv_page *prefix_window(const struct prefix_node *n)
{
	return n->window;
}

uint32_t prefix_mark(struct prefix_node *n, uint64_t mark)
{
	uint32_t fresh = 0;

	for (; n && n->parent && n->mark != mark; n = n->parent, fresh++)
		n->mark = mark;
	return fresh;
}
