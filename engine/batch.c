/* batch - layout of rows and attention tasks.
 *
 * Invariants:
 * 1. Slices with no live rows are not in `slices`; row0 of each is the sum of n of those before it.
 * 2. Partials are numbered within a step and kind of layer, less than max_parts; a single token
 *    whose segments find no room there is walked by one task instead, with the same result. */
#include "engine/batch.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"

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
		if (!b->tasks[i].v || !b->tasks[i].split)
			return -ENOMEM;
	}
	return 0;
}

void batch_deinit(struct batch *b)
{
	for (unsigned i = 0; i < ARRAY_SIZE(b->tasks); i++) {
		mem_free(b->tasks[i].v);
		mem_free(b->tasks[i].split);
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

	return b->max_rows * row + 2 * b->max_parts * sizeof(*t->v);
}

/* One token, one task a segment. False when the partials have no room. */
static bool split_token(struct batch *b, struct attn_tasks *t, uint32_t *n_parts,
                        struct attn_task task)
{
	uint32_t n = task.seg1 - task.seg0;

	if (n < 2 || n > b->max_parts - *n_parts)
		return false;
	t->split[task.row] = (struct attn_split){ *n_parts, n };
	t->any_split = true;
	for (uint32_t seg = task.seg0; seg < task.seg1; seg++) {
		struct attn_task one = task;

		one.seg0 = seg;
		one.seg1 = seg + 1;
		one.split = true;
		one.part = (*n_parts)++;
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
			if (n == 1 && split_token(b, t, &n_parts, task))
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
	for (size_t i = 0; i < n_slices; i++) {
		struct exec_slice *s = &slices[i];

		s->cancelled = false;
		if (s->n == 0)
			continue;
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
