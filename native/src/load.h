/* SPDX-License-Identifier: Apache-2.0 */
/* Enters flows that are open already into the flow tables, as the data plane would. */
#ifndef SYNPROXYD_LOAD_H
#define SYNPROXYD_LOAD_H

#include "engine.h"

struct open_flow {
	struct fnm_address client, server; /* of one family */
	uint16_t client_port, server_port;
};

/* true: a live flow had to go */
bool flow_load(struct engine *engine, const struct open_flow *flow);

#endif
