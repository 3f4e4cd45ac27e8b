/* jobs - the queue and the life of each job.
 *
 * 1. state RUNNING <=> worker != NULL <=> entry is held, so that a model under work cannot be
 *    removed. n_running counts them.
 * 2. A job is charged <=> its state is none of the final ones.
 * 3. The file is written by one thread, one text a job at a time; a change meanwhile makes another
 *    round. Replies that promise a state wait for the disk.
 * 4. Packing for which nobody waits begins when no request runs, or after HOLD_MAX_S: its reads and
 *    writes would cost the first tokens more than it costs to be late. The worker itself runs at
 *    idle priority, whatever begins meanwhile.
 * 5. A job leaves the list only when it is final, has no calls, and is not being written. */
#include "daemon/jobs.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include "base/fd.h"
#include "base/log.h"
#include "base/num.h"
#include "daemon/journal.h"
#include "daemon/models.h"
#include "daemon/spawn.h"

enum { FAILURES_MAX = 3, SAVE_WAIT_S = 10, HOLD_LOOK_MS = 500, HOLD_MAX_S = 120 };

struct jobs {
	struct daemon *d;
	int dir;                        /* STATE/jobs */
	struct list list;
	struct workers *disk;
	uint64_t last_id;
	unsigned n_running;
	uid_t last_uid;                 /* whose job was started last */
	/* armed while a job waits for a worker to be had, or gives way */
	sd_event_source *retry;
};

static void kick(struct jobs *js);

struct list *jobs_list(struct jobs *js)
{
	return &js->list;
}

bool job_visible(const struct job *j, const struct call *c)
{
	return c->admin || j->rec.uid == c->user->uid;
}

struct job *jobs_find(struct jobs *js, uint64_t id, const struct call *c)
{
	list_for (&js->list, it) {
		struct job *j = container_of(it, struct job, link);

		if (j->rec.id == id)
			return job_visible(j, c) ? j : NULL;
	}
	return NULL;
}

double job_eta(const struct job *j)
{
	double spent = (double)(daemon_now_us() - j->begun_us) / 1e6;

	if (j->rec.state != JOB_RUNNING || j->done == 0 || j->done > j->total)
		return -1;
	return spent * (double)(j->total - j->done) / (double)j->done;
}

/* --- saving ----------------------------------------------------------------------------------- */

static void save_run(struct work *w)
{
	struct job *j = container_of(w, struct job, save);
	char name[JOB_FILE_NAME_MAX];

	job_file_name(name, j->rec.id);         /* constant */
	j->save_result = fd_replace_file(j->jobs->dir, name, j->text, strlen(j->text));
	posts_push(j->jobs->d->posts, &j->saved);
}

static void tell_unsaved(const struct job *j, int r)
{
	log_msg(LOG_L_WARN, "job %llu: its state cannot be saved: %s: it is lost at the next end",
	        (unsigned long long)j->rec.id, strerror(-r));
}

static void answer_savers(struct job *j)
{
	while (!list_empty(&j->savers)) {
		struct call *c = container_of(j->savers.next, struct call, waiting);

		list_remove(&c->waiting);
		job_reply_info(j, c);
	}
}

static void job_save(struct job *j)
{
	if (j->text || !j->jobs->disk) {        /* at the end jobs_free writes it */
		j->dirty = true;
		return;
	}
	j->dirty = false;
	j->text = job_record_text(&j->rec);
	if (j->text)
		workers_push(j->jobs->disk, &j->save);
	else
		tell_unsaved(j, -ENOMEM);
}

static void save_done(struct post *p)
{
	struct job *j = container_of(p, struct job, saved);

	free(STEAL(j->text));
	if (j->save_result < 0)
		tell_unsaved(j, j->save_result);
	if (j->dirty)
		job_save(j);
	if (!j->text)
		answer_savers(j);
}

void job_reply_saved(struct job *j, struct call *c)
{
	if (j->text)
		list_append(&j->savers, &c->waiting);
	else
		job_reply_info(j, c);
}

/* --- ends ------------------------------------------------------------------------------------- */

/* An export's is its client's: closing that may hang. */
static void drop_target(struct job *j)
{
	int fd = STEAL_FD(j->target);

	if (fd >= 0 && j->rec.kind == JOB_EXPORT)
		daemon_close_foreign(fd);
	else if (fd >= 0)
		close(fd);
}

static void job_free(struct job *j)
{
	list_remove(&j->link);
	charge_deinit(&j->charge);
	job_record_deinit(&j->rec);
	drop_target(j);
	free(j->text);
	mem_free(j);
}

/* Forget the oldest finished jobs of a user beyond what is kept. */
static void prune(struct jobs *js, uid_t uid)
{
	uint64_t n = 0, keep = js->d->config->kept_per_uid;
	char name[JOB_FILE_NAME_MAX];

	list_for (&js->list, it) {
		const struct job *j = container_of(it, struct job, link);

		n += j->rec.uid == uid && job_state_is_final(j->rec.state);
	}
	list_for_safe (&js->list, it) {
		struct job *j = container_of(it, struct job, link);

		if (n <= keep)
			return;
		if (j->rec.uid != uid || !job_state_is_final(j->rec.state) || j->text ||
		    !list_empty(&j->waiters) || !list_empty(&j->savers))
			continue;
		job_file_name(name, j->rec.id);
		unlinkat(js->dir, name, 0);
		job_free(j);
		n--;
	}
}

static void answer_waiters(struct job *j)
{
	while (!list_empty(&j->waiters)) {
		struct call *c = container_of(j->waiters.next, struct call, waiting);

		list_remove(&c->waiting);
		job_reply(j, c);
	}
}

static void note_line(struct job *j, const char *text)
{
	char line[JOB_TEXT_MAX + 32], when[24] = "";
	time_t now = time(NULL);
	struct tm tm;

	if (gmtime_r(&now, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	snprintf(line, sizeof(line), "%s %s", when, text);
	(void)job_record_log(&j->rec, line);    /* no memory: a line less */
}

/* A state that stays until somebody changes it; `text` is its reason, may be NULL. */
static void settle(struct job *j, enum job_state state, const char *text)
{
	j->rec.state = state;
	snprintf(j->rec.error, sizeof(j->rec.error), "%s", text ? text : "");
	if (job_state_is_final(state)) {
		drop_target(j);
		j->rec.ended = (uint64_t)time(NULL);
		charge_deinit(&j->charge);
	}
	note_line(j, text && text[0] ? text : job_state_name(state));
	log_msg(state == JOB_FAILED ? LOG_L_NOTICE : LOG_L_INFO, "job %llu (%s %s, uid %u) %s%s%s",
	        (unsigned long long)j->rec.id, job_kind_name(j->rec.kind), j->rec.model,
	        (unsigned)j->rec.uid, job_state_name(state), j->rec.error[0] ? ": " : "",
	        j->rec.error);
	metrics_job(j->jobs->d, j->rec.uid, job_kind_name(j->rec.kind), j->rec.model,
	            job_state_name(state), text);
	job_save(j);
	answer_waiters(j);
}

/* The worker has gone, or is let go. */
static void leave_worker(struct job *j)
{
	if (j->worker)
		worker_stop(j->worker);
	j->worker = NULL;
	j->jobs->n_running--;
	models_release(j->entry);
	j->entry = NULL;
}

/* --- what a worker says ----------------------------------------------------------------------- */

static const char *phase_name(Qllm__WorkPhase phase)
{
	switch (phase) {
	case QLLM__WORK_PHASE__WORK_CHECKING: return "checking";
	case QLLM__WORK_PHASE__WORK_SUMMING: return "summing";
	case QLLM__WORK_PHASE__WORK_PACKING: return "packing";
	case QLLM__WORK_PHASE__WORK_WRITING: return "writing";
	default: return "opening";
	}
}

static void on_progress(struct job *j, const Qllm__WorkProgress *p)
{
	j->phase = phase_name(p->phase);
	j->total = p->total;
	j->done = MIN(p->done, p->total);
	j->rec.percent = j->total ? 100.0 * (double)j->done / (double)j->total : 0;
	j->rec.bytes_read = MIN(p->bytes_read, (uint64_t)INT64_MAX);
	j->rec.bytes_written = MIN(p->bytes_written, (uint64_t)INT64_MAX);
	list_for (&j->waiters, it)
		call_progress(container_of(it, struct call, waiting), j->phase, j->done, j->total,
		              "bytes");
}

/* Text of a worker that met a hostile file: printable, cut, valid UTF-8. */
static void take_text(char *to, size_t size, const char *from)
{
	str_escape(to, size, from ? from : "", from ? strlen(from) : 0);
}

static bool on_frame(void *user, const struct frame_in *in)
{
	const Qllm__Frame *f = in->frame;
	struct job *j = user;

	switch (f->body_case) {
	case QLLM__FRAME__BODY_WORK_PROGRESS:
		on_progress(j, f->work_progress);
		return true;
	case QLLM__FRAME__BODY_WORK_LINE:
		if (f->work_line->text)
			note_line(j, f->work_line->text);
		return true;
	case QLLM__FRAME__BODY_WORK_DONE:
		j->verdict = JOB_DONE;
		take_text(j->rec.result, sizeof(j->rec.result), f->work_done->text);
		take_text(j->rec.checksum, sizeof(j->rec.checksum), f->work_done->checksum);
		j->rec.percent = 100;
		j->rec.bytes_read = MIN(f->work_done->bytes_read, (uint64_t)INT64_MAX);
		j->rec.bytes_written = MIN(f->work_done->bytes_written, (uint64_t)INT64_MAX);
		return false;
	default:
		j->verdict = JOB_FAILED;
		take_text(j->rec.error, sizeof(j->rec.error), f->work_failed->text);
		j->errnum = f->work_failed->errnum > 0 && f->work_failed->errnum < 4096
		                    ? -f->work_failed->errnum
		                    : -EIO;
		return false;
	}
}

static void say_died(const struct job *j, const char *text)
{
	struct journal_fields f = { .n = 0 };

	journal_add(&f, "QLLM_JOB", "%llu", (unsigned long long)j->rec.id);
	journal_add(&f, "QLLM_UID", "%u", (unsigned)j->rec.uid);
	journal_add(&f, "QLLM_MODEL", "%s", j->rec.model);
	log_fields(LOG_L_NOTICE, ID_WORKER_DIED, f.f, f.n, "job %llu: %s",
	           (unsigned long long)j->rec.id, text);
}

/* The packed file is whole: it becomes the model's. */
static void adopt(struct job *j, struct entry *e)
{
	struct err err = { 0 };
	int r = models_adopt(e, STEAL_FD(j->target), &err);

	if (r == 0)
		return;
	j->verdict = JOB_FAILED;
	j->errnum = r;
	snprintf(j->rec.error, sizeof(j->rec.error), "%s", err.text);
}

static void on_end(void *user, const char *how)
{
	char text[JOB_TEXT_MAX];
	struct job *j = user;
	struct jobs *js = j->jobs;
	struct entry *e = j->entry;

	j->worker = NULL;               /* it frees itself */
	leave_worker(j);
	if (j->verdict == JOB_DONE && j->rec.kind == JOB_PACK)
		adopt(j, e);
	if (j->verdict != JOB_QUEUED) {
		uid_t uid = j->rec.uid;

		snprintf(text, sizeof(text), "%s", j->rec.error);
		settle(j, j->verdict, j->verdict == JOB_FAILED ? text : NULL);
		prune(js, uid);
	} else if (++j->rec.failures < FAILURES_MAX) {
		snprintf(text, sizeof(text), "worker %u of %d: %s; it is started again",
		         j->rec.failures, FAILURES_MAX, how);
		note_line(j, text);
		say_died(j, text);
		j->rec.state = JOB_QUEUED;
		job_save(j);
	} else {
		snprintf(text, sizeof(text),
		         "its worker ended %d times without a result, at last: %s", FAILURES_MAX,
		         how);
		say_died(j, text);
		j->errnum = -EIO;
		settle(j, JOB_FAILED, text);
		prune(js, j->rec.uid);
	}
	kick(js);
}

static const struct worker_events events = { on_frame, on_end };

/* --- start ------------------------------------------------------------------------------------ */

static struct entry *find_entry(struct jobs *js, const struct job_record *r)
{
	list_for (models_list(js->d->models), it) {
		struct entry *e = container_of(it, struct entry, link);

		if (e->state != ENTRY_IMPORTING && e->meta.shared == r->model_shared &&
		    e->meta.uid == r->model_uid && strcmp(e->meta.name, r->model) == 0)
			return e;
	}
	return NULL;
}

static const Qllm__WorkKind work_kinds[JOB_KINDS] = {
	[JOB_VERIFY] = QLLM__WORK_KIND__WORK_VERIFY,
	[JOB_PACK] = QLLM__WORK_KIND__WORK_PACK,
	[JOB_EXPORT] = QLLM__WORK_KIND__WORK_EXPORT,
};

static int send_job(struct job *j, struct worker *w, const struct entry *e, int model,
                    struct err *err)
{
	struct frame_fds fds = { .fd = { model, j->target }, .n = j->target >= 0 ? 2 : 1 };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__WorkJob m = QLLM__WORK_JOB__INIT;
	int r;

	m.has_job = m.has_kind = true;
	m.job = j->rec.id;
	m.kind = work_kinds[j->rec.kind];
	m.name = j->rec.model;
	m.checksum = e->meta.checksum[0] ? (char *)(uintptr_t)e->meta.checksum : NULL;
	frame.body_case = QLLM__FRAME__BODY_WORK_JOB;
	frame.work_job = &m;
	r = worker_send(w, &frame, &fds);
	if (r == -EPIPE || r == -ECONNRESET)
		return 0;       /* it has ended already: on_end is due */
	return r < 0 ? err_set(err, r, "the job could not be sent: %s", strerror(-r)) : 0;
}

/* Open the job's model, and make its target where that is ours to make. The fd or -errno. */
static int open_files(struct job *j, const struct entry *e, struct err *err)
{
	struct store *store = models_store(j->jobs->d->models);
	int fd;

	if (!e)
		return err_set(err, -ENOENT, "model %s is no longer in the store", j->rec.model);
	if (j->rec.kind == JOB_EXPORT && j->target < 0)
		return err_set(err, -EBADF, "the file to write was closed when the daemon ended: "
		               "export model %s again", j->rec.model);
	fd = store_open_model(store, &e->meta, err);
	if (fd < 0 || j->rec.kind != JOB_PACK)
		return fd;
	drop_target(j);
	j->target = store_make_target(store, &e->meta, err);
	if (j->target >= 0)
		return fd;
	close(fd);
	return err->code;
}

/* Negative: no worker can be had now; the job stays queued. 0: it runs, or has failed. */
static int start(struct job *j)
{
	struct entry *e = find_entry(j->jobs, &j->rec);
	struct err err = { 0 };
	_cleanup_close_ int fd = open_files(j, e, &err);
	struct worker *w = NULL;
	int r;

	if (fd < 0) {
		j->errnum = e ? fd : -EIO;
		settle(j, JOB_FAILED, err.text);
		return 0;
	}
	r = worker_start(&w, j->jobs->d, &events, j, &err);
	if (r == 0)
		r = send_job(j, w, e, fd, &err);
	if (r < 0) {
		if (w)
			worker_stop(w);
		if (!worker_may_come(j->jobs->d, r)) {
			j->errnum = -EIO;
			settle(j, JOB_FAILED, err.text);
			return 0;
		}
		if (strcmp(j->rec.error, err.text) != 0) {
			snprintf(j->rec.error, sizeof(j->rec.error), "%s", err.text);
			note_line(j, err.text);
			log_msg(LOG_L_WARN, "job %llu waits: %s", (unsigned long long)j->rec.id,
			        err.text);
		}
		list_for (&j->waiters, it)
			call_progress(container_of(it, struct call, waiting),
			              "waiting for a worker", 0, 0, "bytes");
		return r;
	}
	models_acquire(e);
	j->jobs->n_running++;
	j->jobs->last_uid = j->rec.uid;
	j->entry = e;
	j->worker = w;
	j->rec.state = JOB_RUNNING;
	j->rec.error[0] = 0;
	j->rec.started = (uint64_t)time(NULL);
	j->verdict = JOB_QUEUED;
	j->phase = "opening";
	j->done = j->total = 0;
	j->begun_us = daemon_now_us();
	note_line(j, job_state_name(JOB_RUNNING));
	metrics_job(j->jobs->d, j->rec.uid, job_kind_name(j->rec.kind), j->rec.model,
	            job_state_name(JOB_RUNNING), NULL);
	job_save(j);
	return 0;
}

/* Requests hold models: for tokens, or until one is loaded. So do jobs. */
static bool is_busy(const struct jobs *js)
{
	unsigned users = 0;

	list_for (models_list(js->d->models), it)
		users += container_of(it, struct entry, link)->users;
	return users > js->n_running;
}

/* It gives way to those who wait. */
static bool is_held(struct job *j, bool busy)
{
	uint64_t now = daemon_now_us();

	if (!busy || j->rec.kind != JOB_PACK || !list_empty(&j->waiters))
		return false;
	if (j->held_since_us == 0) {
		j->held_since_us = now;
		note_line(j, "waits until no request runs");
		job_save(j);
	}
	return now - j->held_since_us < HOLD_MAX_S * UINT64_C(1000000);
}

/* The oldest queued job of the uid that comes next after the last one served, so that who has
 * queued many does not hold up who has queued one. *ret_held: another one gives way. */
static struct job *next_queued(struct jobs *js, bool *ret_held)
{
	const bool busy = is_busy(js);
	struct job *best = NULL;
	uid_t best_turn = 0;

	list_for (&js->list, it) {
		struct job *j = container_of(it, struct job, link);
		uid_t turn = j->rec.uid - js->last_uid - 1;

		if (j->rec.state != JOB_QUEUED)
			continue;
		if (is_held(j, busy)) {
			*ret_held = true;
		} else if (!best || turn < best_turn) {
			best = j;
			best_turn = turn;
		}
	}
	return best;
}

static void retry_after(struct jobs *js, uint64_t us)
{
	sd_event_source_set_time_relative(js->retry, us);
	sd_event_source_set_enabled(js->retry, SD_EVENT_ONESHOT);
}

static void kick(struct jobs *js)
{
	bool held = false;
	struct job *j;

	while (!js->d->draining && js->n_running < js->d->config->max_running &&
	       (j = next_queued(js, &held))) {
		if (start(j) == 0)
			continue;
		retry_after(js, js->d->config->retry_seconds * 1000000);
		return;
	}
	if (held && !js->d->draining)
		retry_after(js, HOLD_LOOK_MS * UINT64_C(1000));
	else
		sd_event_source_set_enabled(js->retry, SD_EVENT_OFF);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *user)
{
	(void)source;
	(void)usec;
	kick(user);
	return 0;
}

/* --- what clients ask ------------------------------------------------------------------------- */

static struct job *job_new(struct jobs *js)
{
	struct job *j = mem_alloc(sizeof(*j));

	if (!j)
		return NULL;
	j->jobs = js;
	j->save.run = save_run;
	j->saved.fn = save_done;
	j->phase = "";
	j->errnum = -EIO;
	j->target = -1;
	list_init(&j->waiters);
	list_init(&j->savers);
	return j;
}

int jobs_add(struct jobs *js, struct job **ret, enum job_kind kind, struct user *user,
             const struct entry *e, int target, struct err *err)
{
	struct job *j = job_new(js);
	int r;

	if (j) {
		prune(js, user->uid);
		r = charge_take(&j->charge, user, CHARGE_JOBS, 1, err);
	} else {
		r = -ENOMEM;
	}
	if (r < 0) {
		if (target >= 0)
			daemon_close_foreign(target);
		mem_free(j);
		return r;
	}
	j->target = target;
	j->rec.id = ++js->last_id;
	j->rec.kind = kind;
	j->rec.state = JOB_QUEUED;
	j->rec.uid = user->uid;
	snprintf(j->rec.model, sizeof(j->rec.model), "%s", e->meta.name);
	j->rec.model_uid = e->meta.uid;
	j->rec.model_shared = e->meta.shared;
	j->rec.created = (uint64_t)time(NULL);
	list_append(&js->list, &j->link);
	note_line(j, job_state_name(JOB_QUEUED));
	job_save(j);
	kick(js);
	*ret = j;
	return 0;
}

static bool packs(struct jobs *js, const struct entry *e)
{
	list_for (&js->list, it) {
		const struct job *j = container_of(it, struct job, link);

		if (j->rec.kind == JOB_PACK && !job_state_is_final(j->rec.state) &&
		    find_entry(js, &j->rec) == e)
			return true;
	}
	return false;
}

void jobs_pack_again(struct jobs *js, const struct entry *e)
{
	struct user *user;
	struct job *j;

	if (!js->d->config->pack || js->d->draining || e->meta.in_place || packs(js, e))
		return;
	user = user_get(&js->d->users, e->meta.uid);
	if (!user)
		return;
	/* no place among the owner's jobs: after the next start, then */
	(void)jobs_add(js, &j, JOB_PACK, user, e, -1, NULL);
	user_put(user);
}

void jobs_pack_store(struct jobs *js)
{
	list_for (models_list(js->d->models), it) {
		const struct entry *e = container_of(it, struct entry, link);

		if (!e->meta.packed)
			jobs_pack_again(js, e);
	}
}

void jobs_forget(struct jobs *js, const struct entry *e)
{
	list_for_safe (&js->list, it) {
		struct job *j = container_of(it, struct job, link);

		if (j->rec.kind == JOB_PACK && !job_state_is_final(j->rec.state) &&
		    find_entry(js, &j->rec) == e)
			(void)job_cancel(j, NULL);
	}
}

void job_wait(struct job *j, struct call *c)
{
	if (job_state_is_final(j->rec.state) || j->rec.state == JOB_PAUSED) {
		job_reply(j, c);
		return;
	}
	list_append(&j->waiters, &c->waiting);
	if (j->rec.state == JOB_QUEUED)
		call_progress(c, j->rec.error[0] ? "waiting for a worker" : "queued", 0, 0,
		              "bytes");
	if (j->held_since_us > 0)
		kick(j->jobs);          /* now somebody waits */
}

/* Runs when the call ends, whatever the reason. */
static void detach(void *data)
{
	struct job *j = data;

	if (j->attached && list_empty(&j->waiters) && !j->jobs->d->draining &&
	    !job_state_is_final(j->rec.state) && j->rec.state != JOB_PAUSED)
		(void)job_cancel(j, NULL);
}

void job_attach(struct job *j, struct call *c)
{
	if (job_state_is_final(j->rec.state)) {         /* the model's file could not be opened */
		job_reply(j, c);
		return;
	}
	j->attached = true;
	c->data = j;
	c->data_free = detach;
	job_wait(j, c);
}

static int wrong_state(const struct job *j, const char *what, struct err *err)
{
	return err_set(err, -ENODATA, "job %llu is %s: it cannot be %s",
	               (unsigned long long)j->rec.id, job_state_name(j->rec.state), what);
}

int job_pause(struct job *j, struct err *err)
{
	if (j->rec.state == JOB_PAUSED)
		return 0;
	if (job_state_is_final(j->rec.state))
		return wrong_state(j, "paused", err);
	if (j->rec.state == JOB_RUNNING)
		leave_worker(j);
	settle(j, JOB_PAUSED, NULL);
	kick(j->jobs);
	return 0;
}

int job_cancel(struct job *j, struct err *err)
{
	if (j->rec.state == JOB_CANCELLED)
		return 0;
	if (job_state_is_final(j->rec.state))
		return wrong_state(j, "cancelled", err);
	if (j->rec.state == JOB_RUNNING)
		leave_worker(j);
	j->errnum = -ECANCELED;
	settle(j, JOB_CANCELLED, NULL);
	kick(j->jobs);
	return 0;
}

int job_resume(struct job *j, struct err *err)
{
	struct jobs *js = j->jobs;
	struct user *user;
	int r;

	if (j->rec.state == JOB_QUEUED || j->rec.state == JOB_RUNNING)
		return 0;
	if (j->rec.state == JOB_DONE)
		return wrong_state(j, "resumed", err);
	if (job_state_is_final(j->rec.state)) {
		user = user_get(&js->d->users, j->rec.uid);
		if (!user)
			return -ENOMEM;
		r = charge_take(&j->charge, user, CHARGE_JOBS, 1, err);
		user_put(user);
		if (r < 0)
			return r;
	}
	j->attached = false;
	j->rec.state = JOB_QUEUED;
	j->rec.error[0] = 0;
	j->rec.failures = 0;
	j->rec.percent = 0;
	j->rec.bytes_read = j->rec.bytes_written = j->rec.ended = 0;
	note_line(j, "resumed: it starts over");
	job_save(j);
	kick(js);
	return 0;
}

/* --- life of the queue ------------------------------------------------------------------------ */

static void insert(struct jobs *js, struct job *j)
{
	struct list *before = &js->list;

	list_for (&js->list, it)
		if (container_of(it, struct job, link)->rec.id > j->rec.id) {
			before = it;
			break;
		}
	list_append(before, &j->link);          /* before that one */
	js->last_id = MAX(js->last_id, j->rec.id);
}

static int load_one(struct jobs *js, const char *name)
{
	struct job *j = job_new(js);
	struct err err = { 0 };
	struct user *user;
	int r;

	if (!j)
		return -ENOMEM;
	r = job_file_read(&j->rec, js->dir, name, &err);
	if (r < 0) {
		char shown[80];

		mem_free(j);
		if (r == -ENOMEM)
			return r;
		log_msg(LOG_L_WARN, "%s/jobs/%s: %s: the job is left out",
		        js->d->config->state_dir,
		        str_escape(shown, sizeof(shown), name, strlen(name)), err.text);
		return 0;
	}
	if (j->rec.state == JOB_RUNNING) {
		j->rec.state = JOB_QUEUED;
		note_line(j, "the daemon ended meanwhile: it starts over");
	}
	insert(js, j);
	user = job_state_is_final(j->rec.state) ? NULL : user_get(&js->d->users, j->rec.uid);
	if (user) {
		charge_force(&j->charge, user, CHARGE_JOBS, 1);
		user_put(user);
	}
	return 0;
}

static int load_all(struct jobs *js)
{
	int fd = fcntl(js->dir, F_DUPFD_CLOEXEC, 3), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (e = readdir(dir))) {
		size_t n = strlen(e->d_name);
		char digits[JOB_FILE_NAME_MAX];
		uint64_t id;

		/* half-written: the whole one is beside it, or never was promised */
		if (e->d_name[0] == '.' && n > 6 && strcmp(e->d_name + n - 5, ".json") == 0)
			unlinkat(js->dir, e->d_name, 0);
		if (n <= 5 || n >= sizeof(digits) || strcmp(e->d_name + n - 5, ".json") != 0)
			continue;
		snprintf(digits, sizeof(digits), "%.*s", (int)(n - 5), e->d_name);
		if (str_to_u64(digits, &id) < 0 || id > INT64_MAX - 1)
			continue;
		/* a file that cannot be read keeps its number */
		js->last_id = MAX(js->last_id, id);
		r = load_one(js, e->d_name);
	}
	closedir(dir);
	return r;
}

static int open_dir(struct jobs *js, struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf path = { 0 };

	if (sbuf_printf(&path, "%s/jobs", js->d->config->state_dir) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	if (mkdir(path.p, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "%s: %s", path.p, strerror(errno));
	js->dir = open(path.p, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return js->dir < 0 ? err_set(err, -errno, "%s: %s", path.p, strerror(errno)) : 0;
}

int jobs_new(struct jobs **ret, struct daemon *d, struct err *err)
{
	struct jobs *js = mem_alloc(sizeof(*js));
	int r;

	if (!js)
		return err_set(err, -ENOMEM, "out of memory");
	js->d = d;
	js->dir = -1;
	list_init(&js->list);
	r = open_dir(js, err);
	if (r == 0)
		r = workers_new(&js->disk, "jobs", 1);
	if (r == 0)
		r = sd_event_add_time_relative(d->event, &js->retry, CLOCK_MONOTONIC, 0, 0,
		                               on_retry, js);
	if (r >= 0)
		r = load_all(js);
	if (r < 0) {
		jobs_free(js);
		return err_set(err, r, "the jobs of %s: %s", d->config->state_dir, strerror(-r));
	}
	*ret = js;
	return 0;
}

void jobs_drain(struct jobs *js)
{
	if (!js)
		return;
	sd_event_source_set_enabled(js->retry, SD_EVENT_OFF);
	list_for (&js->list, it) {
		struct job *j = container_of(it, struct job, link);

		if (j->rec.state == JOB_RUNNING) {
			leave_worker(j);
			j->rec.state = JOB_QUEUED;
		}
		while (!list_empty(&j->waiters)) {
			struct call *c = container_of(j->waiters.next, struct call, waiting);

			list_remove(&c->waiting);
			call_fail_class(c, EXIT_BUSY, -EBUSY,
			                "the daemon is shutting down: job %llu goes on when it is "
			                "back",
			                (unsigned long long)j->rec.id);
		}
	}
}

struct jobs *jobs_free(struct jobs *js)
{
	if (!js)
		return NULL;
	jobs_drain(js);
	workers_reap();
	if (!workers_stop(js->disk, SAVE_WAIT_S)) {
		log_msg(LOG_L_WARN, "the disk of %s does not answer: states of jobs may be lost",
		        js->d->config->state_dir);
		return NULL;                    /* the thread has its fingers in them */
	}
	js->disk = NULL;
	posts_run(js->d->posts);
	list_for_safe (&js->list, it) {
		struct job *j = container_of(it, struct job, link);
		char name[JOB_FILE_NAME_MAX], *text = j->dirty ? job_record_text(&j->rec) : NULL;

		job_file_name(name, j->rec.id);
		if (text)
			(void)fd_replace_file(js->dir, name, text, strlen(text));
		free(text);
		job_free(j);
	}
	sd_event_source_disable_unref(js->retry);
	if (js->dir >= 0)
		close(js->dir);
	return mem_free(js);
}
