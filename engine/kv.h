/* kv - paged key/value store of one model. A page set covers KV_PAGE positions of all layers and KV
 * heads; a sequence is a table of page sets. Tiles: kernels/kvtype.h. Pages are refcounted:
 * several tables and the prefix tree may hold one, which nobody writes any more then. Threads:
 * engine thread only. Errors: -ENOMEM fatal; KV_E_FULL is the caller's to handle (evict, wait,
 * preempt). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "kernels/kernels.h"

struct kv_shape {
	uint32_t n_layer, n_kv_head, head_dim;
	enum kv_type type;
};
struct kv_pool;
struct kv_page;
struct kv_seq;
enum { _KV_E_SUCCESS, KV_E_FULL };
/* Bytes of one page set; false when they cannot be counted. */
bool kv_page_bytes(const struct kv_shape *shape, uint64_t *ret);
int kv_pool_new(struct kv_pool **ret, const struct kv_shape *shape, uint64_t max_pages);
struct kv_pool *kv_pool_free(struct kv_pool *kv);
DEFINE_FREEP(struct kv_pool, kv_pool_free)
uint64_t kv_pool_page_bytes(const struct kv_pool *kv);
uint64_t kv_pool_used(const struct kv_pool *kv);        /* pages */
uint64_t kv_pool_max(const struct kv_pool *kv);
uint64_t kv_pool_allocated(const struct kv_pool *kv);   /* pages memory is held for, used or free */
/* give memory back whose pages are all free */
void kv_pool_trim(struct kv_pool *kv);

/* KV_E_FULL when the pool is too small for its extra pages; -ENOMEM */
int kv_seq_new(struct kv_seq **ret, struct kv_pool *kv);
struct kv_seq *kv_seq_free(struct kv_seq *s);           /* gives its pages back */
DEFINE_FREEP(struct kv_seq, kv_seq_free)
/* Make room for positions [0, n_pos). On KV_E_FULL or -ENOMEM the sequence is as it was. */
int kv_seq_reserve(struct kv_seq *s, uint32_t n_pos);
uint32_t kv_seq_pages(const struct kv_seq *s);
/* Pages' worth of memory that each sequence holds besides, from kv_seq_new on: with KV4 the 8-bit
 * forms of its last two pages. */
uint32_t kv_pool_extra(const struct kv_pool *kv);
/* KV4: the KV8 tile of page index p, of which a sequence has those of the last two. */
void *kv_seq_open(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head);
/* --- sharing of full pages --- */
struct kv_page *kv_seq_page(const struct kv_seq *s, uint32_t p);
/* Another's page at index p <= kv_seq_pages, in place of the own one if there is one. 0, -ENOMEM */
int kv_seq_share(struct kv_seq *s, uint32_t p, struct kv_page *page);
struct kv_page *kv_page_ref(struct kv_page *page);
void kv_page_unref(struct kv_pool *kv, struct kv_page *page);
enum kv_type kv_seq_type(const struct kv_seq *s);
/* K and V parts of page index p (positions p*KV_PAGE ..) of one layer and KV head. */
void *kv_seq_k(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head);
void *kv_seq_v(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head);
