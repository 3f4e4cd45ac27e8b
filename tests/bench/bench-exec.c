/* bench-exec - the executor alone, without scheduler, daemon and sampling: for tuning, and for
 * logits against the oracle.
 *
 *   bench-exec MODEL.gguf [THREADS [PROMPT [DECODE [REPEATS [DEPTH [KV]]]]]]
 *       prompt tokens/s in chunks of 128, decoded tokens/s after DEPTH tokens, and the read arm;
 *   medians bench-exec MODEL.gguf --logits IDS.json OUT.npy CHUNK
 *       logits of all tokens of a JSON list, fed in chunks (1 = the decode path), as float32 npy */
#include "base/mem.h"
#include "base/num.h"
#include "engine/exec.h"
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

enum { CHUNK = 128, REPEATS_MAX = 101, IDS_MAX = 1 << 16 };

struct bench {
	struct model *m;
	struct kernels k;
	struct pool *pool;
	struct exec *x;
	struct kv_pool *kv;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

static int bench_open(struct bench *b, const char *path, uint32_t threads, const char *kv_type)
{
	struct err err = { 0 };
	struct kv_shape shape;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int r;

	if (fd < 0) {
		perror(path);
		return -1;
	}
	r = model_load(&b->m, fd, path, &err);
	close(fd);
	if (r == 0) {
		shape = (struct kv_shape){ b->m->hp.n_layer, b->m->hp.n_head_kv,
			                   b->m->hp.head_dim, KV_F16 };
		r = kv_type_from_name(kv_type, &shape.type);
	}
	if (r == 0)
		r = kv_pool_new(&b->kv, &shape, UINT32_MAX);
	if (r == 0)
		r = kernels_init(&b->k, getenv("QLLM_CPU"));
	if (r == 0)
		r = pool_new(&b->pool, threads);
	if (r == 0)
		r = exec_new(&b->x, b->m, &b->k, b->pool, CHUNK, CHUNK, &err);
	if (r < 0)
		fprintf(stderr, "bench-exec: %s\n", err.text[0] ? err.text : strerror(-r));
	return r;
}

static int feed(struct bench *b, struct kv_seq *kv, const int32_t *ids, uint32_t n, uint32_t pos0,
                uint32_t chunk)
{
	const float *logits;

	for (uint32_t pos = 0; pos < n; pos += chunk) {
		uint32_t len = MIN(chunk, n - pos);
		struct exec_slice s = { .kv = kv, .tokens = ids + pos, .n = len, .pos0 = pos0 + pos,
			.n_logits = pos + len == n || chunk == 1 };
		int r = exec_step(b->x, &s, 1, &logits, NULL);

		if (r < 0)
			return r;
	}
	return 0;
}

static int speed(struct bench *b, uint32_t n_prompt, uint32_t n_decode, unsigned repeats,
                 uint32_t depth)
{
	uint32_t total = MAX(n_prompt, depth + n_decode);
	_cleanup_mem_ int32_t *ids = mem_allocn(total, sizeof(*ids));
	double pp[REPEATS_MAX], tg[REPEATS_MAX], rd[REPEATS_MAX];
	uint64_t bytes = 0;

	if (!ids)
		return -1;
	for (uint32_t i = 0; i < total; i++)
		ids[i] = (int32_t)((i * 7919u + 13) % b->m->hp.n_vocab);
	for (unsigned i = 0; i < repeats; i++) {
		_cleanup_(kv_seq_freep) struct kv_seq *kv = NULL;
		double t;

		if (kv_seq_new(&kv, b->kv) < 0 || kv_seq_reserve(kv, total) != 0)
			return -1;
		t = now();
		if (feed(b, kv, ids, n_prompt, 0, CHUNK) < 0)
			return -1;
		pp[i] = now() - t;
		if (depth > 0 && feed(b, kv, ids, depth, 0, CHUNK) < 0)
			return -1;
		t = now();
		if (feed(b, kv, ids + depth, n_decode, depth, 1) < 0)
			return -1;
		tg[i] = now() - t;
		t = now();
		for (unsigned j = 0; j < 16; j++)
			bytes = exec_read_step(b->x);
		rd[i] = (now() - t) / 16;
	}
	printf("pp%u %.1f t/s  tg%u@%u %.1f t/s (%.1f GB/s)  read %.1f GB/s\n", n_prompt,
	       n_prompt / median(pp, repeats), n_decode, depth, n_decode / median(tg, repeats),
	       (double)bytes * n_decode / tg[repeats / 2] * 1e-9,
	       (double)bytes / median(rd, repeats) * 1e-9);
	return 0;
}

static uint32_t read_ids(const char *path, int32_t *ids)
{
	FILE *f = fopen(path, "re");
	uint32_t n = 0;
	int c;

	if (!f)
		return 0;
	while ((c = fgetc(f)) != EOF)
		if (c >= '0' && c <= '9' && n < IDS_MAX && ungetc(c, f) == c &&
		    fscanf(f, "%d", &ids[n]) == 1)
			n++;
	fclose(f);
	return n;
}

static int logits(struct bench *b, const char *in, const char *out, uint32_t chunk)
{
	static int32_t ids[IDS_MAX];
	_cleanup_(kv_seq_freep) struct kv_seq *kv = NULL;
	uint32_t n = read_ids(in, ids), n_vocab = b->m->hp.n_vocab;
	FILE *f = fopen(out, "we");
	char head[119];

	if (!f || n == 0 || chunk == 0 || chunk > CHUNK || kv_seq_new(&kv, b->kv) < 0 ||
	    kv_seq_reserve(kv, n) != 0)
		return -1;
	snprintf(head, sizeof(head),
	         "{'descr': '<f4', 'fortran_order': False, 'shape': (%u, %u), }", n, n_vocab);
	fprintf(f, "\x93NUMPY%c%c%c%c%-117s\n", 1, 0, 118, 0, head);
	for (uint32_t pos = 0; pos < n; pos += chunk) {
		uint32_t len = MIN(chunk, n - pos);
		struct exec_slice s = {
			.kv = kv, .tokens = ids + pos, .n = len, .pos0 = pos, .n_logits = len
		};
		const float *row;

		if (exec_step(b->x, &s, 1, &row, NULL) < 0)
			return -1;
		fwrite(row, sizeof(float) * n_vocab, len, f);
	}
	return fclose(f);
}

static unsigned number(int argc, char **argv, int i, unsigned otherwise)
{
	return argc > i ? (unsigned)strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	struct bench b = { 0 };
	bool want_logits = argc == 6 && strcmp(argv[2], "--logits") == 0;
	int r;

	if (argc < 2) {
		fprintf(stderr,
		        "usage: bench-exec MODEL [THREADS [PROMPT [DECODE [REPEATS [DEPTH [KV "
		        "TYPE]]]]]]\n"
		        "       bench-exec MODEL --logits IDS.json OUT.npy CHUNK\n");
		return 2;
	}
	r = bench_open(&b, argv[1], want_logits ? 2 : number(argc, argv, 2, 2),
	               !want_logits && argc > 7 ? argv[7] : "f16");
	if (r == 0 && want_logits)
		r = logits(&b, argv[3], argv[4], number(argc, argv, 5, 1));
	else if (r == 0)
		r = speed(&b, number(argc, argv, 3, 512), number(argc, argv, 4, 128),
		          CLAMP(number(argc, argv, 5, 3), 1u, (unsigned)REPEATS_MAX),
		          number(argc, argv, 6, 0));
	exec_free(b.x);
	pool_free(b.pool);
	kv_pool_free(b.kv);
	model_unref(b.m);
	return r == 0 ? 0 : 1;
}
