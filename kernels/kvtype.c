/* kvtype - one row a type. */
#include "kernels/kvtype.h"

#include <errno.h>
#include <string.h>

#include "base/num.h"

static const char *const names[KV_TYPE_COUNT] = { [KV_F16] = "f16", [KV_KV8] = "kv8",
	                                        [KV_KV4] = "kv4" };
/* Of the interface's list, not in this build. */
static const char *const others[] = { "kivi4", "kivi2", "tok8", "tok4", "tok3", "tok2" };

const char *kv_type_name(enum kv_type type)
{
	return names[type];
}

const char *kv_type_names(void)
{
	return "f16, kv8 and kv4";
}

int kv_type_from_name(const char *name, enum kv_type *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i], name) == 0) {
			*ret = (enum kv_type)i;
			return 0;
		}
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (strcmp(others[i], name) == 0)
			return -ENOTSUP;
	return -ENOENT;
}

size_t kv_k_bytes(enum kv_type type, size_t head_dim)
{
	return type == KV_KV4 ? head_dim * (KV_PAGE / 2 + 2 * sizeof(uint16_t)) :
	       kv_v_bytes(type, head_dim);
}

size_t kv_v_bytes(enum kv_type type, size_t head_dim)
{
	if (type == KV_F16)
		return head_dim * KV_PAGE * sizeof(uint16_t);
	if (type == KV_KV4)
		return kv_groups(head_dim) * KV_PAGE * (KV_GROUP / 2 + 2 * sizeof(uint16_t));
	return head_dim * KV_PAGE + kv_groups(head_dim) * KV_PAGE * sizeof(uint16_t);
}

size_t kv_tile_bytes(enum kv_type type, size_t head_dim)
{
	return kv_k_bytes(type, head_dim) + kv_v_bytes(type, head_dim);
}
