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

/* Each returns the operations that it did. */
typedef double (*peak_fn)(void);

/* ROUNDS times one instruction sequence on ten accumulators; register 15 is an operand, 10 to 14
 * are free. In assembly, so that nothing is spilled or left out. */
#define RUN_TEN(name, ops, one)                                                                   \
	static double name(void)                                                                  \
	{                                                                                         \
		long n = ROUNDS;                                                                  \
                                                                                                  \
		__asm__ volatile("vzeroall\n1:\n\t" one("0", "10") one("1", "11") one("2", "12")  \
		                         one("3", "13") one("4", "14") one("5", "10")             \
		                                 one("6", "11") one("7", "12") one("8", "13")     \
		                                         one("9", "14") "dec %0\n\tjnz 1b"        \
		                 : "+r"(n)                                                        \
		                 :                                                                \
		                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",  \
		                   "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",    \
		                   "xmm14", "xmm15");                                             \
		return 2.0 * (ops)*CHAINS * ROUNDS;                                               \
	}
#define F32(acc, free) "vfmadd231ps %%ymm15, %%ymm15, %%ymm" acc "\n\t"
#define INT8(acc, free)                                                                           \
	"vpmaddubsw %%ymm15, %%ymm15, %%ymm" free "\n\t"                                          \
	"vpaddw %%ymm" free ", %%ymm" acc ", %%ymm" acc "\n\t"
#define VNNI(acc, free) "vpdpbusd %%zmm15, %%zmm15, %%zmm" acc "\n\t"
#define VNNI256(acc, free) "%{vex%} vpdpbusd %%ymm15, %%ymm15, %%ymm" acc "\n\t"

RUN_TEN(run_f32, 8, F32)
RUN_TEN(run_int8, 32, INT8)
RUN_TEN(run_vnni, 64, VNNI)
RUN_TEN(run_vnni256, 32, VNNI256)

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
