/* packold - packed files as an older version would have written them. */
#pragma once

#include "kernels/pack.h"

/* Write to the empty file `to` what is in the packed file `from`, in layout 1: with every tensor as
 * rows, as before any type had a packed form (PACK_NONE), or all that can be in groups, as before
 * there were others (PACK_R16). Whatever fails ends the process with a sentence. */
void packold_make(int to, int from, enum pack_form form);
