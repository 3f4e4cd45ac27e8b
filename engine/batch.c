/* batch - layout of rows and attention tasks.
 *
 * Invariants:
 * 1. Slices with no live rows are not in `slices`; row0 of each is the sum of n of those before it.
 * 2. Partials are numbered within a step and kind of layer, less than max_parts; a single token
 *    whose segments find no room there is walked by one task instead, with the same result.
 * 3. A task is shared only over a segment that all its tokens see from its first position to its
 *    last, and whose pages are the same ones in all their tables. */
#include "engine/batch.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/kv.h"

int batch_init(struct batch *b, uint32_t max_rows, uint32_t max_parts, uint32_t window,
               uint32_t block)
{
	*b = (struct batch){
		.max_rows = max_rows, .max_parts = max_parts, .window = window, .block = block
	};
	b->slices = mem_allocn(max_rows, sizeof(*b->slices));
	b->pos = mem_allocn(max_rows, sizeof(*b->pos));
	b->token = mem_allocn(max_rows, sizeof(*b->token));
	b->q = mem_allocn((size_t)max_rows + 1, sizeof(*b->q));
	if (!b->slices || !b->pos || !b->token || !b->q)
		return -ENOMEM;
	for (unsigned i = 0; i < ARRAY_SIZE(b->tasks); i++) {
		b->tasks[i].v = mem_allocn((size_t)max_rows + max_parts, sizeof(*b->tasks[i].v));
		b->tasks[i].split = mem_allocn(max_rows, sizeof(*b->tasks[i].split));
		b->tasks[i].parts = mem_allocn(max_parts, sizeof(*b->tasks[i].parts));
		if (!b->tasks[i].v || !b->tasks[i].split || !b->tasks[i].parts)
			return -ENOMEM;
	}
	return 0;
}

void batch_deinit(struct batch *b)
{
	for (unsigned i = 0; i < ARRAY_SIZE(b->tasks); i++) {
		mem_free(b->tasks[i].v);
		mem_free(b->tasks[i].split);
		mem_free(b->tasks[i].parts);
	}
	mem_free(b->slices);
	mem_free(b->pos);
	mem_free(b->token);
	mem_free(b->q);
	*b = (struct batch){ 0 };
}

uint64_t batch_bytes(const struct batch *b)
{
	const struct attn_tasks *t = b->tasks;
	uint64_t row = sizeof(*b->slices) + sizeof(*b->pos) + sizeof(*b->token) + sizeof(*b->q) +
	               2 * (sizeof(*t->v) + sizeof(*t->split));

	return b->max_rows * row + 2 * b->max_parts * (sizeof(*t->v) + sizeof(*t->parts));
}

/* Segments that a token at pos sees whole and does not write to: [s0, s1). */
struct seg_range {
	uint32_t s0, s1;
};

static struct seg_range whole_segments(const struct batch *b, bool windowed, uint32_t pos)
{
	return (struct seg_range){ DIV_UP(batch_first_seen(b, windowed, pos),
		                          (uint32_t)SEG_POSITIONS),
		                   pos / SEG_POSITIONS };
}

/* Do pages [p0, p1) of a's and b's tables exist and are the same ones? */
static bool same_pages(const struct batch_slice *a, const struct batch_slice *b, bool windowed,
                       uint32_t p0, uint32_t p1)
{
	enum kv_part part = windowed ? KV_WINDOW : KV_GLOBAL;

	for (uint32_t p = p0; p < p1; p++) {
		const struct kv_page *page = kv_seq_page(a->s->kv, part, p);

		if (!page || page != kv_seq_page(b->s->kv, part, p))
			return false;
	}
	return true;
}

/* The earlier slice of a split token that has most segments in common with slice i, by their last
 * pages: *ret, whole for both. NULL: there is none. */
static const struct batch_slice *find_twin(const struct batch *b, const struct attn_tasks *t,
                                           uint32_t i, bool windowed, struct seg_range *ret)
{
	const struct batch_slice *twin = NULL;
	struct seg_range seen = whole_segments(b, windowed, b->slices[i].pos0);
	uint32_t most = seen.s0;

	for (uint32_t j = i; j-- > 0 && most < seen.s1;) {
		const struct batch_slice *s = &b->slices[j];
		struct seg_range other = whole_segments(b, windowed, s->pos0);
		uint32_t seg = seen.s0, end = MIN(seen.s1, other.s1);

		if (s->n != 1 || t->split[s->row0].n == 0 || other.s0 > seg)
			continue;
		while (seg < end && same_pages(&b->slices[i], s, windowed,
		                               seg * SEG_PAGES + (SEG_PAGES - 1),
		                               (seg + 1) * SEG_PAGES))
			seg++;
		if (seg > most) {
			most = seg;
			twin = s;
		}
	}
	*ret = (struct seg_range){ seen.s0, most };
	return twin;
}

/* Part `part` of a token of slice s takes part in the task of the twin's part over `seg`, if all
 * pages are the same and there is room. */
static bool join_task(const struct batch *b, struct attn_tasks *t, const struct batch_slice *s,
                      const struct batch_slice *twin, bool windowed, uint32_t seg, uint32_t part)
{
	uint32_t seg0 = batch_first_seen(b, windowed, twin->pos0) / SEG_POSITIONS;
	struct attn_part *peer = &t->parts[t->split[twin->row0].part + seg - seg0];

	if (t->v[peer->task].n >= b->block ||
	    !same_pages(s, twin, windowed, seg * SEG_PAGES, (seg + 1) * SEG_PAGES))
		return false;
	t->parts[part] = (struct attn_part){ s->row0, peer->task, peer->next };
	peer->next = (int32_t)part;
	t->v[peer->task].n++;
	return true;
}

/* One token, a part a segment and a task for each that it does not share. False when the partials
 * have no room. */
static bool split_token(struct batch *b, bool windowed, uint32_t *n_parts, struct attn_task task)
{
	struct attn_tasks *t = &b->tasks[windowed];
	const struct batch_slice *s = &b->slices[task.slice], *twin = NULL;
	struct seg_range common = { 0 };
	uint32_t n = task.seg1 - task.seg0;

	if (n < 2 || n > b->max_parts - *n_parts)
		return false;
	if (s->n == 1)
		twin = find_twin(b, t, task.slice, windowed, &common);
	t->split[task.row] = (struct attn_split){ *n_parts, n };
	t->any_split = true;
	for (uint32_t seg = task.seg0; seg < task.seg1; seg++) {
		struct attn_task one = task;
		uint32_t part = (*n_parts)++;

		if (twin && seg >= common.s0 && seg < common.s1 &&
		    join_task(b, t, s, twin, windowed, seg, part))
			continue;
		one.seg0 = seg;
		one.seg1 = seg + 1;
		one.split = true;
		one.part = part;
		t->parts[part] = (struct attn_part){ task.row, t->n, ATTN_NO_PART };
		t->v[t->n++] = one;
	}
	return true;
}

static void make_tasks(struct batch *b, bool windowed)
{
	struct attn_tasks *t = &b->tasks[windowed];
	uint32_t n_parts = 0;

	t->n = 0;
	t->any_split = false;
	memset(t->split, 0, b->n_rows * sizeof(*t->split));
	for (uint32_t i = 0; i < b->n_slices; i++) {
		const struct batch_slice *s = &b->slices[i];

		/* The last block sees most: the longest tasks are claimed first. */
		for (uint32_t end = s->n; end > 0;) {
			uint32_t n = (end - 1) % b->block + 1;
			uint32_t off = end - n;
			struct attn_task task = {
				.slice = i, .row = s->row0 + off, .n = n, .pos = s->pos0 + off
			};

			task.seg0 = batch_first_seen(b, windowed, task.pos) / SEG_POSITIONS;
			task.seg1 = (task.pos + n - 1) / SEG_POSITIONS + 1;
			end = off;
			if (n == 1 && split_token(b, windowed, &n_parts, task))
				continue;
			t->v[t->n++] = task;
		}
	}
}

static uint32_t q_rows(const struct batch *b, enum exec_path path)
{
	if (path == PATH_EXACT)
		return 2;
	return path == PATH_PROMPT && b->panels ? 0 : 1;
}

static void number_q(struct batch *b)
{
	uint32_t row = 0;

	b->q[0] = 0;
	for (uint32_t i = 0; i < b->n_slices; i++)
		for (uint32_t j = 0; j < b->slices[i].n; j++, row++)
			b->q[row + 1] = b->q[row] + q_rows(b, b->slices[i].s->path);
	b->n_panel = 0;
	for (uint32_t i = 0; i < row; i++)
		b->n_panel += b->q[i + 1] == b->q[i];
}

static void lay_out(struct batch *b)
{
	number_q(b);
	make_tasks(b, false);
	if (b->window)
		make_tasks(b, true);
}

void batch_begin(struct batch *b, struct exec_slice *slices, size_t n_slices)
{
	uint32_t stage = 0;

	b->n_slices = b->n_rows = 0;
	b->turned = false;
	for (size_t i = 0; i < n_slices; i++) {
		struct exec_slice *s = &slices[i];

		s->cancelled = false;
		if (s->n == 0)
			continue;
		b->turned = s->kv && kv_seq_type(s->kv) == KV_KV4;
		b->slices[b->n_slices++] =
			(struct batch_slice){ .s = s,
			                      .row0 = b->n_rows,
			                      .n = s->n,
			                      .pos0 = s->pos0,
			                      .page0 = s->pos0 / KV_PAGE,
			                      .page1 = (s->pos0 + s->n - 1) / KV_PAGE,
			                      .stage = stage };
		stage += (s->n - 1) / KV_PAGE;
		for (uint32_t j = 0; j < s->n; j++) {
			b->pos[b->n_rows] = s->pos0 + j;
			b->token[b->n_rows++] = (uint32_t)s->tokens[j];
		}
	}
	lay_out(b);
}

/* Keep the last n[i] rows of slice i, as told by keep(). */
static void compact(struct batch *b, uint32_t (*keep)(const struct batch_slice *s),
                    batch_move_fn move, void *arg)
{
	uint32_t n_slices = 0, n_rows = 0;

	for (uint32_t i = 0; i < b->n_slices; i++) {
		struct batch_slice s = b->slices[i];
		uint32_t n = keep(&s);
		uint32_t skip = s.n - n;

		for (uint32_t j = 0; j < n; j++) {
			uint32_t src = s.row0 + skip + j, dst = n_rows + j;

			if (dst == src)
				continue;
			b->pos[dst] = b->pos[src];
			b->token[dst] = b->token[src];
			move(arg, dst, src);
		}
		if (n > 0) {
			struct batch_slice *to = &b->slices[n_slices++];

			*to = s;
			to->row0 = n_rows;
			to->n = n;
			to->pos0 = s.pos0 + skip;
		}
		n_rows += n;
	}
	b->n_slices = n_slices;
	b->n_rows = n_rows;
	lay_out(b);
}

static uint32_t keep_running(const struct batch_slice *s)
{
	return s->s->cancelled ? 0 : s->n;
}

static uint32_t keep_logits(const struct batch_slice *s)
{
	return MIN(s->n, s->s->n_logits);
}

uint32_t batch_drop_cancelled(struct batch *b, batch_move_fn move, void *arg)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < b->n_slices; i++) {
		struct exec_slice *s = b->slices[i].s;

		if (s->cancel && atomic_load_explicit(s->cancel, memory_order_relaxed)) {
			s->cancelled = true;
			n++;
		}
	}
	if (n > 0)
		compact(b, keep_running, move, arg);
	return n;
}

void batch_keep_logits(struct batch *b, batch_move_fn move, void *arg)
{
	compact(b, keep_logits, move, arg);
}
