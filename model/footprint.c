/* footprint - what serving costs beside the mapping, from numbers alone. Products stay inside 64
 * bits: hparams.c. */
#include "model/model.h"

enum { FLOAT_BYTES = 4 };

static uint64_t max2(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}
void model_footprint(const struct hparams *hp, uint64_t weights, uint32_t max_rows,
                     uint32_t max_logits, enum kv_type kv_type, struct footprint *ret)
{
	uint64_t q = (uint64_t)hp->n_head * hp->head_dim,
		 kv = (uint64_t)hp->n_head_kv * hp->head_dim;
	uint64_t widest = max2(max2(hp->n_embd, q), hp->n_ff);
	/* Residual, normed and output rows; Q and attention; K and V; gate and up; the angles of
	 * both rotations. */
	uint64_t floats = (uint64_t)3 * hp->n_embd + 2 * q + 2 * kv + (uint64_t)2 * hp->n_ff +
	                  (uint64_t)(hp->window ? 2 : 1) * hp->n_rot;
	/* The widest row as int8 with scale, scaled sum and sum for every 16. */
	uint64_t quantized = widest + widest / 16 * 12;

	uint64_t page = kv_tile_bytes(kv_type, hp->head_dim) * hp->n_head_kv * hp->n_layer;

	*ret = (struct footprint){
		.weights = weights,
		.kv_per_token = page / KV_PAGE,
		.kv_page = page,
		.activations = max_rows * (floats * FLOAT_BYTES + quantized) +
		               (uint64_t)max_logits * hp->n_vocab * FLOAT_BYTES,
	};
}
