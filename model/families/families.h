/* families - the tables of families/ by name, for family.c alone. */
#pragma once
#include "model/family.h"

extern const struct family family_llama, family_qwen2, family_gemma3;
