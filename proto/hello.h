/* hello - what both ends know before the first frame. */
#pragma once

enum {
	PROTO_VERSION = 1,              /* changes only when an old peer would misread a frame */
	HELLO_CLIENT_MAX = 64,          /* bytes of Hello.client */
	HELLO_TIMEOUT_S = 10,           /* a connection without Hello is closed */
	RING_BYTES_DEFAULT = 1 << 20,
	RING_BYTES_MIN = 64 << 10,
	/* a row of logits must fit twice: 262,144 tokens need 2 MiB */
	RING_BYTES_MAX = 16 << 20,
};
/* Where a user's own daemon listens, below $XDG_RUNTIME_DIR; and the system's. */
#define SOCKET_USER "qllmd/qllmd.sock"
#define SOCKET_SYSTEM "/run/qllmd/qllmd.sock"
/* Exit code classes carried by Error.code. */
enum exit_class {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_LOADED = 3,
	EXIT_NO_MODEL = 4,
	EXIT_REFUSED = 5,
	EXIT_UNREACHABLE = 6,
	EXIT_BUSY = 75,
	EXIT_TIMEOUT = 124,
	EXIT_INTERRUPTED = 130,
};
