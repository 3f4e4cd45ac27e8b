/* batch - the rows of one step: which sequence and position each row is, and how attention is cut
 * into tasks.
 *
 * Rows of a slice are consecutive; slices keep the caller's order. Attention is a fold over
 * segments of SEG_PAGES pages whose bounds are fixed by position, each from a fresh state, merged
 * in ascending order: the same arithmetic whether one task walks all segments of a block of tokens
 * or each segment is a task of its own (`split`, for single tokens). Split tokens of several
 * sequences that share a segment's pages share its task: each page is read once for all of them. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/exec.h"

enum {
	SEG_PAGES = 8,
	SEG_POSITIONS = SEG_PAGES * KV_PAGE,
};
struct batch_slice {
	struct exec_slice *s;
	uint32_t row0, n, pos0;         /* live rows; pos0 is the position of row0 */
	/* pages of all its rows as the step began; the number of the first one's 8-bit tile among
	 * those of the step (OP_QKV) */
	uint32_t page0, page1, stage;
};
struct attn_task {
	/* tokens at rows [row, row + n), the first at position pos; of a split task with n > 1 the
	 * first token of those that its parts name, all of which see the segment whole */
	uint32_t slice, row, n, pos;
	uint32_t seg0, seg1;            /* segments [seg0, seg1) */
	/* states go to the partials from `part` on, else the task finishes its rows */
	bool split;
	uint32_t part;
};
enum { ATTN_NO_PART = -1 };
struct attn_part {                      /* whose state of which task a partial is */
	uint32_t row, task;
	int32_t next;                   /* of the same task, or ATTN_NO_PART */
};
struct attn_split {                     /* partials of a row; n = 0: its task finished it */
	uint32_t part, n;
};
struct attn_tasks {
	struct attn_task *v;
	uint32_t n;
	struct attn_split *split;       /* one a row */
	struct attn_part *parts;        /* [max_parts] */
	bool any_split;
};
struct batch {
	struct batch_slice *slices;
	uint32_t *pos, *token;          /* one a row */
	/* [n_rows + 1]: first row of each in struct q16; an exact row has two there, a prompt row
	 * none where it takes panel products */
	uint32_t *q;
	bool panels;                    /* prompt rows take panel products */
	bool turned;                    /* pages hold turned values (op_turn) */
	uint32_t n_panel;               /* rows that do in this step */
	uint32_t n_slices, n_rows;
	uint32_t max_rows, max_parts;
	uint32_t window, block;         /* of windowed layers; tokens of an attention task */
	struct attn_tasks tasks[2];     /* [windowed] */
};
int batch_init(struct batch *b, uint32_t max_rows, uint32_t max_parts, uint32_t window,
               uint32_t block);
void batch_deinit(struct batch *b);             /* accepts a zeroed batch */
uint64_t batch_bytes(const struct batch *b);
/* Lay out the slices; sum of n <= max_rows (the caller checked). */
void batch_begin(struct batch *b, struct exec_slice *slices, size_t n_slices);
/* Rows dst and src (dst < src) of every array: row src becomes row dst. */
typedef void (*batch_move_fn)(void *arg, uint32_t dst, uint32_t src);
/* Drop the slices whose cancel flag is set (marks them) and close the gaps. Returns the number
 * dropped. */
uint32_t batch_drop_cancelled(struct batch *b, batch_move_fn move, void *arg);
/* Keep only each slice's last n_logits rows. */
void batch_keep_logits(struct batch *b, batch_move_fn move, void *arg);
/* First position that a token at `pos` sees. */
static inline uint32_t batch_first_seen(const struct batch *b, bool windowed, uint32_t pos)
{
	return windowed && b->window && pos >= b->window ? pos - b->window + 1 : 0;
}
