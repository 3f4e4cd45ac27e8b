/* mbox - many-to-one queue between threads with an eventfd of its own process. Items are intrusive.
 * Push from any thread; pop from one. The eventfd becomes readable when the box turns non-empty. */
#pragma once
#include <stdbool.h>
#include "base/list.h"

struct mbox;
int mbox_new(struct mbox **ret);
/* items left are the caller's loss: pop first */
struct mbox *mbox_free(struct mbox *m);
void mbox_push(struct mbox *m, struct list *item);
struct list *mbox_pop(struct mbox *m);                  /* NULL when empty; FIFO */
/* An item that was pushed and not popped: it will not be. */
void mbox_take_back(struct mbox *m, struct list *item);
bool mbox_waits(struct mbox *m);                        /* items lie there; any thread */
/* for poll/sd-event; drained by mbox_pop returning NULL */
int mbox_fd(const struct mbox *m);
/* Sleep until non-empty or timeout_ms (-1 = for ever); 1 = items, 0 = timed out. Consumer thread
 * only. */
int mbox_wait(struct mbox *m, int timeout_ms);
