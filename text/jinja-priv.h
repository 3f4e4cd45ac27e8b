/* jinja-priv - what the parts of the template engine share: tokens, nodes, values and the running
 * evaluation.
 *
 * Values live in the render's arena and are immutable, but for namespaces; so lists and
 * dictionaries form no cycles, know their nesting when made, and are freed in one go. */
#pragma once
#include "base/mem.h"
#include "base/num.h"
#include "text/chat.h"

enum {
	JINJA_TEXT_MAX = 1 << 20,               /* bytes of a template */
	JINJA_TREE_MAX = 64 << 20,              /* bytes of its tree */
	JINJA_PARSE_DEPTH = 200,                /* nested blocks and expressions in the text */
	JINJA_VALUE_DEPTH = 200,                /* nested lists and dictionaries */
	/* evaluation levels for each unit of the depth budget */
	JINJA_NEST_PER_DEPTH = 16,
	/* bytes of values made by one render, besides its variables */
	JINJA_HEAP_MAX = 64 << 20,
};

/* ---- tokens ---- */
enum jtok_kind {
	JT_DATA,
	JT_VAR_BEGIN,
	JT_VAR_END,
	JT_BLOCK_BEGIN,
	JT_BLOCK_END,
	JT_NAME,
	JT_INT,
	JT_FLOAT,
	JT_STR,
	JT_OP,
	JT_END
};
struct jtok {
	enum jtok_kind kind;
	uint32_t line;
	/* text; a string's is unescaped; an operator's 1 or 2 bytes */
	struct bytes s;
};
struct jtoks {
	struct jtok *data;
	size_t n, cap;
};
/* Split `text` (lines end in \n) into tokens, whitespace control applied, a JT_END last. Strings go
 * to mem. */
int jinja_lex(struct jtoks *ret, struct bytes text, struct arena *mem, struct err *err);

/* ---- tree ---- */
enum jnode_kind {
	/* expressions */
	JN_LIT,
	JN_NAME,
	JN_LIST,
	JN_DICT,
	JN_ATTR,
	JN_ITEM,
	JN_SLICE,
	JN_CALL,
	JN_FILTER,
	JN_TEST,
	JN_NOT,
	JN_NEG,
	JN_AND,
	JN_OR,
	JN_MATH,
	JN_CONCAT,
	JN_COMPARE,
	JN_COND,
	/* statements */
	JN_TEXT,
	JN_PRINT,
	JN_IF,
	JN_FOR,
	JN_SET,
	JN_SET_BLOCK,
	JN_MACRO,
	JN_CALL_BLOCK,
	JN_FILTER_BLOCK,
	JN_WITH,
	JN_BREAK,
	JN_CONTINUE,
	JN_BLOCK,
};
enum jop {
	JO_ADD,
	JO_SUB,
	JO_MUL,
	JO_DIV,
	JO_FLOORDIV,
	JO_MOD,
	JO_POW,
	JO_EQ,
	JO_NE,
	JO_LT,
	JO_LE,
	JO_GT,
	JO_GE,
	JO_IN,
	JO_NOT_IN
};

struct jv;
enum jk {
	JK_UNDEF,
	JK_NONE,
	JK_BOOL,
	JK_INT,
	JK_FLOAT,
	JK_STR,
	JK_LIST,
	JK_DICT,
	JK_NS,
	JK_LOOP,
	JK_MACRO,
	JK_FUNC,
	JK_METHOD
};
struct jv {
	enum jk kind;
	bool tuple;                             /* a list that prints with parentheses */
	union {
		bool b;
		int64_t i;
		double f;
		struct bytes s;
		const struct jlist *list;
		const struct jdict *dict;
		struct jns *ns;
		const struct jloop *loop;
		const struct jmacro *macro;
		const struct jfunc *func;
		const struct jmethod *method;
	};
};
struct jlist {
	uint32_t n, depth;
	struct jv v[];
};
struct jentry {
	struct jv key, val;
};
struct jdict {
	uint32_t n, depth;
	struct jentry e[];
};

/* One shape for all nodes:
 *   LIT lit · NAME str · LIST list · DICT list = key, value, key ... · ATTR a.str · ITEM a[b] ·
 *   SLICE a[list 0..2, NULL ok] CALL a(list; names) · FILTER a|str(list; names) · TEST a is
 *   str(list) [negated] · AND/OR/CONCAT list MATH, COMPARE list with ops[i] between list[i] and
 *   list[i + 1] · COND a if b else c (c NULL ok)
 *   TEXT str · PRINT a · IF list = cond, body, cond, body ... [, else] · FOR targets in a if b: c
 *   else d SET targets = a · SET_BLOCK targets = body c, then filters a (NULL ok) · MACRO str(names
 *   = list) c CALL_BLOCK call a, body c, params names · FILTER_BLOCK a is the filter chain whose
 *   innermost operand is NULL, body c WITH names = list, body c · BLOCK list */
struct jnode {
	enum jnode_kind kind;
	uint32_t line;
	uint32_t n;                             /* of list */
	uint32_t n_names;
	bool negated, tuple;
	struct jnode *a, *b, *c, *d;
	struct jnode **list;
	union {
		uint8_t *ops;                   /* enum jop [n - 1] */
		/* keyword i names list[n - n_names + i]; parameters, targets */
		struct bytes *names;
	};
	union {
		struct bytes str;
		struct jv lit;
	};
};
struct jinja {
	struct arena mem;
	struct jnode *root;
};
int jinja_parse(struct jnode **ret, const struct jtoks *toks, struct arena *mem, struct err *err);

/* ---- evaluation ---- */
struct jvar {
	struct bytes name;
	struct jv val;
	struct jvar *next;
};
struct jns {
	struct jvar *vars;
};
struct jframe {                                 /* scope; looked up outwards */
	struct jvar *vars;
	struct jframe *up;
};
struct jloop {
	const struct jlist *items;
	uint32_t at, depth;
};
struct jmacro {
	const struct jnode *node;               /* JN_MACRO or JN_CALL_BLOCK */
	struct jframe *frame;                   /* where it was defined */
};
struct jkw {
	struct bytes name;
	struct jv val;
};
struct jcall {                                  /* operands of a filter, test, function or method */
	const char *name;
	struct jv self;
	const struct jv *arg;
	uint32_t n;
	const struct jkw *kw;
	uint32_t n_kw;
};
struct jeval {
	struct arena mem;
	struct jframe *frame;
	struct sbuf *out;
	struct err *err;
	uint64_t steps, steps_max;
	unsigned depth, depth_max, nest;        /* macros; evaluation levels */
	size_t output_max;
	uint32_t line;                          /* of the node under evaluation */
	enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
	unsigned loops;
	/* what a filter chain without an operand works on */
	struct jv input;
};
typedef int (*jinja_fn)(struct jeval *ev, const struct jcall *call, struct jv *ret);
/* row of the tables of filters, tests, globals and methods */
struct jfunc {
	const char *name;
	jinja_fn fn;
};
struct jmethod {
	struct jv self;
	const struct jfunc *func;
};

const struct jfunc *jinja_filter_find(struct bytes name);
const struct jfunc *jinja_test_find(struct bytes name);
const struct jfunc *jinja_global_find(struct bytes name);
const struct jfunc *jinja_method_find(enum jk kind, struct bytes name);

/* Failures: each stores a sentence with the line and returns its code. */
/* -EINVAL */
int jv_fail(struct jeval *ev, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* -E2BIG when the value budget is spent, else -ENOMEM */
int jv_no_memory(struct jeval *ev);
int jv_charge(struct jeval *ev, uint64_t steps);
/* Operators (jinja-math.c). */
int jv_math(struct jeval *ev, enum jop op, const struct jv *a, const struct jv *b, struct jv *ret);
int jv_slice(struct jeval *ev, const struct jv *of,
             const struct jv *part /* [3], undefined = left out */, struct jv *ret);
/* All operands as text, end to end. */
int jv_concat(struct jeval *ev, const struct jv *v, size_t n, struct jv *ret);

/* ---- values (jinja-value.c) ---- */
static inline struct jv jv_bool(bool b)
{
	return (struct jv){ .kind = JK_BOOL, .b = b };
}
static inline struct jv jv_int(int64_t i)
{
	return (struct jv){ .kind = JK_INT, .i = i };
}
static inline struct jv jv_float(double f)
{
	return (struct jv){ .kind = JK_FLOAT, .f = f };
}
static inline struct jv jv_str(struct bytes s)  /* borrowed: must live as long as the render */
{
	return (struct jv){ .kind = JK_STR, .s = s };
}
static inline struct bytes bytes_of(const char *s)
{
	return (struct bytes){ s, strlen(s) };
}
static inline bool bytes_eq(struct bytes a, struct bytes b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
extern const struct jv jv_undef, jv_none;

const char *jv_kind_name(const struct jv *v);
bool jv_truth(const struct jv *v);
bool jv_number(const struct jv *v, double *ret);                        /* bool, int, float */
/* order; mixed kinds fail */
int jv_compare(struct jeval *ev, const struct jv *a, const struct jv *b, int *ret);
bool jv_equal(const struct jv *a, const struct jv *b);
int jv_contains(struct jeval *ev, const struct jv *in, const struct jv *v, bool *ret);
/* Copy into the arena. */
int jv_make_str(struct jeval *ev, struct jv *ret, const char *p, size_t n);
int jv_from_sbuf(struct jeval *ev, struct jv *ret, struct sbuf *s);     /* copies and deinits */
/* A list of n slots to fill, then jv_list_seal, which fixes the depth. NULL: jv_no_memory. */
struct jlist *jv_list_new(struct jeval *ev, size_t n);
int jv_list_seal(struct jeval *ev, struct jlist *list, struct jv *ret);
struct jdict *jv_dict_new(struct jeval *ev, size_t n);
int jv_dict_seal(struct jeval *ev, struct jdict *dict, struct jv *ret);
const struct jv *jv_dict_get(struct jeval *ev, const struct jdict *d, const struct jv *key);
int jv_from_json(struct jeval *ev, json_t *json, unsigned depth, struct jv *ret);
/* Items a loop sees: a list's, a dictionary's keys, a string's code points, nothing of
 * undefined. */
int jv_items(struct jeval *ev, const struct jv *v, const struct jlist **ret);
int jv_length(struct jeval *ev, const struct jv *v, size_t *ret);
size_t utf8_count(struct bytes s);
/* byte offset of code point `index` */
size_t utf8_offset(struct bytes s, size_t index);
/* Text as printed (strings bare) or as Python's repr (strings quoted). 0, -ENOMEM, -ENOSPC. */
int jv_print(struct sbuf *out, const struct jv *v);
int jv_repr(struct sbuf *out, const struct jv *v);
int jv_tojson(struct jeval *ev, struct sbuf *out, const struct jv *v, int indent, unsigned level,
              bool sort, bool ascii);
int jv_sort(struct jeval *ev, struct jv *v, size_t n, bool reverse, const struct bytes *attribute,
            bool fold);
/* undefined when absent */
int jv_attr(struct jeval *ev, const struct jv *v, struct bytes name, struct jv *ret);
int jv_item(struct jeval *ev, const struct jv *v, const struct jv *key, struct jv *ret);

/* Operand by position or keyword; NULL when not given. */
const struct jv *jcall_arg(const struct jcall *call, uint32_t at, const char *name);
