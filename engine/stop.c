/* stop - each new byte is compared as the end of every stop string; strings are few and short, so
 * there is no automaton. Invariant: between pushes text holds the bytes not given out yet, all of
 * them a proper prefix of some stop string, preceded by `out` bytes that were. */
#include "engine/stop.h"
#include <errno.h>
#include <string.h>
#include "base/num.h"

void stop_init(struct stop *m, const char *const *strings, uint32_t n_strings)
{
	*m = (struct stop){ .strings = strings, .n_strings = n_strings };
}

void stop_deinit(struct stop *m)
{
	sbuf_deinit(&m->text);
}

/* Length of the longest stop string that ends at text.p[end], 0 for none. */
static size_t match_at(const struct stop *m, size_t end)
{
	size_t best = 0;

	for (uint32_t i = 0; i < m->n_strings; i++) {
		size_t n = strlen(m->strings[i]);

		if (n > best && n <= end && memcmp(m->text.p + end - n, m->strings[i], n) == 0)
			best = n;
	}
	return best;
}

/* Length of the longest end of text that some stop string begins with. */
static size_t held_length(const struct stop *m)
{
	size_t best = 0;

	for (uint32_t i = 0; i < m->n_strings; i++) {
		size_t n = MIN(strlen(m->strings[i]) - 1, m->text.n);

		for (; n > best; n--)
			if (memcmp(m->text.p + m->text.n - n, m->strings[i], n) == 0)
				break;
		best = MAX(best, n);
	}
	return best;
}

int stop_push(struct stop *m, const char *text, size_t n, bool last)
{
	size_t held = m->text.n - m->out;

	if (n > 0 && sbuf_append(&m->text, text, n) < 0)
		return -ENOMEM;
	if (m->out > 0)
		memmove(m->text.p, m->text.p + m->out, held + n);
	m->text.n = held + n;
	for (size_t end = held + 1; end <= m->text.n; end++) {
		size_t k = match_at(m, end);

		if (k == 0)
			continue;
		m->hit = true;
		m->text.n = m->out = end - k;
		return 0;
	}
	m->out = m->text.n - (last ? 0 : held_length(m));
	return 0;
}
