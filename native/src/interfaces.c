/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "device.h"
#include "egress.h"
#include "interfaces.h"
#include "log.h"
#include "mitigations.h"
#include "splicing.h"
#include "state.h"

/* An interface before its program is attached, and what is known of it. */
struct entrance {
	const char *name;
	struct device device;
	bool known; /* the device could be asked */
	bool verify;
	struct program *program; /* NULL: not loaded */
};

static void look_at(struct entrance *entrance, const char *name, const struct options *options)
{
	entrance->name = name;
	entrance->known = device_read(name, &entrance->device);
	if (options->verify != VERIFY_AUTO)
		entrance->verify = options->verify == VERIFY_ON;
	else
		entrance->verify =
		    entrance->known && !device_leaves_checksums_open(&entrance->device);
}

static void note_program(struct interface_facts *facts, int program)
{
	struct bpf_prog_info info = {0};
	__u32 size = sizeof(info);

	if (bpf_obj_get_info_by_fd(program, &info, &size))
		return;
	facts->instructions = info.xlated_prog_len / 8;
	facts->verified_instructions = info.verified_insns;
}

static void log_attached(const struct attachment *attachment, const struct interface_facts *facts)
{
	static const char *const words[] = {
	    [ATTACHED] = "attached", [SWAPPED] = "swapped", [REATTACHED] = "reattached"};

	log_info("interface.attached", "{s:s,s:I,s:s,s:s,s:b,s:I}", "interface", facts->name,
		 "ifindex", (json_int_t)facts->ifindex, "mode",
		 facts->generic ? "generic" : "native", "how", words[attachment->swap],
		 "verify_checksums", facts->verify_checksums, "instructions",
		 (json_int_t)facts->instructions);
}

static void warn_of_lost_tags(const struct entrance *entrance)
{
	const struct device *device = &entrance->device;

	if (entrance->known && device->strips_vlan && device->vlans)
		log_warning("interface.tags_lost", "{s:s,s:i,s:s}", "interface", entrance->name,
			    "vlan_devices", (int)device->vlans, "todo",
			    "ethtool -K NAME rxvlan off: the NIC takes VLAN tags out of the frame, "
			    "and answers would go out without");
}

/* With flows that are left from before it stays, whatever is asked for: they would break. */
static void attach_egress(struct interfaces *all, const char *interface, uint32_t ifindex,
			  const struct program *program)
{
	char link[PATH_MAX];
	bool wanted = !all->options->no_splice || all->engine->tables.control->splicing;
	bool linked = all->options->egress != EGRESS_CLSACT;
	int error;

	if (!wanted) {
		pins_drop_egress(all->pins, interface, ifindex);
		all->engine->facts.splice = false;
		return;
	}
	pins_path(all->pins, "way", interface, link, sizeof(link));
	error = egress_attach(ifindex, program_egress_fd(program), link, &linked);
	if (!error && linked)
		pins_drop_filter(all->pins, interface, ifindex);
	else if (!error)
		error = pins_mark_egress(all->pins, interface, program_egress_fd(program));
	if (all->options->no_splice || error)
		all->engine->facts.splice = false;
	if (error)
		log_warning("interface.no_egress", "{s:s,s:s,s:s}", "interface", interface,
			    "message", strerror(-error), "todo",
			    "the mode splice is not to be had; see whether the kernel has "
			    "sch_ingress and cls_bpf, or start it with --no-splice");
}

/* Where the daemon itself puts segments in, when a server has not answered. */
static void note_entrance(struct kernel *kernel, const struct entrance *entrance, uint32_t ifindex)
{
	if (kernel->judge_ifindex || !entrance->known)
		return;
	kernel->judge_program = dup(program_xdp_fd(entrance->program));
	kernel->judge_ifindex = ifindex;
	memcpy(kernel->judge_address, entrance->device.address, sizeof(kernel->judge_address));
}

static bool attach_one(struct interfaces *all, unsigned int i, const struct entrance *entrance,
		       struct refusal *refusal)
{
	struct interface_facts *facts = &all->engine->facts.interface[i];
	struct attachment *attachment = &all->attachments[i];
	int program = program_xdp_fd(entrance->program);

	if (!attach(attachment, all->pins, entrance->name, program, all->options->allow_generic,
		    refusal))
		return false;
	snprintf(facts->name, sizeof(facts->name), "%s", entrance->name);
	facts->ifindex = attachment->ifindex;
	facts->generic = attachment->generic;
	facts->verify_checksums = entrance->verify;
	note_program(facts, program);
	warn_of_lost_tags(entrance);
	attach_egress(all, entrance->name, attachment->ifindex, entrance->program);
	note_entrance(all->kernel, entrance, attachment->ifindex);
	all->engine->facts.interfaces++;
	log_attached(attachment, facts);
	return true;
}

/* One instance for each interface, as their constants differ; the first shows the clock as well. */
static bool load_programs(struct interfaces *all, struct entrance *entrances,
			  struct refusal *refusal)
{
	for (unsigned int i = 0; i < all->options->interfaces; i++) {
		struct entrance *one = &entrances[i];

		look_at(one, all->options->interface[i], all->options);
		one->program =
		    state_program(all->kernel,
				  &(struct state_settings){
				      .verify_checksums = one->verify,
				      .partial_checksums =
					  !one->known || device_leaves_checksums_open(&one->device),
				      .splice_idle = all->options->splice_idle},
				  refusal);
		if (!one->program)
			return false;
	}
	all->kernel->clock_program = dup(program_clock_fd(entrances[0].program));
	return true;
}

static bool clock_begin(struct kernel *kernel, struct refusal *refusal)
{
	int error = clock_refresh(kernel);

	if (error)
		return refuse(refusal, E_INTERNAL, NULL, "the engine clock cannot be read: %s",
			      strerror(-error));
	return clock_proven(kernel, refusal);
}

/* All that can fail comes before anything is attached or swapped. */
bool interfaces_attach(struct interfaces *all, struct refusal *refusal)
{
	const struct options *options = all->options;
	struct entrance entrances[INTERFACES_MOST] = {0};
	bool good = load_programs(all, entrances, refusal) && clock_begin(all->kernel, refusal) &&
		    mitigations_load(all->engine, refusal);

	all->engine->facts.splice = true;
	for (unsigned int i = 0; i < options->interfaces && good; i++)
		good = attach_one(all, i, &entrances[i], refusal);
	for (unsigned int i = 0; i < options->interfaces; i++)
		if (entrances[i].program)
			program_close(entrances[i].program);
	if (good) {
		pins_drop_others(all->pins, options->interface, options->interfaces);
		splicing_resume(all->engine);
	}
	return good;
}
