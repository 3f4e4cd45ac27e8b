/* list - intrusive doubly linked list; a zeroed node is unlinked, a head is list_init'ed. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};
static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}
static inline void list_append(struct list *head, struct list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}
static inline void list_remove(struct list *node)       /* harmless on an unlinked (zeroed) node */
{
	if (!node->next)
		return;
	node->prev->next = node->next;
	node->next->prev = node->prev;
	node->next = node->prev = NULL;
}
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define list_for(head, it) for (struct list *it = (head)->next; it != (head); it = it->next)
/* `it` may be removed inside the loop. */
#define list_for_safe(head, it)                                               \
	for (struct list *it = (head)->next, *next_ = it->next; it != (head); \
	     it = next_, next_ = it->next)
