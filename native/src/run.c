/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "counters.h"
#include "daemon.h"
#include "filters.h"
#include "interfaces.h"
#include "log.h"
#include "mitigations.h"
#include "notify.h"
#include "privileges.h"
#include "ring.h"
#include "splicing.h"
#include "state.h"

#define TICK_MS 1000

struct daemon {
	const struct options *options;
	struct engine *engine;
	struct kernel kernel;
	struct pins pins;
	bool owns_pins;
	struct interfaces interfaces;
	struct control *control;
	struct ring *ring;
	int signals, poll, names; /* names: a socket that can be asked about interfaces */
	uint64_t next_tick_ms;
};

/* ---- start ---- */

static bool add_to_poll(const struct daemon *daemon, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	return !epoll_ctl(daemon->poll, EPOLL_CTL_ADD, fd, &event);
}

static bool catch_signals(struct daemon *daemon, struct refusal *refusal)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	daemon->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	daemon->poll = epoll_create1(EPOLL_CLOEXEC);
	daemon->names = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return (daemon->signals >= 0 && daemon->poll >= 0 && daemon->names >= 0 &&
		add_to_poll(daemon, daemon->signals)) ||
	       refuse(refusal, E_INTERNAL, NULL, "signalfd: %s", strerror(errno));
}

static bool open_doors(struct daemon *daemon, struct refusal *refusal)
{
	daemon->ring = ring_open(daemon->engine, daemon->kernel.maps.fd[MAP_SAMPLES], refusal);
	if (!daemon->ring)
		return false;
	daemon->control = control_open(daemon->engine, daemon->options, refusal);
	if (!daemon->control)
		return false;
	return (add_to_poll(daemon, ring_poll_fd(daemon->ring)) &&
		add_to_poll(daemon, control_poll_fd(daemon->control))) ||
	       refuse(refusal, E_INTERNAL, NULL, "epoll: %s", strerror(errno));
}

static bool drop_privileges(struct daemon *daemon, struct refusal *refusal)
{
	bool kept;

	if (!privileges_drop(&daemon->kernel, daemon->options->user, &kept, refusal))
		return false;
	if (kept)
		log_warning("privileges.kept", "{s:s,s:s}", "capability", "CAP_BPF", "todo",
			    "Linux 5.19 and later need none");
	return privileges_confine(refusal);
}

static void tell_state(const struct daemon *daemon)
{
	const struct engine *engine = daemon->engine;
	unsigned int gone = 0;

	for (unsigned int i = 0; i < daemon->options->interfaces; i++)
		gone += engine->facts.interface[i].gone;
	notify_status("%zu mitigations in force%s", engine->live,
		      gone ? "; an interface is gone" : "");
}

static bool start(struct daemon *daemon, struct refusal *refusal)
{
	struct engine *engine = daemon->engine;

	notify_open();
	if (!privileges_hide(refusal) || !catch_signals(daemon, refusal) ||
	    !pins_open(&daemon->pins, daemon->options->pin_dir, refusal))
		return false;
	daemon->owns_pins = true;
	notify(NOTIFY_PATIENCE); /* large tables take their time */
	notify_status("making the tables, loading the program");
	if (!state_open(engine, &daemon->kernel, daemon->options, daemon->pins.maps, refusal))
		return false;
	/* The socket comes before the programs: a second daemon must not swap those of the first.
	 */
	if (!open_doors(daemon, refusal) || !interfaces_attach(&daemon->interfaces, refusal) ||
	    !drop_privileges(daemon, refusal))
		return false;
	engine->facts.started_ms = engine->backend->monotonic_ms(engine->data);
	log_info("synproxyd.started", "{s:s,s:i,s:I,s:I,s:I,s:b,s:s}", "version", VERSION, "abi",
		 FNM_ABI, "hz", (json_int_t)engine->facts.hz, "memory_bytes",
		 (json_int_t)engine->facts.memory_bytes, "mitigations", (json_int_t)engine->live,
		 "state_kept", daemon->kernel.maps.kept, "socket", daemon->options->socket);
	tell_state(daemon);
	notify(NOTIFY_READY);
	return true;
}

/* ---- the loop ---- */

static bool exists(const struct daemon *daemon, const char *interface)
{
	struct ifreq answer = {0};

	snprintf(answer.ifr_name, sizeof(answer.ifr_name), "%s", interface);
	return !ioctl(daemon->names, SIOCGIFINDEX, &answer);
}

/* A link ends with its interface. One of the same name that comes later needs privileges, and so a
 * new start; whoever supervises the daemon sees to that. */
static bool needs_new_start(struct daemon *daemon)
{
	for (unsigned int i = 0; i < daemon->options->interfaces; i++) {
		const char *name = daemon->options->interface[i];
		bool *gone = &daemon->engine->facts.interface[i].gone;

		if (!*gone && attach_gone(&daemon->interfaces.attachments[i])) {
			*gone = true;
			log_error(
			    "interface.gone", "{s:s,s:s}", "interface", name, "todo",
			    "bring it back; synproxyd ends then, to be started again by systemd");
		}
		if (*gone && exists(daemon, name))
			return true;
	}
	return false;
}

/* false: the daemon is to end with EXIT_AGAIN */
static bool tick(struct daemon *daemon)
{
	int error = clock_refresh(&daemon->kernel);

	if (error)
		log_error("clock.stale", "{s:s}", "message", strerror(-error));
	mitigations_tick(daemon->engine);
	rates_tick(daemon->engine);
	filters_tick(daemon->engine);
	splicing_tick(daemon->engine);
	ring_take(daemon->ring);
	control_tick(daemon->control);
	if (needs_new_start(daemon))
		return false;
	/* Last: all of a pass has been done. */
	notify(NOTIFY_ALIVE);
	tell_state(daemon);
	return true;
}

static int wait_ms(const struct daemon *daemon, bool busy)
{
	uint64_t now = clock_coarse_ms();

	if (busy || now >= daemon->next_tick_ms)
		return 0;
	return daemon->next_tick_ms - now;
}

static bool stopped(const struct daemon *daemon)
{
	struct signalfd_siginfo signal_info;

	return read(daemon->signals, &signal_info, sizeof(signal_info)) > 0;
}

static int loop(struct daemon *daemon)
{
	struct epoll_event events[4];
	bool busy = false;

	daemon->next_tick_ms = clock_coarse_ms() + TICK_MS;
	for (;;) {
		int count = epoll_wait(daemon->poll, events, 4, wait_ms(daemon, busy));

		if (count < 0 && errno != EINTR)
			return EXIT_REFUSED;
		if (stopped(daemon))
			return 0;
		ring_take(daemon->ring);
		busy = control_work(daemon->control);
		busy |= filters_work(daemon->engine);
		if (clock_coarse_ms() < daemon->next_tick_ms)
			continue;
		/* Late ticks are not made up for: a rate is divided by the time it took. */
		daemon->next_tick_ms = clock_coarse_ms() + TICK_MS;
		if (!tick(daemon))
			return EXIT_AGAIN;
	}
}

static void close_all(struct daemon *daemon)
{
	control_close(daemon->control);
	ring_close(daemon->ring);
	state_close(daemon->engine, &daemon->kernel);
	pins_close(&daemon->pins);
	free(daemon->engine);
	notify_close();
}

int command_run(const struct options *options)
{
	struct daemon daemon = {
	    .options = options, .pins.lock = -1, .signals = -1, .poll = -1, .names = -1};
	struct refusal refusal;
	int code = EXIT_REFUSED;

	for (int i = 0; i < MAPS; i++)
		daemon.kernel.maps.fd[i] = -1;
	daemon.engine = calloc(1, sizeof(*daemon.engine));
	if (!daemon.engine)
		refuse(&refusal, E_INTERNAL, NULL, "no memory");
	daemon.interfaces = (struct interfaces){.options = options,
						.engine = daemon.engine,
						.kernel = &daemon.kernel,
						.pins = &daemon.pins};
	if (daemon.engine && start(&daemon, &refusal)) {
		code = loop(&daemon);
		notify(NOTIFY_STOPPING);
		log_info("synproxyd.stopped", "{s:s}", "message",
			 "what is in force stays so until its deadline");
	} else {
		log_refusal("synproxyd.refused", &refusal);
		if (daemon.owns_pins && !daemon.kernel.maps.kept)
			pins_undo(&daemon.pins);
	}
	if (daemon.engine)
		close_all(&daemon);
	return code;
}
