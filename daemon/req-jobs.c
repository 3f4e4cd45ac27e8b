/* req-jobs - verify, export, and what clients may do with jobs: list, show, wait, pause, resume,
 * cancel, log.
 *
 * A job that its asker may not see is answered like one that does not exist. */
#include <errno.h>
#include <string.h>
#include "base/num.h"
#include "daemon/dispatch.h"
#include "daemon/jobs.h"
#include "daemon/models.h"

enum { LIST_BYTES = 48 << 10 };

static void fill_info(Qllm__JobInfo *info, const struct job *j)
{
	const struct job_record *r = &j->rec;
	double eta = job_eta(j);

	qllm__job_info__init(info);
	info->has_id = info->has_uid = info->has_percent = info->has_bytes_read =
		info->has_bytes_written = info->has_failures = true;
	info->id = r->id;
	info->kind = (char *)(uintptr_t)job_kind_name(r->kind);
	info->state = (char *)(uintptr_t)job_state_name(r->state);
	info->uid = r->uid;
	info->model = (char *)(uintptr_t)r->model;
	info->percent = r->percent;
	info->bytes_read = r->bytes_read;
	info->bytes_written = r->bytes_written;
	info->has_eta_s = eta >= 0;
	info->eta_s = eta;
	info->error = r->error[0] ? (char *)(uintptr_t)r->error : NULL;
	info->result = r->result[0] ? (char *)(uintptr_t)r->result : NULL;
	info->checksum = r->checksum[0] ? (char *)(uintptr_t)r->checksum : NULL;
	info->failures = r->failures;
	info->phase = r->state == JOB_RUNNING ? (char *)(uintptr_t)j->phase : NULL;
	info->has_created = r->created > 0;
	info->created = r->created;
	info->has_started = r->started > 0;
	info->started = r->started;
	info->has_ended = r->ended > 0;
	info->ended = r->ended;
}

static void reply_list(struct call *c, Qllm__JobInfo **infos, size_t n, bool more)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__JobListReply reply = QLLM__JOB_LIST_REPLY__INIT;

	reply.n_jobs = n;
	reply.jobs = infos;
	reply.has_more = reply.more = more;
	frame.body_case = QLLM__FRAME__BODY_JOB_LIST_REPLY;
	frame.job_list_reply = &reply;
	call_reply(c, &frame, NULL);
}

void job_reply_info(const struct job *j, struct call *c)
{
	Qllm__JobInfo info, *infos[] = { &info };

	fill_info(&info, j);
	reply_list(c, infos, 1, false);
}

/* The import itself has ended well, whatever became of the packing. */
static void reply_import(const struct job *j, struct call *c)
{
	const char *name = c->in.frame->import->name;
	struct entry *e = models_find(c, name);
	char note[JOB_TEXT_MAX + 80] = "";

	if (!e)
		return;                 /* removed meanwhile: it has been told */
	if (j->rec.state != JOB_DONE)
		snprintf(note, sizeof(note), "stored as GGUF, not packed: job %llu %s%s%s",
		         (unsigned long long)j->rec.id, job_state_name(j->rec.state),
		         j->rec.error[0] ? ": " : "", j->rec.error);
	models_reply_import(e, c, note[0] ? note : NULL);
}

void job_reply(const struct job *j, struct call *c)
{
	const struct job_record *r = &j->rec;
	unsigned long long id = (unsigned long long)r->id;

	if (c->in.frame->body_case == QLLM__FRAME__BODY_IMPORT) {
		reply_import(j, c);
		return;
	}
	switch (r->state) {
	case JOB_DONE:
		if (c->in.frame->body_case == QLLM__FRAME__BODY_VERIFY ||
		    c->in.frame->body_case == QLLM__FRAME__BODY_EXPORT)
			call_ok(c, r->result);
		else
			job_reply_info(j, c);
		break;
	case JOB_FAILED:
		call_fail_class(c, EXIT_FAILED, j->errnum, "%s", r->error);
		break;
	case JOB_PAUSED:
		call_fail_class(c, EXIT_NOT_LOADED, -ENODATA,
		                "job %llu is paused: `qllmctl job resume %llu` goes on with it", id,
		                id);
		break;
	default:
		call_fail_class(c, EXIT_FAILED, -ECANCELED, "job %llu was cancelled", id);
		break;
	}
}

/* What fits one frame, in order of id. */
void req_job_list(struct call *c)
{
	const Qllm__JobList *q = c->in.frame->job_list;
	size_t n_jobs = 0, n = 0, bytes = 0;
	_cleanup_mem_ Qllm__JobInfo *infos = NULL;
	_cleanup_mem_ Qllm__JobInfo **ptrs = NULL;
	bool more = false;

	list_for (jobs_list(c->d->jobs), it)
		n_jobs++;
	infos = mem_allocn(n_jobs + 1, sizeof(*infos));
	ptrs = mem_allocn(n_jobs + 1, sizeof(*ptrs));
	if (!infos || !ptrs) {
		call_fail(c, -ENOMEM, NULL);
		return;
	}
	list_for (jobs_list(c->d->jobs), it) {
		const struct job *j = container_of(it, struct job, link);

		if (!job_visible(j, c) || (q->has_after && j->rec.id <= q->after))
			continue;
		more = bytes > LIST_BYTES;
		if (more)
			break;
		fill_info(&infos[n], j);
		bytes += qllm__job_info__get_packed_size(&infos[n]) + 4;
		ptrs[n] = &infos[n];
		n++;
	}
	reply_list(c, ptrs, n, more);
}

static struct job *find(struct call *c, uint64_t id)
{
	struct job *j = jobs_find(c->d->jobs, id, c);

	if (!j)
		call_fail_class(c, EXIT_NO_MODEL, -ENOENT, "no job %llu: see `qllmctl job ls`",
		                (unsigned long long)id);
	return j;
}

void req_job_log(struct call *c)
{
	const struct job *j = find(c, c->in.frame->job_log->job);

	if (j)
		call_reply_text(c, j->rec.log.p ? j->rec.log.p : "", j->rec.log.n);
}

void req_job_do(struct call *c)
{
	const Qllm__JobDo *q = c->in.frame->job_do;
	struct job *j = find(c, q->job);
	struct err err = { 0 };
	int r = 0;

	if (!j)
		return;
	switch (q->verb) {
	case QLLM__JOB_VERB__JOB_SHOW:
		job_reply_info(j, c);
		return;
	case QLLM__JOB_VERB__JOB_WAIT:
		job_wait(j, c);
		return;
	case QLLM__JOB_VERB__JOB_PAUSE:
		r = job_pause(j, &err);
		break;
	case QLLM__JOB_VERB__JOB_RESUME:
		r = job_resume(j, &err);
		break;
	case QLLM__JOB_VERB__JOB_CANCEL:
		r = job_cancel(j, &err);
		break;
	default:
		r = err_set(&err, -EINVAL,
		            "job verb %d: unknown, the daemon may be older than the client",
		            (int)q->verb);
		break;
	}
	if (r < 0)
		call_fail(c, r, &err);
	else
		job_reply_saved(j, c);
}

void req_verify(struct call *c)
{
	const Qllm__Verify *q = c->in.frame->verify;
	struct entry *e = models_find(c, q->model);
	struct err err = { 0 };
	struct job *j;
	int r;

	if (!e)
		return;
	r = jobs_add(c->d->jobs, &j, JOB_VERIFY, c->user, e, -1, &err);
	if (r < 0)
		call_fail(c, r, &err);
	else if (q->detach)
		job_reply_saved(j, c);
	else
		job_attach(j, c);
}

void req_export(struct call *c)
{
	struct entry *e = models_find(c, c->in.frame->export->model);
	struct err err = { 0 };
	struct job *j;
	int r;

	if (!e)
		return;
	/* what the target is, the worker looks at: a file system may hang there */
	r = jobs_add(c->d->jobs, &j, JOB_EXPORT, c->user, e, frame_steal_fd(&c->in, 0), &err);
	if (r < 0)
		call_fail(c, r, &err);
	else
		job_attach(j, c);
}
