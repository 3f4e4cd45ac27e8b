# tests/nspawn: the installed service under a real systemd; ./check runs it after the system tests.
EXTRA_DIST += \
	tests/nspawn/image.py tests/nspawn/machine.py tests/nspawn/run tests/nspawn/test_packages.py tests/nspawn/test_service.py \
	tests/nspawn/test_units.py tests/nspawn/test_worker.py
