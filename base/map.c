/* map - open addressing with linear probing; removal shifts the run back, so there are no
 * tombstones.
 *
 * Invariants:
 * 1. The table has a power of two of slots and at most 3/4 are used: every probe ends.
 * 2. A key's slot is reached from its hash's home slot over used slots only.
 * 3. The hash's secret is random for each process: colliding names cannot be computed
 *    beforehand. */
#include "base/map.h"
#include "base/mem.h"
#include "base/num.h"
#include <errno.h>
#include <pthread.h>
#include <sys/random.h>
#include <time.h>
#include <xxhash.h>

enum { SECRET_BYTES = 192, FIRST_SLOTS = 16 };

struct slot {
	uint64_t hash;
	char *key;                      /* NULL: free slot */
	size_t len;
	void *value;
};

struct map {
	struct slot *slots;
	size_t n_slots, n;
};

static pthread_once_t secret_once = PTHREAD_ONCE_INIT;
static uint8_t secret[SECRET_BYTES];

/* Without getrandom (denied by a filter) a clock still differs from run to run. */
static void secret_init(void)
{
	struct timespec now;

	if (getrandom(secret, sizeof(secret), 0) == (ssize_t)sizeof(secret))
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	for (size_t i = 0; i < sizeof(secret); i += sizeof(uint64_t)) {
		uint64_t part = XXH64(&now, sizeof(now), i ^ (uint64_t)(uintptr_t)&now);

		memcpy(secret + i, &part, sizeof(part));
	}
}

static uint64_t hash_of(const void *key, size_t len)
{
	return XXH3_64bits_withSecret(key, len, secret, sizeof(secret));
}

int map_new(struct map **ret)
{
	struct map *m;

	pthread_once(&secret_once, secret_init);
	m = mem_alloc(sizeof(*m));
	if (!m)
		return -ENOMEM;
	*ret = m;
	return 0;
}

struct map *map_free(struct map *m)
{
	if (!m)
		return NULL;
	for (size_t i = 0; i < m->n_slots; i++)
		mem_free(m->slots[i].key);
	mem_free(m->slots);
	return mem_free(m);
}

/* The slot that holds the key, or the free slot where it would go. Needs n_slots > 0. */
static struct slot *find(const struct map *m, const void *key, size_t len, uint64_t hash)
{
	size_t mask = m->n_slots - 1;

	for (size_t i = hash & mask;; i = (i + 1) & mask) {
		struct slot *s = &m->slots[i];

		if (!s->key || (s->hash == hash && s->len == len && memcmp(s->key, key, len) == 0))
			return s;
	}
}

static int grow(struct map *m)
{
	size_t n_slots = m->n_slots ? m->n_slots : FIRST_SLOTS / 2, mask;
	struct slot *slots;

	if (mul_overflows(n_slots, (size_t)2, &n_slots))
		return -ENOMEM;
	slots = mem_allocn(n_slots, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	mask = n_slots - 1;
	for (size_t i = 0; i < m->n_slots; i++) {
		size_t at = m->slots[i].hash & mask;

		if (!m->slots[i].key)
			continue;
		while (slots[at].key)
			at = (at + 1) & mask;
		slots[at] = m->slots[i];
	}
	mem_free(m->slots);
	m->slots = slots;
	m->n_slots = n_slots;
	return 0;
}

int map_add(struct map *m, const void *key, size_t len, void *value)
{
	uint64_t hash = hash_of(key, len);
	struct slot *s;
	char *copy;

	if (m->n + 1 > m->n_slots / 4 * 3 && grow(m) < 0)
		return -ENOMEM;
	s = find(m, key, len, hash);
	if (s->key)
		return MAP_E_EXISTS;
	copy = mem_memdup(key, len);
	if (!copy)
		return -ENOMEM;
	*s = (struct slot){ hash, copy, len, value };
	m->n++;
	return 0;
}

bool map_has(const struct map *m, const void *key, size_t len, void **ret_value)
{
	const struct slot *s;

	if (m->n == 0)
		return false;
	s = find(m, key, len, hash_of(key, len));
	if (!s->key)
		return false;
	if (ret_value)
		*ret_value = s->value;
	return true;
}

void *map_get(const struct map *m, const void *key, size_t len)
{
	void *value = NULL;

	map_has(m, key, len, &value);
	return value;
}

void *map_remove(struct map *m, const void *key, size_t len)
{
	size_t mask = m->n_slots - 1, hole;
	struct slot *s;
	void *value;

	if (m->n == 0)
		return NULL;
	s = find(m, key, len, hash_of(key, len));
	if (!s->key)
		return NULL;
	value = s->value;
	mem_free(s->key);
	hole = (size_t)(s - m->slots);
	/* Pull back every later slot of the run whose home is not between the hole and itself. */
	for (size_t i = (hole + 1) & mask; m->slots[i].key; i = (i + 1) & mask) {
		size_t home = m->slots[i].hash & mask;

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		m->slots[hole] = m->slots[i];
		hole = i;
	}
	m->slots[hole] = (struct slot){ 0 };
	m->n--;
	return value;
}

size_t map_size(const struct map *m)
{
	return m->n;
}
