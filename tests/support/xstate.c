/*
 * For User Mode Linux on processors with AMX, loaded before it by LD_PRELOAD.
 *
 * Linux takes an extended processor state (NT_X86_XSTATE in ptrace(2)) only whole; where tiles make
 * it 11 KB, the 2.7 KB that User Mode Linux 6.1 keeps for a process are refused with EFAULT, and its
 * init dies. What it does not keep stays as it is: nobody inside can have asked for tiles.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

typedef long (*function)(enum __ptrace_request, int, void *, void *);

static void *const kind = (void *)NT_X86_XSTATE;

static char state[65536]; /* beyond what is kept: tiles, which are in their first state */
static size_t whole_bytes; /* 0 until something shorter has been refused */

static long set_whole(function next, int pid, const struct iovec *part)
{
	struct iovec whole = {state, whole_bytes};

	if (part->iov_len > whole.iov_len) {
		errno = EFAULT;
		return -1;
	}
	memcpy(state, part->iov_base, part->iov_len);
	return next(PTRACE_SETREGSET, pid, kind, &whole);
}

static long set_measured(function next, int pid, const struct iovec *part)
{
	static char own[sizeof(state)];
	struct iovec whole = {own, sizeof(own)};

	if (next(PTRACE_GETREGSET, pid, kind, &whole) < 0)
		return -1;
	whole_bytes = whole.iov_len;
	return set_whole(next, pid, part);
}

long ptrace(enum __ptrace_request request, ...)
{
	static function next;
	va_list given;
	va_start(given, request);
	int pid = va_arg(given, int);
	void *address = va_arg(given, void *);
	void *data = va_arg(given, void *);
	va_end(given);

	if (next == NULL)
		next = (function)dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || address != kind)
		return next(request, pid, address, data);
	if (whole_bytes != 0)
		return set_whole(next, pid, data);
	long done = next(request, pid, address, data);
	/* For whatever reason: a signal may have come meanwhile, and its handler changed errno. */
	return done < 0 ? set_measured(next, pid, data) : done;
}
