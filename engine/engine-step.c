/* engine-step - one step of one lane: choose rows, compute, use their logits.
 *
 * Decode rows come first, one for every running sequence (at most max_seqs, in turns beyond that),
 * then prompt tokens in small portions by sched's shares until the chunk is full.
 * Invariants:
 * 1. Pages and output room are there before a row is chosen; nothing waits after exec_step.
 * 2. Only step_choose_* and the use of rows end or preempt requests; between choosing pages and
 *    building slices no request goes away unseen (its place in engine.rows becomes NULL, or its kv
 *    does).
 * 3. Chunk sizes follow the clock, results do not (exec.h). */
#include <errno.h>
#include <math.h>
#include "base/num.h"
#include "engine/engine-impl.h"

enum {
	QUANTUM = 32,                   /* prompt tokens of one share */
	/* prompt tokens a step however slow the machine is, and while that is not known */
	CHUNK_LEAST = 8,
	CHUNK_LEAST_SHARED = 2,         /* the same beside another uid's decode rows */
};
/* steps between two tokens of others take about this long */
static const double STEP_TARGET_S = 0.1;
/* What prompts may always add to a step, in times of what its decode rows take, so that they go on
 * on slow machines. Beside another uid's rows it is half as much, in more steps: the gap of that
 * uid is to stay well below twice what it was. */
static const double PROMPT_LEAST = 1.0, PROMPT_LEAST_SHARED = 0.5;
/* how much longer a step may take than one with equally many rows of each uid */
static const double EVEN_AND_MORE = 1.25;

struct step {
	uint32_t n_slices, n_prompt, n_logits;
	uint32_t n_decode, n_rows;      /* sequences with a decode row; rows, guesses included */
	double work[EXEC_PATHS];        /* of the prompt rows, as pace counts */
	double prompt_s;                /* what they are thought to take */
	struct sched_step sharing;
	double fair_s;                  /* what one uid's share of the step takes; 0 = not shared */
};

static bool cancelled(struct request_state *s)
{
	return atomic_load_explicit(&s->r->cancel, memory_order_relaxed);
}

static bool has_room(struct request_state *s, uint32_t n_logits)
{
	size_t n = seq_room(s, n_logits);

	return n == 0 || s->r->sink.room(s->r->user, n);
}

static void fail(struct engine *e, struct request_state *s, int code, const char *what)
{
	char label[MODEL_LABEL_MAX];
	struct err err = { 0 };

	err_set(&err, code, "model %s: %s", model_label(s->r->model, label), what);
	engine_finish(e, s, FINISH_ERROR, &err);
}

/* === Choosing === */
/* End cancelled sequences, park those without room; count those with a decode row to do. */
static uint32_t decode_ready(struct engine *e, struct lane *l)
{
	uint32_t n = 0;

	sched_step_begin(&e->sched);
	list_for_safe(&l->seqs, it) {
		struct request_state *s = link_seq(it);

		s->grant = s->n_guess = 0;
		s->guess_waits = false;
		s->ready = s->chosen = false;
		if (cancelled(s)) {
			engine_finish(e, s, FINISH_CANCELLED, NULL);
			continue;
		}
		s->closed = s->sched.parked;
		if (s->closed)
			continue;
		if (engine_take(s) && engine_slide(e, s, s->kv, s->n_done) < 0) {
			fail(e, s, -ENOMEM, "no memory for the window's pages");
			continue;
		}
		if (!seq_is_decode(s)) {
			sched_ready(&s->sched, false);
			continue;
		}
		s->closed = true;
		s->ready = has_room(s, 1);
		if (s->ready) {
			sched_ready(&s->sched, true);
			n++;
		} else {
			engine_park(e, s, seq_room(s, 1));
		}
	}
	return n;
}

/* Do rows of o wait for a step of l that are of another uid? */
static bool lane_waits(const struct lane *o, const struct lane *l)
{
	list_for(&o->seqs, it) {
		const struct request_state *s = link_seq(it);

		if (s->sched.parked || !seq_is_decode(s))
			continue;
		list_for(&l->seqs, jt)
			if (!link_seq(jt)->sched.parked && link_seq(jt)->r->uid != s->r->uid)
				return true;
	}
	return false;
}

/* Where several uids have rows, the step is to take as long as all of them would take one after the
 * other had each only as many as the one with the fewest: that one then gets its share of the time,
 * and the others what is left of it, in turns. Rows share much of a step, so with many uids that
 * would let a few of them double the step of all: hence no more than a little beyond equal numbers
 * of rows, which is many rows where they cost little. Another model's rows of another uid wait for
 * this step as well: then it is to take no longer than theirs. */
static uint32_t fair_rows(const struct engine *e, struct lane *l, struct step *st)
{
	const struct sched_step *sh = &st->sharing;
	bool shared = sh->uids > 1;
	double even_s;

	l->solo_s = sh->users > 0 ? pace_rows_s(&l->pace, sh->least) : 0;
	st->fair_s = l->solo_s;
	list_for(&e->lanes, it) {
		const struct lane *o = container_of(it, struct lane, link);

		if (o == l || o->solo_s <= 0 || !lane_waits(o, l))
			continue;
		shared = true;
		st->fair_s = st->fair_s > 0 ? MIN(st->fair_s, o->solo_s) : o->solo_s;
	}
	if (!shared)
		st->fair_s = 0;
	if (st->fair_s <= 0 || (sh->users < 2 && st->fair_s >= l->solo_s))
		return UINT32_MAX;
	even_s = EVEN_AND_MORE * pace_rows_s(&l->pace, sh->users * sh->least);
	return MAX(pace_rows_in(&l->pace, MIN(sh->users * st->fair_s, even_s)), sh->users);
}

/* Mark `take` of the ready ones: for each uid and client as many as for others. */
static void mark_rows(struct engine *e, struct lane *l, uint32_t take)
{
	for (uint32_t n = 0; n < take; n++) {
		struct request_state *best = NULL;

		list_for(&l->seqs, it) {
			struct request_state *s = link_seq(it);

			if (s->ready && !s->chosen &&
			    sched_row_before(&s->sched, best ? &best->sched : NULL))
				best = s;
		}
		if (!best)
			return;
		best->chosen = true;
		sched_row_taken(&e->sched, &best->sched);
	}
}

/* Up to max_seqs decode rows with pages, oldest first, into engine.rows; guesses where all have
 * theirs. */
static void choose_decode(struct engine *e, struct lane *l, struct step *st)
{
	uint32_t ready = decode_ready(e, l), most, n = 0;

	sched_step_of(&e->sched, &st->sharing);
	most = MIN(e->c.max_seqs, fair_rows(e, l, st));
	mark_rows(e, l, MIN(ready, most));
	list_for(&l->seqs, it)
		if (link_seq(it)->chosen)
			e->rows[n++] = link_seq(it);
	for (uint32_t k = 0; k < n; k++) {
		struct request_state *s = e->rows[k];
		int r = s->kv ? engine_reserve(e, s, s->n_done + 1) : KV_E_FULL;

		if (r < 0) {
			fail(e, s, r, "no memory for the next token");
			e->rows[k] = NULL;
		}
	}
	for (uint32_t k = 0; k < n; k++)
		if (e->rows[k] && e->rows[k]->kv) {
			e->rows[st->n_decode] = e->rows[k];
			e->rows[st->n_decode++]->grant = 1;
		}
	st->n_slices = st->n_rows = st->n_decode;
	if (st->n_decode > 0 && n == ready && most > ready)
		st->n_rows += engine_guess(e, l, st->n_decode, most - ready);
	for (uint32_t k = 0; k < st->n_decode; k++)
		e->rows[k]->grant += e->rows[k]->n_guess;
	st->n_logits = st->n_rows;
}

/* Take up to n more prompt tokens of s into the step. Returns how many; 0 closes it for this
 * step. */
static uint32_t grant_more(struct engine *e, struct step *st, struct request_state *s, uint32_t n)
{
	uint32_t have = seq_logits(s, s->grant), rows, excess;

	n = MIN(n, seq_border(s) - s->n_done - s->grant);
	rows = seq_logits(s, s->grant + n) - have;
	if (st->n_logits + rows > e->max_logits) {
		excess = st->n_logits + rows - e->max_logits;
		n -= MIN(n, excess);
		rows = seq_logits(s, s->grant + n) - have;
	}
	if (rows > 0 && !has_room(s, have + rows)) {
		do {
			n -= DIV_UP(rows, 2u);
			rows = seq_logits(s, s->grant + n) - have;
		} while (rows > 0 && !has_room(s, have + rows));
		if (n == 0 && s->grant == 0)
			engine_park(e, s, seq_room(s, 1));
		else if (rows == 0 && have > 0)
			/* the last answer counts: renew the one for the rows taken before */
			has_room(s, have);
	}
	st->n_logits += rows;
	s->grant += n;
	s->closed = n == 0;
	return n;
}

/* Does anybody's next token wait for this step? */
static bool others_decode(const struct engine *e)
{
	list_for(&e->lanes, it)
		list_for(&container_of(it, struct lane, link)->seqs, jt) {
			const struct request_state *s = link_seq(jt);

			if (!s->sched.parked && seq_is_decode(s))
				return true;
		}
	return false;
}

/* Lanes that compute something: each has a step between two tokens of any. */
static uint32_t busy_lanes(const struct engine *e)
{
	uint32_t n = 0;

	list_for(&e->lanes, it)
		n += container_of(it, struct lane, link)->n_active > 0;
	return MAX(n, 1u);
}

/* Seconds that prompts may add to this step; negative: none. Beside another uid's decode rows they
 * get a share of the time, where theirs is the smaller one, too: each step earns them one, a step
 * with prompt rows spends what it took longer. So few rows, whose step takes long nevertheless,
 * come in some steps only. */
static double prompt_budget(const struct engine *e, struct lane *l, const struct step *st)
{
	double target = STEP_TARGET_S / busy_lanes(e), share;

	if (!others_decode(e))
		return HUGE_VAL;
	if (st->fair_s > 0) {
		share = st->sharing.prompt_users * st->fair_s;
		l->prompt_credit_s = MIN(l->prompt_credit_s + share, share);
		/* a step of nothing would be the last */
		if (l->prompt_credit_s < 0 && st->n_decode > 0)
			return -1;
		target = MIN(target, pace_rows_s(&l->pace, st->n_rows) + share);
	}
	return pace_budget(&l->pace, st->n_rows, target,
	                   st->fair_s > 0 ? PROMPT_LEAST_SHARED : PROMPT_LEAST);
}

/* Work of the next prompt row of s in this step. */
static double next_work(const struct lane *l, const struct request_state *s)
{
	return pace_row(&l->pace, s->n_done + s->grant,
	                seq_logits(s, s->grant + 1) > seq_logits(s, s->grant));
}

/* How many prompt tokens of s go next: a quantum, or what is left of the chunk and of the
 * budget. */
static uint32_t portion(const struct engine *e, const struct lane *l, const struct step *st,
                        const struct request_state *s, double budget)
{
	uint32_t most = MIN(e->c.chunk - st->n_prompt, (uint32_t)QUANTUM);
	uint32_t floor = budget < 0       ? 0
	                 : st->fair_s > 0 ? (uint32_t)CHUNK_LEAST_SHARED
	                                  : (uint32_t)CHUNK_LEAST;
	uint32_t least = st->n_prompt < floor ? floor - st->n_prompt : 0;
	double row_s = pace_seconds(&l->pace, seq_path(s), next_work(l, s)), fit = 0;

	if (row_s > 0)
		fit = (budget - st->prompt_s) / row_s;
	if (fit >= (double)most || budget == HUGE_VAL)
		return most;
	return MIN(most, fit > (double)least ? (uint32_t)fit : least);
}

static void choose_prompts(struct engine *e, struct lane *l, struct step *st)
{
	double budget = prompt_budget(e, l, st);

	for (;;) {
		struct request_state *best = NULL, *lead;
		double work;
		uint32_t n;

		list_for(&l->seqs, it) {
			struct request_state *s = link_seq(it);

			if (!s->closed &&
			    sched_prompt_before(&s->sched, best ? &best->sched : NULL))
				best = s;
		}
		if (!best)
			break;
		lead = engine_lead(l, best);
		if (!lead) {
			best->closed = true;
			continue;
		}
		best = lead;
		n = portion(e, l, st, best, budget);
		if (n == 0)
			break;
		work = next_work(l, best);
		n = grant_more(e, st, best, n);
		if (n > 0)
			sched_charge(&e->sched, &best->sched, n);
		st->n_prompt += n;
		st->work[seq_path(best)] += (double)n * work;
		st->prompt_s += pace_seconds(&l->pace, seq_path(best), (double)n * work);
	}
	list_for(&l->seqs, it) {
		struct request_state *s = link_seq(it);

		if (s->grant > 0 && !seq_is_decode(s))
			e->rows[st->n_slices++] = s;
	}
}

/* Window pages for the rows of each; who cannot have them ends here. */
static void slide(struct engine *e, struct step *st)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < st->n_slices; i++) {
		struct request_state *s = e->rows[i];

		if (engine_slide(e, s, s->kv, s->n_done + s->grant) < 0)
			fail(e, s, -ENOMEM, "no memory for the window's pages");
		else
			e->rows[n++] = s;
	}
	st->n_slices = n;
}

static void build_slices(struct engine *e, const struct step *st)
{
	double now = seq_now();

	for (uint32_t i = 0; i < st->n_slices; i++) {
		struct request_state *s = e->rows[i];

		if (s->t_start == 0)
			s->t_start = now;
		e->slices[i] = (struct exec_slice){
			.kv = s->kv,
			.tokens = s->r->tokens + s->n_done,
			.n = s->grant,
			.pos0 = s->n_done,
			.path = seq_path(s),
			.n_logits = seq_logits(s, s->grant),
			.lse = seq_wants_lse(s),
			.top = seq_top(s),
			.cancel = &s->r->cancel,
		};
	}
}

/* === Using the rows === */
static void eval_chunk(void *arg, uint32_t i, uint32_t thread)
{
	struct row_job *jobs = arg, *j = &jobs[i], *end = j + j->chain;

	(void)thread;
	for (; j < end; j++) {
		j->code = seq_eval_row(j->s, &j->row, j->pos, &j->result);
		j->used = true;
		/* the row after it holds only if this one draws its token */
		if (j->code < 0 || (j + 1 < end && j->result.id != j->s->r->tokens[j->pos + 1]))
			return;
	}
}

static uint32_t collect_jobs(struct engine *e, struct lane *l, const struct step *st)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < st->n_slices; i++) {
		const struct exec_slice *sl = &e->slices[i];
		struct request_state *s = e->rows[i];

		if (sl->cancelled)
			continue;
		s->n_done += sl->n - s->n_guess;
		engine_keep(s);
		for (uint32_t k = 0; k < sl->n_logits; k++) {
			struct row_job *j = &e->jobs[n];

			j->s = s;
			exec_row(l->exec, n, &j->row);
			j->pos = sl->pos0 + sl->n - sl->n_logits + k;
			j->chain = s->n_guess == 0 ? 1 : k == 0 ? sl->n_logits : 0;
			j->used = false;
			n++;
		}
	}
	return n;
}

/* Hand the rows of one sequence to it, in order. */
static void use_rows(struct engine *e, struct request_state *s, const struct row_job *jobs,
                         uint32_t n)
{
	uint32_t n_used = 0;

	while (n_used < n && jobs[n_used].used)
		n_used++;
	if (s->spec && n_used > 0) {
		s->n_done += n_used - 1;
		engine_guessed(e, s, jobs[0].result.id, n_used - 1);
	}
	for (uint32_t i = 0; i < n_used; i++) {
		enum finish finish;
		int r = jobs[i].code;

		if (r == 0)
			r = seq_use_row(s, jobs[i].row.x, jobs[i].pos, &jobs[i].result, &finish);
		if (r == 0)
			continue;
		if (r == SEQ_E_END)
			engine_finish(e, s, finish, NULL);
		else
			fail(e, s, r,
			     r == -EBADMSG
			             ? "the computed logits are not numbers; check the file with "
			               "verify"
			             : "no memory for the generated text");
		return;
	}
}

/* Tokens that came of decode rows. */
static uint32_t count_made(const struct engine *e, uint32_t n_jobs)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < n_jobs; i++)
		n += e->jobs[i].used && e->jobs[i].pos >= e->jobs[i].s->n_path;
	return n;
}

static void use_step(struct engine *e, struct lane *l, const struct step *st)
{
	uint32_t n = collect_jobs(e, l, st), at = 0;

	if (n > 0)
		pool_run(e->pool, eval_chunk, e->jobs, n);
	atomic_fetch_add_explicit(&e->decode_tokens, count_made(e, n), memory_order_relaxed);
	for (uint32_t i = 0; i < st->n_slices; i++) {
		const struct exec_slice *sl = &e->slices[i];

		if (sl->cancelled) {
			engine_finish(e, e->rows[i], FINISH_CANCELLED, NULL);
			continue;
		}
		use_rows(e, e->rows[i], e->jobs + at, sl->n_logits);
		at += sl->n_logits;
	}
}

/* The model's file failed under it: nothing of this lane can be trusted or go on. */
static void poison(struct engine *e, struct lane *l, int code)
{
	static const char what[] =
		"its file was cut, written to or not readable while computing: if it is served in "
		"place, `qllmctl rm` the model and import it again";

	l->poisoned = true;
	list_for_safe(&l->seqs, it)
		fail(e, link_seq(it), code, what);
	list_for_safe(&l->reads, it)
		fail(e, link_seq(it), code, what);
	list_for_safe(&e->waiting, it)
		if (link_seq(it)->lane == l)
			fail(e, link_seq(it), code, what);
}

static void step_failed(struct engine *e, struct lane *l, const struct step *st, int code,
                        const struct err *err)
{
	if (code == -EIO) {
		poison(e, l, code);
		return;
	}
	for (uint32_t i = 0; i < st->n_slices; i++)
		if (code == -ECANCELED || e->slices[i].cancelled)
			engine_finish(e, e->rows[i], FINISH_CANCELLED, NULL);
		else
			fail(e, e->rows[i], code,
			     err->text[0] ? err->text : "the step could not be computed");
}

static void measure(struct lane *l, const struct step *st, double seconds)
{
	if (st->fair_s > 0 && st->n_prompt > 0)
		l->prompt_credit_s -= MAX(seconds - pace_rows_s(&l->pace, st->n_rows), 0.0);
	if (st->n_prompt == 0)
		pace_learn_rows(&l->pace, st->n_rows, seconds);
	else
		pace_learn(&l->pace, st->n_rows, st->work,
		           st->n_prompt < MIN((uint32_t)CHUNK_LEAST, 2 * st->n_rows), seconds);
}

static bool run_step(struct engine *e, struct lane *l)
{
	struct step st = { 0 };
	struct err err = { 0 };
	double t0;
	int r;

	choose_decode(e, l, &st);
	choose_prompts(e, l, &st);
	slide(e, &st);
	if (st.n_slices == 0)
		return false;
	build_slices(e, &st);
	t0 = seq_now();
	r = exec_step(l->exec, e->slices, st.n_slices, &err);
	if (r < 0) {
		step_failed(e, l, &st, r, &err);
		return true;
	}
	atomic_fetch_add_explicit(&e->steps, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->prompt_tokens, st.n_prompt, memory_order_relaxed);
	use_step(e, l, &st);
	measure(l, &st, seq_now() - t0);
	return true;
}

/* One read step of the oldest REQUEST_READ. */
static bool run_read(struct engine *e, struct lane *l)
{
	struct request_state *s;
	double t0;

	while (!list_empty(&l->reads) && cancelled(link_seq(l->reads.next)))
		engine_finish(e, link_seq(l->reads.next), FINISH_CANCELLED, NULL);
	if (list_empty(&l->reads))
		return false;
	s = link_seq(l->reads.next);
	t0 = seq_now();
	s->bytes_read += exec_read_step(l->exec);
	s->read_s += seq_now() - t0;
	if (model_recheck(l->model))
		poison(e, l, -EIO);
	else if (++s->n_out == s->max_out)
		engine_finish(e, s, FINISH_STOP, NULL);
	return true;
}

bool lane_turn(struct engine *e, struct lane *l)
{
	bool read_first = l->read_turn;

	l->read_turn = !l->read_turn;
	if (read_first)
		return run_read(e, l) || run_step(e, l);
	return run_step(e, l) || run_read(e, l);
}
