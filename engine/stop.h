/* stop - finds stop strings in text that arrives in pieces, and holds back what may become one.
 *
 * The answer does not depend on where the pieces are cut: the stop string that ends first wins, the
 * longest of those that end together. Text from its first byte on is never given out. */
#pragma once
#include <stdbool.h>
#include "base/str.h"

struct stop {
	/* borrowed, non-empty strings of at most STOP_LEN_MAX bytes */
	const char *const *strings;
	uint32_t n_strings;
	struct sbuf text;               /* held bytes, then those of the last push */
	size_t out;                     /* of text: bytes that may be shown now */
	bool hit;
};
void stop_init(struct stop *m, const char *const *strings, uint32_t n_strings);
void stop_deinit(struct stop *m);
/* Add text[0,n). Afterwards text.p[0, out) may be shown, and hit says whether a stop string was
 * found (then no more pushes). last: nothing follows, so nothing is held back. 0 or -ENOMEM (state
 * as before). */
int stop_push(struct stop *m, const char *text, size_t n, bool last);
