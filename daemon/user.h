/* user - what each uid holds: connections and open requests. Main thread only. */
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include "base/list.h"

struct user {
	struct list link;
	uid_t uid;
	/* connections and requests: the record goes with the last */
	uint64_t refs;
	uint64_t connections, requests;
};
struct users {
	struct list list;
};
void users_init(struct users *u);
/* Find or make; takes a reference. NULL: out of memory. */
struct user *user_get(struct users *u, uid_t uid);
struct user *user_ref(struct user *user);
void user_put(struct user *user);
