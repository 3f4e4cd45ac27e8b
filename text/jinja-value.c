/* jinja-value - values as Python has them, as far as templates can tell.
 *
 * 1. A list or dictionary knows how deep it nests and is refused beyond JINJA_VALUE_DEPTH, so that
 *    every walk over a value may recurse.
 * 2. Strings are UTF-8; indices and lengths count code points. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include "base/vec.h"
#include "text/jinja-str.h"

const struct jv jv_undef = { .kind = JK_UNDEF }, jv_none = { .kind = JK_NONE };

int jv_fail(struct jeval *ev, const char *format, ...)
{
	char text[ERR_TEXT_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	return err_set(ev->err, -EINVAL, "chat template, line %u: %s", ev->line, text);
}

int jv_no_memory(struct jeval *ev)
{
	if (ev->mem.used < ev->mem.max / 2)
		return -ENOMEM;
	return err_set(ev->err, -E2BIG,
	               "chat template, line %u: it makes more than %d MiB of values", ev->line,
	               JINJA_HEAP_MAX >> 20);
}

int jv_charge(struct jeval *ev, uint64_t steps)
{
	if (steps > ev->steps_max - ev->steps) {
		ev->steps = ev->steps_max;
		return err_set(ev->err, -E2BIG,
		               "chat template, line %u: its budget of %" PRIu64 " steps is spent",
		               ev->line, ev->steps_max);
	}
	ev->steps += steps;
	return 0;
}

const char *jv_kind_name(const struct jv *v)
{
	static const char *const names[] = { "undefined",   "none",     "a boolean", "an integer",
		                             "a float",     "a string", "a list",    "a dictionary",
		                             "a namespace", "a loop",   "a macro",   "a function",
		                             "a method" };

	return names[v->kind];
}

bool jv_truth(const struct jv *v)
{
	switch (v->kind) {
	case JK_UNDEF:
	case JK_NONE:
		return false;
	case JK_BOOL:
		return v->b;
	case JK_INT:
		return v->i != 0;
	case JK_FLOAT:
		return v->f != 0;
	case JK_STR:
		return v->s.n > 0;
	case JK_LIST:
		return v->list->n > 0;
	case JK_DICT:
		return v->dict->n > 0;
	default:
		return true;
	}
}

bool jv_number(const struct jv *v, double *ret)
{
	switch (v->kind) {
	case JK_BOOL:
		*ret = v->b;
		return true;
	case JK_INT:
		*ret = (double)v->i;
		return true;
	case JK_FLOAT:
		*ret = v->f;
		return true;
	default:
		return false;
	}
}

static int compare_bytes(struct bytes a, struct bytes b)
{
	size_t n = MIN(a.n, b.n);
	int r = n ? memcmp(a.p, b.p, n) : 0;

	return r ? (r > 0) - (r < 0) : (a.n > b.n) - (a.n < b.n);
}

bool jv_equal(const struct jv *a, const struct jv *b)
{
	double x, y;

	if (a->kind == JK_INT && b->kind == JK_INT)
		return a->i == b->i;
	if (jv_number(a, &x) && jv_number(b, &y))
		return x == y;
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case JK_STR:
		return bytes_eq(a->s, b->s);
	case JK_LIST:
		if (a->list->n != b->list->n || a->tuple != b->tuple)
			return false;
		for (uint32_t i = 0; i < a->list->n; i++)
			if (!jv_equal(&a->list->v[i], &b->list->v[i]))
				return false;
		return true;
	case JK_DICT:
		if (a->dict->n != b->dict->n)
			return false;
		for (uint32_t i = 0; i < a->dict->n; i++) {
			const struct jv *key = &a->dict->e[i].key, *other = NULL;

			/* Mostly the order is the same; huge ones in another order are not worth
			 * quadratic time. */
			if (jv_equal(key, &b->dict->e[i].key))
				other = &b->dict->e[i].val;
			else if (b->dict->n <= 4096)
				other = jv_dict_get(NULL, b->dict, key);
			if (!other || !jv_equal(&a->dict->e[i].val, other))
				return false;
		}
		return true;
	case JK_UNDEF:
	case JK_NONE:
		return true;
	default:
		return a->ns == b->ns;
	}
}

int jv_compare(struct jeval *ev, const struct jv *a, const struct jv *b, int *ret)
{
	double x, y;

	if (a->kind == JK_INT && b->kind == JK_INT) {
		*ret = (a->i > b->i) - (a->i < b->i);
	} else if (jv_number(a, &x) && jv_number(b, &y)) {
		*ret = (x > y) - (x < y);
	} else if (a->kind == JK_STR && b->kind == JK_STR) {
		*ret = compare_bytes(a->s, b->s);
	} else if (a->kind == JK_LIST && b->kind == JK_LIST) {
		for (uint32_t i = 0; i < a->list->n && i < b->list->n; i++) {
			int r = jv_equal(&a->list->v[i], &b->list->v[i]) ? 0 : 1;

			if (r)
				return jv_compare(ev, &a->list->v[i], &b->list->v[i], ret);
		}
		*ret = (a->list->n > b->list->n) - (a->list->n < b->list->n);
	} else {
		return jv_fail(ev, "%s and %s have no order", jv_kind_name(a), jv_kind_name(b));
	}
	return 0;
}

int jv_contains(struct jeval *ev, const struct jv *in, const struct jv *v, bool *ret)
{
	int r;

	switch (in->kind) {
	case JK_STR:
		if (v->kind != JK_STR)
			return jv_fail(ev, "%s cannot be in a string", jv_kind_name(v));
		*ret = v->s.n == 0 || jstr_find(in->s, v->s);
		return jv_charge(ev, in->s.n / 256);
	case JK_LIST:
		*ret = false;
		for (uint32_t i = 0; !*ret && i < in->list->n; i++)
			*ret = jv_equal(&in->list->v[i], v);
		return jv_charge(ev, in->list->n / 8);
	case JK_DICT:
		r = jv_charge(ev, in->dict->n / 8);
		*ret = jv_dict_get(NULL, in->dict, v);
		return r;
	case JK_UNDEF:
		*ret = false;
		return 0;
	default:
		return jv_fail(ev, "%s holds no items to look in", jv_kind_name(in));
	}
}

int jv_make_str(struct jeval *ev, struct jv *ret, const char *p, size_t n)
{
	char *copy = arena_strndup(&ev->mem, p ? p : "", n);

	if (!copy)
		return jv_no_memory(ev);
	*ret = jv_str((struct bytes){ copy, n });
	return 0;
}

int jv_from_sbuf(struct jeval *ev, struct jv *ret, struct sbuf *s)
{
	int r = jv_make_str(ev, ret, s->p, s->n);

	sbuf_deinit(s);
	return r;
}

struct jlist *jv_list_new(struct jeval *ev, size_t n)
{
	struct jlist *list = n < UINT32_MAX
	                             ? arena_alloc(&ev->mem, sizeof(*list) + n * sizeof(list->v[0]))
	                             : NULL;

	if (!list)
		jv_no_memory(ev);
	else
		list->n = (uint32_t)n;
	return list;
}

static uint32_t depth_of(const struct jv *v)
{
	return v->kind == JK_LIST ? v->list->depth : v->kind == JK_DICT ? v->dict->depth : 0;
}

static int too_deep(struct jeval *ev)
{
	return err_set(ev->err, -E2BIG, "chat template, line %u: a value nests more than %d deep",
	               ev->line, JINJA_VALUE_DEPTH);
}

int jv_list_seal(struct jeval *ev, struct jlist *list, struct jv *ret)
{
	uint32_t depth = 0;

	for (uint32_t i = 0; i < list->n; i++)
		depth = MAX(depth, depth_of(&list->v[i]));
	list->depth = depth + 1;
	if (list->depth > JINJA_VALUE_DEPTH)
		return too_deep(ev);
	*ret = (struct jv){ .kind = JK_LIST, .list = list };
	return 0;
}

struct jdict *jv_dict_new(struct jeval *ev, size_t n)
{
	struct jdict *dict = n < UINT32_MAX
	                             ? arena_alloc(&ev->mem, sizeof(*dict) + n * sizeof(dict->e[0]))
	                             : NULL;

	if (!dict)
		jv_no_memory(ev);
	else
		dict->n = (uint32_t)n;
	return dict;
}

int jv_dict_seal(struct jeval *ev, struct jdict *dict, struct jv *ret)
{
	uint32_t depth = 0;

	for (uint32_t i = 0; i < dict->n; i++)
		depth = MAX(depth, depth_of(&dict->e[i].val));
	dict->depth = depth + 1;
	if (dict->depth > JINJA_VALUE_DEPTH)
		return too_deep(ev);
	*ret = (struct jv){ .kind = JK_DICT, .dict = dict };
	return 0;
}

const struct jv *jv_dict_get(struct jeval *ev, const struct jdict *d, const struct jv *key)
{
	/* Dictionaries of messages and tool descriptions are small; large ones pay by the step. */
	if (ev && jv_charge(ev, d->n / 8) < 0)
		return NULL;
	for (uint32_t i = 0; i < d->n; i++)
		if (jv_equal(&d->e[i].key, key))
			return &d->e[i].val;
	return NULL;
}

int jv_from_json(struct jeval *ev, json_t *json, unsigned depth, struct jv *ret)
{
	struct jlist *list;
	struct jdict *dict;
	const char *key;
	json_t *value;
	size_t i = 0;
	int r;

	if (depth > JINJA_VALUE_DEPTH)
		return too_deep(ev);
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		dict = jv_dict_new(ev, json_object_size(json));
		if (!dict)
			return jv_no_memory(ev);
		json_object_foreach(json, key, value) {
			dict->e[i].key = jv_str(bytes_of(key));
			r = jv_from_json(ev, value, depth + 1, &dict->e[i++].val);
			if (r < 0)
				return r;
		}
		return jv_dict_seal(ev, dict, ret);
	case JSON_ARRAY:
		list = jv_list_new(ev, json_array_size(json));
		if (!list)
			return jv_no_memory(ev);
		for (; i < list->n; i++) {
			r = jv_from_json(ev, json_array_get(json, i), depth + 1, &list->v[i]);
			if (r < 0)
				return r;
		}
		return jv_list_seal(ev, list, ret);
	case JSON_STRING:
		*ret = jv_str((struct bytes){ json_string_value(json), json_string_length(json) });
		return 0;
	case JSON_INTEGER:
		*ret = jv_int(json_integer_value(json));
		return 0;
	case JSON_REAL:
		*ret = jv_float(json_real_value(json));
		return 0;
	case JSON_NULL:
		*ret = jv_none;
		return 0;
	default:
		*ret = jv_bool(json_is_true(json));
		return 0;
	}
}

size_t utf8_count(struct bytes s)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++)
		n += ((uint8_t)s.p[i] & 0xc0) != 0x80;
	return n;
}

size_t utf8_offset(struct bytes s, size_t index)
{
	size_t at = 0;

	for (; at < s.n && (index > 0 || ((uint8_t)s.p[at] & 0xc0) == 0x80); at++)
		if (at + 1 >= s.n || ((uint8_t)s.p[at + 1] & 0xc0) != 0x80)
			index--;
	return at;
}

int jv_length(struct jeval *ev, const struct jv *v, size_t *ret)
{
	switch (v->kind) {
	case JK_STR:
		*ret = utf8_count(v->s);
		return jv_charge(ev, v->s.n / 256);
	case JK_LIST:
		*ret = v->list->n;
		return 0;
	case JK_DICT:
		*ret = v->dict->n;
		return 0;
	case JK_UNDEF:
		*ret = 0;
		return 0;
	default:
		return jv_fail(ev, "%s has no length", jv_kind_name(v));
	}
}

int jv_items(struct jeval *ev, const struct jv *v, const struct jlist **ret)
{
	struct jlist *list;
	size_t n, at = 0;
	int r;

	if (v->kind == JK_LIST) {
		*ret = v->list;
		return jv_charge(ev, v->list->n / 8);
	}
	if (v->kind != JK_STR && v->kind != JK_DICT && v->kind != JK_UNDEF)
		return jv_fail(ev, "%s holds no items", jv_kind_name(v));
	r = jv_length(ev, v, &n);
	if (r < 0 || (r = jv_charge(ev, n)) < 0)
		return r;
	list = jv_list_new(ev, n);
	if (!list)
		return jv_no_memory(ev);
	for (size_t i = 0; i < n; i++) {
		if (v->kind == JK_DICT) {
			list->v[i] = v->dict->e[i].key;
			continue;
		}
		size_t end = at + 1;

		while (end < v->s.n && ((uint8_t)v->s.p[end] & 0xc0) == 0x80)
			end++;
		list->v[i] = jv_str((struct bytes){ v->s.p + at, end - at });
		at = end;
	}
	list->depth = 1;
	*ret = list;
	return 0;
}

/* ---- text ---- */

/* The shortest digits that read back the same, spelled as Python does. */
static int print_float(struct sbuf *out, double f)
{
	char digits[40];

	if (isnan(f))
		return sbuf_append(out, "nan", 3);
	if (isinf(f))
		return sbuf_printf(out, "%sinf", f < 0 ? "-" : "");
	for (int precision = 1; precision <= 17; precision++) {
		snprintf(digits, sizeof(digits), "%.*e", precision - 1, f);
		if (strtod(digits, NULL) == f) {
			int exponent = atoi(strchr(digits, 'e') + 1);

			if (exponent < -4 || exponent >= 16)
				snprintf(digits, sizeof(digits), "%.*g", precision, f);
			else
				snprintf(digits, sizeof(digits), "%.*f",
				         MAX(precision - 1 - exponent, 1), f);
			break;
		}
	}
	return sbuf_append(out, digits, strlen(digits));
}

static int repr_string(struct sbuf *out, struct bytes s)
{
	char quote = s.n && memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n) ? '"' : '\'';
	int r = sbuf_append(out, &quote, 1);

	for (size_t i = 0; r == 0 && i < s.n; i++) {
		char c = s.p[i];
		const char *named = c == '\n'   ? "\\n"
		                    : c == '\r' ? "\\r"
		                    : c == '\t' ? "\\t"
		                    : c == '\\' ? "\\\\"
		                                : NULL;

		if (named)
			r = sbuf_append(out, named, 2);
		else if (c == quote)
			r = sbuf_printf(out, "\\%c", c);
		else if ((uint8_t)c < 0x20 || c == 0x7f)
			r = sbuf_printf(out, "\\x%02x", (uint8_t)c);
		else
			r = sbuf_append(out, &c, 1);
	}
	return r < 0 ? r : sbuf_append(out, &quote, 1);
}

static int repr_list(struct sbuf *out, const struct jv *v)
{
	int r = sbuf_append(out, v->tuple ? "(" : "[", 1);

	for (uint32_t i = 0; r == 0 && i < v->list->n; i++) {
		if (i)
			r = sbuf_append(out, ", ", 2);
		if (r == 0)
			r = jv_repr(out, &v->list->v[i]);
	}
	if (r == 0 && v->tuple && v->list->n == 1)
		r = sbuf_append(out, ",", 1);
	return r < 0 ? r : sbuf_append(out, v->tuple ? ")" : "]", 1);
}

static int repr_dict(struct sbuf *out, const struct jdict *d)
{
	int r = sbuf_append(out, "{", 1);

	for (uint32_t i = 0; r == 0 && i < d->n; i++) {
		if (i)
			r = sbuf_append(out, ", ", 2);
		if (r == 0 && (r = jv_repr(out, &d->e[i].key)) == 0 &&
		    (r = sbuf_append(out, ": ", 2)) == 0)
			r = jv_repr(out, &d->e[i].val);
	}
	return r < 0 ? r : sbuf_append(out, "}", 1);
}

int jv_repr(struct sbuf *out, const struct jv *v)
{
	switch (v->kind) {
	case JK_UNDEF:
		return sbuf_append(out, "Undefined", 9);
	case JK_STR:
		return repr_string(out, v->s);
	default:
		return jv_print(out, v);
	}
}

int jv_print(struct sbuf *out, const struct jv *v)
{
	switch (v->kind) {
	case JK_UNDEF:
		return 0;
	case JK_NONE:
		return sbuf_append(out, "None", 4);
	case JK_BOOL:
		return v->b ? sbuf_append(out, "True", 4) : sbuf_append(out, "False", 5);
	case JK_INT:
		return sbuf_printf(out, "%" PRId64, v->i);
	case JK_FLOAT:
		return print_float(out, v->f);
	case JK_STR:
		return v->s.n ? sbuf_append(out, v->s.p, v->s.n) : 0;
	case JK_LIST:
		return repr_list(out, v);
	case JK_DICT:
		return repr_dict(out, v->dict);
	default:
		return sbuf_printf(out, "<%s>", jv_kind_name(v));
	}
}

static int write_string(struct sbuf *out, struct bytes s, bool ascii)
{
	int r = sbuf_append(out, "\"", 1);

	for (size_t i = 0; r == 0 && i < s.n;) {
		static const char plain[] = "\"\\\n\r\t\b\f", named[] = "\"\\nrtbf";
		uint32_t cp = (uint8_t)s.p[i];
		unsigned len = utf8_decode(s.p + i, s.n - i, &cp);
		const char *at = cp && cp < 128 ? strchr(plain, (int)cp) : NULL;

		len = len ? len : 1;
		if (at)
			r = sbuf_printf(out, "\\%c", named[at - plain]);
		else if (cp < 0x20 || (ascii && cp >= 0x7f && cp < 0x10000 && cp != 0x7f))
			r = sbuf_printf(out, "\\u%04x", cp);
		else if (ascii && cp >= 0x10000)
			r = sbuf_printf(out, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10),
			                0xdc00 + ((cp - 0x10000) & 0x3ff));
		else
			r = sbuf_append(out, s.p + i, len);
		i += len;
	}
	return r < 0 ? r : sbuf_append(out, "\"", 1);
}

static int write_break(struct sbuf *out, int indent, unsigned level)
{
	int r = sbuf_append(out, "\n", 1);

	for (uint64_t i = 0; r == 0 && i < (uint64_t)indent * level; i++)
		r = sbuf_append(out, " ", 1);
	return r;
}

static int write_key(struct sbuf *out, const struct jv *key, bool ascii)
{
	if (key->kind == JK_STR)
		return write_string(out, key->s, ascii);
	int r = sbuf_append(out, "\"", 1);

	if (r == 0)
		r = key->kind == JK_BOOL ? sbuf_printf(out, "%s", key->b ? "true" : "false") :
			key->kind == JK_NONE ? sbuf_append(out, "null", 4) : jv_print(out, key);
	return r < 0 ? r : sbuf_append(out, "\"", 1);
}

static int entry_order(const void *a, const void *b)
{
	return compare_bytes((*(const struct jentry *const *)a)->key.s,
	                     (*(const struct jentry *const *)b)->key.s);
}

static int write_members(struct jeval *ev, struct sbuf *out, const struct jv *v, int indent,
                         unsigned level, bool sort, bool ascii)
{
	uint32_t n = v->kind == JK_DICT ? v->dict->n : v->list->n;
	const struct jentry **order = NULL;
	int r = 0;

	if (v->kind == JK_DICT) {
		order = arena_alloc(&ev->mem, (n + 1) * sizeof(*order));
		if (!order)
			return jv_no_memory(ev);
		for (uint32_t i = 0; i < n; i++) {
			order[i] = &v->dict->e[i];
			sort = sort && order[i]->key.kind == JK_STR;
		}
		if (sort)
			qsort(order, n, sizeof(*order), entry_order);
	}
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		if (i)
			r = sbuf_append(out, ", ", indent >= 0 ? 1 : 2);
		if (r == 0 && indent >= 0)
			r = write_break(out, indent, level + 1);
		if (r == 0 && order && (r = write_key(out, &order[i]->key, ascii)) == 0)
			r = sbuf_append(out, ": ", 2);
		if (r == 0)
			r = jv_tojson(ev, out, order ? &order[i]->val : &v->list->v[i], indent,
			              level + 1, sort, ascii);
	}
	if (r == 0 && n && indent >= 0)
		r = write_break(out, indent, level);
	return r;
}

int jv_tojson(struct jeval *ev, struct sbuf *out, const struct jv *v, int indent, unsigned level,
              bool sort, bool ascii)
{
	int r = jv_charge(ev, 1);

	if (r < 0)
		return r;
	switch (v->kind) {
	case JK_NONE:
		return sbuf_append(out, "null", 4);
	case JK_BOOL:
		return sbuf_printf(out, "%s", v->b ? "true" : "false");
	case JK_FLOAT:
		if (isnan(v->f) || isinf(v->f))
			return sbuf_printf(out, "%s",
			                   isnan(v->f) ? "NaN"
			                   : v->f > 0  ? "Infinity"
			                               : "-Infinity");
		return print_float(out, v->f);
	case JK_INT:
		return jv_print(out, v);
	case JK_STR:
		return write_string(out, v->s, ascii);
	case JK_LIST:
	case JK_DICT:
		if ((r = sbuf_append(out, v->kind == JK_LIST ? "[" : "{", 1)) < 0 ||
		    (r = write_members(ev, out, v, indent, level, sort, ascii)) < 0)
			return r;
		return sbuf_append(out, v->kind == JK_LIST ? "]" : "}", 1);
	default:
		return jv_fail(ev, "%s has no JSON form", jv_kind_name(v));
	}
}

/* ---- access ---- */

static const struct jv *ns_find(const struct jns *ns, struct bytes name)
{
	for (const struct jvar *var = ns->vars; var; var = var->next)
		if (bytes_eq(var->name, name))
			return &var->val;
	return NULL;
}

static bool loop_attr(struct jeval *ev, const struct jloop *l, struct bytes name, struct jv *ret)
{
	const struct { const char *name; struct jv val; } attrs[] = {
		{ "index", jv_int(l->at + 1ll) },
		{ "index0", jv_int(l->at) },
		{ "first", jv_bool(l->at == 0) },
		{ "last", jv_bool(l->at + 1 == l->items->n) },
		{ "length", jv_int(l->items->n) },
		{ "revindex", jv_int((int64_t)l->items->n - l->at) },
		{ "revindex0", jv_int((int64_t)l->items->n - l->at - 1) },
		{ "depth", jv_int(l->depth) },
		{ "depth0", jv_int(l->depth - 1ll) },
		{ "previtem", l->at > 0 ? l->items->v[l->at - 1] : jv_undef },
		{ "nextitem", l->at + 1 < l->items->n ? l->items->v[l->at + 1] : jv_undef },
	};

	(void)ev;
	for (size_t i = 0; i < ARRAY_SIZE(attrs); i++) {
		if (bytes_eq(name, bytes_of(attrs[i].name))) {
			*ret = attrs[i].val;
			return true;
		}
	}
	return false;
}

int jv_attr(struct jeval *ev, const struct jv *v, struct bytes name, struct jv *ret)
{
	const struct jfunc *func = jinja_method_find(v->kind, name);
	const struct jv *found = NULL, key = jv_str(name);
	struct jmethod *method;
	char shown[64];

	*ret = jv_undef;
	if (v->kind == JK_UNDEF)
		return jv_fail(ev, "\"%s\" is asked of something undefined",
		               str_escape(shown, sizeof(shown), name.p, name.n));
	if (func) {
		method = arena_alloc(&ev->mem, sizeof(*method));
		if (!method)
			return jv_no_memory(ev);
		*method = (struct jmethod){ *v, func };
		*ret = (struct jv){ .kind = JK_METHOD, .method = method };
		return 0;
	}
	if (v->kind == JK_DICT)
		found = jv_dict_get(ev, v->dict, &key);
	else if (v->kind == JK_NS)
		found = ns_find(v->ns, name);
	else if (v->kind == JK_LOOP)
		loop_attr(ev, v->loop, name, ret);
	if (found)
		*ret = *found;
	return 0;
}

int jv_item(struct jeval *ev, const struct jv *v, const struct jv *key, struct jv *ret)
{
	int64_t at, n;
	size_t length;
	int r;

	*ret = jv_undef;
	if (v->kind == JK_DICT) {
		const struct jv *found = jv_dict_get(ev, v->dict, key);

		if (found) {
			*ret = *found;
			return 0;
		}
	}
	if (key->kind == JK_STR)
		return jv_attr(ev, v, key->s, ret);
	if (v->kind == JK_UNDEF)
		return jv_fail(ev, "an item is asked of something undefined");
	if ((v->kind != JK_LIST && v->kind != JK_STR) ||
	    (key->kind != JK_INT && key->kind != JK_BOOL))
		return 0;
	if ((r = jv_length(ev, v, &length)) < 0)
		return r;
	n = (int64_t)length;
	at = key->kind == JK_INT ? key->i : key->b;
	if (at < 0)
		at = at < -n ? n : at + n;
	if (at >= n)
		return 0;
	if (v->kind == JK_LIST) {
		*ret = v->list->v[at];
		return 0;
	}
	length = utf8_offset(v->s, (size_t)at);
	struct bytes rest = { v->s.p + length, v->s.n - length };

	*ret = jv_str((struct bytes){ rest.p, utf8_offset(rest, 1) });
	return 0;
}

/* ---- order ---- */

/* Merge sort: stable, and it can stop at values that have no order. */
static int sort_run(struct jeval *ev, const struct jv *keys, uint32_t *at, uint32_t *tmp, size_t n,
                    bool reverse)
{
	size_t half = n / 2, i = 0, j = half, k = 0;
	int r, order;

	if (n < 2)
		return 0;
	if ((r = sort_run(ev, keys, at, tmp, half, reverse)) < 0 ||
	    (r = sort_run(ev, keys, at + half, tmp, n - half, reverse)) < 0 ||
	    (r = jv_charge(ev, n / 8)) < 0)
		return r;
	while (i < half && j < n) {
		if ((r = jv_compare(ev, &keys[at[i]], &keys[at[j]], &order)) < 0)
			return r;
		tmp[k++] = (reverse ? order >= 0 : order <= 0) ? at[i++] : at[j++];
	}
	while (i < half)
		tmp[k++] = at[i++];
	while (j < n)
		tmp[k++] = at[j++];
	memcpy(at, tmp, n * sizeof(*at));
	return 0;
}

static int fold_key(struct jeval *ev, struct jv *key)
{
	struct jv copy;
	int r;

	if (key->kind != JK_STR)
		return 0;
	r = jv_make_str(ev, &copy, key->s.p, key->s.n);
	for (size_t i = 0; r == 0 && i < copy.s.n; i++)
		if (copy.s.p[i] >= 'A' && copy.s.p[i] <= 'Z')
			((char *)copy.s.p)[i] |= 32;
	*key = copy;
	return r;
}

int jv_sort(struct jeval *ev, struct jv *v, size_t n, bool reverse, const struct bytes *attribute,
            bool fold)
{
	struct jv *keys = arena_alloc(&ev->mem, (n + 1) * sizeof(*keys)),
		  *copy = arena_alloc(&ev->mem, (n + 1) * sizeof(*copy));
	uint32_t *at = arena_alloc(&ev->mem, (n + 1) * sizeof(*at)),
		 *tmp = arena_alloc(&ev->mem, (n + 1) * sizeof(*tmp));
	int r = keys && copy && at && tmp ? 0 : jv_no_memory(ev);

	for (size_t i = 0; r == 0 && i < n; i++) {
		at[i] = (uint32_t)i;
		copy[i] = keys[i] = v[i];
		if (attribute) {
			const struct jv name = jv_str(*attribute);

			r = jv_item(ev, &v[i], &name, &keys[i]);
		}
		if (r == 0 && fold)
			r = fold_key(ev, &keys[i]);
	}
	if (r == 0)
		r = sort_run(ev, keys, at, tmp, n, reverse);
	for (size_t i = 0; r == 0 && i < n; i++)
		v[i] = copy[at[i]];
	return r;
}

const struct jv *jcall_arg(const struct jcall *call, uint32_t at, const char *name)
{
	if (at < call->n)
		return &call->arg[at];
	for (uint32_t i = 0; i < call->n_kw; i++)
		if (bytes_eq(call->kw[i].name, bytes_of(name)))
			return &call->kw[i].val;
	return NULL;
}
