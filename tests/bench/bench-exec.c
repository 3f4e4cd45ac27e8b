/* bench-exec - the executor alone, without scheduler, daemon and sampling: for tuning, and for
 * logits against the oracle.
 *
 *   bench-exec MODEL.gguf [THREADS [PROMPT [DECODE [REPEATS [DEPTH [KV]]]]]]
 *       prompt tokens/s in chunks of 128, decoded tokens/s after DEPTH tokens, and the read arm;
 *       medians
 *   bench-exec MODEL.gguf --rows [THREADS [REPEATS [DEPTH]]]
 *       time of a decode step of 1 to 32 sequences, and how it compares with one: on the wall and
 *       of the processors; medians of alternating steps
 *   bench-exec MODEL.gguf --logits IDS.json OUT.npy CHUNK
 *       logits of all tokens of a JSON list, fed in chunks (1 = the decode path), as float32 npy */
#include "base/mem.h"
#include "base/num.h"
#include "engine/exec.h"
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

enum { CHUNK = 128, REPEATS_MAX = 101, IDS_MAX = 1 << 16, ROWS_MAX = 32 };

struct bench {
	struct model *m;
	struct kernels k;
	struct pool *pool;
	struct exec *x;
	struct kv_pool *kv;
};

static double now(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
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
		r = kv_pool_new(&b->kv, &shape, INT64_MAX);
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
	for (uint32_t pos = 0; pos < n; pos += chunk) {
		uint32_t len = MIN(chunk, n - pos);
		struct exec_slice s = { .kv = kv, .tokens = ids + pos, .n = len, .pos0 = pos0 + pos,
			.n_logits = pos + len == n || chunk == 1 };
		int r = exec_step(b->x, &s, 1, NULL);

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
		t = now(CLOCK_MONOTONIC);
		if (feed(b, kv, ids, n_prompt, 0, CHUNK) < 0)
			return -1;
		pp[i] = now(CLOCK_MONOTONIC) - t;
		if (depth > 0 && feed(b, kv, ids, depth, 0, CHUNK) < 0)
			return -1;
		t = now(CLOCK_MONOTONIC);
		if (feed(b, kv, ids + depth, n_decode, depth, 1) < 0)
			return -1;
		tg[i] = now(CLOCK_MONOTONIC) - t;
		t = now(CLOCK_MONOTONIC);
		for (unsigned j = 0; j < 16; j++)
			bytes = exec_read_step(b->x);
		rd[i] = (now(CLOCK_MONOTONIC) - t) / 16;
	}
	printf("pp%u %.1f t/s  tg%u@%u %.1f t/s (%.1f GB/s)  read %.1f GB/s\n", n_prompt,
	       n_prompt / median(pp, repeats), n_decode, depth, n_decode / median(tg, repeats),
	       (double)bytes * n_decode / tg[repeats / 2] * 1e-9,
	       (double)bytes / median(rd, repeats) * 1e-9);
	return 0;
}

struct arm {
	uint32_t n;
	double wall[REPEATS_MAX], cpu[REPEATS_MAX];
};

/* One decode step of arm->n sequences. */
static int rows_step(struct bench *b, struct kv_seq **kv, struct arm *arm, unsigned i, uint32_t pos)
{
	struct exec_slice slices[ROWS_MAX];
	int32_t ids[ROWS_MAX];
	double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	int r;

	for (uint32_t j = 0; j < arm->n; j++) {
		ids[j] = (int32_t)((pos * 7919u + j * 31u) % b->m->hp.n_vocab);
		slices[j] = (struct exec_slice){
			.kv = kv[j], .tokens = &ids[j], .n = 1, .pos0 = pos, .n_logits = 1
		};
	}
	r = exec_step(b->x, slices, arm->n, NULL);
	arm->cpu[i] = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	arm->wall[i] = now(CLOCK_MONOTONIC) - wall;
	return r;
}

static int rows_speed(struct bench *b, unsigned repeats, uint32_t depth)
{
	static struct arm arms[] = { { .n = 1 }, { .n = 2 }, { .n = 4 }, { .n = 8 }, { .n = 16 },
		                     { .n = ROWS_MAX } };
	struct kv_seq *kv[ROWS_MAX] = { NULL };
	int r = 0;

	for (uint32_t j = 0; j < ROWS_MAX && r == 0; j++) {
		r = kv_seq_new(&kv[j], b->kv);
		if (r == 0)
			r = kv_seq_reserve(kv[j], depth + 1);
		for (uint32_t pos = 0; pos < depth && r == 0; pos++) {
			int32_t id = (int32_t)((pos * 7919u + j) % b->m->hp.n_vocab);

			r = feed(b, kv[j], &id, 1, pos, CHUNK);
		}
	}
	/* the first round warms up; every step stores the same position anew */
	for (unsigned i = 0; i <= repeats && r == 0; i++)
		for (size_t k = 0; k < ARRAY_SIZE(arms) && r == 0; k++)
			r = rows_step(b, kv, &arms[k], i > 0 ? i - 1 : 0, depth);
	for (size_t k = 0; k < ARRAY_SIZE(arms) && r == 0; k++) {
		double wall = median(arms[k].wall, repeats), cpu = median(arms[k].cpu, repeats);

		printf("%2u rows: %6.2f ms (%5.2fx)  %6.1f t/s  processors %6.2f ms (%5.2fx)\n",
		       arms[k].n, wall * 1e3, wall / arms[0].wall[repeats / 2],
		       arms[k].n / wall, cpu * 1e3, cpu / arms[0].cpu[repeats / 2]);
	}
	for (uint32_t j = 0; j < ROWS_MAX; j++)
		kv_seq_free(kv[j]);
	return r;
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
		struct logits_row row;

		if (exec_step(b->x, &s, 1, NULL) < 0)
			return -1;
		exec_row(b->x, 0, &row);
		fwrite(row.x, sizeof(float) * n_vocab, len, f);
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
	bool want_rows = argc > 2 && strcmp(argv[2], "--rows") == 0;
	int at = want_rows ? 3 : 2;
	int r;

	if (argc < 2) {
		fprintf(stderr,
		        "usage: bench-exec MODEL [THREADS [PROMPT [DECODE [REPEATS [DEPTH [KV "
		        "TYPE]]]]]]\n"
		        "       bench-exec MODEL --rows [THREADS [REPEATS [DEPTH]]]\n"
		        "       bench-exec MODEL --logits IDS.json OUT.npy CHUNK\n");
		return 2;
	}
	r = bench_open(&b, argv[1], want_logits ? 2 : number(argc, argv, at, 2),
	               !want_logits && !want_rows && argc > 7 ? argv[7] : "f16");
	if (r == 0 && want_logits)
		r = logits(&b, argv[3], argv[4], number(argc, argv, 5, 1));
	else if (r == 0 && want_rows)
		r = rows_speed(&b, CLAMP(number(argc, argv, 4, 9), 1u, (unsigned)REPEATS_MAX),
		               number(argc, argv, 5, 32));
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
