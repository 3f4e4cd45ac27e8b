/* journal - log hook of the daemon: structured fields to the journal when stderr is connected to
 * it, else one line a message to stderr. */
#pragma once
#include "base/err.h"
#include "base/log.h"

/* MESSAGE_ID of what an administrator may search for; systemd/catalog explains each. */
#define ID_START "c5781ef7a00542c6895b389a2c14e2ab"
#define ID_STOP "e5fc2d03ac2642af80051ccea8591687"
#define ID_MODEL_FAULT "8aa4675c91ad440d92f17c33f03cda77"
#define ID_CLIENT_CLOSED "298c37a7ac564b8f96c652e9aa0d0941"
#define ID_REFUSED "d2315d09b919407cac58bc4216f8b47e"
#define ID_WORKER_DIED "08998a397fd34682beb37e48becbdb26"
#define ID_WATCHDOG "0943d41d134847afa8b4e842211acef6"
#define ID_CONFIG "0dc335a668d94a31b7c964ef80ae2e1e"

/* Fields beside a message: QLLM_CLIENT (number of the connection), QLLM_UID, QLLM_PID (of the
 * client), QLLM_MODEL, QLLM_THREAD, QLLM_JOB. Starts as { 0 }; a seventh field is left out, a
 * long value is cut. Not to be copied. */
enum { JOURNAL_FIELDS = 6, JOURNAL_VALUE = 80 };
struct journal_fields {
	struct log_field f[JOURNAL_FIELDS];
	unsigned n;
	char values[JOURNAL_FIELDS][JOURNAL_VALUE];
};
void journal_add(struct journal_fields *j, const char *key, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

void journal_setup(void);
/* "error" .. "debug"; -EINVAL. */
int journal_level(const char *name, struct err *err);
