/* qwen2 - Qwen 1.5 to 2.5: biases on Q, K and V; rotation pairs the halves of a head. */
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
	{ SLOT_ATTN_Q_BIAS, "attn_q.bias" },
	{ SLOT_ATTN_K_BIAS, "attn_k.bias" },
	{ SLOT_ATTN_V_BIAS, "attn_v.bias" },
	{ SLOT_ATTN_OUT, "attn_output.weight" },
	{ SLOT_FFN_NORM, "ffn_norm.weight" },
	{ SLOT_FFN_GATE, "ffn_gate.weight" },
	{ SLOT_FFN_UP, "ffn_up.weight" },
	{ SLOT_FFN_DOWN, "ffn_down.weight" },
	{ 0 },
};
const struct family family_qwen2 = {
	.name = "qwen2", .norm = NORM_RMS, .ffn = FFN_SILU_GATED, .rope = ROPE_NEOX,
	.globals = globals, .layers = layers,
};
