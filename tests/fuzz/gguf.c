/* gguf - the bytes are the beginning of a file, followed by TAIL zeros for weights. The header is
 * parsed, every key and tensor is read back, numbers and vocabulary are judged, and the whole is
 * loaded as a model and checked, as `import`, `show`, `load` and `verify` do. */
#include <sys/mman.h>
#include <unistd.h>
#include "base/fd.h"
#include "base/num.h"
#include "model/model.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/ggufgen.h"

const char fuzz_name[] = "gguf";
enum { TAIL = 1 << 20, TEXT_MAX = 1 << 20 };

static void read_key(const struct gguf *g, const struct gguf_kv *kv)
{
	struct sbuf out = { .max = TEXT_MAX };
	char key[256];
	struct bytes s;
	const void *p;
	uint64_t n;
	uint32_t u;
	float f;
	bool b;

	(void)gguf_value_json(&kv->v, 8, &out);
	sbuf_deinit(&out);
	FUZZ_CHECK(kv->v.kind < GGUF_KIND_COUNT && kv->v.kind != GGUF_ARR, "kind %u", kv->v.kind);
	FUZZ_CHECK(kv->v.array || kv->v.n == 1, "a scalar of %llu", (unsigned long long)kv->v.n);
	if (kv->key.n >= sizeof(key) || memchr(kv->key.p, 0, kv->key.n))
		return;
	memcpy(key, kv->key.p, kv->key.n);
	key[kv->key.n] = 0;
	FUZZ_CHECK(gguf_find(g, key) == &kv->v, "key %s is not found", key);
	(void)gguf_get_u32(g, key, &u, NULL);
	(void)gguf_get_f32(g, key, &f, NULL);
	(void)gguf_get_bool(g, key, &b, NULL);
	(void)gguf_get_str(g, key, &s, NULL);
	for (unsigned kind = 0; kind < GGUF_KIND_COUNT; kind++)
		(void)gguf_get_arr(g, key, kind, &p, &n, NULL);
}

static void read_header(const struct gguf *g)
{
	struct hparams hp;
	struct tok *t = NULL;
	struct err err = { 0 };
	int r;

	for (size_t i = 0; i < g->n_kv; i++)
		read_key(g, &g->kv[i]);
	for (size_t i = 0; i < g->n_tensors; i++) {
		const struct tensor *t0 = &g->tensors[i];

		FUZZ_CHECK(t0->offset <= g->file_size && t0->n_bytes <= g->file_size - t0->offset,
		           "tensor %s ends past the file", t0->name);
		FUZZ_CHECK(gguf_tensor(g, t0->name) == t0, "tensor %s is not found", t0->name);
	}
	r = model_hparams(&hp, g, &err);
	FUZZ_CHECK(r == 0 || err.text[0], "%d without a sentence", r);
	if (r == 0) {
		struct footprint fp;

		FUZZ_CHECK(hp.n_head > 0 && hp.n_head_kv > 0 && hp.n_head % hp.n_head_kv == 0,
		           "%u heads of %u", hp.n_head, hp.n_head_kv);
		model_footprint(&hp, TAIL, 64, 1, KV_KV8, &fp);
	}
	err_clear(&err);
	r = tok_new(&t, g, &err);
	FUZZ_CHECK(r == 0 || err.text[0], "%d without a sentence", r);
	tok_free(t);
}

static void serve(struct model *m)
{
	static const char talk[] = "[{\"role\":\"user\",\"content\":\"hello\"}]";
	json_t *messages = json_loads(talk, 0, NULL);
	struct tokens ids = { 0 };
	struct sbuf out = { .max = TEXT_MAX };
	struct err err = { 0 };
	int r;

	r = model_verify(m, NULL, &err);
	FUZZ_CHECK(r == 0 || err.text[0], "%d without a sentence", r);
	r = chat_render(m->jinja, m->tok, messages, NULL, &out, NULL);
	if (r == 0)
		FUZZ_CHECK(tok_encode(m->tok, out.p ? out.p : "", out.n, TOKENIZE_SPECIAL, 0,
		                      &ids) == 0, "encode");
	mem_free(ids.data);
	sbuf_deinit(&out);
	json_decref(messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	int fd = memfd_create("gguf", MFD_CLOEXEC), r;
	struct gguf *g = NULL;
	struct model *m = NULL;
	struct err err = { 0 };

	r = gguf_parse(&g, p, n, n + TAIL, "header", &err);
	FUZZ_CHECK(r == 0 || (r < 0 && err.text[0]), "%d without a sentence", r);
	if (r == 0)
		read_header(g);
	FUZZ_CHECK(fd >= 0 && fd_write_all(fd, p, n) == 0 &&
	           ftruncate(fd, (off_t)(n + TAIL)) == 0, "no memfd");
	err_clear(&err);
	r = model_load(&m, fd, "file", &err);
	FUZZ_CHECK(r == 0 || (r < 0 && err.text[0]), "%d without a sentence", r);
	FUZZ_CHECK(r < 0 || g, "a model of a header that does not parse");
	if (r == 0)
		serve(m);
	model_unref(m);
	gguf_free(g);
	close(fd);
	return 0;
}

/* --- mutation that knows where the numbers stand ---------------------------------------------- */

enum { SPOTS_MAX = 4096, PARTS_MAX = 1024 };
struct walk {
	const uint8_t *p;
	size_t n, at;
	bool bad;
	struct spot {
		size_t at;
		unsigned size;
	} spot[SPOTS_MAX];
	unsigned n_spots;
	/* whole keys and tensors: where each begins; the end of the last is n_parts's own */
	size_t part[PARTS_MAX + 1];
	unsigned n_parts, n_keys;
};

static uint64_t walk_number(struct walk *w, unsigned size)
{
	uint64_t v = 0;

	if (w->bad || w->n - w->at < size) {
		w->bad = true;
		return 0;
	}
	memcpy(&v, w->p + w->at, size);
	if (w->n_spots < SPOTS_MAX)
		w->spot[w->n_spots++] = (struct spot){ w->at, size };
	w->at += size;
	return v;
}

static void walk_skip(struct walk *w, uint64_t n)
{
	if (w->bad || n > w->n - w->at)
		w->bad = true;
	else
		w->at += n;
}

static void walk_value(struct walk *w, uint64_t kind)
{
	static const uint8_t sizes[GGUF_KIND_COUNT] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
	uint64_t n = 1;

	if (kind == GGUF_ARR) {
		kind = walk_number(w, 4);
		n = walk_number(w, 8);
	}
	if (kind >= GGUF_KIND_COUNT || kind == GGUF_ARR) {
		w->bad = true;
	} else if (kind == GGUF_STR) {
		for (uint64_t i = 0; i < n && !w->bad; i++)
			walk_skip(w, walk_number(w, 8));
	} else if (n == 1) {
		walk_number(w, sizes[kind]);
	} else {
		walk_skip(w, n > w->n ? UINT64_MAX : n * sizes[kind]);
	}
}

static void walk_part(struct walk *w)
{
	if (!w->bad && w->n_parts < PARTS_MAX)
		w->part[w->n_parts++] = w->at;
}

static void walk(struct walk *w, const uint8_t *p, size_t n)
{
	uint64_t n_tensors, n_kv, dims;

	w->p = p;
	w->n = n;
	w->at = w->n_spots = w->n_parts = 0;
	w->bad = false;
	walk_number(w, 4);
	walk_number(w, 4);
	n_tensors = walk_number(w, 8);
	n_kv = walk_number(w, 8);
	for (uint64_t i = 0; i < n_kv && !w->bad; i++) {
		walk_part(w);
		walk_skip(w, walk_number(w, 8));
		walk_value(w, walk_number(w, 4));
	}
	w->n_keys = w->n_parts;
	for (uint64_t i = 0; i < n_tensors && !w->bad; i++) {
		walk_part(w);
		walk_skip(w, walk_number(w, 8));
		dims = walk_number(w, 4);
		for (uint64_t d = 0; d < dims && d < 8; d++)
			walk_number(w, 8);
		walk_number(w, 4);
		walk_number(w, 8);
	}
	w->part[w->n_parts] = w->at;
}

/* Take one key or tensor out, or put it in twice, and count it in the header. */
static size_t move_part(const struct walk *w, uint8_t *p, size_t n, size_t max, unsigned *seed)
{
	unsigned i = fuzz_next(seed) % w->n_parts;
	size_t at = w->part[i], len = w->part[i + 1] - at, count_at = i < w->n_keys ? 16 : 8;
	uint64_t count;

	memcpy(&count, p + count_at, sizeof(count));
	if (fuzz_next(seed) % 2 && n + len <= max) {
		memmove(p + at + len, p + at, n - at);
		n += len;
		count++;
	} else {
		memmove(p + at, p + at + len, n - at - len);
		n -= len;
		count--;
	}
	memcpy(p + count_at, &count, sizeof(count));
	return n;
}

/* The header of a model that loads. */
static size_t fresh(uint8_t *p, size_t max, unsigned *seed)
{
	static const char *const archs[] = { "llama", "qwen2", "gemma3" };
	struct ggufgen_tiny tiny = { .n_layer = 1,
		                     .n_embd = 32,
		                     .arch = archs[fuzz_next(seed) % 3],
		                     .spm = fuzz_next(seed) % 2,
		                     .untied = fuzz_next(seed) % 2,
		                     .rope_freqs = fuzz_next(seed) % 2,
		                     .seed = 1 };
	struct ggufgen *gen = ggufgen_tiny(&tiny);
	struct gguf *g = NULL;
	size_t n;
	uint8_t *bytes = ggufgen_bytes(gen, &n);

	if (gguf_parse(&g, bytes, n, n, "fresh", NULL) == 0)
		n = g->data_offset;
	n = n < max ? n : max;
	memcpy(p, bytes, n);
	gguf_free(g);
	free(bytes);
	ggufgen_free(gen);
	return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
	static struct walk w;
	unsigned how = fuzz_next(&seed) % 16;

	if (how == 0 && fuzz_next(&seed) % 8 == 0)
		return fresh(p, max, &seed);
	walk(&w, p, n);
	if (how < 6 && w.n_spots > 0) {
		const struct spot *s = &w.spot[fuzz_next(&seed) % w.n_spots];

		fuzz_bend(p + s->at, s->size, &seed);
		return n;
	}
	if (how < 9 && !w.bad && w.n_parts > 0 && w.n_parts < PARTS_MAX)
		return move_part(&w, p, n, max, &seed);
	return LLVMFuzzerMutate ? LLVMFuzzerMutate(p, n, max) : n;
}
