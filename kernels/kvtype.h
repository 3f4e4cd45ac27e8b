/* kvtype - how keys and values lie in a page: types, sizes, names.
 *
 * A tile is KV_PAGE positions of one layer and one KV head: the K part, then the V part. K is
 * stored by dimension (head_dim rows of KV_PAGE positions), so that q . K is a straight stream with
 * positions as lanes; V by position (KV_PAGE rows of head_dim). All parts are whole cache lines.
 *   F16  K and V as f16.
 *   KV8  int8 codes; behind the codes of each part its factors, f16 [groups][KV_PAGE]: one for
 *        every position and group of 32 dimensions (the last group may have 16):
 *        s = f16(min(amax / 127, 65504)), code = round-half-even(x / s) within +-127; all 0 where
 *        s is 0. A group with an infinity or NaN has codes 0 and a NaN for factor.
 *   KV4  a full page only, made from its KV8 form; x is what that says. Codes 0..15 with a factor s
 *        = f16((max - min) / 15) and an offset m = f16(min), code = round-half-even((x - m) / s)
 *        within 0..15 (0 where s is 0). K: a pair for every dimension over the page's positions;
 *        rows of 16 bytes, byte j holds position j and, above, j + 16; then s [head_dim], then m.
 *        V: a pair for every position and group; rows of 16 bytes a group, byte j holds dimensions
 *        j and, above, j + 16 (a group of 16: itself); then s [groups][KV_PAGE], then m. NaN gives
 *        a NaN for s. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	KV_PAGE = 32,                   /* positions */
	KV_GROUP = 32,                  /* dimensions */
};
enum kv_type { KV_F16, KV_KV8, KV_KV4, KV_TYPE_COUNT };

const char *kv_type_name(enum kv_type type);    /* "f16" */
/* 0; -ENOENT: no such name; -ENOTSUP: a known type that this build lacks. */
int kv_type_from_name(const char *name, enum kv_type *ret);
/* "f16, kv8 and kv4" */
const char *kv_type_names(void);
/* Bytes of a K and of a V part; head_dim a multiple of 16, at most 512. */
size_t kv_k_bytes(enum kv_type type, size_t head_dim);
size_t kv_v_bytes(enum kv_type type, size_t head_dim);
size_t kv_tile_bytes(enum kv_type type, size_t head_dim);

static inline size_t kv_groups(size_t head_dim)
{
	return (head_dim + KV_GROUP - 1) / KV_GROUP;
}
