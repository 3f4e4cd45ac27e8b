/* chat - the variables a chat template sees, as the reference implementation passes them. */
#include <errno.h>
#include "text/chat.h"
#include "text/tok.h"

static int set_token(json_t *vars, const char *name, const struct tok *t, int32_t id)
{
	struct bytes text = tok_text(t, id);

	/* A vocabulary without the token leaves the name undefined, which prints as nothing. */
	if (id < 0 || !utf8_valid(text.p, text.n))
		return 0;
	return json_object_set_new(vars, name, json_stringn_nocheck(text.p, text.n));
}

int chat_render(const struct jinja *j, const struct tok *t, json_t *messages, json_t *tools,
                struct sbuf *out, struct err *err)
{
	json_t *vars;
	int r = -ENOMEM;

	if (!j)
		return err_set(
			err, -ENOENT,
			"the model has no chat template: send a plain prompt instead of messages");
	vars = json_object();
	if (vars && json_object_set(vars, "messages", messages) == 0 &&
	    (tools ? json_object_set(vars, "tools", tools)
	           : json_object_set_new(vars, "tools", json_null())) == 0 &&
	    json_object_set_new(vars, "documents", json_null()) == 0 &&
	    json_object_set_new(vars, "add_generation_prompt", json_true()) == 0 &&
	    set_token(vars, "bos_token", t, tok_bos(t)) == 0 &&
	    set_token(vars, "eos_token", t, tok_eos(t)) == 0)
		r = jinja_render(j, vars, NULL, out, err);
	json_decref(vars);
	return r;
}
