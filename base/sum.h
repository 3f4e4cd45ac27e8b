/* sum - checksum of a file: XXH3, 128 bits, as "xxh3-128:" and 32 digits. It finds damage,
 * not malice. Threads: any. */
#pragma once
#include <stdint.h>
#include "base/err.h"

enum { SUM_TEXT_MAX = 48 };
/* Called after each step with the bytes done; negative = give up with that. */
typedef int (*sum_progress_fn)(void *user, uint64_t done);
/* Of bytes [0, size) of fd, read with pread. -EIO when the file is shorter; -errno. progress may be
 * NULL. */
int sum_file(char ret[SUM_TEXT_MAX], int fd, uint64_t size, sum_progress_fn progress, void *user,
             struct err *err);
/* The text of a sum that was computed elsewhere, low half first. */
void sum_text(char ret[SUM_TEXT_MAX], const uint64_t sum[2]);
