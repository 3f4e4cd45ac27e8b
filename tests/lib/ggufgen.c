#include "tests/lib/ggufgen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/qtype.h"

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}
static void *dup_bytes(const void *p, size_t n)
{
	char *d = must(malloc(n + 1));

	if (n)
		memcpy(d, p, n);
	d[n] = 0;
	return d;
}
struct out {
	uint8_t *p;
	size_t n, cap;
};
static void put(struct out *o, const void *p, size_t n)
{
	if (o->n + n > o->cap) {
		o->cap = 2 * (o->n + n) + 64;
		o->p = must(realloc(o->p, o->cap));
	}
	if (n)
		memcpy(o->p + o->n, p, n);
	o->n += n;
}
static void put_zeros(struct out *o, size_t n)
{
	while (n-- > 0)
		put(o, "", 1);
}
static void put_u32(struct out *o, uint32_t v)
{
	put(o, &v, 4);
}
static void put_u64(struct out *o, uint64_t v)
{
	put(o, &v, 8);
}

struct ggufgen *ggufgen_new(uint64_t seed)
{
	struct ggufgen *g = must(calloc(1, sizeof(*g)));

	g->version = 3;
	memcpy(g->magic, "GGUF", 4);
	g->claim_kv = g->claim_tensors = GGUFGEN_TRUE;
	g->alignment = 32;
	g->rng = seed;
	return g;
}
void ggufgen_free(struct ggufgen *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n_kv; i++) {
		free(g->kv[i].key);
		free(g->kv[i].payload);
	}
	for (size_t i = 0; i < g->n_tensors; i++) {
		free(g->tensor[i].name);
		free(g->tensor[i].data);
	}
	free(g->kv);
	free(g->tensor);
	free(g);
}

void ggufgen_raw(struct ggufgen *g, const char *key, size_t key_len, uint32_t kind,
                 const void *payload, size_t n)
{
	if (g->n_kv % 64 == 0)
		g->kv = must(realloc(g->kv, (g->n_kv + 64) * sizeof(*g->kv)));
	g->kv[g->n_kv++] = (struct ggufgen_kv){
		.key = dup_bytes(key, key_len),
		.key_len = key_len,
		.kind = kind,
		.payload = dup_bytes(payload, n),
		.n = n,
	};
}
bool ggufgen_drop(struct ggufgen *g, const char *key)
{
	for (size_t i = 0; i < g->n_kv; i++) {
		if (g->kv[i].key_len != strlen(key) || memcmp(g->kv[i].key, key, strlen(key)) != 0)
			continue;
		free(g->kv[i].key);
		free(g->kv[i].payload);
		memmove(&g->kv[i], &g->kv[i + 1], (g->n_kv - i - 1) * sizeof(*g->kv));
		g->n_kv--;
		return true;
	}
	return false;
}
static void replace(struct ggufgen *g, const char *key, uint32_t kind, const void *payload,
                    size_t n)
{
	ggufgen_drop(g, key);
	ggufgen_raw(g, key, strlen(key), kind, payload, n);
}
static size_t kind_bytes(enum gguf_kind kind)
{
	static const uint8_t bytes[GGUF_KIND_COUNT] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

	return bytes[kind];
}
void ggufgen_num(struct ggufgen *g, const char *key, enum gguf_kind kind, const void *value)
{
	replace(g, key, kind, value, kind_bytes(kind));
}
void ggufgen_u32(struct ggufgen *g, const char *key, uint32_t value)
{
	ggufgen_num(g, key, GGUF_U32, &value);
}
void ggufgen_f32(struct ggufgen *g, const char *key, float value)
{
	ggufgen_num(g, key, GGUF_F32, &value);
}
void ggufgen_bool(struct ggufgen *g, const char *key, bool value)
{
	ggufgen_num(g, key, GGUF_BOOL, &(uint8_t){ value });
}
void ggufgen_strn(struct ggufgen *g, const char *key, const void *value, size_t n)
{
	struct out o = { 0 };

	put_u64(&o, n);
	put(&o, value, n);
	replace(g, key, GGUF_STR, o.p, o.n);
	free(o.p);
}
void ggufgen_str(struct ggufgen *g, const char *key, const char *value)
{
	ggufgen_strn(g, key, value, strlen(value));
}
void ggufgen_arr(struct ggufgen *g, const char *key, enum gguf_kind kind, const void *data,
                 uint64_t n)
{
	struct out o = { 0 };

	put_u32(&o, kind);
	put_u64(&o, n);
	put(&o, data, n * kind_bytes(kind));
	replace(g, key, GGUF_ARR, o.p, o.n);
	free(o.p);
}
void ggufgen_strs(struct ggufgen *g, const char *key, const char *const *s, uint64_t n)
{
	struct out o = { 0 };

	put_u32(&o, GGUF_STR);
	put_u64(&o, n);
	for (uint64_t i = 0; i < n; i++) {
		put_u64(&o, strlen(s[i]));
		put(&o, s[i], strlen(s[i]));
	}
	replace(g, key, GGUF_ARR, o.p, o.n);
	free(o.p);
}

static uint64_t next(uint64_t *rng)             /* splitmix64 */
{
	uint64_t z = *rng += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}
static float uniform(uint64_t *rng)             /* [0, 1) */
{
	return (float)(next(rng) >> 40) * 0x1p-24f;
}
/* To half precision, toward zero: enough for random scales. Subnormals and overflow included. */
static uint16_t to_f16(float f)
{
	int e;
	float m = frexpf(fabsf(f), &e);         /* f = m * 2^e, m in [0.5, 1) */
	uint16_t sign = signbit(f) ? 0x8000 : 0;

	if (f == 0 || e < -23)
		return sign;
	if (e > 16)
		return sign | 0x7bff;
	if (e < -13)
		return sign | (uint16_t)ldexpf(m, e + 24);
	return sign | (uint16_t)((e + 14) << 10) | ((uint16_t)ldexpf(m, 11) & 0x3ff);
}

/* Where a block's scales are, the deviation of its codes (already times the block's inner scales),
 * and what multiple of the scale the minimum is for the values to be centred. -1: has none. */
static const struct scales {
	uint8_t type;
	int16_t d, m;
	float code, centre;
} scale_table[] = {
	{ QTYPE_Q4_0, 0, -1, 4.6f, 0 },   { QTYPE_Q4_1, 0, 2, 4.6f, -7.5f },
	{ QTYPE_Q5_0, 0, -1, 9.2f, 0 },   { QTYPE_Q5_1, 0, 2, 9.2f, -15.5f },
	{ QTYPE_Q8_0, 0, -1, 74, 0 },     { QTYPE_Q8_1, 0, 2, 74, 1 },
	{ QTYPE_Q2_K, 80, 82, 17, 1.5f }, { QTYPE_Q3_K, 108, -1, 42, 0 },
	{ QTYPE_Q4_K, 0, 2, 240, 7.5f },  { QTYPE_Q5_K, 0, 2, 480, 15.5f },
	{ QTYPE_Q6_K, 208, -1, 1370, 0 }, { QTYPE_IQ2_XXS, 0, -1, 60, 0 },
	{ QTYPE_IQ2_XS, 0, -1, 60, 0 },   { QTYPE_IQ3_XXS, 0, -1, 200, 0 },
	{ QTYPE_IQ1_S, 0, -1, 8, 0 },     { QTYPE_IQ4_NL, 0, -1, 66, 0 },
	{ QTYPE_IQ3_S, 0, -1, 130, 0 },   { QTYPE_IQ2_S, 0, -1, 60, 0 },
	{ QTYPE_IQ4_XS, 0, -1, 1200, 0 }, { QTYPE_TQ1_0, 52, -1, .8f, 0 },
	{ QTYPE_TQ2_0, 64, -1, .8f, 0 },  { QTYPE_Q1_0, 0, -1, 1, 0 },
	{ QTYPE_Q2_0, 0, -1, 1.2f, 0 },
};
static void put_f16(uint8_t *p, float f)
{
	uint16_t h = to_f16(f);

	memcpy(p, &h, 2);
}
/* Make the scales of one block of random bytes sane. */
static void tame(uint32_t type, uint8_t *b, float sigma, uint64_t *rng)
{
	float u = .6f + .8f * uniform(rng), d;

	for (size_t i = 0; i < sizeof(scale_table) / sizeof(scale_table[0]); i++) {
		const struct scales *s = &scale_table[i];

		if (s->type != type)
			continue;
		d = sigma / s->code * u;
		if (s->m < 0 && next(rng) & 1)
			d = -d;
		put_f16(b + s->d, d);
		if (s->m >= 0)
			put_f16(b + s->m, d * s->centre);
		return;
	}
	switch (type) {
	case QTYPE_Q8_K:
		memcpy(b, &(float){ sigma / 74 * u }, 4);
		break;
	/* the f16 is in the high nibbles of four words: 0x2c00 = 1/16 */
	case QTYPE_IQ1_M:
		for (int i = 0; i < 4; i++)
			b[48 + 2 * i + 1] = (uint8_t)((b[48 + 2 * i + 1] & 15) |
			                              (0x2c00 >> (4 * i) & 15) << 4);
		break;
	case QTYPE_MXFP4:
		b[0] = (uint8_t)(128 + (int)floorf(log2f(sigma / 5.7f) + .5f));
		break;
	/* four scale codes of 4 exponent bits (bias 7) and 3 mantissa bits */
	case QTYPE_NVFP4:
		for (int i = 0; i < 4; i++)
			b[i] = (uint8_t)((6 + (int)floorf(log2f(sigma / 2.8f) + .5f)) << 3 |
			                 (next(rng) & 7));
		break;
	}
}
void ggufgen_fill(uint32_t type, void *dst, uint64_t n, float mean, float sigma, uint64_t *rng)
{
	const struct qtype_info *info = qtype_info(type);
	uint8_t *p = dst;

	for (uint64_t i = 0; i < n / info->block; i++, p += info->bytes) {
		float f = mean + sigma * 1.7320508f * (2 * uniform(rng) - 1);
		uint32_t bits;

		switch (type) {
		case QTYPE_F32:
			memcpy(p, &f, 4);
			continue;
		case QTYPE_F64:
			memcpy(p, &(double){ f }, 8);
			continue;
		case QTYPE_F16:
			put_f16(p, f);
			continue;
		case QTYPE_BF16:
			memcpy(&bits, &f, 4);
			memcpy(p, &(uint16_t){ (uint16_t)(bits >> 16) }, 2);
			continue;
		}
		for (size_t k = 0; k < info->bytes; k++)
			p[k] = (uint8_t)(next(rng) >> 32);
		tame(type, p, sigma, rng);
	}
}

struct ggufgen_tensor *ggufgen_tensor(struct ggufgen *g, const char *name, uint32_t type,
                                      uint64_t n_in, uint64_t n_out, float mean, float sigma)
{
	const struct qtype_info *info = qtype_info(type);
	struct ggufgen_tensor *t;

	if (!info || n_in % info->block != 0) {
		fprintf(stderr, "ggufgen: %s: type %u does not fit rows of %llu\n", name, type,
		        (unsigned long long)n_in);
		abort();
	}
	if (g->n_tensors % 64 == 0)
		g->tensor = must(realloc(g->tensor, (g->n_tensors + 64) * sizeof(*t)));
	t = &g->tensor[g->n_tensors++];
	*t = (struct ggufgen_tensor){
		.name = dup_bytes(name, strlen(name)),
		.name_len = strlen(name),
		.n_dims = n_out ? 2 : 1,
		.type = type,
		.dim = { n_in, n_out },
		.n_bytes = n_in / info->block * info->bytes * (n_out ? n_out : 1),
		.offset = GGUFGEN_TRUE,
	};
	t->data = must(malloc(t->n_bytes));
	ggufgen_fill(type, t->data, n_in * (n_out ? n_out : 1), mean, sigma, &g->rng);
	return t;
}
struct ggufgen_tensor *ggufgen_find(struct ggufgen *g, const char *name)
{
	for (size_t i = 0; i < g->n_tensors; i++)
		if (strcmp(g->tensor[i].name, name) == 0)
			return &g->tensor[i];
	fprintf(stderr, "ggufgen: no tensor %s\n", name);
	abort();
}
bool ggufgen_drop_tensor(struct ggufgen *g, const char *name)
{
	size_t i = (size_t)(ggufgen_find(g, name) - g->tensor);

	free(g->tensor[i].name);
	free(g->tensor[i].data);
	memmove(&g->tensor[i], &g->tensor[i + 1], (g->n_tensors - i - 1) * sizeof(*g->tensor));
	g->n_tensors--;
	return true;
}

static void pad(struct out *o, uint64_t alignment)
{
	if (alignment && o->n % alignment)
		put_zeros(o, alignment - o->n % alignment);
}
uint8_t *ggufgen_bytes(const struct ggufgen *g, size_t *ret_n)
{
	struct out o = { 0 };
	uint64_t offset = 0;

	put(&o, g->magic, 4);
	put_u32(&o, g->version);
	put_u64(&o, g->claim_tensors == GGUFGEN_TRUE ? g->n_tensors : g->claim_tensors);
	put_u64(&o, g->claim_kv == GGUFGEN_TRUE ? g->n_kv : g->claim_kv);
	for (size_t i = 0; i < g->n_kv; i++) {
		put_u64(&o, g->kv[i].key_len);
		put(&o, g->kv[i].key, g->kv[i].key_len);
		put_u32(&o, g->kv[i].kind);
		put(&o, g->kv[i].payload, g->kv[i].n);
	}
	for (size_t i = 0; i < g->n_tensors; i++) {
		const struct ggufgen_tensor *t = &g->tensor[i];

		if (i > 0)
			offset += g->gap;
		offset = (offset + g->alignment - 1) / g->alignment * g->alignment;
		put_u64(&o, t->name_len);
		put(&o, t->name, t->name_len < strlen(t->name) ? t->name_len : strlen(t->name));
		put_u32(&o, t->n_dims);
		for (uint32_t k = 0; k < t->n_dims && k < 8; k++)
			put_u64(&o, t->dim[k]);
		put_u32(&o, t->type);
		put_u64(&o, t->offset == GGUFGEN_TRUE ? offset : t->offset);
		offset += t->n_bytes;
	}
	if (g->n_tensors)
		pad(&o, g->alignment);
	offset = o.n;
	for (size_t i = 0; i < g->n_tensors; i++) {
		if (i > 0)
			put_zeros(&o, g->gap);
		while ((o.n - offset) % g->alignment)
			put_zeros(&o, 1);
		put(&o, g->tensor[i].data, g->tensor[i].n_bytes);
	}
	put_zeros(&o, g->trailing);
	*ret_n = o.n;
	return o.p;
}
int ggufgen_memfd(const struct ggufgen *g)
{
	size_t n, done = 0;
	uint8_t *p = ggufgen_bytes(g, &n);
	int fd = memfd_create("ggufgen", MFD_CLOEXEC);

	while (fd >= 0 && done < n) {
		ssize_t k = write(fd, p + done, n - done);

		if (k <= 0)
			abort();
		done += (size_t)k;
	}
	free(p);
	return fd;
}
