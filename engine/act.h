/* act - the buffers a step computes in, sized once for max_rows rows. All are 64-byte aligned. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>
#include "base/cleanup.h"
#include "kernels/kernels.h"
#include "model/model.h"

struct act_shape {
	uint32_t max_rows, max_logits, threads;
	/* tokens of an attention task; partial states of split tokens */
	uint32_t block, max_parts;
	size_t max_in;                  /* widest input of a matrix */
	bool panels;                    /* the kernels have panel products */
	/* of the output matrix where it lies in two parts, else 0: elements of a row, bytes of a
	 * group */
	size_t split_in, split_group;
};
enum {
	ACT_PAIRS = 64 << 10,           /* floats */
	ACT_JOINED = 2,                 /* groups */
	SCREEN_TOP = 64,                /* largest logits of a row that a screen can be for */
};
/* What op-logits.c knows of a step's rows while it leaves logits out; NULL where the output matrix
 * is whole. */
struct act_screen {
	float *t, *e;                   /* [max_logits][split_in / 32]: screen_terms() */
	uint32_t *top;                  /* [max_logits]: how many of the largest are wanted */
	_Atomic float *floor;           /* [max_logits]: as many logits known are no less */
	uint32_t rest;                  /* steps to come without a screen */
};
struct act_screen_thread {
	float *largest;                 /* [max_logits][SCREEN_TOP], ascending */
	uint32_t *n;                    /* [max_logits]: of them known */
	uint64_t computed;              /* groups, of each row */
};
struct act_thread {                     /* scratch of one pool thread */
	void *scratch;                  /* for mm */
	/* [ACT_PAIRS]: products of exact rows before both halves are added */
	float *pairs;
	/* states of block * group queries: the merged one and a segment's */
	float *m[2], *l[2], *acc[2];
	uint8_t *lo, *hi;
	/* [ACT_JOINED] groups of the output matrix; NULL where it is whole */
	uint8_t *joined;
	struct act_screen_thread screen;
};
struct act {
	size_t n_embd, n_att, n_kv, n_ff, n_vocab, n_rot;      /* floats of a row */
	float *h, *x, *y;               /* [row][n_embd] */
	/* [kv head][max_rows][group][head_dim]: a KV head's queries lie together */
	float *q;
	float *k, *v;                   /* [row][n_kv] */
	float *att;                     /* [row][n_att] */
	float *gate, *up;               /* [row][n_ff] */
	/* [row][n_rot]: cos, sin pairs of global and windowed layers */
	float *cs, *cs_local;
	float *logits;                  /* [max_logits][n_vocab] */
	/* [max_logits][n_blocks], of the rows of logits (logits.h) */
	float *block_max;
	double *block_lse;
	uint32_t n_blocks;
	float *part_m, *part_l;         /* [part][n_head] */
	float *part_acc;                /* [part][n_att] */
	void *q16_mem;
	/* inputs of panel products, a row at its place (kernels.h); NULL where there are none */
	uint16_t *tiles;
	/* KV8 tiles of one layer, [page of a slice][kv head]: pages that a step fills, but for the
	 * last two of each slice */
	char *stage;
	size_t stage_tile;              /* bytes */
	struct act_screen screen;
	struct act_thread *threads;
	uint32_t n_threads;
	uint64_t bytes;
};
int act_init(struct act *a, const struct hparams *hp, const struct act_shape *s);
void act_deinit(struct act *a);         /* accepts a zeroed act */
