/* req-load - load, unload, ps. */
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "daemon/dispatch.h"
#include "daemon/models.h"

static void load_ready(struct call *c)
{
	const Qllm__Load *q = c->in.frame->load;
	struct entry *e = c->entry[0];
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__LoadReply reply = QLLM__LOAD_REPLY__INIT;

	if (q->ctx > e->ctx) {
		call_fail_class(
			c, EXIT_REFUSED, -ENOSPC,
			"%u positions were asked for, model and memory budget hold %u: raise "
			"engine.memory or ask for less",
			q->ctx, e->ctx);
		return;
	}
	if (q->pin)
		e->pinned = true;
	reply.has_seconds = reply.has_ctx = reply.has_was_loaded = true;
	reply.was_loaded = c->data != NULL;
	reply.seconds = reply.was_loaded ? 0 : e->load_s;
	reply.ctx = e->ctx;
	frame.body_case = QLLM__FRAME__BODY_LOAD_REPLY;
	frame.load_reply = &reply;
	call_reply(c, &frame, NULL);
}

void req_load(struct call *c)
{
	const Qllm__Load *q = c->in.frame->load;
	struct entry *e = models_find(c, q->model);

	if (!e)
		return;
	if (q->pin && !models_may_change(e, c)) {
		call_fail_class(
			c, EXIT_REFUSED, -EPERM,
			"model %s belongs to uid %u: only its owner or an administrator may pin it",
			e->meta.name, (unsigned)e->meta.uid);
		return;
	}
	if (!models_want_kv(c, e, q->kv))
		return;
	if (e->state == ENTRY_LOADED)
		c->data = e;            /* a mark only: it was there already */
	call_with_model(c, q->model, 0, load_ready);
}

void req_unload(struct call *c)
{
	struct entry *e = models_find(c, c->in.frame->unload->model);
	struct err err = { 0 };
	int r;

	if (!e)
		return;
	r = models_unload(e, &err);
	if (r < 0)
		call_fail(c, r, &err);
	else
		call_ok(c, NULL);
}

static void fill_entry(Qllm__PsEntry *p, const struct call *c, struct entry *e)
{
	struct engine_model_stats stats = { 0 };

	qllm__ps_entry__init(p);
	p->name = e->meta.name;
	p->has_bytes = p->has_references = p->has_pinned = true;
	p->bytes = e->meta.bytes;
	p->references = e->users;
	p->pinned = e->pinned;
	p->kv = (char *)(uintptr_t)kv_type_name(e->kv_type);
	p->state = (char *)(uintptr_t)(e->state == ENTRY_LOADED ? "loaded" : "loading");
	if (e->state != ENTRY_LOADED)
		return;
	engine_model_stats(c->d->engine, e->model, &stats);
	p->has_resident_bytes = p->has_kv_pages = p->has_kv_pages_max = p->has_kv_bytes =
		p->has_idle_s = p->has_ctx = p->has_kv_pages_cached = true;
	p->resident_bytes = weightmap_resident(e->model->map);
	p->kv_pages = stats.kv_pages;
	p->kv_pages_max = stats.kv_pages_max;
	p->kv_pages_cached = stats.kv_cached;
	p->kv_bytes = stats.bytes;
	p->idle_s = e->users ? 0 : (double)(daemon_now_us() - e->idle_since_us) / 1e6;
	p->ctx = e->ctx;
}

enum { PS_MAX = 256 };

void req_ps(struct call *c)
{
	const char *after = c->in.frame->ps->after;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__PsReply reply = QLLM__PS_REPLY__INIT;
	_cleanup_mem_ Qllm__PsEntry *entries = mem_allocn(PS_MAX, sizeof(*entries));
	Qllm__PsEntry *ptrs[PS_MAX];
	size_t n = 0;

	if (!entries) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	list_for(models_list(c->d->models), it) {
		struct entry *e = container_of(it, struct entry, link);

		if ((e->state != ENTRY_LOADED && e->state != ENTRY_LOADING) ||
		    !models_visible(e, c->user->uid, c->admin) ||
		    (after && strcmp(e->meta.name, after) <= 0))
			continue;
		if (n == PS_MAX) {
			reply.has_more = reply.more = true;
			break;
		}
		fill_entry(&entries[n], c, e);
		ptrs[n] = &entries[n];
		n++;
	}
	reply.n_models = n;
	reply.models = ptrs;
	frame.body_case = QLLM__FRAME__BODY_PS_REPLY;
	frame.ps_reply = &reply;
	call_reply(c, &frame, NULL);
}
