/* act - one allocation a buffer; every size is a checked product. */
#include "engine/act.h"

#include <errno.h>
#include "base/mem.h"
#include "base/num.h"
#include "engine/logits.h"

/* *ret = n * m zeroed elements of `size` bytes, whole cache lines. */
static int buf(struct act *a, void *ret, size_t n, size_t m, size_t size)
{
	size_t bytes;
	void *p;

	if (mul_overflows(n, m, &bytes) || mul_overflows(bytes, size, &bytes) ||
	    bytes > SIZE_MAX / 2)
		return -ENOMEM;
	bytes = align_up(MAX(bytes, (size_t)1), 64);
	p = mem_aligned(64, bytes);
	if (!p)
		return -ENOMEM;
	a->bytes += bytes;
	memcpy(ret, &p, sizeof(p));
	return 0;
}

static int thread_init(struct act *a, struct act_thread *t, const struct hparams *hp,
                       const struct act_shape *s)
{
	size_t n_q = (size_t)s->block * (hp->n_head / hp->n_head_kv);
	size_t panels = s->panels ? kernels_panel_scratch(s->max_in) : 0;
	int r = buf(a, &t->scratch, MAX(KERNELS_SCRATCH(s->max_in), panels), 1, 1);

	if (r == 0)
		r = buf(a, &t->pairs, ACT_PAIRS, 1, sizeof(float));
	for (unsigned i = 0; i < 2 && r == 0; i++) {
		r = buf(a, &t->m[i], n_q, 1, sizeof(float));
		if (r == 0)
			r = buf(a, &t->l[i], n_q, 1, sizeof(float));
		if (r == 0)
			r = buf(a, &t->acc[i], n_q, hp->head_dim, sizeof(float));
	}
	if (r == 0)
		r = buf(a, &t->lo, n_q, 1, 1);
	if (r == 0)
		r = buf(a, &t->hi, n_q, 1, 1);
	if (r < 0 || s->split_in == 0)
		return r;
	r = buf(a, &t->joined, ACT_JOINED, s->split_group, 1);
	if (r == 0)
		r = buf(a, &t->screen.largest, s->max_logits, SCREEN_TOP, sizeof(float));
	return r == 0 ? buf(a, &t->screen.n, s->max_logits, 1, sizeof(uint32_t)) : r;
}

static int screen_init(struct act *a, const struct act_shape *s)
{
	size_t blocks = s->split_in / 32;
	int r = buf(a, &a->screen.t, s->max_logits, blocks, sizeof(float));

	if (r == 0)
		r = buf(a, &a->screen.e, s->max_logits, blocks, sizeof(float));
	if (r == 0)
		r = buf(a, &a->screen.top, s->max_logits, 1, sizeof(uint32_t));
	return r == 0 ? buf(a, &a->screen.floor, s->max_logits, 1, sizeof(_Atomic float)) : r;
}

int act_init(struct act *a, const struct hparams *hp, const struct act_shape *s)
{
	const struct {
		void *ret;
		size_t n, m;
	} floats[] = {
		{ &a->h, s->max_rows, hp->n_embd },
		{ &a->x, s->max_rows, hp->n_embd },
		{ &a->y, s->max_rows, hp->n_embd },
		{ &a->q, s->max_rows, (size_t)hp->n_head * hp->head_dim },
		{ &a->k, s->max_rows, (size_t)hp->n_head_kv * hp->head_dim },
		{ &a->v, s->max_rows, (size_t)hp->n_head_kv * hp->head_dim },
		{ &a->att, s->max_rows, (size_t)hp->n_head * hp->head_dim },
		{ &a->gate, s->max_rows, hp->n_ff },
		{ &a->up, s->max_rows, hp->n_ff },
		{ &a->cs, s->max_rows, hp->n_rot },
		{ &a->cs_local, hp->window ? s->max_rows : 0, hp->n_rot },
		{ &a->logits, s->max_logits, hp->n_vocab },
		{ &a->block_max, s->max_logits, logits_blocks(hp->n_vocab) },
		{ &a->part_m, s->max_parts, hp->n_head },
		{ &a->part_l, s->max_parts, hp->n_head },
		{ &a->part_acc, s->max_parts, (size_t)hp->n_head * hp->head_dim },
	};
	int r = 0;

	*a = (struct act){ .n_embd = hp->n_embd,
		           .n_att = (size_t)hp->n_head * hp->head_dim,
		           .n_kv = (size_t)hp->n_head_kv * hp->head_dim,
		           .n_ff = hp->n_ff,
		           .n_vocab = hp->n_vocab,
		           .n_blocks = logits_blocks(hp->n_vocab),
		           .n_rot = hp->n_rot };
	for (size_t i = 0; i < ARRAY_SIZE(floats) && r == 0; i++)
		r = buf(a, floats[i].ret, floats[i].n, floats[i].m, sizeof(float));
	if (r == 0)
		r = buf(a, &a->block_lse, s->max_logits, a->n_blocks, sizeof(double));
	if (r == 0)
		r = buf(a, &a->q16_mem, q16_bytes(align_up(s->max_in, 32), 2 * (size_t)s->max_rows),
		        1, 1);
	if (r == 0 && s->panels)
		r = buf(a, &a->tiles, panel_in_bytes(s->max_in, s->max_rows), 1, 1);
	a->stage_tile = kv_tile_bytes(KV_KV8, hp->head_dim);
	if (r == 0)
		r = buf(a, &a->stage, s->max_rows / KV_PAGE + 1, a->stage_tile, hp->n_head_kv);
	if (r == 0 && s->split_in > 0)
		r = screen_init(a, s);
	if (r < 0)
		return r;
	a->threads = mem_allocn(s->threads, sizeof(*a->threads));
	if (!a->threads)
		return -ENOMEM;
	a->n_threads = s->threads;
	for (uint32_t i = 0; i < s->threads && r == 0; i++)
		r = thread_init(a, &a->threads[i], hp, s);
	return r;
}

void act_deinit(struct act *a)
{
	for (uint32_t i = 0; i < a->n_threads; i++) {
		struct act_thread *t = &a->threads[i];

		for (unsigned j = 0; j < 2; j++) {
			mem_free(t->m[j]);
			mem_free(t->l[j]);
			mem_free(t->acc[j]);
		}
		mem_free(t->scratch);
		mem_free(t->pairs);
		mem_free(t->lo);
		mem_free(t->hi);
		mem_free(t->joined);
		mem_free(t->screen.largest);
		mem_free(t->screen.n);
	}
	mem_free(a->threads);
	mem_free(a->h);
	mem_free(a->x);
	mem_free(a->y);
	mem_free(a->q);
	mem_free(a->k);
	mem_free(a->v);
	mem_free(a->att);
	mem_free(a->gate);
	mem_free(a->up);
	mem_free(a->cs);
	mem_free(a->cs_local);
	mem_free(a->logits);
	mem_free(a->block_max);
	mem_free(a->block_lse);
	mem_free(a->part_m);
	mem_free(a->part_l);
	mem_free(a->part_acc);
	mem_free(a->q16_mem);
	mem_free(a->tiles);
	mem_free(a->stage);
	mem_free(a->screen.t);
	mem_free(a->screen.e);
	mem_free(a->screen.top);
	mem_free(a->screen.floor);
	*a = (struct act){ 0 };
}
