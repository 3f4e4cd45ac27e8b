/* fault - the n-th call of a kind fails. For one program each: the linker puts __wrap_X in the
 * place of X (tests/fault/local.mk), which asks fault_now whether to fail. Threads: any. */
#pragma once
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

struct fault_kind {
	const char *name;
	int error;                      /* errno of a failed call */
};

static __thread bool fault_spared __attribute__((unused)); /* calls of this thread never fail */
static atomic_int fault_armed, fault_error, fault_sticky, fault_fired;
static atomic_long fault_left;

/* The next call but n of that kind, not 0, fails; all_after: and each one after it. */
static void fault_arm(int kind, int error, long n, bool all_after)
{
	atomic_store(&fault_fired, 0);
	atomic_store(&fault_left, n);
	atomic_store(&fault_error, error);
	atomic_store(&fault_sticky, all_after);
	atomic_store(&fault_armed, kind);
}

/* Did one fail? */
static bool fault_disarm(void)
{
	atomic_store(&fault_armed, 0);
	return atomic_load(&fault_fired);
}

static bool fault_now(int kind)
{
	long n;

	if (atomic_load_explicit(&fault_armed, memory_order_relaxed) != kind || fault_spared)
		return false;
	n = atomic_fetch_sub(&fault_left, 1);
	if (n > 0 || (n < 0 && !atomic_load(&fault_sticky)))
		return false;
	atomic_store(&fault_fired, 1);
	errno = atomic_load(&fault_error);
	return true;
}

#define WRAP(kind, type, failure, name, parameters, arguments)                                     \
	type __real_##name parameters;                                                             \
	type __wrap_##name parameters;                                                             \
	type __wrap_##name parameters                                                              \
	{                                                                                          \
		return fault_now(kind) ? failure : __real_##name arguments;                        \
	}

/* A variadic function: what follows `last` is an int or a pointer, given or not, and is passed
 * on as `more`, of `type`, the longest it may be. */
#define WRAP_VARIADIC(kind, name, parameters, last, type, arguments) \
	int __real_##name parameters;                                                              \
	int __wrap_##name parameters;                                                              \
	int __wrap_##name parameters                                                               \
	{                                                                                          \
		va_list ap;                                                                        \
		type more;                                                                         \
		va_start(ap, last);                                                                \
		more = va_arg(ap, type);                                                           \
		va_end(ap);                                                                        \
		return fault_now(kind) ? -1 : __real_##name arguments;                             \
	}
