/* ctl-metrics - the daemon's counters as a Prometheus scraper reads them. */
#include "client/ctl.h"

static int run_metrics(struct ctl *c)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, qllm_metrics(c->q, ctl_on_event, &reply), &reply);

	if (code == EXIT_OK && c->json)
		code = out_json(c,
				json_pack("{s:o}", "metrics", out_text(reply.data, reply.n_data)));
	else if (code == EXIT_OK)
		fwrite(reply.data, 1, reply.n_data, stdout);
	ctl_reply_deinit(&reply);
	return code;
}

const struct ctl_cmd ctl_cmd_metrics = {
	.name = "metrics",
	.args = "",
	.help = "Counters, gauges and latencies as Prometheus text; per model only those you may "
		"see",
	.flags = CTL_CONNECT,
	.run = run_metrics,
	.example = "qllmctl metrics >/var/lib/node_exporter/qllmd.prom",
};
