# OPTIONS and COMMANDS of qllmctl.1 are what `qllmctl help --roff` prints; tests/system holds them against each other.
dist_man_MANS += \
	man/libqllm.3 man/qllm_generate.3 man/qllm_job.3 man/qllm_list.3 man/qllm_tokenize.3 man/qllm-worker.8 man/qllmctl.1 man/qllmd.8 man/qllmd.conf.5
