/* prefix - which full KV pages of a pool hold what: a tree by tokens, so that a prompt that begins
 * like an earlier one takes its pages instead of computing them again.
 *
 * A node is one page of each part (kv.h): what the prompt path computes for KV_PAGE tokens after
 * all those of the nodes above it. Each domain (a uid, or all who share) has a root of its own, and
 * nothing leads from one to another. A sequence holds the deepest node that it uses, and with it
 * all above. Nodes nobody holds are idle: they stay until prefix_evict, the longest unused first, a
 * node never before those below it.
 *
 * The page of the window part comes and goes by itself: whoever's window has passed it does not
 * hold it any more, and then it is idle, though its node may be held. Without it a node is still a
 * step on the way to those whose windows do not reach it. Threads: engine thread only. */
#pragma once
#include "engine/kv.h"

struct prefix;
struct prefix_node;
enum { PREFIX_SHARED = -1 };            /* domain of those who share; a uid is never negative */
/* clock: of all trees between which the oldest page is looked for; outlives them. */
int prefix_new(struct prefix **ret, struct kv_pool *kv, uint64_t *clock);
struct prefix *prefix_free(struct prefix *t);           /* nobody holds a node any more */
DEFINE_FREEP(struct prefix, prefix_free)
uint64_t prefix_pages(const struct prefix *t);          /* nodes that it keeps */
uint64_t prefix_idle_bytes(const struct prefix *t);     /* of all pages that nobody holds */
/* What window pages would take besides if all who hold one had one each: they soon will. */
uint64_t prefix_shared_bytes(const struct prefix *t);
/* When the page was used last that goes next; false: no page is idle. */
bool prefix_oldest(const struct prefix *t, uint64_t *ret);
/* Give that page back to the pool; there is one. */
void prefix_evict(struct prefix *t);

/* The root of a domain, held. 0, -ENOMEM. */
int prefix_enter(struct prefix *t, int64_t domain, struct prefix_node **ret);
/* Nothing is held by it: the root, or NULL where the domain has none. */
struct prefix_node *prefix_root(const struct prefix *t, int64_t domain);
/* window: index of the first window page that is held as well. Accepts NULL. */
void prefix_leave(struct prefix *t, struct prefix_node *n, uint32_t window);
/* The node of the next KV_PAGE tokens below n, or NULL. Not held. */
struct prefix_node *prefix_find(const struct prefix *t, const struct prefix_node *n,
                                const int32_t *tokens);
/* Who holds n goes on to its child, and holds that. */
void prefix_descend(struct prefix *t, struct prefix_node *child);
/* The same to a new child; n has none for these tokens. The tree takes references to the pages, and
 * that of the window, unless it is NULL, is held. 0, -ENOMEM. */
int prefix_add(struct prefix *t, struct prefix_node *n, const int32_t *tokens, struct kv_page *page,
               struct kv_page *window, struct prefix_node **ret);
/* n's window page is held by one more; n gets `window` first where it has none. */
void prefix_hold_window(struct prefix *t, struct prefix_node *n, struct kv_page *window);
/* The window pages [first, end) of the way to n are held by one less. */
void prefix_drop_windows(struct prefix *t, struct prefix_node *n, uint32_t first, uint32_t end);
uint32_t prefix_depth(const struct prefix_node *n);     /* pages on the way to it; of NULL: 0 */
bool prefix_is_held(const struct prefix_node *n);
struct prefix_node *prefix_parent(const struct prefix_node *n);   /* NULL of a root */
struct kv_page *prefix_page(const struct prefix_node *n);       /* not of a root */
struct kv_page *prefix_window(const struct prefix_node *n);     /* NULL: there is none now */
/* Mark n and all above it; returns how many nodes did not have this mark yet. Marks are larger each
 * time. */
uint32_t prefix_mark(struct prefix_node *n, uint64_t mark);
