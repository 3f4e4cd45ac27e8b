# tests/fault: the n-th call of each kind fails, over a round of requests to a whole daemon.
FAULT_WRAP = calloc realloc posix_memalign mmap recvmsg sendmsg memfd_create pread fstat fallocate write \
	copy_file_range fsync linkat open openat fcntl
check_PROGRAMS += tests/fault/qllmd-fault
TESTS += tests/fault/qllmd-fault
tests_fault_qllmd_fault_SOURCES = tests/fault/qllmd-fault.c
tests_fault_qllmd_fault_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_fault_qllmd_fault_LDFLAGS = $(AM_LDFLAGS) $(FAULT_WRAP:%=-Wl,--wrap=%)
tests_fault_qllmd_fault_LDADD = libinproc.la
$(tests_fault_qllmd_fault_OBJECTS): | proto/qllm.pb-c.h
