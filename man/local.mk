# OPTIONS and COMMANDS of qllmctl.1 are what `qllmctl help --roff` prints, the keys of qllmd.conf.5 what `qllmd
# --help-config` prints; tests/system holds them against each other, tests/lint-man.sh holds the rest.
dist_man_MANS += \
	man/qllm.3 man/qllm_clients.3 man/qllm_config.3 man/qllm_error_text.3 man/qllm_generate.3 man/qllm_job.3 \
	man/qllm_list.3 man/qllm_new.3 man/qllm_tokenize.3 man/qllm-protocol.7 man/qllm-worker.8 man/qllmctl.1 \
	man/qllmd.8 man/qllmd.conf.5
