/* packold - by the description in format/packfile.h, without its code for writing. */
#include "tests/lib/packold.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/fd.h"
#include "base/num.h"
#include "format/packfile.h"
#include "kernels/pack.h"

enum { HEADER = 128, RECORD = 48, ALIGN = 64 };

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "packold: %s\n", what);
	exit(1);
}

static void put(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static uint8_t *rows_of(int from, const struct tensor *t, const struct packfile_tensor *p)
{
	uint8_t *bytes = malloc(p->bytes + 1), *rows = malloc(t->n_bytes + 1);
	uint64_t unit = PACK_ROWS * pack_unit_groups(p->packed);

	must(bytes && rows && fd_pread_all(from, bytes, p->bytes, p->offset) == 0, t->name);
	if (!p->packed)
		memcpy(rows, bytes, t->n_bytes);
	for (uint64_t row = 0; p->packed && row < p->rows; row += unit)
		unpack_unit(rows + row * p->row_bytes, t->type, p->packed,
		            bytes + row / PACK_ROWS * p->group_bytes, p->row_bytes,
		            MIN(p->rows - row, unit), t->dim[0]);
	free(bytes);
	return rows;
}

/* As groups of 16 rows: p->bytes of them. */
static uint8_t *groups_of(const uint8_t *rows, const struct tensor *t,
                          const struct packfile_tensor *p)
{
	uint8_t *groups = malloc(p->bytes);

	must(groups, t->name);
	for (uint64_t row = 0; row < p->rows; row += PACK_ROWS)
		pack_unit(groups + row / PACK_ROWS * p->group_bytes, t->type, PACK_R16,
		          rows + row * p->row_bytes, p->row_bytes,
		          MIN(p->rows - row, (uint64_t)PACK_ROWS), t->dim[0]);
	return groups;
}

/* The bytes of a tensor in that form, if it has one. */
static uint8_t *tensor_in(enum pack_form *form, int from, const struct tensor *t,
                          const struct packfile_tensor *p, uint64_t *ret_n)
{
	uint8_t *rows = rows_of(from, t, p), *groups;

	*form = p->packed ? *form : PACK_NONE;
	*ret_n = *form ? p->bytes : t->n_bytes;
	if (!*form)
		return rows;
	groups = groups_of(rows, t, p);
	free(rows);
	return groups;
}

void packold_make(int to, int from, enum pack_form form)
{
	struct packfile *f = NULL;
	uint8_t *head, *records, *bytes;
	XXH128_hash_t meta;
	uint64_t at, n;

	must(packfile_open(&f, from, "the packed file", NULL) == 0, "no packed file");
	n = f->head_bytes + f->gguf->n_tensors * RECORD;
	at = f->data_offset;
	head = malloc(HEADER + n);
	must(head && fd_pread_all(from, head, HEADER + n, 0) == 0, "its head");
	records = head + HEADER + f->head_bytes;
	for (size_t i = 0; i < f->gguf->n_tensors; i++) {
		const struct tensor *t = f->order[i];
		size_t index = (size_t)(t - f->gguf->tensors);
		uint8_t *record = records + index * RECORD;

		enum pack_form is = form;
		uint64_t n_bytes;

		bytes = tensor_in(&is, from, t, &f->tensors[index], &n_bytes);
		must(fd_pwrite_all(to, bytes, n_bytes, at) == 0, t->name);
		memset(record + 4, 0, 4);
		record[4] = (uint8_t)is;
		put(record + 24, at);
		put(record + 32, n_bytes);
		put(record + 40, XXH3_64bits(bytes, n_bytes));
		free(bytes);
		at = align_up(at + n_bytes, ALIGN);
	}
	bytes = malloc(f->gaps_bytes + 1);
	must(bytes && fd_pread_all(from, bytes, f->gaps_bytes, f->gaps_offset) == 0 &&
	             fd_pwrite_all(to, bytes, f->gaps_bytes, at) == 0 &&
	             ftruncate(to, (off_t)(at + f->gaps_bytes)) == 0, "its gaps");
	memcpy(head + 12, "\1\0\0", 4);
	put(head + 16, at + f->gaps_bytes);
	meta = XXH3_128bits(head + HEADER, n);
	put(head + 80, meta.low64);
	put(head + 88, meta.high64);
	put(head + 120, XXH3_64bits(head, 120));
	must(fd_pwrite_all(to, head, HEADER + n, 0) == 0, "its head");
	free(bytes);
	free(head);
	packfile_free(f);
}
