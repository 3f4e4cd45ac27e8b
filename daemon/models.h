/* models - the catalogue: which models there are, who sees them, which are loaded and who uses
 * them. Main thread only.
 *
 * An entry is used by calls (models_acquire/release); a used entry is neither unloaded nor removed
 * (-EBUSY), so nothing that a call touches goes away under it. Loading runs on `prep`; calls that
 * need the model wait in the entry's list. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/store.h"
#include "kernels/kvtype.h"

enum entry_state { ENTRY_IMPORTING, ENTRY_IDLE, ENTRY_LOADING, ENTRY_LOADED };
struct entry {
	struct list link;               /* in order of name, then owner */
	/* constant from import on: any thread while the entry is used */
	struct store_meta meta;
	enum entry_state state;
	char *fault;                    /* why it cannot be used, NULL = fine as far as known */
	struct model *model;            /* while LOADED */
	enum kv_type kv_type;           /* of its KV pages; set before LOADING */
	uint32_t ctx;                   /* positions a request may use */
	unsigned users;
	bool pinned;
	uint64_t idle_since_us;
	double load_s;
	struct list waiters;            /* struct call.waiting */
	struct load *load;              /* while LOADING */
	bool asked_again;               /* an outdated packed file was told of, once */
	int packed_fd;                  /* its packed form, in place once nobody uses it; or -1 */
	struct models *models;
};
int models_new(struct models **ret, struct daemon *d, struct err *err);
/* To the log, with the model and its owner as fields: "model NAME" and the text. id may be NULL. */
void models_say(const struct entry *e, enum log_level level, const char *id, const char *format,
                ...) __attribute__((format(printf, 4, 5)));
struct models *models_free(struct models *m);   /* no calls left */
struct store *models_store(struct models *m);
struct list *models_list(struct models *m);     /* struct entry.link */

/* The model of that name which the call's user sees: own, then shared, then (admin) anybody's.
 * NULL: none, then the call has been failed with class 4 (2 for what is no name; 5 where the
 * message is for owners and admins only: msg.c). */
struct entry *models_find(struct call *c, const char *name);
bool models_visible(const struct entry *e, uid_t uid, bool admin);
/* Do users of the model take prompts from each other (models.share_prompts)? */
bool models_share_prompts(const struct entry *e);
bool models_may_change(const struct entry *e, const struct call *c);
/* A new entry in state IMPORTING; takes name and path of *meta over on success. -EEXIST,
 * -ENOMEM. */
int models_add(struct models *m, struct store_meta *meta, struct entry **ret);
/* from the catalogue (import failed, removed); unused and not loaded */
void models_drop(struct entry *e);

/* Look at the file of a loaded model: true, and e->fault says why, when it is not what was mapped
 * or has no name left. Requests that run on a replaced file end well: its bytes are still there;
 * new ones fail, and the model is unloaded when nobody uses it. */
bool models_look(struct entry *e);
void models_acquire(struct entry *e);
void models_release(struct entry *e);
/* Pin entry `name` to c->entry[slot] and a reference to c->model[slot], loading first where needed;
 * then `then`. Any failure replies and ends the call. */
void call_with_model(struct call *c, const char *name, unsigned slot, call_then_fn then);
/* The type that `kv` names is the one of entry e when call_with_model comes back: an unused model
 * that is loaded with another goes first. NULL or "": whatever it has. It stays until another is
 * asked for. False: the call has been failed. */
bool models_want_kv(struct call *c, struct entry *e, const char *kv);
/* The type that `kv` names, otherwise (NULL, "") that of e. False: as above. */
bool models_kv(struct call *c, const struct entry *e, const char *kv, enum kv_type *ret);
/* As above, but neither loads nor gives a reference: for show, estimate. */
bool call_with_entry(struct call *c, const char *name, unsigned slot);
/* The packed file that a job has made of it (consumed) takes the place of its own: now, or as soon
 * as nobody uses the model. */
int models_adopt(struct entry *e, int fd, struct err *err);
/* req-models.c: the end of an import that was waited for; note may be NULL. */
void models_reply_import(struct entry *e, struct call *c, const char *note);
/* -ENODATA not loaded, -EBUSY in use. */
int models_unload(struct entry *e, struct err *err);
/* Unload what was idle for too long. Returns when the next one will have been (CLOCK_MONOTONIC), or
 * UINT64_MAX. */
uint64_t models_tick(struct models *m, uint64_t now_us);
