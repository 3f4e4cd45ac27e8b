/* kv - paged key/value store of one model. A page covers KV_PAGE positions of all KV heads and of
 * one part of the layers: those that see everything, or those with a sliding window. A sequence
 * has a table of pages for each part; that of the window holds its last pages only, as many as the
 * window and a step need (kv_sizes.keep). Tiles: kernels/kvtype.h. Pages are refcounted: several
 * tables and the prefix tree may hold one, which nobody writes any more then. Threads: engine
 * thread only. Errors: -ENOMEM fatal; KV_E_FULL is the caller's: evict, wait, preempt. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "kernels/kernels.h"

enum kv_part { KV_GLOBAL, KV_WINDOW, KV_PARTS };
struct kv_shape {
	uint32_t n_layer, n_kv_head, head_dim;
	enum kv_type type;
	/* as in struct hparams; window 0: all layers are global */
	uint32_t window, window_period;
	/* tokens of a slice, and those that the next one may begin before its end, at most */
	uint32_t step;
};
/* What positions take, from numbers alone. */
struct kv_sizes {
	uint64_t part[KV_PARTS];        /* bytes of a page; without windows [KV_WINDOW] is 0 */
	uint32_t keep;                  /* pages of the window that a sequence holds at most */
	/* bytes that each sequence holds besides: with KV4 the 8-bit forms of its last two pages */
	uint64_t extra;
};
/* False when they cannot be counted. */
bool kv_sizes_of(const struct kv_shape *shape, struct kv_sizes *ret);
uint64_t kv_sizes_page(const struct kv_sizes *z);       /* a page of every part */
uint64_t kv_sizes_bytes(const struct kv_sizes *z, uint32_t n_pos);      /* without extra */
/* whole pages of positions that fit; extra is not taken off */
uint64_t kv_sizes_positions(const struct kv_sizes *z, uint64_t bytes);

struct kv_pool;
struct kv_page;
struct kv_seq;
enum { _KV_E_SUCCESS, KV_E_FULL };
int kv_pool_new(struct kv_pool **ret, const struct kv_shape *shape, uint64_t max_bytes);
struct kv_pool *kv_pool_free(struct kv_pool *kv);
DEFINE_FREEP(struct kv_pool, kv_pool_free)
const struct kv_sizes *kv_pool_sizes(const struct kv_pool *kv);
/* The first page that the window of position pos reaches. */
uint32_t kv_first_seen(const struct kv_pool *kv, uint32_t pos);
/* All in bytes. */
uint64_t kv_pool_used(const struct kv_pool *kv);
uint64_t kv_pool_max(const struct kv_pool *kv);
uint64_t kv_pool_allocated(const struct kv_pool *kv);   /* memory is held for, used or free */
/* give memory back whose pages are all free */
void kv_pool_trim(struct kv_pool *kv);
struct kv_page *kv_page_ref(struct kv_page *page);
void kv_page_unref(struct kv_pool *kv, struct kv_page *page);

/* KV_E_FULL when the pool is too small for its extra bytes; -ENOMEM */
int kv_seq_new(struct kv_seq **ret, struct kv_pool *kv);
struct kv_seq *kv_seq_free(struct kv_seq *s);           /* gives its pages back */
DEFINE_FREEP(struct kv_seq, kv_seq_free)
/* Room for positions [0, n_pos): global pages for all, window pages from the first it has, `keep`
 * at most. On KV_E_FULL or -ENOMEM the sequence is as it was. */
int kv_seq_reserve(struct kv_seq *s, uint32_t n_pos);
uint64_t kv_seq_missing(const struct kv_seq *s, uint32_t n_pos);        /* bytes that would take */
/* of these: beyond what free pages memory is held for */
uint64_t kv_seq_growth(const struct kv_seq *s, uint32_t n_pos);
/* Give back the window pages before page index p. */
void kv_seq_drop(struct kv_seq *s, uint32_t p);
/* The page index up to which that has to be done, so that rows up to position end - 1 find their
 * window pages after the next kv_seq_reserve. */
uint32_t kv_seq_behind(const struct kv_seq *s, uint32_t end);
uint32_t kv_seq_pages(const struct kv_seq *s);          /* global ones: [0, n) */
/* Window pages are those of [first, end). */
uint32_t kv_seq_window_first(const struct kv_seq *s);
uint32_t kv_seq_window_end(const struct kv_seq *s);
uint64_t kv_seq_bytes(const struct kv_seq *s);          /* of its pages */
/* KV4: the KV8 tile of page index p, of which a sequence has those of the last two. */
void *kv_seq_open(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head);
/* --- sharing of full pages --- */
/* NULL where the part has none at p */
struct kv_page *kv_seq_page(const struct kv_seq *s, enum kv_part part, uint32_t p);
/* Another's page at index p, at most the end of the part's table, in place of the own one if there
 * is one. 0, -ENOMEM */
int kv_seq_share(struct kv_seq *s, enum kv_part part, uint32_t p, struct kv_page *page);
/* Memory for tables up to page index `end`, after which sharing does not fail. 0, -ENOMEM */
int kv_seq_prepare(struct kv_seq *s, uint32_t end);
enum kv_type kv_seq_type(const struct kv_seq *s);
/* K and V parts of page index p (positions p*KV_PAGE ..) of one layer and KV head. */
void *kv_seq_k(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head);
void *kv_seq_v(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head);
