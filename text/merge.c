/* merge - binary heap of candidate pairs over a linked list of symbols.
 *
 * 1. Symbols tile the word: a symbol ends where the next one starts.
 * 2. A candidate is valid as long as its left symbol lives, its right one follows and both end
 *    where they did; merging never removes candidates, it makes them stale.
 * 3. Each merge adds at most two candidates, so the heap holds fewer than 3n. */
#include "base/vec.h"
#include "text/merge.h"

enum { SYM_DEAD = -2 };

int merge_add(struct merge *m, uint32_t start, int32_t id)
{
	uint32_t i = (uint32_t)m->sym.n;
	struct merge_sym s = { start, i ? i - 1 : MERGE_NONE, MERGE_NONE, id };

	if (vec_push(&m->sym, s) < 0)
		return -ENOMEM;
	if (i)
		m->sym.data[i - 1].next = i;
	return 0;
}

uint32_t merge_end(const struct merge *m, uint32_t sym)
{
	uint32_t next = m->sym.data[sym].next;

	return next == MERGE_NONE ? m->len : m->sym.data[next].start;
}

static void sift_down(struct merge_cand *h, size_t n, size_t i)
{
	struct merge_cand x = h[i];

	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && h[child + 1].key < h[child].key)
			child++;
		if (x.key <= h[child].key)
			break;
		h[i] = h[child];
	}
	h[i] = x;
}

static int heap_push(struct merge *m, struct merge_cand x)
{
	struct merge_cand *h;
	size_t i = m->heap.n;

	if (vec_push(&m->heap, x) < 0)
		return -ENOMEM;
	h = m->heap.data;
	for (; i > 0 && x.key < h[(i - 1) / 2].key; i = (i - 1) / 2)
		h[i] = h[(i - 1) / 2];
	h[i] = x;
	return 0;
}

static int propose(struct merge *m, merge_pair_fn pair, uint32_t left)
{
	const struct merge_sym *s = m->sym.data;
	struct merge_cand c = { .right = s[left].next };
	uint32_t key;

	if (c.right == MERGE_NONE)
		return 0;
	c.end = merge_end(m, c.right);
	if (!pair(m, s[left].id, s[c.right].id, s[left].start, c.end, &key, &c.id))
		return 0;
	c.key = (uint64_t)key << 32 | left;
	return heap_push(m, c);
}

int merge_run(struct merge *m, merge_pair_fn pair)
{
	struct merge_sym *s = m->sym.data;

	m->heap.n = 0;
	for (uint32_t i = 0; i + 1 < m->sym.n; i++)
		if (propose(m, pair, i) < 0)
			return -ENOMEM;
	while (m->heap.n) {
		struct merge_cand c = m->heap.data[0];
		uint32_t left = (uint32_t)c.key;

		m->heap.data[0] = m->heap.data[--m->heap.n];
		if (m->heap.n)
			sift_down(m->heap.data, m->heap.n, 0);
		if (s[left].id == SYM_DEAD || s[left].next != c.right ||
		    merge_end(m, c.right) != c.end)
			continue;
		s[left].id = c.id;
		s[left].next = s[c.right].next;
		s[c.right].id = SYM_DEAD;
		if (s[left].next != MERGE_NONE)
			s[s[left].next].prev = left;
		if (propose(m, pair, left) < 0 ||
		    (s[left].prev != MERGE_NONE && propose(m, pair, s[left].prev) < 0))
			return -ENOMEM;
	}
	return 0;
}

void merge_deinit(struct merge *m)
{
	vec_deinit(&m->sym);
	vec_deinit(&m->heap);
}
