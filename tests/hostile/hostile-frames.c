/* The cases of frames: P1 to P15. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/num.h"
#include "tests/hostile/hostile.h"

static uint8_t big[FRAME_MAX + 1];

/* Throw one datagram from a connection of its own. */
static void thrown(const char *what, const void *p, size_t n, unsigned allowed)
{
	struct client c;
	int room = 1 << 20;

	if (!join(&c, RING_BYTES_MIN, what))
		return;
	setsockopt(c.sock, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	c.id = 0x65;                    /* in all of the frames below */
	throw_bytes(c.sock, p, n, NULL, 0);
	settle(&c, what, allowed);
}

static void lengths(void)
{
	thrown("no bytes", "", 0, FAULTED | CLOSED);
	memset(big, 0, sizeof(big));
	thrown("64 KiB + 1 of zeros", big, sizeof(big), FAULTED);
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)rnd();
	thrown("64 KiB + 1 of noise", big, sizeof(big), FAULTED);
}

/* A datagram is a frame: slowness shows between them only. */
static void slowly(void)
{
	static const uint8_t hello[] = { 0x1a, 0x02, 0x08, 0x01 };
	struct client c = { .sock = dial(), .out_fd = -1, .in_fd = -1 };

	for (size_t i = 0; c.sock >= 0 && i < sizeof(hello); i++) {
		throw_bytes(c.sock, hello + i, 1, NULL, 0);
		pause_ms(50);
	}
	if (c.sock >= 0)
		settle(&c, "a Hello byte by byte", FAULTED | CLOSED);
	c = (struct client){ .sock = dial(), .out_fd = -1, .in_fd = -1 };
	if (c.sock >= 0) {
		note("a connection that says nothing", await(&c, 300), SILENT);
		leave(&c);
	}
}

static void half_a_frame(void)
{
	struct right r;
	struct client c;
	uint8_t *p;
	size_t n, cut;

	right_generate(&r, 4);
	r.frame.has_id = true;
	r.frame.id = 7;
	if (frame_pack(&r.frame, &p, &n) < 0)
		return;
	cut = 1 + rnd() % (n - 1);
	/* where it is cut between two fields, what is left is a smaller request */
	thrown("a frame that was cut", p, cut, FAULTED | CLOSED | REFUSED | SILENT);
	if (join(&c, RING_BYTES_MIN, "half a frame, then gone")) {
		throw_bytes(c.sock, p, n / 2, NULL, 0);
		leave(&c);
	}
	mem_free(p);
}

static void random_body(void)
{
	uint8_t buf[256];
	size_t n = 6 + rnd() % 200;
	const struct msg_info *info = NULL;

	/* A right start, so that handlers are reached. */
	while (!info || !(info->dirs & MSG_TO_DAEMON))
		info = msg_at((unsigned)(rnd() % 64));
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rnd();
	buf[0] = 0x08;
	buf[1] = 101;
	if (info->body > 15) {
		buf[2] = (uint8_t)((unsigned)info->body << 3 | 2 | 0x80);
		buf[3] = (uint8_t)(info->body >> 4);
		buf[4] = (uint8_t)MIN(n - 5, (size_t)127);
	} else {
		buf[2] = (uint8_t)(info->body << 3 | 2);
		buf[3] = (uint8_t)MIN(n - 4, (size_t)127);
	}
	/* whatever is not refused happens to be right, or is answered under another id */
	thrown("random bytes in a message", buf, n, FAULTED | CLOSED | REFUSED | SERVED | SILENT);
}

static void depth(void)
{
	memset(big, 0x1a, sizeof(big));
	thrown("64 KiB of nested lengths", big, FRAME_MAX, FAULTED);
	/* a group in a group: an old wire type */
	memset(big, 0x1b, sizeof(big));
	thrown("64 KiB of nested groups", big, FRAME_MAX, FAULTED);
}

static void many_fields(void)
{
	/* Generate of 65028 bytes; Sampling of 65024 in it */
	static const uint8_t head[] = { 0x08, 0x65, 0x92, 0x03, 0x84, 0xfc, 0x03 };
	static const uint8_t sampling[] = { 0x4a, 0x80, 0xfc, 0x03 };
	size_t end = sizeof(head) + 65028;

	for (unsigned nested = 0; nested < 2; nested++) {
		size_t n = sizeof(head);

		memset(big, 0, sizeof(big));
		memcpy(big, head, n);
		if (nested) {
			memcpy(big + n, sampling, sizeof(sampling));
			n += sizeof(sampling);
		}
		for (; n + 2 <= end; n += 2)
			memcpy(big + n, "\x52", 2);
		thrown(nested ? "32,500 empty biases" : "32,500 empty stops", big, end,
		       FAULTED | REFUSED);
	}
}

static void unknown_fields(void)
{
	static const uint8_t bytes[] = { 0x08, 0x65, 0xc2, 0x3e, 0x01, 'x' };

	thrown("an unknown message", bytes, sizeof(bytes), REFUSED);
}

static void varints(void)
{
	static const uint8_t eleven[] = { 0x08, 0xff, 0xff, 0xff, 0xff, 0xff,
		                          0xff, 0xff, 0xff, 0xff, 0xff, 0x01 };
	static const uint8_t wire[] = { 0x0a, 0x01, 'x', 0xa2, 0x01, 0x00 };
	static const uint8_t seven[] = { 0x0f, 0x01 };

	thrown("a varint of 11 bytes", eleven, sizeof(eleven), FAULTED);
	thrown("an id that is a string", wire, sizeof(wire), FAULTED | REFUSED | SILENT | SERVED);
	thrown("wire type 7", seven, sizeof(seven), FAULTED);
}

static void incomplete(void)
{
	static const uint8_t load[] = { 0x08, 0x65, 0xe2, 0x01, 0x00 };
	static const uint8_t generate[] = { 0x08, 0x65, 0x92, 0x03, 0x00 };
	static const uint8_t nothing[] = { 0x08, 0x65 };
	/* Status and Version in one oneof: the last counts */
	static const uint8_t two[] = { 0x08, 0x65, 0x62, 0x00, 0x52, 0x00 };

	thrown("load without a name", load, sizeof(load), REFUSED);
	thrown("generate without anything", generate, sizeof(generate), REFUSED);
	thrown("a frame without a body", nothing, sizeof(nothing), FAULTED | REFUSED);
	thrown("two arms of the oneof", two, sizeof(two), SERVED | FAULTED);
}

static void hello_of(int sock, uint32_t protocol)
{
	uint8_t bytes[] = { 0x1a, 0x02, 0x08, (uint8_t)protocol };

	throw_bytes(sock, bytes, sizeof(bytes), NULL, 0);
}

static void unknown_kinds(void)
{
	uint8_t show[80] = { 0x08, 0x65, 0xc2, 0x01 };
	size_t n = MIN(strlen(model_name), (size_t)60);
	struct client c = { .sock = dial(), .out_fd = -1, .in_fd = -1 };

	if (c.sock >= 0) {
		hello_of(c.sock, PROTO_VERSION + 9);
		settle(&c, "a protocol of the future", FAULTED | REFUSED);
	}
	show[4] = (uint8_t)(n + 4);
	show[5] = 0x0a;
	show[6] = (uint8_t)n;
	memcpy(show + 7, model_name, n);
	show[7 + n] = 0x10;
	show[8 + n] = 0x63;
	thrown("show of kind 99", show, 9 + n, REFUSED);
}

static void order(void)
{
	static const uint8_t status[] = { 0x08, 0x65, 0x62, 0x00 };
	struct client c = { .sock = dial(), .out_fd = -1, .in_fd = -1 };

	if (c.sock >= 0) {
		throw_bytes(c.sock, status, sizeof(status), NULL, 0);
		settle(&c, "status before Hello", FAULTED);
	}
	if (join(&c, RING_BYTES_MIN, "Hello twice")) {
		hello_of(c.sock, PROTO_VERSION);
		settle(&c, "Hello twice", FAULTED);
	}
}

static void ids(void)
{
	struct right r;
	struct client c;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Cancel cancel = QLLM__CANCEL__INIT;

	right_generate(&r, 40);
	if (join(&c, RING_BYTES_MIN, "an id twice")) {
		say(&c, &r.frame, NULL, 0);
		c.id--;
		say(&c, &r.frame, NULL, 0);
		settle(&c, "an id twice", FAULTED);
	}
	if (!join(&c, RING_BYTES_MIN, "cancel of others' requests"))
		return;
	frame.body_case = QLLM__FRAME__BODY_CANCEL;
	frame.cancel = &cancel;
	cancel.has_request = true;
	for (cancel.request = 0; cancel.request < 60; cancel.request++)
		say(&c, &frame, NULL, 0);
	settle(&c, "cancel of others' requests", SERVED);
}

/* One bent generate after the other over one connection. */
static void asked(struct client *c, struct right *r, const char *what, unsigned allowed)
{
	if (c->sock < 0 && !join(c, RING_BYTES_DEFAULT, what))
		return;
	say(c, &r->frame, NULL, 0);
	note(what, await(c, 1500), allowed);
}

static void parameters(void)
{
	struct client c = { .sock = -1, .out_fd = -1, .in_fd = -1 };
	struct right r;

	right_generate(&r, 4);
	r.s.temp = NAN;
	asked(&c, &r, "temperature NaN", REFUSED);
	r.s.temp = -1;
	asked(&c, &r, "temperature -1", REFUSED);
	right_generate(&r, 4);
	r.s.has_top_p = true;
	r.s.top_p = NAN;
	asked(&c, &r, "top-p NaN", REFUSED);
	right_generate(&r, 4);
	r.s.has_top_k = true;
	r.s.top_k = 1u << 31;
	asked(&c, &r, "top-k 2^31", SERVED | SILENT);
	r.s.has_logprobs = true;
	r.s.logprobs = UINT32_MAX;
	asked(&c, &r, "2^32 - 1 log-probabilities", REFUSED);
	/* allowed, and ended by hanging up */
	right_generate(&r, rnd() % 2 ? UINT32_MAX : 0);
	asked(&c, &r, "tokens without an end", SILENT | REFUSED | SERVED);
	leave(&c);
}

static void tokens(void)
{
	static const int32_t bad[] = { -1, INT32_MAX, INT32_MIN };
	struct client c = { .sock = -1, .out_fd = -1, .in_fd = -1 };
	struct right r;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int32_t list[] = { 1, bad[i], 2 };

		right_generate(&r, 4);
		r.g.prompt = NULL;
		r.g.tokens = &r.prompt;
		r.prompt.data.data = (uint8_t *)list;
		r.prompt.data.len = sizeof(list);
		asked(&c, &r, "an id outside of the vocabulary", REFUSED);
		r.prompt.data.len = 7;
		asked(&c, &r, "an id and three quarters", REFUSED);
	}
	leave(&c);
}

static void names(void)
{
	static const char *const bad[] = { "../../etc/passwd", "", "..", "-x", "a/b", "a\n",
		                           "\xff\xfe", "%s%s%n" };
	struct client c = { .sock = -1, .out_fd = -1, .in_fd = -1 };
	static char long_name[60000];
	struct right r;
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Load load = QLLM__LOAD__INIT;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		right_generate(&r, 4);
		r.g.model = (char *)(uintptr_t)bad[i];
		asked(&c, &r, "a name that is none", REFUSED);
	}
	memset(long_name, 'a', sizeof(long_name) - 1);
	right_generate(&r, 4);
	r.g.model = long_name;
	asked(&c, &r, "a name of 60,000 bytes", REFUSED | FAULTED);
	leave(&c);
	if (!join(&c, RING_BYTES_MIN, "load of a long name"))
		return;
	frame.body_case = QLLM__FRAME__BODY_LOAD;
	frame.load = &load;
	load.model = long_name;
	say(&c, &frame, NULL, 0);
	settle(&c, "load of a long name", FAULTED);
}

const struct hostile_case frame_cases[] = {
	{ "P1", "lengths", lengths },
	{ "P2", "byte by byte", slowly },
	{ "P3", "half a frame", half_a_frame },
	{ "P4", "random body", random_body },
	{ "P5", "depth", depth },
	{ "P6", "many small fields", many_fields },
	{ "P7", "unknown fields", unknown_fields },
	{ "P8", "varints and wire types", varints },
	{ "P9", "missing fields, two arms", incomplete },
	{ "P10", "unknown enum, future version", unknown_kinds },
	{ "P11", "order of Hello", order },
	{ "P12", "ids", ids },
	{ "P13", "parameters", parameters },
	{ "P14", "token ids", tokens },
	{ "P15", "names", names },
	{ NULL },
};
