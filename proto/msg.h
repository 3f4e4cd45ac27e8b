/* msg - the table of messages: one row each, the only place that says who may send what. */
#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/qllm.pb-c.h"

enum msg_dir {
	MSG_TO_DAEMON = 1,              /* between the daemon and a client */
	MSG_TO_CLIENT = 2,
	MSG_TO_WORKER = 4,              /* between the daemon and a worker */
	MSG_FROM_WORKER = 8,
};
enum msg_perm {
	PERM_ANY,                       /* whoever may connect */
	/* changes the model it names: its owner or an administrator */
	PERM_OWNER,
};
struct msg_info {
	Qllm__Frame__BodyCase body;
	const char *name;               /* "generate" */
	const ProtobufCMessageDescriptor *desc;
	size_t size_max;                /* bytes of the packed frame */
	unsigned dirs;                  /* enum msg_dir bits */
	enum msg_perm perm;
	unsigned fds_min, fds_max;      /* descriptors that come with it, blobs included */
	bool final;                     /* to client: ends the request */
};
/* NULL for an arm that is not in the table (a newer peer's). */
const struct msg_info *msg_info(Qllm__Frame__BodyCase body);
/* Row i, for loops over all; NULL past the end. */
const struct msg_info *msg_at(unsigned i);
