/* req-config - every setting, its value and where that came from. No key is a secret, so anybody
 * who may connect may ask. */
#include "daemon/dispatch.h"
#include <errno.h>
#include <jansson.h>
#include <string.h>

static json_t *value_json(const struct config *c, const struct config_key *key)
{
	const void *at = (const char *)c + key->offset;

	if (key->type == CONFIG_STR)
		return json_string(*(char *const *)at);
	return json_integer((json_int_t) * (const uint64_t *)at);
}

static json_t *keys_json(const struct config *c)
{
	json_t *all = json_array();

	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_table[i];
		json_t *row = json_pack("{s:s, s:s, s:o, s:s, s:b, s:s}", "section", key->section,
					"key", key->name, "value", value_json(c, key), "default",
					key->def, "reload", key->reload, "source", c->source[i]);

		if (json_array_append_new(all, row) < 0) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}

void req_config(struct call *c)
{
	json_t *all = keys_json(c->d->config);
	char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;

	json_decref(all);
	if (text)
		call_reply_text(c, text, strlen(text));
	else
		call_fail(c, -ENOMEM, NULL);
	free(text);
}
