# tests/system: the tests against a real daemon; ./check runs them after `make check`.
EXTRA_DIST += \
	tests/system/gguf_file.py tests/system/harness.py tests/system/run tests/system/test_bench.py tests/system/test_idle.py \
	tests/system/test_hostile.py \
	tests/system/test_jobs.py tests/system/test_json.py tests/system/test_manager.py tests/system/test_models.py \
	tests/system/test_ops.py tests/system/test_pack.py tests/system/test_prefix.py \
	tests/system/test_quota.py tests/system/test_refusals.py \
	tests/system/test_restart.py tests/system/test_serving.py tests/system/test_spec.py tests/system/test_sigbus.py tests/system/test_strace.py \
	tests/system/test_text.py tests/system/test_usage.py
