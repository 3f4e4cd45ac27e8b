/* call - requests: arguments to a frame, and an entry in the list of open calls.
 *
 * Structs from the caller may be shorter (an older program) or longer (a newer one) than ours: what
 * is missing is zero, what we do not know must be zero. Nothing of the caller's is kept after the
 * call has returned: the frame is packed, and bytes too large for it are copied into a sealed
 * memfd. */
#include "config.h"
#include <errno.h>
#include "base/num.h"
#include "base/str.h"
#include "client/conn.h"

/* protobuf-c's structs are not const; packing only reads them. */
static char *str(const char *s)
{
	return (char *)(uintptr_t)s;
}

static int args_copy(struct qllm *q, void *to, size_t size, const void *from)
{
	size_t given;

	memcpy(&given, from, sizeof(given));
	if (given < sizeof(given))
		return error_set(q, -EINVAL, EXIT_USAGE,
		                 "the argument struct has no size: initialise it with its macro");
	for (size_t i = size; i < given; i++)
		if (((const char *)from)[i])
			return error_set(q, -EINVAL, EXIT_USAGE,
			                 "an argument is newer than this libqllm (%s)",
			                 PACKAGE_VERSION);
	memset(to, 0, size);
	memcpy(to, from, MIN(size, given));
	return 0;
}

/* Send frame as a new request. Consumes fds. */
static int64_t submit(struct qllm *q, Qllm__Frame *frame, struct frame_fds *fds, qllm_event_fn fn,
                      void *user)
{
	struct call *call;
	int r = conn_ready(q);

	call = r == 0 ? mem_alloc(sizeof(*call)) : NULL;
	if (call) {
		call->id = conn_next_id(q);
		call->body = frame->body_case;
		call->fn = fn;
		call->user = user;
		frame->has_id = true;
		frame->id = call->id;
		r = conn_send(q, frame, fds);
		if (r < 0)
			error_set(q, r, r == -EMSGSIZE ? EXIT_USAGE : error_class_of(r),
			          "the request could not be sent: %s",
			          r == -EMSGSIZE
			                  ? "its names and options are longer than 64 KiB together"
			                  : strerror(-r));
	} else if (r == 0) {
		r = error_set(q, -ENOMEM, EXIT_FAILED, "no memory for the request");
	}
	frame_fds_deinit(fds);
	if (r < 0) {
		mem_free(call);
		return r;
	}
	list_append(&q->calls, &call->link);
	return call->id;
}

static int64_t submit_plain(struct qllm *q, Qllm__Frame *frame, qllm_event_fn fn, void *user)
{
	struct frame_fds none = { 0 };

	return submit(q, frame, &none, fn, user);
}

/* blob_put with the failure told; the fds so far are freed then. */
static int put(struct qllm *q, Qllm__Blob *blob, const void *p, size_t n, struct frame_fds *fds)
{
	int r = blob_put(blob, p, n, fds);

	if (r < 0) {
		error_set(q, r, EXIT_FAILED, "%zu bytes do not fit a memory file: %s", n,
		          strerror(-r));
		frame_fds_deinit(fds);
	}
	return r;
}

int call_list_more(struct qllm *q, struct call *call, const char *after)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__List list = QLLM__LIST__INIT;
	Qllm__Ps ps = QLLM__PS__INIT;

	frame.has_id = true;
	frame.id = call->id;
	frame.body_case = call->body;
	list.after = ps.after = str(after);
	if (call->body == QLLM__FRAME__BODY_LIST)
		frame.list = &list;
	else
		frame.ps = &ps;
	return conn_send(q, &frame, NULL);
}

int64_t qllm_status(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Status m = QLLM__STATUS__INIT;

	frame.body_case = QLLM__FRAME__BODY_STATUS;
	frame.status = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_list(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__List m = QLLM__LIST__INIT;

	frame.body_case = QLLM__FRAME__BODY_LIST;
	frame.list = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_ps(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Ps m = QLLM__PS__INIT;

	frame.body_case = QLLM__FRAME__BODY_PS;
	frame.ps = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_import(struct qllm *q, const struct qllm_import_args *args, qllm_event_fn fn,
                    void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Import m = QLLM__IMPORT__INIT;
	struct frame_fds fds = { 0 };
	struct qllm_import_args a;
	int fd, r = args_copy(q, &a, sizeof(a), args);

	if (r < 0)
		return r;
	fd = dup(a.fd);
	r = fd < 0 ? -errno : frame_fds_add(&fds, fd);
	if (r < 0)
		return error_set(q, r, EXIT_FAILED, "the model's descriptor cannot be passed: %s",
		                 strerror(-r));
	m.name = str(a.name);
	m.path = str(a.path);
	m.has_shared = m.has_in_place = m.has_detach = true;
	m.shared = a.shared;
	m.in_place = a.in_place;
	m.detach = a.detach;
	frame.body_case = QLLM__FRAME__BODY_IMPORT;
	frame.import = &m;
	return submit(q, &frame, &fds, fn, user);
}

int64_t qllm_remove(struct qllm *q, const char *model, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Remove m = QLLM__REMOVE__INIT;

	m.model = str(model);
	frame.body_case = QLLM__FRAME__BODY_REMOVE;
	frame.remove = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_show(struct qllm *q, const char *model, enum qllm_show_what what, qllm_event_fn fn,
                  void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Show m = QLLM__SHOW__INIT;

	m.model = str(model);
	m.has_what = true;
	m.what = (Qllm__ShowWhat)what;
	frame.body_case = QLLM__FRAME__BODY_SHOW;
	frame.show = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_export(struct qllm *q, const char *model, int fd, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Export m = QLLM__EXPORT__INIT;
	struct frame_fds fds = { 0 };
	int own = dup(fd), r = own < 0 ? -errno : frame_fds_add(&fds, own);

	if (r < 0)
		return error_set(q, r, EXIT_FAILED, "the file's descriptor cannot be passed: %s",
		                 strerror(-r));
	m.model = str(model);
	frame.body_case = QLLM__FRAME__BODY_EXPORT;
	frame.export = &m;
	return submit(q, &frame, &fds, fn, user);
}

static int64_t verify(struct qllm *q, const char *model, bool start, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Verify m = QLLM__VERIFY__INIT;

	m.model = str(model);
	m.has_detach = true;
	m.detach = start;
	frame.body_case = QLLM__FRAME__BODY_VERIFY;
	frame.verify = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_verify(struct qllm *q, const char *model, qllm_event_fn fn, void *user)
{
	return verify(q, model, false, fn, user);
}

int64_t qllm_verify_start(struct qllm *q, const char *model, qllm_event_fn fn, void *user)
{
	return verify(q, model, true, fn, user);
}

int call_jobs_more(struct qllm *q, const struct call *call, uint64_t after)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__JobList m = QLLM__JOB_LIST__INIT;

	frame.has_id = m.has_after = true;
	frame.id = call->id;
	m.after = after;
	frame.body_case = QLLM__FRAME__BODY_JOB_LIST;
	frame.job_list = &m;
	return conn_send(q, &frame, NULL);
}

int64_t qllm_job_list(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__JobList m = QLLM__JOB_LIST__INIT;

	frame.body_case = QLLM__FRAME__BODY_JOB_LIST;
	frame.job_list = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_job_do(struct qllm *q, uint64_t job, enum qllm_job_verb verb, qllm_event_fn fn,
                    void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__JobDo m = QLLM__JOB_DO__INIT;

	m.has_job = m.has_verb = true;
	m.job = job;
	m.verb = (Qllm__JobVerb)verb;
	frame.body_case = QLLM__FRAME__BODY_JOB_DO;
	frame.job_do = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_job_log(struct qllm *q, uint64_t job, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__JobLog m = QLLM__JOB_LOG__INIT;

	m.has_job = true;
	m.job = job;
	frame.body_case = QLLM__FRAME__BODY_JOB_LOG;
	frame.job_log = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_estimate(struct qllm *q, const struct qllm_estimate_args *args, qllm_event_fn fn,
                      void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Estimate m = QLLM__ESTIMATE__INIT;
	struct qllm_estimate_args a;
	int r = args_copy(q, &a, sizeof(a), args);

	if (r < 0)
		return r;
	m.model = str(a.model);
	m.kv = str(a.kv);
	m.has_ctx = m.has_slots = true;
	m.ctx = a.ctx;
	m.slots = a.slots ? a.slots : 1;
	frame.body_case = QLLM__FRAME__BODY_ESTIMATE;
	frame.estimate = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_load(struct qllm *q, const struct qllm_load_args *args, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Load m = QLLM__LOAD__INIT;
	struct qllm_load_args a;
	int r = args_copy(q, &a, sizeof(a), args);

	if (r < 0)
		return r;
	m.model = str(a.model);
	m.kv = str(a.kv);
	m.has_ctx = m.has_pin = true;
	m.ctx = a.ctx;
	m.pin = a.pin;
	frame.body_case = QLLM__FRAME__BODY_LOAD;
	frame.load = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_unload(struct qllm *q, const char *model, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Unload m = QLLM__UNLOAD__INIT;

	m.model = str(model);
	frame.body_case = QLLM__FRAME__BODY_UNLOAD;
	frame.unload = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_tokenize(struct qllm *q, const char *model, const void *text, size_t n, unsigned flags,
                      qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Tokenize m = QLLM__TOKENIZE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct frame_fds fds = { 0 };
	int r = put(q, &blob, text, n, &fds);

	if (r < 0)
		return r;
	m.model = str(model);
	m.text = &blob;
	m.has_no_bos = m.has_no_special = true;
	m.no_bos = (flags & QLLM_NO_BOS) != 0;
	m.no_special = (flags & QLLM_NO_SPECIAL) != 0;
	frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
	frame.tokenize = &m;
	return submit(q, &frame, &fds, fn, user);
}

int64_t qllm_detokenize(struct qllm *q, const char *model, const int32_t *ids, size_t n,
                        qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Detokenize m = QLLM__DETOKENIZE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct frame_fds fds = { 0 };
	int r = put(q, &blob, ids, n * sizeof(*ids), &fds);

	if (r < 0)
		return r;
	m.model = str(model);
	m.tokens = &blob;
	frame.body_case = QLLM__FRAME__BODY_DETOKENIZE;
	frame.detokenize = &m;
	return submit(q, &frame, &fds, fn, user);
}

int64_t qllm_template(struct qllm *q, const char *model, const char *messages, const char *tools,
                      qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Template m = QLLM__TEMPLATE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT, blob_tools = QLLM__BLOB__INIT;
	struct frame_fds fds = { 0 };
	int r = put(q, &blob, messages, strlen(messages), &fds);

	if (r == 0 && tools)
		r = put(q, &blob_tools, tools, strlen(tools), &fds);
	if (r < 0)
		return r;
	m.model = str(model);
	m.messages = &blob;
	m.tools = tools ? &blob_tools : NULL;
	frame.body_case = QLLM__FRAME__BODY_TEMPLATE;
	frame.template_ = &m;
	return submit(q, &frame, &fds, fn, user);
}

/* Fields that were not given stay absent: the daemon's defaults are the only ones. bias: a.n_bias
 * rows of scratch. */
static void fill_sampling(Qllm__Sampling *s, const struct qllm_generate_args *a,
                          Qllm__LogitBias *bias, Qllm__LogitBias **bias_ptr)
{
	s->has_temp = (a->given & QLLM_TEMP) != 0;
	s->temp = a->temp;
	s->has_top_k = (a->given & QLLM_TOP_K) != 0;
	s->top_k = a->top_k;
	s->has_top_p = (a->given & QLLM_TOP_P) != 0;
	s->top_p = a->top_p;
	s->has_min_p = (a->given & QLLM_MIN_P) != 0;
	s->min_p = a->min_p;
	s->has_typical_p = (a->given & QLLM_TYPICAL_P) != 0;
	s->typical_p = a->typical_p;
	s->has_repeat_penalty = (a->given & QLLM_REPEAT_PENALTY) != 0;
	s->repeat_penalty = a->repeat_penalty;
	s->has_presence_penalty = (a->given & QLLM_PRESENCE_PENALTY) != 0;
	s->presence_penalty = a->presence_penalty;
	s->has_frequency_penalty = (a->given & QLLM_FREQUENCY_PENALTY) != 0;
	s->frequency_penalty = a->frequency_penalty;
	s->has_seed = (a->given & QLLM_SEED) != 0;
	s->seed = a->seed;
	s->has_logprobs = a->logprobs > 0;
	s->logprobs = a->logprobs;
	for (size_t i = 0; i < a->n_bias; i++) {
		qllm__logit_bias__init(&bias[i]);
		bias[i].has_id = bias[i].has_bias = true;
		bias[i].id = a->bias[i].id;
		bias[i].bias = a->bias[i].bias;
		bias_ptr[i] = &bias[i];
	}
	s->bias = bias_ptr;
	s->n_bias = a->n_bias;
}

static int put_generate(struct qllm *q, Qllm__Generate *m, const struct qllm_generate_args *a,
                        Qllm__Blob blobs[2], struct frame_fds *fds)
{
	int r;

	if (!!a->prompt + !!a->messages + !!a->tokens != 1)
		return error_set(q, -EINVAL, EXIT_USAGE,
		                 "a generation wants exactly one of prompt, messages and tokens");
	qllm__blob__init(&blobs[0]);
	qllm__blob__init(&blobs[1]);
	if (a->prompt) {
		r = put(q, &blobs[0], a->prompt, a->n_prompt, fds);
		m->prompt = &blobs[0];
	} else if (a->messages) {
		r = put(q, &blobs[0], a->messages, strlen(a->messages), fds);
		m->messages = &blobs[0];
	} else {
		r = put(q, &blobs[0], a->tokens, a->n_tokens * sizeof(*a->tokens), fds);
		m->tokens = &blobs[0];
	}
	if (r == 0 && a->tools) {
		r = put(q, &blobs[1], a->tools, strlen(a->tools), fds);
		m->tools = &blobs[1];
	}
	return r;
}

int64_t qllm_generate(struct qllm *q, const struct qllm_generate_args *args, qllm_event_fn fn,
                      void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Generate m = QLLM__GENERATE__INIT;
	Qllm__Sampling sampling = QLLM__SAMPLING__INIT;
	Qllm__Blob blobs[2];
	_cleanup_mem_ Qllm__LogitBias *bias = NULL;
	_cleanup_mem_ Qllm__LogitBias **bias_ptr = NULL;
	_cleanup_mem_ ProtobufCBinaryData *stop = NULL;
	struct frame_fds fds = { 0 };
	struct qllm_generate_args a;
	int r = args_copy(q, &a, sizeof(a), args);

	if (r < 0)
		return r;
	bias = mem_allocn(a.n_bias + 1, sizeof(*bias));
	bias_ptr = mem_allocn(a.n_bias + 1, sizeof(*bias_ptr));
	stop = mem_allocn(a.n_stop + 1, sizeof(*stop));
	if (!bias || !bias_ptr || !stop)
		return error_set(q, -ENOMEM, EXIT_FAILED, "no memory for the request");
	r = put_generate(q, &m, &a, blobs, &fds);
	if (r < 0)
		return r;
	for (size_t i = 0; i < a.n_stop; i++)
		stop[i] = (ProtobufCBinaryData){ a.stop[i].n, (uint8_t *)(uintptr_t)a.stop[i].p };
	fill_sampling(&sampling, &a, bias, bias_ptr);
	m.model = str(a.model);
	m.system = str(a.system);
	m.has_raw = m.has_max_tokens = m.has_ignore_eos = m.has_special = m.has_batch = true;
	m.has_no_cache = true;
	m.no_cache = a.no_cache != 0;
	m.raw = a.raw != 0;
	m.max_tokens = a.max_tokens;
	m.ignore_eos = a.ignore_eos != 0;
	m.special = a.special != 0;
	m.batch = a.batch != 0;
	m.has_lookup = a.lookup != 0;
	m.lookup = a.lookup > 0;
	m.draft = a.draft ? str(a.draft) : NULL;
	m.sampling = &sampling;
	m.stop = stop;
	m.n_stop = a.n_stop;
	frame.body_case = QLLM__FRAME__BODY_GENERATE;
	frame.generate = &m;
	return submit(q, &frame, &fds, fn, user);
}

int64_t qllm_logits(struct qllm *q, const char *model, const int32_t *tokens, size_t n,
                    uint32_t n_prompt, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Logits m = QLLM__LOGITS__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct frame_fds fds = { 0 };
	int r = put(q, &blob, tokens, n * sizeof(*tokens), &fds);

	if (r < 0)
		return r;
	m.model = str(model);
	m.tokens = &blob;
	m.has_exact = m.exact = n_prompt == QLLM_EXACT;
	m.has_n_prompt = !m.exact;
	m.n_prompt = n_prompt;
	frame.body_case = QLLM__FRAME__BODY_LOGITS;
	frame.logits = &m;
	return submit(q, &frame, &fds, fn, user);
}

int64_t qllm_eval(struct qllm *q, const struct qllm_eval_args *args, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Eval m = QLLM__EVAL__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct frame_fds fds = { 0 };
	struct qllm_eval_args a;
	int r = args_copy(q, &a, sizeof(a), args);

	if (r == 0)
		r = put(q, &blob, a.text, a.n_text, &fds);
	if (r < 0)
		return r;
	m.model = str(a.model);
	m.text = &blob;
	m.has_ctx = a.ctx > 0;
	m.ctx = a.ctx;
	m.has_chunks = true;
	m.chunks = a.chunks;
	m.protocol = str(a.protocol);
	m.ref = str(a.ref);
	m.kv = str(a.kv);
	frame.body_case = QLLM__FRAME__BODY_EVAL;
	frame.eval = &m;
	return submit(q, &frame, &fds, fn, user);
}

int64_t qllm_bench_read(struct qllm *q, const char *model, uint32_t steps, qllm_event_fn fn,
                        void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__BenchRead m = QLLM__BENCH_READ__INIT;

	m.model = str(model);
	m.has_steps = true;
	m.steps = steps;
	frame.body_case = QLLM__FRAME__BODY_BENCH_READ;
	frame.bench_read = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_clients(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Clients m = QLLM__CLIENTS__INIT;

	frame.body_case = QLLM__FRAME__BODY_CLIENTS;
	frame.clients = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_kick(struct qllm *q, uint64_t client, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Kick m = QLLM__KICK__INIT;

	m.has_client = true;
	m.client = client;
	frame.body_case = QLLM__FRAME__BODY_KICK;
	frame.kick = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_kick_user(struct qllm *q, uint32_t uid, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Kick m = QLLM__KICK__INIT;

	m.has_uid = true;
	m.uid = uid;
	frame.body_case = QLLM__FRAME__BODY_KICK;
	frame.kick = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_limit(struct qllm *q, uint32_t uid, const char *const *settings, size_t n,
                   qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Limit m = QLLM__LIMIT__INIT;

	m.has_uid = true;
	m.uid = uid;
	m.n_settings = n;
	m.settings = (char **)(uintptr_t)settings;
	frame.body_case = QLLM__FRAME__BODY_LIMIT;
	frame.limit = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_config(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Config m = QLLM__CONFIG__INIT;

	frame.body_case = QLLM__FRAME__BODY_CONFIG;
	frame.config = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_metrics(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Metrics m = QLLM__METRICS__INIT;

	frame.body_case = QLLM__FRAME__BODY_METRICS;
	frame.metrics = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_activity(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Activity m = QLLM__ACTIVITY__INIT;

	frame.body_case = QLLM__FRAME__BODY_ACTIVITY;
	frame.activity = &m;
	return submit_plain(q, &frame, fn, user);
}

int64_t qllm_monitor(struct qllm *q, qllm_event_fn fn, void *user)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Monitor m = QLLM__MONITOR__INIT;

	frame.body_case = QLLM__FRAME__BODY_MONITOR;
	frame.monitor = &m;
	return submit_plain(q, &frame, fn, user);
}

static void complete_event(void *user, const struct qllm_event *ev)
{
	struct sbuf *text = user;

	/* a failed append leaves the text short; it shows as a missing p at the end */
	if (ev->type == QLLM_EVENT_TOKEN && text->max == 0 &&
	    sbuf_append(text, ev->token->text, ev->token->n_text) < 0)
		text->max = 1;
}

int qllm_complete(struct qllm *q, const struct qllm_generate_args *args, char **ret, size_t *ret_n)
{
	struct sbuf text = { 0 };
	size_t n;
	char *p;
	int64_t id = qllm_generate(q, args, complete_event, &text);
	int r = id < 0 ? (int)id : qllm_wait(q, id, -1);

	if (r == -EINTR) {
		/* the request would write into our frame */
		(void)qllm_cancel(q, id);
		while (qllm_wait(q, id, -1) == -EINTR)
			;
	}
	n = text.n;
	p = r == 0 && text.max == 0 ? sbuf_steal(&text) : NULL;
	sbuf_deinit(&text);
	if (r < 0)
		return r;
	if (!p)
		return error_set(q, -ENOMEM, EXIT_FAILED, "no memory for the text");
	*ret = p;
	if (ret_n)
		*ret_n = n;
	return 0;
}

void qllm_text_free(char *text)
{
	mem_free(text);
}
