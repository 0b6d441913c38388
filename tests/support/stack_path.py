# SPDX-License-Identifier: Apache-2.0
"""Stands whose path is not ideal: segments are lost and overtaken, or a link is narrow."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

from tests.support.netns import CLIENT, CLIENT4, CLIENT6, GATEWAY, INSIDE, SERVER
from tests.support.stack import TARGETS, Stand
from tests.support.stack_talk import BULK, Client, Server, until

MIDDLE: Final = "middle"
FAR: Final = "far"
FAR4: Final = "203.0.113.2"
FAR6: Final = "2001:db8:7::2"
WIDE: Final = 1500
NARROW: Final = 1380
JUMBO: Final = 9000
MEGABYTES: Final = 1_000_000
_ETH_P_ALL: Final = 3


class RoughStand(Stand):
    """A stand with a bad wire between gateway and server: this program carries each frame over it.

    No netem is needed, which many kernels do not have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names[MIDDLE] = self.names[SERVER].replace(SERVER, MIDDLE)

    def _build(self) -> None:
        super()._build()
        for role, interface in ((GATEWAY, INSIDE), (SERVER, "eth0")):
            self.offload(role, interface, tx=False, tso=False, gso=False, gro=False)

    def _join(self, left: str, left_name: str, right: str, right_name: str) -> None:
        if right != SERVER:
            super()._join(left, left_name, right, right_name)
            return
        super()._join(left, left_name, MIDDLE, "one")
        super()._join(MIDDLE, "other", right, right_name)

    @asynccontextmanager
    async def wire(self) -> AsyncIterator["Wire"]:
        """Carry frames meanwhile."""
        every = socket.htons(_ETH_P_ALL)
        ends = []
        for name in ("one", "other"):
            end = await self.open_socket(MIDDLE, socket.AF_PACKET, socket.SOCK_RAW, every)
            end.bind((name, _ETH_P_ALL))
            ends.append(end)
        wire = Wire()
        loop = asyncio.get_running_loop()
        for here, there in (ends, reversed(ends)):
            loop.add_reader(here, _Carrier(wire, here, there).frames)
        try:
            yield wire
        finally:
            for end in ends:
                loop.remove_reader(end)
                end.close()


class Wire:
    """How bad the wire is, and what happened to frames that did not just pass."""

    def __init__(self) -> None:
        self.lost = self.late = 0.0
        self.events: Counter[str] = Counter()
        self._random = Random(1)

    def fate(self) -> str:
        """Return what is to happen to a frame."""
        drawn = self._random.random()
        return "lost" if drawn < self.lost else "late" if drawn < self.lost + self.late else ""


class _Carrier:
    """One direction of the wire."""

    def __init__(self, wire: Wire, here: socket.socket, there: socket.socket) -> None:
        self._wire, self._here, self._there = wire, here, there
        self._held: bytes | None = None

    def frames(self) -> None:
        """Carry what is there."""
        for _ in range(64):
            try:
                frame, address = self._here.recvfrom(65535)
            except BlockingIOError:
                return
            if address[2] != socket.PACKET_OUTGOING:
                self._carry(frame)

    def _carry(self, frame: bytes) -> None:
        fate = self._wire.fate()
        self._wire.events[fate] += 1
        if fate == "late" and self._held is None:
            self._held = frame
            asyncio.get_running_loop().call_later(0.005, self._let_go)
        elif fate != "lost":
            self._there.send(frame)
            # What was held comes after the frame that has overtaken it.
            self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None and self._there.fileno() >= 0:
            self._there.send(held)


class NarrowStand(Stand):
    """A stand with one more host behind the client, which routes to it over a narrow link."""

    def __init__(self) -> None:
        super().__init__()
        self.names[FAR] = self.names[SERVER].replace(SERVER, FAR)

    def _build(self) -> None:
        super()._build()
        self._join(CLIENT, "beyond", FAR, "eth0")
        self._address(CLIENT, "beyond", "203.0.113.1/24", "2001:db8:7::1/64")
        self._address(FAR, "eth0", f"{FAR4}/24", f"{FAR6}/64")
        self.ip(FAR, "route", "add", "default", "via", "203.0.113.1")
        self.ip(FAR, "-6", "route", "add", "default", "via", "2001:db8:7::1")
        self.ip(GATEWAY, "route", "add", "203.0.113.0/24", "via", CLIENT4)
        self.ip(GATEWAY, "-6", "route", "add", "2001:db8:7::/64", "via", CLIENT6)
        self.sysctl(CLIENT, "net/ipv4/ip_forward", 1)
        self.sysctl(CLIENT, "net/ipv6/conf/all/forwarding", 1)
        for target in (FAR4, FAR6):
            self.ip(CLIENT, "route", "add", target, "dev", "beyond", "mtu", "lock", str(NARROW))


class JumboStand(Stand):
    """A stand whose links carry frames that do not fit into one page."""

    def _join(self, left: str, left_name: str, right: str, right_name: str) -> None:
        super()._join(left, left_name, right, right_name)
        for role, name in ((left, left_name), (right, right_name)):
            self.ip(role, "link", "set", name, "mtu", str(JUMBO))


async def exchange_over_bad_wire(stand: Stand, wire: Wire, clients: Sequence[Client]) -> None:
    """Send data both ways over a wire that loses and delays 1 %: all arrive, with SACK at work."""
    before = {role: await stand.netstat(role) for role in (CLIENT, SERVER)}
    wire.lost = wire.late = 0.01
    size = 2 * MEGABYTES
    done = await asyncio.gather(*(one.exchange(size) for one in clients))
    assert done == [(size, size)] * len(clients)
    assert wire.events["lost"] > 10
    assert wire.events["late"] > 10
    for role, old in before.items():
        new = await stand.netstat(role) - old
        # A segment that was overtaken by an acknowledgement is old indeed.
        assert sum(new[name] for name in new if "PAWS" in name) <= wire.events["late"]
        assert new["TCPSackRecovery"] > 0


async def exchange_over_narrow_link(stand: NarrowStand, server: Server, family: int) -> Client:
    """Send data both ways to a client behind a narrow link, of which nobody knows at first."""
    client = Client(*await stand.connect(TARGETS[family], BULK, role=FAR))
    server.include(client)
    await until(lambda: server.knows(client))
    assert server.info(client).pmtu == WIDE
    size = 2 * MEGABYTES
    assert await client.exchange(size) == (size, size)
    return client
