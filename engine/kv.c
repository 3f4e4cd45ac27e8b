/* kv - pages come from slabs that are allocated when first needed and go back to a free list, each
 * part's to its own.
 *
 * A page is one block of memory: a tile for each layer of the part and KV head, which a chunk of
 * attention reads in one stretch.
 * Invariants:
 * 1. A page is either on the free list (refs 0) or referenced by `refs` tables, or tables and the
 *    prefix tree; of each part used + free = allocated; used + extras <= max, in bytes.
 * 2. Slabs never move and live as long as one of their pages is used: addresses from kv_seq_k stay
 *    valid until the sequence is freed or drops the page.
 * 3. After kv_seq_reserve a window table holds min(pages - first, keep) pages. A sequence that
 *    gives back pages behind its window takes as many for what comes, so its bytes never shrink
 *    before its end, and a step needs none that were not there before. */
#include "engine/kv.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"
#include "base/vec.h"

enum { SLAB_BYTES = 4 << 20 };          /* a slab holds at least one page */

struct kv_page {
	char *data;
	struct kv_page *next_free;
	uint32_t refs;
	enum kv_part part;
};
struct kv_slab {
	char *data;
	struct kv_page *pages;
	size_t n;
};
struct kv_store {                       /* pages of one part */
	size_t page_bytes, slab_pages;
	uint64_t allocated, used;       /* pages */
	struct kv_page *free_list;
	VEC(struct kv_slab) slabs;
};
struct kv_place {                       /* of a layer in the pages of its part */
	enum kv_part part;
	size_t offset;
};
struct kv_pool {
	struct kv_shape shape;
	struct kv_sizes sizes;
	size_t tile, k_bytes;           /* bytes of one layer and head; of its K */
	size_t tile8;                   /* KV4: bytes of a tile's 8-bit form, else 0 */
	uint64_t extras;                /* bytes, of all sequences */
	uint64_t max;
	struct kv_store store[KV_PARTS];
	struct kv_place *layers;
};
struct kv_table {                       /* pages [first, first + v.n) */
	uint32_t first;
	VEC(struct kv_page *) v;
};
struct kv_seq {
	struct kv_pool *pool;
	char *open;                     /* KV4: [2][n_layer][n_kv_head] of tile8 bytes */
	struct kv_table table[KV_PARTS];
};

static bool is_windowed(const struct kv_shape *shape, uint32_t layer)
{
	return shape->window && (shape->window_period == 0 || (layer + 1) % shape->window_period);
}

bool kv_sizes_of(const struct kv_shape *shape, struct kv_sizes *ret)
{
	struct kv_sizes z = { 0 };
	uint32_t n[KV_PARTS] = { 0 };
	uint64_t tile, sum;

	/* More than kernels can do, but no overflow, nor for any number of positions. */
	if (shape->head_dim == 0 || shape->head_dim > 1u << 20 || shape->n_layer == 0 ||
	    shape->n_kv_head == 0)
		return false;
	for (uint32_t i = 0; i < shape->n_layer && shape->window; i++)
		n[is_windowed(shape, i)]++;
	if (!shape->window)
		n[KV_GLOBAL] = shape->n_layer;
	tile = (uint64_t)kv_tile_bytes(shape->type, shape->head_dim);
	if (mul_overflows(tile, (uint64_t)shape->n_layer, &sum) ||
	    mul_overflows(sum, (uint64_t)shape->n_kv_head, &sum) || sum > (uint64_t)1 << 34)
		return false;
	for (unsigned i = 0; i < KV_PARTS; i++)
		z.part[i] = tile * n[i] * shape->n_kv_head;
	/* A slice of `step` rows reaches over so many pages where it lies worst. */
	z.keep = DIV_UP(MIN(shape->window, 1u << 30) + MIN(shape->step, 1u << 30),
	                (uint32_t)KV_PAGE) +
	         1;
	if (shape->type == KV_KV4) {
		uint64_t open = 2 * kv_tile_bytes(KV_KV8, shape->head_dim);

		z.extra = DIV_UP(open, tile) * sum;
	}
	*ret = z;
	return true;
}

uint64_t kv_sizes_page(const struct kv_sizes *z)
{
	return z->part[KV_GLOBAL] + z->part[KV_WINDOW];
}

uint64_t kv_sizes_bytes(const struct kv_sizes *z, uint32_t n_pos)
{
	uint64_t n = DIV_UP((uint64_t)n_pos, (uint64_t)KV_PAGE);

	return n * z->part[KV_GLOBAL] + MIN(n, (uint64_t)z->keep) * z->part[KV_WINDOW];
}

uint64_t kv_sizes_positions(const struct kv_sizes *z, uint64_t bytes)
{
	uint64_t n = bytes / kv_sizes_page(z);

	if (n > z->keep && z->part[KV_WINDOW] > 0)
		n = z->part[KV_GLOBAL] > 0
		            ? (bytes - z->keep * z->part[KV_WINDOW]) / z->part[KV_GLOBAL]
		            : UINT32_MAX;
	return n > UINT32_MAX ? UINT32_MAX : n * KV_PAGE;
}

int kv_pool_new(struct kv_pool **ret, const struct kv_shape *shape, uint64_t max_bytes)
{
	_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
	struct kv_sizes sizes;
	size_t at[KV_PARTS] = { 0 };

	if (!kv_sizes_of(shape, &sizes))
		return -EINVAL;
	kv = mem_alloc(sizeof(*kv));
	if (!kv)
		return -ENOMEM;
	kv->shape = *shape;
	kv->sizes = sizes;
	kv->tile = kv_tile_bytes(shape->type, shape->head_dim);
	kv->k_bytes = kv_k_bytes(shape->type, shape->head_dim);
	if (shape->type == KV_KV4)
		kv->tile8 = kv_tile_bytes(KV_KV8, shape->head_dim);
	kv->layers = mem_allocn(shape->n_layer, sizeof(*kv->layers));
	if (!kv->layers)
		return -ENOMEM;
	for (uint32_t i = 0; i < shape->n_layer; i++) {
		enum kv_part part = is_windowed(shape, i) ? KV_WINDOW : KV_GLOBAL;

		kv->layers[i] = (struct kv_place){ part, at[part] };
		at[part] += kv->tile * shape->n_kv_head;
	}
	for (unsigned i = 0; i < KV_PARTS; i++) {
		/* where all layers are windowed, global pages are names without contents */
		size_t bytes = MAX((size_t)sizes.part[i], (size_t)64);

		kv->store[i].page_bytes = bytes;
		kv->store[i].slab_pages = MAX((size_t)1, (size_t)SLAB_BYTES / bytes);
	}
	kv->max = max_bytes;
	*ret = STEAL(kv);
	return 0;
}

static void store_deinit(struct kv_store *store)
{
	for (size_t i = 0; i < store->slabs.n; i++) {
		mem_free(store->slabs.data[i].data);
		mem_free(store->slabs.data[i].pages);
	}
	vec_deinit(&store->slabs);
}

struct kv_pool *kv_pool_free(struct kv_pool *kv)
{
	if (!kv)
		return NULL;
	for (unsigned i = 0; i < KV_PARTS; i++)
		store_deinit(&kv->store[i]);
	mem_free(kv->layers);
	return mem_free(kv);
}

const struct kv_sizes *kv_pool_sizes(const struct kv_pool *kv)
{
	return &kv->sizes;
}

uint64_t kv_pool_used(const struct kv_pool *kv)
{
	return kv->store[KV_GLOBAL].used * kv->sizes.part[KV_GLOBAL] +
	       kv->store[KV_WINDOW].used * kv->sizes.part[KV_WINDOW] + kv->extras;
}

uint64_t kv_pool_max(const struct kv_pool *kv)
{
	return kv->max;
}

uint64_t kv_pool_allocated(const struct kv_pool *kv)
{
	return kv->store[KV_GLOBAL].allocated * kv->sizes.part[KV_GLOBAL] +
	       kv->store[KV_WINDOW].allocated * kv->sizes.part[KV_WINDOW] + kv->extras;
}

static bool slab_is_free(const struct kv_slab *slab)
{
	for (size_t i = 0; i < slab->n; i++)
		if (slab->pages[i].refs > 0)
			return false;
	return true;
}

static void store_trim(struct kv_store *store)
{
	size_t n = 0;

	store->free_list = NULL;
	store->allocated = 0;
	for (size_t i = 0; i < store->slabs.n; i++) {
		struct kv_slab slab = store->slabs.data[i];

		if (slab_is_free(&slab)) {
			mem_free(slab.data);
			mem_free(slab.pages);
			continue;
		}
		for (size_t p = slab.n; p-- > 0;) {
			if (slab.pages[p].refs > 0)
				continue;
			slab.pages[p].next_free = store->free_list;
			store->free_list = &slab.pages[p];
		}
		store->allocated += slab.n;
		store->slabs.data[n++] = slab;
	}
	store->slabs.n = n;
}

void kv_pool_trim(struct kv_pool *kv)
{
	for (unsigned i = 0; i < KV_PARTS; i++)
		store_trim(&kv->store[i]);
}

/* A slab for `part`: no more than the pool may still hold, but one page that the caller has asked
 * for. */
static int pool_grow(struct kv_pool *kv, enum kv_part part)
{
	struct kv_store *store = &kv->store[part];
	uint64_t left = kv->max - MIN(kv->max, kv_pool_allocated(kv));
	size_t n = MIN((uint64_t)store->slab_pages, MAX(left / store->page_bytes, (uint64_t)1));
	_cleanup_mem_ char *data = NULL;
	_cleanup_mem_ struct kv_page *pages = NULL;
	struct kv_slab slab;

	if (vec_reserve(&store->slabs, store->slabs.n + 1) < 0)
		return -ENOMEM;
	data = mem_aligned(64, n * store->page_bytes);
	pages = mem_allocn(n, sizeof(*pages));
	if (!data || !pages)
		return -ENOMEM;
	/* Backwards, so that pages are handed out in the order of their addresses. */
	for (size_t i = n; i-- > 0;) {
		pages[i].data = data + i * store->page_bytes;
		pages[i].part = part;
		pages[i].next_free = store->free_list;
		store->free_list = &pages[i];
	}
	slab = (struct kv_slab){ STEAL(data), STEAL(pages), n };
	store->slabs.data[store->slabs.n++] = slab;
	store->allocated += n;
	return 0;
}

struct kv_page *kv_page_ref(struct kv_page *page)
{
	page->refs++;
	return page;
}

void kv_page_unref(struct kv_pool *kv, struct kv_page *page)
{
	struct kv_store *store = &kv->store[page->part];

	if (--page->refs > 0)
		return;
	page->next_free = store->free_list;
	store->free_list = page;
	store->used--;
}

int kv_seq_new(struct kv_seq **ret, struct kv_pool *kv)
{
	struct kv_seq *s = mem_alloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	if (kv->sizes.extra > kv->max - kv_pool_used(kv)) {
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
	kv->extras += kv->sizes.extra;
	s->pool = kv;
	*ret = s;
	return 0;
}

void *kv_seq_open(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head)
{
	const struct kv_shape *shape = &s->pool->shape;

	return s->open +
	       (((size_t)(p & 1) * shape->n_layer + layer) * shape->n_kv_head + head) *
	               s->pool->tile8;
}

static uint32_t table_end(const struct kv_table *t)
{
	return t->first + (uint32_t)t->v.n;
}

static void table_shrink(struct kv_seq *s, enum kv_part part, size_t n)
{
	struct kv_table *t = &s->table[part];

	while (t->v.n > n)
		kv_page_unref(s->pool, t->v.data[--t->v.n]);
}

struct kv_seq *kv_seq_free(struct kv_seq *s)
{
	if (!s)
		return NULL;
	for (unsigned i = 0; i < KV_PARTS; i++) {
		table_shrink(s, i, 0);
		vec_deinit(&s->table[i].v);
	}
	s->pool->extras -= s->pool->sizes.extra;
	mem_free(s->open);
	return mem_free(s);
}

/* Where the table of a part ends once there is room for n_pos positions. */
static uint32_t wanted_end(const struct kv_seq *s, enum kv_part part, uint32_t n_pos)
{
	const struct kv_table *t = &s->table[part];
	uint32_t end = n_pos / KV_PAGE + (n_pos % KV_PAGE != 0);

	if (part == KV_WINDOW) {
		if (s->pool->sizes.part[KV_WINDOW] == 0)
			return 0;
		end = MIN(end, t->first + s->pool->sizes.keep);
	}
	return MAX(end, table_end(t));
}

uint64_t kv_seq_missing(const struct kv_seq *s, uint32_t n_pos)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < KV_PARTS; i++)
		sum += (wanted_end(s, i, n_pos) - table_end(&s->table[i])) *
		       s->pool->sizes.part[i];
	return sum;
}

uint64_t kv_seq_growth(const struct kv_seq *s, uint32_t n_pos)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < KV_PARTS; i++) {
		const struct kv_store *store = &s->pool->store[i];
		uint64_t more = wanted_end(s, i, n_pos) - table_end(&s->table[i]);

		more -= MIN(more, store->allocated - store->used);
		sum += more * s->pool->sizes.part[i];
	}
	return sum;
}

static int table_grow(struct kv_seq *s, enum kv_part part, uint32_t end)
{
	struct kv_table *t = &s->table[part];
	struct kv_store *store = &s->pool->store[part];

	if (end <= table_end(t))
		return 0;
	if (vec_reserve(&t->v, end - t->first) < 0)
		return -ENOMEM;
	while (table_end(t) < end) {
		struct kv_page *page;

		if (!store->free_list && pool_grow(s->pool, part) < 0)
			return -ENOMEM;
		page = store->free_list;
		store->free_list = page->next_free;
		page->refs = 1;
		store->used++;
		t->v.data[t->v.n++] = page;
	}
	return 0;
}

int kv_seq_reserve(struct kv_seq *s, uint32_t n_pos)
{
	size_t had[KV_PARTS] = { s->table[KV_GLOBAL].v.n, s->table[KV_WINDOW].v.n };

	if (kv_seq_missing(s, n_pos) > s->pool->max - kv_pool_used(s->pool))
		return KV_E_FULL;
	for (unsigned i = 0; i < KV_PARTS; i++)
		if (table_grow(s, i, wanted_end(s, i, n_pos)) < 0) {
			table_shrink(s, KV_GLOBAL, had[KV_GLOBAL]);
			table_shrink(s, KV_WINDOW, had[KV_WINDOW]);
			return -ENOMEM;
		}
	return 0;
}

void kv_seq_drop(struct kv_seq *s, uint32_t p)
{
	struct kv_table *t = &s->table[KV_WINDOW];
	size_t n;

	if (p <= t->first)
		return;
	n = MIN((size_t)(p - t->first), t->v.n);
	for (size_t i = 0; i < n; i++)
		kv_page_unref(s->pool, t->v.data[i]);
	if (n > 0)
		memmove(t->v.data, t->v.data + n, (t->v.n - n) * sizeof(*t->v.data));
	t->v.n -= n;
	t->first = p;
}

uint32_t kv_seq_behind(const struct kv_seq *s, uint32_t end)
{
	uint32_t pages = end / KV_PAGE + (end % KV_PAGE != 0), keep = s->pool->sizes.keep;

	return s->pool->sizes.part[KV_WINDOW] > 0 && pages > keep ? pages - keep : 0;
}

uint32_t kv_seq_pages(const struct kv_seq *s)
{
	return table_end(&s->table[KV_GLOBAL]);
}

uint32_t kv_seq_window_first(const struct kv_seq *s)
{
	return s->table[KV_WINDOW].first;
}

uint32_t kv_seq_window_end(const struct kv_seq *s)
{
	return table_end(&s->table[KV_WINDOW]);
}

uint64_t kv_seq_bytes(const struct kv_seq *s)
{
	return s->table[KV_GLOBAL].v.n * s->pool->sizes.part[KV_GLOBAL] +
	       s->table[KV_WINDOW].v.n * s->pool->sizes.part[KV_WINDOW];
}

uint32_t kv_first_seen(const struct kv_pool *kv, uint32_t pos)
{
	uint32_t window = kv->shape.window;

	return window && pos >= window ? (pos - window + 1) / KV_PAGE : 0;
}

struct kv_page *kv_seq_page(const struct kv_seq *s, enum kv_part part, uint32_t p)
{
	const struct kv_table *t = &s->table[part];

	return p >= t->first && p < table_end(t) ? t->v.data[p - t->first] : NULL;
}

int kv_seq_share(struct kv_seq *s, enum kv_part part, uint32_t p, struct kv_page *page)
{
	struct kv_table *t = &s->table[part];

	if (p == table_end(t)) {
		if (vec_push(&t->v, page) < 0)
			return -ENOMEM;
		kv_page_ref(page);
		return 0;
	}
	kv_page_ref(page);
	kv_page_unref(s->pool, t->v.data[p - t->first]);
	t->v.data[p - t->first] = page;
	return 0;
}

int kv_seq_prepare(struct kv_seq *s, uint32_t end)
{
	for (unsigned i = 0; i < KV_PARTS; i++)
		if (end > s->table[i].first &&
		    vec_reserve(&s->table[i].v, end - s->table[i].first) < 0)
			return -ENOMEM;
	return 0;
}

enum kv_type kv_seq_type(const struct kv_seq *s)
{
	return s->pool->shape.type;
}

void *kv_seq_k(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head)
{
	const struct kv_pool *kv = s->pool;
	const struct kv_place *at = &kv->layers[layer];
	const struct kv_table *t = &s->table[at->part];

	return t->v.data[p - t->first]->data + at->offset + head * kv->tile;
}

void *kv_seq_v(const struct kv_seq *s, uint32_t p, uint32_t layer, uint32_t head)
{
	return (char *)kv_seq_k(s, p, layer, head) + s->pool->k_bytes;
}
