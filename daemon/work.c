/* work - a queue under one lock for each group of threads; mbox and its eventfd towards the main
 * loop. */
#include "daemon/work.h"
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include "base/beat.h"
#include "base/mbox.h"
#include "base/mem.h"
#include "base/num.h"

struct posts {
	struct mbox *box;
	sd_event_source *source;
};

static int on_posts(sd_event_source *source, int fd, uint32_t revents, void *user)
{
	(void)source;
	(void)fd;
	(void)revents;
	posts_run(user);
	return 0;
}

int posts_new(struct posts **ret, sd_event *event)
{
	struct posts *p = mem_alloc(sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	r = mbox_new(&p->box);
	if (r == 0)
		r = sd_event_add_io(event, &p->source, mbox_fd(p->box), EPOLLIN, on_posts, p);
	if (r < 0) {
		posts_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

struct posts *posts_free(struct posts *p)
{
	if (!p)
		return NULL;
	sd_event_source_disable_unref(p->source);
	mbox_free(p->box);
	return mem_free(p);
}

void posts_push(struct posts *p, struct post *post)
{
	mbox_push(p->box, &post->link);
}

void posts_take_back(struct posts *p, struct post *post)
{
	mbox_take_back(p->box, &post->link);
}

void posts_run(struct posts *p)
{
	struct list *item;

	while ((item = mbox_pop(p->box))) {
		struct post *post = container_of(item, struct post, link);

		post->fn(post);
	}
}

enum { WORKERS_MAX = 64 };
struct worker {
	struct workers *group;
	pthread_t thread;
	struct beat beat;
	struct beat_watch watch;
	uint64_t cpu_seen;              /* the watchdog's too */
};
struct workers {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct list queue;
	const char *name;
	bool stop;
	/* threads: started, allowed, without work; items in the queue */
	unsigned n, max, n_idle, n_queued;
	struct worker threads[WORKERS_MAX];
};

static void *worker_main(void *arg)
{
	struct worker *self = arg;
	struct workers *w = self->group;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct work *work;

		w->n_idle++;
		while (list_empty(&w->queue) && !w->stop)
			pthread_cond_wait(&w->wake, &w->lock);
		w->n_idle--;
		if (list_empty(&w->queue))
			break;
		work = container_of(w->queue.next, struct work, link);
		list_remove(&work->link);
		w->n_queued--;
		pthread_mutex_unlock(&w->lock);
		beat_busy(&self->beat);
		work->run(work);
		beat_idle(&self->beat);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* Lock held, or before anybody else knows w. */
static int add_thread(struct workers *w)
{
	struct worker *t = &w->threads[w->n];
	int r;

	t->group = w;
	r = pthread_create(&t->thread, NULL, worker_main, t);
	if (r == 0) {
		pthread_setname_np(t->thread, w->name);
		w->n++;
	}
	return -r;
}

int workers_new(struct workers **ret, const char *name, unsigned n_threads)
{
	struct workers *w = mem_alloc(sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	list_init(&w->queue);
	w->name = name;
	w->max = MIN(n_threads, (unsigned)WORKERS_MAX);
	r = add_thread(w);
	if (r < 0) {
		workers_stop(w, 1);
		return r;
	}
	*ret = w;
	return 0;
}

void workers_push(struct workers *w, struct work *work)
{
	pthread_mutex_lock(&w->lock);
	list_append(&w->queue, &work->link);
	w->n_queued++;
	/* Should no further thread start, those that are there come to it. */
	if (w->n_queued > w->n_idle && w->n < w->max && !w->stop)
		(void)add_thread(w);
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

/* 0 when there is no such clock: then the beat alone counts. */
static uint64_t cpu_ns(pthread_t thread)
{
	struct timespec t = { 0 };
	clockid_t clock;

	if (pthread_getcpuclockid(thread, &clock) == 0)
		clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool workers_stuck(struct workers *w)
{
	bool stuck = false;

	pthread_mutex_lock(&w->lock);
	for (unsigned i = 0; i < w->n; i++) {
		struct worker *t = &w->threads[i];
		uint64_t cpu = cpu_ns(t->thread);

		if (!beat_lives(&t->beat, &t->watch, w->n_queued > 0) && cpu == t->cpu_seen)
			stuck = true;
		t->cpu_seen = cpu;
	}
	pthread_mutex_unlock(&w->lock);
	return stuck;
}

bool workers_stop(struct workers *w, unsigned timeout_s)
{
	struct timespec until;

	if (!w)
		return true;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->wake);
	pthread_mutex_unlock(&w->lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_s;
	for (unsigned i = 0; i < w->n; i++)
		if (pthread_timedjoin_np(w->threads[i].thread, NULL, &until) != 0)
			return false;
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	mem_free(w);
	return true;
}
