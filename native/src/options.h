/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#ifndef SYNPROXYD_OPTIONS_H
#define SYNPROXYD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine.h"

#define ALLOWED_USERS_MOST 16

enum command { RUN, CHECK, SELFTEST, DETACH, STATUS, SHOW_VERSION, SHOW_HELP };
enum egress_kind { EGRESS_AUTO, EGRESS_CLSACT };
enum verify_checksums { VERIFY_AUTO, VERIFY_ON, VERIFY_OFF };

struct options {
	enum command command;
	const char *interface[INTERFACES_MOST];
	unsigned int interfaces;
	const char *pin_dir, *socket, *socket_group, *user;
	const char *allow_user[ALLOWED_USERS_MOST];
	unsigned int allow_users;
	bool allow_generic, no_splice;
	enum verify_checksums verify;
	enum egress_kind egress;
	/* rows of the tables, before they are rounded up */
	uint64_t flows, flows6, sources, talkers, sightings, splices;
	uint64_t flow_idle, flow_closing, source_idle, inserts_per_second, splice_idle;
};

/* false: it has been told on stderr what is wrong */
bool options_read(struct options *options, int argc, char **argv);
void options_help(void);

#endif
