/* engine-spec - which guesses go into a step, and the draft model that makes some of them.
 *
 * Guesses are taken where the step then makes more tokens for its time: their chances (engine/spec)
 * against what steps of more rows take (engine/pace). So guesses grow longer while they hold, stop
 * where they do not, and vanish by themselves where many sequences fill the step. They come after
 * the first row of everybody, count as rows of their uid, and take neither pages nor room that
 * anybody else could miss.
 *
 * Invariants:
 * 1. A guess changes no byte of an answer: it is checked on the decode path, where a row is the
 *    same in any company, and its draw takes place only if all guesses before it were drawn.
 * 2. n_guess > 0 only between engine_guess and the use of the step's rows; the guesses stand
 *    behind the known tokens, with pages for all of them.
 * 3. draft_done <= n_tokens, and the draft model's pages hold the first draft_done of the known
 *    tokens.
 * 4. Whatever fails in a draft model ends drafting for the sequence, never its answer. */
#include <errno.h>
#include "base/num.h"
#include "engine/engine-impl.h"

enum {
	/* sequences of a draft step */
	GROUP = 16,
	/* known tokens that a draft step takes beside guessing; more are made up for before */
	LAG_MOST = 16,
	/* prompt tokens of a draft model a step, where others wait for it */
	CATCH_UP_SHARED = 32,
	VARY_EVERY = 8,                 /* steps with a guess */
};
static const uint32_t SURE_FEW = 2;
/* chances and costs are estimates: guesses have to make a step that much better */
static const double MARGIN = 1.05;
static const double CHANCE_LEAST = 0.05;
static const double SURE = 0.8;

/* === Draft models === */
void engine_draft_end(struct request_state *s)
{
	if (!s->draft)
		return;
	s->draft->n_requests--;
	s->draft = NULL;
	s->draft_kv = kv_seq_free(s->draft_kv);
	s->draft_done = 0;
}

bool engine_draft_yield(struct engine *e, const struct request_state *s)
{
	bool any = false;

	list_for(&e->lanes, it)
		list_for(&container_of(it, struct lane, link)->seqs, jt) {
			struct request_state *v = link_seq(jt);

			if (!v->draft_kv || (s && v->r->uid != s->r->uid))
				continue;
			any = any || kv_seq_pages(v->draft_kv) > 0;
			engine_draft_end(v);
		}
	return any;
}

/* Seconds of one step of its draft model; until one was measured, as the models' sizes say. */
static double draft_step_s(const struct request_state *s)
{
	const struct lane *d = s->draft, *l = s->lane;

	if (pace_step_s(&d->pace, 1) > 0)
		return pace_step_s(&d->pace, 1);
	return pace_step_s(&l->pace, 1) * (double)d->model->n_bytes / (double)l->model->n_bytes;
}

/* A step of the draft model. False: drafting is over for who cannot go on. */
static bool draft_step(struct engine *e, struct lane *d, struct request_state **group,
                       struct exec_slice *slices, uint32_t n)
{
	int r = 0;

	for (uint32_t i = 0; i < n && r == 0; i++)
		r = engine_slide(e, group[i], group[i]->draft_kv, slices[i].pos0 + slices[i].n);
	if (r == 0)
		r = exec_step(d->exec, slices, n, NULL);
	if (r == 0)
		return true;
	for (uint32_t i = 0; i < n; i++) {
		group[i]->n_guess = 0;
		if (r != -ECANCELED)
			engine_draft_end(group[i]);
	}
	return false;
}

/* Known tokens that the draft model has not seen: in bulk, at most a chunk a step of the lane.
 * False when there are more than drafting takes along. */
static bool draft_follows(struct engine *e, struct request_state *s, bool *bulk)
{
	uint32_t lag = s->n_tokens - s->draft_done, n;
	struct exec_slice slice;
	bool shared;

	if (lag <= LAG_MOST)
		return true;
	if (*bulk)
		return false;
	*bulk = true;
	shared = atomic_load_explicit(&e->n_running, memory_order_relaxed) > 1;
	n = MIN(lag - 1, shared ? MIN((uint32_t)CATCH_UP_SHARED, e->c.chunk) : e->c.chunk);
	slice = (struct exec_slice){
		.kv = s->draft_kv, .tokens = s->r->tokens + s->draft_done, .n = n,
		.pos0 = s->draft_done, .path = PATH_PROMPT, .cancel = &s->r->cancel,
	};
	if (!draft_step(e, s->draft, &s, &slice, 1))
		return false;
	sched_charge(&e->sched, &s->sched, n);
	s->draft_done += n;
	return lag - n <= LAG_MOST;
}

/* Is the draft model of s ready for n_guess guesses? */
static bool draft_ready(struct engine *e, struct request_state *s, bool *bulk)
{
	uint32_t n_ctx = s->draft->model->hp.n_ctx_train, most = s->n_tokens + s->n_guess;

	if (model_poisoned(s->draft->model) || most > n_ctx ||
	    (!s->draft_kv && kv_seq_new(&s->draft_kv, s->draft->kv) < 0) ||
	    !engine_spare(e, s, s->draft_kv, most)) {
		engine_draft_end(s);
		return false;
	}
	return draft_follows(e, s, bulk);
}

/* Guess i of each of the group that wants one. False: no more. */
static bool draft_round(struct engine *e, struct lane *d, struct request_state **group, uint32_t n,
                        uint32_t i)
{
	struct exec_slice slices[GROUP];
	struct request_state *in[GROUP];
	struct logits_row logits;
	uint32_t n_in = 0, rows = 0, row = 0;
	double t0 = seq_now();

	for (uint32_t k = 0; k < n; k++) {
		struct request_state *s = group[k];
		uint32_t from = i == 0 ? s->draft_done : s->n_tokens + i - 1;

		if (s->n_guess <= i)
			continue;
		in[n_in] = s;
		slices[n_in++] = (struct exec_slice){
			.kv = s->draft_kv, .tokens = s->r->tokens + from,
			.n = s->n_tokens + i - from, .pos0 = from, .path = PATH_DECODE,
			.n_logits = 1, .top = sampler_top(s->draft_pick),
			.cancel = &s->r->cancel,
		};
		rows += slices[n_in - 1].n;
	}
	if (n_in == 0 || !draft_step(e, d, in, slices, n_in))
		return false;
	for (uint32_t k = 0; k < n_in; k++) {
		struct request_state *s = in[k];

		if (slices[k].cancelled) {
			s->n_guess = 0;
			continue;
		}
		s->draft_done = s->n_tokens;
		exec_row(d->exec, row++, &logits);
		if (sampler_sample(s->draft_pick, &logits, &s->r->tokens[s->n_tokens + i], NULL,
		                   NULL) < 0) {
			s->n_guess = 0;
			engine_draft_end(s);
		}
	}
	pace_learn_rows(&d->pace, rows, seq_now() - t0);
	return true;
}

static bool wants_draft(const struct request_state *s)
{
	return s->n_guess > 0 && s->guess_match == SPEC_DRAFT && !s->drafted;
}

/* Let the draft models guess for the n sequences in engine.rows; who gets nothing loses n_guess. */
static void draft(struct engine *e, uint32_t n)
{
	bool bulk = false;

	for (uint32_t k = 0; k < n; k++) {
		struct request_state *s = e->rows[k];

		if (wants_draft(s) && !draft_ready(e, s, &bulk))
			s->n_guess = 0;
	}
	for (uint32_t k = 0; k < n; k++) {
		struct request_state *group[GROUP];
		struct lane *d = e->rows[k]->draft;
		uint32_t n_group = 0;

		if (!wants_draft(e->rows[k]))
			continue;
		for (uint32_t j = k; j < n && n_group < GROUP; j++)
			if (wants_draft(e->rows[j]) && e->rows[j]->draft == d) {
				group[n_group++] = e->rows[j];
				e->rows[j]->drafted = true;
			}
		for (uint32_t i = 0; i < SPEC_MOST && draft_round(e, d, group, n_group, i); i++)
			;
	}
}

/* === Choosing === */
/* What s could guess in this step, and the chance of the first guess. */
static void offer(struct request_state *s)
{
	uint32_t left = s->max_out - s->n_out - 1;

	s->guess_most = s->guess_match = 0;
	s->drafted = false;
	if (!s->spec || left == 0)
		return;
	if (s->r->lookup) {
		spec_index(s->spec, s->r->tokens, s->n_tokens);
		s->guess_match = spec_find(s->spec, s->r->tokens, s->n_tokens, &s->guess_at);
	}
	if (s->guess_match == 0 && !s->draft)
		return;
	s->guess_chance = spec_chance(s->spec, s->guess_match, 0);
	if (s->draft && s->guess_match > 0 &&
	    spec_chance(s->spec, SPEC_DRAFT, 0) > s->guess_chance) {
		s->guess_match = SPEC_DRAFT;
		s->guess_chance = spec_chance(s->spec, SPEC_DRAFT, 0);
	}
	s->guess_most = MIN(left, (uint32_t)SPEC_MOST);
}

/* The next sequence that may guess one more: the uid, client and sequence with the fewest rows. */
static struct request_state *next_guesser(const struct engine *e, uint32_t n)
{
	struct request_state *best = NULL;

	for (uint32_t k = 0; k < n; k++) {
		struct request_state *s = e->rows[k];

		if (s->n_guess < s->guess_most && s->guess_chance > CHANCE_LEAST &&
		    sched_row_before(&s->sched, best ? &best->sched : NULL))
			best = s;
	}
	return best;
}

/* What a number of rows costs shows only if it is tried. So with one sequence each number below
 * the best is tried once, and then now and then; and where none seems to pay, a few guesses that
 * are nearly sure to hold. n: how many seem best of `most`. */
static uint32_t vary(struct engine *e, struct lane *l, uint32_t n, uint32_t most)
{
	const struct request_state *s = e->rows[0];
	bool turn;

	if (s->guess_most == 0)
		return n;
	turn = ++l->guess_turn % VARY_EVERY == 0;
	if (n == 0) {
		/* a draft model's steps are dear, and their time is known */
		turn = turn && s->guess_match != SPEC_DRAFT &&
		       spec_chance(s->spec, s->guess_match, 0) >= SURE;
		return turn ? MIN(SURE_FEW, most) : 0;
	}
	for (uint32_t k = 1; k < n; k++)
		if (!pace_step_known(&l->pace, 1 + k))
			return k;
	return turn ? 1 + l->guess_turn / VARY_EVERY % n : n;
}

/* Take the guesses of the n sequences in engine.rows that are worth their time, `most` at most:
 * they are offered one by one, each to whose turn it is, and as many are taken as give the step the
 * most tokens for its time. */
static void take_guesses(struct engine *e, struct lane *l, uint32_t n, uint32_t most)
{
	struct request_state *taken[PACE_ROWS];
	double tokens = n, drafts_s = 0, best = tokens / pace_step_s(&l->pace, n) * MARGIN;
	bool always = e->c.guess == GUESS_ALWAYS;
	uint32_t n_taken = 0, n_best = 0;

	most = n < PACE_ROWS ? MIN(most, PACE_ROWS - n) : 0;
	while (n_taken < most) {
		struct request_state *s = next_guesser(e, n);
		double rate;

		if (!s)
			break;
		sched_row_taken(&e->sched, &s->sched);
		taken[n_taken++] = s;
		s->n_guess++;
		tokens += s->guess_chance;
		drafts_s += s->guess_match == SPEC_DRAFT ? draft_step_s(s) : 0;
		s->guess_chance *= spec_chance(s->spec, s->guess_match, s->n_guess);
		rate = tokens / (pace_step_s(&l->pace, n + n_taken) + drafts_s);
		if (rate > best || always) {
			best = rate;
			n_best = n_taken;
		}
	}
	if (n == 1 && !always)
		n_best = vary(e, l, n_best, n_taken);
	while (n_taken > n_best) {
		struct request_state *s = taken[--n_taken];

		s->n_guess--;
		sched_row_untaken(&s->sched);
	}
}

/* Memory, pages and room for the guesses of s, or for fewer of them. */
static void make_room(struct engine *e, struct request_state *s)
{
	size_t one = seq_room(s, 1);
	uint32_t n = s->n_guess, fit;

	if (seq_guess_room(s, n) < 0)
		n = 0;
	if (!engine_spare(e, s, s->kv, s->n_tokens + n)) {
		fit = kv_seq_pages(s->kv) * KV_PAGE - s->n_tokens;
		n = MIN(n, fit);
	}
	while (n > 0 && !s->r->sink.room(s->r->user, (n + 1) * one))
		n /= 2;
	/* the last answer counts: renew the one for the row itself */
	if (n == 0)
		s->r->sink.room(s->r->user, one);
	s->n_guess = n;
}

uint32_t engine_guess(struct engine *e, struct lane *l, uint32_t n, uint32_t most)
{
	uint32_t sum = 0;

	if (e->c.guess == GUESS_NEVER)
		return 0;
	for (uint32_t k = 0; k < n; k++)
		offer(e->rows[k]);
	take_guesses(e, l, n, most);
	for (uint32_t k = 0; k < n; k++) {
		struct request_state *s = e->rows[k];

		if (s->n_guess > 0)
			make_room(e, s);
		s->guess_waits = s->n_guess == 0 && s->guess_most > 0;
	}
	draft(e, n);
	for (uint32_t k = 0; k < n; k++) {
		struct request_state *s = e->rows[k];

		if (s->guess_match != SPEC_DRAFT)
			spec_copy(s->r->tokens, s->n_tokens, s->guess_at, s->n_guess);
		sum += s->n_guess;
	}
	return sum;
}

/* A guess that was not taken is judged as well, by the token that came. */
static void judge(struct request_state *s, int32_t id)
{
	if (!s->guess_waits)
		return;
	if (s->guess_match == SPEC_DRAFT)
		spec_fade(s->spec, SPEC_DRAFT);
	else
		spec_learn(s->spec, s->guess_match, 1, id == s->r->tokens[s->guess_at]);
	s->guess_waits = false;
}

void engine_guessed(struct engine *e, struct request_state *s, int32_t id, uint32_t held)
{
	judge(s, id);
	if (s->n_guess == 0)
		return;
	spec_learn(s->spec, s->guess_match, s->n_guess, held);
	if (s->drafted)
		/* the last guess was never given to the draft model */
		s->draft_done += MIN(held, s->n_guess - 1);
	s->n_drafted += s->n_guess;
	s->n_held += held;
	atomic_fetch_add_explicit(&e->draft_tokens, s->n_guess, memory_order_relaxed);
	atomic_fetch_add_explicit(&e->draft_accepted, held, memory_order_relaxed);
	s->n_guess = 0;
}
