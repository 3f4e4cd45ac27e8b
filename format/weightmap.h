/* weightmap - one shared read-only mapping of a model file, with the SIGBUS guard.
 *
 * If the file is truncated under the mapping, the first touch beyond its end raises SIGBUS; the
 * guard's handler (installed once, async-signal-safe, chains to the former one for foreign
 * addresses) maps zeros over the rest of the range and sets `poisoned`. What raises no signal - a
 * hole punched into the file, bytes written to it - shows in its times: weightmap_recheck() looks
 * at them and poisons the map likewise. Whoever computes on the map asks weightmap_recheck() after
 * each step and drops the step's results. Refcounted; everything from any thread. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "base/err.h"

struct weightmap;
/* Map the whole regular file behind fd (not consumed) MAP_SHARED, PROT_READ. -EINVAL for what is no
 * regular file. */
int weightmap_open(struct weightmap **ret, int fd, const char *name, struct err *err);
struct weightmap *weightmap_ref(struct weightmap *w);
/* returns NULL; unmaps with the last */
struct weightmap *weightmap_unref(struct weightmap *w);
DEFINE_FREEP(struct weightmap, weightmap_unref)
const uint8_t *weightmap_data(const struct weightmap *w);
uint64_t weightmap_size(const struct weightmap *w);
bool weightmap_poisoned(const struct weightmap *w);
/* The same after a look at the file (one fstat): poisoned too when its size or its time of
 * modification is not what was mapped. */
bool weightmap_recheck(struct weightmap *w);
/* Its last name was removed, or another file was put in its place. The mapping stays whole. */
bool weightmap_unlinked(const struct weightmap *w);
/* Bytes resident now (mincore); used by `ps`. */
uint64_t weightmap_resident(const struct weightmap *w);
/* Read [off, off+n) ahead, in slices, giving up early when *cancel turns true; -EFAULT when the
 * file is shorter now. */
int weightmap_populate(struct weightmap *w, uint64_t off, uint64_t n, const atomic_bool *cancel);
