# SPDX-License-Identifier: Apache-2.0
"""Frames built byte by byte: right ones, and ones that are wrong in exactly one chosen place."""

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Self

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80
AE: Final = 0x100
"""The accurate ECN bit: the lowest of the four reserved bits beside the data offset."""

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMP6: Final = 58
HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
AUTHENTICATION: Final = 51
DESTINATION_OPTIONS: Final = 60

VLAN: Final = 0x8100
QINQ: Final = 0x88A8
IPV4: Final = 0x0800
IPV6: Final = 0x86DD
DF: Final = 0x4000
MF: Final = 0x2000

SMALLEST: Final = 60
"""An Ethernet frame without its checksum is padded to this."""

GATEWAY_MAC: Final = bytes.fromhex("020000000001")
CLIENT_MAC: Final = bytes.fromhex("0200000000c1")


def packed(address: str) -> bytes:
    """Return the 4 or 16 bytes of an address."""
    return ip_address(address).packed


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of `data`."""
    total = int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big")
    folded = total % 0xFFFF
    if folded == 0 and total:
        folded = 0xFFFF
    return 0xFFFF - folded


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """Return what a transport checksum covers besides the transport's own bytes."""
    form = "!BBH" if len(source) == len(packed("0.0.0.0")) else "!HHI"
    head = (0, protocol, length) if form == "!BBH" else (length >> 16, length & 0xFFFF, protocol)
    return source + destination + struct.pack(form, *head)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What is around the IP packet."""

    source_mac: bytes = CLIENT_MAC
    destination_mac: bytes = GATEWAY_MAC
    tags: tuple[tuple[int, int], ...] = ()
    """Tag protocol and tag control information of each VLAN tag, outermost first."""
    trailer: bytes = b""
    """Behind the end of the IP packet."""
    pad_to: int = 0

    def frame(self, ethertype: int, packet: bytes) -> bytes:
        """Return the frame that carries `packet`."""
        head = self.destination_mac + self.source_mac
        for protocol, information in self.tags:
            head += struct.pack("!HH", protocol, information)
        made = head + struct.pack("!H", ethertype) + packet + self.trailer
        return made.ljust(self.pad_to, b"\0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Datagram:
    """An IP packet with any payload; None fields are computed."""

    source: bytes
    destination: bytes
    protocol: int
    payload: bytes = b""
    link: Link = Link()
    ethertype: int | None = None
    version: int | None = None
    ttl: int = 57
    traffic_class: int = 0
    flow_label: int = 0x12345
    ident: int = 0x1234
    fragment: int = DF
    """Flags and offset of the IPv4 header."""
    options: bytes = b""
    header_words: int | None = None
    length: int | None = None
    header_checksum: int | None = None
    extensions: tuple[tuple[int, bytes], ...] = ()
    """Type and content of IPv6 extension headers; the first byte of each is filled in."""

    @property
    def family(self) -> int:
        """Return 4 or 6."""
        return 4 if len(self.source) == len(packed("0.0.0.0")) else 6

    def packet(self) -> bytes:
        """Return the bytes from the IP header on."""
        return self._ipv4() if self.family == IPV4_FAMILY else self._ipv6()

    def frame(self) -> bytes:
        """Return the whole frame."""
        usual = IPV4 if self.family == IPV4_FAMILY else IPV6
        return self.link.frame(usual if self.ethertype is None else self.ethertype, self.packet())

    def _ipv4(self) -> bytes:
        words = 5 + len(self.options) // 4
        head = struct.pack(
            "!BBHHHBBH4s4s",
            (4 if self.version is None else self.version) << 4
            | (words if self.header_words is None else self.header_words),
            self.traffic_class,
            words * 4 + len(self.payload) if self.length is None else self.length,
            self.ident,
            self.fragment,
            self.ttl,
            self.protocol,
            0,
            self.source,
            self.destination,
        )
        head += self.options
        right = checksum(head) if self.header_checksum is None else self.header_checksum
        return head[:10] + struct.pack("!H", right) + head[12:] + self.payload

    def _ipv6(self) -> bytes:
        content = b""
        kinds = [kind for kind, _ in self.extensions] + [self.protocol]
        for (_, body), following in zip(self.extensions, kinds[1:], strict=True):
            content += bytes([following]) + body[1:]
        content += self.payload
        word = (6 if self.version is None else self.version) << 28
        word |= self.traffic_class << 20 | self.flow_label
        length = len(content) if self.length is None else self.length
        head = struct.pack("!IHBB", word, length, kinds[0], self.ttl)
        return head + self.source + self.destination + content


IPV4_FAMILY: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A TCP segment in an IP packet in a frame; None fields are computed."""

    source: bytes
    destination: bytes
    sport: int = 40000
    dport: int = 80
    seq: int = 0x11223344
    ack: int = 0
    flags: int = SYN
    """The low byte as on the wire; AE above it."""
    window: int = 64240
    urgent: int = 0
    options: bytes = b""
    data: bytes = b""
    offset: int | None = None
    checksum: int | None = None
    link: Link = Link()
    ip: Datagram | None = None
    """Fields of the IP header that are not the usual ones."""

    def tcp(self) -> bytes:
        """Return the segment with its header."""
        words = 5 + len(self.options) // 4 if self.offset is None else self.offset
        head = struct.pack(
            "!HHIIHHHH",
            self.sport,
            self.dport,
            self.seq & 0xFFFFFFFF,
            self.ack & 0xFFFFFFFF,
            words << 12 | self.flags,
            self.window,
            0,
            self.urgent,
        )
        made = head + self.options + self.data
        right = self.checksum
        if right is None:
            pseudo = pseudo_header(self.source, self.destination, TCP, len(made))
            right = checksum(pseudo + made)
        return made[:16] + struct.pack("!H", right) + made[18:]

    def datagram(self) -> Datagram:
        """Return the IP packet around it."""
        plain = Datagram(source=self.source, destination=self.destination, protocol=TCP)
        base = self.ip or plain
        return replace(
            base,
            source=self.source,
            destination=self.destination,
            protocol=base.protocol,
            payload=self.tcp(),
            link=self.link,
        )

    def frame(self) -> bytes:
        """Return the whole frame."""
        return self.datagram().frame()

    def with_ip(self, **fields: object) -> Self:
        """Return the same segment with other fields of the IP header."""
        base = self.ip or Datagram(source=self.source, destination=self.destination, protocol=TCP)
        return replace(self, ip=replace(base, **fields))  # type: ignore[arg-type]


def udp(source: bytes, destination: bytes, sport: int, dport: int, data: bytes = b"") -> bytes:
    """Return a UDP datagram with its header."""
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    right = checksum(pseudo_header(source, destination, UDP, len(head)) + head) or 0xFFFF
    return head[:6] + struct.pack("!H", right) + head[8:]


def icmp(
    source: bytes, destination: bytes, kind: int, code: int = 0, data: bytes = bytes(4)
) -> bytes:
    """Return an ICMP or ICMPv6 message."""
    head = bytes([kind, code, 0, 0]) + data
    covered = head
    if len(source) > len(packed("0.0.0.0")):
        covered = pseudo_header(source, destination, ICMP6, len(head)) + head
    return head[:2] + struct.pack("!H", checksum(covered)) + head[4:]


# TCP options


def mss(value: int) -> bytes:
    """Return the option that announces the largest segment."""
    return struct.pack("!BBH", 2, 4, value)


def wscale(shift: int) -> bytes:
    """Return the window scale option."""
    return bytes([3, 3, shift])


def timestamps(value: int, echo: int = 0) -> bytes:
    """Return the timestamps option."""
    return struct.pack("!BBII", 8, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


SACK: Final = bytes([4, 2])
NOP: Final = b"\1"
EOL: Final = b"\0"


def linux(value: int = 1000, *, size: int = 1460, shift: int = 7) -> bytes:
    """Return the options of a Linux or Android SYN (20 bytes)."""
    return mss(size) + SACK + timestamps(value) + NOP + wscale(shift)


def windows(*, size: int = 1460, shift: int = 8) -> bytes:
    """Return the options of a Windows SYN (12 bytes, no timestamps)."""
    return mss(size) + NOP + wscale(shift) + NOP + NOP + SACK


def apple(value: int = 1000, *, size: int = 1460, shift: int = 6) -> bytes:
    """Return the options of a macOS or iOS SYN (24 bytes)."""
    head = mss(size) + NOP + wscale(shift) + NOP + NOP + timestamps(value)
    return head + SACK + EOL + EOL
