/* gguf - the parser: one pass over the header through a sliding window.
 *
 * Numbers that come from the file are hostile until proven otherwise. The invariants:
 *  1. A count is compared with its cap and, times the smallest record, with the bytes left, before
 *     it sizes anything.
 *  2. All sums and products of file numbers are checked; no padding is added unchecked.
 *  3. What is kept is copied to the arena first and judged there: the file is not looked at again,
 *     so a writer who changes it meanwhile gains nothing.
 *  4. Keys and names meet in hash maps with a random seed, tensors in a sorted list: no quadratic
 *     path.
 *  5. Memory is the window plus the copies; the copies stop at META_MAX. Weights are never read. */
#include "format/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cursor.h"
#include "base/fd.h"
#include "base/num.h"
#include "format/gguf-priv.h"

enum {
	/* more than the longest key, so that a key is always seen whole */
	WINDOW = 256 << 10,
	KEY_MAX = 64 << 10,
	KV_MAX = 1 << 16,
	/* the largest published models, one tensor an expert, stay below half of it */
	TENSORS_MAX = 1 << 17,
	META_MAX = 128 << 20,           /* the largest published vocabularies take 25 MiB */
	KV_MIN = 8 + 1 + 4 + 1,         /* length, key, kind, value */
	TENSOR_MIN = 8 + 1 + 4 + 8 + 4 + 8,     /* length, name, n_dims, dim, type, offset */
	HEADER = 24,
	STORE = 64 << 10,
	ALIGN_DEFAULT = 32, ALIGN_MIN = 8, ALIGN_MAX = 65536,
	SHOWN = 80,                     /* bytes of a name in a message */
};
static const uint64_t NUMBER_NONE = UINT64_MAX;

const uint8_t gguf_kind_bytes[GGUF_KIND_COUNT] = {
	[GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
	[GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
	[GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

struct parse {
	struct gguf *g;
	/* of the part at hand; META_MAX bounds both parts together */
	struct arena *arena;
	size_t kept;                    /* in the part before */
	const char *name;
	struct err *err;
	struct cursor c;                /* the window: bytes [pos - left, pos) of the file */
	uint8_t *window;
	int fd;                         /* -1: the window is all there is */
	uint64_t pos, end;              /* first byte after the window; where reading must stop */
	/* room for short strings, cut from the arena piece by piece */
	char *store;
	size_t store_left;
	/* the record at hand, for messages: put into words only for those */
	const char *what;
	struct bytes item;              /* its name, once that is known */
	uint64_t number;                /* till then; NUMBER_NONE: it has none */
	char words[SHOWN + 32];
};

static size_t in_window(const struct parse *p)
{
	return (size_t)(p->c.end - p->c.p);
}
static uint64_t offset_of(const struct parse *p)
{
	return p->pos - in_window(p);
}
static uint64_t left(const struct parse *p)
{
	return p->end - offset_of(p);
}

static void look_at(struct parse *p, const char *what, uint64_t number)
{
	p->what = what;
	p->item = (struct bytes){ NULL, 0 };
	p->number = number;
}
/* "key 'x'", "metadata key 7", "the tensor table" */
static const char *rec(struct parse *p)
{
	char shown[SHOWN];

	if (p->item.n > 0)
		snprintf(p->words, sizeof(p->words), "%s '%s'", p->what,
		         str_escape(shown, sizeof(shown), p->item.p, p->item.n));
	else if (p->number != NUMBER_NONE)
		snprintf(p->words, sizeof(p->words), "%s %" PRIu64, p->what, p->number);
	else
		return p->what;
	return p->words;
}

/* The container is damaged: say what and at which byte. */
static int __attribute__((format(printf, 2, 3))) bad(const struct parse *p, const char *format, ...)
{
	char text[ERR_TEXT_MAX], file[SHOWN];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	return err_set(p->err, -EBADMSG, "%s: %s (header byte %" PRIu64 ")",
	               str_escape(file, sizeof(file), p->name, strlen(p->name)), text,
	               offset_of(p));
}
static int io_error(const struct parse *p, int code, const char *what)
{
	char file[SHOWN];

	return err_set(p->err, code, "%s: %s: %s",
	               str_escape(file, sizeof(file), p->name, strlen(p->name)), what,
	               strerror(-code));
}
static int no_memory(const struct parse *p)
{
	return err_set(p->err, -ENOMEM, "not enough memory for the metadata of a model file");
}
static int ends_early(struct parse *p, uint64_t want)
{
	return bad(p,
	           "the file ends inside %s: %" PRIu64 " bytes are left where %" PRIu64
	           " are needed; it was cut short or is damaged, fetch it again",
	           rec(p), left(p), want);
}

/* Have n <= WINDOW bytes in the window. */
static int need(struct parse *p, size_t n)
{
	size_t have = in_window(p), more;
	int r;

	if (have >= n)
		return 0;
	if (n > left(p))
		return ends_early(p, n);
	memmove(p->window, p->c.p, have);
	more = (size_t)MIN((uint64_t)(WINDOW - have), p->end - p->pos);
	r = fd_pread_all(p->fd, p->window + have, more, p->pos);
	if (r < 0)
		return io_error(p, r, "reading the header");
	p->pos += more;
	p->c = cur_init(p->window, have + more);
	return 0;
}
static int get_u32(struct parse *p, uint32_t *ret)
{
	int r = need(p, 4);

	if (r == 0)
		*ret = cur_u32le(&p->c);
	return r;
}
static int get_u64(struct parse *p, uint64_t *ret)
{
	int r = need(p, 8);

	if (r == 0)
		*ret = cur_u64le(&p->c);
	return r;
}
/* Copy n bytes to dst; what the window does not hold goes past it. The caller has compared n with
 * left(). */
static int get_bytes(struct parse *p, void *dst, size_t n)
{
	size_t have = MIN(n, in_window(p));
	int r;

	if (n <= WINDOW) {
		r = need(p, n);
		if (r == 0 && n)
			memcpy(dst, cur_take(&p->c, n), n);
		return r;
	}
	if (n > left(p))
		return ends_early(p, n);
	memcpy(dst, cur_take(&p->c, have), have);
	if (n == have)
		return 0;
	r = fd_pread_all(p->fd, (char *)dst + have, n - have, p->pos);
	if (r < 0)
		return io_error(p, r, "reading the header");
	p->pos += n - have;
	return 0;
}

/* Arena memory for n elements, under the bound on copied metadata. */
static int keep(struct parse *p, uint64_t n, size_t size, void **ret)
{
	uint64_t bytes;
	void *mem;

	if (mul_overflows(n, (uint64_t)size, &bytes) ||
	    bytes > META_MAX - MIN(p->arena->used + p->kept, (size_t)META_MAX))
		return bad(p, "%s: the metadata takes more than %d MiB", rec(p), META_MAX >> 20);
	mem = arena_alloc(p->arena, MAX(bytes, 1u));
	if (!mem)
		return no_memory(p);
	*ret = mem;
	return 0;
}

/* A key or name: copied, NUL-terminated, valid UTF-8 without NUL. */
static int get_name(struct parse *p, uint64_t max, struct bytes *ret)
{
	char shown[SHOWN];
	uint64_t n = 0;
	void *mem;
	int r = get_u64(p, &n);

	if (r < 0)
		return r;
	if (n == 0)
		return bad(p, "%s is empty", rec(p));
	if (n > max)
		return bad(p, "%s has %" PRIu64 " bytes, at most %" PRIu64 " are allowed", rec(p),
		           n, max);
	r = need(p, n);
	if (r == 0)
		r = keep(p, n + 1, 1, &mem);
	if (r < 0)
		return r;
	memcpy(mem, cur_take(&p->c, n), n);
	if (memchr(mem, 0, n) || !utf8_valid(mem, n))
		return bad(p, "%s is not valid text: '%s'", rec(p),
		           str_escape(shown, sizeof(shown), mem, n));
	*ret = (struct bytes){ mem, n };
	return 0;
}

/* Room for one string. Short ones share blocks, so that a vocabulary costs little more than its
 * text. */
static int store_room(struct parse *p, size_t n, char **ret)
{
	void *mem;
	int r;

	if (n > STORE / 4) {
		r = keep(p, n, 1, &mem);
		if (r == 0)
			*ret = mem;
		return r;
	}
	if (!p->store || n > p->store_left) {
		r = keep(p, STORE, 1, &mem);
		if (r < 0)
			return r;
		p->store = mem;
		p->store_left = STORE;
	}
	*ret = p->store;
	p->store += n;
	p->store_left -= n;
	return 0;
}
static int get_strings(struct parse *p, struct gguf_value *v)
{
	struct bytes *list;
	char *room = NULL;
	uint64_t n = 0;
	void *mem;
	int r;

	if (v->n > left(p) / 8)
		return bad(p, "%s: %" PRIu64 " strings do not fit in the %" PRIu64 " bytes left",
		           rec(p), v->n, left(p));
	r = keep(p, v->n, sizeof(*list), &mem);
	if (r < 0)
		return r;
	list = mem;
	for (uint64_t i = 0; i < v->n; i++) {
		r = get_u64(p, &n);
		if (r < 0)
			return r;
		if (n > left(p))
			return bad(p,
			           "%s: string %" PRIu64 " has %" PRIu64 " bytes, but only %" PRIu64
			           " are left",
			           rec(p), i, n, left(p));
		r = store_room(p, n, &room);
		if (r == 0)
			r = get_bytes(p, room, n);
		if (r < 0)
			return r;
		list[i] = (struct bytes){ room, n };
	}
	v->data = list;
	return 0;
}
static int get_numbers(struct parse *p, struct gguf_value *v)
{
	size_t size = gguf_kind_bytes[v->kind];
	uint64_t bytes;
	void *mem;
	int r;

	if (mul_overflows(v->n, (uint64_t)size, &bytes) || bytes > left(p))
		return bad(p, "%s: %" PRIu64 " %s values do not fit in the %" PRIu64 " bytes left",
		           rec(p), v->n, gguf_kind_name(v->kind), left(p));
	r = keep(p, v->n, size, &mem);
	if (r == 0)
		r = get_bytes(p, mem, bytes);
	if (r < 0)
		return r;
	if (v->kind == GGUF_BOOL)
		for (uint64_t i = 0; i < v->n; i++)
			if (((uint8_t *)mem)[i] > 1)
				return bad(p,
				           "%s: boolean %" PRIu64 " has the value %u, not 0 or 1",
				           rec(p), i, ((uint8_t *)mem)[i]);
	v->data = mem;
	return 0;
}
static int get_value(struct parse *p, struct gguf_value *v)
{
	uint32_t kind = 0;
	int r = get_u32(p, &kind);

	if (r < 0)
		return r;
	if (kind >= GGUF_KIND_COUNT)
		return bad(p, "%s has value type %" PRIu32 ", which does not exist", rec(p), kind);
	*v = (struct gguf_value){ .kind = kind, .n = 1 };
	if (kind == GGUF_ARR) {
		r = get_u32(p, &kind);
		if (r == 0)
			r = get_u64(p, &v->n);
		if (r < 0)
			return r;
		if (kind == GGUF_ARR)
			return bad(p, "%s is an array of arrays, which is not supported", rec(p));
		if (kind >= GGUF_KIND_COUNT)
			return bad(p,
			           "%s is an array of value type %" PRIu32 ", which does not exist",
			           rec(p), kind);
		v->kind = kind;
		v->array = true;
	}
	return v->kind == GGUF_STR ? get_strings(p, v) : get_numbers(p, v);
}

static int get_kv(struct parse *p, uint64_t count)
{
	struct gguf_kv *kv;
	void *mem;
	int r;

	look_at(p, "the metadata", NUMBER_NONE);
	r = keep(p, count, sizeof(*kv), &mem);
	if (r < 0)
		return r;
	p->g->kv = kv = mem;
	for (uint64_t i = 0; i < count; i++, kv++) {
		look_at(p, "metadata key", i);
		r = get_name(p, KEY_MAX, &kv->key);
		if (r < 0)
			return r;
		p->what = "key";
		p->item = kv->key;
		r = get_value(p, &kv->v);
		if (r < 0)
			return r;
		r = map_add(p->g->priv->keys, kv->key.p, kv->key.n, &kv->v);
		if (r == MAP_E_EXISTS)
			return bad(p, "%s occurs twice", rec(p));
		if (r < 0)
			return no_memory(p);
		p->g->n_kv++;
	}
	look_at(p, "the metadata", NUMBER_NONE);
	return 0;
}

/* Dimensions, type and the sizes that follow from them. */
static int get_shape(struct parse *p, struct tensor *t)
{
	const struct qtype_info *info;
	uint32_t type = 0;
	uint64_t row;
	int r = get_u32(p, &t->n_dims);

	if (r < 0)
		return r;
	if (t->n_dims < 1 || t->n_dims > TENSOR_DIMS_MAX)
		return bad(p, "%s has %" PRIu32 " dimensions, 1 to 4 are allowed", rec(p),
		           t->n_dims);
	t->n_elems = 1;
	for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++) {
		t->dim[i] = 1;
		if (i >= t->n_dims)
			continue;
		r = get_u64(p, &t->dim[i]);
		if (r < 0)
			return r;
		if (t->dim[i] == 0)
			return bad(p, "%s: dimension %" PRIu32 " is zero", rec(p), i);
		if (mul_overflows(t->n_elems, t->dim[i], &t->n_elems) || t->n_elems > INT64_MAX)
			return bad(p,
			           "%s: dimension %" PRIu32 " = %" PRIu64
			           " makes the tensor too large",
			           rec(p), i, t->dim[i]);
	}
	r = get_u32(p, &type);
	if (r < 0)
		return r;
	info = qtype_info(type);
	if (!info)
		return bad(p,
		           "%s has type %" PRIu32
		           ", which is unknown or was removed from the format",
		           rec(p), type);
	t->type = type;
	if (t->dim[0] % info->block != 0)
		return bad(p,
		           "%s: rows of %" PRIu64
		           " elements are no multiple of the %u of a %s block",
		           rec(p), t->dim[0], info->block, info->name);
	if (!qtype_row_bytes(type, t->dim[0], &row) ||
	    mul_overflows(row, t->n_elems / t->dim[0], &t->n_bytes))
		return bad(p, "%s: its size in bytes overflows", rec(p));
	return 0;
}
static int get_tensors(struct parse *p, uint64_t count)
{
	struct bytes name = { 0 };
	struct tensor *t;
	void *mem;
	int r;

	look_at(p, "the tensor table", NUMBER_NONE);
	r = keep(p, count, sizeof(*t), &mem);
	if (r < 0)
		return r;
	p->g->tensors = t = mem;
	for (uint64_t i = 0; i < count; i++, t++) {
		look_at(p, "name of tensor", i);
		r = get_name(p, TENSOR_NAME_MAX, &name);
		if (r < 0)
			return r;
		t->name = name.p;
		p->what = "tensor";
		p->item = name;
		r = get_shape(p, t);
		if (r == 0)
			r = get_u64(p, &t->offset);
		if (r < 0)
			return r;
		if (t->offset % p->g->alignment != 0)
			return bad(p,
			           "%s: offset %" PRIu64
			           " is no multiple of the alignment %" PRIu64,
			           rec(p), t->offset, p->g->alignment);
		r = map_add(p->g->priv->names, name.p, name.n, t);
		if (r == MAP_E_EXISTS)
			return bad(p, "%s occurs twice", rec(p));
		if (r < 0)
			return no_memory(p);
		p->g->n_tensors++;
	}
	look_at(p, "the tensor table", NUMBER_NONE);
	return 0;
}

static int get_alignment(struct parse *p)
{
	const struct gguf_value *v = gguf_find(p->g, "general.alignment");
	uint32_t align = ALIGN_DEFAULT;

	if (v && (v->kind != GGUF_U32 || v->array))
		return bad(p, "general.alignment is of kind %s, not u32",
		           v->array ? "array" : gguf_kind_name(v->kind));
	if (v)
		memcpy(&align, v->data, sizeof(align));
	if (!is_pow2(align) || align < ALIGN_MIN || align > ALIGN_MAX)
		return bad(p,
		           "general.alignment is %" PRIu32
		           ", a power of two from %d to %d is needed",
		           align, ALIGN_MIN, ALIGN_MAX);
	p->g->alignment = align;
	return 0;
}

/* What a first word that is not "GGUF" tells about the file, for people who took the wrong one. */
static const char *magic_guess(const uint8_t *m)
{
	static const struct { const char *magic, *what; } known[] = {
		{ "PK\3\4",
		  "it is a zip archive, as PyTorch writes: such files run code and are never "
		  "read" },
		{ "\x80\2", "it is a Python pickle: such files run code and are never read" },
		{ "tjgg",
		  "it is a GGJT file, the format before GGUF; convert the original model again" },
		{ "lmgg",
		  "it is a GGML file, the format before GGUF; convert the original model again" },
		{ "FUGG", "its magic is byte-swapped" },
		{ "\x7f"
		  "ELF",
		  "it is a program" },
		{ "vers", "it is a pointer of Git LFS: fetch the file itself" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (memcmp(m, known[i].magic, strlen(known[i].magic)) == 0)
			return known[i].what;
	return "its first four bytes are not \"GGUF\"";
}
static int get_header(struct parse *p, uint64_t *ret_tensors, uint64_t *ret_kv)
{
	uint64_t n_tensors = 0, n_kv = 0;
	int r;

	look_at(p, "the file header", NUMBER_NONE);
	if (p->end == 0)
		return bad(p, "the file is empty");
	r = need(p, MIN(p->end, 4u));
	if (r < 0)
		return r;
	if (p->end >= 4 && memcmp(p->c.p, "GGUF", 4) != 0)
		return bad(p, "this is not a GGUF file: %s", magic_guess(p->c.p));
	r = need(p, HEADER);
	if (r < 0)
		return r;
	(void)cur_u32le(&p->c);
	p->g->version = cur_u32le(&p->c);
	n_tensors = cur_u64le(&p->c);
	n_kv = cur_u64le(&p->c);
	if (p->g->version != 0 && p->g->version % 65536 == 0)
		return bad(p,
		           "this is a big-endian GGUF file; only little-endian ones are supported");
	if (p->g->version != 2 && p->g->version != 3)
		return bad(p, "GGUF version %" PRIu32 " is not supported, only 2 and 3 are%s",
		           p->g->version,
		           p->g->version == 1 ? "; convert the original model again" : "");
	if (n_kv > KV_MAX || n_kv * KV_MIN > left(p))
		return bad(p,
		           "the header claims %" PRIu64 " metadata keys; %" PRIu64
		           " bytes are left and at most %d"
		           " keys are allowed",
		           n_kv, left(p), KV_MAX);
	if (n_tensors > TENSORS_MAX || n_tensors * TENSOR_MIN > left(p))
		return bad(p,
		           "the header claims %" PRIu64 " tensors; %" PRIu64
		           " bytes are left and at most %d tensors"
		           " are allowed",
		           n_tensors, left(p), TENSORS_MAX);
	*ret_tensors = n_tensors;
	*ret_kv = n_kv;
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct tensor *x = *(struct tensor *const *)a, *y = *(struct tensor *const *)b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}
/* Make offsets absolute, hold every extent against the file's end and against its neighbour, note
 * oddities. */
static int check_extents(struct parse *p, uint64_t file_size)
{
	_cleanup_mem_ struct tensor **order = NULL;
	struct gguf *g = p->g;
	uint64_t end = 0, gaps = 0, expect = g->data_offset;
	char text[128], a[SHOWN], b[SHOWN];

	order = mem_allocn(MAX(g->n_tensors, 1u), sizeof(*order));
	if (!order)
		return no_memory(p);
	for (size_t i = 0; i < g->n_tensors; i++) {
		struct tensor *t = order[i] = &g->tensors[i];

		if (add_overflows(t->offset, g->data_offset, &t->offset) ||
		    add_overflows(t->offset, t->n_bytes, &end) || end > file_size)
			return bad(p,
			           "tensor '%s' (%" PRIu64
			           " bytes) reaches past the end of the file, which has %" PRIu64
			           " bytes: it was cut short or is damaged, fetch it again",
			           str_escape(a, sizeof(a), t->name, strlen(t->name)), t->n_bytes,
			           file_size);
	}
	qsort(order, g->n_tensors, sizeof(*order), by_offset);
	for (size_t i = 0; i < g->n_tensors; i++) {
		const struct tensor *t = order[i];

		if (i > 0 && t->offset < order[i - 1]->offset + order[i - 1]->n_bytes)
			return bad(p, "tensors '%s' and '%s' overlap",
			           str_escape(a, sizeof(a), order[i - 1]->name,
			                      strlen(order[i - 1]->name)),
			           str_escape(b, sizeof(b), t->name, strlen(t->name)));
		gaps += t->offset > expect ? t->offset - expect : 0;
		if (align_overflows(t->offset + t->n_bytes, g->alignment, &expect))
			return bad(p, "the last tensor's padding overflows");
	}
	if (gaps == 0 && file_size <= expect)
		return 0;
	snprintf(text, sizeof(text),
	         "unused bytes: %" PRIu64 " between tensors, %" PRIu64 " after the last", gaps,
	         file_size > expect ? file_size - expect : 0);
	g->notice = arena_strndup(p->arena, text, strlen(text));
	return g->notice ? 0 : no_memory(p);
}

static int parse(struct parse *p, uint64_t file_size)
{
	uint64_t n_tensors = 0, n_kv = 0;
	int r = get_header(p, &n_tensors, &n_kv);

	if (r == 0)
		r = get_kv(p, n_kv);
	p->kept = p->arena->used;
	p->arena = &p->g->priv->arena;
	if (r == 0)
		r = get_alignment(p);
	if (r == 0)
		r = get_tensors(p, n_tensors);
	if (r < 0)
		return r;
	if (align_overflows(offset_of(p), p->g->alignment, &p->g->data_offset))
		return bad(p, "the header's length overflows");
	return check_extents(p, file_size);
}
/* Shared by both entries: the reader in p is set, everything else is made here. */
static int run(struct gguf **ret, struct parse *p, uint64_t file_size)
{
	_cleanup_(gguf_freep) struct gguf *g = mem_alloc(sizeof(*g));
	int r;

	if (!g)
		return no_memory(p);
	g->priv = mem_alloc(sizeof(*g->priv));
	if (!g->priv)
		return no_memory(p);
	arena_init(&g->priv->arena, 0);
	arena_init(&g->priv->meta, 0);
	if (map_new(&g->priv->keys) < 0 || map_new(&g->priv->names) < 0)
		return no_memory(p);
	g->file_size = file_size;
	p->g = g;
	p->arena = &g->priv->meta;
	r = parse(p, file_size);
	if (r < 0)
		return r;
	*ret = STEAL(g);
	return 0;
}

int gguf_parse(struct gguf **ret, const void *mem, size_t n, uint64_t file_size, const char *name,
               struct err *err)
{
	struct parse p = {
		.name = name, .err = err, .fd = -1, .c = cur_init(mem, n), .pos = n, .end = n,
	};

	return run(ret, &p, file_size);
}
int gguf_open(struct gguf **ret, int fd, const char *name, struct err *err)
{
	_cleanup_mem_ uint8_t *window = NULL;
	struct parse p = { .name = name, .err = err, .fd = fd };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return io_error(&p, -errno, "the descriptor is of no use");
	if (!S_ISREG(st.st_mode))
		return io_error(&p, -EINVAL, "it is no regular file");
	window = mem_alloc(WINDOW);
	if (!window)
		return no_memory(&p);
	p.window = window;
	p.c = cur_init(window, 0);
	p.end = (uint64_t)st.st_size;
	return run(ret, &p, p.end);
}

void gguf_drop_metadata(struct gguf *g)
{
	g->kv = NULL;
	g->n_kv = 0;
	g->priv->keys = map_free(g->priv->keys);
	arena_deinit(&g->priv->meta);
}
struct gguf *gguf_free(struct gguf *g)
{
	if (!g)
		return NULL;
	if (g->priv) {
		gguf_drop_metadata(g);
		map_free(g->priv->names);
		arena_deinit(&g->priv->arena);
	}
	mem_free(g->priv);
	return mem_free(g);
}
