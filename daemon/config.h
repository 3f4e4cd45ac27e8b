/* config - settings: built-in defaults, then what the vendor has put beside the program, then
 * FILE, then FILE.d/ *.conf in order of name, then the command line. One table (config-table.c)
 * feeds parser, `config show` and the manual; every value remembers where it came from. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/cleanup.h"
#include "base/err.h"
#include "base/str.h"

enum { CONFIG_KEYS_MAX = 64 };
struct config {
	/* Where the value of config_table[i] comes from: "default", "FILE:LINE", "command line",
	 * "$VARIABLE". */
	char *source[CONFIG_KEYS_MAX];
	char *kv;
	char *socket, *socket_group, *state_dir, *cache_dir, *log_level, *admin_group;
	char *speculation;
	uint64_t threads, memory, chunk, max_sequences;
	uint64_t connections_per_uid, queued_per_uid, fds_per_uid, ring_bytes_per_uid;
	uint64_t prompt_bytes, prompt_bytes_per_uid, tokens_per_uid, intake_per_uid, jobs_per_uid;
	uint64_t kv_bytes_per_uid;
	uint64_t max_connections, max_queued, max_fds, max_ring_bytes, max_prompt_bytes, max_tokens;
	uint64_t max_intake, max_jobs;
	uint64_t pack, idle_seconds, drain_seconds, stall_seconds;
	char *worker_socket, *worker_path, *share_prompts;
	uint64_t max_running, kept_per_uid, retry_seconds;
};
enum config_type { CONFIG_STR, CONFIG_U64, CONFIG_BYTES };
struct config_key {
	const char *section, *name;
	enum config_type type;
	size_t offset;                  /* in struct config */
	const char *def;                /* "" = decided at start */
	uint64_t min, max;              /* of numbers */
	bool reload;                    /* SIGHUP applies it */
	const char *help;
};
extern const struct config_key config_table[];
extern const size_t config_n_keys;

/* Defaults, then file and its .d directory. A file that does not exist is no error unless
 * must_exist. Errors name file, line and key: -EINVAL, -errno, -ENOMEM. */
int config_load(struct config **ret, const char *file, bool must_exist, struct err *err);
/* The system's: defaults, VENDOR.d/ *.conf, then file and its .d directory; all of them may be
 * missing. */
int config_load_system(struct config **ret, const char *vendor, const char *file, struct err *err);
struct config *config_free(struct config *c);
DEFINE_FREEP(struct config, config_free)
/* One key by name ("socket"; sections hold no two of the same name). source: what `config show`
 * says of it. -ENOENT for unknown keys, -EINVAL, -ENOMEM. */
int config_set(struct config *c, const char *name, const char *value, const char *source,
               struct err *err);
/* Value of a key as a file would write it: numbers in plain digits. */
int config_text(const struct config *c, const struct config_key *key, struct sbuf *out);
/* The sections of qllmd.conf(5) that describe the keys. */
void config_roff(FILE *f);
/* Copy the reloadable keys of `from` over `to`. 0 or -ENOMEM with `to` unchanged. */
int config_apply_reload(struct config *to, const struct config *from);
