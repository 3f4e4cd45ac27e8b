/* pace - how many prompt rows go into a step that others' next tokens wait for.
 *
 * A step takes what its decode rows take and the sum of unit * work over the paths (exec.h). Work
 * is counted in prompt rows at position 0: what attention adds with the position and what logits
 * add follow from the model's shape; what decode rows take, and a unit for each path, whose rows
 * differ by two times and more, are measured. Threads: the engine thread only. */
#pragma once
#include <stdbool.h>
#include "engine/exec.h"
#include "model/model.h"

enum { PACE_ROWS = 32 };
struct pace {
	const struct hparams *hp;
	/* multiplications a row: of the layers' matrices; of the output matrix, in rows */
	double matrices, logits;
	double unit_s[EXEC_PATHS];      /* seconds, smoothed; 0 = not measured yet */
	/* a step of x decode rows takes row_s * (shared + x) */
	double row_s, shared, pair_aa, pair_ab, last_s;
	uint32_t last_rows;
	/* seconds of a step of so many decode rows, nearly the least of late; 0 = not measured */
	double step_s[PACE_ROWS + 1];
};
void pace_init(struct pace *p, const struct hparams *hp);       /* hp: borrowed */
/* Work of one prompt row at position pos. */
double pace_row(const struct pace *p, uint32_t pos, bool logits);
/* Seconds that so much work takes; 0 when no step with such rows was measured yet. */
double pace_seconds(const struct pace *p, enum exec_path path, double work);
/* A step of so many decode rows with that much work of prompt rows of each path took so long. few:
 * beside so much else they say little of what one takes, but it is better than nothing known. */
void pace_learn(struct pace *p, uint32_t rows, const double work[EXEC_PATHS], bool few,
                double seconds);
/* Seconds that prompt rows may add to a step of so many decode rows that is to take target_s. Where
 * these alone take most of the target, `least` times what they take is left for prompts, so that
 * they go on on slow machines, too. */
double pace_budget(const struct pace *p, uint32_t rows, double target_s, double least);

/* A step of nothing but so many decode rows took so long. */
void pace_learn_rows(struct pace *p, uint32_t rows, double seconds);
/* What a step of so many rows (at most PACE_ROWS) takes where nothing disturbs it: from steps of
 * about that many, since kernels do several rows at once and the cost grows by leaps. 0 when no
 * step was measured yet. */
double pace_step_s(const struct pace *p, uint32_t rows);
bool pace_step_known(const struct pace *p, uint32_t rows);      /* by a step of just that many */
/* What such a step takes, in seconds; 0 when none was measured yet, and of no rows. */
double pace_rows_s(const struct pace *p, uint32_t rows);
/* How many decode rows a step may have that is to take target_s; UINT32_MAX when not measured. */
uint32_t pace_rows_in(const struct pace *p, double target_s);
