/* family - the registry: the one place where architectures are enumerated. */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "model/families/families.h"

static const struct family *const families[] = { &family_llama, &family_qwen2, &family_gemma3 };

const struct family *family_find(struct bytes architecture)
{
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		if (strlen(families[i]->name) == architecture.n &&
		    memcmp(families[i]->name, architecture.p, architecture.n) == 0)
			return families[i];
	return NULL;
}
void family_list(char *out, size_t size)
{
	size_t n = 0;

	out[0] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(families) && n < size; i++)
		n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", families[i]->name);
}
