# tests/fault: the n-th call of each kind fails, over a round of requests to a whole daemon.
FAULT_WRAP = calloc realloc posix_memalign mmap recvmsg sendmsg memfd_create pread fstat fallocate write \
	copy_file_range fsync linkat open openat fcntl
check_PROGRAMS += tests/fault/qllmd-fault
TESTS += tests/fault/qllmd-fault
tests_fault_qllmd_fault_SOURCES = tests/fault/qllmd-fault.c tests/fault/fault.h
tests_fault_qllmd_fault_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS)
tests_fault_qllmd_fault_LDFLAGS = $(AM_LDFLAGS) $(FAULT_WRAP:%=-Wl,--wrap=%)
tests_fault_qllmd_fault_LDADD = libinproc.la
$(tests_fault_qllmd_fault_OBJECTS): | proto/qllm.pb-c.h

# The same over the store, when a packed file takes the place of another.
STORE_FAULT_WRAP = calloc realloc openat pread fstat write fsync linkat renameat fchmod
check_PROGRAMS += tests/fault/store-fault
TESTS += tests/fault/store-fault
tests_fault_store_fault_SOURCES = tests/fault/store-fault.c tests/fault/fault.h daemon/store.c tests/lib/packold.c \
	tests/lib/packold.h
tests_fault_store_fault_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS) $(JANSSON_CFLAGS)
tests_fault_store_fault_LDFLAGS = $(AM_LDFLAGS) $(STORE_FAULT_WRAP:%=-Wl,--wrap=%)
tests_fault_store_fault_LDADD = libggufgen.la libquant.la libmodel.la libtext.la libformat.la libkernels.la libproto.la \
	libbase.la -lm $(JANSSON_LIBS)
$(tests_fault_store_fault_OBJECTS): | proto/qllm.pb-c.h

# The same over qllm-worker's pack, verify and export, by hand.
WORKER_FAULT_WRAP = calloc realloc posix_memalign mmap open fstat pread pwrite uring_wait io_uring_queue_init_params \
	fallocate fsync rename fcntl
check_LTLIBRARIES += libworker.la
libworker_la_SOURCES = quant/main.c
libworker_la_CPPFLAGS = $(qllm_worker_CPPFLAGS) -Dmain=qllm_worker_main
libworker_la_CFLAGS = $(qllm_worker_CFLAGS) -Wno-missing-prototypes
libworker_la_LIBADD = libquant.la libmodel.la libtext.la libformat.la libkernels.la libproto.la libbase.la -lm
$(libworker_la_OBJECTS): | proto/qllm.pb-c.h
check_PROGRAMS += tests/fault/worker-fault
TESTS += tests/fault/worker-fault
tests_fault_worker_fault_SOURCES = tests/fault/worker-fault.c tests/fault/fault.h
tests_fault_worker_fault_CPPFLAGS = $(AM_CPPFLAGS) $(PROTOBUFC_CFLAGS) $(URING_CFLAGS)
tests_fault_worker_fault_LDFLAGS = $(AM_LDFLAGS) $(WORKER_FAULT_WRAP:%=-Wl,--wrap=%)
tests_fault_worker_fault_LDADD = libggufgen.la libworker.la
$(tests_fault_worker_fault_OBJECTS): | proto/qllm.pb-c.h
