/* hostile - a client that breaks every rule of the protocol, again and again, beside good ones.
 *
 *   hostile --socket S --model M [--file GGUF] [--seconds N] [--seed K] [--uid UID] [--idle]
 *   hostile --socket S --model M [--file GGUF] --once CASE|all
 *
 * The loop takes the cases in an order drawn from the seed; --once prints what the daemon says to
 * every step of one case, with the time that it took. Last line: the number of steps, of each kind
 * of answer, of wrong answers (then exit 1) and the longest time of a refusal. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "base/num.h"
#include "tests/hostile/hostile.h"

const char *model_name, *model_path;
uint64_t seed = 1;
static const char *socket_path, *case_name;
static bool loud;
static unsigned steps, wrong, counts[6];
static double longest_refusal;
static uint8_t scratch[FRAME_MAX + 1];

uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

void pause_ms(unsigned ms)
{
	usleep(ms * 1000);
}

double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* --- connections ------------------------------------------------------------------------------ */

int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval bound = { .tv_sec = 2 };
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (s < 0)
		return -1;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
	if (connect(s, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(s);
		return -1;
	}
	return s;
}

bool join(struct client *c, uint64_t ring_bytes, const char *what)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Hello hello = QLLM__HELLO__INIT;
	struct got got = { CLOSED, 0, "no connection" };
	struct frame_in f;
	struct pollfd p;

	*c = (struct client){ .sock = dial(), .out_fd = -1, .in_fd = -1, .id = 100 };
	hello.has_protocol = hello.has_ring_bytes = true;
	hello.protocol = PROTO_VERSION;
	hello.ring_bytes = ring_bytes;
	hello.client = (char *)(uintptr_t)"hostile";
	frame.body_case = QLLM__FRAME__BODY_HELLO;
	frame.hello = &hello;
	p = (struct pollfd){ c->sock, POLLIN, 0 };
	if (c->sock < 0 || frame_send(c->sock, &frame, NULL, 0) < 0 || poll(&p, 1, 5000) != 1 ||
	    frame_recv(&f, c->sock, MSG_TO_CLIENT, 0, scratch, NULL) != 0) {
		/* the limits of its user, or of the backlog: what a hostile one brings about */
		got.answer = BUSY;
		note(what, got, BUSY);
		leave(c);
		return false;
	}
	if (f.frame->body_case == QLLM__FRAME__BODY_WELCOME) {
		c->ring_bytes = f.frame->welcome->ring_bytes;
		c->out_fd = frame_steal_fd(&f, 0);
		c->in_fd = frame_steal_fd(&f, 1);
		frame_in_deinit(&f);
		return true;
	}
	got.answer = f.frame->body_case == QLLM__FRAME__BODY_ERROR &&
	                             f.frame->error->code == EXIT_BUSY
	                     ? BUSY
	                     : REFUSED;
	note(what, got, BUSY);
	frame_in_deinit(&f);
	leave(c);
	return false;
}

void leave(struct client *c)
{
	if (c->sock >= 0)
		close(c->sock);
	if (c->out_fd >= 0)
		close(c->out_fd);
	if (c->in_fd >= 0)
		close(c->in_fd);
	c->sock = c->out_fd = c->in_fd = -1;
}

void throw_bytes(int sock, const void *p, size_t n, const int *fds, unsigned n_fds)
{
	(void)fd_sendmsg(sock, p, n, fds, n_fds, MSG_DONTWAIT);
}

void say(struct client *c, Qllm__Frame *frame, const int *fds, unsigned n_fds)
{
	uint8_t *p;
	size_t n;

	frame->has_id = true;
	frame->id = ++c->id;
	if (frame_pack(frame, &p, &n) < 0)
		return;
	throw_bytes(c->sock, p, n, fds, n_fds);
	mem_free(p);
}

/* --- answers ---------------------------------------------------------------------------------- */

static bool hung_up(int sock, unsigned ms)
{
	struct pollfd p = { sock, POLLRDHUP, 0 };

	return poll(&p, 1, (int)ms) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

struct got await(struct client *c, unsigned ms)
{
	struct got got = { .answer = SILENT };
	double start = now_ms(), end = start + ms;
	bool over = false;

	while (!over) {
		struct pollfd p = { c->sock, POLLIN, 0 };
		double left = end - now_ms();
		struct frame_in f;
		int r;

		if (left <= 0 || poll(&p, 1, (int)left + 1) != 1)
			break;
		r = frame_recv(&f, c->sock, MSG_TO_CLIENT, MSG_DONTWAIT, scratch, NULL);
		if (r == FRAME_E_AGAIN)
			continue;
		if (r != 0 && r != FRAME_E_UNKNOWN) {
			got.answer = CLOSED;
			break;
		}
		if (f.frame->body_case == QLLM__FRAME__BODY_ERROR &&
		    (f.frame->id == c->id || f.frame->id == 0)) {
			snprintf(got.text, sizeof(got.text), "%s", f.frame->error->text);
			got.answer = f.frame->error->code == EXIT_BUSY ? BUSY : REFUSED;
			over = true;
		} else if (r == 0 && f.info->final && f.frame->id == c->id) {
			got.answer = SERVED;
			over = true;
		}
		frame_in_deinit(&f);
	}
	got.ms = now_ms() - start;
	if (got.answer == REFUSED && hung_up(c->sock, 20))
		got.answer = FAULTED;
	return got;
}

void note(const char *what, struct got got, unsigned allowed)
{
	static const char *const names[] = { "silent", "closed",   "refused",
		                             "closed", "accepted", "busy" };
	unsigned i = 0;

	while (!(got.answer & (1u << i)))
		i++;
	steps++;
	counts[i]++;
	if ((got.answer & (REFUSED | FAULTED)) && !(allowed & LATER) && got.ms > longest_refusal)
		longest_refusal = got.ms;
	if (loud)
		printf("%s, %s: %s after %.1f ms%s%s\n", case_name, what, names[i], got.ms,
		       got.text[0] ? ": " : "", got.text);
	if (got.answer & (allowed | BUSY) &&
	    (!(got.answer & (REFUSED | FAULTED | BUSY)) || got.answer == BUSY || got.text[0]))
		return;
	wrong++;
	printf("WRONG %s, %s: %s: %s\n", case_name, what, names[i], got.text);
}

void settle(struct client *c, const char *what, unsigned allowed)
{
	note(what, await(c, 5000), allowed);
	leave(c);
}

void right_generate(struct right *r, uint32_t n)
{
	qllm__frame__init(&r->frame);
	qllm__generate__init(&r->g);
	qllm__sampling__init(&r->s);
	qllm__blob__init(&r->prompt);
	r->prompt.has_data = true;
	r->prompt.data.data = (uint8_t *)(uintptr_t)"hello there";
	r->prompt.data.len = 11;
	r->s.has_temp = true;
	r->s.temp = 0;
	r->g.model = (char *)(uintptr_t)model_name;
	r->g.prompt = &r->prompt;
	r->g.has_raw = r->g.raw = true;
	r->g.has_ignore_eos = r->g.ignore_eos = true;
	r->g.has_max_tokens = true;
	r->g.max_tokens = n;
	r->g.sampling = &r->s;
	r->frame.body_case = QLLM__FRAME__BODY_GENERATE;
	r->frame.generate = &r->g;
}

/* --- order of the day ------------------------------------------------------------------------- */

enum { CASES_MAX = 64 };
static const struct hostile_case *all[CASES_MAX];
static unsigned n_all;

static void collect(void)
{
	const struct hostile_case *const tables[] = { frame_cases, fd_cases, ring_cases };

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct hostile_case *c = tables[t]; c->name && n_all < CASES_MAX; c++)
			all[n_all++] = c;
}

static int once(const char *name)
{
	bool any = false;

	loud = true;
	for (unsigned i = 0; i < n_all; i++) {
		if (strcmp(name, "all") != 0 && strcmp(name, all[i]->name) != 0)
			continue;
		any = true;
		case_name = all[i]->name;
		all[i]->run();
		fflush(stdout);
	}
	if (!any)
		fprintf(stderr, "hostile: no case %s; there are P1 to P18 and R1 to R12\n", name);
	return any ? 0 : 2;
}

/* Every case once in an order of its own, then anew. */
static void loop(double seconds)
{
	double end = now_ms() + seconds * 1e3;

	while (now_ms() < end) {
		for (unsigned i = n_all - 1; i > 0; i--) {
			unsigned k = (unsigned)(rnd() % (i + 1));
			const struct hostile_case *swap = all[i];

			all[i] = all[k];
			all[k] = swap;
		}
		for (unsigned i = 0; i < n_all && now_ms() < end; i++) {
			case_name = all[i]->name;
			all[i]->run();
		}
	}
}

static void become(const char *uid)
{
	if (setgroups(0, NULL) < 0 || setgid((gid_t)strtoul(uid, NULL, 10)) < 0 ||
	    setuid((uid_t)strtoul(uid, NULL, 10)) < 0) {
		fprintf(stderr, "hostile: --uid: %s\n", strerror(errno));
		exit(2);
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "model", required_argument, NULL, 'm' },
		{ "file", required_argument, NULL, 'f' },
		{ "seconds", required_argument, NULL, 'S' },
		{ "seed", required_argument, NULL, 'k' },
		{ "uid", required_argument, NULL, 'u' },
		{ "idle", no_argument, NULL, 'i' },
		{ "once", required_argument, NULL, 'o' },
		{ NULL },
	};
	const char *only = NULL, *uid = NULL;
	double seconds = 10;
	int opt, r = 0;

	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (opt) {
		case 's': socket_path = optarg; break;
		case 'm': model_name = optarg; break;
		case 'f': model_path = optarg; break;
		case 'S': seconds = strtod(optarg, NULL); break;
		case 'k': seed = strtoull(optarg, NULL, 10) * 0x9e3779b97f4a7c15u + 1; break;
		case 'u': uid = optarg; break;
		case 'o': only = optarg; break;
		case 'i':
			if (sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 }) < 0)
				return 2;
			break;
		default: return 2;
		}
	}
	if (!socket_path || !model_name)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	fuse_start();
	if (uid)
		become(uid);
	collect();
	if (only)
		r = once(only);
	else
		loop(seconds);
	printf("%u steps: %u accepted, %u refused, %u closed with a sentence, %u closed, %u "
	       "silent, %u busy; %u wrong; longest refusal %.1f ms\n",
	       steps, counts[4], counts[2], counts[3], counts[1], counts[0], counts[5], wrong,
	       longest_refusal);
	return r ? r : wrong > 0;
}
