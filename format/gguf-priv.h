/* gguf-priv - what gguf.c and gguf-get.c share. */
#pragma once
#include "base/map.h"
#include "base/mem.h"
#include "format/gguf.h"

struct gguf_priv {
	struct arena arena;             /* the tensors' table and names, the notice */
	struct arena meta;              /* keys, values and their table */
	/* -> struct gguf_value, struct tensor; keys NULL: dropped */
	struct map *keys, *names;
};
/* Bytes of one element; 0 for strings and arrays, whose size varies. */
extern const uint8_t gguf_kind_bytes[GGUF_KIND_COUNT];
