/* prompt - blobs are copied out first, then parsed: nothing shared is read twice. */
#include "daemon/prompt.h"
#include <errno.h>
#include <string.h>
#include "base/mem.h"
#include "model/model.h"

int prompt_tokens(struct call *c, const Qllm__Blob *blob, const struct tok *t, int32_t **ret,
                  uint32_t *ret_n, struct err *err)
{
	_cleanup_mem_ char *bytes = NULL;
	uint32_t n_vocab = tok_n_vocab(t);
	const int32_t *ids;
	size_t n;
	int r = blob_get(blob, &c->in, c->d->config->prompt_bytes, &bytes, &n, err);

	if (r < 0)
		return r;
	if (n % sizeof(int32_t) != 0)
		return err_set(err, -EINVAL,
		               "a list of token ids has %zu bytes, which is no multiple of 4", n);
	ids = (const int32_t *)(const void *)bytes;
	n /= sizeof(int32_t);
	for (size_t i = 0; i < n; i++)
		if (ids[i] < 0 || (uint32_t)ids[i] >= n_vocab)
			return err_set(
				err, -EINVAL,
				"token %zu of the list is %d, the vocabulary has ids 0 to %u", i,
				ids[i], n_vocab - 1);
	*ret_n = (uint32_t)n;
	*ret = (int32_t *)(void *)STEAL(bytes);
	return 0;
}

static int parse_array(struct call *c, const Qllm__Blob *blob, const char *what, json_t **ret,
                       struct err *err)
{
	_cleanup_mem_ char *text = NULL;
	json_error_t where;
	json_t *json;
	size_t n;
	int r = blob_get(blob, &c->in, c->d->config->prompt_bytes, &text, &n, err);

	if (r < 0)
		return r;
	json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
	if (!json)
		return err_set(err, -EINVAL, "%s: no JSON at line %d, column %d", what, where.line,
		               where.column);
	if (!json_is_array(json)) {
		json_decref(json);
		return err_set(err, -EINVAL, "%s: a JSON array is needed", what);
	}
	*ret = json;
	return 0;
}

static int render(struct call *c, json_t *messages, json_t *tools, struct sbuf *out,
                  struct err *err)
{
	const struct model *m = c->model[0];
	int r;

	if (!m->jinja)
		return err_set(err, -EINVAL, "model %s has no chat template%s%s: use --raw",
		               m->name, m->jinja_error ? " that works: " : "",
		               m->jinja_error ? m->jinja_error : "");
	r = chat_render(m->jinja, m->tok, messages, tools, out, err);
	return r == -ENOENT ? -EINVAL : r;
}

static void json_putp(json_t **json)
{
	json_decref(*json);
}

static int check_messages(const json_t *messages, struct err *err)
{
	size_t n = json_array_size(messages);

	if (n == 0)
		return err_set(err, -EINVAL, "messages: at least one is needed");
	for (size_t i = 0; i < n; i++)
		if (!json_is_string(json_object_get(json_array_get(messages, i), "role")))
			return err_set(err, -EINVAL,
			               "messages: number %zu is no object with a role", i);
	return 0;
}

int prompt_render(struct call *c, const Qllm__Blob *messages, const Qllm__Blob *tools,
                  struct sbuf *out, struct err *err)
{
	_cleanup_(json_putp) json_t *m = NULL;
	_cleanup_(json_putp) json_t *t = NULL;
	int r = parse_array(c, messages, "messages", &m, err);

	if (r == 0)
		r = check_messages(m, err);
	if (r == 0 && tools)
		r = parse_array(c, tools, "tools", &t, err);
	return r == 0 ? render(c, m, t, out, err) : r;
}

int prompt_render_one(struct call *c, const char *text, size_t n, const char *system,
                      struct sbuf *out, struct err *err)
{
	_cleanup_(json_putp) json_t *m = json_array();
	json_t *content = json_stringn(text, n);

	if (!content)
		return err_set(err, -EINVAL, "the prompt is not UTF-8: use --raw");
	if (system && json_array_append_new(
			      m, json_pack("{s:s s:s}", "role", "system", "content", system)) < 0) {
		json_decref(content);
		return err_set(err, -EINVAL, "the system prompt is not UTF-8");
	}
	if (json_array_append_new(m, json_pack("{s:s s:o}", "role", "user", "content", content)) <
	    0)
		return err_set(err, -ENOMEM, "out of memory");
	return render(c, m, NULL, out, err);
}
