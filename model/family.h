/* family - what an architecture is made of, as data. A new one is one file in families/ and one
 * line in family.c. */
#pragma once
#include "base/str.h"
#include "model/model.h"

/* A tensor of a slot. Global rows hold whole names; layer rows hold what follows "blk.N.". */
struct slot_row {
	unsigned slot;                  /* enum slot_global or enum slot_layer */
	const char *name;               /* NULL ends a table */
	bool optional;
};
struct family {
	const char *name;               /* general.architecture, and prefix of the family's keys */
	enum norm_kind norm;
	enum ffn_kind ffn;
	enum rope_kind rope;
	bool embd_sqrt;                 /* token embeddings are multiplied by sqrt(n_embd) */
	bool window;                    /* has sliding windows: their key is required */
	uint32_t window_period;         /* unless the file has a pattern */
	/* of windowed layers, unless the file says otherwise; 0 = rope_base */
	float rope_base_local;
	/* the variant of so many layers scales scores by 1/sqrt(n_embd / n_head); 0 = none */
	uint32_t scale_by_embd_layers;
	const struct slot_row *globals, *layers;
};
const struct family *family_find(struct bytes architecture);    /* NULL when unknown */
/* "llama, qwen2, gemma3" for messages. */
void family_list(char *out, size_t size);
