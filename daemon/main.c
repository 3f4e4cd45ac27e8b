/* qllmd - options, start, signals, draining, end.
 *
 * Order of life: configuration, kernels, engine, store and catalogue, threads, socket, READY. Order
 * of death: stop accepting, let requests end (SIGTERM, drain_seconds), cancel what is left, close
 * connections, engine, threads, catalogue. Signals are blocked before the first thread starts and
 * come through the loop. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include "base/log.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/str.h"
#include "daemon/auth.h"
#include "daemon/call.h"
#include "daemon/conn.h"
#include "daemon/foreign.h"
#include "daemon/jobs.h"
#include "daemon/journal.h"
#include "daemon/listen.h"
#include "daemon/models.h"
#include "daemon/notify.h"
#include "daemon/spawn.h"

enum { TICK_US = 1000000, SLOW_THREADS = 2, STOP_WAIT_S = 3, ARENA_KEEP = 512 << 10 };

struct override {                       /* from the command line, on top of the files */
	const char *name, *value;
};
struct options {
	const char *config;
	struct override set[8];
	unsigned n_set;
	bool check;                     /* read the configuration and end */
};

uint64_t daemon_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* --- housekeeping ----------------------------------------------------------------------------- */

/* While requests are open: each second. Then once, when the next model has been idle for long
 * enough; what changes that moment is a request, or a reload. So an idle daemon sleeps. */
static int on_tick(sd_event_source *source, uint64_t usec, void *user)
{
	struct daemon *d = user;
	uint64_t now = daemon_now_us(), next;

	(void)usec;
	conns_end_stalled(d, now);
	next = models_tick(d->models, now);
	if (d->n_calls > 0)
		next = now + TICK_US;
	notify_changed(d->notify);
	if (next == UINT64_MAX)
		return 0;       /* ONESHOT: off until daemon_watch */
	sd_event_source_set_time(source, next);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

void daemon_watch(struct daemon *d)
{
	uint64_t soon = daemon_now_us() + TICK_US, armed = 0;
	int on = SD_EVENT_OFF;

	notify_changed(d->notify);
	if (!d->tick)
		return;
	if (sd_event_source_get_enabled(d->tick, &on) >= 0 && on != SD_EVENT_OFF &&
	    sd_event_source_get_time(d->tick, &armed) >= 0 && armed <= soon)
		return;
	sd_event_source_set_time(d->tick, soon);
	sd_event_source_set_enabled(d->tick, SD_EVENT_ONESHOT);
}

void daemon_check_drained(struct daemon *d)
{
	notify_changed(d->notify);
	if (d->draining && !d->stopping && d->n_calls == 0) {
		d->stopping = true;
		sd_event_exit(d->event, 0);
	}
}

/* --- signals ---------------------------------------------------------------------------------- */

static int on_deadline(sd_event_source *source, uint64_t usec, void *user)
{
	struct daemon *d = user;

	(void)source;
	(void)usec;
	log_msg(LOG_L_NOTICE, "%u requests did not end in time and are cancelled", d->n_calls);
	d->stopping = true;
	return sd_event_exit(d->event, 0);
}

static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *si, void *user)
{
	struct daemon *d = user;

	(void)source;
	(void)si;
	if (d->draining) {
		log_msg(LOG_L_NOTICE, "second signal: stopping now");
		d->stopping = true;
		return sd_event_exit(d->event, 0);
	}
	d->draining = true;
	d->listener = listener_free(d->listener);
	notify_stopping(d->notify);
	log_msg(LOG_L_INFO, "draining %u requests for at most %llu s", d->n_calls,
	        (unsigned long long)d->config->drain_seconds);
	if (sd_event_add_time_relative(d->event, &d->deadline, CLOCK_MONOTONIC,
	                               d->config->drain_seconds * 1000000, 0, on_deadline, d) < 0)
		return sd_event_exit(d->event, 0);
	metrics_end_watches(d);
	jobs_drain(d->jobs);
	daemon_check_drained(d);
	return 0;
}

static const struct options *the_options;

/* The files and, on top of them, the command line: at start and at each reload. */
static int read_config(struct config **ret, const struct options *o, struct err *err)
{
	static const char vendor[] = VENDORDIR "/qllmd.conf";
	static const char system[] = SYSCONFDIR "/qllmd/qllmd.conf";
	_cleanup_(config_freep) struct config *c = NULL;
	int r = o->config ? config_load(&c, o->config, true, err)
	                  : config_load_system(&c, vendor, system, err);

	for (unsigned i = 0; r == 0 && i < o->n_set; i++)
		r = config_set(c, o->set[i].name, o->set[i].value, "command line", err);
	if (r < 0)
		return r;
	*ret = STEAL(c);
	return 0;
}

/* The administrator changed what only a restart applies. */
static void say_unapplied(const struct config *now, const struct config *fresh)
{
	for (size_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_table[i];
		_cleanup_(sbuf_deinit) struct sbuf was = { 0 }, is = { 0 };

		if (key->reload || strcmp(fresh->source[i], "default") == 0 ||
		    config_text(now, key, &was) < 0 || config_text(fresh, key, &is) < 0)
			continue;
		if (was.n != is.n || memcmp(was.p, is.p, is.n) != 0)
			log_msg(LOG_L_NOTICE, "%s: %s needs a restart to change", fresh->source[i],
			        key->name);
	}
}

static void find_admins(struct daemon *d)
{
	const char *name = d->config->admin_group;

	d->admin_gid = auth_group(name);
	if (name[0] && d->admin_gid == AUTH_NO_GROUP)
		log_msg(LOG_L_WARN, "no group %s (daemon.admin_group): it administers nothing",
		        name);
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *si, void *user)
{
	_cleanup_(config_freep) struct config *fresh = NULL;
	const struct options *o = the_options;
	struct daemon *d = user;
	struct err err = { 0 };
	bool admins;
	int r;

	(void)source;
	(void)si;
	notify_reloading(d->notify);
	r = read_config(&fresh, o, &err);
	if (r == 0)
		r = journal_level(fresh->log_level, &err);
	if (r == 0)
		say_unapplied(d->config, fresh);
	admins = r == 0 && strcmp(d->config->admin_group, fresh->admin_group) != 0;
	if (r == 0)
		r = config_apply_reload(d->config, fresh);
	/* The databases of groups are asked only when the name is another. */
	if (r == 0 && admins)
		find_admins(d);
	if (r < 0)
		log_fields(LOG_L_ERR, ID_CONFIG, NULL, 0,
		           "configuration not reloaded, the old one stays: %s",
		           err.text[0] ? err.text : strerror(-r));
	else
		log_msg(LOG_L_INFO, "configuration reloaded");
	daemon_watch(d);        /* idle_seconds may be another */
	notify_ready(d->notify);
	return 0;
}

/* --- start ------------------------------------------------------------------------------------ */

static const char usage[] =
	"qllmd [OPTION...]: serve quantized language models to local programs.\n"
	"\n"
	"  --config FILE     settings (default " SYSCONFDIR
	"/qllmd/qllmd.conf, then FILE.d/*.conf)\n"
	"  --socket PATH     where to listen (default: /run/qllmd/qllmd.sock, or below "
	"$XDG_RUNTIME_DIR)\n"
	"  --state-dir DIR   where models are kept\n"
	"  --cache-dir DIR   what may be deleted at any time\n"
	"  --threads N       compute threads (default: as many as affinity, cgroup and cores "
	"give)\n"
	"  --log-level L     error, warning, notice, info or debug\n"
	"  --check-config    read the settings, say what is wrong with them, and exit\n"
	"  --help-config     the keys of qllmd.conf(5), for the manual\n"
	"  --version         print the version and exit\n"
	"  --help            this text\n"
	"\n"
	"SIGHUP reloads the settings, SIGTERM drains and stops, a second SIGTERM stops now.\n";

/* 0 = go on, 1 = done, negative = usage. */
static int parse_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "socket", required_argument, NULL, 's' },
		{ "state-dir", required_argument, NULL, 'd' },
		{ "cache-dir", required_argument, NULL, 'C' },
		{ "threads", required_argument, NULL, 't' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "check-config", no_argument, NULL, 'k' },
		{ "help-config", no_argument, NULL, 'H' },
		{ "version", no_argument, NULL, 'V' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL },
	};
	static const struct {
		int opt;
		const char *key;
	} keys[] = { { 's', "socket" },
		     { 'd', "state_dir" },
		     { 'C', "cache_dir" },
		     { 't', "threads" },
		     { 'l', "log_level" } };
	int opt;

	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (opt == 'V') {
			printf("qllmd %s\n", QLLM_VERSION);
			return 1;
		}
		if (opt == 'h') {
			fputs(usage, stdout);
			return 1;
		}
		if (opt == 'H') {
			config_roff(stdout);
			return 1;
		}
		if (opt == '?')
			return -EINVAL;
		if (opt == 'k')
			o->check = true;
		if (opt == 'c')
			o->config = optarg;
		for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
			if (keys[i].opt != opt)
				continue;
			if (o->n_set == ARRAY_SIZE(o->set)) {
				fprintf(stderr, "qllmd: too many options\n");
				return -E2BIG;
			}
			o->set[o->n_set++] = (struct override){ keys[i].key, optarg };
		}
	}
	if (optind < argc) {
		fprintf(stderr, "qllmd: unexpected argument %s\n", argv[optind]);
		return -EINVAL;
	}
	return 0;
}

/* base/tail, or below the home directory when base is unset. variable: where base is from. */
static int default_path(struct config *c, const char *key, const char *variable, const char *base,
                        const char *home_tail, const char *tail, struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf path = { 0 };
	const char *home = getenv("HOME");
	int r;

	if (base && base[0] == '/')
		r = sbuf_printf(&path, "%.*s%s%s", (int)strcspn(base, ":"), base,
		                tail[0] ? "/" : "", tail);
	else if (home_tail && home && home[0] == '/')
		r = sbuf_printf(&path, "%s/%s/%s", home, home_tail, tail);
	else
		return err_set(
			err, -EINVAL,
			"no place for the daemon's files: give --socket and --state-dir, or set "
			"XDG_RUNTIME_DIR and HOME");
	if (r < 0)
		return err_set(err, r, "out of memory");
	return config_set(c, key, path.p, variable, err);
}

/* systemd's directories, else the system's for root, else the user's. */
static int fill_paths(struct config *c, struct err *err)
{
	static const struct {
		const char *key;
		size_t at;
		const char *unit, *system, *unit_tail, *user, *home, *user_tail;
	} rows[] = {
		{ "socket", offsetof(struct config, socket), "RUNTIME_DIRECTORY", "/run/qllmd",
		  "qllmd.sock", "XDG_RUNTIME_DIR", NULL, SOCKET_USER },
		{ "state_dir", offsetof(struct config, state_dir), "STATE_DIRECTORY",
		  "/var/lib/qllmd", "", "XDG_STATE_HOME", ".local/state", "qllmd" },
		{ "cache_dir", offsetof(struct config, cache_dir), "CACHE_DIRECTORY",
		  "/var/cache/qllmd", "", "XDG_CACHE_HOME", ".cache", "qllmd" },
	};
	_cleanup_mem_ char *passed = NULL;
	bool root = geteuid() == 0;
	int r = 0;

	/* The socket's unit makes its directory, so no variable tells of it. */
	if (!c->socket[0] && listener_passed(&passed) == 0)
		r = config_set(c, "socket", passed, "socket of systemd", err);
	for (size_t i = 0; i < ARRAY_SIZE(rows) && r == 0; i++) {
		const char *unit = getenv(rows[i].unit), *user = getenv(rows[i].user);
		char from[40] = "default";

		if ((*(char **)((char *)c + rows[i].at))[0])
			continue;
		if (unit || (user && !root))
			snprintf(from, sizeof(from), "$%s", unit ? rows[i].unit : rows[i].user);
		if (unit || root)
			r = default_path(c, rows[i].key, from, unit ? unit : rows[i].system, NULL,
			                 rows[i].unit_tail, err);
		else
			r = default_path(c, rows[i].key, from, user, rows[i].home,
			                 rows[i].user_tail, err);
	}
	return r;
}

static int load_config(struct daemon *d, const struct options *o, struct err *err)
{
	int r = read_config(&d->config, o, err);

	if (r == 0)
		r = fill_paths(d->config, err);
	if (r == 0)
		r = workers_find(d->config, err);
	return r == 0 ? journal_level(d->config->log_level, err) : r;
}

static int set_speculation(struct daemon *d, struct engine_config *ec, struct err *err)
{
	static const struct {
		const char *name;
		enum engine_guess guess;
		bool lookup;
	} modes[] = {
		{ "auto", GUESS_WHERE_IT_PAYS, true },
		{ "ask", GUESS_WHERE_IT_PAYS, false },
		{ "off", GUESS_NEVER, false },
		{ "always", GUESS_ALWAYS, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (strcmp(d->config->speculation, modes[i].name) == 0) {
			ec->guess = modes[i].guess;
			d->lookup = modes[i].lookup;
			return 0;
		}
	return err_set(err, -EINVAL, "speculation is \"%.40s\", known are auto, ask, off, always",
	               d->config->speculation);
}

static int start_engine(struct daemon *d, struct kernels *k, struct err *err)
{
	struct engine_config ec = {
		.threads = (uint32_t)d->config->threads,
		.budget = d->config->memory,
		.chunk = (uint32_t)d->config->chunk,
		.max_seqs = (uint32_t)d->config->max_sequences,
	};
	int r = set_speculation(d, &ec, err);

	if (r < 0)
		return r;
	r = kernels_init(k, getenv("QLLM_CPU"));

	if (r < 0)
		return err_set(err, r, "QLLM_CPU=%s: unknown level; this machine has: %s",
		               getenv("QLLM_CPU"), kernels_levels());
	d->kernels = k;
	return engine_new(&d->engine, &ec, k, err);
}

static int start_loop(struct daemon *d, struct err *err)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_set(err, -errno, "signals: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	r = sd_event_new(&d->event);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGTERM, on_terminate, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGINT, on_terminate, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGHUP, on_reload, d);
	if (r >= 0)
		r = sd_event_add_time_relative(d->event, &d->tick, CLOCK_MONOTONIC, TICK_US,
		                               TICK_US / 2, on_tick, d);
	if (r >= 0)
		r = posts_new(&d->posts, d->event);
	if (r >= 0)
		r = workers_new(&d->prep, "prep", 1);
	if (r >= 0)
		r = workers_new(&d->slow, "slow", SLOW_THREADS);
	if (r >= 0)
		r = workers_new(&d->intake, "intake", (unsigned)d->config->max_intake);
	return r < 0 ? err_set(err, r, "event loop and threads: %s", strerror(-r)) : 0;
}

/* The allocator's first return of memory outside the main arena reads a setting of the kernel: do
 * one, several blocks at the end of a heap. */
static void *settle_heap(void *unused)
{
	void *blocks[8];

	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		blocks[i] = mem_alloc(100 << 10);
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		mem_free(blocks[i]);
	return unused;
}

/* What libraries look up once, they look up now: a daemon that is ready opens nothing beside its
 * configuration, store and cache. */
static void settle_libraries(void)
{
	pthread_t thread;

	tzset();                        /* strftime would, whatever it is given */
	json_object_seed(0);
	if (pthread_create(&thread, NULL, settle_heap, NULL) == 0)
		pthread_join(thread, NULL);
}

/* Memory that a large header or prompt took goes back when it is freed. Left to itself the
 * allocator learns from the first large block to keep as much at the end of every thread's
 * arena. */
static void bound_arenas(void)
{
	mallopt(M_MMAP_THRESHOLD, ARENA_KEEP);
	mallopt(M_TRIM_THRESHOLD, ARENA_KEEP);
}

static void raise_files(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

/* Everything that may call back ends before what it calls into. false: a thread hangs in a client's
 * file system. */
static bool stop(struct daemon *d)
{
	bool joined = true;

	d->draining = d->stopping = true;
	d->listener = listener_free(d->listener);
	if (d->conns.next)
		list_for_safe(&d->conns, it)
			conn_close(container_of(it, struct conn, link), NULL);
	/* Workers first: an evaluation waits for the engine. */
	joined &= workers_stop(d->slow, STOP_WAIT_S);
	joined &= workers_stop(d->prep, STOP_WAIT_S);
	foreign_init(NULL);
	joined &= workers_stop(d->intake, STOP_WAIT_S);
	d->engine = engine_free(d->engine);
	if (d->posts)
		posts_run(d->posts);
	if (!joined)
		return false;
	d->notify = notify_free(d->notify);
	d->jobs = jobs_free(d->jobs);
	models_free(d->models);
	posts_free(d->posts);
	sd_event_source_disable_unref(d->tick);
	sd_event_source_disable_unref(d->deadline);
	sd_event_unref(d->event);
	config_free(d->config);
	return true;
}

static int run(struct daemon *d, const struct options *o, struct kernels *k, struct err *err)
{
	int r = load_config(d, o, err);

	if (r == 0)
		r = start_loop(d, err);
	if (r < 0)
		return r;
	find_admins(d);
	foreign_init(d);
	frame_set_closer(daemon_close_foreign);
	r = start_engine(d, k, err);
	if (r == 0)
		r = models_new(&d->models, d, err);
	if (r == 0)
		r = jobs_new(&d->jobs, d, err);
	if (r == 0 && mkdir(d->config->cache_dir, 0700) < 0 && errno != EEXIST)
		log_msg(LOG_L_NOTICE, "%s: %s: nothing is cached", d->config->cache_dir,
		        strerror(errno));
	if (r == 0)
		r = notify_new(&d->notify, d, err);
	if (r == 0)
		r = listener_new(&d->listener, d, err);
	if (r < 0)
		return r;
	log_fields(LOG_L_INFO, ID_START, NULL, 0, "qllmd %s: %s kernels, socket %s, models in %s",
	           QLLM_VERSION, k->level, listener_path(d->listener), d->config->state_dir);
	notify_ready(d->notify);
	jobs_pack_store(d->jobs);
	r = sd_event_loop(d->event);
	log_fields(LOG_L_INFO, ID_STOP, NULL, 0, "serving has ended, %u requests are cancelled",
	           d->n_calls);
	return r < 0 ? err_set(err, r, "event loop: %s", strerror(-r)) : 0;
}

/* The daemon's own rules and nothing else: no directory is made, no socket bound. */
static int check_config(const struct options *o)
{
	struct daemon d = { 0 };
	struct err err = { 0 };
	int r = load_config(&d, o, &err);

	config_free(d.config);
	if (r < 0)
		fprintf(stderr, "qllmd: %s\n", err.text[0] ? err.text : strerror(-r));
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

int main(int argc, char **argv)
{
	static struct kernels kernels;
	struct daemon d = { .started_us = daemon_now_us() };
	struct options options = { 0 };
	struct err err = { 0 };
	int r = parse_options(&options, argc, argv);

	if (r != 0)
		return r > 0 ? EXIT_OK : EXIT_USAGE;
	the_options = &options;
	if (options.check)
		return check_config(&options);
	umask(0077);
	list_init(&d.conns);
	users_init(&d.users, &d.config);
	metrics_init(&d.metrics);
	journal_setup();
	bound_arenas();
	raise_files();
	settle_libraries();
	r = run(&d, &options, &kernels, &err);
	if (r < 0)
		log_msg(LOG_L_ERR, "qllmd: %s", err.text[0] ? err.text : strerror(-r));
	if (!stop(&d)) {
		log_msg(LOG_L_WARN, "a thread hangs in a client's file system: it is left behind");
		_exit(r < 0 ? EXIT_FAILED : EXIT_OK);
	}
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}
