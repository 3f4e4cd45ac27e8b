/* op-attn - attention over the pages, a chunk a (task, KV head).
 *
 * All queries of a task that share the KV head (its GQA group times the tokens of the block, or of
 * the sequences that share the segment) meet each page together.
 * Invariants:
 * 1. A query's state over a segment starts fresh and folds the pages that it sees in ascending
 *    order; segments are merged in ascending order. Neither the other tokens of the block nor the
 *    cut into tasks enters the arithmetic.
 * 2. Queries that do not see a page pass lo >= hi; the kernel leaves their state alone. A segment
 *    that a query does not see leaves a fresh state, and merging that, or into that, rounds
 *    nothing. */
#include <math.h>
#include "base/num.h"
#include "engine/ops.h"

struct attn_state {                     /* of the queries of one task and KV head */
	float *m, *l, *acc;
};

/* Fresh: l and acc are not read then (kernels.h). */
static void state_reset(const struct attn_state *s, size_t n_q)
{
	for (size_t i = 0; i < n_q; i++)
		s->m[i] = -INFINITY;
}

/* acc / l of one token's group, turned back, to its place in ATT. */
static void finish_token(const struct exec *x, const float *l, const float *acc, size_t row,
                         uint32_t head)
{
	size_t hd = x->m->hp.head_dim, group = x->m->hp.n_head / x->m->hp.n_head_kv;
	float *att = x->act.att + row * x->act.n_att + head * group * hd;

	memcpy(att, acc, group * hd * sizeof(*att));
	for (size_t g = 0; g < group; g++) {
		x->k->scale(att + g * hd, 1.0f / l[g], hd);
		op_turn(x, att + g * hd);
	}
}

/* What the task's queries whose own pages are within [own0, own1] see of a page; the others see
 * nothing. False: there are none. */
static bool set_ranges(const struct exec *x, const struct plan_op *op, const struct attn_task *t,
                       uint32_t page, uint32_t own0, uint32_t own1, const struct act_thread *th)
{
	size_t group = x->m->hp.n_head / x->m->hp.n_head_kv;
	int64_t base = (int64_t)page * KV_PAGE;
	bool any = false;

	for (uint32_t i = 0; i < t->n; i++) {
		uint32_t pos = t->pos + i, own = pos / KV_PAGE;
		int64_t lo = (int64_t)batch_first_seen(&x->batch, op->windowed, pos) - base;
		int64_t hi = own >= own0 && own <= own1 ? (int64_t)pos + 1 - base : 0;

		any = any || hi > 0;
		memset(th->lo + i * group, (int)CLAMP(lo, 0, KV_PAGE), group);
		memset(th->hi + i * group, (int)CLAMP(hi, 0, KV_PAGE), group);
	}
	return any;
}

/* What is the same for all pages; n queries from q on. */
static struct attn_page_args page_args(const struct exec *x, const struct attn_task *t,
                                       const float *q, const struct attn_state *s,
                                       const struct act_thread *th)
{
	const struct hparams *hp = &x->m->hp;

	return (struct attn_page_args){ .q = q,
		                        .ldq = hp->head_dim,
		                        .n_q = t->n * (hp->n_head / hp->n_head_kv),
		                        .head_dim = hp->head_dim,
		                        .lo = th->lo,
		                        .hi = th->hi,
		                        .scale = hp->attn_scale,
		                        .softcap = hp->attn_softcap,
		                        .type = kv_seq_type(x->batch.slices[t->slice].s->kv),
		                        .m = s->m,
		                        .l = s->l,
		                        .acc = s->acc };
}

static void set_page(struct attn_page_args *a, const struct kv_seq *kv, uint32_t page,
                     uint32_t last, uint32_t layer, uint32_t head)
{
	bool more = page < last;

	a->k = kv_seq_k(kv, page, layer, head);
	a->v = kv_seq_v(kv, page, layer, head);
	a->next_k = more ? kv_seq_k(kv, page + 1, layer, head) : NULL;
	a->next_v = more ? kv_seq_v(kv, page + 1, layer, head) : NULL;
}

static float *queries(const struct exec *x, uint32_t row, uint32_t head)
{
	const struct hparams *hp = &x->m->hp;
	size_t group = hp->n_head / hp->n_head_kv;

	return x->act.q + ((size_t)head * x->max_rows + row) * group * hp->head_dim;
}

static void fold_segment(const struct exec *x, const struct plan_op *op, const struct attn_task *t,
                         uint32_t head, uint32_t seg, const struct attn_state *s,
                         const struct act_thread *th)
{
	const struct kv_seq *kv = x->batch.slices[t->slice].s->kv;
	uint32_t first = MAX(batch_first_seen(&x->batch, op->windowed, t->pos),
	                     seg * SEG_POSITIONS) /
	                 KV_PAGE;
	uint32_t last = MIN(t->pos + t->n - 1, seg * SEG_POSITIONS + (SEG_POSITIONS - 1)) / KV_PAGE;
	struct attn_page_args a = page_args(x, t, queries(x, t->row, head), s, th);

	for (uint32_t page = first; page <= last; page++) {
		set_page(&a, kv, page, last, op->layer, head);
		if (a.type != KV_KV4) {
			set_ranges(x, op, t, page, page, UINT32_MAX, th);
			x->k->attn_page(&a);
			continue;
		}
		/* Queries of the page itself see its 8-bit form, later ones the closed page. */
		if (set_ranges(x, op, t, page, page + 1, UINT32_MAX, th))
			x->k->attn_page(&a);
		if (set_ranges(x, op, t, page, page, page, th)) {
			struct attn_page_args own = a;

			own.type = KV_KV8;
			own.k = op_open_tile(x, &x->batch.slices[t->slice], page, op->layer, head);
			own.v = (const char *)own.k + kv_k_bytes(KV_KV8, a.head_dim);
			own.next_k = own.next_v = NULL;
			x->k->attn_page(&own);
		}
	}
}

/* A task of whole rows: all its segments, then the division. */
static void attn_block(struct exec *x, const struct plan_op *op, const struct attn_task *t,
                       uint32_t head, uint32_t thread)
{
	const struct act_thread *th = &x->act.threads[thread];
	struct attn_state run = { th->m[0], th->l[0], th->acc[0] };
	struct attn_state b = { th->m[1], th->l[1], th->acc[1] };
	size_t hd = x->m->hp.head_dim, group = x->m->hp.n_head / x->m->hp.n_head_kv;

	state_reset(&run, t->n * group);
	fold_segment(x, op, t, head, t->seg0, &run, th);
	for (uint32_t seg = t->seg0 + 1; seg < t->seg1; seg++) {
		state_reset(&b, t->n * group);
		fold_segment(x, op, t, head, seg, &b, th);
		x->k->attn_merge(run.m, run.l, run.acc, b.m, b.l, b.acc, t->n * group, hd);
	}
	for (uint32_t i = 0; i < t->n; i++)
		finish_token(x, run.l + i * group, run.acc + i * group * hd, t->row + i, head);
}

static struct attn_state part_state(const struct exec *x, uint32_t part, uint32_t head)
{
	const struct hparams *hp = &x->m->hp;
	size_t group = hp->n_head / hp->n_head_kv;
	size_t i = (size_t)part * hp->n_head + head * group;

	return (struct attn_state){ x->act.part_m + i, x->act.part_l + i,
		                    x->act.part_acc + i * hp->head_dim };
}

/* A segment that rows of several sequences share and see whole (batch.h): all their queries meet
 * each page together. acc[1], which only merging needs, holds the queries. */
static void attn_shared(struct exec *x, const struct plan_op *op, const struct attn_task *t,
                        uint32_t head, const struct act_thread *th)
{
	const struct attn_part *parts = x->batch.tasks[op->windowed].parts;
	const struct kv_seq *kv = x->batch.slices[t->slice].s->kv;
	struct attn_state s = { th->m[0], th->l[0], th->acc[0] };
	struct attn_page_args a = page_args(x, t, th->acc[1], &s, th);
	size_t group = a.n_q / t->n, width = group * a.head_dim, i = 0;
	uint32_t last = t->seg1 * SEG_PAGES - 1;

	for (int32_t part = (int32_t)t->part; part >= 0; part = parts[part].next, i++)
		memcpy(th->acc[1] + i * width, queries(x, parts[part].row, head),
		       width * sizeof(float));
	memset(th->lo, 0, a.n_q);
	memset(th->hi, KV_PAGE, a.n_q);
	state_reset(&s, a.n_q);
	for (uint32_t page = t->seg0 * SEG_PAGES; page <= last; page++) {
		set_page(&a, kv, page, last, op->layer, head);
		x->k->attn_page(&a);
	}
	i = 0;
	for (int32_t part = (int32_t)t->part; part >= 0; part = parts[part].next, i++) {
		struct attn_state to = part_state(x, (uint32_t)part, head);

		memcpy(to.m, s.m + i * group, group * sizeof(float));
		memcpy(to.l, s.l + i * group, group * sizeof(float));
		memcpy(to.acc, s.acc + i * width, width * sizeof(float));
	}
}

static void attn_chunk(void *p, uint32_t i, uint32_t thread)
{
	struct op_arg *arg = p;
	struct exec *x = arg->x;
	const struct hparams *hp = &x->m->hp;
	const struct attn_task *t = &x->batch.tasks[arg->op->windowed].v[i / hp->n_head_kv];
	uint32_t head = i % hp->n_head_kv;

	if (x->reading)
		return;
	if (t->split && t->n > 1) {
		attn_shared(x, arg->op, t, head, &x->act.threads[thread]);
	} else if (t->split) {
		struct attn_state s = part_state(x, t->part, head);

		state_reset(&s, hp->n_head / hp->n_head_kv);
		fold_segment(x, arg->op, t, head, t->seg0, &s, &x->act.threads[thread]);
	} else {
		attn_block(x, arg->op, t, head, thread);
	}
}

static void merge_parts(const struct exec *x, const struct attn_split *split, size_t row)
{
	const struct hparams *hp = &x->m->hp;
	size_t group = hp->n_head / hp->n_head_kv;

	for (uint32_t head = 0; head < hp->n_head_kv; head++) {
		struct attn_state run = part_state(x, split->part, head);

		for (uint32_t i = 1; i < split->n; i++) {
			struct attn_state b = part_state(x, split->part + i, head);

			x->k->attn_merge(run.m, run.l, run.acc, b.m, b.l, b.acc, group,
			                 hp->head_dim);
		}
		finish_token(x, run.l, run.acc, row, head);
	}
}

static void attn_rows(struct exec *x, const struct plan_op *op, uint32_t r0, uint32_t r1)
{
	const struct attn_tasks *tasks = &x->batch.tasks[op->windowed];

	for (size_t r = r0; r < r1 && tasks->any_split; r++)
		if (tasks->split[r].n > 0)
			merge_parts(x, &tasks->split[r], r);
	if (op_quantizes(x, op))
		op_quantize(x, op, x->act.att, x->act.n_att, r0, r1);
}

void op_attn(struct exec *x, const struct plan_op *op)
{
	const struct attn_tasks *tasks = &x->batch.tasks[op->windowed];

	op_phase(x, op, attn_chunk, tasks->n * x->m->hp.n_head_kv);
	if (op_quantizes(x, op))
		op_bind(x, x->act.n_att);
	if (op_quantizes(x, op) || tasks->any_split)
		op_rows(x, op, attn_rows, x->act.n_att);
}
