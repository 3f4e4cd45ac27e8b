/* prefix - which full KV pages of a pool hold what: a tree by tokens, so that a prompt that begins
 * like an earlier one takes its pages instead of computing them again.
 *
 * A node is one page: what the prompt path computes for KV_PAGE tokens after all those of the nodes
 * above it. Each domain (a uid, or all who share) has a root of its own, and nothing leads from one
 * to another. A sequence holds the deepest node that it uses, and with it all above. Nodes nobody
 * holds are idle: they stay until prefix_evict, the longest unused first, a node never before those
 * below it. Threads: engine thread only. */
#pragma once
#include "engine/kv.h"

struct prefix;
struct prefix_node;
enum { PREFIX_SHARED = -1 };            /* domain of those who share; a uid is never negative */
/* clock: of all trees between which the oldest page is looked for; outlives them. */
int prefix_new(struct prefix **ret, struct kv_pool *kv, uint64_t *clock);
struct prefix *prefix_free(struct prefix *t);           /* nobody holds a node any more */
DEFINE_FREEP(struct prefix, prefix_free)
uint64_t prefix_pages(const struct prefix *t);          /* all that it keeps */
uint64_t prefix_idle(const struct prefix *t);           /* of these: held by nobody */
/* When the page was used last that goes next; false: no page is idle. */
bool prefix_oldest(const struct prefix *t, uint64_t *ret);
/* Give that page back to the pool; there is one. */
void prefix_evict(struct prefix *t);

/* The root of a domain, held. 0, -ENOMEM. */
int prefix_enter(struct prefix *t, int64_t domain, struct prefix_node **ret);
/* Nothing is held by it: the root, or NULL where the domain has none. */
struct prefix_node *prefix_root(const struct prefix *t, int64_t domain);
void prefix_leave(struct prefix *t, struct prefix_node *n);     /* accepts NULL */
/* The node of the next KV_PAGE tokens below n, or NULL. Not held. */
struct prefix_node *prefix_find(const struct prefix *t, const struct prefix_node *n,
                                const int32_t *tokens);
/* Who holds n goes on to its child, and holds that. */
void prefix_descend(struct prefix *t, struct prefix_node *child);
/* The same to a new child; n has none for these tokens. The tree takes a reference to the page. 0,
 * -ENOMEM. */
int prefix_add(struct prefix *t, struct prefix_node *n, const int32_t *tokens, struct kv_page *page,
               struct prefix_node **ret);
uint32_t prefix_depth(const struct prefix_node *n);     /* pages on the way to it; of NULL: 0 */
bool prefix_is_held(const struct prefix_node *n);
struct kv_page *prefix_page(const struct prefix_node *n);       /* not of a root */
/* Mark n and all above it; returns how many pages did not have this mark yet. Marks are larger each
 * time. */
uint32_t prefix_mark(struct prefix_node *n, uint64_t mark);
