/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>

#include "attach.h"
#include "device.h"
#include "log.h"

static uint32_t link_on(uint32_t ifindex, uint32_t program_id)
{
	struct bpf_link_info info;
	__u32 id = 0, size;
	uint32_t found = 0;
	int fd;

	while (!found && !bpf_link_get_next_id(id, &id)) {
		fd = bpf_link_get_fd_by_id(id);
		if (fd < 0)
			continue;
		memset(&info, 0, sizeof(info));
		size = sizeof(info);
		if (!bpf_obj_get_info_by_fd(fd, &info, &size) && info.type == BPF_LINK_TYPE_XDP &&
		    info.xdp.ifindex == ifindex && info.prog_id == program_id)
			found = id;
		close(fd);
	}
	return found;
}

static void name_of(uint32_t program_id, char *name, size_t size)
{
	int fd = bpf_prog_get_fd_by_id(program_id);
	struct bpf_prog_info info = {0};
	__u32 length = sizeof(info);

	snprintf(name, size, "unknown");
	if (fd < 0)
		return;
	if (!bpf_obj_get_info_by_fd(fd, &info, &length))
		snprintf(name, size, "%s", info.name);
	close(fd);
}

bool attach_present(uint32_t ifindex, struct present *present)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, query);

	memset(present, 0, sizeof(*present));
	if (bpf_xdp_query(ifindex, 0, &query))
		return false;
	present->generic = query.skb_prog_id;
	present->program_id = query.drv_prog_id	 ? query.drv_prog_id
			      : query.hw_prog_id ? query.hw_prog_id
						 : query.skb_prog_id;
	if (present->program_id) {
		present->link_id = link_on(ifindex, present->program_id);
		name_of(present->program_id, present->name, sizeof(present->name));
	}
	return true;
}

bool attach_refuse_foreign(const char *interface, const struct present *present,
			   struct refusal *refusal)
{
	static char todo[256]; /* outlives the refusal's reader; there is one thread */

	if (present->link_id)
		snprintf(
		    todo, sizeof(todo),
		    "see it with: bpftool net show dev %s; if it may go, stop the program that "
		    "attached it, or: bpftool link detach id %u",
		    interface, present->link_id);
	else
		snprintf(todo, sizeof(todo),
			 "see it with: bpftool net show dev %s; if it may go: ip link set dev %s "
			 "xdp%s off",
			 interface, interface, present->generic ? "generic" : "drv");
	return refuse(refusal, E_UNSUPPORTED, todo,
		      "%s has an XDP program already, which is not this synproxyd's: %s, id %u",
		      interface, present->name, present->program_id);
}

static bool holds(int link, uint32_t ifindex, const struct present *present)
{
	struct bpf_link_info info = {0};
	__u32 size = sizeof(info);

	return !bpf_obj_get_info_by_fd(link, &info, &size) && info.type == BPF_LINK_TYPE_XDP &&
	       info.xdp.ifindex == ifindex && info.prog_id == present->program_id;
}

bool attach_is_ours(const struct pins *pins, const char *interface, uint32_t ifindex,
		    const struct present *present)
{
	char path[PATH_MAX];
	bool ours;
	int fd;

	pins_path(pins, "link", interface, path, sizeof(path));
	fd = bpf_obj_get(path);
	if (fd < 0)
		return false;
	ours = holds(fd, ifindex, present);
	close(fd);
	return ours;
}

/* Our pinned link, or -1 where it is absent or its interface was made anew since. */
static int pinned_link(const char *path, uint32_t ifindex, const struct present *present)
{
	int fd = bpf_obj_get(path);

	if (fd < 0)
		return -1;
	if (holds(fd, ifindex, present))
		return fd;
	log_info("interface.renewed", "{s:s}", "pin", path);
	close(fd);
	unlink(path);
	return -1;
}

static int create(int program, uint32_t ifindex, uint32_t flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, options, .flags = flags);
	int fd = bpf_link_create(program, ifindex, BPF_XDP, &options);

	return fd < 0 ? -errno : fd;
}

static bool refuse_native(const char *interface, int error, struct refusal *refusal)
{
	if (error == -EPERM || error == -EACCES)
		return refuse(refusal, E_INTERNAL,
			      "run it as root, or with CAP_BPF and CAP_NET_ADMIN",
			      "%s: attaching is not permitted", interface);
	return refuse(
	    refusal, E_UNSUPPORTED,
	    "read the kernel log (dmesg) for the driver's reason: an MTU that is too large, "
	    "LRO, or too few queues; or take another NIC, or allow the slow generic mode by "
	    "--allow-generic",
	    "%s: its driver does not take the program in native mode: %s", interface,
	    strerror(-error));
}

static bool link_anew(struct attachment *attachment, const char *path, const char *interface,
		      int program, bool allow_generic, struct refusal *refusal)
{
	int fd = create(program, attachment->ifindex, XDP_FLAGS_DRV_MODE), native_error = fd;

	attachment->generic = false;
	if (fd < 0 && allow_generic) {
		fd = create(program, attachment->ifindex, XDP_FLAGS_SKB_MODE);
		attachment->generic = fd >= 0;
	}
	if (fd < 0)
		return refuse_native(interface, native_error, refusal);
	if (attachment->generic)
		log_warning("interface.generic", "{s:s,s:s,s:s}", "interface", interface, "message",
			    strerror(-native_error), "todo",
			    "generic mode is slow: use a NIC whose driver has native XDP");
	attachment->link = fd;
	return !bpf_obj_pin(fd, path) ||
	       refuse(refusal, E_INTERNAL, NULL, "%s: %s", path, strerror(errno));
}

/* Nothing passes unjudged meanwhile: the old program works until the new one does. */
static bool swap(struct attachment *attachment, const char *interface, int program,
		 struct refusal *refusal)
{
	attachment->swap = SWAPPED;
	return !bpf_link_update(attachment->link, program, NULL) ||
	       refuse(refusal, E_INTERNAL, NULL, "%s: the program cannot be swapped: %s", interface,
		      strerror(errno));
}

static void pin_program(const struct pins *pins, const char *interface, int program)
{
	char path[PATH_MAX];

	pins_path(pins, "program", interface, path, sizeof(path));
	unlink(path);
	/* The link holds the program; the pin only shows it to bpftool. */
	if (bpf_obj_pin(program, path))
		log_warning("program.unpinned", "{s:s,s:s}", "path", path, "message",
			    strerror(errno));
}

/* On a tunnel the program would look for addresses where none are, and pass everything. */
static bool refuse_without_ethernet(const char *interface, struct refusal *refusal)
{
	struct device device;

	if (!device_read(interface, &device) || device.ethernet)
		return true;
	return refuse(refusal, E_UNSUPPORTED,
		      "name the interface on which the frames come in that carry its packets",
		      "%s has no Ethernet frames, and the program reads no others", interface);
}

bool attach(struct attachment *attachment, const struct pins *pins, const char *interface,
	    int program, bool allow_generic, struct refusal *refusal)
{
	char path[PATH_MAX];
	struct present present;
	bool good;

	attachment->swap = ATTACHED;
	attachment->ifindex = if_nametoindex(interface);
	if (!attachment->ifindex)
		return refuse(refusal, E_UNSUPPORTED, "see the names with: ip link",
			      "there is no interface %s", interface);
	if (!refuse_without_ethernet(interface, refusal))
		return false;
	if (!attach_present(attachment->ifindex, &present))
		return refuse(refusal, E_INTERNAL, NULL,
			      "%s: the kernel does not say what is on it", interface);
	pins_path(pins, "link", interface, path, sizeof(path));
	attachment->link = pinned_link(path, attachment->ifindex, &present);
	attachment->generic = present.generic;
	if (attachment->link >= 0 && present.generic && !allow_generic) {
		close(attachment->link);
		unlink(path);
		attachment->link = -1;
		attachment->swap = REATTACHED;
		present.program_id = 0;
	}
	if (attachment->link < 0 && present.program_id)
		return attach_refuse_foreign(interface, &present, refusal);
	good = attachment->link >= 0
		   ? swap(attachment, interface, program, refusal)
		   : link_anew(attachment, path, interface, program, allow_generic, refusal);
	if (good)
		pin_program(pins, interface, program);
	return good;
}

bool attach_gone(const struct attachment *attachment)
{
	struct bpf_link_info info = {0};
	__u32 size = sizeof(info);

	return !bpf_obj_get_info_by_fd(attachment->link, &info, &size) && !info.xdp.ifindex;
}
