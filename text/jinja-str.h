/* jinja-str - what filters and methods do to strings. Results borrow from the operand where they
 * are a part of it. */
#pragma once
#include "text/jinja-priv.h"

enum jstr_case { JSTR_UPPER, JSTR_LOWER, JSTR_CAPITALIZE, JSTR_TITLE };
enum { JSTR_LEFT = 1, JSTR_RIGHT = 2 };

int jstr_case(struct jeval *ev, struct bytes s, enum jstr_case how, struct jv *ret);
/* has cased letters, and all are of that case */
bool jstr_is_case(struct bytes s, enum jstr_case how);
/* NULL: white space */
struct bytes jstr_strip(struct bytes s, const struct bytes *chars, unsigned sides);
int jstr_replace(struct jeval *ev, struct bytes s, struct bytes old, struct bytes new, int64_t max,
                 struct jv *ret);
int jstr_indent(struct jeval *ev, struct bytes s, struct bytes fill, bool first, bool blank,
                struct jv *ret);
int jstr_escape_html(struct jeval *ev, struct bytes s, struct jv *ret);
/* sep NULL: runs of white space. max < 0: no bound. */
int jstr_split(struct jeval *ev, struct bytes s, const struct bytes *sep, int64_t max,
               bool from_right, struct jv *ret);
/* the whole string, spaces around */
bool jstr_number(struct bytes s, char *text, size_t size, double *ret);
/* First and last place of `what`, which is not empty; NULL: none. The last one takes time in
 * proportion to both lengths: charge jstr_last_steps for it. */
const char *jstr_find(struct bytes s, struct bytes what);
const char *jstr_find_last(struct bytes s, struct bytes what);
uint64_t jstr_last_steps(struct bytes s, struct bytes what);
/* list of (key, value) */
int jv_dict_items(struct jeval *ev, const struct jv *v, struct jv *ret);
