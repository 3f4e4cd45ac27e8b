/* kv: pages are distinct and where the shape says, a full pool and a failed allocation leave a
 * sequence as it was, pages come back. */
#include "engine/kv.h"
#include "base/mem.h"
#include "base/num.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct kv_shape tiny = { .n_layer = 3, .n_kv_head = 2, .head_dim = 16 };
enum { TINY_TILE = 16 * KV_PAGE, TINY_PAGE = 3 * 2 * 2 * TINY_TILE * 2 };

static void test_every_tile_is_its_own(void **state)
{
	_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
	_cleanup_(kv_seq_freep) struct kv_seq *a = NULL, *b = NULL;
	struct kv_seq *seqs[2];
	uint16_t mark = 0;

	(void)state;
	assert_int_equal(kv_pool_new(&kv, &tiny, 8 * TINY_PAGE), 0);
	assert_int_equal(kv_sizes_page(kv_pool_sizes(kv)), TINY_PAGE);
	assert_int_equal(kv_seq_new(&a, kv), 0);
	assert_int_equal(kv_seq_new(&b, kv), 0);
	assert_int_equal(kv_seq_reserve(a, 3 * KV_PAGE), 0);
	assert_int_equal(kv_seq_reserve(b, 2 * KV_PAGE + 1), 0);
	seqs[0] = a;
	seqs[1] = b;
	/* Write a mark of its own into every tile, then look whether any was overwritten. */
	for (unsigned pass = 0; pass < 2; pass++) {
		mark = 0;
		for (unsigned i = 0; i < 2; i++)
			for (uint32_t p = 0; p < 3; p++)
				for (uint32_t t = 0; t < 12; t++) {
					uint16_t *tile = t % 2 ? kv_seq_v(seqs[i], p, t / 4,
					                                  t / 2 % 2)
					                       : kv_seq_k(seqs[i], p, t / 4,
					                                  t / 2 % 2);

					mark++;
					assert_int_equal((uintptr_t)tile % 64, 0);
					for (unsigned j = 0; j < TINY_TILE; j++) {
						if (pass == 0)
							tile[j] = mark;
						else
							assert_int_equal(tile[j], mark);
					}
				}
	}
	assert_int_equal(mark, 72);
}

static void test_pages_cover_positions(void **state)
{
	_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
	_cleanup_(kv_seq_freep) struct kv_seq *s = NULL;
	static const struct {
		uint32_t n_pos, pages;
	} steps[] = { { 0, 0 }, { 1, 1 }, { 31, 1 }, { 32, 1 }, { 33, 2 }, { 10, 2 }, { 320, 10 } };

	(void)state;
	assert_int_equal(kv_pool_new(&kv, &tiny, 10 * TINY_PAGE), 0);
	assert_int_equal(kv_pool_max(kv), 10 * TINY_PAGE);
	assert_int_equal(kv_seq_new(&s, kv), 0);
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		assert_int_equal(kv_seq_reserve(s, steps[i].n_pos), 0);
		assert_int_equal(kv_seq_pages(s), steps[i].pages);
		assert_int_equal(kv_pool_used(kv), steps[i].pages * TINY_PAGE);
	}
	assert_int_equal(kv_seq_reserve(s, UINT32_MAX), KV_E_FULL);
	s = kv_seq_free(s);
	assert_int_equal(kv_pool_used(kv), 0);
}

static void test_full_leaves_the_sequence(void **state)
{
	_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
	_cleanup_(kv_seq_freep) struct kv_seq *a = NULL, *b = NULL;
	uint16_t *first;

	(void)state;
	assert_int_equal(kv_pool_new(&kv, &tiny, 4 * TINY_PAGE), 0);
	assert_int_equal(kv_seq_new(&a, kv), 0);
	assert_int_equal(kv_seq_new(&b, kv), 0);
	assert_int_equal(kv_seq_reserve(a, 2 * KV_PAGE), 0);
	assert_int_equal(kv_seq_reserve(b, KV_PAGE), 0);
	first = kv_seq_k(b, 0, 0, 0);
	assert_int_equal(kv_seq_reserve(b, 3 * KV_PAGE), KV_E_FULL);
	assert_int_equal(kv_seq_pages(b), 1);
	assert_ptr_equal(kv_seq_k(b, 0, 0, 0), first);
	assert_int_equal(kv_pool_used(kv), 3 * TINY_PAGE);
	/* What one gives back the other gets. */
	a = kv_seq_free(a);
	assert_int_equal(kv_seq_reserve(b, 4 * KV_PAGE), 0);
	assert_ptr_equal(kv_seq_k(b, 0, 0, 0), first);
	assert_int_equal(kv_pool_used(kv), 4 * TINY_PAGE);
}

/* Layers 0, 1 and 3 have a window of 40: pages behind it go, as many come, and what a sequence
 * holds of them does not depend on how long it is. */
static void test_windows_slide(void **state)
{
	static const struct kv_shape shape = { .n_layer = 4, .n_kv_head = 2, .head_dim = 16,
		                               .window = 40, .window_period = 3, .step = 20 };
	enum { TILES = 2 * 2 * TINY_TILE * 2, KEEP = 3, PAGES = 12 };
	_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
	_cleanup_(kv_seq_freep) struct kv_seq *s = NULL;
	const struct kv_sizes *z;
	uint64_t full = PAGES * TILES + KEEP * 3 * TILES;

	(void)state;
	assert_int_equal(kv_pool_new(&kv, &shape, full), 0);
	z = kv_pool_sizes(kv);
	assert_int_equal(z->part[KV_GLOBAL], TILES);
	assert_int_equal(z->part[KV_WINDOW], 3 * TILES);
	assert_int_equal(z->keep, KEEP);
	assert_int_equal(kv_sizes_bytes(z, PAGES * KV_PAGE), full);
	assert_int_equal(kv_sizes_positions(z, full), PAGES * KV_PAGE);
	assert_int_equal(kv_sizes_positions(z, full - 1), (PAGES - 1) * KV_PAGE);
	assert_int_equal(kv_sizes_positions(z, 8 * TILES - 1), KV_PAGE);
	assert_int_equal(kv_seq_new(&s, kv), 0);
	assert_int_equal(kv_seq_missing(s, PAGES * KV_PAGE), full);
	assert_int_equal(kv_seq_reserve(s, PAGES * KV_PAGE), 0);
	assert_int_equal(kv_seq_window_end(s), KEEP);
	for (uint32_t pos = 0; pos + 20 <= PAGES * KV_PAGE; pos += 20) {
		uint32_t end = pos + 20, seen = kv_first_seen(kv, pos);

		if (DIV_UP(end, (uint32_t)KV_PAGE) > kv_seq_window_end(s))
			kv_seq_drop(s, kv_seq_behind(s, end));
		assert_int_equal(kv_seq_reserve(s, PAGES * KV_PAGE), 0);
		assert_int_equal(kv_seq_bytes(s), full);
		assert_int_equal(kv_pool_used(kv), full);
		for (uint32_t p = seen; p <= (end - 1) / KV_PAGE; p++) {
			assert_non_null(kv_seq_page(s, KV_WINDOW, p));
			for (uint32_t layer = 0; layer < 4; layer++)
				for (uint32_t h = 0; h < 2; h++)
					memset(kv_seq_k(s, p, layer, h), (int)(p + 1), 64);
		}
	}
	assert_null(kv_seq_page(s, KV_WINDOW, 0));
	for (uint32_t p = 0; p < PAGES; p++)    /* global pages are all there */
		assert_int_equal(*(unsigned char *)kv_seq_k(s, p, 2, 1), p + 1);
	kv_seq_drop(s, PAGES + 5);
	assert_int_equal(kv_seq_bytes(s), PAGES * TILES);
	s = kv_seq_free(s);
	assert_int_equal(kv_pool_used(kv), 0);
}

static void test_every_allocation_may_fail(void **state)
{
	/* Pages of 2.5 MiB: every one is a slab, so that growing fails between pages too. */
	static const struct kv_shape large = { .n_layer = 20, .n_kv_head = 16, .head_dim = 64 };

	(void)state;
	for (unsigned nth = 0;; nth++) {
		_cleanup_(kv_pool_freep) struct kv_pool *kv = NULL;
		_cleanup_(kv_seq_freep) struct kv_seq *s = NULL;
		int64_t live = mem_live_blocks();
		bool fired;
		int r;

		mem_fault_arm(nth, false);
		r = kv_pool_new(&kv, &large, 64 << 20);
		if (r == 0)
			r = kv_seq_new(&s, kv);
		if (r == 0)
			r = kv_seq_reserve(s, 4 * KV_PAGE);
		fired = mem_fault_fired();
		assert_int_equal(r, fired ? -ENOMEM : 0);
		if (fired && s) {
			assert_int_equal(kv_seq_pages(s), 0);
			assert_int_equal(kv_pool_used(kv), 0);
			assert_int_equal(kv_seq_reserve(s, 4 * KV_PAGE), 0);
		}
		s = kv_seq_free(s);
		kv = kv_pool_free(kv);
		assert_int_equal(mem_live_blocks(), live);
		if (!fired) {
			assert_true(nth > 6);
			return;
		}
	}
}

static void test_bad_shapes(void **state)
{
	const struct kv_shape none = { .n_layer = 0, .n_kv_head = 1, .head_dim = 16 };
	const struct kv_shape huge = { .n_layer = UINT32_MAX,
		                       .n_kv_head = UINT32_MAX,
		                       .head_dim = UINT32_MAX };
	struct kv_pool *kv = NULL;

	(void)state;
	assert_int_equal(kv_pool_new(&kv, &none, 1), -EINVAL);
	assert_int_equal(kv_pool_new(&kv, &huge, 1), -EINVAL);
	assert_null(kv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_tile_is_its_own),
		cmocka_unit_test(test_pages_cover_positions),
		cmocka_unit_test(test_full_leaves_the_sequence),
		cmocka_unit_test(test_windows_slide),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_bad_shapes),
	};

	return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
