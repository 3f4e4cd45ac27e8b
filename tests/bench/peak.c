/* peak - what the cores could compute: independent chains of the widest multiply-adds, in
 * registers, on all threads at once. Multiplications and additions count as one operation each.
 *
 *   peak THREADS    one JSON object: tera-operations a second, best of five, of what runs here:
 *                   "f32" (fma), "int8" (AVX2, added up in 16 bits), "vnni" (dot products of 4
 *                   bytes), "amx" (8-bit tiles) */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined __x86_64__
#include <immintrin.h>

enum { CHAINS = 10, ROUNDS = 2000000, TRIES = 5, THREADS_MAX = 256 };
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, TILE_OPS = 2 * 16 * 16 * 64 };

/* Keeps the compiler from seeing that nothing depends on it. */
#define KEEP(v) __asm__ volatile("" : "+x"(v))
#define KEEP512(v) __asm__ volatile("" : "+v"(v))

/* Each returns the operations that it did. */
typedef double (*peak_fn)(void);

__attribute__((target("avx2,fma"))) static double run_f32(void)
{
	__m256 acc[CHAINS], x = _mm256_set1_ps(0.5f);

	for (int c = 0; c < CHAINS; c++)
		acc[c] = _mm256_set1_ps((float)c);
	for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 10
		for (int c = 0; c < CHAINS; c++) {
			acc[c] = _mm256_fmadd_ps(acc[c], x, x);
			KEEP(acc[c]);
		}
	return 2.0 * 8 * CHAINS * ROUNDS;
}

__attribute__((target("avx2"))) static double run_int8(void)
{
	__m256i acc[CHAINS], x = _mm256_set1_epi8(3);

	for (int c = 0; c < CHAINS; c++)
		acc[c] = _mm256_setzero_si256();
	for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 10
		for (int c = 0; c < CHAINS; c++) {
			__m256i pairs;

			__asm__ volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0"
			                 : "+x"(acc[c]), "=&x"(pairs)
			                 : "x"(x));
		}
	return 2.0 * 32 * CHAINS * ROUNDS;
}

__attribute__((target("avx512f,avx512vnni"))) static double run_vnni(void)
{
	__m512i acc[CHAINS], x = _mm512_set1_epi8(3);

	for (int c = 0; c < CHAINS; c++)
		acc[c] = _mm512_setzero_si512();
	for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 10
		for (int c = 0; c < CHAINS; c++) {
			acc[c] = _mm512_dpbusd_epi32(acc[c], x, x);
			KEEP512(acc[c]);
		}
	return 2.0 * 64 * CHAINS * ROUNDS;
}

__attribute__((target("avxvnni,avx2"))) static double run_vnni256(void)
{
	__m256i acc[CHAINS], x = _mm256_set1_epi8(3);

	for (int c = 0; c < CHAINS; c++)
		acc[c] = _mm256_setzero_si256();
	for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 10
		for (int c = 0; c < CHAINS; c++) {
			acc[c] = _mm256_dpbusd_avx_epi32(acc[c], x, x);
			KEEP(acc[c]);
		}
	return 2.0 * 32 * CHAINS * ROUNDS;
}

__attribute__((target("amx-tile,amx-int8"))) static double run_amx(void)
{
	struct {
		uint8_t palette, start, zero[14];
		uint16_t bytes[16];
		uint8_t rows[16];
	} shape = { .palette = 1 };

	for (int t = 0; t < 8; t++) {
		shape.bytes[t] = 64;
		shape.rows[t] = 16;
	}
	_tile_loadconfig(&shape);
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	_tile_zero(4);
	_tile_zero(5);
	for (int r = 0; r < ROUNDS / 8; r++) {
		_tile_dpbusd(0, 4, 5);
		_tile_dpbusd(1, 4, 5);
		_tile_dpbusd(2, 4, 5);
		_tile_dpbusd(3, 4, 5);
	}
	_tile_release();
	return (double)TILE_OPS * 4 * (ROUNDS / 8.0);
}

struct runner {
	peak_fn fn;
	pthread_barrier_t *start;
	double rate;
};

/* Processor time of this thread, which a busy machine does not stretch. */
static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *run(void *arg)
{
	struct runner *r = arg;
	double begin;

	pthread_barrier_wait(r->start);
	begin = now();
	r->rate = r->fn();
	r->rate /= now() - begin;
	return NULL;
}

/* Operations a second on all threads, best of the tries. */
static double measure(peak_fn fn, int threads)
{
	double best = 0.0;

	for (int i = 0; i < TRIES; i++) {
		struct runner r[THREADS_MAX];
		pthread_t id[THREADS_MAX];
		pthread_barrier_t start;
		double sum = 0.0;

		pthread_barrier_init(&start, NULL, (unsigned)threads);
		for (int t = 0; t < threads; t++) {
			r[t] = (struct runner){ .fn = fn, .start = &start };
			if (pthread_create(&id[t], NULL, run, &r[t]) != 0)
				exit(1);
		}
		for (int t = 0; t < threads; t++) {
			pthread_join(id[t], NULL);
			sum += r[t].rate;
		}
		pthread_barrier_destroy(&start);
		best = sum > best ? sum : best;
	}
	return best;
}

/* As the kernel lists them: what the processor has and the system lets programs use. */
static int has(const char *flag)
{
	static char flags[16384];
	const size_t n = strlen(flag);
	FILE *f;

	if (!flags[0] && (f = fopen("/proc/cpuinfo", "r"))) {
		while (fgets(flags, sizeof(flags), f) && strncmp(flags, "flags", 5) != 0)
			flags[0] = '\0';
		fclose(f);
	}
	for (const char *at = flags; (at = strstr(at, flag)); at += n)
		if (at > flags && at[-1] == ' ' && (at[n] == ' ' || at[n] == '\n'))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	const int threads = argc > 1 ? atoi(argv[1]) : 0;
	const char *comma = "";

	if (threads < 1 || threads > THREADS_MAX) {
		fprintf(stderr, "usage: %s THREADS\n", argv[0]);
		return 2;
	}
	printf("{");
	if (has("avx2") && has("fma")) {
		printf("\"f32\": %.4f, \"int8\": %.4f", measure(run_f32, threads) * 1e-12,
		       measure(run_int8, threads) * 1e-12);
		comma = ", ";
	}
	if (has("avx512_vnni"))
		printf("%s\"vnni\": %.4f", comma, measure(run_vnni, threads) * 1e-12);
	else if (has("avx_vnni"))
		printf("%s\"vnni\": %.4f", comma, measure(run_vnni256, threads) * 1e-12);
	if (has("amx_int8") &&
	    syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0)
		printf("%s\"amx\": %.4f", comma, measure(run_amx, threads) * 1e-12);
	printf("}\n");
	return 0;
}
#else
int main(void)
{
	printf("{}\n");
	return 0;
}
#endif
