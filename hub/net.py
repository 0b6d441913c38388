# SPDX-License-Identifier: Apache-2.0
"""Addresses and prefixes of both families under one name."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def covers(prefix: IPNetwork, target: IPAddress | IPNetwork) -> bool:
    """Tell whether `target` lies wholly inside `prefix`; never across families."""
    if isinstance(target, IPAddress):
        return target in prefix
    if isinstance(prefix, IPv4Network):
        return isinstance(target, IPv4Network) and target.subnet_of(prefix)
    return isinstance(target, IPv6Network) and target.subnet_of(prefix)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Tell whether the two share an address; never across families."""
    return covers(one, other) or covers(other, one)
