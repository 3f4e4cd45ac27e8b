/* checkkernels - every kernel of every level against scalar, bit for bit.
 *
 * checkkernels [--filter NAME] [--bench]: NAME is a part of "mm_Q4_1", "attn_page", ...; --bench
 * prints speeds instead of checking. Exit status 1 when anything failed. */
#include "tests/kernels/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/num.h"

struct kernels ref;
struct level_under_test levels[6];
size_t n_levels;

static uint64_t seed = 0x9e3779b97f4a7c15;
static unsigned n_passed, n_failed, n_skipped;
static const char *filter;

uint32_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 16);
}

float rnd_float(float lo, float hi)
{
	return lo + (hi - lo) * ((float)(rnd() >> 8) * 0x1p-24f);
}

uint16_t rnd_f16(void)
{
	uint16_t h = (uint16_t)rnd();

	return (h & 0x7c00) == 0x7c00 ? h & 0xbfff : h;
}

void rnd_bytes(void *p, size_t n)
{
	uint8_t *bytes = p;

	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)rnd();
}

static size_t guarded_pages(size_t n)
{
	return align_up(n, (size_t)sysconf(_SC_PAGESIZE));
}

void *guarded_alloc(size_t n)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = guarded_pages(n);
	char *base = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                  -1, 0);

	if (base == MAP_FAILED || mprotect(base + size, page, PROT_NONE) < 0) {
		perror("checkkernels: mmap");
		abort();
	}
	return base + size - n;
}

void guarded_free(void *p, size_t n)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = guarded_pages(n);

	munmap((char *)p + n - size, size + page);
}

bool only_rows(const float *y, const float *want, size_t width, size_t r0, size_t r1,
               size_t n_tok)
{
	const uint32_t canary = 0x01010101u * CANARY;
	bool ok = true;

	for (size_t i = 0; i < n_tok * width; i++) {
		const bool inside = i % width >= r0 && i % width < r1;

		ok &= memcmp(&y[i], inside ? (const void *)&want[i] : &canary, sizeof(*y)) == 0;
	}
	return ok;
}

void check(bool ok, const char *fmt, ...)
{
	va_list ap;

	if (ok) {
		n_passed++;
		return;
	}
	n_failed++;
	if (n_failed > 40)      /* one fault tends to repeat for every shape */
		return;
	va_start(ap, fmt);
	fputs("FAILED ", stdout);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
}

bool wanted(const char *name)
{
	return !filter || strstr(name, filter);
}

static void add_level(const char *name, const char *fill)
{
	levels[n_levels] = (struct level_under_test){ .name = name };
	if (kernels_init_level(&levels[n_levels].k, fill) < 0)
		abort();
	n_levels++;
}

static void find_levels(bool bench)
{
#ifdef __aarch64__
	static const char *const names[] = { "neon" };
#else
	static const char *const names[] = { "avx2", "avxvnni", "avx512", "amx" };
#endif

	if (kernels_init_level(&ref, "scalar") < 0)
		abort();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strstr(kernels_levels(), names[i]))
			add_level(names[i], names[i]);
		else
			n_skipped++;
#ifdef QLLM_TEST_EMULATE
	if (!bench && strstr(kernels_levels(), "avx2")) {
		add_level("avx512-emulated", "avx2");
		levels[n_levels - 1].slow = true;
		emulated_fill_avx512(&levels[n_levels - 1].k);
		add_level("avxvnni-emulated", "avx2");
		levels[n_levels - 1].slow = true;
		emulated_fill_vnni(&levels[n_levels - 1].k);
		return;
	}
#endif
	if (!bench)
		n_skipped++;
}

int main(int argc, char **argv)
{
	bool bench = false;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--bench") == 0) {
			bench = true;
		} else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
			filter = argv[++i];
		} else {
			fprintf(stderr, "usage: checkkernels [--filter NAME] [--bench]\n");
			return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	find_levels(bench);
	if (bench) {
		bench_all();
		return 0;
	}
	check_table();
	check_dequant();
	check_elem();
	check_attn();
	check_pack();
	check_mm();
	check_panel();
	check_screen();
	printf("%s: %u passed, %u failed, %u skipped (levels this machine lacks)\n",
	       kernels_levels(), n_passed, n_failed, n_skipped);
	return n_failed != 0 || n_passed == 0;
}
