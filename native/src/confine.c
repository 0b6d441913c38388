/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>

#include "privileges.h"

/* Refused with EPERM where something unforeseen asks, as a library's new habit must not end the
 * daemon; what only an intruder would ask for ends it. */
static const int calls[] = {
    SCMP_SYS(epoll_wait),      SCMP_SYS(epoll_pwait),	 SCMP_SYS(epoll_ctl),
    SCMP_SYS(accept4),	       SCMP_SYS(recvfrom),	 SCMP_SYS(recvmsg),
    SCMP_SYS(sendto),	       SCMP_SYS(sendmsg),	 SCMP_SYS(read),
    SCMP_SYS(write),	       SCMP_SYS(poll),		 SCMP_SYS(ppoll),
    SCMP_SYS(close),	       SCMP_SYS(getsockopt),	 SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),    SCMP_SYS(gettimeofday),	 SCMP_SYS(clock_nanosleep),
    SCMP_SYS(getpid),	       SCMP_SYS(gettid),	 SCMP_SYS(tgkill),
    SCMP_SYS(rt_sigaction),    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(munmap),	       SCMP_SYS(mremap),	 SCMP_SYS(brk),
    SCMP_SYS(madvise),	       SCMP_SYS(futex),		 SCMP_SYS(getrandom),
    SCMP_SYS(restart_syscall), SCMP_SYS(exit),		 SCMP_SYS(exit_group),
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
    SCMP_SYS(sigaltstack),     SCMP_SYS(mprotect),	 SCMP_SYS(prctl),
#endif
#endif
};

static const int deadly[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(mount),
    SCMP_SYS(setns),
    SCMP_SYS(unshare),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(io_uring_setup),
};

/* What can be done with maps and programs at hand; nothing new is made or found. */
static const int bpf_commands[] = {
    BPF_MAP_LOOKUP_ELEM,  BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
    BPF_MAP_GET_NEXT_KEY, BPF_PROG_TEST_RUN,   BPF_OBJ_GET_INFO_BY_FD,
};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static int allow(scmp_filter_ctx filter)
{
	int error = 0;

	for (size_t i = 0; i < COUNT(calls) && !error; i++)
		error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	for (size_t i = 0; i < COUNT(deadly) && !error; i++)
		error = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
	for (size_t i = 0; i < COUNT(bpf_commands) && !error; i++)
		error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(bpf), 1,
					 SCMP_A0(SCMP_CMP_EQ, bpf_commands[i]));
	if (!error)
		error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					 SCMP_A1(SCMP_CMP_EQ, SIOCGIFINDEX));
	if (!error)
		error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
					 SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return error;
}

bool privileges_confine(struct refusal *refusal)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int error = filter ? allow(filter) : -ENOMEM;

	if (!error)
		error = seccomp_load(filter);
	if (filter)
		seccomp_release(filter);
	return !error || refuse(refusal, E_INTERNAL, "build the kernel with CONFIG_SECCOMP_FILTER",
				"seccomp: %s", strerror(-error));
}
