/* jinja-eval - walk the tree.
 *
 * 1. Every node and loop turn costs a step, long operands more; values cost arena; output has its
 *    bound: whichever is spent first ends the render with -E2BIG. So a hostile template costs a
 *    bounded time and memory.
 * 2. The C stack is bounded by `nest`, which every level of evaluation counts, and by the tree's
 *    own depth.
 * 3. Scopes are frames looked up outwards. A loop turn, a macro call and a with-block open one;
 *    if-blocks do not. A macro sees the frame it was defined in. */
#include <errno.h>
#include <inttypes.h>
#include "base/vec.h"
#include "text/jinja-priv.h"

static int eval(struct jeval *ev, const struct jnode *node, struct jv *ret);
static int run(struct jeval *ev, const struct jnode *node);

static int enter(struct jeval *ev, const struct jnode *node)
{
	ev->line = node->line;
	if (++ev->nest > ev->depth_max * JINJA_NEST_PER_DEPTH)
		return err_set(ev->err, -E2BIG,
		               "chat template, line %u: evaluation nests more than %u deep",
		               ev->line, ev->depth_max * JINJA_NEST_PER_DEPTH);
	return jv_charge(ev, 1);
}

static int emit(struct jeval *ev, int r)
{
	if (r == -ENOSPC)
		return err_set(ev->err, -E2BIG,
		               "chat template, line %u: its output exceeds %zu bytes", ev->line,
		               ev->output_max);
	return r;
}

/* ---- scopes ---- */

static int push_frame(struct jeval *ev, struct jframe *up)
{
	struct jframe *f = arena_alloc(&ev->mem, sizeof(*f));

	if (!f)
		return jv_no_memory(ev);
	f->up = up;
	ev->frame = f;
	return 0;
}

static int bind(struct jeval *ev, struct jvar **vars, struct bytes name, const struct jv *val)
{
	struct jvar *var;
	unsigned walked = 0;

	for (var = *vars; var; var = var->next, walked++)
		if (bytes_eq(var->name, name))
			break;
	if (!var) {
		var = arena_alloc(&ev->mem, sizeof(*var));
		if (!var)
			return jv_no_memory(ev);
		var->name = name;
		var->next = *vars;
		*vars = var;
	}
	var->val = *val;
	return jv_charge(ev, walked / 16);
}

static int look_up(struct jeval *ev, struct bytes name, struct jv *ret)
{
	unsigned walked = 0;

	for (const struct jframe *f = ev->frame; f; f = f->up) {
		for (const struct jvar *var = f->vars; var; var = var->next, walked++) {
			if (bytes_eq(var->name, name)) {
				*ret = var->val;
				return jv_charge(ev, walked / 16);
			}
		}
	}
	const struct jfunc *func = jinja_global_find(name);

	*ret = func ? (struct jv){ .kind = JK_FUNC, .func = func } : jv_undef;
	return jv_charge(ev, walked / 16);
}

/* One target: a name, or "ns.attribute". */
static int assign_one(struct jeval *ev, struct bytes name, const struct jv *val)
{
	const char *dot = memchr(name.p, '.', name.n);
	struct jv ns;
	int r;

	if (!dot)
		return bind(ev, &ev->frame->vars, name, val);
	r = look_up(ev, (struct bytes){ name.p, (size_t)(dot - name.p) }, &ns);
	if (r < 0)
		return r;
	if (ns.kind != JK_NS)
		return jv_fail(ev, "only a namespace's attributes can be set, not those of %s",
		               jv_kind_name(&ns));
	return bind(ev, &ns.ns->vars,
	            (struct bytes){ dot + 1, name.n - (size_t)(dot + 1 - name.p) }, val);
}

static int assign(struct jeval *ev, const struct jnode *node, const struct jv *val)
{
	const struct jlist *items;
	int r = 0;

	if (node->n_names == 1)
		return assign_one(ev, node->names[0], val);
	r = jv_items(ev, val, &items);
	if (r == 0 && items->n != node->n_names)
		return jv_fail(ev, "%u values for %u names", items->n, node->n_names);
	for (uint32_t i = 0; r == 0 && i < node->n_names; i++)
		r = assign_one(ev, node->names[i], &items->v[i]);
	return r;
}

/* ---- calls ---- */

/* Run a body with its output caught as a string. */
static int capture(struct jeval *ev, const struct jnode *body, struct jv *ret)
{
	struct sbuf s = { .max = ev->output_max }, *outer = ev->out;
	int r;

	ev->out = &s;
	r = run(ev, body);
	ev->out = outer;
	if (r == 0)
		r = jv_from_sbuf(ev, ret, &s);
	sbuf_deinit(&s);
	return r;
}

static int bind_parameters(struct jeval *ev, const struct jnode *m, const struct jcall *call)
{
	int r = 0;

	if (call->n > m->n_names)
		return jv_fail(ev, "macro %.*s takes %u operands, not %u", STR_ARG(m->str),
		               m->n_names, call->n);
	for (uint32_t i = 0; r == 0 && i < m->n_names; i++) {
		struct jv val = jv_undef;
		bool given = i < call->n;

		if (given)
			val = call->arg[i];
		for (uint32_t k = 0; !given && k < call->n_kw; k++) {
			if (bytes_eq(call->kw[k].name, m->names[i])) {
				val = call->kw[k].val;
				given = true;
			}
		}
		if (!given && m->list[i])
			/* defaults may use the parameters before */
			r = eval(ev, m->list[i], &val);
		if (r == 0)
			r = bind(ev, &ev->frame->vars, m->names[i], &val);
	}
	for (uint32_t k = 0; r == 0 && k < call->n_kw; k++)
		if (bytes_eq(call->kw[k].name, bytes_of("caller")))
			r = bind(ev, &ev->frame->vars, call->kw[k].name, &call->kw[k].val);
	return r;
}

static int call_macro(struct jeval *ev, const struct jmacro *macro, const struct jcall *call,
                      struct jv *ret)
{
	struct jframe *frame = ev->frame;
	int r;

	if (++ev->depth > ev->depth_max)
		return err_set(ev->err, -E2BIG,
		               "chat template, line %u: macros nest more than %u deep", ev->line,
		               ev->depth_max);
	r = push_frame(ev, macro->frame);
	if (r == 0)
		r = bind_parameters(ev, macro->node, call);
	if (r == 0)
		r = capture(ev, macro->node->c, ret);
	ev->frame = frame;
	ev->depth--;
	return r;
}

/* Operands of a call, filter or test; `extra` keyword slots are left free behind them. */
static int operands(struct jeval *ev, const struct jnode *node, uint32_t extra, struct jcall *ret)
{
	uint32_t n_kw = node->kind == JN_TEST || node->kind == JN_CALL || node->kind == JN_FILTER
	                        ? node->n_names
	                        : 0;
	uint32_t n = node->n - n_kw;
	struct jv *arg = arena_alloc(&ev->mem, (n + 1) * sizeof(*arg));
	struct jkw *kw = arena_alloc(&ev->mem, (n_kw + extra + 1) * sizeof(*kw));
	int r = arg && kw ? 0 : jv_no_memory(ev);

	for (uint32_t i = 0; r == 0 && i < n; i++)
		r = eval(ev, node->list[i], &arg[i]);
	for (uint32_t i = 0; r == 0 && i < n_kw; i++) {
		kw[i].name = node->names[i];
		r = eval(ev, node->list[n + i], &kw[i].val);
	}
	ret->arg = arg;
	ret->n = n;
	ret->kw = kw;
	ret->n_kw = n_kw;
	ev->line = node->line;
	return r;
}

static __attribute__((noinline)) int eval_call(struct jeval *ev, const struct jnode *node,
                                               const struct jv *caller, struct jv *ret)
{
	struct jcall call = { .self = jv_undef };
	struct jv fn;
	int r = eval(ev, node->a, &fn);

	if (r < 0 || (r = operands(ev, node, caller != NULL, &call)) < 0)
		return r;
	if (caller)
		((struct jkw *)call.kw)[call.n_kw++] = (struct jkw){ bytes_of("caller"), *caller };
	*ret = jv_undef;
	switch (fn.kind) {
	case JK_MACRO:
		return call_macro(ev, fn.macro, &call, ret);
	case JK_FUNC:
		call.name = fn.func->name;
		return fn.func->fn(ev, &call, ret);
	case JK_METHOD:
		call.name = fn.method->func->name;
		call.self = fn.method->self;
		return fn.method->func->fn(ev, &call, ret);
	default:
		if (node->a->kind == JN_NAME || node->a->kind == JN_ATTR)
			return jv_fail(ev, "%s \"%.*s\" cannot be called or is not supported",
			               jv_kind_name(&fn), STR_ARG(node->a->str));
		return jv_fail(ev, "%s cannot be called", jv_kind_name(&fn));
	}
}

static __attribute__((noinline)) int eval_filter(struct jeval *ev, const struct jnode *node,
                                                 struct jv *ret)
{
	bool is_test = node->kind == JN_TEST;
	const struct jfunc *func = is_test ? jinja_test_find(node->str)
	                                   : jinja_filter_find(node->str);
	struct jcall call = { .name = func ? func->name : "" };
	int r;

	/* here and not in the parser: branches that are never taken may name anything */
	if (!func)
		return jv_fail(ev, "the %s \"%.*s\" is not supported", is_test ? "test" : "filter",
		               STR_ARG(node->str));
	r = eval(ev, node->a, &call.self);
	if (r < 0 || (r = operands(ev, node, 0, &call)) < 0)
		return r;
	*ret = jv_undef;
	r = func->fn(ev, &call, ret);
	if (r == 0 && is_test)
		*ret = jv_bool(jv_truth(ret) != node->negated);
	return r;
}

/* ---- expressions ---- */

static int eval_all(struct jeval *ev, const struct jnode *node, struct jlist **ret)
{
	struct jlist *list = jv_list_new(ev, node->n);
	int r = list ? 0 : jv_no_memory(ev);

	for (uint32_t i = 0; r == 0 && i < node->n; i++)
		r = eval(ev, node->list[i], &list->v[i]);
	ev->line = node->line;
	*ret = list;
	return r;
}

static __attribute__((noinline)) int eval_list(struct jeval *ev, const struct jnode *node,
                                               struct jv *ret)
{
	struct jlist *list;
	struct jdict *dict;
	uint32_t n = 0;
	int r = eval_all(ev, node, &list);

	if (r < 0)
		return r;
	if (node->kind == JN_LIST) {
		r = jv_list_seal(ev, list, ret);
		ret->tuple = node->tuple;
		return r;
	}
	dict = jv_dict_new(ev, node->n / 2);
	if (!dict)
		return jv_no_memory(ev);
	for (uint32_t i = 0; i + 1 < node->n; i += 2) {
		uint32_t at = 0;

		if (list->v[i].kind == JK_LIST || list->v[i].kind == JK_DICT)
			return jv_fail(ev, "%s cannot be a key", jv_kind_name(&list->v[i]));
		while (at < n && !jv_equal(&dict->e[at].key, &list->v[i]))
			at++;
		r = jv_charge(ev, at / 8);
		if (r < 0)
			return r;
		dict->e[at] = (struct jentry){ list->v[i], list->v[i + 1] };
		n += at == n;
	}
	dict->n = n;
	return jv_dict_seal(ev, dict, ret);
}

static __attribute__((noinline)) int eval_math(struct jeval *ev, const struct jnode *node,
                                               struct jv *ret)
{
	bool strings = true;
	struct jlist *list;
	int r = eval_all(ev, node, &list);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < node->n; i++)
		strings = strings && list->v[i].kind == JK_STR &&
		          (i == 0 || node->kind == JN_CONCAT || node->ops[i - 1] == JO_ADD);
	/* at once: a long sum copies each part once */
	if (node->kind == JN_CONCAT || strings)
		return jv_concat(ev, list->v, list->n, ret);
	*ret = list->v[0];
	for (uint32_t i = 1; r == 0 && i < node->n; i++) {
		const struct jv left = *ret;

		r = jv_math(ev, node->ops[i - 1], &left, &list->v[i], ret);
	}
	return r;
}

static int compare(struct jeval *ev, enum jop op, const struct jv *a, const struct jv *b, bool *ret)
{
	int order = 0, r = 0;

	switch (op) {
	case JO_EQ:
	case JO_NE:
		*ret = jv_equal(a, b) == (op == JO_EQ);
		return 0;
	case JO_IN:
	case JO_NOT_IN:
		r = jv_contains(ev, b, a, ret);
		*ret = *ret == (op == JO_IN);
		return r;
	default:
		r = jv_compare(ev, a, b, &order);
		*ret = op == JO_LT ? order < 0 :
		       op == JO_LE ? order <= 0 :
		       op == JO_GT ? order > 0 : order >= 0;
		return r;
	}
}

static __attribute__((noinline)) int eval_compare(struct jeval *ev, const struct jnode *node,
                                                  struct jv *ret)
{
	bool holds = true;
	struct jv a, b;
	int r = eval(ev, node->list[0], &a);

	for (uint32_t i = 1; r == 0 && holds && i < node->n; i++) {
		r = eval(ev, node->list[i], &b);
		ev->line = node->line;
		if (r == 0)
			r = compare(ev, node->ops[i - 1], &a, &b, &holds);
		a = b;
	}
	*ret = jv_bool(holds);
	return r;
}

static __attribute__((noinline)) int eval_access(struct jeval *ev, const struct jnode *node,
                                                 struct jv *ret)
{
	struct jv of, part[3] = { jv_undef, jv_undef, jv_undef };
	int r = eval(ev, node->a, &of);

	if (r == 0 && node->kind == JN_ITEM)
		r = eval(ev, node->b, &part[0]);
	for (int i = 0; r == 0 && node->kind == JN_SLICE && i < 3; i++)
		if (node->list[i])
			r = eval(ev, node->list[i], &part[i]);
	ev->line = node->line;
	if (r < 0)
		return r;
	return node->kind == JN_ATTR   ? jv_attr(ev, &of, node->str, ret)
	       : node->kind == JN_ITEM ? jv_item(ev, &of, &part[0], ret)
	                               : jv_slice(ev, &of, part, ret);
}

static int eval_logic(struct jeval *ev, const struct jnode *node, struct jv *ret)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < node->n; i++) {
		r = eval(ev, node->list[i], ret);
		if (r == 0 && jv_truth(ret) == (node->kind == JN_OR))
			break;
	}
	return r;
}

static int eval_neg(struct jeval *ev, const struct jnode *node, struct jv *ret)
{
	const struct jv zero = jv_int(0);
	struct jv v;
	int r = eval(ev, node->a, &v);

	if (r == 0 && v.kind == JK_FLOAT)
		*ret = jv_float(-v.f);
	else if (r == 0)
		r = jv_math(ev, JO_SUB, &zero, &v, ret);
	return r;
}

static int eval_cond(struct jeval *ev, const struct jnode *node, struct jv *ret)
{
	struct jv cond;
	int r = eval(ev, node->b, &cond);

	if (r < 0)
		return r;
	if (jv_truth(&cond))
		return eval(ev, node->a, ret);
	*ret = jv_undef;
	return node->c ? eval(ev, node->c, ret) : 0;
}

static int eval(struct jeval *ev, const struct jnode *node, struct jv *ret)
{
	int r;

	if (!node) {                    /* a filter chain that works on a block */
		*ret = ev->input;
		return 0;
	}
	r = enter(ev, node);
	if (r < 0)
		return r;
	switch (node->kind) {
	case JN_LIT:
		*ret = node->lit;
		break;
	case JN_NAME:
		r = look_up(ev, node->str, ret);
		break;
	case JN_LIST:
	case JN_DICT:
		r = eval_list(ev, node, ret);
		break;
	case JN_ATTR:
	case JN_ITEM:
	case JN_SLICE:
		r = eval_access(ev, node, ret);
		break;
	case JN_CALL:
		r = eval_call(ev, node, NULL, ret);
		break;
	case JN_FILTER:
	case JN_TEST:
		r = eval_filter(ev, node, ret);
		break;
	case JN_NOT:
		r = eval(ev, node->a, ret);
		*ret = jv_bool(r == 0 && !jv_truth(ret));
		break;
	case JN_NEG:
		r = eval_neg(ev, node, ret);
		break;
	case JN_AND:
	case JN_OR:
		r = eval_logic(ev, node, ret);
		break;
	case JN_MATH:
	case JN_CONCAT:
		r = eval_math(ev, node, ret);
		break;
	case JN_COMPARE:
		r = eval_compare(ev, node, ret);
		break;
	case JN_COND:
		r = eval_cond(ev, node, ret);
		break;
	default:
		r = jv_fail(ev, "a statement stands where a value is wanted");
		break;
	}
	ev->nest--;
	return r;
}

/* ---- statements ---- */

static int run_if(struct jeval *ev, const struct jnode *node)
{
	uint32_t i = 0;
	struct jv cond;

	for (; i + 1 < node->n; i += 2) {
		int r = eval(ev, node->list[i], &cond);

		if (r < 0)
			return r;
		if (jv_truth(&cond))
			return run(ev, node->list[i + 1]);
	}
	return i < node->n ? run(ev, node->list[i]) : 0;
}

/* The items that pass the loop's condition, which sees the loop's names. */
static int filter_items(struct jeval *ev, const struct jnode *node, const struct jlist **items)
{
	const struct jlist *all = *items;
	struct jlist *kept = jv_list_new(ev, all->n);
	struct jframe *frame = ev->frame;
	uint32_t n = 0;
	int r = kept ? 0 : jv_no_memory(ev);

	for (uint32_t i = 0; r == 0 && i < all->n; i++) {
		struct jv cond;

		if ((r = push_frame(ev, frame)) < 0 || (r = assign(ev, node, &all->v[i])) < 0)
			break;
		r = eval(ev, node->b, &cond);
		if (r == 0 && jv_truth(&cond))
			kept->v[n++] = all->v[i];
		ev->frame = frame;
	}
	ev->frame = frame;
	if (r == 0) {
		kept->n = n;
		kept->depth = all->depth;
		*items = kept;
	}
	return r;
}

static int run_turns(struct jeval *ev, const struct jnode *node, struct jloop *loop)
{
	const struct jv loop_var = { .kind = JK_LOOP, .loop = loop };
	struct jframe *frame = ev->frame;
	int r = 0;

	for (; r == 0 && loop->at < loop->items->n && ev->flow != FLOW_BREAK; loop->at++) {
		ev->flow = FLOW_ON;
		if ((r = jv_charge(ev, 1)) < 0 || (r = push_frame(ev, frame)) < 0)
			break;
		if ((r = bind(ev, &ev->frame->vars, bytes_of("loop"), &loop_var)) == 0 &&
		    (r = assign(ev, node, &loop->items->v[loop->at])) == 0)
			r = run(ev, node->c);
		ev->frame = frame;
	}
	ev->flow = FLOW_ON;
	return r;
}

static __attribute__((noinline)) int run_for(struct jeval *ev, const struct jnode *node)
{
	struct jloop *loop = arena_alloc(&ev->mem, sizeof(*loop));
	struct jv over;
	int r = eval(ev, node->a, &over);

	ev->line = node->line;
	if (!loop)
		return jv_no_memory(ev);
	if (r < 0 || (r = jv_items(ev, &over, &loop->items)) < 0)
		return r;
	if (node->b && (r = filter_items(ev, node, &loop->items)) < 0)
		return r;
	if (loop->items->n == 0)
		return node->d ? run(ev, node->d) : 0;
	loop->depth = ++ev->loops;
	r = run_turns(ev, node, loop);
	ev->loops--;
	return r;
}

static __attribute__((noinline)) int run_set(struct jeval *ev, const struct jnode *node)
{
	struct jv val;
	int r = node->kind == JN_SET ? eval(ev, node->a, &val) : capture(ev, node->c, &val);

	if (r == 0 && node->kind == JN_SET_BLOCK && node->a) {
		const struct jv outer = ev->input;

		ev->input = val;
		r = eval(ev, node->a, &val);
		ev->input = outer;
	}
	ev->line = node->line;
	return r < 0 ? r : assign(ev, node, &val);
}

static __attribute__((noinline)) int run_macro(struct jeval *ev, const struct jnode *node)
{
	struct jmacro *macro = arena_alloc(&ev->mem, sizeof(*macro));
	struct jv val = { .kind = JK_MACRO, .macro = macro }, text;
	int r;

	if (!macro)
		return jv_no_memory(ev);
	*macro = (struct jmacro){ node, ev->frame };
	if (node->kind == JN_MACRO)
		return bind(ev, &ev->frame->vars, node->str, &val);
	r = eval_call(ev, node->a, &val, &text);
	return r < 0 ? r : emit(ev, jv_print(ev->out, &text));
}

static int run_filter_block(struct jeval *ev, const struct jnode *node)
{
	const struct jv outer = ev->input;
	struct jv val;
	int r = capture(ev, node->c, &val);

	if (r < 0)
		return r;
	ev->input = val;
	r = eval(ev, node->a, &val);
	ev->input = outer;
	return r < 0 ? r : emit(ev, jv_print(ev->out, &val));
}

static int run_with(struct jeval *ev, const struct jnode *node)
{
	struct jframe *frame = ev->frame;
	struct jlist *list;
	int r = eval_all(ev, node, &list);

	if (r == 0)
		r = push_frame(ev, frame);
	for (uint32_t i = 0; r == 0 && i < node->n; i++)
		r = bind(ev, &ev->frame->vars, node->names[i], &list->v[i]);
	if (r == 0)
		r = run(ev, node->c);
	ev->frame = frame;
	return r;
}

static int run_print(struct jeval *ev, const struct jnode *node)
{
	struct jv val;
	int r = eval(ev, node->a, &val);

	ev->line = node->line;
	if (r < 0)
		return r;
	return emit(ev, jv_print(ev->out, &val));
}

static int run(struct jeval *ev, const struct jnode *node)
{
	int r = enter(ev, node);

	if (r < 0)
		return r;
	switch (node->kind) {
	case JN_BLOCK:
		for (uint32_t i = 0; r == 0 && ev->flow == FLOW_ON && i < node->n; i++)
			r = run(ev, node->list[i]);
		break;
	case JN_TEXT:
		r = emit(ev, sbuf_append(ev->out, node->str.p, node->str.n));
		break;
	case JN_PRINT:
		r = run_print(ev, node);
		break;
	case JN_IF:
		r = run_if(ev, node);
		break;
	case JN_FOR:
		r = run_for(ev, node);
		break;
	case JN_SET:
	case JN_SET_BLOCK:
		r = run_set(ev, node);
		break;
	case JN_MACRO:
	case JN_CALL_BLOCK:
		r = run_macro(ev, node);
		break;
	case JN_FILTER_BLOCK:
		r = run_filter_block(ev, node);
		break;
	case JN_WITH:
		r = run_with(ev, node);
		break;
	case JN_BREAK:
		ev->flow = FLOW_BREAK;
		break;
	case JN_CONTINUE:
		ev->flow = FLOW_CONTINUE;
		break;
	default:
		r = jv_fail(ev, "a value stands where a statement is wanted");
		break;
	}
	ev->nest--;
	return r;
}

/* ---- public ---- */

/* jinja2 reads lines: every line end becomes \n, and one at the very end is dropped. */
static struct bytes read_lines(struct arena *mem, const char *text, size_t n)
{
	char *copy = arena_alloc(mem, n + 1);
	size_t at = 0;

	if (!copy)
		return (struct bytes){ 0 };
	for (size_t i = 0; i < n; i++) {
		if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n')
			continue;
		copy[at++] = text[i] == '\r' ? '\n' : text[i];
	}
	if (at && copy[at - 1] == '\n')
		at--;
	return (struct bytes){ copy, at };
}

int jinja_new(struct jinja **ret, const char *text, size_t n, struct err *err)
{
	_cleanup_(jinja_freep) struct jinja *j = NULL;
	struct jtoks toks = { 0 };
	struct bytes lines;
	int r;

	if (n > JINJA_TEXT_MAX)
		return err_set(err, -E2BIG, "chat template: %zu bytes, more than %d", n,
		               JINJA_TEXT_MAX);
	if (!utf8_valid(text, n))
		return err_set(err, -EINVAL, "chat template: the text is not UTF-8");
	j = mem_alloc(sizeof(*j));
	if (!j)
		return -ENOMEM;
	arena_init(&j->mem, JINJA_TREE_MAX);
	lines = read_lines(&j->mem, text, n);
	if (!lines.p)
		return -ENOMEM;
	r = jinja_lex(&toks, lines, &j->mem, err);
	if (r == 0)
		r = jinja_parse(&j->root, &toks, &j->mem, err);
	vec_deinit(&toks);
	if (r < 0)
		return r;
	*ret = STEAL(j);
	return 0;
}

struct jinja *jinja_free(struct jinja *j)
{
	if (j)
		arena_deinit(&j->mem);
	return mem_free(j);
}

static int bind_variables(struct jeval *ev, json_t *vars)
{
	const char *key;
	json_t *value;
	int r = push_frame(ev, NULL);

	json_object_foreach(vars, key, value) {
		struct jv val;

		if (r < 0 || (r = jv_from_json(ev, value, 0, &val)) < 0)
			break;
		r = bind(ev, &ev->frame->vars, bytes_of(key), &val);
	}
	return r;
}

int jinja_render(const struct jinja *j, json_t *vars, const struct jinja_budget *budget,
                 struct sbuf *out, struct err *err)
{
	static const struct jinja_budget none;
	const struct jinja_budget *b = budget ? budget : &none;
	struct jeval ev = {
		.err = err,
		.line = 1,
		.steps_max = b->steps ? b->steps : 1000000,
		.depth_max = b->depth ? b->depth : 64,
		.output_max = b->output ? b->output : 8u << 20,
	};
	struct sbuf text = { .max = ev.output_max };
	int r;

	arena_init(&ev.mem, JINJA_HEAP_MAX);
	ev.out = &text;
	r = bind_variables(&ev, vars);
	if (r == 0)
		r = run(&ev, j->root);
	if (r == 0 && text.n)
		r = sbuf_append(out, text.p, text.n);
	sbuf_deinit(&text);
	arena_deinit(&ev.mem);
	return r;
}
