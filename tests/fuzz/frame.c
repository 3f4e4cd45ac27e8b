/* frame - a script of datagrams, [descriptors 1][length 2][bytes] each, sent by a client that has
 * said Hello (first byte odd: that has not) to a whole daemon in this process; first, each of them
 * goes through frame_parse in every direction, and what is accepted is sent on by frame_send and
 * must arrive as it left, large arguments and descriptors with it. The daemon must still answer,
 * and when the client has hung up all its requests must end. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/fd.h"
#include "base/num.h"
#include "daemon/user.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/inproc.h"

const char fuzz_name[] = "frame";
enum { FRAMES_MAX = 24, WAIT_MS = 30000, TIDY_EVERY = 64, FD_KINDS = 6 };

static int control = -1, pair[2] = { -1, -1 };
static uint32_t control_id = 10;
/* what the input asked for, that lasts beyond its connection */
static bool kicked, limited;

/* --- the daemon and its state ----------------------------------------------------------------- */

static void remove_files(void)
{
	inproc_remove_files();
}

/* The input may have had the good client disconnected, which it may: then by a new connection. */
static void ask(Qllm__Frame *frame, struct frame_in *ret)
{
	int r = inproc_ask(control, frame, ++control_id, NULL, 0, ret, WAIT_MS);

	if (r < 0 && r != -ETIMEDOUT && kicked) {
		kicked = false;
		close(control);
		control = inproc_join(WAIT_MS);
		r = inproc_ask(control, frame, ++control_id, NULL, 0, ret, WAIT_MS);
	}
	FUZZ_CHECK(r == 0, "a good client gets no answer: %s", strerror(-r));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	inproc_start(false);
	atexit(remove_files);
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "no pair");
	control = inproc_join(WAIT_MS);
	FUZZ_CHECK(control >= 0, "no connection");
	FUZZ_CHECK(inproc_import(control, ++control_id, "tiny", WAIT_MS) == 0, "import");
	return 0;
}

/* Wait until nothing is left of the client that has gone. */
static void settle(void)
{
	for (unsigned i = 0; i < WAIT_MS; i++) {
		Qllm__Frame frame = QLLM__FRAME__INIT;
		Qllm__Status status = QLLM__STATUS__INIT;
		struct frame_in f;
		uint32_t busy;

		frame.body_case = QLLM__FRAME__BODY_STATUS;
		frame.status = &status;
		ask(&frame, &f);
		FUZZ_CHECK(f.frame->body_case == QLLM__FRAME__BODY_STATUS_REPLY, "no status");
		busy = f.frame->status_reply->connections - 1 + f.frame->status_reply->running +
		       f.frame->status_reply->waiting;
		inproc_done(&f);
		if (busy == 0)
			return;
		usleep(i < 100 ? 100 : 1000);
	}
	FUZZ_CHECK(false, "requests of a client that has gone do not end");
}

/* Models that inputs imported go; the tiny one comes back if it was removed. */
static void tidy(void)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__List list = QLLM__LIST__INIT;
	struct frame_in f, done;
	bool tiny = false;

	frame.body_case = QLLM__FRAME__BODY_LIST;
	frame.list = &list;
	ask(&frame, &f);
	for (size_t i = 0; f.frame->body_case == QLLM__FRAME__BODY_LIST_REPLY &&
	                   i < f.frame->list_reply->n_models; i++) {
		Qllm__Remove rm = QLLM__REMOVE__INIT;

		rm.model = f.frame->list_reply->models[i]->name;
		if (strcmp(rm.model, "tiny") == 0) {
			tiny = true;
			continue;
		}
		qllm__frame__init(&frame);
		frame.body_case = QLLM__FRAME__BODY_REMOVE;
		frame.remove = &rm;
		ask(&frame, &done);
		inproc_done(&done);
	}
	inproc_done(&f);
	if (!tiny)
		(void)inproc_import(control, ++control_id, "tiny", WAIT_MS);
}

static void reset_limits(void)
{
	static char settings[LIMIT_KINDS][64];
	static char *list[LIMIT_KINDS];
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Limit limit = QLLM__LIMIT__INIT;
	struct frame_in f;

	for (unsigned i = 0; i < LIMIT_KINDS; i++) {
		snprintf(settings[i], sizeof(settings[i]), "%s=default", user_limit_name(i));
		list[i] = settings[i];
	}
	limit.has_uid = true;
	limit.uid = geteuid();
	limit.settings = list;
	limit.n_settings = LIMIT_KINDS;
	frame.body_case = QLLM__FRAME__BODY_LIMIT;
	frame.limit = &limit;
	ask(&frame, &f);
	FUZZ_CHECK(f.frame->body_case == QLLM__FRAME__BODY_OK, "limits are not reset");
	inproc_done(&f);
	limited = false;
}

/* --- one input -------------------------------------------------------------------------------- */

static int sealed(const char *text, size_t n)
{
	return fd_memfd_from("blob", text, n);
}

static int make_fd(unsigned kind)
{
	static const char talk[] = "[{\"role\":\"user\",\"content\":\"hello\"}]";
	static const int32_t ids[] = { 5, 6, 7, 300 };
	int fds[2] = { -1, -1 };

	switch (kind % FD_KINDS) {
	case 0:
		return open(inproc_model, O_RDONLY | O_CLOEXEC);
	case 1:
		return sealed(talk, sizeof(talk) - 1);
	case 2:
		return sealed((const char *)ids, sizeof(ids));
	case 3:
		return memfd_create("unsealed", MFD_CLOEXEC);
	case 4:
		if (pipe2(fds, O_CLOEXEC) == 0)
			close(fds[1]);
		return fds[0];
	default:
		return open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
}

/* --- sending ---------------------------------------------------------------------------------- */

/* Through the pair: what comes out is what went in. */
static void relay(const Qllm__Frame *frame, const struct frame_fds *fds, enum msg_dir dir,
                  struct frame_in *ret)
{
	static uint8_t buf[FRAME_MAX + 1];
	struct err err = { 0 };
	uint8_t *sent, *got;
	size_t n_sent, n_got;
	int r = frame_send(pair[0], frame, fds, MSG_DONTWAIT);

	FUZZ_CHECK(r == 0, "frame_send: %s", strerror(-r));
	r = frame_recv(ret, pair[1], dir, MSG_DONTWAIT, buf, &err);
	FUZZ_CHECK(r == 0, "%d %s", r, err.text);
	FUZZ_CHECK(ret->fds.n == fds->n, "%u descriptors of %u", ret->fds.n, fds->n);
	FUZZ_CHECK(frame_pack(frame, &sent, &n_sent) == 0 &&
	                   frame_pack(ret->frame, &got, &n_got) == 0, "it cannot be packed");
	FUZZ_CHECK(n_sent == n_got && memcmp(sent, got, n_sent) == 0, "%s changed",
	           ret->info->name);
	mem_free(sent);
	mem_free(got);
}

/* What was accepted goes on, with as many descriptors as are due. */
static void send_on(const struct frame_in *f, enum msg_dir dir, size_t n)
{
	struct frame_fds fds = { .n = 0 };
	struct frame_in got;

	if (n > f->info->size_max)
		return;
	while (fds.n < f->info->fds_min)
		FUZZ_CHECK(frame_fds_add(&fds, make_fd(fds.n)) == 0, "no room");
	relay(f->frame, &fds, dir, &got);
	inproc_done(&got);
	frame_fds_deinit(&fds);
}

/* The bytes as an argument, within the frame or beside it, and more of them than a frame has
 * descriptors for. */
static void send_blobs(const uint8_t *p, size_t n)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Tokenize ask = QLLM__TOKENIZE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT, more = QLLM__BLOB__INIT;
	struct frame_fds fds = { .inlined = n % 2 ? FRAME_INLINE_MAX : 0 };
	struct err err = { 0 };
	struct frame_in got;
	char *text;
	size_t n_text;
	int r;

	FUZZ_CHECK(blob_put(&blob, p, n, &fds) == 0, "blob_put");
	frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
	frame.tokenize = &ask;
	ask.text = &blob;
	relay(&frame, &fds, MSG_TO_DAEMON, &got);
	r = blob_get(got.frame->tokenize->text, &got, n, &text, &n_text, &err);
	FUZZ_CHECK(r == 0, "blob_get: %s", err.text);
	FUZZ_CHECK(n_text == n && text[n] == 0 && (n == 0 || memcmp(text, p, n) == 0),
	           "the argument changed");
	mem_free(text);
	if (n > 0)
		FUZZ_CHECK(blob_get(got.frame->tokenize->text, &got, n - 1, &text, &n_text,
		                    &err) == -E2BIG, "longer than allowed");
	inproc_done(&got);
	fds.inlined = FRAME_INLINE_MAX;
	while ((r = blob_put(&more, "more", 4, &fds)) == 0)
		;
	FUZZ_CHECK(r == -E2BIG && fds.n == FRAME_FDS_MAX, "%d, %u descriptors", r, fds.n);
	frame_fds_deinit(&fds);
}

/* A descriptor of any kind that claims to hold n bytes: refused with a sentence, or read whole. */
static void send_false_blob(size_t n, unsigned kind)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Tokenize ask = QLLM__TOKENIZE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT;
	struct frame_fds fds = { .n = 0 };
	struct err err = { 0 };
	struct frame_in got;
	char *text;
	size_t n_text;
	int r;

	FUZZ_CHECK(frame_fds_add(&fds, make_fd(kind)) == 0, "no room");
	blob.has_size = blob.has_fd = true;
	blob.size = n;
	frame.body_case = QLLM__FRAME__BODY_TOKENIZE;
	frame.tokenize = &ask;
	ask.text = &blob;
	relay(&frame, &fds, MSG_TO_DAEMON, &got);
	r = blob_get(got.frame->tokenize->text, &got, FRAME_MAX, &text, &n_text, &err);
	FUZZ_CHECK(r == 0 || (r == -EPROTO && err.text[0]), "%d %s", r, err.text);
	FUZZ_CHECK(r != 0 || (n_text == n && text[n] == 0), "%zu bytes", n_text);
	if (r == 0)
		mem_free(text);
	inproc_done(&got);
	frame_fds_deinit(&fds);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Is there an unknown field of number 0 in it? No schema can have one; the library takes it where
 * the number is written longer than it need be, and does not take what it then packs itself. */
static bool has_field_zero(const ProtobufCMessage *m)
{
	const ProtobufCMessageDescriptor *d = m->descriptor;
	const uint8_t *base = (const uint8_t *)m;

	for (unsigned i = 0; i < m->n_unknown_fields; i++)
		if (m->unknown_fields[i].tag == 0)
			return true;
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		const uint8_t *at = base + f->offset;
		ProtobufCMessage *const *subs = (ProtobufCMessage *const *)at;
		size_t n = 1;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			n = *(const size_t *)(base + f->quantifier_offset);
			subs = *(ProtobufCMessage *const *const *)at;
		} else if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
			n = *(const uint32_t *)(base + f->quantifier_offset) == f->id;
		}
		for (size_t k = 0; k < n; k++)
			if (subs[k] && has_field_zero(subs[k]))
				return true;
	}
	return false;
}

static void parse_alone(const uint8_t *p, size_t n)
{
	static const enum msg_dir dirs[] = { MSG_TO_DAEMON, MSG_TO_CLIENT, MSG_TO_WORKER,
		                             MSG_FROM_WORKER };

	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
		struct err err = { 0 };
		struct frame_in f;
		uint8_t *again;
		size_t n_again;
		int r;

		r = frame_parse(&f, p, n, NULL, dirs[i], &err);
		FUZZ_CHECK(r != -EPROTO || err.text[0], "no sentence");
		if (r < 0)
			continue;
		kicked |= f.frame->body_case == QLLM__FRAME__BODY_KICK;
		limited |= f.frame->body_case == QLLM__FRAME__BODY_LIMIT;
		r = frame_pack(f.frame, &again, &n_again);
		FUZZ_CHECK(r == 0 || r == -EMSGSIZE, "%s", strerror(-r));
		if (r == 0) {
			mem_free(again);
			if (f.info && f.info->fds_min == 0 && !has_field_zero(&f.frame->base))
				send_on(&f, dirs[i], n_again);
		}
		inproc_done(&f);
	}
}

static void send_script(int sock, struct fuzz_in *in)
{
	for (unsigned i = 0; i < FRAMES_MAX && fuzz_more(in); i++) {
		uint8_t what = fuzz_u8(in);
		size_t n = fuzz_u8(in);
		int fds[4];
		unsigned n_fds = what % 5;

		n |= (size_t)fuzz_u8(in) << 8;
		n = MIN(n, in->n);
		parse_alone(in->p, n);
		send_blobs(in->p, n);
		send_false_blob(n, what);
		for (unsigned k = 0; k < n_fds; k++)
			fds[k] = make_fd(what / 5 + k);
		(void)fd_sendmsg(sock, in->p, n, fds, n_fds, MSG_DONTWAIT);
		for (unsigned k = 0; k < n_fds; k++)
			close(fds[k]);
		in->p += n;
		in->n -= n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static unsigned count;
	struct fuzz_in in = { p, n };
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Version version = QLLM__VERSION__INIT;
	struct frame_in f;
	int sock, r;

	if (n < 4 || n > 1 << 17)
		return 0;
	sock = fuzz_u8(&in) & 1 ? inproc_dial() : inproc_join(WAIT_MS);
	FUZZ_CHECK(sock >= 0, "the daemon takes no connection");
	send_script(sock, &in);
	/* Whatever came, it was read when this is answered, or the connection is closed. */
	frame.body_case = QLLM__FRAME__BODY_VERSION;
	frame.version = &version;
	r = inproc_ask(sock, &frame, UINT32_MAX - 7, NULL, 0, &f, WAIT_MS);
	FUZZ_CHECK(r != -ETIMEDOUT, "no answer");
	if (r == 0)
		inproc_done(&f);
	close(sock);
	if (limited)
		reset_limits();
	settle();
	kicked = false;
	if (++count % TIDY_EVERY == 0)
		tidy();
	return 0;
}

/* --- mutation by the message's own description ------------------------------------------------ */

static uint64_t any_number(unsigned *seed)
{
	static const uint64_t values[] = { 0,     1,          2,          3,         4,
		                           7,     16,         63,         64,        127,
		                           128,   129,        319,        320,       512,
		                           4096,  65535,      1u << 31,   INT32_MAX, UINT32_MAX,
		                           1u << 20, 1ull << 32, 1ull << 63, INT64_MAX,
		                           UINT64_MAX };

	return values[fuzz_next(seed) % ARRAY_SIZE(values)];
}

static double any_float(unsigned *seed)
{
	static const double values[] = { 0,    1,    0.5, 0.95,     -1, 1e-9,
		                         1e30, -0.0, NAN, INFINITY, 2 };

	return values[fuzz_next(seed) % ARRAY_SIZE(values)];
}

static char *any_string(unsigned *seed)
{
	static const char *const values[] = { "tiny", "tiny",  "tiny", "",     "f16",
		                              "hf",   "other", "../x", "/tmp", "llama.cpp",
		                              "kv8",  "a b",   "\xff", "tiny\n",
		                              "connections_per_uid=1", "tokens_per_uid=7",
		                              "fds_per_uid=default" };

	return (char *)(uintptr_t)values[fuzz_next(seed) % ARRAY_SIZE(values)];
}

static ProtobufCBinaryData any_bytes(unsigned *seed)
{
	static const int32_t ids[] = { 3, 4, 5, 319, 320, -1 };
	static const char *const texts[] = {
		"hello there", "", "[{\"role\":\"user\",\"content\":\"hi\"}]", "[]", "[{}]",
		"\xff\xfe",
		"[{\"role\":1}]", "{", "[1,", "a longer text that has a few more words in it",
	};
	unsigned i = fuzz_next(seed) % (ARRAY_SIZE(texts) + 3);
	ProtobufCBinaryData b;

	if (i >= ARRAY_SIZE(texts)) {
		b.data = (uint8_t *)(uintptr_t)ids;
		b.len = sizeof(ids[0]) * (1 + fuzz_next(seed) % ARRAY_SIZE(ids));
	} else {
		b.data = (uint8_t *)(uintptr_t)texts[i];
		b.len = strlen(texts[i]);
	}
	return b;
}

static void set_any(struct arena *a, ProtobufCMessage *m, unsigned *seed);

/* A value of that field's type at `at`. */
static void set_value(struct arena *a, const ProtobufCFieldDescriptor *f, void *at,
                      unsigned *seed)
{
	uint64_t v = any_number(seed);
	double d = any_float(seed);
	float single = (float)d;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)at = any_string(seed);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		*(ProtobufCBinaryData *)at = any_bytes(seed);
		break;
	case PROTOBUF_C_TYPE_MESSAGE: {
		const ProtobufCMessageDescriptor *desc = f->descriptor;
		ProtobufCMessage *m = *(ProtobufCMessage **)at;

		if (!m) {
			m = arena_alloc(a, desc->sizeof_message);
			if (!m)
				return;
			protobuf_c_message_init(desc, m);
			*(ProtobufCMessage **)at = m;
		}
		set_any(a, m, seed);
		break;
	}
	case PROTOBUF_C_TYPE_FLOAT:
		memcpy(at, &single, sizeof(single));
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		memcpy(at, &d, sizeof(d));
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)at = v & 1;
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_INT64:
		memcpy(at, &v, sizeof(v));
		break;
	default:
		memcpy(at, &v, sizeof(uint32_t));
	}
}

static void set_any(struct arena *a, ProtobufCMessage *m, unsigned *seed)
{
	const ProtobufCMessageDescriptor *desc = m->descriptor;
	const ProtobufCFieldDescriptor *f;
	char *base = (char *)m;

	if (desc->n_fields == 0)
		return;
	f = &desc->fields[fuzz_next(seed) % desc->n_fields];
	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		size_t n = 1 + fuzz_next(seed) % 4;
		void *list = arena_alloc(a, n * sizeof(ProtobufCBinaryData));

		if (!list ||
		    (f->type != PROTOBUF_C_TYPE_BYTES && f->type != PROTOBUF_C_TYPE_MESSAGE &&
		     f->type != PROTOBUF_C_TYPE_STRING))
			return;
		for (size_t i = 0; i < n; i++)
			set_value(a, f, (char *)list + i * (f->type == PROTOBUF_C_TYPE_BYTES
			                                            ? sizeof(ProtobufCBinaryData)
			                                            : sizeof(void *)), seed);
		*(void **)(base + f->offset) = list;
		*(size_t *)(base + f->quantifier_offset) = n;
		return;
	}
	if (f->quantifier_offset)
		*(protobuf_c_boolean *)(base + f->quantifier_offset) = true;
	set_value(a, f, base + f->offset, seed);
}

struct script {                         /* where its frames stand in the input */
	size_t at[FRAMES_MAX], len[FRAMES_MAX];
	unsigned n;
};

static void *from_arena(void *a, size_t n)
{
	return arena_alloc(a, n);
}
static void to_arena(void *a, void *p)
{
	(void)a;
	(void)p;
}

/* Put head and bytes in the place of [at, at + len). */
static size_t put(uint8_t *p, size_t n, size_t max, size_t at, size_t len, uint8_t what,
                  const uint8_t *body, size_t n_body)
{
	if (n - len + 3 + n_body > max || n_body > UINT16_MAX)
		return n;
	memmove(p + at + 3 + n_body, p + at + len, n - at - len);
	p[at] = what;
	p[at + 1] = (uint8_t)n_body;
	p[at + 2] = (uint8_t)(n_body >> 8);
	memcpy(p + at + 3, body, n_body);
	return n - len + 3 + n_body;
}

static const struct msg_info *any_request(unsigned *seed)
{
	const struct msg_info *info;

	do
		info = msg_at(fuzz_next(seed) % 64);
	while (!info || !(info->dirs & MSG_TO_DAEMON));
	return info;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
	struct arena a = { .max = 1 << 20 };
	ProtobufCAllocator alloc = { from_arena, to_arena, &a };
	struct script s = { .n = 0 };
	Qllm__Frame *frame = NULL, fresh = QLLM__FRAME__INIT;
	unsigned i, times;
	uint8_t *body, what = 0;
	size_t n_body, at, len = 0;

	if (fuzz_next(&seed) % 4 == 0 && LLVMFuzzerMutate && n > 0)
		return LLVMFuzzerMutate(p, n, max);
	if (n == 0)
		p[n++] = 0;
	for (at = 1; at + 3 <= n && s.n < FRAMES_MAX; at += s.len[s.n++]) {
		s.at[s.n] = at;
		s.len[s.n] = MIN(3 + (size_t)(p[at + 1] | p[at + 2] << 8), n - at);
	}
	at = MIN(at, n);
	if (s.n > 0 && fuzz_next(&seed) % 3) {
		i = fuzz_next(&seed) % s.n;
		at = s.at[i];
		len = s.len[i];
		what = p[at];
		frame = qllm__frame__unpack(&alloc, len - 3, p + at + 3);
	}
	if (!frame || frame->body_case == QLLM__FRAME__BODY__NOT_SET) {
		const struct msg_info *info = any_request(&seed);
		ProtobufCMessage *m = arena_alloc(&a, info->desc->sizeof_message);

		if (!m)
			abort();
		protobuf_c_message_init(info->desc, m);
		frame = &fresh;
		frame->has_id = true;
		frame->id = 20 + fuzz_next(&seed) % 64;
		frame->body_case = info->body;
		frame->hello = (Qllm__Hello *)m;        /* all arms share their place */
		what = (uint8_t)info->fds_min;
		for (times = fuzz_next(&seed) % 6; times > 0; times--)
			set_any(&a, m, &seed);
	}
	for (times = 1 + fuzz_next(&seed) % 3; times > 0; times--)
		set_any(&a, (ProtobufCMessage *)frame->hello, &seed);
	if (fuzz_next(&seed) % 8 == 0)
		what = (uint8_t)fuzz_next(&seed);
	if (frame_pack(frame, &body, &n_body) == 0) {
		n = put(p, n, max, at, len, what, body, n_body);
		mem_free(body);
	}
	arena_deinit(&a);
	return n;
}
