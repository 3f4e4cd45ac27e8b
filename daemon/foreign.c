/* foreign - see the header. A closing holds a charge for its descriptor from the start and one for
 * its thread from when it gets one; both go when the thread has come back. */
#include "daemon/foreign.h"
#include "base/mem.h"
#include <fcntl.h>
#include <unistd.h>

struct closing {
	struct work work;
	struct post post; /* closed */
	struct posts *posts;
	struct list link; /* user->closings while it waits for a thread */
	int fd;
	struct charge fds, intake;
};

/* daemon_close_foreign is called by frame.c without context */
static struct daemon *the_daemon;
static struct user *owner;

void foreign_init(struct daemon *d)
{
	the_daemon = d;
}

struct user *foreign_owner(struct user *user)
{
	struct user *was = owner;

	owner = user;
	return was;
}

static void closing_run(struct work *w)
{
	struct closing *c = container_of(w, struct closing, work);

	close(c->fd);
	posts_push(c->posts, &c->post);
}

static void start(struct user *user)
{
	while (!list_empty(&user->closings)) {
		struct closing *c = container_of(user->closings.next, struct closing, link);

		/* one is left to the uid's next import */
		if (the_daemon && !charge_fits(user, CHARGE_INTAKE, 2))
			return;
		list_remove(&c->link);
		charge_force(&c->intake, user, CHARGE_INTAKE, 1);
		if (the_daemon) {
			workers_push(the_daemon->intake, &c->work);
			continue;
		}
		close(c->fd);
		c->post.fn(&c->post);
		return; /* the rest went by that */
	}
}

static void on_closed(struct post *p)
{
	struct closing *c = container_of(p, struct closing, post);
	struct user *user = user_ref(c->fds.user);

	charge_deinit(&c->intake);
	charge_deinit(&c->fds);
	mem_free(c);
	if (the_daemon)
		foreign_resume();
	else
		start(user);
	user_put(user);
}

void foreign_resume(void)
{
	if (the_daemon)
		list_for(&the_daemon->users.list, it)
			start(container_of(it, struct user, link));
}

void daemon_close_foreign(int fd)
{
	/* Memory has seals and closes at once; asking does not reach the file system. */
	bool memory = fcntl(fd, F_GET_SEALS) >= 0;
	struct closing *c = the_daemon && owner && !memory ? mem_alloc(sizeof(*c)) : NULL;

	if (!c) {
		close(fd);
		return;
	}
	c->fd = fd;
	c->work.run = closing_run;
	c->post.fn = on_closed;
	c->posts = the_daemon->posts;
	charge_force(&c->fds, owner, CHARGE_FDS, 1);
	list_append(&owner->closings, &c->link);
	start(owner);
}
