/* models - the catalogue.
 *
 * 1. state LOADED <=> model != NULL; waiters are non-empty only while LOADING.
 * 2. users counts the calls that hold the entry, waiting ones included: an entry with users stays
 *    in the list.
 * 3. The load itself touches only its struct load and the entry's constant meta. */
#include "daemon/models.h"
#include <errno.h>
#include <fnmatch.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "daemon/jobs.h"
#include "daemon/journal.h"

enum { RETRY_US = 1000000 };

struct models {
	struct daemon *d;
	struct store *store;
	enum kv_type kv_type;           /* of models for which none was asked */
	struct list entries;
};
struct load {
	struct work work;
	struct post post;
	struct entry *entry;
	struct model *model;
	enum kv_type kv_type;
	uint32_t ctx;
	int result;
	struct err err;
	uint64_t started_us;
};

static struct entry *entry_free(struct entry *e)
{
	if (e) {
		if (e->packed_fd >= 0)
			close(e->packed_fd);
		store_meta_deinit(&e->meta);
		mem_free(e->fault);
		mem_free(e);
	}
	return NULL;
}

static int cmp_entry(const struct store_meta *a, const struct store_meta *b)
{
	int r = strcmp(a->name, b->name);

	if (r == 0 && a->shared != b->shared)
		return a->shared ? -1 : 1;
	if (r == 0 && !a->shared && a->uid != b->uid)
		return a->uid < b->uid ? -1 : 1;
	return r;
}

int models_add(struct models *m, struct store_meta *meta, struct entry **ret)
{
	struct list *before = &m->entries;
	struct entry *e;

	list_for(&m->entries, it) {
		int r = cmp_entry(meta, &container_of(it, struct entry, link)->meta);

		if (r == 0)
			return -EEXIST;
		if (r < 0) {
			before = it;
			break;
		}
	}
	e = mem_alloc(sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->meta = *meta;
	memset(meta, 0, sizeof(*meta));
	e->models = m;
	e->kv_type = m->kv_type;
	e->packed_fd = -1;
	list_init(&e->waiters);
	list_append(before, &e->link);          /* before that one */
	*ret = e;
	return 0;
}

void models_drop(struct entry *e)
{
	list_remove(&e->link);
	entry_free(e);
}

static int on_found(void *user, struct store_meta *meta)
{
	struct models *m = user;
	struct entry *e;
	int r = models_add(m, meta, &e);

	if (r < 0) {
		store_meta_deinit(meta);
		return r == -EEXIST ? 0 : r;
	}
	e->state = ENTRY_IDLE;
	return 0;
}

int models_new(struct models **ret, struct daemon *d, struct err *err)
{
	struct models *m = mem_alloc(sizeof(*m));
	int r;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	m->d = d;
	list_init(&m->entries);
	r = kv_type_from_name(d->config->kv, &m->kv_type);
	if (r < 0) {
		models_free(m);
		return err_set(err, -EINVAL,
		               "engine.kv = %.20s is no KV type of this build: %s are",
		               d->config->kv, kv_type_names());
	}
	r = store_open(&m->store, d->config->state_dir, err);
	if (r == 0)
		r = store_scan(m->store, on_found, m, err);
	if (r < 0) {
		models_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

struct models *models_free(struct models *m)
{
	if (!m)
		return NULL;
	list_for_safe(&m->entries, it) {
		struct entry *e = container_of(it, struct entry, link);

		model_unref(e->model);
		models_drop(e);
	}
	store_close(m->store);
	return mem_free(m);
}

struct store *models_store(struct models *m)
{
	return m->store;
}

struct list *models_list(struct models *m)
{
	return &m->entries;
}

bool models_visible(const struct entry *e, uid_t uid, bool admin)
{
	return admin || e->meta.shared || e->meta.uid == uid;
}

bool models_may_change(const struct entry *e, const struct call *c)
{
	return c->admin || e->meta.uid == c->user->uid;
}

struct entry *models_find(struct call *c, const char *name)
{
	struct entry *best = NULL;
	int best_rank = 0;

	if (!name || !str_is_name(name)) {
		char shown[80];

		call_fail_class(c, EXIT_USAGE, -EINVAL,
		                "%s is no model name: [A-Za-z0-9][A-Za-z0-9._-]{0,63}",
		                name ? str_escape(shown, sizeof(shown), name, strlen(name))
		                     : "nothing");
		return NULL;
	}
	list_for(&c->d->models->entries, it) {
		struct entry *e = container_of(it, struct entry, link);
		int rank = !e->meta.shared && e->meta.uid == c->user->uid ? 3
		           : e->meta.shared                               ? 2
		           : c->admin                                     ? 1
		                                                          : 0;

		if (e->state != ENTRY_IMPORTING && rank > best_rank &&
		    strcmp(e->meta.name, name) == 0) {
			best = e;
			best_rank = rank;
		}
	}
	if (!best) {
		call_fail_class(c, EXIT_NO_MODEL, -ENOENT,
		                "no model %s: see `qllmctl ls`, or import it", name);
	} else if (c->in.info->perm == PERM_OWNER && !models_may_change(best, c)) {
		call_fail_class(
			c, EXIT_REFUSED, -EPERM,
			"model %s belongs to uid %u: only its owner or an administrator may do "
			"that",
			name, (unsigned)best->meta.uid);
		return NULL;
	}
	return best;
}

bool models_look(struct entry *e)
{
	const char *fault;

	if (e->state != ENTRY_LOADED)
		return false;
	if (weightmap_recheck(e->model->map))
		fault = "its file was cut, written to or not readable while in use";
	else if (weightmap_unlinked(e->model->map))
		fault = "its file was deleted or replaced while in use";
	else
		return false;
	if (!e->fault)
		e->fault = mem_strdup(fault);
	return true;
}

void models_acquire(struct entry *e)
{
	e->users++;
}

bool models_share_prompts(const struct entry *e)
{
	const char *at = e->models->d->config->share_prompts;
	char pattern[256];

	while (*(at += strspn(at, " \t"))) {
		size_t n = strcspn(at, " \t");

		/* what is longer fits no name */
		if (n < sizeof(pattern)) {
			memcpy(pattern, at, n);
			pattern[n] = 0;
			if (fnmatch(pattern, e->meta.name, 0) == 0)
				return true;
		}
		at += n;
	}
	return false;
}

void models_say(const struct entry *e, enum log_level level, const char *id, const char *format,
                ...)
{
	struct journal_fields j = { .n = 0 };
	char text[ERR_TEXT_MAX + 16];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	journal_add(&j, "QLLM_MODEL", "%s", e->meta.name);
	journal_add(&j, "QLLM_UID", "%u", (unsigned)e->meta.uid);
	log_fields(level, id, j.f, j.n, "model %s%s", e->meta.name, text);
}

static int start_load(struct entry *e);

/* Nobody uses it. What was pinned is loaded again, in its new form. */
static int switch_file(struct entry *e, struct err *err)
{
	_cleanup_close_ int fd = STEAL_FD(e->packed_fd);
	bool pinned = e->pinned && e->state == ENTRY_LOADED;
	int r = e->state == ENTRY_LOADED ? models_unload(e, err) : 0;

	if (r == 0)
		r = store_switch(e->models->store, &e->meta, fd, err);
	if (r < 0)
		models_say(e, LOG_L_WARN, NULL, " stays as it is: %s",
		           err->text[0] ? err->text : strerror(-r));
	else
		models_say(e, LOG_L_INFO, NULL, " is packed now: %llu bytes",
		           (unsigned long long)e->meta.bytes);
	if (pinned && !e->models->d->stopping && start_load(e) == 0)
		e->pinned = true;
	return r;
}

int models_adopt(struct entry *e, int fd, struct err *err)
{
	if (e->packed_fd >= 0)
		close(e->packed_fd);
	e->packed_fd = fd;
	return e->users > 0 || e->state == ENTRY_LOADING ? 0 : switch_file(e, err);
}

void models_release(struct entry *e)
{
	struct err err = { 0 };

	e->users--;
	e->idle_since_us = daemon_now_us();
	if (e->users == 0 && e->packed_fd >= 0 && e->state != ENTRY_LOADING)
		(void)switch_file(e, &err);
	if (e->users > 0 || !models_look(e))
		return;
	metrics_fault(e->models->d, e, false, e->fault ? e->fault : "its file is gone");
	models_say(e, LOG_L_ERR, ID_MODEL_FAULT, ": %s", e->fault ? e->fault : "its file is gone");
	models_unload(e, NULL);         /* the next load says what is wrong now */
}

static void hand_out(struct entry *e, struct call *c)
{
	unsigned slot = c->entry[1] == e && !c->model[1] ? 1 : 0;

	c->model[slot] = model_ref(e->model);
	c->then(c);
}

/* Wakes every waiter once; each may end, or wait again elsewhere. */
static void wake_waiters(struct entry *e, int result, const struct err *err)
{
	struct list waiters;

	list_init(&waiters);
	while (!list_empty(&e->waiters)) {
		struct list *it = e->waiters.next;

		list_remove(it);
		list_append(&waiters, it);
	}
	while (!list_empty(&waiters)) {
		struct call *c = container_of(waiters.next, struct call, waiting);

		list_remove(&c->waiting);
		if (result < 0)
			call_fail(c, result == -ENOENT ? -EIO : result, err);
		else
			hand_out(e, c);
	}
}

/* Unload the model that has been idle for longest, to make room for another. */
static bool evict_one(struct models *m)
{
	struct entry *oldest = NULL;

	list_for(&m->entries, it) {
		struct entry *e = container_of(it, struct entry, link);

		if (e->state == ENTRY_LOADED && e->users == 0 && !e->pinned &&
		    (!oldest || e->idle_since_us < oldest->idle_since_us))
			oldest = e;
	}
	return oldest && models_unload(oldest, NULL) == 0;
}

/* An outdated packed file serves as well as ever; a better one is made once nobody waits. */
static void pack_again(struct entry *e)
{
	if (!e->model->pack || !e->model->pack->outdated || e->asked_again || e->meta.in_place)
		return;
	e->asked_again = true;
	models_say(e, LOG_L_INFO, NULL, " was packed by an older qllmd: it is packed anew");
	jobs_pack_again(e->models->d->jobs, e);
}

static void load_done(struct post *p)
{
	struct load *load = container_of(p, struct load, post);
	struct entry *e = load->entry;
	struct daemon *d = e->models->d;

	e->load = NULL;
	if (load->result == -ENOSPC && !d->stopping && evict_one(e->models) && start_load(e) == 0) {
		mem_free(load);
		return;
	}
	e->load_s = (double)(daemon_now_us() - load->started_us) / 1e6;
	models_acquire(e);      /* a waiter's end must not leave it unused under our feet */
	if (load->result == 0) {
		e->model = load->model;
		e->ctx = load->ctx;
		e->state = ENTRY_LOADED;
		mem_free(e->fault);
		e->fault = NULL;
		metrics_loaded(d, e);
		models_say(e, LOG_L_INFO, NULL, " loaded in %.2f s", e->load_s);
		pack_again(e);
	} else {
		e->state = ENTRY_IDLE;
		mem_free(e->fault);
		e->fault = mem_strdup(load->err.text);
		metrics_fault(d, e, true, load->err.text);
		models_say(e, LOG_L_NOTICE, ID_MODEL_FAULT, ": %s", load->err.text);
	}
	wake_waiters(e, load->result, &load->err);
	models_release(e);
	mem_free(load);
	daemon_watch(d);
}

static void load_run(struct work *w)
{
	struct load *load = container_of(w, struct load, work);
	struct daemon *d = load->entry->models->d;
	_cleanup_close_ int fd = store_open_model(load->entry->models->store, &load->entry->meta,
	                                          &load->err);
	_cleanup_(model_unrefp) struct model *m = NULL;

	load->result = fd < 0 ? fd : model_load(&m, fd, load->entry->meta.name, &load->err);
	/* between the look at its identity and the mapping it may have changed once more */
	if (load->result == 0)
		load->result = store_same_file(&load->entry->meta, fd, &load->err);
	if (load->result == 0)
		load->result = engine_prepare(d->engine, m, load->kv_type, &load->err);
	if (load->result == 0) {
		load->ctx = engine_context(d->engine, m);
		load->model = STEAL(m);
	}
	/* what parsing a large vocabulary has left behind in this thread's arena */
	malloc_trim(0);
	posts_push(d->posts, &load->post);
}

static int start_load(struct entry *e)
{
	struct load *load = mem_alloc(sizeof(*load));

	if (!load)
		return -ENOMEM;
	load->entry = e;
	load->kv_type = e->kv_type;
	load->work.run = load_run;
	load->post.fn = load_done;
	load->started_us = daemon_now_us();
	e->load = load;
	e->state = ENTRY_LOADING;
	workers_push(e->models->d->prep, &load->work);
	return 0;
}

bool models_kv(struct call *c, const struct entry *e, const char *kv, enum kv_type *ret)
{
	int r = 0;

	*ret = e->kv_type;
	if (kv && kv[0])
		r = kv_type_from_name(kv, ret);
	if (r == -ENOTSUP)
		call_fail_class(c, EXIT_USAGE, -EINVAL, "KV type %.20s is not built: %s are", kv,
		                kv_type_names());
	else if (r < 0)
		call_fail_class(c, EXIT_USAGE, -EINVAL, "there is no KV type %.20s: %s are built",
		                kv, kv_type_names());
	return r == 0;
}

bool models_want_kv(struct call *c, struct entry *e, const char *kv)
{
	enum kv_type type;

	if (!models_kv(c, e, kv, &type))
		return false;
	if (type == e->kv_type)
		return true;
	if (e->state == ENTRY_LOADING ||
	    (e->state == ENTRY_LOADED && (e->users > 0 || e->pinned))) {
		call_fail_class(c, EXIT_BUSY, -EBUSY,
		                "model %s is in use with KV type %s: unload it first", e->meta.name,
		                kv_type_name(e->kv_type));
		return false;
	}
	if (e->state == ENTRY_LOADED && models_unload(e, NULL) < 0) {
		call_fail(c, -ENOMEM, NULL);
		return false;
	}
	e->kv_type = type;
	return true;
}

bool call_with_entry(struct call *c, const char *name, unsigned slot)
{
	struct entry *e = models_find(c, name);

	if (!e)
		return false;
	models_acquire(e);
	c->entry[slot] = e;
	return true;
}

void call_with_model(struct call *c, const char *name, unsigned slot, call_then_fn then)
{
	struct entry *e;
	int r;

	if (!call_with_entry(c, name, slot))
		return;
	e = c->entry[slot];
	c->then = then;
	if (models_look(e)) {
		call_fail_class(c, EXIT_FAILED, -EIO,
		                "model %s: %s: `qllmctl rm` the model and import it again",
		                e->meta.name, e->fault ? e->fault : "its file is gone");
		return;
	}
	if (e->state == ENTRY_LOADED) {
		hand_out(e, c);
		return;
	}
	if (e->state == ENTRY_IDLE) {
		r = start_load(e);
		if (r < 0) {
			call_fail(c, r, NULL);
			return;
		}
	}
	list_append(&e->waiters, &c->waiting);
}

int models_unload(struct entry *e, struct err *err)
{
	if (e->state == ENTRY_LOADING || e->users > 0)
		return err_set(err, -EBUSY,
		               "model %s is in use by %u requests: try again when they have ended",
		               e->meta.name, e->users);
	if (e->state != ENTRY_LOADED)
		return err_set(err, -ENODATA, "model %s is not loaded", e->meta.name);
	/* The engine holds a reference of its own until it is told; it is NULL at the very end. */
	if (e->models->d->engine && engine_forget(e->models->d->engine, e->model) < 0)
		return err_set(err, -ENOMEM, "no memory to unload model %s: try again",
		               e->meta.name);
	e->model = model_unref(e->model);
	e->state = ENTRY_IDLE;
	e->pinned = false;
	metrics_unloaded(e->models->d, e);
	models_say(e, LOG_L_INFO, NULL, " unloaded");
	return 0;
}

uint64_t models_tick(struct models *m, uint64_t now_us)
{
	uint64_t limit = m->d->config->idle_seconds * 1000000, next = UINT64_MAX;

	list_for(&m->entries, it) {
		struct entry *e = container_of(it, struct entry, link);

		if (e->state != ENTRY_LOADED || e->users > 0 || e->pinned)
			continue;
		if (now_us - e->idle_since_us < limit)
			next = MIN(next, e->idle_since_us + limit);
		else if (models_unload(e, NULL) < 0)
			next = MIN(next, now_us + RETRY_US);
	}
	return next;
}
