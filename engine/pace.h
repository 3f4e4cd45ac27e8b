/* pace - how many prompt rows go into a step that others' next tokens wait for.
 *
 * A step takes base + unit * work. Work is counted in prompt rows at position 0: what attention
 * adds with the position and what logits add follow from the model's shape; base (a step without
 * prompt rows: reading the weights, decode rows) and unit are measured. Threads: the engine thread
 * only. */
#pragma once
#include <stdbool.h>
#include "model/model.h"

enum { PACE_ROWS = 32 };
struct pace {
	const struct hparams *hp;
	/* multiplications a row: of the layers' matrices; of the output matrix, in rows */
	double matrices, logits;
	double base_s, unit_s;          /* seconds, smoothed; 0 = not measured yet */
	/* a step of x decode rows takes row_s * (shared + x) */
	double row_s, shared, pair_aa, pair_ab, last_s;
	uint32_t last_rows;
	/* seconds of a step of so many decode rows, nearly the least of late; 0 = not measured */
	double step_s[PACE_ROWS + 1];
};
void pace_init(struct pace *p, const struct hparams *hp);       /* hp: borrowed */
/* Work of one prompt row at position pos. */
double pace_row(const struct pace *p, uint32_t pos, bool logits);
/* A step with that much work of prompt rows took so long. */
void pace_learn(struct pace *p, double work, double seconds);
/* Work that fits a step that is to take target_s; 0 when no step with prompt rows was measured yet.
 * Where the base alone takes most of the target, as much again is left for prompts: on slow
 * machines they go on at half speed. */
double pace_budget(const struct pace *p, double target_s);

/* A step of nothing but so many decode rows took so long. */
void pace_learn_rows(struct pace *p, uint32_t rows, double seconds);
/* What a step of so many rows (at most PACE_ROWS) takes where nothing disturbs it: from steps of
 * about that many, since kernels do several rows at once and the cost grows by leaps. 0 when no
 * step was measured yet. */
double pace_step_s(const struct pace *p, uint32_t rows);
bool pace_step_known(const struct pace *p, uint32_t rows);      /* by a step of just that many */
/* What such a step takes, in seconds; 0 when none was measured yet. */
double pace_rows_s(const struct pace *p, uint32_t rows);
/* How many decode rows a step may have that is to take target_s; UINT32_MAX when not measured. */
uint32_t pace_rows_in(const struct pace *p, double target_s);
