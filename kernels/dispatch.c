/* dispatch - which level this machine runs: CPUID says what the core has, XGETBV what the kernel
 * saves.
 *
 * Levels are filled worst first; each fill overwrites only the slots that it makes faster.
 * Tiles are more than a bit of CPUID: the process asks the kernel for the room to save them, once
 * for all threads, and then looks whether they hold (kernels/amx/trust.c). */
#include "kernels/levels.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

#ifdef __aarch64__
#include <sys/auxv.h>

static bool have_neon(void)
{
	enum { DOT_PRODUCTS = 1 << 20 };        /* HWCAP_ASIMDDP */

	return getauxval(AT_HWCAP) & DOT_PRODUCTS;
}
#endif

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { XCR0_AVX = 0x06, XCR0_AVX512 = 0xe6, XCR0_TILES = 0x60000 };

static uint64_t saved_state(void)
{
	uint32_t lo, hi;

	__asm__ ("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

static bool have_avx2(void)
{
	const uint32_t leaf1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
	uint32_t a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1)
		return false;
	if ((saved_state() & XCR0_AVX) != XCR0_AVX)
		return false;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static bool have_avxvnni(void)
{
	enum { AVX_VNNI = 1 << 4 };
	uint32_t a, b, c, d;

	return have_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI);
}

static bool have_avx512(void)
{
	const uint32_t leaf7b = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
	uint32_t a, b, c, d;

	if (!have_avx2() || (saved_state() & XCR0_AVX512) != XCR0_AVX512)
		return false;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7b) == leaf7b &&
	       (c & bit_AVX512VNNI);
}
#endif

static pthread_once_t amx_once = PTHREAD_ONCE_INIT;
static bool amx_usable;
static const char *amx_refused = "";

#ifdef QLLM_AMX
static void look_at_amx(void)
{
	enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
	enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };       /* asm/prctl.h since Linux 5.16 */
	const uint32_t leaf7d = AMX_BF16 | AMX_TILE;
	const char *why;
	uint32_t a, b, c, d;

	if (!have_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & leaf7d) != leaf7d)
		return;
	if ((saved_state() & XCR0_TILES) != XCR0_TILES)
		why = "amx: the kernel does not save tile registers (Linux 5.16 does)";
	else if (syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) < 0)
		why = "amx: the kernel denies the use of tile registers (arch_prctl)";
	else
		why = amx_self_test();
	amx_usable = !why;
	amx_refused = why ? why : "";
}
#else
static void look_at_amx(void)
{
}
#endif

static bool have_amx(void)
{
	pthread_once(&amx_once, look_at_amx);
	return amx_usable;
}

const char *kernels_refused(void)
{
	have_amx();
	return amx_refused;
}

static bool have_scalar(void)
{
	return true;
}

static const struct level {
	const char *name;
	bool (*have)(void);
	void (*fill)(struct kernels *k);
} levels[] = {
	{ "scalar", have_scalar, kernels_fill_scalar },
#ifdef __x86_64__
	{ "avx2", have_avx2, kernels_fill_avx2 },
	{ "avxvnni", have_avxvnni, kernels_fill_avxvnni },
	{ "avx512", have_avx512, kernels_fill_avx512 },
#endif
#ifdef QLLM_AMX
	{ "amx", have_amx, kernels_fill_amx },
#endif
#ifdef __aarch64__
	{ "neon", have_neon, kernels_fill_neon },
#endif
};

void kernels_fill_scalar(struct kernels *k)
{
	scalar_fill_mm(k);
	scalar_fill_dequant(k);
	scalar_fill_elem(k);
	scalar_fill_attn(k);
}

#ifdef __x86_64__
void kernels_fill_avx2(struct kernels *k)
{
	avx2_fill_mm(k);
	avx2_fill_packed(k);
	avx2_fill_float(k);
	avx2_fill_dequant(k);
	avx2_fill_elem(k);
	avx2_fill_attn(k);
}

void kernels_fill_avxvnni(struct kernels *k)
{
	avxvnni_fill_packed(k);
}

void kernels_fill_avx512(struct kernels *k)
{
	avx512_fill_mm(k);
	avx512_fill_packed(k);
	avx512_fill_float(k);
	avx512_fill_elem(k);
	avx512_fill_attn(k);
}
#endif

#ifdef QLLM_AMX
void kernels_fill_amx(struct kernels *k)
{
	amx_fill_panel(k);
}
#endif

#ifdef __aarch64__
void kernels_fill_neon(struct kernels *k)
{
	neon_fill_packed(k);
	neon_fill_float(k);
	neon_fill_elem(k);
	neon_fill_attn(k);
}
#endif

/* Bit of a level in a mask; levels of other machines are known too. -1 for no level. */
static int level_bit(const char *name, size_t len)
{
	static const char *const words[] = { "scalar", "avx2", "avxvnni", "avx512", "neon",
		                             "amx" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strlen(words[i]) == len && strncmp(words[i], name, len) == 0)
			return (int)i;
	return -1;
}

/* A comma list to a bit set of levels. */
static int parse_mask(const char *spec, uint32_t *ret)
{
	uint32_t mask = 0;

	if (!spec || *spec == '\0') {
		*ret = UINT32_MAX;
		return 0;
	}
	for (const char *word = spec; ; word += strcspn(word, ",") + 1) {
		const size_t len = strcspn(word, ",");
		const int bit = level_bit(word, len);

		if (bit < 0)
			return -EINVAL;
		mask |= 1u << bit;
		if (word[len] == '\0')
			break;
	}
	*ret = mask;
	return 0;
}

int kernels_init(struct kernels *k, const char *mask_spec)
{
	uint32_t mask;
	int r = parse_mask(mask_spec, &mask);

	if (r < 0)
		return r;
	*k = (struct kernels){ 0 };
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		const int bit = level_bit(levels[i].name, strlen(levels[i].name));

		/* Scalar is the floor of every table, also where the mask names others only. */
		if (i > 0 && (!(mask & 1u << bit) || !levels[i].have()))
			continue;
		levels[i].fill(k);
		k->level = levels[i].name;
	}
	return 0;
}

int kernels_init_level(struct kernels *k, const char *level)
{
	size_t n;

	for (n = 0; n < ARRAY_SIZE(levels); n++)
		if (strcmp(levels[n].name, level) == 0)
			break;
	if (n == ARRAY_SIZE(levels))
		return -ENOENT;
	*k = (struct kernels){ 0 };
	for (size_t i = 0; i <= n; i++)
		levels[i].fill(k);
	k->level = levels[n].name;
	return 0;
}

static char levels_text[64];

static void list_levels(void)
{
	char *end = levels_text;

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (!levels[i].have())
			continue;
		if (end > levels_text)
			*end++ = ' ';
		end = stpcpy(end, levels[i].name);
	}
}

const char *kernels_levels(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, list_levels);
	return levels_text;
}

const char *kernels_cpu_name(void)
{
#ifdef __x86_64__
	static _Thread_local char name[49];
	uint32_t words[12];
	char *start = name, *end;

	if ((uint32_t)__get_cpuid_max(0x80000000, NULL) < 0x80000004)
		return "unknown";
	for (uint32_t i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
		            &words[4 * i + 3]);
	memcpy(name, words, 48);
	name[48] = '\0';
	while (*start == ' ')
		start++;
	for (end = start + strlen(start); end > start && end[-1] == ' '; end--)
		end[-1] = '\0';
	return *start ? start : "unknown";
#else
	return "unknown";
#endif
}

size_t q16_bytes(size_t k, size_t n_tok)
{
	return align_up(k * n_tok, 64) + 3 * align_up(k / 16 * n_tok * sizeof(float), 64);
}

void q16_bind(struct q16 *x, void *mem, size_t k, size_t n_tok)
{
	const size_t codes = align_up(k * n_tok, 64),
		     factors = align_up(k / 16 * n_tok * sizeof(float), 64);
	char *bytes = mem;

	x->k = k;
	x->q = (int8_t *)bytes;
	x->s = (float *)(bytes + codes);
	x->t = (float *)(bytes + codes + factors);
	x->sum = (int32_t *)(bytes + codes + 2 * factors);
}

void screen_terms(float *t, float *e, const struct q16 *x)
{
	for (size_t i = 0; i < x->k / 32; i++) {
		float spread = 0;

		for (size_t j = 2 * i; j < 2 * i + 2; j++) {
			int32_t sum = 0;

			for (size_t l = 0; l < 16; l++)
				sum += abs(x->q[16 * j + l]);
			spread += x->s[j] * (float)sum;
		}
		t[i] = 3.5f * (x->t[2 * i] + x->t[2 * i + 1]);
		e[i] = 4.0f * spread;
	}
}

size_t kernels_panel_scratch(size_t n_in)
{
	return MAX(KERNELS_PANEL_BYTES,
	           align_up(n_in, PANEL_STEP) * 2 * PANEL_TOKENS * sizeof(uint16_t));
}

size_t panel_in_bytes(size_t k, size_t n_tok)
{
	return align_up(k, PANEL_STEP) * align_up(n_tok, PANEL_TOKENS) * sizeof(uint16_t);
}
