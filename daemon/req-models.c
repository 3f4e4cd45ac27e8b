/* req-models - list, import, remove. */
#include <errno.h>
#include <malloc.h>
#include <string.h>
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "daemon/dispatch.h"
#include "daemon/jobs.h"
#include "daemon/models.h"

enum { LIST_BYTES = 48 << 10, PATH_LABEL_MAX = 4096 };

static void fill_info(Qllm__ModelInfo *info, struct entry *e)
{
	qllm__model_info__init(info);
	info->has_parameters = info->has_bytes = info->has_loaded = info->has_packed =
		info->has_in_place = true;
	info->has_shared = info->has_uid = true;
	info->name = e->meta.name;
	info->path = e->meta.path;
	info->architecture = e->meta.architecture;
	info->type = e->meta.type;
	info->parameters = e->meta.parameters;
	info->bytes = e->meta.bytes;
	info->loaded = e->state == ENTRY_LOADED;
	info->in_place = e->meta.in_place;
	info->packed = e->meta.packed;
	info->shared = e->meta.shared;
	info->uid = e->meta.uid;
	models_look(e);
	info->fault = e->fault;
}

/* What fits one frame; names that several users gave to their models never lie on both sides of a
 * cut, since `after` could not tell them apart. */
void req_list(struct call *c)
{
	const char *after = c->in.frame->list->after;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__ListReply reply = QLLM__LIST_REPLY__INIT;
	size_t n_entries = 0, n = 0, bytes = 0;
	_cleanup_mem_ Qllm__ModelInfo *infos = NULL;
	_cleanup_mem_ Qllm__ModelInfo **ptrs = NULL;

	list_for(models_list(c->d->models), it)
		n_entries++;
	infos = mem_allocn(n_entries + 1, sizeof(*infos));
	ptrs = mem_allocn(n_entries + 1, sizeof(*ptrs));
	if (!infos || !ptrs) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	list_for(models_list(c->d->models), it) {
		struct entry *e = container_of(it, struct entry, link);

		if (e->state == ENTRY_IMPORTING || !models_visible(e, c->user->uid, c->admin) ||
		    (after && strcmp(e->meta.name, after) <= 0))
			continue;
		if (bytes > LIST_BYTES && strcmp(infos[n - 1].name, e->meta.name) != 0) {
			reply.has_more = reply.more = true;
			break;
		}
		fill_info(&infos[n], e);
		bytes += qllm__model_info__get_packed_size(&infos[n]) + 4;
		ptrs[n] = &infos[n];
		n++;
	}
	reply.n_models = n;
	reply.models = ptrs;
	frame.body_case = QLLM__FRAME__BODY_LIST_REPLY;
	frame.list_reply = &reply;
	call_reply(c, &frame, NULL);
}

/* --- import ----------------------------------------------------------------------------------- */

struct import {
	struct models *models;
	/* worked on by the intake thread; moved into the entry at the end */
	struct store_meta meta;
	struct entry *entry;            /* holds the name meanwhile */
	int fd;
	bool stored;                    /* its files are in the store */
	bool done;
};

static void import_free(void *data)
{
	struct import *im = data;
	struct err err = { 0 };

	if (im->fd >= 0)
		daemon_close_foreign(im->fd);
	/* the client left while the last bytes were written: the name must be free again */
	if (im->stored && !im->done && store_remove(models_store(im->models), &im->meta, &err) < 0)
		log_msg(LOG_L_WARN, "what was imported for nobody stays: %s", err.text);
	if (im->entry && !im->done)
		models_drop(im->entry);
	store_meta_deinit(&im->meta);
	mem_free(im);
}

static int on_copied(void *user, uint64_t done, uint64_t total)
{
	struct call *c = user;

	call_progress(c, "copying", done, total, "bytes");
	return atomic_load(&c->cancel) ? -ECANCELED : 0;
}

static int import_run(struct call *c, struct err *err)
{
	struct import *im = c->data;
	int r = store_import(models_store(im->models), &im->meta, im->fd, on_copied, c, err);

	im->stored = r == 0;
	close(STEAL_FD(im->fd));        /* here, where it may hang */
	/* what parsing a large header has left behind in this thread's arena */
	malloc_trim(0);
	return r;
}

void models_reply_import(struct entry *e, struct call *c, const char *note)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__ListReply reply = QLLM__LIST_REPLY__INIT;
	Qllm__ModelInfo info, *infos[] = { &info };

	fill_info(&info, e);
	reply.n_models = 1;
	reply.models = infos;
	reply.note = (char *)(uintptr_t)note;
	frame.body_case = QLLM__FRAME__BODY_LIST_REPLY;
	frame.list_reply = &reply;
	call_reply(c, &frame, NULL);
}

/* The model is there and can be used; its packed form is a job's matter, and if that fails the
 * model stays as it is. */
static void pack_imported(struct call *c, struct entry *e, bool detached)
{
	char note[ERR_TEXT_MAX + 80];
	struct err err = { 0 };
	struct job *j;
	int r = jobs_add(c->d->jobs, &j, JOB_PACK, c->user, e, -1, &err);

	if (r == 0 && !detached && (j->rec.state != JOB_QUEUED || !j->rec.error[0])) {
		job_wait(j, c);
		return;
	}
	snprintf(note, sizeof(note), "stored as GGUF, not packed: %s",
	         r == 0 && j->rec.error[0] ? j->rec.error : err.text);
	models_reply_import(e, c, detached ? NULL : note);
}

static void import_done(struct call *c)
{
	struct import *im = c->data;
	struct entry *e = im->entry;
	bool detached = c->in.frame->import->detach;

	store_meta_deinit(&e->meta);
	e->meta = im->meta;
	memset(&im->meta, 0, sizeof(im->meta));
	e->state = ENTRY_IDLE;
	im->done = true;
	models_say(e, LOG_L_INFO, NULL, " imported for uid %u%s%s", (unsigned)e->meta.uid,
	           e->meta.shared ? ", shared" : "", e->meta.in_place ? ", in place" : "");
	c->data = NULL;
	c->data_free = NULL;
	import_free(im);
	if (c->d->config->pack && !e->meta.in_place && !e->meta.packed && !c->d->draining)
		pack_imported(c, e, detached);
	else
		models_reply_import(e, c, NULL);
}

static int copy_meta(struct store_meta *to, const Qllm__Import *q, uid_t uid)
{
	*to = (struct store_meta){ .uid = uid, .shared = q->shared, .in_place = q->in_place };
	to->name = mem_strdup(q->name);
	to->path = mem_strdup(q->path ? q->path : "");
	to->architecture = mem_strdup("");
	to->type = mem_strdup("");
	if (to->name && to->path && to->architecture && to->type)
		return 0;
	store_meta_deinit(to);
	return -ENOMEM;
}

void req_import(struct call *c)
{
	const Qllm__Import *q = c->in.frame->import;
	struct store_meta holder;
	struct import *im;
	int r;

	if (!q->name || !str_is_name(q->name)) {
		call_fail_class(
			c, EXIT_USAGE, -EINVAL,
			"a model name is [A-Za-z0-9][A-Za-z0-9._-]{0,63}: give one with --name");
		return;
	}
	if (q->path &&
	    (strlen(q->path) > PATH_LABEL_MAX || !utf8_valid(q->path, strlen(q->path)))) {
		call_fail_class(c, EXIT_USAGE, -EINVAL,
		                "the path is no UTF-8 or longer than %d bytes", PATH_LABEL_MAX);
		return;
	}
	if (q->in_place && !c->admin) {
		call_fail_class(
			c, EXIT_REFUSED, -EPERM,
			"only an administrator may import in place: import without --in-place");
		return;
	}
	if (!call_charge(c, CHARGE_INTAKE, 1))
		return;
	im = mem_alloc(sizeof(*im));
	if (!im || copy_meta(&im->meta, q, c->user->uid) < 0 ||
	    copy_meta(&holder, q, c->user->uid) < 0) {
		if (im)
			store_meta_deinit(&im->meta);
		mem_free(im);
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	im->models = c->d->models;
	im->fd = frame_steal_fd(&c->in, 0);
	c->data = im;
	c->data_free = import_free;
	r = models_add(c->d->models, &holder, &im->entry);
	if (r < 0) {
		store_meta_deinit(&holder);
		call_fail_class(
			c, EXIT_FAILED, r,
			"a model %s is there already: choose another --name or `qllmctl rm` it "
			"first",
			q->name);
		return;
	}
	if (q->detach)
		call_detach(c, "importing");
	call_work(c, c->d->intake, import_run, import_done);
}

void req_remove(struct call *c)
{
	struct entry *e = models_find(c, c->in.frame->remove->model);
	struct err err = { 0 };
	int r = 0;

	if (!e)
		return;
	jobs_forget(c->d->jobs, e);
	if (e->state == ENTRY_LOADED || e->state == ENTRY_LOADING || e->users > 0)
		r = models_unload(e, &err);
	if (r == 0)
		r = store_remove(models_store(c->d->models), &e->meta, &err);
	if (r < 0) {
		call_fail(c, r, &err);
		return;
	}
	models_say(e, LOG_L_INFO, NULL, " removed by uid %u", (unsigned)c->user->uid);
	models_drop(e);
	call_ok(c, NULL);
}
