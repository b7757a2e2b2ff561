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

static long set_whole(function next, int pid, const struct iovec *part)
{
	static char state[65536];
	struct iovec whole = {state, sizeof(state)};

	if (next(PTRACE_GETREGSET, pid, kind, &whole) < 0)
		return -1;
	if (part->iov_len > whole.iov_len) {
		errno = EFAULT;
		return -1;
	}
	memcpy(state, part->iov_base, part->iov_len);
	return next(PTRACE_SETREGSET, pid, kind, &whole);
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
	long done = next(request, pid, address, data);
	if (done < 0 && errno == EFAULT && request == PTRACE_SETREGSET && address == kind)
		return set_whole(next, pid, data);
	return done;
}
