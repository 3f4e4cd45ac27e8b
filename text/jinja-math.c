/* jinja-math - arithmetic, concatenation and slices with Python's rules. Integers have 64 bits:
 * what does not fit is an error, never a wrong number. */
#include <errno.h>
#include <math.h>
#include "text/jinja-priv.h"

int jv_concat(struct jeval *ev, const struct jv *v, size_t n, struct jv *ret)
{
	struct sbuf s = { .max = JINJA_HEAP_MAX };
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = jv_print(&s, &v[i]);
	if (r == 0)
		r = jv_charge(ev, s.n / 256);
	if (r == 0)
		r = jv_from_sbuf(ev, ret, &s);
	sbuf_deinit(&s);
	return r == -ENOSPC ? jv_no_memory(ev) : r;
}

static int no_operator(struct jeval *ev, enum jop op, const struct jv *a, const struct jv *b)
{
	static const char *const names[] = { "+", "-", "*", "/", "//", "%", "**" };

	return jv_fail(ev, "\"%s\" does not join %s and %s", names[op], jv_kind_name(a),
	               jv_kind_name(b));
}

static int add_lists(struct jeval *ev, const struct jv *a, const struct jv *b, struct jv *ret)
{
	struct jlist *list = jv_list_new(ev, (size_t)a->list->n + b->list->n);
	int r;

	if (!list)
		return jv_no_memory(ev);
	memcpy(list->v, a->list->v, a->list->n * sizeof(list->v[0]));
	memcpy(list->v + a->list->n, b->list->v, b->list->n * sizeof(list->v[0]));
	if ((r = jv_charge(ev, list->n / 8)) < 0 || (r = jv_list_seal(ev, list, ret)) < 0)
		return r;
	ret->tuple = a->tuple;
	return 0;
}

static int repeat(struct jeval *ev, const struct jv *what, int64_t times, struct jv *ret)
{
	size_t n = what->kind == JK_STR ? what->s.n : what->list->n, total;
	struct jlist *list;
	char *p;
	int r;

	times = MAX(times, 0);
	if (mul_overflows(n, (uint64_t)times, &total) || total > JINJA_HEAP_MAX)
		return err_set(ev->err, -E2BIG, "chat template, line %u: a repetition is too long",
		               ev->line);
	if ((r = jv_charge(ev, total / 64)) < 0)
		return r;
	if (what->kind == JK_STR) {
		p = arena_alloc(&ev->mem, total + 1);
		if (!p)
			return jv_no_memory(ev);
		for (size_t at = 0; at < total; at += n)
			memcpy(p + at, what->s.p, n);
		*ret = jv_str((struct bytes){ p, total });
		return 0;
	}
	list = jv_list_new(ev, total);
	if (!list)
		return jv_no_memory(ev);
	for (size_t at = 0; at < total; at += n)
		memcpy(list->v + at, what->list->v, n * sizeof(list->v[0]));
	return jv_list_seal(ev, list, ret);
}

static int64_t as_int(const struct jv *v)
{
	return v->kind == JK_INT ? v->i : v->b;
}

static bool power(int64_t base, int64_t exponent, int64_t *ret)
{
	*ret = 1;
	for (; exponent > 0; exponent--) {
		if (mul_overflows(*ret, base, ret))
			return false;
		if (base == 0 || base == 1)
			break;
		if (base == -1) {
			*ret = exponent % 2 ? -1 : 1;
			break;
		}
	}
	return true;
}

static int int_math(struct jeval *ev, enum jop op, int64_t a, int64_t b, struct jv *ret)
{
	int64_t x = 0;
	bool fits = true;

	if ((op == JO_FLOORDIV || op == JO_MOD) && b == 0)
		return jv_fail(ev, "division by zero");
	switch (op) {
	case JO_ADD:
		fits = !add_overflows(a, b, &x);
		break;
	case JO_SUB:
		fits = !sub_overflows(a, b, &x);
		break;
	case JO_MUL:
		fits = !mul_overflows(a, b, &x);
		break;
	case JO_POW:
		fits = power(a, b, &x);
		break;
	default:
		/* Rounded down, the remainder has the divisor's sign; -1 apart, since INT64_MIN /
		 * -1 traps. */
		if (b == -1) {
			fits = op == JO_MOD || !sub_overflows((int64_t)0, a, &x);
			break;
		}
		x = op == JO_MOD ? a % b : a / b;
		if (a % b != 0 && (a < 0) != (b < 0))
			x += op == JO_MOD ? b : -1;
		break;
	}
	*ret = jv_int(x);
	return fits ? 0 : jv_fail(ev, "an integer is out of range");
}

int jv_math(struct jeval *ev, enum jop op, const struct jv *a, const struct jv *b, struct jv *ret)
{
	bool a_int = a->kind == JK_INT || a->kind == JK_BOOL,
	     b_int = b->kind == JK_INT || b->kind == JK_BOOL;
	double x, y;

	if (op == JO_ADD && a->kind == JK_STR && b->kind == JK_STR)
		return jv_concat(ev, (const struct jv[]){ *a, *b }, 2, ret);
	if (op == JO_ADD && a->kind == JK_LIST && b->kind == JK_LIST && a->tuple == b->tuple)
		return add_lists(ev, a, b, ret);
	if (op == JO_MUL && (a->kind == JK_STR || a->kind == JK_LIST) && b_int)
		return repeat(ev, a, as_int(b), ret);
	if (op == JO_MUL && (b->kind == JK_STR || b->kind == JK_LIST) && a_int)
		return repeat(ev, b, as_int(a), ret);
	if (a_int && b_int && op != JO_DIV && !(op == JO_POW && as_int(b) < 0))
		return int_math(ev, op, as_int(a), as_int(b), ret);
	if (!jv_number(a, &x) || !jv_number(b, &y))
		return no_operator(ev, op, a, b);
	if (y == 0 && (op == JO_DIV || op == JO_FLOORDIV || op == JO_MOD))
		return jv_fail(ev, "division by zero");
	switch (op) {
	case JO_ADD:
		*ret = jv_float(x + y);
		break;
	case JO_SUB:
		*ret = jv_float(x - y);
		break;
	case JO_MUL:
		*ret = jv_float(x * y);
		break;
	case JO_DIV:
		*ret = jv_float(x / y);
		break;
	case JO_FLOORDIV:
		*ret = jv_float(floor(x / y));
		break;
	case JO_MOD:
		*ret = jv_float(x - y * floor(x / y));
		break;
	default:
		*ret = jv_float(pow(x, y));
		break;
	}
	return 0;
}

/* ---- slices ---- */

static int part_value(struct jeval *ev, const struct jv *part, int64_t def, int64_t *ret)
{
	*ret = def;
	if (part->kind == JK_INT || part->kind == JK_BOOL)
		*ret = as_int(part);
	else if (part->kind != JK_UNDEF && part->kind != JK_NONE)
		return jv_fail(ev, "a slice wants integers, not %s", jv_kind_name(part));
	return 0;
}

static int64_t clamp_index(int64_t at, int64_t n, int64_t low, int64_t high)
{
	if (at < 0)
		at = at < -n ? low : at + n;
	return CLAMP(at, low, high);
}

int jv_slice(struct jeval *ev, const struct jv *of, const struct jv *part, struct jv *ret)
{
	const struct jlist *items = NULL;
	int64_t begin, end, step, n, count = 0;
	struct jlist *list;
	size_t length;
	int r;

	if (of->kind != JK_LIST && of->kind != JK_STR)
		return jv_fail(ev, "%s cannot be sliced", jv_kind_name(of));
	if ((r = jv_length(ev, of, &length)) < 0 || (r = part_value(ev, &part[2], 1, &step)) < 0)
		return r;
	if (step == 0 || step == INT64_MIN)
		return jv_fail(ev, "a slice wants a step that is not 0");
	n = (int64_t)length;
	if ((r = part_value(ev, &part[0], step > 0 ? 0 : n - 1, &begin)) < 0 ||
	    (r = part_value(ev, &part[1], step > 0 ? n : -n - 1, &end)) < 0)
		return r;
	begin = step > 0 ? clamp_index(begin, n, 0, n) : clamp_index(begin, n, -1, n - 1);
	end = step > 0 ? clamp_index(end, n, 0, n) : clamp_index(end, n, -1, n - 1);
	if (step > 0 ? end > begin : begin > end)
		count = step > 0 ? (end - begin - 1) / step + 1 : (begin - end - 1) / -step + 1;
	if (of->kind == JK_STR && step == 1) {
		size_t from = utf8_offset(of->s, (size_t)begin);
		struct bytes rest = { of->s.p + from, of->s.n - from };

		*ret = jv_str((struct bytes){
			rest.p, count ? utf8_offset(rest, (size_t)count) : 0
		});
		return jv_charge(ev, of->s.n / 256);
	}
	if ((r = jv_items(ev, of, &items)) < 0 || (r = jv_charge(ev, (uint64_t)count / 8)) < 0)
		return r;
	list = jv_list_new(ev, (size_t)count);
	if (!list)
		return jv_no_memory(ev);
	for (int64_t i = 0; i < count; i++)
		list->v[i] = items->v[begin + i * step];
	if (of->kind == JK_STR)
		return jv_concat(ev, list->v, list->n, ret);
	r = jv_list_seal(ev, list, ret);
	ret->tuple = of->tuple;
	return r;
}
