/* dispatch - checks that are the same for every request, then the handler.
 *
 * Order: Hello first and once; then quota and draining (busy, retry); then the handler. A request
 * id that is in use is a breach of the protocol, since two replies could not be told apart. */
#include "daemon/dispatch.h"
#include <errno.h>
#include <string.h>
#include "base/num.h"
#include "base/str.h"
#include "daemon/conn.h"

static const struct dispatch_row rows[] = {
	{ QLLM__FRAME__BODY_VERSION, req_version, .light = true },
	{ QLLM__FRAME__BODY_STATUS, req_status, .light = true },
	{ QLLM__FRAME__BODY_LIST, req_list, .light = true },
	{ QLLM__FRAME__BODY_IMPORT, req_import },
	{ QLLM__FRAME__BODY_REMOVE, req_remove, .light = true },
	{ QLLM__FRAME__BODY_SHOW, req_show },
	{ QLLM__FRAME__BODY_VERIFY, req_verify },
	{ QLLM__FRAME__BODY_EXPORT, req_export },
	{ QLLM__FRAME__BODY_ESTIMATE, req_estimate },
	{ QLLM__FRAME__BODY_LOAD, req_load },
	{ QLLM__FRAME__BODY_UNLOAD, req_unload, .light = true },
	{ QLLM__FRAME__BODY_PS, req_ps, .light = true },
	{ QLLM__FRAME__BODY_TOKENIZE, req_tokenize },
	{ QLLM__FRAME__BODY_DETOKENIZE, req_detokenize },
	{ QLLM__FRAME__BODY_TEMPLATE, req_template },
	{ QLLM__FRAME__BODY_GENERATE, req_generate, .streams = true },
	{ QLLM__FRAME__BODY_LOGITS, req_logits, .streams = true },
	{ QLLM__FRAME__BODY_EVAL, req_eval },
	{ QLLM__FRAME__BODY_BENCH_READ, req_bench_read },
	{ QLLM__FRAME__BODY_JOB_LIST, req_job_list, .light = true },
	{ QLLM__FRAME__BODY_JOB_DO, req_job_do },
	{ QLLM__FRAME__BODY_JOB_LOG, req_job_log, .light = true },
	{ QLLM__FRAME__BODY_CLIENTS, req_clients, .light = true },
	{ QLLM__FRAME__BODY_KICK, req_kick, .light = true },
	{ QLLM__FRAME__BODY_LIMIT, req_limit, .light = true },
	{ QLLM__FRAME__BODY_CONFIG, req_config, .light = true },
	{ QLLM__FRAME__BODY_METRICS, req_metrics, .light = true },
	{ QLLM__FRAME__BODY_ACTIVITY, req_activity, .light = true },
	{ QLLM__FRAME__BODY_MONITOR, req_monitor },
};

static const struct dispatch_row *find_row(Qllm__Frame__BodyCase body)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].body == body)
			return &rows[i];
	return NULL;
}

static void reply_error(struct conn *conn, uint32_t id, enum exit_class class, const char *text)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Error error = QLLM__ERROR__INIT;

	frame.has_id = error.has_code = true;
	frame.id = id;
	error.code = class;
	error.text = (char *)(uintptr_t)text;
	conn->d->metrics.turned_away += class == EXIT_BUSY;
	frame.body_case = QLLM__FRAME__BODY_ERROR;
	frame.error = &error;
	conn_send(conn, &frame, NULL);
}

static uint64_t ring_size(const Qllm__Hello *hello)
{
	uint64_t want = hello->has_ring_bytes ? hello->ring_bytes : RING_BYTES_DEFAULT,
		 size = RING_BYTES_MIN;

	while (size < want && size < RING_BYTES_MAX)
		size *= 2;
	return size;
}

static int on_hello(struct conn *conn, const struct frame_in *in, struct err *err)
{
	const Qllm__Hello *hello = in->frame->hello;
	_cleanup_close_ int out = -1, page = -1;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Welcome welcome = QLLM__WELCOME__INIT;
	struct frame_fds fds = { .n = 2 };
	int r;

	if (conn->greeted)
		return err_set(err, -EPROTO, "a second Hello");
	if (!hello->has_protocol || hello->protocol != PROTO_VERSION)
		return err_set(
			err, -EPROTO,
			"protocol %u is not spoken here, %d is: client and daemon are of different "
			"versions",
			hello->protocol, PROTO_VERSION);
	if (hello->client && strlen(hello->client) > HELLO_CLIENT_MAX)
		return err_set(err, -EPROTO, "the client's name has more than %d bytes",
		               HELLO_CLIENT_MAX);
	if (hello->client)
		strcpy(conn->name, hello->client);
	r = charge_take(&conn->ring, conn->user, CHARGE_RING_BYTES, ring_size(hello), err);
	if (r < 0 && conn->reserved)
		charge_force(&conn->ring, conn->user, CHARGE_RING_BYTES, ring_size(hello));
	else if (r < 0)
		return r;
	err_clear(err);
	r = stream_new(&conn->stream, conn->d, conn->fd, ring_size(hello), &out, &page);
	if (r < 0)
		return err_set(err, r, "no memory for the connection's ring: %s", strerror(-r));
	conn->greeted = true;
	sd_event_source_set_enabled(conn->hello_timer, SD_EVENT_OFF);
	fds.fd[0] = out;
	fds.fd[1] = page;
	welcome.has_protocol = welcome.has_ring_bytes = welcome.has_uid = welcome.has_admin = true;
	welcome.protocol = PROTO_VERSION;
	welcome.version = (char *)(uintptr_t)QLLM_VERSION;
	welcome.ring_bytes = ring_writer_size(conn->stream->ring);
	welcome.uid = conn->peer.uid;
	welcome.admin = conn->peer.admin;
	frame.has_id = true;
	frame.id = in->frame->id;
	frame.body_case = QLLM__FRAME__BODY_WELCOME;
	frame.welcome = &welcome;
	conn_send(conn, &frame, &fds);
	metrics_connected(conn);
	return 0;
}

static struct call *find_call(struct conn *conn, uint32_t id)
{
	list_for(&conn->calls, it) {
		struct call *c = container_of(it, struct call, link);

		if (c->id == id && !c->detached)
			return c;
	}
	return NULL;
}

static void on_cancel(struct conn *conn, const struct frame_in *in)
{
	struct call *c = find_call(conn, in->frame->cancel->request);
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Ok ok = QLLM__OK__INIT;

	frame.has_id = true;
	frame.id = in->frame->id;
	frame.body_case = QLLM__FRAME__BODY_OK;
	frame.ok = &ok;
	conn_send(conn, &frame, NULL);
	if (c)
		call_cancel(c);
}

/* Bytes of the request's blobs, as far as blob_get will read them. */
static uint64_t blob_bytes(const struct call *c)
{
	const ProtobufCMessageDescriptor *desc = c->in.info->desc;
	const ProtobufCFieldDescriptor *body =
		protobuf_c_message_descriptor_get_field(&qllm__frame__descriptor,
	                                                (unsigned)c->in.frame->body_case);
	const char *m = *(char *const *)((const char *)c->in.frame + body->offset);
	uint64_t sum = 0, max = c->d->config->prompt_bytes;

	for (unsigned i = 0; i < desc->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &desc->fields[i];
		const Qllm__Blob *b;

		if (f->descriptor != &qllm__blob__descriptor ||
		    f->label == PROTOBUF_C_LABEL_REPEATED)
			continue;
		b = *(const Qllm__Blob *const *)(m + f->offset);
		if (b)
			sum += MIN(b->has_data ? b->data.len : b->size, max);
	}
	return sum;
}

/* What every request holds from its frame to its end. */
static bool admit(struct call *c)
{
	return call_charge(c, CHARGE_REQUESTS, 1) && call_charge(c, CHARGE_FDS, c->in.fds.n) &&
	       call_charge(c, CHARGE_PROMPT_BYTES, blob_bytes(c));
}

static int start_call(struct conn *conn, struct frame_in *in, const struct dispatch_row *row,
                      struct err *err)
{
	struct daemon *d = conn->d;
	uint32_t id = in->frame->id;
	struct err busy = { 0 };
	struct call *c;

	if (id == 0 || find_call(conn, id))
		return err_set(err, -EPROTO,
		               id ? "request id %u is in use already"
		                  : "request id %u is not allowed",
		               id);
	if (d->draining && !row->light) {
		reply_error(conn, id, EXIT_BUSY,
		            "the daemon is shutting down: try again when it is back");
		return 0;
	}
	if (!row->light && conn_leave_reserve(conn, &busy) < 0) {
		reply_error(conn, id, EXIT_BUSY, busy.text);
		return 0;
	}
	c = call_new(conn, row, in);
	if (!c) {
		reply_error(conn, id, EXIT_BUSY, "out of memory: try again");
		return 0;
	}
	memset(&in->fds, 0, sizeof(in->fds));   /* the call has them */
	in->arena = (struct arena){ 0 };
	if (row->light || admit(c))
		row->handle(c);
	return 0;
}

int dispatch_frame(struct conn *conn, struct frame_in *in, bool unknown, struct err *err)
{
	Qllm__Frame__BodyCase body = in->frame->body_case;
	const struct dispatch_row *row = find_row(body);
	int r = 0;

	if (!conn->greeted && body != QLLM__FRAME__BODY_HELLO)
		r = err_set(err, -EPROTO, "the first frame must be Hello");
	else if (body == QLLM__FRAME__BODY_HELLO)
		r = on_hello(conn, in, err);
	else if (body == QLLM__FRAME__BODY_WAKE)
		engine_wake(conn->d->engine);
	else if (body == QLLM__FRAME__BODY_CANCEL)
		on_cancel(conn, in);
	else if (unknown || !row)
		reply_error(conn, in->frame->id, EXIT_USAGE,
		            "this daemon does not know that request: it may be older than the "
		            "client");
	else
		r = start_call(conn, in, row, err);
	frame_in_deinit(in);
	return r;
}
