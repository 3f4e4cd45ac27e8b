/* user - a short list, since a machine has few users that talk to the daemon at once. */
#include "daemon/user.h"
#include "base/mem.h"

void users_init(struct users *u)
{
	list_init(&u->list);
}

struct user *user_ref(struct user *user)
{
	user->refs++;
	return user;
}

struct user *user_get(struct users *u, uid_t uid)
{
	struct user *user;

	list_for(&u->list, it) {
		user = container_of(it, struct user, link);
		if (user->uid == uid)
			return user_ref(user);
	}
	user = mem_alloc(sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	list_append(&u->list, &user->link);
	return user_ref(user);
}

void user_put(struct user *user)
{
	if (--user->refs > 0)
		return;
	list_remove(&user->link);
	mem_free(user);
}
