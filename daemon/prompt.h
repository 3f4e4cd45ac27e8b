/* prompt - what a client sends as text, messages or ids, to tokens. On worker threads; c->model[0]
 * is set. */
#pragma once
#include "daemon/call.h"

/* Ids of a blob, each checked against the vocabulary: *ret is mem_alloc'ed. -EINVAL names index and
 * id. */
int prompt_tokens(struct call *c, const Qllm__Blob *blob, const struct tok *t, int32_t **ret,
                  uint32_t *ret_n, struct err *err);
/* Messages (JSON array) through the model's template. -EINVAL: bad JSON, no template, or what the
 * template says. */
int prompt_render(struct call *c, const Qllm__Blob *messages, const Qllm__Blob *tools,
                  struct sbuf *out, struct err *err);
/* One user message, with a system message before it unless NULL. */
int prompt_render_one(struct call *c, const char *text, size_t n, const char *system,
                      struct sbuf *out, struct err *err);
