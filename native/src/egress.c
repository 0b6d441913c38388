/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "egress.h"

#define HANDLE	 0x666e6d /* "fnm" */
#define PRIORITY 1

#define TCX_EGRESS 47	     /* enum bpf_attach_type of Linux 6.6 */
#define TCX_BEFORE (1u << 3) /* BPF_F_BEFORE: all others */

static bool is_ours(uint32_t program_id)
{
	int fd = bpf_prog_get_fd_by_id(program_id);
	struct bpf_prog_info info = {0};
	__u32 size = sizeof(info);
	bool ours;

	if (fd < 0)
		return false;
	ours = !bpf_obj_get_info_by_fd(fd, &info, &size) && !strcmp(info.name, "fnm_egress");
	close(fd);
	return ours;
}

/* Our pinned link, or -1 where there is none, or its interface was made anew since. */
static int pinned_link(uint32_t ifindex, const char *pin)
{
	struct { /* struct bpf_link_info, which older headers have without tcx */
		__u32 type, id, prog_id, pad;
		__u32 ifindex, attach_type;
		__u32 rest[8];
	} info = {0};
	__u32 size = sizeof(info);
	int fd = bpf_obj_get(pin);

	if (fd < 0)
		return -1;
	if (!bpf_obj_get_info_by_fd(fd, &info, &size) && info.ifindex == ifindex)
		return fd;
	close(fd);
	unlink(pin);
	return -1;
}

/* libbpf 1.1 does not know this kind of link. */
static int create_link(uint32_t ifindex, int program)
{
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.link_create.prog_fd = program;
	attributes.link_create.target_ifindex = ifindex;
	attributes.link_create.attach_type = TCX_EGRESS;
	attributes.link_create.flags = TCX_BEFORE;
	return syscall(__NR_bpf, BPF_LINK_CREATE, &attributes, sizeof(attributes));
}

static int attach_link(uint32_t ifindex, int program, const char *pin)
{
	int fd = pinned_link(ifindex, pin), error = 0;

	if (fd >= 0) {
		error = bpf_link_update(fd, program, NULL) ? -errno : 0;
	} else {
		fd = create_link(ifindex, program);
		if (fd < 0)
			return -errno;
		error = bpf_obj_pin(fd, pin) ? -errno : 0;
	}
	close(fd);
	return error;
}

static int attach_filter(uint32_t ifindex, int program)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, options, .handle = HANDLE, .priority = PRIORITY,
		    .prog_fd = program, .flags = BPF_TC_F_REPLACE);
	/* It would warn that the qdisc is there already. */
	libbpf_print_fn_t print = libbpf_set_print(NULL);
	int error = bpf_tc_hook_create(&hook);

	libbpf_set_print(print);
	if (error && error != -EEXIST)
		return error;
	return bpf_tc_attach(&hook, &options);
}

int egress_attach(uint32_t ifindex, int program, const char *pin, bool *linked)
{
	*linked = *linked && !attach_link(ifindex, program, pin);
	if (*linked)
		return 0;
	/* Both would translate twice. */
	unlink(pin);
	return attach_filter(ifindex, program);
}

void egress_detach(uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, options, .handle = HANDLE, .priority = PRIORITY);

	/* The qdisc stays: whether others use it cannot be told. */
	if (bpf_tc_query(&hook, &options) || !is_ours(options.prog_id))
		return;
	options.prog_fd = options.prog_id = options.flags = 0;
	bpf_tc_detach(&hook, &options);
}
