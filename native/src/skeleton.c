/* SPDX-License-Identifier: Apache-2.0 */
#include "skeleton.h"

#include "engine.skel.h"

static struct engine_bpf *own(const struct program *program)
{
	return (struct engine_bpf *)program;
}

struct program *program_open(void)
{
	return (struct program *)engine_bpf__open();
}

void program_set(struct program *program, const struct constants *constants)
{
	struct engine_bpf__rodata *rodata = own(program)->rodata;

	rodata->fnm_ms_mult = constants->ms_mult;
	rodata->fnm_verify = constants->verify_checksums;
	rodata->fnm_flow4_mask = constants->flow4_sets - 1;
	rodata->fnm_flow6_mask = constants->flow6_sets - 1;
	rodata->fnm_source_mask = constants->source_sets - 1;
	rodata->fnm_sighting_mask = constants->sighting_sets - 1;
	rodata->fnm_talker_mask = constants->talker_sets - 1;
	rodata->fnm_splice_mask = constants->splice_sets - 1;
	rodata->fnm_splice_idle = constants->splice_idle;
	rodata->fnm_partial = constants->partial_checksums;
}

struct bpf_object *program_object(const struct program *program)
{
	return own(program)->obj;
}

int program_load(struct program *program)
{
	return engine_bpf__load(own(program));
}

int program_xdp_fd(const struct program *program)
{
	return bpf_program__fd(own(program)->progs.fnm_xdp);
}

int program_egress_fd(const struct program *program)
{
	return bpf_program__fd(own(program)->progs.fnm_egress);
}

int program_clock_fd(const struct program *program)
{
	return bpf_program__fd(own(program)->progs.fnm_clock);
}

void program_close(struct program *program)
{
	engine_bpf__destroy(own(program));
}
