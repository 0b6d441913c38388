# SPDX-License-Identifier: Apache-2.0
"""Asks a server for a SYN-ACK by a SYN of our own, and leaves nothing behind.

The kernel here knows nothing of the connection: it answers the SYN-ACK with RST, which clears what
the server may have noted. Of the high half of the SYN's sequence number every answer must give a
tag back; a filter in the kernel compares it, so that a flood of foreign SYN-ACKs costs the event
loop nothing. A cookie is compared in all its 32 bits nevertheless: it is a sum.
"""

import asyncio
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from typing import ClassVar, Final

from hub.clock import Clock
from hub.errors import HubError
from hub.isn_sync.exchange import Exchange
from hub.isn_sync.rawsocket import Datagram, open_raw, read, send
from hub.isn_sync.segments import Reset, Syn, SynAckSegment, build, parse
from hub.net import IPAddress

__all__ = ("Exchange", "Prober", "ProberError", "UnroutableError")

MOST: Final = 256
"""Probes at once; others wait for their turn."""
MSS4: Final = 1460
MSS6: Final = 1440

_U32: Final = 0xFFFFFFFF
_TAG_BITS: Final = 16
_BATCH: Final = 64
_NO_PORT: Final = 0
_DISCARD: Final = 9

_Key = tuple[IPAddress, int, IPAddress, int]


class ProberError(HubError):
    """The prober cannot be had on this machine as it is."""


class UnroutableError(HubError):
    """A probe cannot be sent now."""

    retryable: ClassVar[bool] = True


@dataclass(slots=True)
class _Waiting:
    syn: Syn
    answer: asyncio.Future[tuple[float, SynAckSegment | Reset]]


@dataclass(slots=True)
class _Family:
    """The raw socket of one family, and who waits for what it receives."""

    raw: socket.socket
    waiting: dict[_Key, _Waiting] = field(default_factory=dict)


class Prober:
    """Probes TCP ports of both families.

    Args:
        clock: gives the times of an exchange.
        raws: raw sockets by IP version, already filtered by `tag`.
        tag: high half of every sequence number.

    Attributes:
        ignored: answers that fit no probe: forged, late or repeated.
    """

    def __init__(self, clock: Clock, raws: dict[int, socket.socket], tag: int) -> None:
        self._clock, self._tag = clock, tag
        self._families = {version: _Family(raw) for version, raw in raws.items()}
        self._room = asyncio.Semaphore(MOST)
        self._closed = False
        self.ignored = 0

    @classmethod
    def open(cls, clock: Clock) -> "Prober":
        """Return a prober; the capability is not needed any more afterwards.

        Raises:
            ProberError: CAP_NET_RAW is missing, or the machine has no raw sockets.
        """
        tag = secrets.randbelow(1 << _TAG_BITS)
        raws: dict[int, socket.socket] = {}
        try:
            for version in (4, 6):
                raw = open_raw(version, tag)
                if raw is not None:
                    raws[version] = raw
        except PermissionError as error:
            _close_all(raws)
            raise ProberError(
                "probes need a raw socket, and it is not permitted",
                todo="give the hub CAP_NET_RAW (AmbientCapabilities= of its unit)",
            ) from error
        except OSError as error:
            _close_all(raws)
            raise ProberError(f"no raw socket: {error.strerror}") from error
        return cls(clock, raws, tag)

    def close(self) -> None:
        """Close the sockets; probes under way end with UnroutableError."""
        if self._closed:
            return
        self._closed = True
        for family in self._families.values():
            for one in family.waiting.values():
                if not one.answer.done():
                    one.answer.set_exception(UnroutableError("the prober was closed"))
            if family.waiting:
                asyncio.get_running_loop().remove_reader(family.raw)
            family.raw.close()

    async def probe(
        self,
        target: IPAddress,
        port: int,
        timeout: float = 1.0,  # noqa: ASYNC109 - silence is an answer here, no error
        *,
        mss: int | None = None,
        wscale: int = 7,
        ecn: bool = True,
    ) -> Exchange:
        """Send a SYN, once more after half the time, and return what came back.

        Args:
            target: the server's address.
            port: its port, 1 to 65535.
            timeout: seconds after which it is taken for silent.
            mss: octets that the SYN offers; as over Ethernet unless given.
            wscale: shift of the window that it offers.
            ecn: whether it asks for ECN.

        Raises:
            UnroutableError: there is no route, or no such family here.
        """
        async with self._room:
            family = self._families.get(target.version)
            if family is None or self._closed:
                raise UnroutableError(f"no socket for IPv{target.version}", where=str(target))
            if mss is None:
                mss = MSS4 if target.version == 4 else MSS6  # noqa: PLR2004
            source = _source_to(target)
            with _reserved(source) as sport:
                # Below the highest, so that one more does not reach into the tag.
                seq = self._tag << _TAG_BITS | secrets.randbelow((1 << _TAG_BITS) - 1)
                tsval = int(self._clock.monotonic() * 1000) & _U32
                syn = Syn(source, target, sport, port, seq, tsval, mss, wscale, ecn)
                return await self._exchange(family, syn, timeout)

    async def _exchange(self, family: _Family, syn: Syn, seconds: float) -> Exchange:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(syn, loop.create_future())
        key = (syn.target, syn.dport, syn.source, syn.sport)
        if not family.waiting:
            loop.add_reader(family.raw, self._receive, family)
        family.waiting[key] = waiting
        sent, segment = self._clock.monotonic(), build(syn)
        try:
            for _ in range(2):
                send(family.raw, segment, syn.source, syn.target)
                await asyncio.wait((waiting.answer,), timeout=seconds / 2)
                if waiting.answer.done():
                    received, reply = waiting.answer.result()
                    return Exchange(syn, sent, received, reply)
        except OSError as error:
            raise UnroutableError(
                f"the SYN was not sent: {error.strerror}",
                where=str(syn.target),
                todo="see to routes and to nftables rules for packets of this machine",
            ) from error
        finally:
            del family.waiting[key]
            if not family.waiting and not self._closed:
                loop.remove_reader(family.raw)
        return Exchange(syn, sent, self._clock.monotonic(), None)

    def _receive(self, family: _Family) -> None:
        for _ in range(_BATCH):
            try:
                datagram = read(family.raw)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error of an earlier SYN, reported here; the probe ends by its time.
                continue
            self._take(family, datagram)

    def _take(self, family: _Family, datagram: Datagram | None) -> None:
        answer = None if datagram is None else parse(datagram.segment)
        if datagram is None or answer is None:
            self.ignored += 1
            return
        dport, sport = struct.unpack_from("!HH", datagram.segment)
        waiting = family.waiting.get((datagram.source, dport, datagram.target, sport))
        if waiting is None or waiting.answer.done() or answer.ack != (waiting.syn.seq + 1) & _U32:
            self.ignored += 1
            return
        answer = replace(answer, ttl=datagram.ttl)
        waiting.answer.set_result((self._clock.monotonic(), answer))


def _close_all(raws: dict[int, socket.socket]) -> None:
    for raw in raws.values():
        raw.close()


def _source_to(target: IPAddress) -> IPAddress:
    """Return the address from which the kernel would send to `target`; sends nothing."""
    family = socket.AF_INET if isinstance(target, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.connect((str(target), _DISCARD))
            return ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError as error:
        raise UnroutableError(
            f"no route: {error.strerror}", where=str(target), todo="see to this machine's routes"
        ) from error


@contextmanager
def _reserved(source: IPAddress) -> Iterator[int]:
    """Keep a port of ours from everybody else; yield its number."""
    family = socket.AF_INET if isinstance(source, IPv4Address) else socket.AF_INET6
    try:
        holder = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise UnroutableError(f"no port for a probe: {error.strerror}") from error
    with holder:
        try:
            holder.bind((str(source), _NO_PORT))
        except OSError as error:
            raise UnroutableError(f"no port for a probe: {error.strerror}") from error
        yield int(holder.getsockname()[1])
