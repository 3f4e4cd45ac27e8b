/* ctl-ids - lists of token ids from files, arguments and stdin. */
#include <errno.h>
#include <string.h>
#include "client/ctl.h"

static int from_json(struct ctl_ids *ids, const json_t *j, struct err *err)
{
	const json_t *list = json_is_object(j) ? json_object_get(j, "tokens") : j;
	size_t n = json_array_size(list);

	if (!json_is_array(list))
		return err_set(err, -EINVAL,
		               "wants a JSON list of token ids, or {\"tokens\":[...]}");
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_array_get(list, i);
		json_int_t id = json_integer_value(v);

		if (!json_is_integer(v) || id < 0 || id > INT32_MAX)
			return err_set(err, -EINVAL, "entry %zu is no token id (0 to %d)", i,
			               INT32_MAX);
		if (vec_push(ids, (int32_t)id) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int from_words(struct ctl_ids *ids, const char *p, size_t n, struct err *err)
{
	static const char gap[] = " \t\r\n,";
	char word[12], shown[64];

	for (size_t i = 0, len; i < n; i += len) {
		uint64_t id;

		for (len = 0; i + len < n && !memchr(gap, p[i + len], sizeof(gap) - 1); len++)
			;
		if (len == 0) {
			len = 1;
			continue;
		}
		snprintf(word, sizeof(word), "%.*s", (int)(len < 11 ? len : 11), p + i);
		if (len > 10 || strlen(word) != len || str_to_u64(word, &id) < 0 || id > INT32_MAX)
			return err_set(err, -EINVAL, "\"%s\" is no token id (0 to %d)",
			               str_escape(shown, sizeof(shown), p + i, len), INT32_MAX);
		if (vec_push(ids, (int32_t)id) < 0)
			return -ENOMEM;
	}
	return 0;
}

int ctl_ids_parse(struct ctl_ids *ids, const char *p, size_t n, struct err *err)
{
	size_t skip = 0;
	json_error_t at;
	json_t *j;
	int r;

	while (skip < n && strchr(" \t\r\n", p[skip]) && p[skip])
		skip++;
	if (skip == n || (p[skip] != '[' && p[skip] != '{'))
		return from_words(ids, p, n, err);
	j = json_loadb(p, n, JSON_REJECT_DUPLICATES, &at);
	if (!j)
		return err_set(err, -EINVAL, "line %d: %s", at.line, at.text);
	r = from_json(ids, j, err);
	json_decref(j);
	return r;
}
