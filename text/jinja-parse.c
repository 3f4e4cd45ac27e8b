/* jinja-parse - recursive descent over the tokens, as jinja2's grammar has it.
 *
 * 1. Every nested block, bracket and prefix operator counts against JINJA_PARSE_DEPTH; chains of
 *    one operator level become one node with many operands, so a long chain nests nothing.
 * 2. Nodes live in the tree's arena; lists are built in a shared stack and copied when complete. */
#include <errno.h>
#include "base/vec.h"
#include "text/jinja-priv.h"

struct parse {
	const struct jtok *t;           /* current; the last is JT_END */
	struct arena *mem;
	struct err *err;
	unsigned depth, loops;
	struct { struct jnode **data; size_t n, cap; } stack;   /* list elements not yet copied */
	struct { struct bytes *data; size_t n, cap; } names;    /* likewise */
};

static int expression(struct parse *p, struct jnode **ret);
static int condition(struct parse *p, bool with_else, struct jnode **ret);
static int unary(struct parse *p, bool with_filter, struct jnode **ret);
static int body(struct parse *p, const char *const *ends, struct jnode **ret);

static int fail(struct parse *p, const char *what)
{
	char shown[48];

	return err_set(p->err, -EINVAL, "chat template, line %u: %s, found \"%s\"", p->t->line,
	               what, p->t->kind == JT_END ? "the end" : p->t->kind == JT_BLOCK_END ? "%}" :
	               p->t->kind == JT_VAR_END ? "}}" :
	               str_escape(shown, sizeof(shown), p->t->s.p, MIN(p->t->s.n, (size_t)32)));
}

static int too_big(struct parse *p)
{
	return err_set(p->err, -E2BIG, "chat template, line %u: the template is too large",
	               p->t->line);
}

static int enter(struct parse *p)
{
	if (++p->depth > JINJA_PARSE_DEPTH)
		return err_set(p->err, -E2BIG, "chat template, line %u: nested more than %d deep",
		               p->t->line, JINJA_PARSE_DEPTH);
	return 0;
}

static int new_node(struct parse *p, enum jnode_kind kind, struct jnode **ret)
{
	struct jnode *n = arena_alloc(p->mem, sizeof(*n));

	if (!n)
		return too_big(p);
	n->kind = kind;
	n->line = p->t->line;
	*ret = n;
	return 0;
}

static bool is_op(const struct parse *p, const char *op)
{
	return p->t->kind == JT_OP && bytes_eq(p->t->s, bytes_of(op));
}

static bool is_word(const struct parse *p, const char *word)
{
	return p->t->kind == JT_NAME && bytes_eq(p->t->s, bytes_of(word));
}

static bool take_op(struct parse *p, const char *op)
{
	bool is = is_op(p, op);

	p->t += is;
	return is;
}

static bool take_word(struct parse *p, const char *word)
{
	bool is = is_word(p, word);

	p->t += is;
	return is;
}

static int need_op(struct parse *p, const char *op)
{
	char what[32];

	if (take_op(p, op))
		return 0;
	snprintf(what, sizeof(what), "expected \"%s\"", op);
	return fail(p, what);
}

static int need_name(struct parse *p, struct bytes *ret)
{
	if (p->t->kind != JT_NAME)
		return fail(p, "expected a name");
	*ret = p->t++->s;
	return 0;
}

/* Move what was pushed since `base` into the node. */
static int take_list(struct parse *p, size_t base, struct jnode *node)
{
	size_t n = p->stack.n - base;

	node->list = arena_alloc(p->mem, (n + 1) * sizeof(*node->list));
	if (!node->list)
		return too_big(p);
	if (n)
		memcpy(node->list, p->stack.data + base, n * sizeof(*node->list));
	node->n = (uint32_t)n;
	p->stack.n = base;
	return 0;
}

static int take_names(struct parse *p, size_t base, struct jnode *node)
{
	size_t n = p->names.n - base;

	node->names = arena_alloc(p->mem, (n + 1) * sizeof(*node->names));
	if (!node->names)
		return too_big(p);
	if (n)
		memcpy(node->names, p->names.data + base, n * sizeof(*node->names));
	node->n_names = (uint32_t)n;
	p->names.n = base;
	return 0;
}

static int push_node(struct parse *p, struct jnode *n)
{
	return vec_push(&p->stack, n);
}

/* ---- expressions ---- */

/* "(" is taken: positional and keyword operands up to ")". */
static int arguments(struct parse *p, struct jnode *call)
{
	size_t base = p->stack.n, name_base = p->names.n;
	struct jnode *arg;
	int r;

	while (!take_op(p, ")")) {
		if (p->t->kind == JT_NAME && p->t[1].kind == JT_OP &&
		    bytes_eq(p->t[1].s, bytes_of("="))) {
			if (vec_push(&p->names, p->t->s) < 0)
				return -ENOMEM;
			p->t += 2;
		} else if (p->names.n > name_base) {
			return fail(p, "expected a keyword operand");
		}
		if (is_op(p, "*") || is_op(p, "**"))
			return fail(p, "unpacked operands are not supported");
		if ((r = condition(p, true, &arg)) < 0 || (r = push_node(p, arg)) < 0)
			return r;
		if (!is_op(p, ")") && (r = need_op(p, ",")) < 0)
			return r;
	}
	r = take_list(p, base, call);
	return r < 0 ? r : take_names(p, name_base, call);
}

/* Elements up to `end` (taken); *ret_comma when at least one comma was seen. */
static int elements(struct parse *p, const char *end, struct jnode *list, bool *ret_comma)
{
	size_t base = p->stack.n;
	struct jnode *e;
	int r;

	*ret_comma = false;
	while (!take_op(p, end)) {
		if ((r = condition(p, true, &e)) < 0 || (r = push_node(p, e)) < 0)
			return r;
		if (is_op(p, end))
			continue;
		if ((r = need_op(p, ",")) < 0)
			return r;
		*ret_comma = true;
	}
	return take_list(p, base, list);
}

static int dict_literal(struct parse *p, struct jnode **ret)
{
	size_t base = p->stack.n;
	struct jnode *node, *e;
	int r = new_node(p, JN_DICT, &node);

	while (r == 0 && !take_op(p, "}")) {
		if ((r = condition(p, true, &e)) < 0 || (r = push_node(p, e)) < 0 ||
		    (r = need_op(p, ":")) < 0 || (r = condition(p, true, &e)) < 0 ||
		    (r = push_node(p, e)) < 0)
			return r;
		if (!is_op(p, "}"))
			r = need_op(p, ",");
	}
	*ret = node;
	return r < 0 ? r : take_list(p, base, node);
}

static int string_literal(struct parse *p, struct jnode *node)
{
	size_t total = 0, at = 0;
	const struct jtok *end = p->t;
	char *joined;

	for (; end->kind == JT_STR; end++)
		total += end->s.n;
	node->lit = jv_str(p->t->s);
	if (end - p->t > 1) {           /* adjacent strings are one */
		joined = arena_alloc(p->mem, total + 1);
		if (!joined)
			return too_big(p);
		for (const struct jtok *t = p->t; t < end; t++) {
			memcpy(joined + at, t->s.p, t->s.n);
			at += t->s.n;
		}
		node->lit.s = (struct bytes){ joined, total };
	}
	p->t = end;
	return 0;
}

static int number_literal(struct parse *p, struct jnode *node)
{
	char digits[64];
	size_t n = 0;

	for (size_t i = 0; i < p->t->s.n; i++) {
		if (n + 1 == sizeof(digits))
			return fail(p, "a number has too many digits");
		if (p->t->s.p[i] != '_')
			digits[n++] = p->t->s.p[i];
	}
	digits[n] = 0;
	errno = 0;
	node->lit = p->t->kind == JT_INT ? jv_int(strtoll(digits, NULL, 10))
	                                 : jv_float(strtod(digits, NULL));
	if (errno == ERANGE && p->t->kind == JT_INT)
		return fail(p, "an integer is out of range");
	p->t++;
	return 0;
}

static int name_or_constant(struct parse *p, struct jnode *node)
{
	static const struct { const char *name; enum jk kind; bool b; } constants[] = {
		{ "true", JK_BOOL, true }, { "True", JK_BOOL, true }, { "false", JK_BOOL, false },
		{ "False", JK_BOOL, false }, { "none", JK_NONE, false }, { "None", JK_NONE, false },
	};
	struct bytes s = p->t++->s;

	for (size_t i = 0; i < ARRAY_SIZE(constants); i++) {
		if (!bytes_eq(s, bytes_of(constants[i].name)))
			continue;
		node->lit = (struct jv){ .kind = constants[i].kind, .b = constants[i].b };
		return 0;
	}
	node->kind = JN_NAME;
	node->str = s;
	return 0;
}

static int primary(struct parse *p, struct jnode **ret)
{
	struct jnode *node;
	bool comma;
	int r = new_node(p, JN_LIT, &node);

	if (r < 0)
		return r;
	*ret = node;
	if (p->t->kind == JT_NAME)
		return name_or_constant(p, node);
	if (p->t->kind == JT_STR)
		return string_literal(p, node);
	if (p->t->kind == JT_INT || p->t->kind == JT_FLOAT)
		return number_literal(p, node);
	node->kind = JN_LIST;
	if ((r = enter(p)) < 0)
		return r;
	if (take_op(p, "[")) {
		r = elements(p, "]", node, &comma);
	} else if (take_op(p, "{")) {
		r = dict_literal(p, ret);
	} else if (take_op(p, "(")) {
		r = elements(p, ")", node, &comma);
		node->tuple = true;
		if (r == 0 && node->n == 1 && !comma)
			*ret = node->list[0];
	} else {
		r = fail(p, "expected an expression");
	}
	p->depth--;
	return r;
}

/* "[" is taken. */
static int subscript(struct parse *p, struct jnode *of, struct jnode **ret)
{
	struct jnode *node, *part[3] = { NULL };
	bool slice = false;
	int at = 0, r = new_node(p, JN_ITEM, &node);

	if (r < 0)
		return r;
	while (r == 0 && !is_op(p, "]")) {
		if (take_op(p, ":")) {
			slice = true;
			if (++at > 2)
				return fail(p, "a slice has at most three parts");
		} else if (part[at]) {
			return fail(p, "expected \"]\"");
		} else {
			r = condition(p, true, &part[at]);
		}
	}
	if (r < 0 || (r = need_op(p, "]")) < 0)
		return r;
	if (!slice && !part[0])
		return fail(p, "expected an index before");
	node->a = of;
	node->b = part[0];
	if (slice) {
		node->kind = JN_SLICE;
		node->n = 3;
		node->list = arena_alloc(p->mem, sizeof(part));
		if (!node->list)
			return too_big(p);
		memcpy(node->list, part, sizeof(part));
	}
	*ret = node;
	return 0;
}

static int call(struct parse *p, struct jnode *of, struct jnode **ret)
{
	struct jnode *node;
	int r = new_node(p, JN_CALL, &node);

	if (r < 0)
		return r;
	node->a = of;
	*ret = node;
	return arguments(p, node);
}

static int postfix(struct parse *p, struct jnode **node)
{
	struct jnode *n = NULL;
	int r = enter(p), links = 0;

	while (r == 0) {
		if (take_op(p, ".")) {
			r = new_node(p, JN_ATTR, &n);
			if (r < 0)
				return r;
			n->a = *node;
			if (p->t->kind == JT_INT) {
				n->kind = JN_ITEM;
				r = primary(p, &n->b);
			} else {
				r = need_name(p, &n->str);
			}
			*node = n;
		} else if (take_op(p, "[")) {
			r = subscript(p, *node, node);
		} else if (take_op(p, "(")) {
			r = call(p, *node, node);
		} else {
			break;
		}
		if (++links > JINJA_PARSE_DEPTH)
			return fail(p, "a chain of accesses is too long");
	}
	p->depth--;
	return r;
}

static int filter(struct parse *p, struct jnode *of, struct jnode **ret)
{
	struct jnode *node;
	int r = new_node(p, JN_FILTER, &node);

	if (r < 0 || (r = need_name(p, &node->str)) < 0)
		return r;
	node->a = of;
	*ret = node;
	return take_op(p, "(") ? arguments(p, node) : 0;
}

static int test(struct parse *p, struct jnode *of, struct jnode **ret)
{
	struct jnode *node, *arg;
	int r = new_node(p, JN_TEST, &node);

	if (r < 0)
		return r;
	node->a = of;
	node->negated = take_word(p, "not");
	if (!is_op(p, "==") && p->t->kind != JT_NAME)
		return fail(p, "expected a test");
	node->str = p->t->s;
	p->t++;
	*ret = node;
	if (take_op(p, "("))
		return arguments(p, node);
	if (p->t->kind == JT_STR || p->t->kind == JT_INT || p->t->kind == JT_FLOAT ||
	    is_op(p, "[") || is_op(p, "{") ||
	    (p->t->kind == JT_NAME && !is_word(p, "else") && !is_word(p, "or") &&
	     !is_word(p, "and") && !is_word(p, "is") && !is_word(p, "if") && !is_word(p, "in") &&
	     !is_word(p, "not"))) {
		size_t base = p->stack.n;

		if ((r = primary(p, &arg)) < 0 || (r = postfix(p, &arg)) < 0 ||
		    (r = push_node(p, arg)) < 0)
			return r;
		return take_list(p, base, node);
	}
	return 0;
}

static int filters_and_tests(struct parse *p, struct jnode **node)
{
	int links = 0, r = 0;

	while (r == 0) {
		if (take_op(p, "|"))
			r = filter(p, *node, node);
		else if (take_word(p, "is"))
			r = test(p, *node, node);
		else if (take_op(p, "("))
			r = call(p, *node, node);
		else
			break;
		if (++links > JINJA_PARSE_DEPTH)
			return fail(p, "a chain of filters is too long");
	}
	return r;
}

static int unary(struct parse *p, bool with_filter, struct jnode **ret)
{
	struct jnode *node;
	int r = enter(p);

	if (r < 0)
		return r;
	if (is_op(p, "-") || is_op(p, "+")) {
		bool neg = take_op(p, "-");

		if (!neg)
			p->t++;
		r = unary(p, false, &node);
		if (r == 0 && neg) {
			r = new_node(p, JN_NEG, ret);
			if (r == 0) {
				(*ret)->a = node;
				node = *ret;
			}
		}
	} else if ((r = primary(p, &node)) == 0) {
		r = postfix(p, &node);
	}
	if (r == 0 && with_filter)
		r = filters_and_tests(p, &node);
	p->depth--;
	if (r == 0)
		*ret = node;
	return r;
}

/* The binary operators by level, loosest first; level 1 is "~". */
enum { LEVEL_ADD, LEVEL_CONCAT, LEVEL_MUL, LEVEL_POW, LEVEL_COUNT };
static const struct { const char *text; uint8_t level; uint8_t op; } binary[] = {
	{ "+", LEVEL_ADD, JO_ADD }, { "-", LEVEL_ADD, JO_SUB },  { "~", LEVEL_CONCAT, 0 },
	{ "*", LEVEL_MUL, JO_MUL }, { "/", LEVEL_MUL, JO_DIV },  { "//", LEVEL_MUL, JO_FLOORDIV },
	{ "%", LEVEL_MUL, JO_MOD }, { "**", LEVEL_POW, JO_POW },
};

static int take_ops(struct parse *p, const uint8_t *ops, size_t n, struct jnode *node)
{
	node->ops = arena_alloc(p->mem, n + 1);
	if (!node->ops)
		return too_big(p);
	if (n)
		memcpy(node->ops, ops, n);
	return 0;
}

static int math(struct parse *p, unsigned level, struct jnode **ret)
{
	VEC(uint8_t) ops = { 0 };
	size_t base = p->stack.n;
	struct jnode *node = NULL, *operand = NULL;
	int r;

	for (;;) {
		const uint8_t *op = NULL;

		r = level + 1 < LEVEL_COUNT ? math(p, level + 1, &operand)
		                            : unary(p, true, &operand);
		if (r < 0 || (r = push_node(p, operand)) < 0)
			break;
		for (size_t i = 0; i < ARRAY_SIZE(binary); i++)
			if (binary[i].level == level && is_op(p, binary[i].text))
				op = &binary[i].op;
		if (!op)
			break;
		p->t++;
		if ((r = vec_push(&ops, *op)) < 0)
			break;
	}
	if (r == 0 && ops.n == 0) {
		p->stack.n = base;
		*ret = operand;
	} else if (r == 0) {
		r = new_node(p, level == LEVEL_CONCAT ? JN_CONCAT : JN_MATH, &node);
		if (r == 0 && (r = take_list(p, base, node)) == 0)
			r = take_ops(p, ops.data, ops.n, node);
		*ret = node;
	}
	vec_deinit(&ops);
	return r;
}

static bool take_compare(struct parse *p, uint8_t *op)
{
	static const struct { const char *text; uint8_t op; } ops[] = {
		{ "==", JO_EQ }, { "!=", JO_NE }, { "<", JO_LT },
		{ "<=", JO_LE }, { ">", JO_GT },  { ">=", JO_GE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		*op = ops[i].op;
		if (take_op(p, ops[i].text))
			return true;
	}
	*op = JO_IN;
	if (take_word(p, "in"))
		return true;
	if (is_word(p, "not") && p->t[1].kind == JT_NAME && bytes_eq(p->t[1].s, bytes_of("in"))) {
		*op = JO_NOT_IN;
		p->t += 2;
		return true;
	}
	return false;
}

static int compare(struct parse *p, struct jnode **ret)
{
	VEC(uint8_t) ops = { 0 };
	size_t base = p->stack.n;
	struct jnode *node = NULL, *operand = NULL;
	uint8_t op;
	int r;

	do {
		r = math(p, LEVEL_ADD, &operand);
		if (r < 0 || (r = push_node(p, operand)) < 0 || !take_compare(p, &op))
			break;
		r = vec_push(&ops, op);
	} while (r == 0);
	if (r == 0 && ops.n == 0) {
		p->stack.n = base;
		*ret = operand;
	} else if (r == 0) {
		r = new_node(p, JN_COMPARE, &node);
		if (r == 0 && (r = take_list(p, base, node)) == 0)
			r = take_ops(p, ops.data, ops.n, node);
		*ret = node;
	}
	vec_deinit(&ops);
	return r;
}

static int negation(struct parse *p, struct jnode **ret)
{
	struct jnode *node;
	int r;

	if (!take_word(p, "not"))
		return compare(p, ret);
	if ((r = enter(p)) < 0 || (r = new_node(p, JN_NOT, &node)) < 0)
		return r;
	r = negation(p, &node->a);
	p->depth--;
	*ret = node;
	return r;
}

/* "and" binds tighter than "or". */
static int logic(struct parse *p, bool is_or, struct jnode **ret)
{
	size_t base = p->stack.n;
	struct jnode *node = NULL, *operand = NULL;
	int r;

	do {
		r = is_or ? logic(p, false, &operand) : negation(p, &operand);
		if (r < 0 || (r = push_node(p, operand)) < 0)
			return r;
	} while (take_word(p, is_or ? "or" : "and"));
	if (p->stack.n == base + 1) {
		p->stack.n = base;
		*ret = operand;
		return 0;
	}
	if ((r = new_node(p, is_or ? JN_OR : JN_AND, &node)) < 0)
		return r;
	*ret = node;
	return take_list(p, base, node);
}

static int condition(struct parse *p, bool with_if, struct jnode **ret)
{
	struct jnode *node = NULL;
	int r = enter(p);

	if (r < 0 || (r = logic(p, true, ret)) < 0)
		return r;
	for (int links = 0; r == 0 && with_if && take_word(p, "if"); links++) {
		if (links > JINJA_PARSE_DEPTH)
			return fail(p, "a chain of conditions is too long");
		if ((r = new_node(p, JN_COND, &node)) < 0)
			return r;
		node->a = *ret;
		*ret = node;
		r = logic(p, true, &node->b);
		if (r == 0 && take_word(p, "else"))
			r = condition(p, true, &node->c);
	}
	p->depth--;
	return r;
}

/* A condition, or several with commas between: a tuple without parentheses. */
static int tuple(struct parse *p, bool with_if, struct jnode **ret)
{
	size_t base = p->stack.n;
	struct jnode *node;
	int r = condition(p, with_if, ret);

	if (r < 0 || !is_op(p, ","))
		return r;
	if ((r = push_node(p, *ret)) < 0)
		return r;
	while (take_op(p, ",")) {
		if (p->t->kind == JT_BLOCK_END || p->t->kind == JT_VAR_END || is_op(p, "="))
			break;
		if ((r = condition(p, with_if, ret)) < 0 || (r = push_node(p, *ret)) < 0)
			return r;
	}
	if ((r = new_node(p, JN_LIST, &node)) < 0)
		return r;
	node->tuple = true;
	*ret = node;
	return take_list(p, base, node);
}

static int expression(struct parse *p, struct jnode **ret)
{
	return tuple(p, true, ret);
}

/* ---- statements ---- */

static int block_end(struct parse *p)
{
	if (p->t->kind != JT_BLOCK_END)
		return fail(p, "expected \"%}\"");
	p->t++;
	return 0;
}

/* The end tag that body() stopped at. */
static int end_tag(struct parse *p, const char *word)
{
	char what[40];

	if (take_word(p, word))
		return block_end(p);
	snprintf(what, sizeof(what), "expected \"%s\"", word);
	return fail(p, what);
}

/* Names to assign, with or without parentheses; "ns.attr" is kept as one target with the dot. */
static int targets(struct parse *p, struct jnode *node)
{
	size_t base = p->names.n;
	bool paren = take_op(p, "(");
	struct bytes name = { 0 }, attr = { 0 };
	int r;

	do {
		if ((r = need_name(p, &name)) < 0)
			return r;
		if (is_op(p, ".")) {
			char *dotted;

			p->t++;
			if ((r = need_name(p, &attr)) < 0)
				return r;
			dotted = arena_alloc(p->mem, name.n + attr.n + 2);
			if (!dotted)
				return too_big(p);
			memcpy(dotted, name.p, name.n);
			dotted[name.n] = '.';
			memcpy(dotted + name.n + 1, attr.p, attr.n);
			name = (struct bytes){ dotted, name.n + attr.n + 1 };
		}
		if ((r = vec_push(&p->names, name)) < 0)
			return r;
	} while (take_op(p, ",") && p->t->kind == JT_NAME && !is_word(p, "in"));
	if (paren && (r = need_op(p, ")")) < 0)
		return r;
	return take_names(p, base, node);
}

static int st_if(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "elif", "else", "endif", NULL };
	size_t base = p->stack.n;
	struct jnode *n;
	int r;

	node->kind = JN_IF;
	do {
		if ((r = tuple(p, true, &n)) < 0 || (r = push_node(p, n)) < 0 ||
		    (r = block_end(p)) < 0 || (r = body(p, ends, &n)) < 0 ||
		    (r = push_node(p, n)) < 0)
			return r;
	} while (take_word(p, "elif"));
	if (take_word(p, "else"))
		if ((r = block_end(p)) < 0 || (r = body(p, ends + 2, &n)) < 0 ||
		    (r = push_node(p, n)) < 0)
			return r;
	if ((r = end_tag(p, "endif")) < 0)
		return r;
	return take_list(p, base, node);
}

static int st_for(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "else", "endfor", NULL };
	int r;

	node->kind = JN_FOR;
	if ((r = targets(p, node)) < 0)
		return r;
	if (!take_word(p, "in"))
		return fail(p, "expected \"in\"");
	if ((r = tuple(p, false, &node->a)) < 0)
		return r;
	if (take_word(p, "if") && (r = condition(p, true, &node->b)) < 0)
		return r;
	if (is_word(p, "recursive"))
		return fail(p, "recursive loops are not supported");
	if ((r = block_end(p)) < 0)
		return r;
	p->loops++;
	r = body(p, ends, &node->c);
	p->loops--;
	if (r < 0)
		return r;
	if (take_word(p, "else"))
		if ((r = block_end(p)) < 0 || (r = body(p, ends + 1, &node->d)) < 0)
			return r;
	return end_tag(p, "endfor");
}

static int st_set(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "endset", NULL };
	int r = targets(p, node);

	if (r < 0)
		return r;
	node->kind = JN_SET;
	if (take_op(p, "=")) {
		r = tuple(p, true, &node->a);
		return r < 0 ? r : block_end(p);
	}
	node->kind = JN_SET_BLOCK;
	if ((r = filters_and_tests(p, &node->a)) < 0 || (r = block_end(p)) < 0 ||
	    (r = body(p, ends, &node->c)) < 0)
		return r;
	return end_tag(p, "endset");
}

/* "(" is taken: parameters with defaults; names[i] defaults to list[i], NULL when it has none. */
static int parameters(struct parse *p, struct jnode *node)
{
	size_t base = p->stack.n, name_base = p->names.n;
	struct bytes name;
	int r;

	while (!take_op(p, ")")) {
		struct jnode *def = NULL;

		if ((r = need_name(p, &name)) < 0 || (r = vec_push(&p->names, name)) < 0)
			return r;
		if (take_op(p, "=") && (r = condition(p, true, &def)) < 0)
			return r;
		if ((r = push_node(p, def)) < 0 || (!is_op(p, ")") && (r = need_op(p, ",")) < 0))
			return r;
	}
	r = take_list(p, base, node);
	return r < 0 ? r : take_names(p, name_base, node);
}

static int st_macro(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "endmacro", NULL };
	unsigned loops = p->loops;
	int r;

	node->kind = JN_MACRO;
	if ((r = need_name(p, &node->str)) < 0 || (r = need_op(p, "(")) < 0 ||
	    (r = parameters(p, node)) < 0 || (r = block_end(p)) < 0)
		return r;
	p->loops = 0;
	r = body(p, ends, &node->c);
	p->loops = loops;
	return r < 0 ? r : end_tag(p, "endmacro");
}

static int st_call(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "endcall", NULL };
	unsigned loops = p->loops;
	int r;

	node->kind = JN_CALL_BLOCK;
	node->str = bytes_of("caller");
	if (take_op(p, "(") && (r = parameters(p, node)) < 0)
		return r;
	if ((r = unary(p, true, &node->a)) < 0)
		return r;
	if (node->a->kind != JN_CALL)
		return fail(p, "expected a call before");
	if ((r = block_end(p)) < 0)
		return r;
	p->loops = 0;
	r = body(p, ends, &node->c);
	p->loops = loops;
	return r < 0 ? r : end_tag(p, "endcall");
}

static int st_filter(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "endfilter", NULL };
	int r;

	node->kind = JN_FILTER_BLOCK;
	if ((r = filter(p, NULL, &node->a)) < 0 || (r = filters_and_tests(p, &node->a)) < 0 ||
	    (r = block_end(p)) < 0 || (r = body(p, ends, &node->c)) < 0)
		return r;
	return end_tag(p, "endfilter");
}

static int st_with(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "endwith", NULL };
	size_t base = p->stack.n, name_base = p->names.n;
	struct bytes name;
	struct jnode *val;
	int r;

	node->kind = JN_WITH;
	while (p->t->kind != JT_BLOCK_END) {
		if ((r = need_name(p, &name)) < 0 || (r = vec_push(&p->names, name)) < 0 ||
		    (r = need_op(p, "=")) < 0 || (r = condition(p, true, &val)) < 0 ||
		    (r = push_node(p, val)) < 0)
			return r;
		if (p->t->kind != JT_BLOCK_END && (r = need_op(p, ",")) < 0)
			return r;
	}
	p->t++;
	if ((r = take_list(p, base, node)) < 0 || (r = take_names(p, name_base, node)) < 0 ||
	    (r = body(p, ends, &node->c)) < 0)
		return r;
	return end_tag(p, "endwith");
}

/* Marks what training would learn; printing is the same. */
static int st_generation(struct parse *p, struct jnode *node)
{
	static const char *const ends[] = { "endgeneration", NULL };
	struct jnode *inner;
	int r;

	if ((r = block_end(p)) < 0 || (r = body(p, ends, &inner)) < 0)
		return r;
	*node = *inner;
	return end_tag(p, "endgeneration");
}

static int st_jump(struct parse *p, struct jnode *node)
{
	if (p->loops == 0)
		return fail(p, "break and continue belong in a loop");
	node->kind = bytes_eq(p->t[-1].s, bytes_of("break")) ? JN_BREAK : JN_CONTINUE;
	return block_end(p);
}

static const struct {
	const char *word;
	int (*parse)(struct parse *p, struct jnode *node);
} statements[] = {
	{ "if", st_if },      { "for", st_for },
	{ "set", st_set },    { "macro", st_macro },
	{ "call", st_call },  { "filter", st_filter },
	{ "with", st_with },  { "generation", st_generation },
	{ "break", st_jump }, { "continue", st_jump },
};

/* JT_BLOCK_BEGIN is taken and the word is no end of an open block. */
static int statement(struct parse *p, struct jnode **ret)
{
	int r = new_node(p, JN_BLOCK, ret);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(statements); i++)
		if (take_word(p, statements[i].word))
			return statements[i].parse(p, *ret);
	return fail(p, "expected a statement that is supported");
}

static int print(struct parse *p, struct jnode **ret)
{
	int r = new_node(p, JN_PRINT, ret);

	if (r < 0 || (r = expression(p, &(*ret)->a)) < 0)
		return r;
	if (p->t->kind != JT_VAR_END)
		return fail(p, "expected \"}}\"");
	p->t++;
	return 0;
}

/* Everything up to a tag that starts with one of `ends`; that tag's opening mark is taken, its word
 * is not. */
static int body(struct parse *p, const char *const *ends, struct jnode **ret)
{
	size_t base = p->stack.n;
	struct jnode *block, *n = NULL;
	int r = enter(p);

	if (r < 0 || (r = new_node(p, JN_BLOCK, &block)) < 0)
		return r;
	for (;;) {
		if (p->t->kind == JT_END) {
			while (*ends && ends[1])        /* the last one closes the block */
				ends++;
			if (*ends)
				r = err_set(
					p->err, -EINVAL,
					"chat template, line %u: a block opened here or later has "
					"no %s",
					block->line, *ends);
			break;
		}
		if (p->t->kind == JT_DATA) {
			if ((r = new_node(p, JN_TEXT, &n)) == 0)
				n->str = p->t++->s;
		} else if (p->t++->kind == JT_VAR_BEGIN) {
			r = print(p, &n);
		} else {
			bool stop = false;

			for (size_t i = 0; ends[i]; i++)
				stop |= is_word(p, ends[i]);
			if (stop)
				break;
			r = statement(p, &n);
		}
		if (r < 0 || (r = push_node(p, n)) < 0)
			return r;
	}
	p->depth--;
	*ret = block;
	return r < 0 ? r : take_list(p, base, block);
}

int jinja_parse(struct jnode **ret, const struct jtoks *toks, struct arena *mem, struct err *err)
{
	static const char *const no_ends[] = { NULL };
	struct parse p = { .t = toks->data, .mem = mem, .err = err };
	int r = body(&p, no_ends, ret);

	vec_deinit(&p.stack);
	vec_deinit(&p.names);
	return r;
}
