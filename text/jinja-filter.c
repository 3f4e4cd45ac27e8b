/* jinja-filter - the tables of filters and tests. A row is a name and a function over struct jcall:
 * `self` is what stands before "|" or "is". Nothing here changes an operand. */
#include <errno.h>
#include <math.h>
#include <utf8proc.h>
#include "base/vec.h"
#include "text/jinja-priv.h"
#include "text/jinja-str.h"

static int need_str(struct jeval *ev, const struct jcall *c, const struct jv *v, struct bytes *ret)
{
	if (!v || v->kind != JK_STR)
		return jv_fail(ev, "%s wants a string, not %s", c->name,
		               v ? jv_kind_name(v) : "nothing");
	*ret = v->s;
	return 0;
}

/* The operand as text, as most filters take it. */
static int as_text(struct jeval *ev, const struct jv *v, struct bytes *ret)
{
	struct sbuf s = { .max = JINJA_HEAP_MAX };
	struct jv made;
	int r;

	if (v->kind == JK_STR) {
		*ret = v->s;
		return 0;
	}
	r = jv_print(&s, v);
	if (r == 0)
		r = jv_from_sbuf(ev, &made, &s);
	sbuf_deinit(&s);
	if (r < 0)
		return r == -ENOSPC ? jv_no_memory(ev) : r;
	*ret = made.s;
	return 0;
}

/* ---- filters on text ---- */

#define TEXT_FILTER(fname, call_) \
	static int fname(struct jeval *ev, const struct jcall *c, struct jv *ret) \
	{ \
		struct bytes s = { 0 }; \
		int r = as_text(ev, &c->self, &s); \
		return r < 0 ? r : (call_); \
	}
TEXT_FILTER(f_upper, jstr_case(ev, s, JSTR_UPPER, ret))
TEXT_FILTER(f_lower, jstr_case(ev, s, JSTR_LOWER, ret))
TEXT_FILTER(f_capitalize, jstr_case(ev, s, JSTR_CAPITALIZE, ret))
TEXT_FILTER(f_title, jstr_case(ev, s, JSTR_TITLE, ret))
TEXT_FILTER(f_escape, jstr_escape_html(ev, s, ret))
TEXT_FILTER(f_string, (*ret = jv_str(s), 0))

static int f_trim(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *chars = jcall_arg(c, 0, "chars");
	struct bytes s, set = { 0 };
	int r = as_text(ev, &c->self, &s);

	if (r == 0 && chars && chars->kind != JK_NONE)
		r = need_str(ev, c, chars, &set);
	if (r == 0)
		*ret = jv_str(jstr_strip(s, chars && chars->kind == JK_STR ? &set : NULL,
		                         JSTR_LEFT | JSTR_RIGHT));
	return r;
}

static int f_replace(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *count = jcall_arg(c, 2, "count");
	struct bytes s, old, new;
	int r;

	if ((r = as_text(ev, &c->self, &s)) < 0 ||
	    (r = need_str(ev, c, jcall_arg(c, 0, "old"), &old)) < 0 ||
	    (r = need_str(ev, c, jcall_arg(c, 1, "new"), &new)) < 0)
		return r;
	return jstr_replace(ev, s, old, new, count && count->kind == JK_INT ? count->i : -1, ret);
}

static int f_indent(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *width = jcall_arg(c, 0, "width"), *first = jcall_arg(c, 1, "first"),
			*blank = jcall_arg(c, 2, "blank");
	char pad[256];
	struct bytes s, fill = { pad, 4 };
	int r = as_text(ev, &c->self, &s);

	if (r < 0)
		return r;
	memset(pad, ' ', sizeof(pad));
	if (width && width->kind == JK_STR)
		fill = width->s;
	else if (width && width->kind == JK_INT && width->i >= 0 &&
	         width->i <= (int64_t)sizeof(pad))
		fill.n = (size_t)width->i;
	else if (width)
		return jv_fail(ev, "indent wants a width of 0 to %zu", sizeof(pad));
	return jstr_indent(ev, s, fill, first && jv_truth(first), blank && jv_truth(blank), ret);
}

static int f_tojson(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *indent = jcall_arg(c, 1, "indent"),
			*ascii = jcall_arg(c, 0, "ensure_ascii"),
			*sort = jcall_arg(c, 3, "sort_keys");
	struct sbuf s = { .max = JINJA_HEAP_MAX };
	int r, width = -1;

	/* The first operand by position is the indent: this is how templates write tojson(4). */
	if (c->n == 1) {
		indent = &c->arg[0];
		ascii = NULL;
	}
	if (indent && indent->kind == JK_INT) {
		if (indent->i < 0 || indent->i > 64)
			return jv_fail(ev, "tojson wants an indent of 0 to 64");
		width = (int)indent->i;
	}
	r = jv_tojson(ev, &s, &c->self, width, 0, sort && jv_truth(sort), ascii && jv_truth(ascii));
	if (r == 0)
		r = jv_from_sbuf(ev, ret, &s);
	sbuf_deinit(&s);
	return r == -ENOSPC ? jv_no_memory(ev) : r;
}

/* ---- filters on numbers ---- */

static int f_int(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *def = jcall_arg(c, 0, "default");
	char text[64];
	double x;

	(void)ev;
	*ret = def ? *def : jv_int(0);
	if (c->self.kind == JK_INT || c->self.kind == JK_BOOL) {
		*ret = jv_int(c->self.kind == JK_INT ? c->self.i : c->self.b);
	} else if (jv_number(&c->self, &x) ||
	           (c->self.kind == JK_STR && jstr_number(c->self.s, text, sizeof(text), &x))) {
		if (x > -9.2e18 && x < 9.2e18)
			*ret = jv_int((int64_t)x);
	}
	return 0;
}

static int f_float(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *def = jcall_arg(c, 0, "default");
	char text[64];
	double x;

	(void)ev;
	*ret = def ? *def : jv_float(0);
	if (jv_number(&c->self, &x) ||
	    (c->self.kind == JK_STR && jstr_number(c->self.s, text, sizeof(text), &x)))
		*ret = jv_float(x);
	return 0;
}

static int f_abs(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	double x;

	if (c->self.kind == JK_INT && c->self.i != INT64_MIN)
		*ret = jv_int(c->self.i < 0 ? -c->self.i : c->self.i);
	else if (jv_number(&c->self, &x))
		*ret = jv_float(fabs(x));
	else
		return jv_fail(ev, "abs wants a number, not %s", jv_kind_name(&c->self));
	return 0;
}

static int f_round(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *digits = jcall_arg(c, 0, "precision"), *method = jcall_arg(c, 1, "method");
	int64_t n = digits && digits->kind == JK_INT ? digits->i : 0;
	double x, scale;
	char text[400];

	if (!jv_number(&c->self, &x))
		return jv_fail(ev, "round wants a number, not %s", jv_kind_name(&c->self));
	if (n < 0 || n > 15)
		return jv_fail(ev, "round wants a precision of 0 to 15");
	scale = pow(10, (double)n);
	if (method && method->kind == JK_STR && bytes_eq(method->s, bytes_of("ceil"))) {
		x = ceil(x * scale) / scale;
	} else if (method && method->kind == JK_STR && bytes_eq(method->s, bytes_of("floor"))) {
		x = floor(x * scale) / scale;
	} else { /* the decimal that is nearest, ties as stored: Python's */
		snprintf(text, sizeof(text), "%.*f", (int)n, x);
		x = strtod(text, NULL);
	}
	*ret = jv_float(x);
	return 0;
}

/* ---- filters on items ---- */

static int f_length(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	size_t n = 0;
	int r = jv_length(ev, &c->self, &n);

	*ret = jv_int((int64_t)n);
	return r;
}

static int f_first(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jlist *items;
	int r = jv_items(ev, &c->self, &items);

	if (r == 0)
		*ret = items->n ? items->v[0] : jv_undef;
	return r;
}

static int f_last(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jlist *items;
	int r = jv_items(ev, &c->self, &items);

	if (r == 0)
		*ret = items->n ? items->v[items->n - 1] : jv_undef;
	return r;
}

static int f_list(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jlist *items;
	int r = jv_items(ev, &c->self, &items);

	if (r == 0)
		*ret = (struct jv){ .kind = JK_LIST, .list = items };
	return r;
}

static int copy_items(struct jeval *ev, const struct jv *v, struct jlist **ret)
{
	const struct jlist *items;
	int r = jv_items(ev, v, &items);

	if (r < 0)
		return r;
	*ret = jv_list_new(ev, items->n);
	if (!*ret)
		return jv_no_memory(ev);
	memcpy((*ret)->v, items->v, items->n * sizeof(items->v[0]));
	return jv_charge(ev, items->n);
}

static int f_reverse(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct jlist *list;
	struct sbuf s = { 0 };
	int r = copy_items(ev, &c->self, &list);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < list->n / 2; i++) {
		struct jv swap = list->v[i];

		list->v[i] = list->v[list->n - 1 - i];
		list->v[list->n - 1 - i] = swap;
	}
	if (c->self.kind != JK_STR)
		return jv_list_seal(ev, list, ret);
	for (uint32_t i = 0; r == 0 && i < list->n; i++)
		r = jv_print(&s, &list->v[i]);
	if (r == 0)
		r = jv_from_sbuf(ev, ret, &s);
	sbuf_deinit(&s);
	return r;
}

static int f_sort(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *reverse = jcall_arg(c, 0, "reverse"),
			*exact = jcall_arg(c, 1, "case_sensitive"),
			*attribute = jcall_arg(c, 2, "attribute");
	struct jlist *list;
	int r = copy_items(ev, &c->self, &list);

	if (r == 0)
		r = jv_sort(ev, list->v, list->n, reverse && jv_truth(reverse),
		            attribute && attribute->kind == JK_STR ? &attribute->s : NULL,
		            !exact || !jv_truth(exact));
	return r < 0 ? r : jv_list_seal(ev, list, ret);
}

static int f_unique(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct jlist *list;
	uint32_t n = 0;
	int r = copy_items(ev, &c->self, &list);

	for (uint32_t i = 0; r == 0 && i < list->n; i++) {
		bool seen = false;

		for (uint32_t j = 0; !seen && j < n; j++)
			seen = jv_equal(&list->v[i], &list->v[j]);
		if (!seen)
			list->v[n++] = list->v[i];
		r = jv_charge(ev, n / 8);
	}
	if (r < 0)
		return r;
	list->n = n;
	return jv_list_seal(ev, list, ret);
}

static int f_join(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *sep = jcall_arg(c, 0, "d"), *attribute = jcall_arg(c, 1, "attribute");
	struct sbuf s = { .max = JINJA_HEAP_MAX };
	const struct jlist *items;
	int r = jv_items(ev, &c->self, &items);

	for (uint32_t i = 0; r == 0 && i < items->n; i++) {
		struct jv item = items->v[i];

		if (attribute)
			r = jv_item(ev, &items->v[i], attribute, &item);
		if (r == 0 && i && sep)
			r = jv_print(&s, sep);
		if (r == 0)
			r = jv_print(&s, &item);
	}
	if (r == 0)
		r = jv_from_sbuf(ev, ret, &s);
	sbuf_deinit(&s);
	return r == -ENOSPC ? jv_no_memory(ev) : r;
}

static int pair(struct jeval *ev, const struct jv *a, const struct jv *b, struct jv *ret)
{
	struct jlist *list = jv_list_new(ev, 2);
	int r;

	if (!list)
		return jv_no_memory(ev);
	list->v[0] = *a;
	list->v[1] = *b;
	r = jv_list_seal(ev, list, ret);
	ret->tuple = true;
	return r;
}

int jv_dict_items(struct jeval *ev, const struct jv *v, struct jv *ret)
{
	struct jlist *list;
	uint32_t n = v->kind == JK_DICT ? v->dict->n : 0;
	int r;

	if (v->kind != JK_DICT && v->kind != JK_UNDEF)
		return jv_fail(ev, "items wants a dictionary, not %s", jv_kind_name(v));
	list = jv_list_new(ev, n);
	if (!list)
		return jv_no_memory(ev);
	r = jv_charge(ev, n);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		r = pair(ev, &v->dict->e[i].key, &v->dict->e[i].val, &list->v[i]);
	return r < 0 ? r : jv_list_seal(ev, list, ret);
}

static int f_items(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return jv_dict_items(ev, &c->self, ret);
}

static int f_dictsort(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *exact = jcall_arg(c, 0, "case_sensitive"), *by = jcall_arg(c, 1, "by"),
		*reverse = jcall_arg(c, 2, "reverse");
	bool by_value = by && by->kind == JK_STR && bytes_eq(by->s, bytes_of("value"));
	struct jv all, *order;
	struct jlist *list;
	int r = jv_dict_items(ev, &c->self, &all);

	if (r < 0 || (r = copy_items(ev, &all, &list)) < 0)
		return r;
	/* Pairs sort by their member 0 or 1: put a view of that member first. */
	order = arena_alloc(&ev->mem, (list->n + 1) * sizeof(*order));
	if (!order)
		return jv_no_memory(ev);
	for (uint32_t i = 0; r == 0 && i < list->n; i++) {
		const struct jv at = jv_int(i);

		r = pair(ev, &list->v[i].list->v[by_value], &at, &order[i]);
		if (r == 0 && order[i].list->v[0].kind == JK_STR && !(exact && jv_truth(exact)))
			r = jstr_case(ev, order[i].list->v[0].s, JSTR_LOWER,
			              (struct jv *)&order[i].list->v[0]);
	}
	if (r == 0)
		r = jv_sort(ev, order, list->n, reverse && jv_truth(reverse), NULL, false);
	for (uint32_t i = 0; r == 0 && i < list->n; i++)
		list->v[i] = all.list->v[order[i].list->v[1].i];
	return r < 0 ? r : jv_list_seal(ev, list, ret);
}

static int f_default(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *def = jcall_arg(c, 0, "default_value"),
			*falsy = jcall_arg(c, 1, "boolean");

	(void)ev;
	if (c->self.kind == JK_UNDEF || (falsy && jv_truth(falsy) && !jv_truth(&c->self)))
		*ret = def ? *def : jv_str(bytes_of(""));
	else
		*ret = c->self;
	return 0;
}

static int f_sum(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *attribute = jcall_arg(c, 0, "attribute");
	const struct jlist *items;
	int64_t whole = 0;
	double total = 0, x;
	bool real = false;
	int r = jv_items(ev, &c->self, &items);

	for (uint32_t i = 0; r == 0 && i < items->n; i++) {
		struct jv item = items->v[i];

		if (attribute)
			r = jv_item(ev, &items->v[i], attribute, &item);
		if (r == 0 && !jv_number(&item, &x))
			return jv_fail(ev, "sum wants numbers, not %s", jv_kind_name(&item));
		total += x;
		real |= item.kind == JK_FLOAT;
		if (!real && add_overflows(whole, item.kind == JK_INT ? item.i : item.b, &whole))
			return jv_fail(ev, "a sum is out of range");
	}
	*ret = real ? jv_float(total) : jv_int(whole);
	return r;
}

static int extreme(struct jeval *ev, const struct jcall *c, int sign, struct jv *ret)
{
	const struct jlist *items;
	int r = jv_items(ev, &c->self, &items), order = 0;

	*ret = jv_undef;
	for (uint32_t i = 0; r == 0 && i < items->n; i++) {
		if (i)
			r = jv_compare(ev, &items->v[i], ret, &order);
		if (i == 0 || order * sign > 0)
			*ret = items->v[i];
	}
	return r;
}

static int f_max(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return extreme(ev, c, 1, ret);
}

static int f_min(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return extreme(ev, c, -1, ret);
}

/* map(attribute=NAME, default=X) or map(FILTER, operands ...) */
static int f_map(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *attribute = c->n == 0 ? jcall_arg(c, 0, "attribute") : NULL,
			*def = jcall_arg(c, UINT32_MAX, "default");
	const struct jfunc *filter = NULL;
	struct jlist *list;
	struct bytes name = { 0 };
	/* as jinja2: none maps to nothing */
	int r = copy_items(ev, jv_truth(&c->self) ? &c->self : &jv_undef, &list);

	if (r == 0 && !attribute) {
		r = need_str(ev, c, jcall_arg(c, 0, ""), &name);
		filter = r == 0 ? jinja_filter_find(name) : NULL;
		if (r == 0 && !filter)
			return jv_fail(ev, "map names a filter that is not supported");
	}
	for (uint32_t i = 0; r == 0 && i < list->n; i++) {
		struct jv item = list->v[i];

		if (attribute) {
			r = jv_item(ev, &item, attribute, &list->v[i]);
			if (r == 0 && list->v[i].kind == JK_UNDEF && def)
				list->v[i] = *def;
		} else {
			struct jcall inner = { .name = filter->name,
				               .self = item,
				               .arg = c->arg + 1,
				               .n = c->n - 1,
				               .kw = c->kw,
				               .n_kw = c->n_kw };

			r = filter->fn(ev, &inner, &list->v[i]);
		}
	}
	return r < 0 ? r : jv_list_seal(ev, list, ret);
}

/* Keep the items that pass (or fail) a test, of themselves or of an attribute. */
static int sift(struct jeval *ev, const struct jcall *c, bool by_attribute, bool keep,
                struct jv *ret)
{
	const struct jfunc *test = NULL;
	struct jlist *list;
	struct bytes name = { 0 };
	uint32_t n = 0, skip = by_attribute;
	int r = copy_items(ev, jv_truth(&c->self) ? &c->self : &jv_undef, &list);

	if (r == 0 && c->n < skip)
		return jv_fail(ev, "%s wants the name of an attribute", c->name);
	if (r == 0 && c->n > skip) {
		r = need_str(ev, c, &c->arg[skip], &name);
		test = r == 0 ? jinja_test_find(name) : NULL;
		if (r == 0 && !test)
			return jv_fail(ev, "%s names a test that is not supported", c->name);
	}
	for (uint32_t i = 0; r == 0 && i < list->n; i++) {
		struct jv probe = list->v[i], passed;

		if (by_attribute)
			r = jv_item(ev, &list->v[i], &c->arg[0], &probe);
		passed = jv_bool(jv_truth(&probe));
		if (r == 0 && test) {
			struct jcall inner = { .name = test->name,
				               .self = probe,
				               .arg = c->arg + skip + 1,
				               .n = c->n - skip - 1 };

			r = test->fn(ev, &inner, &passed);
		}
		if (r == 0 && jv_truth(&passed) == keep)
			list->v[n++] = list->v[i];
	}
	if (r < 0)
		return r;
	list->n = n;
	return jv_list_seal(ev, list, ret);
}

static int f_select(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return sift(ev, c, false, true, ret);
}

static int f_reject(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return sift(ev, c, false, false, ret);
}

static int f_selectattr(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return sift(ev, c, true, true, ret);
}

static int f_rejectattr(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return sift(ev, c, true, false, ret);
}

static int f_attr(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct bytes name = { 0 };
	int r = need_str(ev, c, jcall_arg(c, 0, "name"), &name);

	return r < 0 ? r : jv_attr(ev, &c->self, name, ret);
}

static const struct jfunc filters[] = {
	{ "abs", f_abs },           { "attr", f_attr },       { "capitalize", f_capitalize },
	{ "count", f_length },      { "d", f_default },       { "default", f_default },
	{ "dictsort", f_dictsort }, { "e", f_escape },        { "escape", f_escape },
	{ "first", f_first },       { "float", f_float },     { "indent", f_indent },
	{ "int", f_int },           { "items", f_items },     { "join", f_join },
	{ "last", f_last },         { "length", f_length },   { "list", f_list },
	{ "lower", f_lower },       { "map", f_map },         { "max", f_max },
	{ "min", f_min },           { "reject", f_reject },   { "rejectattr", f_rejectattr },
	{ "replace", f_replace },   { "reverse", f_reverse }, { "round", f_round },
	{ "safe", f_string },       { "select", f_select },   { "selectattr", f_selectattr },
	{ "sort", f_sort },         { "string", f_string },   { "sum", f_sum },
	{ "title", f_title },       { "tojson", f_tojson },   { "trim", f_trim },
	{ "unique", f_unique },     { "upper", f_upper },
};

static const struct jfunc *find(const struct jfunc *rows, size_t n, struct bytes name)
{
	for (size_t i = 0; i < n; i++)
		if (bytes_eq(name, bytes_of(rows[i].name)))
			return &rows[i];
	return NULL;
}

const struct jfunc *jinja_filter_find(struct bytes name)
{
	return find(filters, ARRAY_SIZE(filters), name);
}

/* ---- tests ---- */

#define TEST(name, expr) \
	static int name(struct jeval *ev, const struct jcall *c, struct jv *ret) \
	{ \
		(void)ev; \
		*ret = jv_bool(expr); \
		return 0; \
	}
TEST(t_defined, c->self.kind != JK_UNDEF)
TEST(t_undefined, c->self.kind == JK_UNDEF)
TEST(t_none, c->self.kind == JK_NONE)
TEST(t_string, c->self.kind == JK_STR)
TEST(t_mapping, c->self.kind == JK_DICT)
TEST(t_iterable, c->self.kind == JK_STR || c->self.kind == JK_LIST || c->self.kind == JK_DICT ||
                         c->self.kind == JK_UNDEF)
TEST(t_number, c->self.kind == JK_INT || c->self.kind == JK_FLOAT || c->self.kind == JK_BOOL)
TEST(t_integer, c->self.kind == JK_INT)
TEST(t_float, c->self.kind == JK_FLOAT)
TEST(t_boolean, c->self.kind == JK_BOOL)
TEST(t_true, c->self.kind == JK_BOOL && c->self.b)
TEST(t_false, c->self.kind == JK_BOOL && !c->self.b)
TEST(t_callable, c->self.kind >= JK_MACRO)
TEST(t_odd, c->self.kind == JK_INT && c->self.i % 2 != 0)
TEST(t_even, c->self.kind == JK_INT && c->self.i % 2 == 0)
TEST(t_eq, c->n == 1 && jv_equal(&c->self, &c->arg[0]))
TEST(t_ne, c->n == 1 && !jv_equal(&c->self, &c->arg[0]))
TEST(t_sameas, c->n == 1 && c->self.kind == c->arg[0].kind && jv_equal(&c->self, &c->arg[0]))
TEST(t_lower, c->self.kind == JK_STR && jstr_is_case(c->self.s, JSTR_LOWER))
TEST(t_upper, c->self.kind == JK_STR && jstr_is_case(c->self.s, JSTR_UPPER))
TEST(t_filter, c->self.kind == JK_STR && jinja_filter_find(c->self.s))

static int t_in(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	bool in = false;
	int r = c->n == 1 ? jv_contains(ev, &c->arg[0], &c->self, &in)
	                  : jv_fail(ev, "the test \"in\" wants an operand");

	*ret = jv_bool(in);
	return r;
}

static int t_divisible(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	if (c->n != 1 || c->self.kind != JK_INT || c->arg[0].kind != JK_INT || c->arg[0].i == 0)
		return jv_fail(ev, "divisibleby wants integers, the second not 0");
	*ret = jv_bool(c->arg[0].i == -1 || c->self.i % c->arg[0].i == 0);
	return 0;
}

#define ORDER_TEST(name, expr)                                                   \
	static int name(struct jeval *ev, const struct jcall *c, struct jv *ret) \
	{                                                                        \
		int order = 0;                                                   \
		int r = c->n == 1 ? jv_compare(ev, &c->self, &c->arg[0], &order) \
		                  : jv_fail(ev, "a test wants an operand");      \
		*ret = jv_bool(expr);                                            \
		return r;                                                        \
	}
ORDER_TEST(t_lt, order < 0)
ORDER_TEST(t_le, order <= 0)
ORDER_TEST(t_gt, order > 0)
ORDER_TEST(t_ge, order >= 0)

static const struct jfunc tests[] = {
	{ "defined", t_defined },
	{ "undefined", t_undefined },
	{ "none", t_none },
	{ "string", t_string },
	{ "mapping", t_mapping },
	{ "iterable", t_iterable },
	{ "sequence", t_iterable },
	{ "number", t_number },
	{ "integer", t_integer },
	{ "float", t_float },
	{ "boolean", t_boolean },
	{ "true", t_true },
	{ "false", t_false },
	{ "callable", t_callable },
	{ "odd", t_odd },
	{ "even", t_even },
	{ "divisibleby", t_divisible },
	{ "eq", t_eq },
	{ "equalto", t_eq },
	{ "==", t_eq },
	{ "ne", t_ne },
	{ "sameas", t_sameas },
	{ "lt", t_lt },
	{ "lessthan", t_lt },
	{ "le", t_le },
	{ "gt", t_gt },
	{ "greaterthan", t_gt },
	{ "ge", t_ge },
	{ "in", t_in },
	{ "lower", t_lower },
	{ "upper", t_upper },
	{ "filter", t_filter },
};

const struct jfunc *jinja_test_find(struct bytes name)
{
	return find(tests, ARRAY_SIZE(tests), name);
}
