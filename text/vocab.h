/* vocab - the words of a model: spelling, score, kind, merge ranks and the ids with a role.
 * Read-only after build.
 *
 * vocab_new checks and copies what a source says; vocab_from_gguf fills a source from GGUF
 * metadata. Errors: -EBADMSG with a sentence that names the array and index; -ENOTSUP for a model
 * or pre-tokenizer that is not known; -ENOMEM. Threads: any, after the build. */
#pragma once
#include "base/cleanup.h"
#include "base/err.h"
#include "base/str.h"
#include "format/gguf.h"

enum {
	VOCAB_MAX = 1 << 22,            /* tokens */
	/* bytes of one token's spelling: the bound of every piece, too */
	VOCAB_TEXT_MAX = 4096,
};
enum vocab_model { VOCAB_BPE, VOCAB_SPM };

struct vocab_src {                      /* borrowed during vocab_new only */
	const char *model;              /* "gpt2" or "llama" */
	const char *pre;                /* pre-tokenizer's name, "" when absent; VOCAB_BPE only */
	const struct bytes *text;
	const float *score;             /* NULL: none (VOCAB_SPM needs them) */
	const int32_t *type;            /* NULL: all normal; values of enum tok_attr, 0 = normal */
	uint64_t n_text, n_score, n_type;
	const struct bytes *merge;      /* "left right" by rank; VOCAB_BPE only */
	uint64_t n_merge;
	int32_t bos, eos;               /* -1 when absent */
	/* further ids that end generation (eot, eom ...); -1 when absent */
	int32_t eog[4];
	int add_bos, add_space_prefix;  /* -1: the model's habit */
};

struct vocab_merge {
	int32_t left, right;            /* left -1: free slot */
	uint32_t rank;
	int32_t id;                     /* what the pair becomes */
};
struct vocab_slot {
	uint32_t tag;                   /* high half of the spelling's hash */
	uint32_t next;                  /* id + 1; 0: free */
};
struct pretok;
struct vocab {
	enum vocab_model model;
	uint32_t n;
	/* [n + 1] where spellings begin in blob; one ends where the next begins */
	uint32_t *text_at;
	char *blob;
	float *score;                   /* [n]; NULL for VOCAB_BPE */
	uint8_t *type;                  /* [n] enum tok_attr */
	uint8_t *eog;                   /* [n] 0 or 1 */
	struct vocab_slot *slot;        /* spelling -> id, open addressing */
	uint32_t slot_mask;
	uint32_t n_repeated;            /* spellings that an earlier id has already */
	struct vocab_merge *merge;      /* pair -> rank, open addressing */
	uint32_t merge_mask;
	/* of both tables: a hostile file cannot choose collisions */
	uint64_t seed;
	/* token of a single byte; -1 when the vocabulary has none */
	int32_t byte_id[256];
	uint32_t text_max;              /* longest spelling */
	int32_t bos, eos, unk;
	bool add_bos, add_space_prefix, ignore_merges;
	struct pretok *pre;             /* VOCAB_BPE only */
	/* ids parsed in text before anything else, sorted by spelling */
	uint32_t *special;
	uint32_t n_special;
};

int vocab_new(struct vocab **ret, const struct vocab_src *src, struct err *err);
int vocab_from_gguf(struct vocab **ret, const struct gguf *g, struct err *err);
struct vocab *vocab_free(struct vocab *v);
DEFINE_FREEP(struct vocab, vocab_free)

static inline struct bytes vocab_text(const struct vocab *v, uint32_t id)
{
	return (struct bytes){ v->blob + v->text_at[id], v->text_at[id + 1] - v->text_at[id] };
}
/* -1 when absent or empty */
int32_t vocab_find(const struct vocab *v, const char *p, size_t n);
/* The merge of two adjacent tokens, or NULL. */
const struct vocab_merge *vocab_merge_find(const struct vocab *v, int32_t left, int32_t right);
/* GPT-2's bijection of bytes to printable code points. */
uint32_t vocab_byte_to_cp(uint8_t byte);
/* -1 when cp stands for no byte */
int vocab_cp_to_byte(uint32_t cp);
