/* merge - the greedy pair merging both BPE kinds share: always the pair with the lowest key, of
 * equal keys the leftmost. O(n log n) in the symbols of one word. Scratch is kept between words:
 * merge_deinit at the end. */
#pragma once
#include "text/vocab.h"

enum { MERGE_NONE = UINT32_MAX };
struct merge_sym {
	uint32_t start;                 /* byte offset in the word */
	uint32_t prev, next;            /* symbols; MERGE_NONE at the ends */
	int32_t id;                     /* token, -1 when the vocabulary has none */
};
struct merge_cand {
	uint64_t key;                   /* priority << 32 | left symbol */
	/* as they were when the candidate was made: else it is stale */
	uint32_t right, end;
	int32_t id;
};
struct merge {
	const struct vocab *vocab;
	const char *text;               /* the word */
	uint32_t len;
	struct { struct merge_sym *data; size_t n, cap; } sym;
	struct { struct merge_cand *data; size_t n, cap; } heap;
};
/* Priority (lower first) and product of the pair whose text is m->text[start, end); false when it
 * does not merge. */
typedef bool (*merge_pair_fn)(const struct merge *m, int32_t left, int32_t right, uint32_t start,
                              uint32_t end, uint32_t *ret_key, int32_t *ret_id);
/* Append the next symbol of the word. 0 or -ENOMEM. */
int merge_add(struct merge *m, uint32_t start, int32_t id);
/* Merge until no pair is left; then walk from symbol 0 by `next`. 0 or -ENOMEM. */
int merge_run(struct merge *m, merge_pair_fn pair);
/* byte offset where a symbol ends */
uint32_t merge_end(const struct merge *m, uint32_t sym);
void merge_deinit(struct merge *m);
