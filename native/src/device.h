/* SPDX-License-Identifier: Apache-2.0 */
/* What an interface is, as far as it matters for XDP. */
#ifndef SYNPROXYD_DEVICE_H
#define SYNPROXYD_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

struct device {
	char driver[32]; /* "" where it has none to tell */
	bool up;
	bool ethernet; /* its frames begin with an Ethernet header */
	unsigned int mtu;
	unsigned char address[6];
	bool strips_vlan;   /* the NIC takes tags out of the frame */
	unsigned int vlans; /* VLAN devices on it */
	bool has_peer;	    /* veth */
	bool lro;
};

bool device_read(const char *interface, struct device *device);
/* A virtual device hands over packets whose checksum is still to be filled in. */
bool device_leaves_checksums_open(const struct device *device);

#endif
