/* store - models on disk: STATE/models/<uid|shared>/<name>.gguf or, in the packed form,
 * <name>.pack (mode 0444, owned by the daemon), and <name>.json beside it, which holds what `ls`
 * shows and says which of the two it is. A model in place has the .json alone.
 *
 * A model exists when its .json is there: import links the complete, synced .gguf first and the
 * .json last, so that a crash between leaves a .gguf without .json, which the next start removes.
 * Packing links the .pack, writes the .json, and removes the .gguf: after a crash the file that the
 * .json does not name goes.
 * Nothing here is kept in memory. Errors: negative errno with a sentence. Threads: any (no two
 * imports of one name at once: the catalogue sees to it). */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/cleanup.h"
#include "base/err.h"
#include "base/sum.h"

struct store;
struct store_meta {
	char *name, *path, *architecture, *type;        /* mem_alloc'ed; path: where it came from */
	uid_t uid;
	bool shared, in_place, packed;
	uint64_t parameters, bytes;
	char checksum[SUM_TEXT_MAX];                    /* of the GGUF; "": not known */
	uint64_t dev, ino, mtime_ns;                    /* in place: what the file must still be */
};
void store_meta_deinit(struct store_meta *m);

/* Makes the directories, takes the lock (one daemon a state directory: -EBUSY), removes
 * leftovers. */
int store_open(struct store **ret, const char *state_dir, struct err *err);
struct store *store_close(struct store *s);
DEFINE_FREEP(struct store, store_close)
/* Call fn for each model found; fn takes over *meta's strings. */
typedef int (*store_fn)(void *user, struct store_meta *meta);
int store_scan(struct store *s, store_fn fn, void *user, struct err *err);

/* Watch a copy: called now and then with bytes done; negative = give up with that. */
typedef int (*store_progress_fn)(void *user, uint64_t done, uint64_t total);
/* Check and copy (or reflink) what fd holds into the store; or, in place, check that meta->path is
 * that file. Fills architecture, type, parameters, bytes and identity of *meta. fd is not consumed.
 * -EEXIST when there is such a file already. */
int store_import(struct store *s, struct store_meta *meta, int fd, store_progress_fn progress,
                 void *user, struct err *err);
/* The model's file, O_RDONLY; in place: only if it is still the same file. */
int store_open_model(struct store *s, const struct store_meta *meta, struct err *err);
/* 0 when fd is still the file that was imported (always for one of the store); -EIO. */
int store_same_file(const struct store_meta *meta, int fd, struct err *err);
/* A file without a name beside the model's, to be filled for store_switch; fd or -errno. */
int store_make_target(struct store *s, const struct store_meta *meta, struct err *err);
/* Put the packed file that fd holds (from store_make_target, complete; not consumed) in the place
 * of the model's GGUF or outdated packed file, which must be what it was made of: -EBADMSG. *meta
 * follows. Who has mapped the former file keeps its bytes. */
int store_switch(struct store *s, struct store_meta *meta, int fd, struct err *err);
int store_remove(struct store *s, const struct store_meta *meta, struct err *err);
