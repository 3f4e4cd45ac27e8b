/* journal - log hook of the daemon: structured fields to the journal when stderr is connected to
 * it, else one line a message to stderr. */
#pragma once
#include "base/err.h"

void journal_setup(void);
/* "error" .. "debug"; -EINVAL. */
int journal_level(const char *name, struct err *err);
