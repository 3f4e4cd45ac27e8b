/* roff - text of the program's own tables as source of a manual page. */
#pragma once
#include <stdio.h>

/* Within a line: what means something to roff is escaped. */
void roff_word(FILE *f, const char *s);
/* Whole lines of at most 78 bytes, a new one for each sentence; ends with a newline. `more` is
 * appended, "" for none. */
void roff_lines(FILE *f, const char *s, const char *more);
