/* packold - packed files as an older version would have written them. */
#pragma once

/* Write to the empty file `to` what is in the packed file `from`, with every tensor as rows: as
 * before any type had a packed form. Whatever fails ends the process with a sentence. */
void packold_make(int to, int from);
