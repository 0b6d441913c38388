/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/sockios.h>

#include "device.h"

static bool ask(int fd, const char *interface, unsigned long request, struct ifreq *answer,
		void *data)
{
	memset(answer, 0, sizeof(*answer));
	snprintf(answer->ifr_name, sizeof(answer->ifr_name), "%s", interface);
	answer->ifr_data = data;
	return !ioctl(fd, request, answer);
}

static uint32_t flag(int fd, const char *interface, uint32_t command)
{
	struct ethtool_value value = {.cmd = command};
	struct ifreq answer;

	return ask(fd, interface, SIOCETHTOOL, &answer, &value) ? value.data : 0;
}

static void read_driver(int fd, const char *interface, struct device *device)
{
	struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
	struct ifreq answer;

	if (ask(fd, interface, SIOCETHTOOL, &answer, &info))
		snprintf(device->driver, sizeof(device->driver), "%s", info.driver);
}

/* Devices above it appear as links upper_NAME; a VLAN has its own file in /proc. */
static unsigned int count_vlans(const char *interface)
{
	char path[64], vlan[300];
	struct dirent *entry;
	unsigned int count = 0;
	DIR *directory;

	snprintf(path, sizeof(path), "/sys/class/net/%.15s", interface);
	directory = opendir(path);
	while (directory && (entry = readdir(directory))) {
		if (strncmp(entry->d_name, "upper_", 6))
			continue;
		snprintf(vlan, sizeof(vlan), "/proc/self/net/vlan/%s", entry->d_name + 6);
		count += !access(vlan, F_OK);
	}
	if (directory)
		closedir(directory);
	return count;
}

bool device_read(const char *interface, struct device *device)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* any family will do */
	struct ifreq answer;
	uint32_t flags;
	bool found;

	memset(device, 0, sizeof(*device));
	if (fd < 0)
		return false;
	found = ask(fd, interface, SIOCGIFFLAGS, &answer, NULL);
	device->up = found && answer.ifr_flags & IFF_UP;
	if (found && ask(fd, interface, SIOCGIFHWADDR, &answer, NULL)) {
		device->ethernet = answer.ifr_hwaddr.sa_family == ARPHRD_ETHER ||
				   answer.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK;
		memcpy(device->address, answer.ifr_hwaddr.sa_data, sizeof(device->address));
	}
	if (found && ask(fd, interface, SIOCGIFMTU, &answer, NULL))
		device->mtu = answer.ifr_mtu;
	read_driver(fd, interface, device);
	flags = flag(fd, interface, ETHTOOL_GFLAGS);
	device->strips_vlan = flags & ETH_FLAG_RXVLAN;
	device->lro = flags & ETH_FLAG_LRO;
	device->has_peer = !strcmp(device->driver, "veth");
	device->vlans = count_vlans(interface);
	close(fd);
	return found;
}

bool device_leaves_checksums_open(const struct device *device)
{
	static const char *const virtual[] = {"veth",	      "virtio_net", "tun",
					      "xen_netfront", "hv_netvsc",  "bridge"};

	for (unsigned int i = 0; i < sizeof(virtual) / sizeof(virtual[0]); i++)
		if (!strcmp(device->driver, virtual[i]))
			return true;
	return false;
}
