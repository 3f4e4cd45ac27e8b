/* config-table - every key, its default and what it means. */
#include "base/num.h"
#include "daemon/config.h"

#define AT(field) offsetof(struct config, field)

const struct config_key config_table[] = {
	{ "daemon", "socket", CONFIG_STR, AT(socket), "",
	  .help = "Path of the socket. Default: $RUNTIME_DIRECTORY, /run/qllmd (root) or "
	          "$XDG_RUNTIME_DIR/qllmd, and there qllmd.sock." },
	{ "daemon", "socket_group", CONFIG_STR, AT(socket_group), "qllm",
	  .help = "Group that may connect when the daemon runs as root; without such a group the "
	          "socket is root's alone." },
	{ "daemon", "state_dir", CONFIG_STR, AT(state_dir), "",
	  .help = "Where models are kept. Default: $STATE_DIRECTORY, /var/lib/qllmd (root) or "
	          "$XDG_STATE_HOME/qllmd." },
	{ "daemon", "cache_dir", CONFIG_STR, AT(cache_dir), "",
	  .help = "What may be deleted at any time. Default: $CACHE_DIRECTORY, /var/cache/qllmd "
	          "(root) or $XDG_CACHE_HOME/qllmd." },
	{ "daemon", "log_level", CONFIG_STR, AT(log_level), "info", .reload = true,
	  .help = "error, warning, notice, info or debug." },
	{ "daemon", "admin_group", CONFIG_STR, AT(admin_group), "", .reload = true,
	  .help = "Members may see and change everybody's models. Root and the daemon's own user "
	          "always may." },
	{ "engine", "threads", CONFIG_U64, AT(threads), "0", 0, 1024,
	  .help = "Compute threads; 0: as many as affinity, cgroup and physical cores give." },
	{ "engine", "memory", CONFIG_BYTES, AT(memory), "0", 0, UINT64_MAX,
	  .help = "Budget for KV pages and buffers of all models (suffix K, M, G); 0: memory.max "
	          "of the cgroup, else half of memory." },
	{ "engine", "kv", CONFIG_STR, AT(kv), "f16",
	  .help = "Type of keys and values of models that are loaded without a choice: f16, "
	          "kv8 (about half as large) or kv4 (less than a third)." },
	{ "engine", "chunk", CONFIG_U64, AT(chunk), "128", 1, 4096,
	  .help = "Prompt tokens a step: bounds how long one client's prompt delays another "
	          "client's next token." },
	{ "engine", "max_sequences", CONFIG_U64, AT(max_sequences), "64", 1, 1024,
	  .help = "Sequences decoded together." },
	{ "engine", "speculation", CONFIG_STR, AT(speculation), "auto",
	  .help = "Whether answers are guessed ahead, several tokens a step, which changes none "
	          "of their bytes. auto: all requests look up what followed the same words "
	          "before, where that pays; ask: requests that ask for it, by lookup or with a "
	          "draft model; off: none; always: as auto, but whatever it costs, for "
	          "measurements." },
	{ "limits", "connections_per_uid", CONFIG_U64, AT(connections_per_uid), "64", 1, 65536,
	  true, "Connections one user may hold." },
	{ "limits", "queued_per_uid", CONFIG_U64, AT(queued_per_uid), "64", 1, 65536, true,
	  "Open requests one user may have over all connections." },
	{ "limits", "fds_per_uid", CONFIG_U64, AT(fds_per_uid), "1024", 1, 1048576, true,
	  "Descriptors held for one user: four a connection, and those of its requests." },
	{ "limits", "ring_bytes_per_uid", CONFIG_BYTES, AT(ring_bytes_per_uid), "128M", 65536,
	  1ull << 40, true,
	  "Memory of one user's output rings and of replies that it has not read." },
	{ "limits", "prompt_bytes_per_uid", CONFIG_BYTES, AT(prompt_bytes_per_uid), "128M", 1024,
	  1ull << 40, true, "Bytes of all open requests of one user." },
	{ "limits", "tokens_per_uid", CONFIG_U64, AT(tokens_per_uid), "1048576", 1, 1ull << 40,
	  true, "Prompt tokens of one user's requests that wait or run." },
	{ "limits", "kv_bytes_per_uid", CONFIG_BYTES, AT(kv_bytes_per_uid), "0", 0, UINT64_MAX,
	  true,
	  "KV pages of one user's requests; what does not fit waits. 0: only the share that "
	  "other users leave." },
	{ "limits", "intake_per_uid", CONFIG_U64, AT(intake_per_uid), "4", 2, 64, true,
	  "Threads that may read or close one user's files at once: each may hang for ever." },
	{ "limits", "jobs_per_uid", CONFIG_U64, AT(jobs_per_uid), "16", 1, 1024, true,
	  "Jobs of one user that are queued, running or paused." },
	{ "limits", "max_connections", CONFIG_U64, AT(max_connections), "1024", 1, 1048576, true,
	  "Connections of all users. Of this total and those below one user gets at most a "
	  "share: one of n users may hold 1/(n+1) of what the others leave." },
	{ "limits", "max_queued", CONFIG_U64, AT(max_queued), "1024", 1, 1048576, true,
	  "Open requests of all users." },
	{ "limits", "max_fds", CONFIG_U64, AT(max_fds), "65536", 16, 1048576, true,
	  "Descriptors held for all users; never more than RLIMIT_NOFILE less 128." },
	{ "limits", "max_ring_bytes", CONFIG_BYTES, AT(max_ring_bytes), "512M", 65536, 1ull << 44,
	  true, "Memory of all output rings and unread replies." },
	{ "limits", "max_prompt_bytes", CONFIG_BYTES, AT(max_prompt_bytes), "512M", 1024,
	  1ull << 44, true, "Bytes of all open requests." },
	{ "limits", "max_tokens", CONFIG_U64, AT(max_tokens), "8388608", 1, 1ull << 44, true,
	  "Prompt tokens of all requests that wait or run." },
	{ "limits", "max_intake", CONFIG_U64, AT(max_intake), "16", 4, 64,
	  .help = "Threads that read and close clients' files." },
	{ "limits", "max_jobs", CONFIG_U64, AT(max_jobs), "64", 1, 4096, true,
	  "Jobs of all users that are queued, running or paused." },
	{ "limits", "prompt_bytes", CONFIG_BYTES, AT(prompt_bytes), "64M", 1024, 1ull << 32, true,
	  "Largest prompt, message list, token list or text to evaluate." },
	{ "limits", "stall_seconds", CONFIG_U64, AT(stall_seconds), "60", 1, 86400, true,
	  "A request whose client reads no output for so long is cancelled." },
	{ "limits", "drain_seconds", CONFIG_U64, AT(drain_seconds), "30", 0, 3600, true,
	  "After SIGTERM running requests get so long to end." },
	{ "models", "idle_seconds", CONFIG_U64, AT(idle_seconds), "300", 1, 31536000, true,
	  "A model that nobody used for so long is unloaded unless pinned." },
	{ "models", "share_prompts", CONFIG_STR, AT(share_prompts), "", .reload = true,
	  .help = "Names of models (patterns as in a shell, with spaces between them; * for all) "
	          "whose users take the beginnings of their prompts from each other's memory: "
	          "faster where all have the same one, but the time to a first token then tells "
	          "one user what another has asked. Default: only prompts of the same user." },
	{ "models", "pack", CONFIG_U64, AT(pack), "1", 0, 1, true,
	  "1: imported models are packed for speed by a job, and so are, after a start, those in "
	  "the store that are not, and, once loaded, those that an older version has packed; it "
	  "begins when no request runs. 0: the store keeps their GGUF." },
	{ "jobs", "worker_socket", CONFIG_STR, AT(worker_socket), "",
	  .help = "Where workers are asked for. Default: qllm-worker/worker.sock below /run (a "
	          "user's daemon: $XDG_RUNTIME_DIR) where systemd runs the daemon and the socket "
	          "is there; else workers are children of the daemon." },
	{ "jobs", "worker_path", CONFIG_STR, AT(worker_path), "",
	  .help = "Program that is run as child where there is no worker socket. Default: "
	          "qllm-worker beside qllmd in a build tree, else the one that was installed with "
	          "it, libexec/qllmd/qllm-worker." },
	{ "jobs", "max_running", CONFIG_U64, AT(max_running), "1", 1, 16, true,
	  "Jobs that run at once; the others are queued. limits.jobs_per_uid bounds both." },
	{ "jobs", "kept_per_uid", CONFIG_U64, AT(kept_per_uid), "100", 1, 10000, true,
	  "Finished jobs of one user that `job ls` still shows; older ones are forgotten." },
	{ "jobs", "retry_seconds", CONFIG_U64, AT(retry_seconds), "10", 1, 3600, true,
	  "When no worker can be had, a queued job is tried again after so long." },
};
_Static_assert(ARRAY_SIZE(config_table) <= CONFIG_KEYS_MAX, "struct config.source");
const size_t config_n_keys = ARRAY_SIZE(config_table);
