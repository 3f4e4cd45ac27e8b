/* mbox - a list under a mutex; the eventfd carries only "not empty", never a count.
 *
 * Invariants (under the lock):
 * 1. A non-empty box has signalled set; signalled means the eventfd holds a value.
 * 2. Only a pop or wait that finds the box empty drains, so a push in between is never
 *    forgotten. */
#include "base/mbox.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>

struct mbox {
	pthread_mutex_t lock;
	struct list items;
	int fd;
	bool signalled;
};

int mbox_new(struct mbox **ret)
{
	_cleanup_mem_ struct mbox *m = mem_alloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->fd < 0)
		return -errno;
	list_init(&m->items);
	pthread_mutex_init(&m->lock, NULL);
	*ret = STEAL(m);
	return 0;
}

struct mbox *mbox_free(struct mbox *m)
{
	if (!m)
		return NULL;
	close(m->fd);
	pthread_mutex_destroy(&m->lock);
	return mem_free(m);
}

void mbox_push(struct mbox *m, struct list *item)
{
	uint64_t one = 1;

	pthread_mutex_lock(&m->lock);
	list_append(&m->items, item);
	if (!m->signalled) {
		m->signalled = true;
		/* Cannot fail: the counter is 0 or 1 and the descriptor is ours alone. */
		while (write(m->fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
	}
	pthread_mutex_unlock(&m->lock);
}

/* Box empty and locked: make the eventfd unreadable. */
static void drain(struct mbox *m)
{
	uint64_t value;

	if (!m->signalled)
		return;
	while (read(m->fd, &value, sizeof(value)) < 0 && errno == EINTR)
		;
	m->signalled = false;
}

struct list *mbox_pop(struct mbox *m)
{
	struct list *item = NULL;

	pthread_mutex_lock(&m->lock);
	if (list_empty(&m->items)) {
		drain(m);
	} else {
		item = m->items.next;
		list_remove(item);
	}
	pthread_mutex_unlock(&m->lock);
	return item;
}

void mbox_take_back(struct mbox *m, struct list *item)
{
	pthread_mutex_lock(&m->lock);
	list_remove(item);
	pthread_mutex_unlock(&m->lock);
}

bool mbox_waits(struct mbox *m)
{
	bool waits;

	pthread_mutex_lock(&m->lock);
	waits = !list_empty(&m->items);
	pthread_mutex_unlock(&m->lock);
	return waits;
}

int mbox_fd(const struct mbox *m)
{
	return m->fd;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int mbox_wait(struct mbox *m, int timeout_ms)
{
	int64_t deadline = timeout_ms < 0 ? 0 : now_ms() + timeout_ms;

	for (;;) {
		struct pollfd pfd = { .fd = m->fd, .events = POLLIN };
		bool empty;
		int left = -1;

		pthread_mutex_lock(&m->lock);
		empty = list_empty(&m->items);
		if (empty)
			drain(m);
		pthread_mutex_unlock(&m->lock);
		if (!empty)
			return 1;
		if (timeout_ms >= 0) {
			int64_t rest = deadline - now_ms();

			left = rest > 0 ? (int)rest : 0;
		}
		if (poll(&pfd, 1, left) == 0)
			return 0;
	}
}
