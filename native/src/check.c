/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <linux/if_link.h>

#include "attach.h"
#include "daemon.h"
#include "device.h"
#include "pins.h"
#include "state.h"

/* A frame and XDP's headroom of 256 bytes in a page, less what the kernel puts behind it. */
#define MTU_MOST_WITHOUT_FRAGMENTS 3498
#define SMALL_TABLES		   4096

/* "no": run would refuse. "poor": it would run, and not as well as it could. */
static unsigned int failures;

static void line(const char *word, const char *todo, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void line(const char *word, const char *todo, const char *format, ...)
{
	va_list arguments;

	failures += !strcmp(word, "no");
	printf("%-4s ", word);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	if (todo)
		printf("; %s", todo);
	putchar('\n');
}

static bool read_file(const char *path, char *text, size_t size)
{
	FILE *file = fopen(path, "re");
	bool good = file && fgets(text, size, file);

	if (file)
		fclose(file);
	if (good)
		text[strcspn(text, "\n")] = 0;
	return good;
}

static void check_kernel(void)
{
	struct utsname name;
	char text[32];

	uname(&name);
	line("note", NULL, "kernel %s, HZ %u", name.release, clock_hz());
	if (!read_file("/proc/sys/net/core/bpf_jit_enable", text, sizeof(text)))
		line("note", NULL, "whether programs are compiled (JIT) cannot be read");
	else if (*text == '0')
		line("poor", "sysctl net.core.bpf_jit_enable=1",
		     "programs are interpreted, which costs most of the speed");
	else
		line("ok", NULL, "programs are compiled (JIT)");
}

static void check_place(const struct options *options)
{
	if (pins_on_bpffs(options->pin_dir))
		line("ok", NULL, "%s is on a bpf file system", options->pin_dir);
	else
		line("no", "mount -t bpf bpf /sys/fs/bpf, or name another one in --pin-dir",
		     "%s is not on a bpf file system", options->pin_dir);
}

static void check_user(void)
{
	if (geteuid())
		line("note", "run it as root", "what follows is tried as user %u", geteuid());
}

/* The program on maps of its own, small ones: it stays in nobody's way. */
static struct program *try_program(struct engine *engine, struct kernel *kernel,
				   const struct options *options)
{
	struct options small = *options;
	struct refusal refusal;
	struct program *program = NULL;

	small.flows = small.flows6 = small.sources = SMALL_TABLES;
	small.talkers = small.sightings = SMALL_TABLES;
	if (state_open(engine, kernel, &small, NULL, &refusal)) {
		line("ok", NULL, "the kernel makes the maps");
		program = state_program(kernel, &(struct state_settings){0}, &refusal);
	}
	if (!program) {
		line("no", refusal.todo, "%s", refusal.message);
		return NULL;
	}
	line("ok", NULL, "the kernel loads the program");
	kernel->clock_program = dup(program_clock_fd(program));
	if (clock_refresh(kernel) || !clock_proven(kernel, &refusal))
		line("no", "report this kernel to the project", "the engine clock does not run");
	else
		line("ok", NULL, "the engine clock goes with the kernel's");
	return program;
}

static bool takes(struct program *program, uint32_t ifindex, uint32_t flags, int *error)
{
	LIBBPF_OPTS(bpf_link_create_opts, create, .flags = flags);
	int fd = bpf_link_create(program_xdp_fd(program), ifindex, BPF_XDP, &create);

	*error = fd < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void check_attaching(const char *interface, uint32_t ifindex, struct program *program,
			    const struct options *options)
{
	struct present present;
	struct pins pins;
	struct refusal refusal;
	int error;

	if (attach_present(ifindex, &present) && present.program_id) {
		if (!strcmp(present.name, "fnm_xdp") ||
		    (pins_name(&pins, options->pin_dir) &&
		     attach_is_ours(&pins, interface, ifindex, &present)))
			line("note", "ask it with: synproxyd status",
			     "%s: a synproxyd is attached, so nothing is tried here", interface);
		else if (!attach_refuse_foreign(interface, &present, &refusal))
			line("no", refusal.todo, "%s", refusal.message);
		return;
	}
	if (takes(program, ifindex, XDP_FLAGS_DRV_MODE, &error))
		line("ok", NULL, "%s: takes the program in native mode", interface);
	else if (takes(program, ifindex, XDP_FLAGS_SKB_MODE, &(int){0}))
		line(options->allow_generic ? "poor" : "no",
		     "take another NIC, or allow the slow generic mode by --allow-generic",
		     "%s: takes the program in generic mode only (%s)", interface, strerror(error));
	else
		line("no", "read the kernel log (dmesg) for the driver's reason",
		     "%s: does not take the program (%s)", interface, strerror(error));
}

static void check_device(const char *interface, const struct device *device)
{
	line("note", NULL, "%s: driver %s, MTU %u", interface,
	     *device->driver ? device->driver : "unknown", device->mtu);
	if (!device->ethernet)
		line("no", "name the interface below it",
		     "%s: has no Ethernet frames, and the program reads no others", interface);
	if (!device->up)
		line("note", "ip link set dev NAME up", "%s: is down", interface);
	if (device->mtu > MTU_MOST_WITHOUT_FRAGMENTS)
		line("note", "lower the MTU if the driver refuses the program",
		     "%s: frames do not fit into one page, which some drivers do not take",
		     interface);
	if (device->lro)
		line("note", "ethtool -K NAME lro off",
		     "%s: LRO is on, which many drivers do not take together with XDP", interface);
	if (device->strips_vlan && device->vlans)
		line("poor", "ethtool -K NAME rxvlan off",
		     "%s: the NIC takes VLAN tags out of the frame, and there are %u VLAN devices: "
		     "the program would not see which one a packet belongs to",
		     interface, device->vlans);
	if (device->has_peer)
		line("note", NULL,
		     "%s: a veth; its answers reach the peer only where an XDP program is attached "
		     "to that as well, one that passes everything will do",
		     interface);
	if (device_leaves_checksums_open(device))
		line("note", NULL,
		     "%s: a virtual device; checksums are not verified on it unless "
		     "--verify-checksums on",
		     interface);
}

static void check_interface(const char *interface, struct program *program,
			    const struct options *options)
{
	uint32_t ifindex = if_nametoindex(interface);
	struct device device;

	if (!ifindex || !device_read(interface, &device)) {
		line("no", "see the names with: ip link", "%s: there is no such interface",
		     interface);
		return;
	}
	check_device(interface, &device);
	if (program)
		check_attaching(interface, ifindex, program, options);
}

int command_check(const struct options *options)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	struct kernel kernel = {.clock_program = -1};
	struct program *program;

	if (!engine)
		return EXIT_REFUSED;
	check_user();
	check_kernel();
	check_place(options);
	program = try_program(engine, &kernel, options);
	for (unsigned int i = 0; i < options->interfaces; i++)
		check_interface(options->interface[i], program, options);
	if (program)
		program_close(program);
	state_close(engine, &kernel);
	free(engine);
	return failures ? EXIT_REFUSED : 0;
}
