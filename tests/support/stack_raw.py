# SPDX-License-Identifier: Apache-2.0
"""A client without a kernel: it sends whatever segments it is told to, in any order."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final, Self

from tests.support.netns import ACK, CLIENT, GATEWAY, OUTSIDE, PSH, RST, SYN
from tests.support.packets import Link, Segment, linux, packed, timestamps
from tests.support.stack import TARGETS, Stand, fresh_stranger, options_of, tcp_of

_ETH_P_ALL: Final = 3
_ETHERNET: Final = 14
_FRAME_MOST: Final = 1 << 17
_SO_RCVBUFFORCE: Final = 33
_random = Random(7)


@dataclass(frozen=True, slots=True)
class Seen:
    """A segment that has come back."""

    flags: int
    seq: int
    ack: int
    window: int
    options: dict[int, bytes]
    data: bytes
    packet: bytes
    """From the IP header on."""

    @classmethod
    def read(cls, packet: bytes) -> Self:
        """Return the segment of an IP packet."""
        tcp = tcp_of(packet)
        header = (tcp[12] >> 4) * 4
        return cls(
            flags=tcp[13],
            seq=int.from_bytes(tcp[4:8], "big"),
            ack=int.from_bytes(tcp[8:12], "big"),
            window=int.from_bytes(tcp[14:16], "big"),
            options=dict(options_of(tcp[20:header])),
            data=tcp[header : _length(packet) - (len(packet) - len(tcp))],
            packet=packet,
        )

    @property
    def ttl(self) -> int:
        """Return the time to live or hop limit."""
        return self.packet[8] if self.packet[0] >> 4 == 4 else self.packet[7]

    @property
    def tsval(self) -> int:
        """Return the timestamp."""
        return int.from_bytes(self.options[8][:4], "big")


def _length(packet: bytes) -> int:
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4], "big")
    return 40 + int.from_bytes(packet[4:6], "big")


class Wires:
    """The client's interface as it is, shared by its strangers."""

    def __init__(self, stand: Stand, raw: socket.socket) -> None:
        self._raw = raw
        self._link = Link(
            source_mac=stand.mac(CLIENT, "eth0"), destination_mac=stand.mac(GATEWAY, OUTSIDE)
        )
        self._strangers: dict[bytes, Stranger] = {}

    def stranger(self, family: int, port: int) -> "Stranger":
        """Return a new client at an address of its own, that talks to a port of the server."""
        made = Stranger(self, self._link, family, port)
        self._strangers[packed(made.address)] = made
        return made

    def send(self, frame: bytes) -> None:
        """Send a frame as it is."""
        self._raw.send(frame)

    def reset_all(self) -> None:
        """End what is open at the server still."""
        for stranger in self._strangers.values():
            stranger.send(RST | ACK)

    def read(self) -> None:
        """Give what has come to those that it is for."""
        while True:
            try:
                frame, address = self._raw.recvfrom(_FRAME_MOST)
            except BlockingIOError:
                return
            packet = frame[_ETHERNET:]
            to = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
            if address[2] != socket.PACKET_OUTGOING and tcp_of(packet) and to in self._strangers:
                self._strangers[to].heard.put_nowait(Seen.read(packet))


@asynccontextmanager
async def wires(stand: Stand) -> AsyncIterator[Wires]:
    """Open the client's interface."""
    every = socket.htons(_ETH_P_ALL)
    raw = await stand.open_socket(CLIENT, socket.AF_PACKET, socket.SOCK_RAW, every)
    raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
    raw.bind(("eth0", _ETH_P_ALL))
    made = await asyncio.to_thread(Wires, stand, raw)
    loop = asyncio.get_running_loop()
    loop.add_reader(raw, made.read)
    try:
        yield made
    finally:
        loop.remove_reader(raw)
        made.reset_all()
        raw.close()


class Stranger:
    """One end of a connection, by hand."""

    def __init__(self, wires: Wires, link: Link, family: int, port: int) -> None:
        self._wires = wires
        self.address = fresh_stranger(family)
        self._blank = Segment(
            source=packed(self.address),
            destination=packed(TARGETS[family]),
            sport=_random.randrange(1024, 65536),
            dport=port,
            link=link,
        )
        self.seq = self.first = _random.getrandbits(32)
        """Of the next segment."""
        self.ack = 0
        """What has been received."""
        self.echo = 0
        """The newest timestamp of the other side."""
        self.clock = 1000
        self.heard: asyncio.Queue[Seen] = asyncio.Queue()

    @property
    def name(self) -> tuple[str, int]:
        """Return address and port."""
        return self.address, self._blank.sport

    @property
    def port(self) -> bytes:
        """Return its port as it is in a segment."""
        return self._blank.sport.to_bytes(2, "big")

    def send(
        self,
        flags: int = ACK,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        options: bytes | None = None,
        window: int = 512,
    ) -> None:
        """Send a segment; by default the next one, which moves `seq`."""
        here = self.seq if seq is None else seq
        self.clock += 1
        usual = b"\1\1" + timestamps(self.clock, self.echo) if self.echo else b""
        segment = Segment(
            source=self._blank.source,
            destination=self._blank.destination,
            sport=self._blank.sport,
            dport=self._blank.dport,
            link=self._blank.link,
            seq=here,
            ack=self.ack if ack is None else ack,
            flags=flags,
            window=window,
            options=usual if options is None else options,
            data=data,
        )
        if seq is None:
            self.seq = here + len(data) + bool(flags & 3) & 0xFFFFFFFF
        self._wires.send(segment.frame())

    def syn(self, options: bytes | None = None, data: bytes = b"") -> None:
        """Send the first segment; again, if it was sent before."""
        offered = linux(self.clock) if options is None else options
        self.send(SYN, data, seq=self.first, ack=0, options=offered, window=64240)
        self.seq = self.first + 1 & 0xFFFFFFFF

    async def hears(self, seconds: float = 2) -> Seen:
        """Return the next segment that comes, and acknowledge it from now on."""
        async with asyncio.timeout(seconds):
            seen = await self.heard.get()
        self.ack = seen.seq + len(seen.data) + bool(seen.flags & 3) & 0xFFFFFFFF
        if 8 in seen.options:
            self.echo = seen.tsval
        return seen

    async def asks(self, data: bytes) -> bytes:
        """Send data, acknowledge all that comes, and return as many bytes of answer."""
        self.send(PSH | ACK, data)
        answer = b""
        while len(answer) < len(data):
            seen = await self.hears()
            answer += seen.data
            if seen.data:
                self.send()
        return answer

    async def opens(self, options: bytes | None = None) -> Seen:
        """Do the handshake; return the SYN-ACK."""
        self.syn(options)
        seen = await self.hears()
        self.send()
        return seen

    async def quiet(self, seconds: float = 0.1) -> bool:
        """Return whether nothing comes for so long; what does come stays to be heard."""
        await asyncio.sleep(seconds)  # noqa: TID251 - for kernels
        return self.heard.empty()
