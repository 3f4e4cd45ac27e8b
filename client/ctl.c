/* ctl - the table of commands and the global options. */
#include "client/ctl.h"

const struct ctl_opt ctl_globals[] = {
	{ "socket", 0, CTL_TEXT, "PATH",
	  "Socket of the daemon; else $QLLM_SOCKET, the user's daemon, the system's" },
	{ "json", 0, CTL_FLAG, NULL, "Print one JSON value instead of text for people" },
	{ "quiet", 'q', CTL_FLAG, NULL, "No notes, no progress; lists print names only" },
	{ "no-legend", 0, CTL_FLAG, NULL, "No column heads" },
	{ "no-pager", 0, CTL_FLAG, NULL, "Never start $PAGER" },
	{ "color", 0, CTL_CHOICE, "auto|always|never",
	  "Colour; auto obeys NO_COLOR and TERM=dumb" },
	{ "progress", 0, CTL_CHOICE, "auto|plain|json|none",
	  "Progress on stderr; auto shows a bar on a terminal only" },
	{ "timeout", 0, CTL_NUMBER, "S", "Give up after S seconds with exit code 124" },
	{ "help", 'h', CTL_FLAG, NULL, "Help, on a command if there is one" },
	{ 0 },
};

/* Names that scripts may meet before their commands exist. */
#define LATER(n, what)                                                      \
	static const struct ctl_cmd later_##n = {                           \
		.name = #n, .args = "...", .help = what, .flags = CTL_LATER \
	}
LATER(embed, "Embedding of a text");
LATER(score, "Log-probability of each token of a text");
LATER(rerank, "Order documents by relevance to a query");
LATER(stats, "Statistics of every tensor");
LATER(quantize, "Quantize a model");
LATER(calibrate, "Collect activation statistics");
LATER(advise, "Plan mixed precision");
LATER(lora, "Train, attach and merge adapters");
LATER(session, "Saved conversations");

const struct ctl_cmd *const ctl_cmds[] = {
	&ctl_cmd_run,
	&ctl_cmd_chat,
	&ctl_cmd_import,
	&ctl_cmd_ls,
	&ctl_cmd_show,
	&ctl_cmd_verify,
	&ctl_cmd_export,
	&ctl_cmd_job,
	&ctl_cmd_estimate,
	&ctl_cmd_rm,
	&ctl_cmd_load,
	&ctl_cmd_unload,
	&ctl_cmd_ps,
	&ctl_cmd_is_loaded,
	&ctl_cmd_tokenize,
	&ctl_cmd_detokenize,
	&ctl_cmd_template,
	&ctl_cmd_logits,
	&ctl_cmd_eval,
	&ctl_cmd_bench,
	&ctl_cmd_status,
	&ctl_cmd_client,
	&ctl_cmd_is_ready,
	&ctl_cmd_doctor,
	&ctl_cmd_config,
	&ctl_cmd_top,
	&ctl_cmd_monitor,
	&ctl_cmd_metrics,
	&ctl_cmd_completion,
	&ctl_cmd_version,
	&ctl_cmd_help,
	&later_embed,
	&later_score,
	&later_rerank,
	&later_stats,
	&later_quantize,
	&later_calibrate,
	&later_advise,
	&later_lora,
	&later_session,
	NULL,
};
