/* bench - speeds of products, in place, packed and as panels: bytes a cycle with one token from
 * memory and from the second cache, on one thread and on two; time of many tokens by that of one
 * from memory; MAC a cycle from the cache. Medians of seven. Cycles are those of the core's present
 * clock, found by a chain of additions that takes one each. */
#include "tests/kernels/check.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/num.h"
#include "kernels/pack.h"

enum { RUNS = 7, CHUNK_ROWS = 64, N_IN = 2048, TOKENS = 128 };
#define DRAM_BYTES ((size_t)160 << 20)
#define CACHE_BYTES ((size_t)192 << 10)

static double now(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

#ifdef __aarch64__
#define ADD_ONE "add %0, %0, 1\n\t"
#else
#define ADD_ONE "add $1, %0\n\t"
#endif

/* Clock in Hz: a dependent addition a cycle. */
static double core_clock(void)
{
	double best = 0.0;

	for (int run = 0; run < 5; run++) {
		const double start = now(CLOCK_THREAD_CPUTIME_ID);
		uint64_t x = 1;

		for (int i = 0; i < 4000000; i++)
			__asm__ volatile(ADD_ONE ADD_ONE ADD_ONE ADD_ONE : "+r"(x));
		best = MAX(best, 16e6 / (now(CLOCK_THREAD_CPUTIME_ID) - start));
	}
	return best;
}

static int compare_double(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct work {
	const struct kernels *k;
	int type;               /* < 0: read_sum */
	mm_fn mm;
	const char *w;
	size_t row_bytes, n_rows, n_tok, repeat;
	const struct q16 *q;
	const float *x;
	const uint16_t *tiles;
	float *y;
	void *scratch;
	pthread_barrier_t *start;
	uint64_t sum;
	double end, cpu;        /* when it was done, and processor time it took */
};

static void *worker(void *arg)
{
	struct work *w = arg;

	if (w->start)
		pthread_barrier_wait(w->start);
	w->cpu = now(CLOCK_THREAD_CPUTIME_ID);
	for (size_t i = 0; i < w->repeat; i++) {
		if (w->type < 0) {
			w->sum += w->k->read_sum(w->w, w->n_rows * w->row_bytes & ~(size_t)7);
			continue;
		}
		for (size_t r = 0; r < w->n_rows; r += CHUNK_ROWS)
			w->mm(&(struct mm_args){
				.y = w->y,
				.ldy = w->n_rows,
				.w = w->w,
				.row_bytes = w->row_bytes,
				.n_in = N_IN,
				.r0 = r,
				.r1 = MIN(r + CHUNK_ROWS, w->n_rows),
				.n_tok = w->n_tok,
				.q16 = w->q,
				.x = w->x,
				.ldx = N_IN,
				.tiles = w->tiles,
				.scratch = w->scratch,
			});
	}
	w->end = now(CLOCK_MONOTONIC);
	w->cpu = now(CLOCK_THREAD_CPUTIME_ID) - w->cpu;
	return NULL;
}

/* Seconds for all rows, shared by n_threads; median. `cpu`: processor time of one thread, which a
 * busy machine does not stretch, in place of the clock on the wall. */
static double measure(const struct work *proto, size_t n_threads, bool cpu)
{
	const size_t scratch = MAX(KERNELS_SCRATCH(N_IN), kernels_panel_scratch(N_IN));
	double times[RUNS];

	for (int run = -1; run < RUNS; run++) {
		struct work part[2];
		pthread_barrier_t barrier;
		pthread_t thread[2];
		double start, end = 0.0;

		pthread_barrier_init(&barrier, NULL, (unsigned)n_threads + 1);
		for (size_t i = 0; i < n_threads; i++) {
			const size_t rows = proto->n_rows / n_threads;

			part[i] = *proto;
			part[i].start = &barrier;
			part[i].n_rows = rows;
			part[i].w += i * rows * proto->row_bytes;
			part[i].y += i * rows * proto->n_tok;
			part[i].scratch = aligned_alloc(64, scratch);
			memset(part[i].scratch, 0, scratch);
			pthread_create(&thread[i], NULL, worker, &part[i]);
		}
		start = now(CLOCK_MONOTONIC);
		pthread_barrier_wait(&barrier);
		for (size_t i = 0; i < n_threads; i++) {
			pthread_join(thread[i], NULL);
			end = MAX(end, part[i].end);
			free(part[i].scratch);
		}
		pthread_barrier_destroy(&barrier);
		if (run >= 0)           /* the first one warms up */
			times[run] = cpu ? part[0].cpu : end - start;
	}
	qsort(times, RUNS, sizeof(times[0]), compare_double);
	return times[RUNS / 2];
}

/* Rows in place, or groups of rows, until the memory is full. */
static void fill_weights(struct work *w, int type, bool packed, char *mem)
{
	uint64_t row_bytes = 0, group = 0;
	char *rows;

	qtype_row_bytes((uint32_t)type, N_IN, &row_bytes);
	pack_group_bytes(&group, (enum qtype)type, N_IN);
	w->row_bytes = packed ? group / PACK_ROWS : row_bytes;
	w->n_rows = DRAM_BYTES / w->row_bytes / (2 * CHUNK_ROWS) * (2 * CHUNK_ROWS);
	rows = malloc(PACK_ROWS * row_bytes);
	for (size_t r = 0; r < w->n_rows; r += PACK_ROWS) {
		for (size_t i = 0; i < PACK_ROWS && r < 4 * PACK_ROWS; i++)
			fill_row(rows + i * row_bytes, (enum qtype)type, N_IN, -1, 0x2c00);
		if (packed && r < 4 * PACK_ROWS)
			pack_unit(mem + r * w->row_bytes, (enum qtype)type, PACK_R16, rows,
			          row_bytes, PACK_ROWS, N_IN);
		else
			memcpy(mem + r * w->row_bytes,
			       r < 4 * PACK_ROWS ? rows : mem + r % 64 * w->row_bytes,
			       PACK_ROWS * w->row_bytes);
	}
	free(rows);
}

static double cached_macs(struct work *w, double hz, double *ret_cycles)
{
	w->repeat = MAX(40 / w->n_tok, (size_t)1);
	*ret_cycles = measure(w, 1, true) / (double)w->repeat * hz;
	return (double)(w->n_rows * N_IN * w->n_tok) / *ret_cycles;
}

static void cut_to_cache(struct work *w)
{
	w->n_rows = MAX(CACHE_BYTES / w->row_bytes / 16 * 16, (size_t)16);
}

/* The prompt's product, expansion included: it is for many tokens. */
static void bench_panel(const struct level_under_test *level, int type, bool packed, char *mem,
                        float *y, double hz)
{
	static const size_t tokens[] = { 1, 16, 32, 128 };
	struct work w = { .k = &level->k, .type = type, .w = mem, .y = y };
	uint16_t *tiles = aligned_alloc(64, panel_in_bytes(N_IN, TOKENS));
	float *x = calloc(N_IN, sizeof(*x));

	for (size_t i = 0; i < N_IN; i++)
		x[i] = rnd_float(-1.0f, 1.0f);
	for (size_t t = 0; t < TOKENS; t++)
		level->k.panel_in(tiles, x, N_IN, t);
	w.mm = (packed ? level->k.panel_packed : level->k.panel)[type];
	w.tiles = tiles;
	fill_weights(&w, type, packed, mem);
	cut_to_cache(&w);
	printf("%-7s %-6s %-8s panel: MAC/cycle:", level->name, qtype_name((uint32_t)type),
	       packed ? "packed" : "in place");
	for (size_t i = 0; i < ARRAY_SIZE(tokens); i++) {
		double cycles;

		w.n_tok = tokens[i];
		printf(" %zu:%.1f", tokens[i], cached_macs(&w, hz, &cycles));
	}
	putchar('\n');
	free(x);
	free(tiles);
}

static void bench_type(const struct level_under_test *level, int type, bool packed, char *mem,
                       float *y, double hz)
{
	static const size_t tokens[] = { 1, 2, 4, 8, 32, TOKENS };
	struct work w = { .k = &level->k, .type = type, .w = mem };
	float *x = calloc(TOKENS * N_IN, sizeof(*x));
	void *q_mem = aligned_alloc(64, q16_bytes(N_IN, TOKENS));
	double bytes, one[3] = { 0 }, read[3];
	struct q16 q;

	w.mm = (packed ? level->k.mm_packed : level->k.mm)[type];
	fill_weights(&w, type, packed, mem);
	for (size_t i = 0; i < TOKENS * N_IN; i++)
		x[i] = rnd_float(-1.0f, 1.0f);
	q16_bind(&q, q_mem, N_IN, TOKENS);
	ref.actq(&q, x, N_IN, 0, TOKENS);
	w.q = &q;
	w.x = x;
	w.y = y;
	w.n_tok = w.repeat = 1;
	bytes = (double)(w.n_rows * w.row_bytes);
	printf("%-7s %-6s %-8s memory:", level->name, qtype_name((uint32_t)type),
	       packed ? "packed" : "in place");
	for (size_t threads = 1; threads <= 2; threads++) {
		double t;

		w.type = -1;
		read[threads] = bytes / measure(&w, threads, false);
		w.type = type;
		one[threads] = t = measure(&w, threads, false);
		printf("  %zu thread: %.2f GB/s (%.2f of read's %.2f)", threads, bytes / t * 1e-9,
		       bytes / t / read[threads], read[threads] * 1e-9);
	}
	for (size_t i = 3; i < 5; i++) {
		w.n_tok = tokens[i];
		printf("  %zu tokens: %.2fx", tokens[i], measure(&w, 2, false) / one[2]);
	}
	cut_to_cache(&w);
	for (size_t i = 0; i < ARRAY_SIZE(tokens); i++) {
		double cycles, macs;

		w.n_tok = tokens[i];
		macs = cached_macs(&w, hz, &cycles);
		if (i == 0)
			printf("  cache: %.2f B/cycle; MAC/cycle:",
			       (double)(w.n_rows * w.row_bytes) / cycles);
		printf(" %zu:%.1f", tokens[i], macs);
	}
	putchar('\n');
	free(x);
	free(q_mem);
}

void bench_all(void)
{
	const double hz = core_clock();
	char *mem = aligned_alloc(1 << 21, DRAM_BYTES);
	float *y = calloc(DRAM_BYTES / 16, sizeof(*y));
	char name[32];

	printf("%s, %.2f GHz\n", kernels_cpu_name(), hz * 1e-9);
	if (!mem || !y)
		return;
	for (size_t l = 0; l < n_levels; l++)
		for (int type = 0; type < QTYPE_COUNT; type++) {
			snprintf(name, sizeof(name), "mm_%s", qtype_name((uint32_t)type));
			if (!levels[l].k.mm[type] || !wanted(name))
				continue;
			for (int packed = 0; packed < 2; packed++) {
				bench_type(&levels[l], type, packed, mem, y, hz);
				if (levels[l].k.panel[type])
					bench_panel(&levels[l], type, packed, mem, y, hz);
			}
		}
	free(mem);
	free(y);
}
