/* exec - run a step: a batch of token rows of several sequences through all layers of one model's
 * plan.
 *
 * Rows are independent but for attention, which sees its own sequence's KV; kernels give the same
 * bits for any batch, so what a sequence gets depends on its tokens alone (doc/ARCHITECTURE.md,
 * numbers). Threads: the engine thread only; computes on the pool. */
#pragma once
#include <stdatomic.h>
#include "base/err.h"
#include "base/pool.h"
#include "engine/kv.h"
#include "engine/logits.h"
#include "kernels/kernels.h"
#include "model/model.h"

struct exec;
/* How a row's activations meet quantized weights. What a token gets depends on its path, never on
 * its batch. DECODE and PROMPT: int8 per 16 (kernels.h), the same bits. EXACT: a pair of such rows,
 * about 15 bits, for twice the arithmetic; mean KL to the f32 model 4e-7 where the others have
 * 1.5e-3 (SmolLM2, tests/golden/kl.py): for the last tokens of a prompt (seq.h) and for those who
 * measure a model. Where the kernels have panel products (kernels.h), PROMPT takes these instead,
 * with weights of all types: bits of its own. */
enum exec_path { PATH_DECODE, PATH_PROMPT, PATH_EXACT };
enum { EXEC_PATHS = PATH_EXACT + 1 };
struct exec_slice {                     /* consecutive tokens of one sequence */
	struct kv_seq *kv;              /* room for pos0 + n positions was reserved */
	const int32_t *tokens;          /* ids < n_vocab, checked by the caller */
	uint32_t n, pos0;
	enum exec_path path;
	/* logits wanted for the last n_logits tokens (0 for a chunk inside a prompt) */
	uint32_t n_logits;
	bool lse;                       /* and the blocks' sums of exponentials of each */
	/* > 0: of each row its `top` largest logits and all that equal the least of them are
	 * wanted; any other may be -INFINITY instead. Not with lse. */
	uint32_t top;
	const atomic_bool *cancel;      /* may be NULL; looked at before every layer */
	/* out: dropped at some layer; its KV beyond pos0 is undefined */
	bool cancelled;
};
int exec_new(struct exec **ret, struct model *m, const struct kernels *k, struct pool *pool,
             uint32_t max_rows, uint32_t max_logits, struct err *err);
struct exec *exec_free(struct exec *x);
DEFINE_FREEP(struct exec, exec_free)
/* sum of n <= max_rows, sum of n_logits <= max_logits, pages of one type. 0, -ECANCELED when every
 * slice was cancelled, -EIO when the model's mapping is poisoned (weightmap.h): results are void
 * then. */
int exec_step(struct exec *x, struct exec_slice *slices, size_t n_slices, struct err *err);
/* Row of logits i of the last step, in slice order (cancelled slices' rows left out), valid until
 * the next one. */
void exec_row(const struct exec *x, uint32_t i, struct logits_row *ret);
/* The bench's read arm: the same phases and chunks over the same weights, kernel bodies replaced by
 * plain reads. Returns bytes read in one such step. */
uint64_t exec_read_step(struct exec *x);
uint64_t exec_bytes(const struct exec *x);      /* memory it holds */
