# SPDX-License-Identifier: Apache-2.0
"""This machine's own addresses and default gateways, from the kernel."""

import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from hub.net import IPAddress

_NET: Final = Path("/proc/thread-self/net")
_GATEWAY: Final = 0x2
"""RTF_GATEWAY of <linux/route.h>."""


def local() -> frozenset[IPAddress]:
    """Return this machine's addresses but for loopback and link-local ones."""
    found = {*_ipv4(_text("fib_trie")), *_ipv6(_text("if_inet6"))}
    return frozenset(one for one in found if not one.is_loopback and not one.is_link_local)


def gateways() -> frozenset[IPAddress]:
    """Return the next hops of the default routes but for link-local ones."""
    found = {*_gateways_ipv4(_text("route")), *_gateways_ipv6(_text("ipv6_route"))}
    return frozenset(one for one in found if not one.is_link_local)


def default_interfaces() -> frozenset[str]:
    """Return the interfaces by which IPv4's default routes leave."""
    rows = (line.split() for line in _text("route").splitlines()[1:])
    return frozenset(row[0] for row in rows if row[1] == row[7] == "00000000")


def _ipv4(trie: str) -> list[IPAddress]:
    found: list[IPAddress] = []
    last = ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.append(IPv4Address(last))
    return found


def _ipv6(table: str) -> list[IPAddress]:
    return [IPv6Address(bytes.fromhex(line.split()[0])) for line in table.splitlines()]


def _gateways_ipv4(table: str) -> list[IPAddress]:
    found: list[IPAddress] = []
    for line in table.splitlines()[1:]:
        row = line.split()
        if row[1] == row[7] == "00000000" and int(row[3], 16) & _GATEWAY:
            # As the machine itself holds it: network order in a native number.
            found.append(IPv4Address(socket.htonl(int(row[2], 16))))
    return found


def _gateways_ipv6(table: str) -> list[IPAddress]:
    rows = (line.split() for line in table.splitlines())
    return [
        IPv6Address(bytes.fromhex(row[4]))
        for row in rows
        if int(row[0], 16) == 0 and row[1] == "00" and int(row[8], 16) & _GATEWAY
    ]


def _text(name: str) -> str:
    try:
        return (_NET / name).read_text()
    except OSError:
        return ""
