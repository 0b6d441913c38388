# SPDX-License-Identifier: Apache-2.0
"""A lab for the native engine: kernels' own TCP on both sides, and what each of them made of it.

The client owns whole networks, so that a test can come from an address that nobody has proven yet.
"""

import json
import os
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import count
from typing import Final

import pytest

from tests.support.netns import (
    ACK,
    CLIENT,
    CLIENT4,
    CLIENT6,
    GATEWAY,
    INSIDE,
    OUTSIDE,
    SERVER,
    SERVER4,
    SERVER6,
    SYN,
    Lab,
    inside,
    run,
)
from tests.support.stack_xdp import attach, passing_program

TARGETS: Final = {4: SERVER4, 6: SERVER6}
BOTH_FAMILIES: Final = pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
ECHO: Final = 8080
"""Repeats what it is told; after the client's end of file it says goodbye."""

_CLIENTS4: Final = "198.18.0.0/16"
_CLIENTS6: Final = "2001:db8:5::/64"
_STRANGERS4: Final = "198.19.0.0/16"
_STRANGERS6: Final = "2001:db8:6::/64"
_numbers = count(1)


def fresh_client(family: int = 4) -> str:
    """Return an address of the client that no test has used; its kernel answers for it."""
    return _nth(_CLIENTS4 if family == 4 else _CLIENTS6)


def fresh_stranger(family: int = 4) -> str:
    """Return an address that is routed to the client, but to which no kernel answers."""
    return _nth(_STRANGERS4 if family == 4 else _STRANGERS6)


def _nth(network: str) -> str:
    base = ip_address(network.split("/", maxsplit=1)[0])
    kind = IPv4Address if base.version == 4 else IPv6Address
    return str(kind(int(base) + next(_numbers)))


@dataclass(frozen=True, slots=True)
class Profile:
    """What a SYN-ACK of the server shows."""

    mss: int
    wscale: int
    window: int
    ttl: int


class Stand(Lab):
    """A lab whose server takes cookies of its own kernel, and whose gateway can run the engine."""

    def __init__(self) -> None:
        super().__init__()
        self._profiles: dict[int, Profile] = {}

    def _build(self) -> None:
        super()._build()
        self.ip(CLIENT, "route", "add", "local", _CLIENTS4, "dev", "lo")
        self.ip(CLIENT, "-6", "route", "add", "local", _CLIENTS6, "dev", "lo")
        for network in (_CLIENTS4, _STRANGERS4):
            self.ip(GATEWAY, "route", "add", network, "via", CLIENT4)
        for network in (_CLIENTS6, _STRANGERS6):
            self.ip(GATEWAY, "-6", "route", "add", network, "via", CLIENT6)
        self.sysctl(CLIENT, "net/ipv6/ip_nonlocal_bind", 1)
        self.sysctl(SERVER, "net/ipv4/tcp_syncookies", 2)
        self.sysctl(SERVER, "net/ipv4/tcp_timestamps", 2)
        # What XDP sends back out of a veth is only looked at where the peer has a program, too.
        inside(self.names[CLIENT], lambda: attach("eth0", passing_program()))
        self.offload(CLIENT, "eth0", tx=False)
        for role in self.names:
            self._carry_in_order(role)
        # Between programs a veth is a ring of 256; with a queue before it nothing is lost there.
        for role, interface in ((CLIENT, "eth0"), (GATEWAY, OUTSIDE)):
            queue = ("qdisc", "add", "dev", interface, "root", "pfifo", "limit", "10000")
            run(*self.prefix(role), "tc", *queue)

    def _carry_in_order(self, role: str) -> None:
        # A veth loses the order within a flow when the sender moves to another CPU, which a card
        # with RSS does not: let one CPU take all that arrives (RPS).
        cpu = 1 if role == GATEWAY or os.cpu_count() == 1 else 2
        queues = f'for one in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {cpu} >"$one"; done'
        run(*self.prefix(role), "sh", "-c", queues)

    def make_ordinary(self) -> None:
        """Give the server a kernel's usual settings: cookies only in need, and offsets of time."""
        self.sysctl(SERVER, "net/ipv4/tcp_syncookies", 1)
        self.sysctl(SERVER, "net/ipv4/tcp_timestamps", 1)

    def sysctl(self, role: str, path: str, value: int) -> None:
        """Set a kernel setting of a namespace."""
        self.files(role).write_now(f"sys/{path}", str(value))

    @asynccontextmanager
    async def setting(self, role: str, values: Mapping[str, object]) -> AsyncIterator[None]:
        """Have other settings below net/ipv4 while the context lasts."""
        files = self.files(role)
        before = {name: await files.read(f"sys/net/ipv4/{name}") for name in values}
        try:
            for name, value in values.items():
                await files.write(f"sys/net/ipv4/{name}", str(value))
            yield
        finally:
            for name, text in before.items():
                await files.write(f"sys/net/ipv4/{name}", text)

    def offload(self, role: str, interface: str, **features: bool) -> None:
        """Switch features of an interface on or off."""
        words = [word for name, on in features.items() for word in (name, "on" if on else "off")]
        run(*self.prefix(role), "ethtool", "-K", interface, *words)

    def mac(self, role: str, interface: str) -> bytes:
        """Return the hardware address of an interface."""
        shown = json.loads(self.ip(role, "-j", "link", "show", interface))
        return bytes.fromhex(shown[0]["address"].replace(":", ""))

    async def xdp_counts(self) -> Counter[str]:
        """Return what the driver has counted of XDP on the gateway's outside interface."""
        text = await self.run(GATEWAY, "ethtool", "-S", OUTSIDE)
        total: Counter[str] = Counter()
        for name, value in re.findall(r"rx_queue_\d+_(\w+): (\d+)", text):
            total[name] += int(value)
        return total

    async def xdp_program(self) -> int | None:
        """Return the number of the program on the gateway's outside interface."""
        shown = await self.run(GATEWAY, "ip", "-j", "-d", "link", "show", OUTSIDE)
        program: int | None = json.loads(shown)[0].get("xdp", {}).get("prog", {}).get("id")
        return program

    async def netstat(self, role: str) -> Counter[str]:
        """Return the extended TCP counters of a namespace."""
        text = await self.files(role).read("net/netstat")
        rows = [line.split() for line in text.splitlines() if line.startswith("TcpExt:")]
        pairs = zip(rows[0][1:], rows[1][1:], strict=True)
        return Counter({name: int(value) for name, value in pairs})

    async def profiles(self) -> Mapping[int, Profile]:
        """Return what the server's own SYN-ACKs show; asked once, from the gateway's inside."""
        for family in () if self._profiles else TARGETS:
            async with self.capture(GATEWAY, INSIDE) as capture:
                _, writer = await self.connect(TARGETS[family], ECHO, role=GATEWAY)
                writer.transport.abort()
            shown = filter(None, map(_shown, capture.packets(incoming=True)))
            self._profiles[family] = next(shown)
        return self._profiles


def tcp_of(packet: bytes) -> bytes:
    """Return the TCP segment of an IP packet; nothing where there is none."""
    protocol, header = (packet[6], 40)
    if packet[0] >> 4 == 4:
        protocol, header = (packet[9], (packet[0] & 15) * 4)
    return packet[header:] if protocol == socket.IPPROTO_TCP else b""


def _shown(packet: bytes) -> Profile | None:
    tcp = tcp_of(packet)
    if not tcp or tcp[13] & 0x3F != SYN | ACK:
        return None
    found = dict(options_of(tcp[20 : (tcp[12] >> 4) * 4]))
    return Profile(
        mss=int.from_bytes(found[2], "big"),
        wscale=found[3][0],
        window=int.from_bytes(tcp[14:16], "big"),
        ttl=packet[8] if packet[0] >> 4 == 4 else packet[7],
    )


def options_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each TCP option."""
    at = 0
    while at < len(data) and data[at]:
        if data[at] == 1:
            at += 1
            continue
        yield data[at], data[at + 2 : at + data[at + 1]]
        at += data[at + 1]
