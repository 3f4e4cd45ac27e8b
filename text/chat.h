/* chat - chat templates: a Jinja subset with budgets (steps, depth, output bytes), no I/O, no
 * attribute access to anything but data. Compiled once a model, rendered from any thread.
 * Errors: -EINVAL with a sentence that names line and construct (unsupported or raise_exception's
 * text); -E2BIG for a spent budget. Oracle: jinja2 (trim_blocks, lstrip_blocks as transformers sets
 * them). */
#pragma once
#include <jansson.h>
#include "base/cleanup.h"
#include "base/err.h"
#include "base/str.h"

struct jinja;
int jinja_new(struct jinja **ret, const char *text, size_t n, struct err *err);
struct jinja *jinja_free(struct jinja *j);
DEFINE_FREEP(struct jinja, jinja_free)
struct jinja_budget {
	uint64_t steps;                 /* evaluated nodes and loop turns; 0 = default 1,000,000 */
	size_t output;                  /* bytes; 0 = default 8 MiB */
	unsigned depth;                 /* nesting of evaluation and macros; 0 = default 64 */
};
/* vars: object of variables. */
int jinja_render(const struct jinja *j, json_t *vars, const struct jinja_budget *budget,
                 struct sbuf *out, struct err *err);

struct tok;
/* Render messages (array of {"role","content",...}) with the model's template: adds bos_token,
 * eos_token, tools, add_generation_prompt=true, strftime_now. -ENOENT when the model has no
 * template. */
int chat_render(const struct jinja *j, const struct tok *t, json_t *messages, json_t *tools,
                struct sbuf *out, struct err *err);
