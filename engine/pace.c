/* pace - the shape's part is arithmetic, the machine's part two running means.
 *
 * Errors of the measured base do no harm: unit is what is left of the time beyond that same base,
 * so steps come to take the target whatever the base is. A unit that grows counts at once for one
 * half, since a step that is too long hurts others and one that is too short does not. */
#include "engine/pace.h"

#include "base/num.h"

/* A multiplication of attention (floats, from half precision) in those of a prompt's matrices
 * (int8, twice): measured 1.3 (heads of 256) to 2.4 (heads of 64). */
static const double ATTENTION = 2.0;
static const double FALL = 0.25, RISE = 0.5;    /* of a new measurement */

void pace_init(struct pace *p, const struct hparams *hp)
{
	double q = (double)hp->n_head * hp->head_dim, kv = (double)hp->n_head_kv * hp->head_dim;
	double layer = (double)hp->n_embd * (2 * q + 2 * kv) +
	               3.0 * (double)hp->n_embd * (double)hp->n_ff;

	*p = (struct pace){ .hp = hp, .matrices = (double)hp->n_layer * layer };
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

void pace_learn(struct pace *p, double work, double seconds)
{
	if (work <= 0)
		blend(&p->base_s, seconds);
	else
		blend(&p->unit_s, (seconds - MIN(p->base_s, seconds / 2)) / work);
}

double pace_budget(const struct pace *p, double target_s)
{
	return p->unit_s > 0 ? MAX(target_s - p->base_s, p->base_s) / p->unit_s : 0;
}
