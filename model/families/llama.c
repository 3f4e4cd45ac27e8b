/* llama - Llama 1 to 3, Mistral 7B, SmolLM and what else is converted as "llama". Q and K rows are
 * stored permuted, so that rotation pairs neighbours. Llama 3.1 and later bring their position
 * scaling as factors in rope_freqs. */
#include "model/families/families.h"

static const struct slot_row globals[] = {
	{ SLOT_TOKEN_EMBD, "token_embd.weight" },
	{ SLOT_OUTPUT_NORM, "output_norm.weight" },
	{ SLOT_OUTPUT, "output.weight", .optional = true },
	{ SLOT_ROPE_FREQS, "rope_freqs.weight", .optional = true },
	{ 0 },
};
static const struct slot_row layers[] = {
	{ SLOT_ATTN_NORM, "attn_norm.weight" },
	{ SLOT_ATTN_Q, "attn_q.weight" },
	{ SLOT_ATTN_K, "attn_k.weight" },
	{ SLOT_ATTN_V, "attn_v.weight" },
	{ SLOT_ATTN_Q_BIAS, "attn_q.bias", .optional = true },
	{ SLOT_ATTN_K_BIAS, "attn_k.bias", .optional = true },
	{ SLOT_ATTN_V_BIAS, "attn_v.bias", .optional = true },
	{ SLOT_ATTN_OUT, "attn_output.weight" },
	{ SLOT_ATTN_OUT_BIAS, "attn_output.bias", .optional = true },
	{ SLOT_FFN_NORM, "ffn_norm.weight" },
	{ SLOT_FFN_GATE, "ffn_gate.weight" },
	{ SLOT_FFN_UP, "ffn_up.weight" },
	{ SLOT_FFN_DOWN, "ffn_down.weight" },
	{ 0 },
};
const struct family family_llama = {
	.name = "llama", .norm = NORM_RMS, .ffn = FFN_SILU_GATED, .rope = ROPE_NORM,
	.globals = globals, .layers = layers,
};
