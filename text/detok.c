/* detok - pieces of tokens, joined to whole UTF-8.
 *
 * 1. `held` is at most 3 bytes: the start of a code point that can still be completed.
 * 2. A control token that prints nothing changes nothing, so the leading-blank rule waits for the
 *    first real piece. */
#include "base/vec.h"
#include "text/tok-priv.h"

static size_t piece_bpe(struct bytes text, char *buf)
{
	size_t n = 0;

	for (size_t i = 0; i < text.n;) {
		uint32_t cp;
		unsigned len = utf8_decode(text.p + i, text.n - i, &cp);
		int byte = len ? vocab_cp_to_byte(cp) : -1;

		if (len == 0)
			len = 1;
		if (byte >= 0) {
			buf[n++] = (char)byte;
		} else {                        /* outside the byte alphabet: as it stands */
			memcpy(buf + n, text.p + i, len);
			n += len;
		}
		i += len;
	}
	return n;
}

static size_t piece_spm(struct bytes text, char *buf)
{
	size_t n = 0;

	for (size_t i = 0; i < text.n;) {
		if (text.n - i >= 3 && memcmp(text.p + i, "\xe2\x96\x81", 3) == 0) {
			buf[n++] = ' ';
			i += 3;
		} else {
			buf[n++] = text.p[i++];
		}
	}
	return n;
}

size_t tok_piece(const struct tok *t, int32_t id, bool special, char buf[TOK_PIECE_MAX])
{
	const struct vocab *v = t->vocab;
	struct bytes text = tok_text(t, id);
	unsigned hex;

	switch (tok_attr(t, id)) {
	case TOK_CONTROL:
	case TOK_UNKNOWN:
		if (!special)
			return 0;
		break;
	case TOK_USER_DEFINED:
		break;
	case TOK_BYTE:
		if (v->model != VOCAB_SPM)
			return piece_bpe(text, buf);
		sscanf(text.p, "<0x%2X>", &hex);        /* of that form: checked by vocab_new */
		buf[0] = (char)hex;
		return 1;
	default:
		return v->model == VOCAB_SPM ? piece_spm(text, buf) : piece_bpe(text, buf);
	}
	memcpy(buf, text.p, text.n);
	return text.n;
}

void detok_init(struct detok *d, const struct tok *t, bool special)
{
	*d = (struct detok){ .tok = t, .special = special, .first = true };
}

int detok_push(struct detok *d, int32_t id, struct sbuf *out)
{
	const struct vocab *v = d->tok->vocab;
	char buf[sizeof(d->held) + TOK_PIECE_MAX];
	enum tok_attr attr = tok_attr(d->tok, id);
	size_t n = tok_piece(d->tok, id, d->special, buf + d->n_held), skip = 0, whole;
	bool first = d->first && n > 0 && attr != TOK_CONTROL && attr != TOK_UNKNOWN;

	/* Encoding put a blank before the text: the first piece gives it back. */
	if (first && v->add_space_prefix && attr != TOK_USER_DEFINED && buf[d->n_held] == ' ')
		skip = 1;
	/* with skip == 1 nothing but the blank can be held back */
	memcpy(buf + skip, d->held, d->n_held);
	n = n + d->n_held - skip;
	whole = utf8_complete_prefix(buf + skip, n);
	if (whole && sbuf_append(out, buf + skip, whole) < 0)
		return -ENOMEM;
	d->n_held = (unsigned)(n - whole);
	memcpy(d->held, buf + skip + whole, d->n_held);
	if (first)
		d->first = false;
	return 0;
}

int detok_flush(struct detok *d, struct sbuf *out)
{
	if (d->n_held && sbuf_append(out, d->held, d->n_held) < 0)
		return -ENOMEM;
	d->n_held = 0;
	return 0;
}
