/* ggufgen - GGUF files made in memory, right or deliberately wrong, and tiny random models that
 * load.
 *
 * A builder is filled (keys, tensors with random contents and sane scales), its public fields and
 * tensors may then be bent, and it is written to bytes or to a memfd. Contents depend on the seed
 * alone. Everything comes from plain malloc, so that base/mem.h's fault hook and block count see
 * only the code under test; no memory = abort. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "format/gguf.h"

#define GGUFGEN_TRUE 0xfeedbeefcafef00du       /* a claim that is not bent */
struct ggufgen_tensor {
	char *name;
	/* as written; the bytes written are min(name_len, strlen(name)) */
	uint64_t name_len;
	uint32_t n_dims, type;
	uint64_t dim[8];
	uint8_t *data;                  /* n_bytes, at the place where a right file has it */
	size_t n_bytes;
	uint64_t offset;                /* GGUFGEN_TRUE: where data is */
};
struct ggufgen {
	uint32_t version;               /* 3 */
	char magic[4];                  /* GGUF */
	uint64_t claim_kv, claim_tensors;
	uint64_t alignment;             /* of the layout, 32; the key is the caller's to add */
	/* bytes before every tensor but the first, and after the last */
	size_t gap, trailing;
	struct ggufgen_kv {
		char *key;
		size_t key_len;
		uint32_t kind;
		uint8_t *payload;       /* as it stands behind the kind */
		size_t n;
	} *kv;
	size_t n_kv;
	struct ggufgen_tensor *tensor;
	size_t n_tensors;
	uint64_t rng;
};
struct ggufgen *ggufgen_new(uint64_t seed);
void ggufgen_free(struct ggufgen *g);

/* Keys. A key that exists already is replaced; ggufgen_raw always appends, so that duplicates can
 * be made. */
void ggufgen_num(struct ggufgen *g, const char *key, enum gguf_kind kind, const void *value);
void ggufgen_u32(struct ggufgen *g, const char *key, uint32_t value);
void ggufgen_f32(struct ggufgen *g, const char *key, float value);
void ggufgen_bool(struct ggufgen *g, const char *key, bool value);
void ggufgen_str(struct ggufgen *g, const char *key, const char *value);
void ggufgen_strn(struct ggufgen *g, const char *key, const void *value, size_t n);
void ggufgen_arr(struct ggufgen *g, const char *key, enum gguf_kind kind, const void *data,
                 uint64_t n);
void ggufgen_strs(struct ggufgen *g, const char *key, const char *const *s, uint64_t n);
void ggufgen_raw(struct ggufgen *g, const char *key, size_t key_len, uint32_t kind,
                 const void *payload, size_t n);
bool ggufgen_drop(struct ggufgen *g, const char *key);

/* Random values of about that mean (float types only) and deviation; any type of kernels/qtype.h.
 * The pointer returned is good until the next tensor is added. */
struct ggufgen_tensor *ggufgen_tensor(struct ggufgen *g, const char *name, uint32_t type,
                                      uint64_t n_in, uint64_t n_out, float mean, float sigma);
struct ggufgen_tensor *ggufgen_find(struct ggufgen *g, const char *name);
bool ggufgen_drop_tensor(struct ggufgen *g, const char *name);
/* Bytes of n elements of a type (n whole blocks), random codes, scales for a deviation of about
 * sigma. */
void ggufgen_fill(uint32_t type, void *dst, uint64_t n, float mean, float sigma, uint64_t *rng);

uint8_t *ggufgen_bytes(const struct ggufgen *g, size_t *ret_n);         /* free() */
int ggufgen_memfd(const struct ggufgen *g);                             /* fd, not sealed */

/* A complete random model. Zero fields take the defaults in brackets. */
struct ggufgen_tiny {
	const char *arch;               /* [llama] llama, qwen2, gemma3 */
	uint32_t n_embd, n_layer;       /* [64] [2] */
	uint32_t n_head, n_head_kv;     /* [4] [2] */
	uint32_t head_dim, n_ff;        /* [n_embd / n_head] [2 * n_embd] */
	uint32_t n_ctx, window;         /* [512] [gemma3: 16] */
	uint32_t type, embd_type;       /* of matrices, of token_embd and output [F32] */
	/* SentencePiece vocabulary with byte tokens instead of byte-level BPE */
	bool spm;
	bool untied;                    /* with an output.weight of its own */
	bool rope_freqs, no_template;
	uint64_t seed;
};
enum { GGUFGEN_TINY_VOCAB = 320 };
struct ggufgen *ggufgen_tiny(const struct ggufgen_tiny *t);
int ggufgen_tiny_model(const struct ggufgen_tiny *t);                   /* memfd of it */
