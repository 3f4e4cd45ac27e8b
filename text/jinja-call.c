/* jinja-call - the tables of methods and global functions. Methods that would change their object
 * do not exist: the templates' reference runs them in a sandbox with immutable data. */
#include <errno.h>
#include <time.h>
#include "base/vec.h"
#include "text/jinja-str.h"

static int opt_chars(struct jeval *ev, const struct jcall *c, uint32_t at, const char *name,
                     struct bytes *ret, bool *given)
{
	const struct jv *v = jcall_arg(c, at, name);

	*given = v && v->kind != JK_NONE;
	if (*given && v->kind != JK_STR)
		return jv_fail(ev, "%s wants a string, not %s", c->name, jv_kind_name(v));
	if (*given)
		*ret = v->s;
	return 0;
}

static int strip(struct jeval *ev, const struct jcall *c, unsigned sides, struct jv *ret)
{
	struct bytes chars;
	bool given;
	int r = opt_chars(ev, c, 0, "chars", &chars, &given);

	if (r == 0)
		*ret = jv_str(jstr_strip(c->self.s, given ? &chars : NULL, sides));
	return r;
}

static int m_strip(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return strip(ev, c, JSTR_LEFT | JSTR_RIGHT, ret);
}

static int m_lstrip(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return strip(ev, c, JSTR_LEFT, ret);
}

static int m_rstrip(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return strip(ev, c, JSTR_RIGHT, ret);
}

static int split(struct jeval *ev, const struct jcall *c, bool from_right, struct jv *ret)
{
	const struct jv *max = jcall_arg(c, 1, "maxsplit");
	struct bytes sep;
	bool given;
	int r = opt_chars(ev, c, 0, "sep", &sep, &given);

	if (r < 0)
		return r;
	return jstr_split(ev, c->self.s, given ? &sep : NULL,
	                  max && max->kind == JK_INT ? max->i : -1, from_right, ret);
}

static int m_split(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return split(ev, c, false, ret);
}

static int m_rsplit(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return split(ev, c, true, ret);
}

static int m_splitlines(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct bytes s = c->self.s, newline = bytes_of("\n");
	int r;

	if (s.n && s.p[s.n - 1] == '\n')
		s.n--;
	else if (s.n == 0)
		return jstr_split(ev, s, NULL, -1, false, ret);
	r = jstr_split(ev, s, &newline, -1, false, ret);
	return r;
}

static bool affix(struct bytes s, struct bytes what, bool end)
{
	return s.n >= what.n &&
	       (what.n == 0 || memcmp(end ? s.p + s.n - what.n : s.p, what.p, what.n) == 0);
}

static int has_affix(struct jeval *ev, const struct jcall *c, bool end, struct jv *ret)
{
	const struct jv *what = jcall_arg(c, 0, "");
	bool is = false;

	if (!what || (what->kind != JK_STR && what->kind != JK_LIST))
		return jv_fail(ev, "%s wants a string", c->name);
	if (what->kind == JK_STR)
		is = affix(c->self.s, what->s, end);
	else
		for (uint32_t i = 0; i < what->list->n; i++)
			is |= what->list->v[i].kind == JK_STR &&
			      affix(c->self.s, what->list->v[i].s, end);
	*ret = jv_bool(is);
	return 0;
}

static int m_startswith(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return has_affix(ev, c, false, ret);
}

static int m_endswith(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return has_affix(ev, c, true, ret);
}

static int cut_affix(struct jeval *ev, const struct jcall *c, bool end, struct jv *ret)
{
	struct bytes what, s = c->self.s;
	bool given;
	int r = opt_chars(ev, c, 0, "", &what, &given);

	if (r == 0 && given && affix(s, what, end))
		s = (struct bytes){ end ? s.p : s.p + what.n, s.n - what.n };
	*ret = jv_str(s);
	return r;
}

static int m_removeprefix(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return cut_affix(ev, c, false, ret);
}

static int m_removesuffix(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return cut_affix(ev, c, true, ret);
}

#define CASE_METHOD(fname, how) \
	static int fname(struct jeval *ev, const struct jcall *c, struct jv *ret) \
	{ \
		return jstr_case(ev, c->self.s, how, ret); \
	}
CASE_METHOD(m_upper, JSTR_UPPER)
CASE_METHOD(m_lower, JSTR_LOWER)
CASE_METHOD(m_title, JSTR_TITLE)
CASE_METHOD(m_capitalize, JSTR_CAPITALIZE)

static int m_replace(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *old = jcall_arg(c, 0, "old"), *new = jcall_arg(c, 1, "new"),
			*max = jcall_arg(c, 2, "count");

	if (!old || !new || old->kind != JK_STR || new->kind != JK_STR)
		return jv_fail(ev, "replace wants two strings");
	return jstr_replace(ev, c->self.s, old->s, new->s, max && max->kind == JK_INT ? max->i : -1,
	                    ret);
}

/* Index in code points, -1 when absent. */
static int find(struct jeval *ev, const struct jcall *c, bool last, int64_t *ret)
{
	struct bytes s = c->self.s, what = { 0 };
	const char *hit = NULL;
	bool given;
	int r = opt_chars(ev, c, 0, "", &what, &given);

	if (r < 0 || (r = jv_charge(ev, s.n / 64)) < 0)
		return r;
	if (!given)
		return jv_fail(ev, "%s wants a string", c->name);
	if (!last)
		hit = what.n == 0 ? s.p : jstr_find(s, what);
	else if ((r = jv_charge(ev, jstr_last_steps(s, what))) < 0)
		return r;
	else
		hit = what.n == 0 ? s.p + s.n : jstr_find_last(s, what);
	*ret = hit ? (int64_t)utf8_count((struct bytes){ s.p, (size_t)(hit - s.p) }) : -1;
	return 0;
}

static int m_find(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	int64_t at = -1;
	int r = find(ev, c, false, &at);

	*ret = jv_int(at);
	return r;
}

static int m_rfind(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	int64_t at = -1;
	int r = find(ev, c, true, &at);

	*ret = jv_int(at);
	return r;
}

static int m_count(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct bytes s = c->self.s, what = { 0 };
	int64_t n = 0;
	bool given;
	int r = opt_chars(ev, c, 0, "", &what, &given);

	if (r < 0 || (r = jv_charge(ev, s.n / 64)) < 0)
		return r;
	if (what.n == 0)
		return jv_fail(ev, "count wants a string that is not empty");
	for (const char *hit; (hit = jstr_find(s, what)) != NULL; n++)
		s = (struct bytes){ hit + what.n, s.n - (size_t)(hit - s.p) - what.n };
	*ret = jv_int(n);
	return 0;
}

static int m_join(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jfunc *join = jinja_filter_find(bytes_of("join"));
	struct jcall inner = { .name = "join", .arg = &c->self, .n = 1 };

	if (c->n != 1)
		return jv_fail(ev, "join wants one operand");
	inner.self = c->arg[0];
	return join->fn(ev, &inner, ret);
}

static bool all_of(struct bytes s, bool digits, bool letters)
{
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		bool is_digit = c >= '0' && c <= '9',
		     is_letter = (c | 32) >= 'a' && (c | 32) <= 'z';

		if (!((digits && is_digit) || (letters && (is_letter || c < 0))))
			return false;
	}
	return s.n > 0;
}

static int m_isdigit(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	*ret = jv_bool(all_of(c->self.s, true, false));
	return jv_charge(ev, c->self.s.n / 256);
}

static int m_isalpha(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	*ret = jv_bool(all_of(c->self.s, false, true));
	return jv_charge(ev, c->self.s.n / 256);
}

static int m_isalnum(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	*ret = jv_bool(all_of(c->self.s, true, true));
	return jv_charge(ev, c->self.s.n / 256);
}

static int m_isspace(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	*ret = jv_bool(c->self.s.n && jstr_strip(c->self.s, NULL, JSTR_LEFT).n == 0);
	return jv_charge(ev, c->self.s.n / 256);
}

static int m_items(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	return jv_dict_items(ev, &c->self, ret);
}

static int m_keys(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jlist *keys;
	int r = jv_items(ev, &c->self, &keys);

	if (r == 0)
		*ret = (struct jv){ .kind = JK_LIST, .list = keys };
	return r;
}

static int m_values(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct jlist *list = jv_list_new(ev, c->self.dict->n);

	if (!list)
		return jv_no_memory(ev);
	for (uint32_t i = 0; i < list->n; i++)
		list->v[i] = c->self.dict->e[i].val;
	return jv_list_seal(ev, list, ret);
}

static int m_get(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jv *key = jcall_arg(c, 0, "key"), *def = jcall_arg(c, 1, "default"), *found;

	if (!key)
		return jv_fail(ev, "get wants a key");
	found = jv_dict_get(ev, c->self.dict, key);
	*ret = found ? *found : def ? *def : jv_none;
	return 0;
}

static int m_index(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	const struct jlist *list = c->self.list;

	if (c->n != 1)
		return jv_fail(ev, "index wants one operand");
	for (uint32_t i = 0; i < list->n; i++) {
		if (jv_equal(&list->v[i], &c->arg[0])) {
			*ret = jv_int(i);
			return jv_charge(ev, i / 8);
		}
	}
	return jv_fail(ev, "index finds no such item in a list");
}

static int m_list_count(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	int64_t n = 0;

	if (c->n != 1)
		return jv_fail(ev, "count wants one operand");
	for (uint32_t i = 0; i < c->self.list->n; i++)
		n += jv_equal(&c->self.list->v[i], &c->arg[0]);
	*ret = jv_int(n);
	return jv_charge(ev, c->self.list->n / 8);
}

/* loop.cycle(a, b, ...) and loop.changed are rarely seen; cycle is cheap to have. */
static int m_cycle(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	if (c->n == 0)
		return jv_fail(ev, "cycle wants operands");
	*ret = c->arg[c->self.loop->at % c->n];
	return 0;
}

static const struct jfunc str_methods[] = {
	{ "strip", m_strip },
	{ "lstrip", m_lstrip },
	{ "rstrip", m_rstrip },
	{ "split", m_split },
	{ "rsplit", m_rsplit },
	{ "splitlines", m_splitlines },
	{ "startswith", m_startswith },
	{ "endswith", m_endswith },
	{ "removeprefix", m_removeprefix },
	{ "removesuffix", m_removesuffix },
	{ "upper", m_upper },
	{ "lower", m_lower },
	{ "title", m_title },
	{ "capitalize", m_capitalize },
	{ "replace", m_replace },
	{ "find", m_find },
	{ "rfind", m_rfind },
	{ "count", m_count },
	{ "join", m_join },
	{ "isdigit", m_isdigit },
	{ "isalpha", m_isalpha },
	{ "isalnum", m_isalnum },
	{ "isspace", m_isspace },
	{ NULL, NULL },
};
static const struct jfunc dict_methods[] = {
	{ "items", m_items }, { "keys", m_keys }, { "values", m_values },
	{ "get", m_get },     { NULL, NULL },
};
static const struct jfunc list_methods[] = { { "index", m_index },
	                                     { "count", m_list_count },
	                                     { NULL, NULL } };
static const struct jfunc loop_methods[] = { { "cycle", m_cycle }, { NULL, NULL } };

const struct jfunc *jinja_method_find(enum jk kind, struct bytes name)
{
	const struct jfunc *f = kind == JK_STR    ? str_methods
	                        : kind == JK_DICT ? dict_methods
	                        : kind == JK_LIST ? list_methods
	                        : kind == JK_LOOP ? loop_methods
	                                          : NULL;

	for (; f && f->name; f++)
		if (bytes_eq(name, bytes_of(f->name)))
			return f;
	return NULL;
}

/* ---- globals ---- */

static int g_range(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	int64_t begin = 0, end = 0, step = 1, n;
	struct jlist *list;
	int r;

	if (c->n < 1 || c->n > 3)
		return jv_fail(ev, "range wants one to three integers");
	for (uint32_t i = 0; i < c->n; i++)
		if (c->arg[i].kind != JK_INT || c->arg[i].i > (1ll << 40) ||
		    c->arg[i].i < -(1ll << 40))
			return jv_fail(ev, "range wants integers of sensible size");
	if (c->n == 1)
		end = c->arg[0].i;
	else
		begin = c->arg[0].i, end = c->arg[1].i;
	if (c->n == 3)
		step = c->arg[2].i;
	if (step == 0)
		return jv_fail(ev, "range wants a step that is not 0");
	n = step > 0 ? (end - begin + step - 1) / step : (begin - end - step - 1) / -step;
	n = MAX(n, 0);
	r = jv_charge(ev, (uint64_t)n);         /* before the memory: range(1e9) costs nothing */
	if (r < 0)
		return r;
	list = jv_list_new(ev, (size_t)n);
	if (!list)
		return jv_no_memory(ev);
	for (int64_t i = 0; i < n; i++)
		list->v[i] = jv_int(begin + i * step);
	return jv_list_seal(ev, list, ret);
}

static int g_raise(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct sbuf s = { .max = 256 };
	char shown[320];

	(void)ret;
	if (c->n)
		jv_print(&s, &c->arg[0]);
	str_escape(shown, sizeof(shown), s.p ? s.p : "", s.n);
	sbuf_deinit(&s);
	return jv_fail(ev, "the template refuses these messages: %s", shown);
}

static int g_strftime_now(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	char format[64], text[256];
	time_t now = time(NULL);
	struct tm tm;

	if (c->n != 1 || c->arg[0].kind != JK_STR || c->arg[0].s.n >= sizeof(format))
		return jv_fail(ev, "strftime_now wants a format of less than %zu bytes",
		               sizeof(format));
	memcpy(format, c->arg[0].s.p, c->arg[0].s.n);
	format[c->arg[0].s.n] = 0;
	localtime_r(&now, &tm);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	size_t n = strftime(text, sizeof(text), format, &tm);
#pragma GCC diagnostic pop

	return jv_make_str(ev, ret, text, n);
}

static int g_namespace(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct jns *ns = arena_alloc(&ev->mem, sizeof(*ns));

	if (!ns)
		return jv_no_memory(ev);
	for (uint32_t i = 0; i < c->n_kw; i++) {
		struct jvar *var = arena_alloc(&ev->mem, sizeof(*var));

		if (!var)
			return jv_no_memory(ev);
		*var = (struct jvar){ c->kw[i].name, c->kw[i].val, ns->vars };
		ns->vars = var;
	}
	*ret = (struct jv){ .kind = JK_NS, .ns = ns };
	return 0;
}

static int g_dict(struct jeval *ev, const struct jcall *c, struct jv *ret)
{
	struct jdict *d = jv_dict_new(ev, c->n_kw);

	if (!d)
		return jv_no_memory(ev);
	for (uint32_t i = 0; i < c->n_kw; i++)
		d->e[i] = (struct jentry){ jv_str(c->kw[i].name), c->kw[i].val };
	return jv_dict_seal(ev, d, ret);
}

static const struct jfunc globals[] = {
	{ "range", g_range }, { "raise_exception", g_raise }, { "strftime_now", g_strftime_now },
	{ "namespace", g_namespace }, { "dict", g_dict },
};

const struct jfunc *jinja_global_find(struct bytes name)
{
	for (size_t i = 0; i < ARRAY_SIZE(globals); i++)
		if (bytes_eq(name, bytes_of(globals[i].name)))
			return &globals[i];
	return NULL;
}
