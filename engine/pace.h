/* pace - how many prompt rows go into a step that others' next tokens wait for.
 *
 * A step takes base + unit * work. Work is counted in prompt rows at position 0: what attention
 * adds with the position and what logits add follow from the model's shape; base (a step without
 * prompt rows: reading the weights, decode rows) and unit are measured. Threads: the engine thread
 * only. */
#pragma once
#include "model/model.h"

struct pace {
	const struct hparams *hp;
	/* multiplications a row: of the layers' matrices; of the output matrix, in rows */
	double matrices, logits;
	double base_s, unit_s;          /* seconds, smoothed; 0 = not measured yet */
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
