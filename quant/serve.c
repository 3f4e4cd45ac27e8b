/* serve - one job over one socket, from its frame to its result.
 *
 * 1. The socket is all that the worker has: it opens no path, and what it may read or write are the
 *    descriptors of the job's frame.
 * 2. Hang-up is the order to stop. A thread of its own waits for it, so that it is seen in the
 *    middle of a long computation; it sets the flag that the job looks at, and ends the process
 *    when the job does not look for too long (a read that hangs).
 * 3. Progress is dropped when the socket is full; the result waits. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include "base/log.h"
#include "proto/hello.h"
#include "quant/cmd.h"

enum {
	START_TIMEOUT_MS = 30000,
	STOP_GRACE_S = 2,
	SEND_TIMEOUT_S = 30,
	PROGRESS_EVERY_MS = 100,
};

struct service {
	int sock;
	uint64_t job;
	atomic_bool cancel;
	int64_t told_ms;                /* of the last progress */
	Qllm__WorkPhase phase;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *watch_main(void *arg)
{
	struct service *s = arg;
	struct pollfd p = { .fd = s->sock, .events = POLLIN | POLLRDHUP };

	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	atomic_store(&s->cancel, true);
	sleep(STOP_GRACE_S);
	fprintf(stderr, "qllm-worker: job %llu did not stop in time after the hang-up\n",
	        (unsigned long long)s->job);
	_exit(EXIT_FAILED);
}

static void on_progress(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                        uint64_t bytes_read)
{
	struct service *s = user;
	int64_t now = now_ms();
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__WorkProgress progress = QLLM__WORK_PROGRESS__INIT;

	if (phase == s->phase && now - s->told_ms < PROGRESS_EVERY_MS)
		return;
	s->phase = phase;
	s->told_ms = now;
	progress.has_phase = progress.has_done = progress.has_total = true;
	progress.has_bytes_read = true;
	progress.phase = phase;
	progress.done = done;
	progress.total = total;
	progress.bytes_read = bytes_read;
	frame.body_case = QLLM__FRAME__BODY_WORK_PROGRESS;
	frame.work_progress = &progress;
	(void)frame_send(s->sock, &frame, NULL, MSG_DONTWAIT);
}

static void on_line(void *user, const char *text)
{
	struct service *s = user;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__WorkLine line = QLLM__WORK_LINE__INIT;

	line.text = (char *)(uintptr_t)text;
	frame.body_case = QLLM__FRAME__BODY_WORK_LINE;
	frame.work_line = &line;
	(void)frame_send(s->sock, &frame, NULL, MSG_DONTWAIT);
}

static int send_result(struct service *s, int result, const struct job_result *ret,
                       const struct err *err)
{
	const struct timeval limit = { .tv_sec = SEND_TIMEOUT_S };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__WorkDone done = QLLM__WORK_DONE__INIT;
	Qllm__WorkFailed failed = QLLM__WORK_FAILED__INIT;

	if (result < 0) {
		failed.has_errnum = true;
		failed.errnum = -result;
		failed.text = err->text[0] ? (char *)(uintptr_t)err->text : strerror(-result);
		frame.body_case = QLLM__FRAME__BODY_WORK_FAILED;
		frame.work_failed = &failed;
	} else {
		done.text = (char *)(uintptr_t)ret->text;
		done.checksum = (char *)(uintptr_t)ret->checksum;
		done.has_bytes_read = done.has_bytes_written = true;
		done.bytes_read = ret->bytes_read;
		done.bytes_written = ret->bytes_written;
		frame.body_case = QLLM__FRAME__BODY_WORK_DONE;
		frame.work_done = &done;
	}
	setsockopt(s->sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return frame_send(s->sock, &frame, NULL, 0);
}

/* The socket: from systemd, or the daemon's end of a pair as stdin. */
static int find_socket(bool *ret_systemd, struct err *err)
{
	int n = sd_listen_fds(1), fd = n > 0 ? SD_LISTEN_FDS_START : STDIN_FILENO;

	if (n < 0 || n > 1)
		return err_set(err, -EINVAL, "%d descriptors were passed, one socket is due", n);
	if (sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 0) <= 0)
		return err_set(err, -EINVAL,
		               "no job socket: `serve` is started by qllmd or systemd; by hand, "
		               "use a command (qllm-worker --help)");
	*ret_systemd = n > 0;
	return fd;
}

/* Without a unit around it the worker steps back by itself. Each may be forbidden; then it works at
 * the priority it has. */
static void step_back(void)
{
	enum { IOPRIO_WHO_PROCESS_ = 1, IOPRIO_IDLE = 3 << 13 };
	const struct sched_param zero = { .sched_priority = 0 };

	(void)sched_setscheduler(0, SCHED_IDLE, &zero);
	(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS_, 0, IOPRIO_IDLE);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* As many descriptors as a job of this kind comes with; what kind it is, work() looks at. */
static int check_fds(struct frame_in *in, struct err *err)
{
	const Qllm__WorkJob *job = in->frame->work_job;
	const struct cmd *cmd = job->has_kind ? cmd_of_kind(job->kind) : NULL;
	unsigned n = in->fds.n;

	if (!cmd || n == cmd->n_fds)
		return 0;
	frame_in_deinit(in);
	return err_set(err, -EPROTO, "the job %s comes with %u descriptors, it has %u", cmd->name,
	               cmd->n_fds, n);
}

static int receive(int sock, struct frame_in *in, struct err *err)
{
	static uint8_t buf[FRAME_MAX + 1];
	struct pollfd p = { .fd = sock, .events = POLLIN };
	int r;

	do
		r = poll(&p, 1, START_TIMEOUT_MS);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return err_set(err, -errno, "waiting for a job: %s", strerror(errno));
	if (r == 0)
		return err_set(err, -ETIMEDOUT, "no job came within %d s", START_TIMEOUT_MS / 1000);
	r = frame_recv(in, sock, MSG_TO_WORKER, MSG_DONTWAIT, buf, err);
	if (r == FRAME_E_EOF || r == FRAME_E_AGAIN)
		return err_set(err, -ECONNRESET, "the daemon hung up before it had sent a job");
	if (r == FRAME_E_UNKNOWN) {
		frame_in_deinit(in);
		return err_set(err, -EPROTO,
		               "the job is of a kind that this worker does not know: daemon and "
		               "worker are of different versions");
	}
	return r < 0 ? r : check_fds(in, err);
}

static int work(struct service *s, const struct frame_in *in, struct err *err)
{
	const Qllm__WorkJob *job = in->frame->work_job;
	const struct cmd *cmd = job->has_kind ? cmd_of_kind(job->kind) : NULL;
	struct job_io io = { &s->cancel, on_progress, on_line, s };
	struct job_result result = { .text = "" };
	struct err why = { 0 };
	pthread_t watch;
	int r;

	s->job = job->job;
	r = pthread_create(&watch, NULL, watch_main, s);
	if (r != 0)
		return err_set(err, -r, "no thread: %s", strerror(r));
	pthread_detach(watch);
	r = cmd ? cmd->serve(in, &io, &result, &why)
	        : err_set(&why, -EINVAL, "this worker has no such kind of job");
	if (atomic_load(&s->cancel))
		return err_set(err, -ECANCELED, "job %llu: the daemon hung up, stopping",
		               (unsigned long long)s->job);
	r = send_result(s, r, &result, &why);
	return r < 0 ? err_set(err, r, "job %llu: its result could not be sent: %s",
	                       (unsigned long long)s->job, strerror(-r))
	             : 0;
}

int serve(void)
{
	static struct service s = { .phase = (Qllm__WorkPhase)-1 };     /* outlives the thread */
	struct frame_in in;
	struct err err = { 0 };
	bool under_systemd = false;
	int r;

	signal(SIGPIPE, SIG_IGN);
	s.sock = r = find_socket(&under_systemd, &err);
	if (r >= 0) {
		if (!under_systemd)
			step_back();
		r = receive(s.sock, &in, &err);
	}
	if (r == 0) {
		r = work(&s, &in, &err);
		frame_in_deinit(&in);
	}
	if (r == 0)
		return EXIT_OK;
	fprintf(stderr, "qllm-worker: %s\n", err.text[0] ? err.text : strerror(-r));
	return EXIT_FAILED;
}
