# SPDX-License-Identifier: Apache-2.0
"""The model's own reading of a frame, by the RFCs and the data plane's description."""

from dataclasses import dataclass
from typing import Final

from tests.support.packets import (
    AUTHENTICATION,
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    IPV4,
    IPV6,
    QINQ,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    checksum,
    pseudo_header,
)

SCTP: Final = 132
WITH_PORTS: Final = frozenset({TCP, UDP, SCTP})
_EXTENSIONS: Final = frozenset(
    {HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS, AUTHENTICATION},
)
_MOST_EXTENSIONS: Final = 6
_MOST_TAGS: Final = 2
_IPV4_HEADER: Final = 20
_IPV6_HEADER: Final = 40
_MAPPED: Final = bytes(10) + b"\xff\xff"


class MalformedError(Exception):
    """A packet that is dropped while it is read; its argument is the reason."""


@dataclass(slots=True)
class Packet:
    """What the countermeasures look at."""

    frame: bytes
    family: int
    start: int
    """Where the IP header begins."""
    key: bytes
    """The destination as the tables know it: 16 bytes."""
    source: bytes = b""
    destination: bytes = b""
    source_key: bytes = b""
    protocol: int = 0
    length: int = 0
    at: int = 0
    """Where the transport header begins."""
    is_fragment: bool = False
    ecn: int = 0
    header: int = 0
    """Length of the TCP header."""
    translated: bool = False
    """An ICMP error about a spliced flow, whose quotation was translated."""

    @property
    def end(self) -> int:
        """Return where the IP packet ends."""
        return self.start + self.length

    @property
    def ports(self) -> bytes:
        """Return both ports as they are in the packet."""
        return self.frame[self.at : self.at + 4]

    @property
    def sport(self) -> int:
        """Return the source port."""
        return int.from_bytes(self.frame[self.at : self.at + 2], "big")

    @property
    def dport(self) -> int:
        """Return the destination port."""
        return int.from_bytes(self.frame[self.at + 2 : self.at + 4], "big")

    @property
    def flags(self) -> int:
        """Return byte 13 of the TCP header."""
        return self.frame[self.at + 13]

    @property
    def seq(self) -> int:
        """Return the sequence number."""
        return int.from_bytes(self.frame[self.at + 4 : self.at + 8], "big")

    @property
    def ack(self) -> int:
        """Return the acknowledgement number."""
        return int.from_bytes(self.frame[self.at + 8 : self.at + 12], "big")

    @property
    def options(self) -> bytes:
        """Return the TCP options."""
        return self.frame[self.at + 20 : self.at + self.header]

    @property
    def flow(self) -> bytes:
        """Return what tells this flow from others."""
        return self.source_key + self.key + self.ports


def find_ip(frame: bytes) -> Packet | None:
    """Return where and to whom the IP packet is; None for what is no IP."""
    at = 14
    kind = int.from_bytes(frame[12:14], "big")
    for _ in range(_MOST_TAGS):
        if kind not in {VLAN, QINQ}:
            break
        kind = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    if kind == IPV4 and len(frame) >= at + _IPV4_HEADER:
        return Packet(frame, 4, at, _MAPPED + frame[at + 16 : at + 20])
    if kind == IPV6 and len(frame) >= at + _IPV6_HEADER:
        return Packet(frame, 6, at, frame[at + 24 : at + 40])
    return None


def read_ip(packet: Packet) -> None:
    """Fill in what the IP header says.

    Raises:
        MalformedError: it cannot be right.
    """
    if packet.family == 4:
        _read_ip4(packet)
    else:
        _read_ip6(packet)


def _read_ip4(packet: Packet) -> None:
    frame, start = packet.frame, packet.start
    words = frame[start] & 0xF
    packet.length = int.from_bytes(frame[start + 2 : start + 4], "big")
    fits = words * 4 <= packet.length <= len(frame) - start
    if frame[start] >> 4 != 4 or words < 5 or not fits:
        raise MalformedError("bad_ip")
    packet.source = frame[start + 12 : start + 16]
    packet.destination = frame[start + 16 : start + 20]
    packet.source_key = _MAPPED + packet.source
    packet.protocol = frame[start + 9]
    packet.ecn = frame[start + 1] & 3
    packet.is_fragment = int.from_bytes(frame[start + 6 : start + 8], "big") & 0x3FFF != 0
    packet.at = start + words * 4


def _read_ip6(packet: Packet) -> None:
    frame, start = packet.frame, packet.start
    packet.length = _IPV6_HEADER + int.from_bytes(frame[start + 4 : start + 6], "big")
    mapped = packet.key.startswith(_MAPPED)
    if frame[start] >> 4 != 6 or packet.length > len(frame) - start or mapped:
        raise MalformedError("bad_ip")
    packet.source = packet.source_key = frame[start + 8 : start + 24]
    packet.destination = packet.key
    packet.ecn = frame[start + 1] >> 4 & 3
    kind, at, end = frame[start + 6], start + _IPV6_HEADER, packet.end
    walked = 0
    offset = 0
    while kind in _EXTENSIONS and not offset:
        walked += 1
        if walked > _MOST_EXTENSIONS or at + 8 > end:
            raise MalformedError("ext_headers")
        size = (frame[at + 1] + 1) * 8
        if kind == FRAGMENT:
            size = 8
            field = int.from_bytes(frame[at + 2 : at + 4], "big")
            offset = field >> 3
            packet.is_fragment |= offset != 0 or field & 1 != 0
        elif kind == AUTHENTICATION:
            size = (frame[at + 1] + 2) * 4
        kind = frame[at]
        at += size
        if at > end:
            raise MalformedError("ext_headers")
    packet.protocol, packet.at = kind, at


def read_transport(packet: Packet) -> None:
    """Check that the transport header of a whole packet is there.

    Raises:
        MalformedError: it is not.
    """
    if packet.is_fragment:
        return
    room = packet.end - packet.at
    needed = {TCP: 20, UDP: 8, SCTP: 8, ICMP6 if packet.family == 6 else ICMP: 4}
    if room < needed.get(packet.protocol, 0):
        raise MalformedError("bad_transport")
    if packet.protocol == TCP:
        packet.header = (packet.frame[packet.at + 12] >> 4) * 4
        if not 20 <= packet.header <= room:
            raise MalformedError("bad_transport")


def checksums_right(packet: Packet) -> bool:
    """Return whether the IPv4 header's and a bare TCP header's checksum are what they should be.

    What carries data is left to the server.
    """
    frame = packet.frame
    if packet.family == 4:
        header = packet.start + (frame[packet.start] & 0xF) * 4
        if checksum(frame[packet.start : header]):
            return False
    if packet.at + packet.header != packet.end:
        return True
    segment = frame[packet.at : packet.end]
    pseudo = pseudo_header(packet.source, packet.destination, TCP, len(segment))
    return checksum(pseudo + segment) == 0
