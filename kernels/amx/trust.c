/* trust - does this machine's AMX do what the manual says? Asked once, before the level is used.
 *
 * Some hypervisors lose tile registers when they take a virtual processor off its core: tiles come
 * back as zeros after a switch that the program did not ask for. So threads, twice as many as
 * processors, hold tiles while they take the processors from each other, for PROBE_US in all. Tiles
 * that were lost once are not used at all: a wrong number in a prompt is worse than a slow one. */
#include "kernels/amx/tile.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "base/num.h"
#include "kernels/f16.h"
#include "kernels/levels.h"

enum {
	PROBE_US = 20000,
	HOLD_US = 4000,                 /* longer than a turn on a contended processor */
	EXTRA_MAX = 64,                 /* threads beyond one a processor */
	STACK = 128 << 10,
	ROWS = 21, TOKENS = 19, N_IN = 80,
};

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

struct probe {
	atomic_bool lost;
	uint64_t end;
};

static void *hold_tiles(void *arg)
{
	static const struct tile_shape shape = TILE_SHAPE;
	_Alignas(64) uint32_t in[2][256], out[2][256];
	struct probe *p = arg;
	uint32_t seed = (uint32_t)(uintptr_t)&in;
	bool same = true;

	do {
		const uint64_t end = MIN(now_us() + HOLD_US, p->end);

		for (size_t i = 0; i < 512; i++)
			in[i / 256][i % 256] = seed = seed * 1664525 + 1013904223;
		tile_config(&shape);
		tile_load(0, in[0], 64);
		tile_load(7, in[1], 64);
		while (now_us() < end)
			;
		tile_store(0, out[0], 64);
		tile_store(7, out[1], 64);
		tile_release();
		same &= memcmp(in, out, sizeof(in)) == 0;
	} while (now_us() < p->end && same);
	if (!same)
		atomic_store(&p->lost, true);
	return NULL;
}

static size_t cpu_count(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;
}

static const char *probe_tiles(void)
{
	const size_t cpus = cpu_count(), want = cpus + MIN(cpus, (size_t)EXTRA_MAX);
	struct probe p = { .end = now_us() + PROBE_US };
	pthread_t threads[CPU_SETSIZE + EXTRA_MAX];
	pthread_attr_t attr;
	size_t n = 0;

	if (pthread_attr_init(&attr) != 0)
		return "amx: no memory to test the tile registers";
	pthread_attr_setstacksize(&attr, STACK);
	while (n < want && pthread_create(&threads[n], &attr, hold_tiles, &p) == 0)
		n++;
	pthread_attr_destroy(&attr);
	for (size_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	if (atomic_load(&p.lost))
		return "amx: tile registers were lost while other threads ran";
	return n > cpus ? NULL : "amx: too few threads could be started to test the tile registers";
}

struct trial {
	uint16_t w[ROWS][N_IN];
	float x[TOKENS][N_IN], y[TOKENS][ROWS];
	_Alignas(64) uint16_t tiles[2 * PANEL_TOKENS * 96];
	_Alignas(64) char scratch[KERNELS_PANEL_BYTES];
};
_Static_assert(N_IN <= 96 && TOKENS <= 2 * PANEL_TOKENS, "the trial has room");

/* In the order of kernels.h; all numbers are far from subnormals. */
static float expected(const struct trial *t, size_t token, size_t row)
{
	float acc = 0.0f;

	for (size_t k = 0; k < N_IN; k += PANEL_STEP) {
		float sum[2] = { 0.0f, 0.0f };

		for (size_t i = k; i < MIN(k + PANEL_STEP, (size_t)N_IN); i++)
			sum[i % 2] = fmaf(bf16_load(t->w[row][i]), t->x[token][i], sum[i % 2]);
		acc += sum[0] + sum[1];
	}
	return acc;
}

static const char *try_product(void)
{
	static struct trial trial;      /* pages that are not touched cost nothing */
	struct trial *t = &trial;
	struct kernels k = { 0 };
	uint32_t seed = 1;

	amx_fill_panel(&k);
	/* bf16 of exponents -7 to 0, on both sides. */
	for (size_t i = 0; i < sizeof(t->w) / sizeof(t->w[0][0]); i++) {
		seed = seed * 1664525 + 1013904223;
		t->w[i / N_IN][i % N_IN] = (uint16_t)((seed >> 16 & 0x83ff) | 0x3c00);
	}
	for (size_t i = 0; i < TOKENS; i++) {
		for (size_t j = 0; j < N_IN; j++) {
			seed = seed * 1664525 + 1013904223;
			t->x[i][j] = bf16_load((uint16_t)((seed >> 16 & 0x83ff) | 0x3c00));
		}
		k.panel_in(t->tiles, t->x[i], N_IN, i);
	}
	k.panel[QTYPE_BF16](&(struct mm_args){ .y = t->y[0],
	                                       .ldy = ROWS,
	                                       .w = t->w,
	                                       .row_bytes = sizeof(t->w[0]),
	                                       .n_in = N_IN,
	                                       .r1 = ROWS,
	                                       .n_tok = TOKENS,
	                                       .tiles = t->tiles,
	                                       .scratch = t->scratch });
	for (size_t i = 0; i < TOKENS; i++)
		for (size_t r = 0; r < ROWS; r++) {
			const float want = expected(t, i, r);

			if (memcmp(&t->y[i][r], &want, sizeof(want)) != 0)
				return "amx: a test product came out wrong";
		}
	return NULL;
}

const char *amx_self_test(void)
{
	const char *why = try_product();

	return why ? why : probe_tiles();
}
