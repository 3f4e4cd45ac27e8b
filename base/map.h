/* map - hash map from byte strings to pointers; keyed by a per-process random seed (XXH3), so that
 * names chosen by a hostile file cannot collide on purpose. Keys are copied. Not thread-safe. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map;
enum { _MAP_E_SUCCESS, MAP_E_EXISTS };
int map_new(struct map **ret);
struct map *map_free(struct map *m);                    /* values are the caller's */
/* 0, -ENOMEM, or MAP_E_EXISTS with the map unchanged. */
int map_add(struct map *m, const void *key, size_t len, void *value);
void *map_get(const struct map *m, const void *key, size_t len);      /* NULL when absent */
bool map_has(const struct map *m, const void *key, size_t len, void **ret_value);
void *map_remove(struct map *m, const void *key, size_t len);         /* the value, or NULL */
size_t map_size(const struct map *m);
