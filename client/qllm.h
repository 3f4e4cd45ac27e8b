/* qllm.h - libqllm, the client side of qllmd.
 *
 * A struct qllm is one connection. Requests are started by a call that returns at once; what comes
 * back - tokens, rows, progress, the end - arrives as events in qllm_dispatch(), which any main
 * loop calls when qllm_fd() is readable. qllm_wait() does the same for programs without a loop.
 * Nothing is ever delivered outside these two.
 *
 * Results. Calls return 0 or a positive request id, or a negative errno; qllm_error_text() then
 * holds one sentence for people and qllm_error_class() the exit code that qllmctl would end with.
 *
 * Connection. Made by the first request (or qllm_connect), and made anew by the next request after
 * it was lost: open requests then end with -ECONNRESET. A daemon that restarts is waited for: that
 * next request blocks until it is back, at most timeout_ms and 5 s; later ones fail at once.
 * qllm_fd() is the same number for the whole life of the struct.
 *
 * Threads. One thread at a time uses a struct qllm; only qllm_cancel() may be called by any thread
 * at any time. Inside an event function requests may be started and cancelled; qllm_dispatch,
 * qllm_wait and qllm_free may not be called.
 *
 * Compatibility. Structs that the caller fills begin with their size: initialise them with the
 * macro of their name. Structs that the library fills only ever grow at their end; their pointers
 * live until the event function returns. */
#ifndef QLLM_H
#define QLLM_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QLLM_API __attribute__((visibility("default")))

struct qllm;

/* --- connection ------------------------------------------------------------------------------- */

struct qllm_options {
	size_t size;
	/* NULL: $QLLM_SOCKET, else the user's daemon, else the system's */
	const char *socket;
	const char *client;             /* name for people, at most 64 printable bytes */
	uint64_t ring_bytes;            /* data ring, 0 = 1 MiB */
	int timeout_ms;                 /* of connecting, default 10,000 */
};
#define QLLM_OPTIONS_INIT { .size = sizeof(struct qllm_options), .timeout_ms = 10000 }

/* options may be NULL. Does not connect. -ENOMEM, -EMFILE. */
QLLM_API int qllm_new(struct qllm **ret, const struct qllm_options *options);
/* Open requests are dropped without an event; the daemon cancels them. Accepts NULL, returns
 * NULL. */
QLLM_API struct qllm *qllm_free(struct qllm *q);
/* Connect now, at most timeout_ms; 0 when there is a connection already. -ECONNREFUSED, -ENOENT,
 * -EACCES, -ETIMEDOUT, -EPROTO (a daemon of another protocol). */
QLLM_API int qllm_connect(struct qllm *q);
/* The socket in use, or the first that would be tried. */
QLLM_API const char *qllm_socket(const struct qllm *q);
/* Poll this for reading. */
QLLM_API int qllm_fd(const struct qllm *q);
/* Deliver what is there; never blocks. Number of events, or -ECONNRESET when the connection was
 * lost (open requests have had their last event by then). */
QLLM_API int qllm_dispatch(struct qllm *q);
/* Dispatch until request `id` has ended; timeout_ms < 0 = for ever. The request's code (0 =
 * success); -ETIMEDOUT when it goes on; -ESRCH when there is no such open request. */
QLLM_API int qllm_wait(struct qllm *q, int64_t id, int timeout_ms);
/* End a request early: its last event comes soon, with what was made so far. No error when it has
 * ended already. Any thread. */
QLLM_API int qllm_cancel(struct qllm *q, int64_t id);
/* Of the last call or request that failed; "" when none has. Valid until the next call. */
QLLM_API const char *qllm_error_text(const struct qllm *q);
QLLM_API int qllm_error_class(const struct qllm *q);
QLLM_API const char *qllm_version(void);

/* --- events ----------------------------------------------------------------------------------- */

enum qllm_event_type {                  /* ignore those you do not know */
	QLLM_EVENT_DONE = 0,            /* last event of a request */
	QLLM_EVENT_TOKEN = 1,
	QLLM_EVENT_ROW = 2,
	QLLM_EVENT_PROGRESS = 3,
	QLLM_EVENT_MODEL = 4,           /* one model of qllm_list or qllm_import */
	QLLM_EVENT_LOADED = 5,          /* one model of qllm_ps */
	QLLM_EVENT_JOB = 6,             /* one job of qllm_job_list, _do or qllm_verify_start */
	QLLM_EVENT_NOTICE = 8,          /* something that qllm_monitor saw */
};
struct qllm_logprob {
	int32_t id;
	float logprob;
};
struct qllm_token {
	int32_t id;
	float logprob;                  /* NaN unless log-probabilities were asked for */
	/* what the token makes visible; may be empty; not NUL-terminated; may be no UTF-8 */
	const char *text;
	size_t n_text;
	const struct qllm_logprob *top; /* best first */
	size_t n_top;
};
/* floats [first, first + n) of the n_vocab logits after token `index`, in order */
struct qllm_row {
	uint32_t index, n_vocab, first, n;
	const float *logits;
};
struct qllm_progress {
	const char *phase, *unit;       /* "copy", "bytes" */
	uint64_t done, total;           /* total 0 = unknown */
};
struct qllm_model {
	const char *name, *path, *architecture, *type;
	const char *fault;              /* why it cannot be used, or NULL */
	uint64_t parameters, bytes;
	uint32_t uid;                   /* owner */
	int loaded, packed, in_place, shared;
};
struct qllm_loaded {
	const char *name, *state;       /* "loading", "loaded" */
	uint64_t bytes, resident_bytes, kv_pages, kv_pages_max, kv_bytes;
	uint32_t references, ctx;
	double idle_s;
	int pinned;
	const char *kv;                 /* type of keys and values */
	uint64_t kv_pages_cached;       /* of prompts, that later ones may take, in use or not */
};
enum qllm_finish { QLLM_FINISH_STOP = 0, QLLM_FINISH_LENGTH = 1, QLLM_FINISH_CANCELLED = 2 };
struct qllm_result {                    /* qllm_generate, qllm_logits */
	int finish;
	uint32_t prompt_tokens, cached_tokens, completion_tokens;
	double prompt_s, first_token_s, decode_s;       /* first_token_s counts from submission */
	uint64_t seed;                  /* that was used */
	const char *note; /* what the user should know ("the model has no template ..."), or NULL */
	/* tokens that were guessed ahead and computed, and those of them that held */
	uint64_t draft_tokens, draft_accepted;
};
struct qllm_status_result {
	const char *version, *threads_why, *cpu, *kernels, *socket, *state_dir;
	int ready;
	double uptime_s;
	uint64_t budget_bytes, used_bytes;
	uint32_t models, loaded, connections, running, waiting, parked, threads, threads_active,
		pid;
	uint64_t prompt_tokens, decode_tokens, preemptions;
	const char *kernels_levels;     /* what the machine can run, slowest first */
	/* memory of earlier prompts, not in used_bytes; prompt tokens found there; by how many
	 * requests */
	uint64_t cached_bytes, cached_tokens, cache_hits;
	/* a faster one that the processor has and the daemon leaves off, and why; "" for none */
	const char *kernels_refused;
};
struct qllm_estimate_result {
	uint64_t weights_bytes, kv_bytes, kv_bytes_per_token, activation_bytes, budget_bytes;
	uint32_t ctx, slots;
	int fits;
};
struct qllm_load_result {
	double seconds;
	uint32_t ctx;
	int was_loaded;
};
struct qllm_eval_result {
	double ppl, ppl_stderr, seconds;
	uint64_t tokens;
	int has_kld;                    /* the four below count */
	double kld_mean, kld_p99, kld_max, top1;
};
struct qllm_read_result {
	uint64_t bytes, bytes_per_token;
	double seconds, flops_per_token;
};
struct qllm_job {
	uint64_t id;
	const char *kind;               /* "verify", "pack", "export" */
	const char *state;              /* "queued" "running" "paused" "failed" "done"
	                                 * "cancelled" */
	const char *model;
	const char *error;              /* why it failed, or why it still waits, or NULL */
	const char *result, *checksum;  /* of what is done, or NULL */
	const char *phase;              /* while it runs, or NULL */
	double percent, eta_s;          /* eta_s negative: unknown */
	uint64_t bytes_read, bytes_written;
	uint64_t created, started, ended;       /* seconds since 1970, 0 = not yet */
	uint32_t uid;                   /* who asked for it */
	uint32_t failures;              /* how often its worker ended without a result */
};
struct qllm_notice {
	/* "connect", "disconnect", "begin", "end", "load", "unload", "fault", "job"; others
	 * may come */
	const char *kind;
	double time;                    /* seconds since 1970 */
	uint32_t uid, pid, request;     /* request: its id on that connection */
	uint64_t client;                /* number of the connection, 0 = none */
	/* NULL where it says nothing: the client's name, the kind of request or job, the model, how
	 * it ended or a job's state, why */
	const char *name, *what, *model, *result, *text;
	int has_tokens;                 /* the six below count */
	uint32_t prompt_tokens, cached_tokens, completion_tokens;
	double prompt_s, first_token_s, decode_s;
	double seconds;                 /* a request's or a load's, 0 = none */
	uint64_t dropped;               /* notices lost before this one: the program is too slow */
};
struct qllm_event {
	enum qllm_event_type type;
	int64_t id;                     /* the request */
	const struct qllm_token *token;
	const struct qllm_row *row;
	const struct qllm_progress *progress;
	const struct qllm_model *model;
	const struct qllm_loaded *loaded;
	/* DONE: code 0 and the result of the call, or a negative errno with its sentence and
	 * class */
	int code, error_class;
	const char *error;              /* NULL on success */
	/* bytes of show, template, detokenize (NUL-terminated); int32 ids of tokenize; a note */
	const void *data;
	size_t n_data;                  /* bytes, the NUL left out */
	const struct qllm_result *result;
	const struct qllm_status_result *status;
	const struct qllm_estimate_result *estimate;
	const struct qllm_load_result *load;
	const struct qllm_eval_result *eval;
	const struct qllm_read_result *read;
	const struct qllm_notice *notice;
	const struct qllm_job *job;
};
typedef void (*qllm_event_fn)(void *user, const struct qllm_event *event);

/* --- requests: a positive id, or a negative errno; fn may be NULL ----------------------------- */

QLLM_API int64_t qllm_status(struct qllm *q, qllm_event_fn fn, void *user);
QLLM_API int64_t qllm_list(struct qllm *q, qllm_event_fn fn, void *user);
QLLM_API int64_t qllm_ps(struct qllm *q, qllm_event_fn fn, void *user);

struct qllm_import_args {
	size_t size;
	const char *name;               /* [A-Za-z0-9][A-Za-z0-9._-]{0,63} */
	const char *path;               /* label of where it came from; in place: where it lies */
	/* a GGUF, regular file, opened O_RDONLY for this call; stays the caller's */
	int fd;
	int shared, in_place, detach;   /* detach: go on when the client leaves, answer at once */
};
#define QLLM_IMPORT_INIT { .size = sizeof(struct qllm_import_args), .fd = -1 }
QLLM_API int64_t qllm_import(struct qllm *q, const struct qllm_import_args *args, qllm_event_fn fn,
                             void *user);
QLLM_API int64_t qllm_remove(struct qllm *q, const char *model, qllm_event_fn fn, void *user);
enum qllm_show_what {
	QLLM_SHOW_SUMMARY = 0,
	QLLM_SHOW_TENSORS = 1,
	QLLM_SHOW_METADATA = 2,
	QLLM_SHOW_TEMPLATE = 3
};
/* data: a JSON object. */
QLLM_API int64_t qllm_show(struct qllm *q, const char *model, enum qllm_show_what what,
                           qllm_event_fn fn, void *user);
/* Fill fd, an empty regular file opened O_RDWR for this call (stays the caller's), with the model's
 * GGUF as it was imported, byte for byte: PROGRESS, then data: a summary for people. */
QLLM_API int64_t qllm_export(struct qllm *q, const char *model, int fd, qllm_event_fn fn,
                             void *user);
/* A job that ends with this request: PROGRESS, then data: a summary for people. */
QLLM_API int64_t qllm_verify(struct qllm *q, const char *model, qllm_event_fn fn, void *user);
/* The same as a job that goes on by itself: a JOB event as soon as it is on disk, then DONE. */
QLLM_API int64_t qllm_verify_start(struct qllm *q, const char *model, qllm_event_fn fn, void *user);
/* A JOB event for each job that the caller may see, in order of id. */
QLLM_API int64_t qllm_job_list(struct qllm *q, qllm_event_fn fn, void *user);
enum qllm_job_verb {
	QLLM_JOB_SHOW = 0,
	QLLM_JOB_WAIT = 1,              /* PROGRESS until it ends; a job that failed is an error */
	QLLM_JOB_PAUSE = 2,
	QLLM_JOB_RESUME = 3,            /* of paused, failed and cancelled jobs */
	QLLM_JOB_CANCEL = 4
};
/* A JOB event with the state that this has led to, then DONE. */
QLLM_API int64_t qllm_job_do(struct qllm *q, uint64_t job, enum qllm_job_verb verb,
                             qllm_event_fn fn, void *user);
/* data: its log, lines of text. */
QLLM_API int64_t qllm_job_log(struct qllm *q, uint64_t job, qllm_event_fn fn, void *user);
struct qllm_estimate_args {
	size_t size;
	const char *model, *kv;         /* kv NULL: what loading would take */
	uint32_t ctx, slots;            /* 0: the model's own; one sequence */
};
#define QLLM_ESTIMATE_INIT { .size = sizeof(struct qllm_estimate_args) }
QLLM_API int64_t qllm_estimate(struct qllm *q, const struct qllm_estimate_args *args,
                               qllm_event_fn fn, void *user);
struct qllm_load_args {
	size_t size;
	const char *model, *kv;
	/* refuse unless memory holds this many positions; 0 = any */
	uint32_t ctx;
	int pin;                        /* never unload when idle */
};
#define QLLM_LOAD_INIT { .size = sizeof(struct qllm_load_args) }
QLLM_API int64_t qllm_load(struct qllm *q, const struct qllm_load_args *args, qllm_event_fn fn,
                           void *user);
QLLM_API int64_t qllm_unload(struct qllm *q, const char *model, qllm_event_fn fn, void *user);

enum qllm_tokenize_flags { QLLM_NO_BOS = 1, QLLM_NO_SPECIAL = 2 };
/* data: int32 ids. Text may hold any bytes. */
QLLM_API int64_t qllm_tokenize(struct qllm *q, const char *model, const void *text, size_t n,
                               unsigned flags, qllm_event_fn fn, void *user);
QLLM_API int64_t qllm_detokenize(struct qllm *q, const char *model, const int32_t *ids, size_t n,
                                 qllm_event_fn fn, void *user);
/* messages: JSON array of {"role","content",...}; tools: JSON array or NULL. data: the rendered
 * prompt. */
QLLM_API int64_t qllm_template(struct qllm *q, const char *model, const char *messages,
                               const char *tools, qllm_event_fn fn, void *user);

struct qllm_bias {
	int32_t id;
	float bias;                     /* added to the logit; -INFINITY bans */
};
struct qllm_bytes {
	const void *p;
	size_t n;
};
/* which members of struct qllm_generate_args are given; the daemon's defaults otherwise */
enum qllm_sampling_fields {
	QLLM_TEMP = 1,
	QLLM_TOP_K = 2,
	QLLM_TOP_P = 4,
	QLLM_MIN_P = 8,
	QLLM_TYPICAL_P = 16,
	QLLM_REPEAT_PENALTY = 32,
	QLLM_PRESENCE_PENALTY = 64,
	QLLM_FREQUENCY_PENALTY = 128,
	QLLM_SEED = 256,
};
struct qllm_generate_args {
	size_t size;
	const char *model;
	/* exactly one of these three */
	/* raw: as it is; else one user message in the model's template */
	const void *prompt;
	size_t n_prompt;
	const char *messages;           /* JSON array of {"role","content",...} */
	const int32_t *tokens;          /* taken as they are */
	size_t n_tokens;

	const char *tools;              /* JSON array, with messages */
	const char *system;             /* with prompt, not raw */
	uint32_t max_tokens;            /* 0: until the context is full */
	/* special: special tokens show in the text; batch: background class */
	int raw, ignore_eos, special, batch;
	/* texts that end generation; at most 16 of at most 255 bytes */
	const struct qllm_bytes *stop;
	size_t n_stop;
	unsigned given;                 /* enum qllm_sampling_fields */
	float temp, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty;
	uint32_t top_k;
	uint64_t seed;
	const struct qllm_bias *bias;
	size_t n_bias;
	uint32_t logprobs;              /* this many best beside each token, 0..20 */
	/* For speed, with the same answer. Guess from the text so far: 1 yes, -1 no, 0 as the
	 * daemon is configured; and by a model of the same vocabulary, or NULL. */
	int lookup;
	const char *draft;
	/* neither use what the daemon keeps of earlier prompts nor leave it this one */
	int no_cache;
};
#define QLLM_GENERATE_INIT { .size = sizeof(struct qllm_generate_args) }
/* TOKEN events, then DONE with result. */
QLLM_API int64_t qllm_generate(struct qllm *q, const struct qllm_generate_args *args,
                               qllm_event_fn fn, void *user);
/* ROW events for every token, then DONE. The first n_prompt tokens take the prompt path, the rest
 * decode. QLLM_EXACT: all of them with activations of 15 bits, as qllm_eval computes, where answers
 * have 8 for the most part. */
#define QLLM_EXACT UINT32_MAX
QLLM_API int64_t qllm_logits(struct qllm *q, const char *model, const int32_t *tokens, size_t n,
                             uint32_t n_prompt, qllm_event_fn fn, void *user);
struct qllm_eval_args {
	size_t size;
	const char *model;
	const void *text;
	size_t n_text;
	uint32_t ctx, chunks;           /* 0: 512; all */
	const char *protocol;           /* NULL: "llama.cpp"; "hf" */
	const char *ref, *kv;           /* ref: also the divergence from this model */
};
#define QLLM_EVAL_INIT { .size = sizeof(struct qllm_eval_args) }
QLLM_API int64_t qllm_eval(struct qllm *q, const struct qllm_eval_args *args, qllm_event_fn fn,
                           void *user);
/* Stream the model's weights `steps` times through the daemon's threads without computing: the
 * roofline of decoding. */
QLLM_API int64_t qllm_bench_read(struct qllm *q, const char *model, uint32_t steps,
                                 qllm_event_fn fn, void *user);

/* --- for operators ---------------------------------------------------------------------------- */

/* data: a JSON array, one object for each setting of the daemon. */
QLLM_API int64_t qllm_config(struct qllm *q, qllm_event_fn fn, void *user);
/* Who is connected and what each user holds of its limits, of others only for administrators. data:
 * a JSON object, "clients" and "users". */
QLLM_API int64_t qllm_clients(struct qllm *q, qllm_event_fn fn, void *user);
/* Disconnect a client by its "id", or all of a user but for this connection; data: a note. */
QLLM_API int64_t qllm_kick(struct qllm *q, uint64_t client, qllm_event_fn fn, void *user);
QLLM_API int64_t qllm_kick_user(struct qllm *q, uint32_t uid, qllm_event_fn fn, void *user);
/* Limits of a user until the daemon restarts, for administrators: "KEY=VALUE", where KEY is a key
 * of [limits] that ends in _per_uid, or "KEY=default". */
QLLM_API int64_t qllm_limit(struct qllm *q, uint32_t uid, const char *const *settings, size_t n,
                            qllm_event_fn fn, void *user);
/* data: Prometheus text 0.0.4. */
QLLM_API int64_t qllm_metrics(struct qllm *q, qllm_event_fn fn, void *user);
/* data: a JSON object with what is open now, "users" and "requests"; of others only for
 * administrators. */
QLLM_API int64_t qllm_activity(struct qllm *q, qllm_event_fn fn, void *user);
/* NOTICE events until it is cancelled or the daemon stops. */
QLLM_API int64_t qllm_monitor(struct qllm *q, qllm_event_fn fn, void *user);

/* --- the whole thing in one blocking call ----------------------------------------------------- */

/* Text of a completion, NUL-terminated; qllm_text_free it. ret_n may be NULL. */
QLLM_API int qllm_complete(struct qllm *q, const struct qllm_generate_args *args, char **ret,
                           size_t *ret_n);
QLLM_API void qllm_text_free(char *text);

#ifdef __cplusplus
}
#endif
#endif
