/* dispatch - from a received frame to its handler: one row a message the daemon answers. */
#pragma once
#include "daemon/call.h"

struct dispatch_row {
	Qllm__Frame__BodyCase body;
	void (*handle)(struct call *c);
	bool streams;                   /* needs the ring; ends with Done */
	/* answered at once: neither quota nor draining refuses it */
	bool light;
};
/* Takes *in over. Negative: the client broke the protocol, close it. */
int dispatch_frame(struct conn *conn, struct frame_in *in, bool unknown, struct err *err);

/* Handlers, by file. */
void req_version(struct call *c);       /* req-status.c */
void req_status(struct call *c);
void req_list(struct call *c);          /* req-models.c */
void req_import(struct call *c);
void req_remove(struct call *c);
void req_show(struct call *c);          /* req-show.c */
void req_estimate(struct call *c);
void req_verify(struct call *c);        /* req-jobs.c */
void req_export(struct call *c);
void req_job_list(struct call *c);
void req_job_do(struct call *c);
void req_job_log(struct call *c);
void req_load(struct call *c);          /* req-load.c */
void req_unload(struct call *c);
void req_ps(struct call *c);
void req_tokenize(struct call *c);      /* req-text.c */
void req_detokenize(struct call *c);
void req_template(struct call *c);
void req_generate(struct call *c);      /* req-generate.c */
/* Done of a streaming call; c->data is NULL or generate's */
void req_stream_done(struct call *c);
void req_logits(struct call *c);        /* req-logits.c */
void req_bench_read(struct call *c);
void req_eval(struct call *c);          /* req-eval.c */
void req_config(struct call *c);        /* req-config.c */
void req_metrics(struct call *c);       /* req-metrics.c */
void req_activity(struct call *c);
void req_monitor(struct call *c);
void req_clients(struct call *c);       /* req-client.c */
void req_kick(struct call *c);
void req_limit(struct call *c);
