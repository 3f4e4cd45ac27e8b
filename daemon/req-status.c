/* req-status - version and status: answered from snapshots, never waits for compute. */
#include <unistd.h>
#include "daemon/dispatch.h"
#include "daemon/listen.h"
#include "daemon/models.h"

void req_version(struct call *c)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__VersionReply v = QLLM__VERSION_REPLY__INIT;

	v.version = (char *)(uintptr_t)QLLM_VERSION;
	v.has_protocol = true;
	v.protocol = PROTO_VERSION;
	frame.body_case = QLLM__FRAME__BODY_VERSION_REPLY;
	frame.version_reply = &v;
	call_reply(c, &frame, NULL);
}

static void count_models(struct call *c, Qllm__StatusReply *s)
{
	list_for(models_list(c->d->models), it) {
		const struct entry *e = container_of(it, struct entry, link);

		if (e->state == ENTRY_IMPORTING || !models_visible(e, c->user->uid, c->admin))
			continue;
		s->models++;
		s->loaded += e->state == ENTRY_LOADED;
	}
}

void req_status(struct call *c)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__StatusReply s = QLLM__STATUS_REPLY__INIT;
	struct engine_stats stats = { 0 };
	struct daemon *d = c->d;

	engine_stats(d->engine, &stats);
	stats.threads_why[sizeof(stats.threads_why) - 1] = 0;
	s.has_ready = s.has_uptime_s = s.has_budget_bytes = s.has_used_bytes = s.has_models =
		s.has_loaded = true;
	s.has_connections = s.has_running = s.has_waiting = s.has_parked = s.has_threads =
		s.has_threads_active = true;
	s.has_prompt_tokens = s.has_decode_tokens = s.has_preemptions = s.has_pid = true;
	s.has_cached_bytes = s.has_cached_tokens = s.has_cache_hits = true;
	s.version = (char *)(uintptr_t)QLLM_VERSION;
	s.ready = !d->draining;
	s.uptime_s = (double)(daemon_now_us() - d->started_us) / 1e6;
	s.budget_bytes = stats.budget;
	s.used_bytes = stats.used;
	s.connections = d->n_conns;
	s.running = stats.running;
	s.waiting = stats.waiting;
	s.parked = stats.parked;
	s.threads = stats.threads;
	s.threads_active = stats.threads_active;
	s.threads_why = stats.threads_why;
	s.cpu = (char *)(uintptr_t)kernels_cpu_name();
	s.kernels = (char *)(uintptr_t)d->kernels->level;
	s.kernels_levels = (char *)(uintptr_t)kernels_levels();
	s.kernels_refused = (char *)(uintptr_t)kernels_refused();
	s.prompt_tokens = stats.prompt_tokens;
	s.decode_tokens = stats.decode_tokens;
	s.preemptions = stats.preemptions;
	s.cached_bytes = stats.cached;
	s.cached_tokens = stats.cached_tokens;
	s.cache_hits = stats.cache_hits;
	s.socket = (char *)(uintptr_t)listener_path(d->listener);
	s.state_dir = d->config->state_dir;
	s.pid = (uint32_t)getpid();
	count_models(c, &s);
	frame.body_case = QLLM__FRAME__BODY_STATUS_REPLY;
	frame.status_reply = &s;
	call_reply(c, &frame, NULL);
}
