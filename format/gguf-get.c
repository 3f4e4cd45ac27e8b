/* gguf-get - lookups, typed getters, JSON text of values.
 *
 * A getter judges kind, count and range together, so that no caller ever reads a value as something
 * it is not. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>

#include "base/num.h"
#include "format/gguf-priv.h"

enum { SHOWN = 80 };

const char *gguf_kind_name(uint32_t kind)
{
	static const char *const names[GGUF_KIND_COUNT] = {
		[GGUF_U8] = "u8",     [GGUF_I8] = "i8",     [GGUF_U16] = "u16",
		[GGUF_I16] = "i16",   [GGUF_U32] = "u32",   [GGUF_I32] = "i32",
		[GGUF_F32] = "f32",   [GGUF_BOOL] = "bool", [GGUF_STR] = "string",
		[GGUF_ARR] = "array", [GGUF_U64] = "u64",   [GGUF_I64] = "i64",
		[GGUF_F64] = "f64",
	};

	return kind < GGUF_KIND_COUNT ? names[kind] : "unknown";
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
	return g->priv->keys ? map_get(g->priv->keys, key, strlen(key)) : NULL;
}
const struct tensor *gguf_tensor(const struct gguf *g, const char *name)
{
	return map_get(g->priv->names, name, strlen(name));
}

static int wrong_kind(struct err *err, const char *key, const struct gguf_value *v,
                      const char *want)
{
	char shown[SHOWN];

	return err_set(err, -EBADMSG, "key '%s' is %s%s, %s is needed",
	               str_escape(shown, sizeof(shown), key, strlen(key)),
	               v->array ? "an array of " : "of kind ", gguf_kind_name(v->kind), want);
}

/* An integer scalar as sign and magnitude's two halves: *ret_neg means the value is below zero. */
static bool get_integer(const struct gguf_value *v, uint64_t *ret, bool *ret_neg)
{
	int64_t i = 0;
	uint64_t u = 0;

	if (v->array)
		return false;
	switch (v->kind) {
	case GGUF_U8: u = *(const uint8_t *)v->data; break;
	case GGUF_U16: u = *(const uint16_t *)v->data; break;
	case GGUF_U32: u = *(const uint32_t *)v->data; break;
	case GGUF_U64: u = *(const uint64_t *)v->data; break;
	case GGUF_I8: i = *(const int8_t *)v->data; break;
	case GGUF_I16: i = *(const int16_t *)v->data; break;
	case GGUF_I32: i = *(const int32_t *)v->data; break;
	case GGUF_I64: i = *(const int64_t *)v->data; break;
	default: return false;
	}
	*ret_neg = i < 0;
	*ret = u ? u : (uint64_t)i;
	return true;
}
int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret, struct err *err)
{
	const struct gguf_value *v = gguf_find(g, key);
	uint64_t value;
	bool negative;

	if (!v)
		return GGUF_E_ABSENT;
	if (!get_integer(v, &value, &negative))
		return wrong_kind(err, key, v, "an integer");
	if (negative)
		return err_set(err, -EBADMSG, "key '%s' is negative", key);
	if (value > UINT32_MAX)
		return err_set(err, -EBADMSG, "key '%s' is %" PRIu64 ", more than 32 bits hold",
		               key, value);
	*ret = (uint32_t)value;
	return 0;
}
int gguf_get_f32(const struct gguf *g, const char *key, float *ret, struct err *err)
{
	const struct gguf_value *v = gguf_find(g, key);

	if (!v)
		return GGUF_E_ABSENT;
	if (v->array || (v->kind != GGUF_F32 && v->kind != GGUF_F64))
		return wrong_kind(err, key, v, "a floating-point number");
	*ret = v->kind == GGUF_F32 ? *(const float *)v->data : (float)*(const double *)v->data;
	return 0;
}
int gguf_get_bool(const struct gguf *g, const char *key, bool *ret, struct err *err)
{
	const struct gguf_value *v = gguf_find(g, key);

	if (!v)
		return GGUF_E_ABSENT;
	if (v->array || v->kind != GGUF_BOOL)
		return wrong_kind(err, key, v, "a boolean");
	*ret = *(const uint8_t *)v->data != 0;
	return 0;
}
int gguf_get_str(const struct gguf *g, const char *key, struct bytes *ret, struct err *err)
{
	const struct gguf_value *v = gguf_find(g, key);

	if (!v)
		return GGUF_E_ABSENT;
	if (v->array || v->kind != GGUF_STR)
		return wrong_kind(err, key, v, "a string");
	*ret = *(const struct bytes *)v->data;
	return 0;
}
int gguf_get_arr(const struct gguf *g, const char *key, enum gguf_kind kind, const void **ret,
                 uint64_t *ret_n, struct err *err)
{
	const struct gguf_value *v = gguf_find(g, key);
	char want[32];

	if (!v)
		return GGUF_E_ABSENT;
	snprintf(want, sizeof(want), "an array of %s", gguf_kind_name(kind));
	if (!v->array || v->kind != kind)
		return wrong_kind(err, key, v, want);
	*ret = v->data;
	*ret_n = v->n;
	return 0;
}

static int json_float(double x, int digits, struct sbuf *out)
{
	/* JSON knows no NaN */
	return isfinite(x) ? sbuf_printf(out, "%.*g", digits, x) : sbuf_printf(out, "null");
}
static int json_string(const char *p, size_t n, struct sbuf *out)
{
	int r = sbuf_append(out, "\"", 1);

	while (r == 0 && n > 0) {
		uint32_t cp = 0;
		unsigned len = utf8_decode(p, n, &cp);

		if (len == 0)                   /* no text: one replacement character a byte */
			r = sbuf_append(out, "\\ufffd", 6);
		else if (cp == '"' || cp == '\\')
			r = sbuf_printf(out, "\\%c", (int)cp);
		else if (cp < 0x20 || cp == 0x7f)
			r = sbuf_printf(out, "\\u%04x", (unsigned)cp);
		else
			r = sbuf_append(out, p, len);
		p += MAX(len, 1u);
		n -= MAX(len, 1u);
	}
	return r == 0 ? sbuf_append(out, "\"", 1) : r;
}
static int json_element(const struct gguf_value *v, uint64_t i, struct sbuf *out)
{
	const struct bytes *s;

	switch (v->kind) {
	case GGUF_U8: return sbuf_printf(out, "%" PRIu8, ((const uint8_t *)v->data)[i]);
	case GGUF_I8: return sbuf_printf(out, "%" PRId8, ((const int8_t *)v->data)[i]);
	case GGUF_U16: return sbuf_printf(out, "%" PRIu16, ((const uint16_t *)v->data)[i]);
	case GGUF_I16: return sbuf_printf(out, "%" PRId16, ((const int16_t *)v->data)[i]);
	case GGUF_U32: return sbuf_printf(out, "%" PRIu32, ((const uint32_t *)v->data)[i]);
	case GGUF_I32: return sbuf_printf(out, "%" PRId32, ((const int32_t *)v->data)[i]);
	case GGUF_U64: return sbuf_printf(out, "%" PRIu64, ((const uint64_t *)v->data)[i]);
	case GGUF_I64: return sbuf_printf(out, "%" PRId64, ((const int64_t *)v->data)[i]);
	case GGUF_F32: return json_float((double)((const float *)v->data)[i], 9, out);
	case GGUF_F64: return json_float(((const double *)v->data)[i], 17, out);
	case GGUF_BOOL:
		return sbuf_printf(out, "%s", ((const uint8_t *)v->data)[i] ? "true" : "false");
	case GGUF_STR:
		s = &((const struct bytes *)v->data)[i];
		return json_string(s->p, s->n, out);
	default: return -EINVAL;
	}
}
int gguf_value_json(const struct gguf_value *v, uint64_t max_items, struct sbuf *out)
{
	uint64_t n = MIN(v->n, max_items);
	int r;

	if (!v->array)
		return json_element(v, 0, out);
	r = sbuf_append(out, "[", 1);
	for (uint64_t i = 0; r == 0 && i < n; i++) {
		if (i > 0)
			r = sbuf_append(out, ",", 1);
		if (r == 0)
			r = json_element(v, i, out);
	}
	if (r == 0 && n < v->n)
		r = sbuf_printf(out, "%s\"...\"", n ? "," : "");
	return r == 0 ? sbuf_append(out, "]", 1) : r;
}
