/* model - loading, step by step from the cheapest check to the dearest, and the reference count. */
#include "model/model.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/family.h"
#include "model/weights.h"

enum { NAME_MAX_SHOWN = 256 };

static int load_names(struct model *m, struct err *err)
{
	struct bytes s = { "", 0 };
	char shown[NAME_MAX_SHOWN];
	int r = gguf_get_str(m->gguf, "general.architecture", &s, err);

	if (r < 0)
		return r;
	m->family = family_find(s);
	m->architecture = mem_strdup(m->family->name);
	s = (struct bytes){ "", 0 };
	r = gguf_get_str(m->gguf, "general.name", &s, err);
	if (r < 0)
		return r;
	m->name = mem_strdup(str_escape(shown, sizeof(shown), s.p, s.n));
	return m->name && m->architecture ? 0 : err_set(err, -ENOMEM, "not enough memory");
}
/* A template that does not compile costs chat, not the model: completions need none. */
static int load_template(struct model *m, struct err *err)
{
	struct bytes text;
	struct err why = { 0 };
	int r = gguf_get_str(m->gguf, "tokenizer.chat_template", &text, err);

	if (r != 0)
		return r < 0 ? r : 0;
	r = jinja_new(&m->jinja, text.p, text.n, &why);
	if (r == 0)
		return 0;
	if (r == -ENOMEM)
		return err_set(err, r, "not enough memory for the chat template");
	m->jinja_error = mem_strdup(why.text[0] ? why.text : strerror(-r));
	return m->jinja_error ? 0 : err_set(err, -ENOMEM, "not enough memory");
}
static int load_all(struct model *m, struct err *err)
{
	int r = model_hparams(&m->hp, m->gguf, err);

	if (r == 0)
		r = load_names(m, err);
	if (r < 0)
		return r;
	if (weightmap_size(m->map) < (m->pack ? m->pack->file_size : m->gguf->file_size))
		return err_set(err, -EBADMSG, "the file became shorter while it was opened");
	r = weights_bind(m, err);
	if (r == 0)
		r = tok_new(&m->tok, m->gguf, err);
	if (r < 0)
		return r;
	if (tok_n_vocab(m->tok) != m->hp.n_vocab)
		return err_set(err, -EBADMSG,
		               "the tokenizer has %" PRIu32 " tokens, the embedding %" PRIu32,
		               tok_n_vocab(m->tok), m->hp.n_vocab);
	return load_template(m, err);
}

static int open_container(struct model *m, int fd, const char *name, struct err *err)
{
	bool packed = false;
	int r = packfile_is(&packed, fd, name, err);

	if (r < 0)
		return r;
	if (!packed)
		return gguf_open(&m->gguf, fd, name, err);
	r = packfile_open(&m->pack, fd, name, err);
	if (r < 0)
		return r;
	m->gguf = m->pack->gguf;
	m->pack->head = mem_free(m->pack->head);        /* parsed: as large as a vocabulary */
	return 0;
}

int model_load(struct model **ret, int fd, const char *name, struct err *err)
{
	_cleanup_(model_unrefp) struct model *m = mem_alloc(sizeof(*m));
	char shown[80];
	int r;

	if (!m)
		return err_set(err, -ENOMEM, "not enough memory");
	m->refs = 1;
	r = open_container(m, fd, name, err);
	if (r == 0)
		r = weightmap_open(&m->map, fd, name, err);
	if (r < 0)
		return r;               /* their sentences begin with the name already */
	r = load_all(m, err);
	if (r < 0)
		return err_prefix(err, r, "%s",
		                  str_escape(shown, sizeof(shown), name, strlen(name)));
	/* tok, jinja and hp hold copies; whoever shows metadata reads the header anew */
	gguf_drop_metadata(m->gguf);
	*ret = STEAL(m);
	return 0;
}
struct model *model_ref(struct model *m)
{
	__atomic_fetch_add(&m->refs, 1, __ATOMIC_RELAXED);
	return m;
}
struct model *model_unref(struct model *m)
{
	if (!m || __atomic_fetch_sub(&m->refs, 1, __ATOMIC_ACQ_REL) != 1)
		return NULL;
	jinja_free(m->jinja);
	tok_free(m->tok);
	weightmap_unref(m->map);
	if (m->pack)
		packfile_free(m->pack);         /* and the gguf in it */
	else
		gguf_free(m->gguf);
	mem_free(m->layers);
	mem_free(m->architecture);
	mem_free(m->name);
	mem_free(m->jinja_error);
	return mem_free(m);
}
