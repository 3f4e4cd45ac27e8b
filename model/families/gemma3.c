/* gemma3 - Gemma 3, text part. Norms before and after each block and on Q and K (files hold 1 + w,
 * nothing is added here); five layers with a sliding window and a rotation of their own, then a
 * global one. The 27B (62 layers) scales its scores by the embedding's share of a head instead of
 * by the head. */
#include "model/families/families.h"

static const struct slot_row globals[] = {
	{ SLOT_TOKEN_EMBD, "token_embd.weight" },
	{ SLOT_OUTPUT_NORM, "output_norm.weight" },
	{ SLOT_OUTPUT, "output.weight", .optional = true },
	{ 0 },
};
static const struct slot_row layers[] = {
	{ SLOT_ATTN_NORM, "attn_norm.weight" },
	{ SLOT_ATTN_Q, "attn_q.weight" },
	{ SLOT_ATTN_K, "attn_k.weight" },
	{ SLOT_ATTN_V, "attn_v.weight" },
	{ SLOT_ATTN_Q_NORM, "attn_q_norm.weight" },
	{ SLOT_ATTN_K_NORM, "attn_k_norm.weight" },
	{ SLOT_ATTN_OUT, "attn_output.weight" },
	{ SLOT_ATTN_POST_NORM, "post_attention_norm.weight" },
	{ SLOT_FFN_NORM, "ffn_norm.weight" },
	{ SLOT_FFN_GATE, "ffn_gate.weight" },
	{ SLOT_FFN_UP, "ffn_up.weight" },
	{ SLOT_FFN_DOWN, "ffn_down.weight" },
	{ SLOT_FFN_POST_NORM, "post_ffw_norm.weight" },
	{ 0 },
};
const struct family family_gemma3 = {
	.name = "gemma3",
	.norm = NORM_RMS,
	.ffn = FFN_GELU_GATED,
	.rope = ROPE_NEOX,
	.embd_sqrt = true,
	.window = true,
	.window_period = 6,
	.rope_base_local = 10000.0f,
	.scale_by_embd_layers = 62,
	.globals = globals,
	.layers = layers,
};
