/* kv - pages come from slabs that are allocated when first needed and go back to a free list.
 *
 * A page set is one block of memory: a tile for each layer and KV head, which a chunk of attention
 * reads in one stretch.
 * Invariants:
 * 1. A page is either on the free list (refs 0) or referenced by `refs` tables, or tables and the
 *    prefix tree; used + free = allocated <= max, and used + extras <= max.
 * 2. Slabs never move and live as long as one of their pages is used: addresses from kv_seq_k stay
 *    valid until the sequence is freed.
 * 3. A sequence's table has room for all its pages, so giving back never allocates. */
#include "engine/kv.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"
#include "base/vec.h"

enum { SLAB_BYTES = 4 << 20 };          /* a slab holds at least one page set */

struct kv_page {
	char *data;
	struct kv_page *next_free;
	uint32_t refs;
};
struct kv_slab {
	char *data;
	struct kv_page *pages;
	size_t n;
};
struct kv_pool {
	struct kv_shape shape;
	size_t tile, part;              /* bytes of one layer and head; of its K */
	size_t page_bytes, slab_pages;
	size_t tile8;                   /* KV4: bytes of a tile's 8-bit form, else 0 */
	uint32_t extra;                 /* pages' worth of memory a sequence holds besides */
	uint64_t extras;                /* of all sequences */
	uint64_t max, allocated, used;
	struct kv_page *free_list;
	VEC(struct kv_slab) slabs;
};
struct kv_seq {
	struct kv_pool *pool;
	char *open;                     /* KV4: [2][n_layer][n_kv_head] of tile8 bytes */
	VEC(struct kv_page *) pages;
};

bool kv_page_bytes(const struct kv_shape *shape, uint64_t *ret)
{
	/* More than kernels can do, but no overflow. */
	if (shape->head_dim == 0 || shape->head_dim > 1u << 20 || shape->n_layer == 0 ||
	    shape->n_kv_head == 0)
		return false;
	return !mul_overflows((uint64_t)kv_tile_bytes(shape->type, shape->head_dim),
	                      (uint64_t)shape->n_layer, ret) &&
	       !mul_overflows(*ret, (uint64_t)shape->n_kv_head, ret) && *ret <= SIZE_MAX / 2;
}

int kv_pool_new(struct kv_pool **ret, const struct kv_shape *shape, uint64_t max_pages)
{
	_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
	uint64_t bytes;

	if (!kv_page_bytes(shape, &bytes))
		return -EINVAL;
	kv = mem_alloc(sizeof(*kv));
	if (!kv)
		return -ENOMEM;
	kv->shape = *shape;
	kv->tile = kv_tile_bytes(shape->type, shape->head_dim);
	kv->part = kv_k_bytes(shape->type, shape->head_dim);
	kv->page_bytes = bytes;
	if (shape->type == KV_KV4) {
		kv->tile8 = kv_tile_bytes(KV_KV8, shape->head_dim);
		kv->extra = (uint32_t)DIV_UP(2 * kv->tile8, kv->tile);
	}
	kv->slab_pages = MAX((size_t)1, (size_t)SLAB_BYTES / bytes);
	kv->max = max_pages;
	*ret = STEAL(kv);
	return 0;
}

struct kv_pool *kv_pool_free(struct kv_pool *kv)
{
	if (!kv)
		return NULL;
	for (size_t i = 0; i < kv->slabs.n; i++) {
		mem_free(kv->slabs.data[i].data);
		mem_free(kv->slabs.data[i].pages);
	}
	vec_deinit(&kv->slabs);
	return mem_free(kv);
}

uint64_t kv_pool_page_bytes(const struct kv_pool *kv)
{
	return kv->page_bytes;
}

uint64_t kv_pool_used(const struct kv_pool *kv)
{
	return kv->used + kv->extras;
}

uint64_t kv_pool_max(const struct kv_pool *kv)
{
	return kv->max;
}

uint64_t kv_pool_allocated(const struct kv_pool *kv)
{
	return kv->allocated + kv->extras;
}

static bool slab_is_free(const struct kv_slab *slab)
{
	for (size_t i = 0; i < slab->n; i++)
		if (slab->pages[i].refs > 0)
			return false;
	return true;
}

void kv_pool_trim(struct kv_pool *kv)
{
	size_t n = 0;

	kv->free_list = NULL;
	kv->allocated = 0;
	for (size_t i = 0; i < kv->slabs.n; i++) {
		struct kv_slab slab = kv->slabs.data[i];

		if (slab_is_free(&slab)) {
			mem_free(slab.data);
			mem_free(slab.pages);
			continue;
		}
		for (size_t p = slab.n; p-- > 0;) {
			if (slab.pages[p].refs > 0)
				continue;
			slab.pages[p].next_free = kv->free_list;
			kv->free_list = &slab.pages[p];
		}
		kv->allocated += slab.n;
		kv->slabs.data[n++] = slab;
	}
	kv->slabs.n = n;
}

static int pool_grow(struct kv_pool *kv)
{
	size_t n = MIN((uint64_t)kv->slab_pages, kv->max - kv->allocated);
	_cleanup_mem_ char *data = NULL;
	_cleanup_mem_ struct kv_page *pages = NULL;
	struct kv_slab slab;

	if (vec_reserve(&kv->slabs, kv->slabs.n + 1) < 0)
		return -ENOMEM;
	data = mem_aligned(64, n * kv->page_bytes);
	pages = mem_allocn(n, sizeof(*pages));
	if (!data || !pages)
		return -ENOMEM;
	/* Backwards, so that pages are handed out in the order of their addresses. */
	for (size_t i = n; i-- > 0;) {
		pages[i].data = data + i * kv->page_bytes;
		pages[i].next_free = kv->free_list;
		kv->free_list = &pages[i];
	}
	slab = (struct kv_slab){ STEAL(data), STEAL(pages), n };
	kv->slabs.data[kv->slabs.n++] = slab;
	kv->allocated += n;
	return 0;
}

struct kv_page *kv_page_ref(struct kv_page *page)
{
	page->refs++;
	return page;
}

void kv_page_unref(struct kv_pool *kv, struct kv_page *page)
{
	if (--page->refs > 0)
		return;
	page->next_free = kv->free_list;
	kv->free_list = page;
	kv->used--;
}

int kv_seq_new(struct kv_seq **ret, struct kv_pool *kv)
{
	struct kv_seq *s = mem_alloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	if (kv->extra > kv->max - kv->used - kv->extras) {
		mem_free(s);
		return KV_E_FULL;
	}
	if (kv->tile8) {
		s->open = mem_aligned(64, 2 * kv->tile8 * kv->shape.n_layer * kv->shape.n_kv_head);
		if (!s->open) {
			mem_free(s);
			return -ENOMEM;
		}
	}
	kv->extras += kv->extra;
	s->pool = kv;
	*ret = s;
	return 0;
}

uint32_t kv_pool_extra(const struct kv_pool *kv)
{
	return kv->extra;
}

void *kv_seq_open(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head)
{
	const struct kv_shape *shape = &s->pool->shape;

	return s->open +
	       (((size_t)(p & 1) * shape->n_layer + layer) * shape->n_kv_head + head) *
	               s->pool->tile8;
}

static void seq_shrink(struct kv_seq *s, size_t n)
{
	while (s->pages.n > n)
		kv_page_unref(s->pool, s->pages.data[--s->pages.n]);
}

struct kv_seq *kv_seq_free(struct kv_seq *s)
{
	if (!s)
		return NULL;
	seq_shrink(s, 0);
	s->pool->extras -= s->pool->extra;
	mem_free(s->open);
	vec_deinit(&s->pages);
	return mem_free(s);
}

int kv_seq_reserve(struct kv_seq *s, uint32_t n_pos)
{
	struct kv_pool *kv = s->pool;
	size_t had = s->pages.n;
	size_t need = n_pos / KV_PAGE + (n_pos % KV_PAGE != 0);

	if (need <= had)
		return 0;
	if (need - had > kv->max - kv->used - kv->extras)
		return KV_E_FULL;
	if (vec_reserve(&s->pages, need) < 0)
		return -ENOMEM;
	while (s->pages.n < need) {
		struct kv_page *page;

		if (!kv->free_list && pool_grow(kv) < 0) {
			seq_shrink(s, had);
			return -ENOMEM;
		}
		page = kv->free_list;
		kv->free_list = page->next_free;
		page->refs = 1;
		kv->used++;
		s->pages.data[s->pages.n++] = page;
	}
	return 0;
}

uint32_t kv_seq_pages(const struct kv_seq *s)
{
	return (uint32_t)s->pages.n;
}

struct kv_page *kv_seq_page(const struct kv_seq *s, uint32_t p)
{
	return s->pages.data[p];
}

int kv_seq_share(struct kv_seq *s, uint32_t p, struct kv_page *page)
{
	if (p == s->pages.n) {
		if (vec_push(&s->pages, page) < 0)
			return -ENOMEM;
		kv_page_ref(page);
		return 0;
	}
	kv_page_ref(page);
	kv_page_unref(s->pool, s->pages.data[p]);
	s->pages.data[p] = page;
	return 0;
}

enum kv_type kv_seq_type(const struct kv_seq *s)
{
	return s->pool->shape.type;
}

void *kv_seq_k(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head)
{
	const struct kv_pool *kv = s->pool;

	return s->pages.data[p]->data + ((size_t)layer * kv->shape.n_kv_head + head) * kv->tile;
}

void *kv_seq_v(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head)
{
	return (char *)kv_seq_k(s, p, layer, head) + s->pool->part;
}
