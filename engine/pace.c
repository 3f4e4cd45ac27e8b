/* pace - the shape's part is arithmetic, the machine's part running means.
 *
 * Errors of what decode rows are thought to take do no harm: unit is what is left of the time
 * beyond just that, so steps come to take the target whatever it is. A unit that grows counts at
 * once for one half, since a step that is too long hurts others and one that is too short does
 * not. */
#include "engine/pace.h"

#include "base/num.h"

/* A multiplication of attention (floats, from half precision) in those of a prompt's matrices
 * (int8): half of it was measured as 1.3 (heads of 256) to 2.4 (heads of 64) on rows of twice the
 * products. */
static const double ATTENTION = 4.0;
static const double KEEP = 0.9;         /* of the record of pairs of steps */
static const double SHARED_MOST = 32;   /* rows */
/* what a further row adds to a step of one, until that is measured */
static const double ROW_PART = 0.4;
static const double FALL = 0.25, RISE = 0.5;    /* of a new measurement */

void pace_init(struct pace *p, const struct hparams *hp)
{
	double q = (double)hp->n_head * hp->head_dim, kv = (double)hp->n_head_kv * hp->head_dim;
	double layer = (double)hp->n_embd * (2 * q + 2 * kv) +
	               3.0 * (double)hp->n_embd * (double)hp->n_ff;

	*p = (struct pace){ .hp = hp, .matrices = (double)hp->n_layer * layer };
	/* until steps tell: they share as much as one row takes */
	p->shared = 1;
	p->pair_aa = p->pair_ab = 0.1;
	p->logits = (double)hp->n_vocab * (double)hp->n_embd / p->matrices;
}

double pace_row(const struct pace *p, uint32_t pos, bool logits)
{
	const struct hparams *hp = p->hp;
	double seen = (double)pos + 1, near = hp->window ? MIN(seen, (double)hp->window) : seen,
	       global = hp->n_layer, sum;

	if (hp->window)
		global = hp->window_period ? hp->n_layer / hp->window_period : 0;
	sum = global * seen + ((double)hp->n_layer - global) * near;
	return 1 + ATTENTION * 2 * (double)hp->n_head * hp->head_dim * sum / p->matrices +
	       (logits ? p->logits : 0);
}

static void blend(double *mean, double x)
{
	double share = x > *mean ? RISE : FALL;

	*mean = *mean > 0 ? (1 - share) * *mean + share * x : x;
}

/* A path that no step had yet takes as long as the slowest that one had: too few rows do little
 * harm. */
double pace_seconds(const struct pace *p, enum exec_path path, double work)
{
	double unit = p->unit_s[path];

	for (unsigned k = 0; k < EXEC_PATHS && p->unit_s[path] <= 0; k++)
		unit = MAX(unit, p->unit_s[k]);
	return unit * work;
}

/* In a step of several paths each was as much slower or faster than thought as the sum was. */
void pace_learn(struct pace *p, uint32_t rows, const double work[EXEC_PATHS], bool few,
                double seconds)
{
	double rest = seconds - MIN(pace_rows_s(p, rows), seconds / 2), sum = 0, thought = 0;
	double unit[EXEC_PATHS];

	for (unsigned k = 0; k < EXEC_PATHS; k++) {
		sum += work[k];
		unit[k] = pace_seconds(p, (enum exec_path)k, 1);
		thought += unit[k] * work[k];
	}
	for (unsigned k = 0; k < EXEC_PATHS; k++)
		if (work[k] > 0 && (!few || p->unit_s[k] <= 0))
			blend(&p->unit_s[k], rest * (thought > 0 ? unit[k] / thought : 1 / sum));
}

double pace_budget(const struct pace *p, uint32_t rows, double target_s, double least)
{
	double base = pace_rows_s(p, rows);

	return MAX(target_s - base, least * base);
}

bool pace_step_known(const struct pace *p, uint32_t rows)
{
	return rows <= PACE_ROWS && p->step_s[rows] > 0;
}

double pace_step_s(const struct pace *p, uint32_t rows)
{
	uint32_t lo = 0, hi = 0;
	double slope;

	for (uint32_t k = MIN(rows, (uint32_t)PACE_ROWS); k > 0 && lo == 0; k--)
		lo = p->step_s[k] > 0 ? k : 0;
	for (uint32_t k = rows; k <= PACE_ROWS && hi == 0; k++)
		hi = p->step_s[k] > 0 ? k : 0;
	if (lo == 0 && hi == 0)
		return 0;
	if (lo == 0)
		return p->step_s[hi];
	if (lo == hi)
		return p->step_s[rows];
	if (hi > 0)
		slope = (p->step_s[hi] - p->step_s[lo]) / (hi - lo);
	else if (lo > 1 && p->step_s[1] > 0)
		slope = (p->step_s[lo] - p->step_s[1]) / (lo - 1);
	else
		slope = p->step_s[lo] * ROW_PART / (1 + ROW_PART * (lo - 1));
	return p->step_s[lo] + MAX(slope, 0.0) * (rows - lo);
}

/* Other programs make steps longer, by much and by chance; so a shorter one counts for half at
 * once, a longer one little. A machine that changes its speed changes all steps: what one kind of
 * step learnt, the others believe by half. Then they differ by what their rows cost. */
static void learn_step(struct pace *p, uint32_t rows, double seconds)
{
	double old, step;

	if (rows == 0 || rows > PACE_ROWS)
		return;
	old = p->step_s[rows];
	if (old <= 0) {
		old = pace_step_s(p, rows);
		p->step_s[rows] = old > 0 ? MIN(seconds, 2 * old) : seconds;
		return;
	}
	step = seconds < old ? (seconds - old) / 2 : (MIN(seconds, 2 * old) - old) / 16;
	for (uint32_t k = 1; k <= PACE_ROWS; k++)
		p->step_s[k] *= 1 + (k == rows ? step : step / 2) / old;
}

/* What the rows of a step share is learnt, in rows, from two steps one after the other that differ
 * much in number: (shared + x1) / (shared + x2) = y1 / y2, by least squares over such pairs. So a
 * machine that becomes slower changes nothing in how many rows are fair. */
void pace_learn_rows(struct pace *p, uint32_t rows, double seconds)
{
	double x1 = p->last_rows, x2 = rows, y1 = p->last_s, y2 = seconds;

	if (x1 > 0 && MAX(x1, x2) >= 1.5 * MIN(x1, x2)) {
		double a = (y1 - y2) / (y1 + y2), b = (y2 * x1 - y1 * x2) / (y1 + y2);

		p->pair_aa = KEEP * p->pair_aa + a * a;
		p->pair_ab = KEEP * p->pair_ab + a * b;
		p->shared = CLAMP(p->pair_ab / p->pair_aa, 0.0, SHARED_MOST);
	}
	p->last_rows = rows;
	p->last_s = seconds;
	learn_step(p, rows, seconds);
	blend(&p->row_s, seconds / (p->shared + x2));
}

double pace_rows_s(const struct pace *p, uint32_t rows)
{
	return rows > 0 ? p->row_s * (p->shared + rows) : 0;
}

uint32_t pace_rows_in(const struct pace *p, double target_s)
{
	double rows = p->row_s > 0 ? target_s / p->row_s - p->shared : (double)UINT32_MAX;

	return rows >= (double)UINT32_MAX ? UINT32_MAX : rows > 0 ? (uint32_t)rows : 0;
}
