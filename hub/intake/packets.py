# SPDX-License-Identifier: Apache-2.0
"""Packet lines of a report, counted and weighed by direction and protocol."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from hub.intake.address import parse_address
from hub.intake.model import WAYS
from hub.intake.values import amount
from hub.net import IPNetwork

_LINE: Final = re.compile(
    rb"\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})? (\S{1,64}):\d{1,5} > (\S{1,64}):\d{1,5}"
    rb" protocol: ([\w-]{1,32})(?: flags: ([a-z,|-]{0,48}))?(?: frag: ([01]))? +"
    rb"(?:packets: (\d{1,18}) )?size: \d{1,18} bytes([^\n]{0,200})"
)
_RATIO: Final = re.compile(rb" sample ratio: (\d{1,18})")
_PROTOCOL: Final = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)
_WEIGHED: Final = 4096
"""Lines that are judged; the rest is only counted, so that a hostile report costs little."""
_NUMBERS: Final = {
    "1": "icmp", "2": "igmp", "4": "ipv4", "6": "tcp", "17": "udp", "41": "ipv6", "47": "gre",
    "50": "esp", "51": "ah", "58": "icmp", "89": "ospf", "103": "pim", "112": "vrrp",
    "115": "l2tp", "132": "sctp", "136": "udplite",
}  # fmt: skip
_ICMP: Final = frozenset({"ipv6-icmp", "icmpv6", "icmp6"})

Way = Callable[[bytes, bytes], str | None]
"""Tells from source and destination which direction a packet has, None when neither is ours."""


@dataclass(slots=True)
class Tally:
    """Weights of the packet lines in one direction: packets times sample ratio.

    Attributes:
        load: weight by traffic kind, as far as packet lines tell it.
        answers: weight of TCP packets that only ever answer: SYN-ACK and RST.
        protocols: weight by protocol name.
    """

    load: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("total", "tcp", "tcp_syn", "udp", "icmp", "fragmented"), 0
        )
    )
    answers: int = 0
    protocols: dict[str, int] = field(default_factory=dict)

    def add(self, protocol: str, flags: frozenset[bytes], weight: int, *, fragment: bool) -> None:
        """Count one line."""
        load = self.load
        load["total"] += weight
        self.protocols[protocol] = self.protocols.get(protocol, 0) + weight
        if protocol in {"tcp", "udp", "icmp"}:
            load[protocol] += weight
        if fragment:
            load["fragmented"] += weight
        if protocol == "tcp" and b"syn" in flags:
            load["tcp_syn"] += weight
        if b"rst" in flags or flags >= {b"syn", b"ack"}:
            self.answers += weight


@dataclass(slots=True)
class Packets:
    """All packet lines of one report.

    Attributes:
        count: number of lines.
        ways: tally of each direction.
    """

    count: int = 0
    ways: Mapping[str, Tally] = field(default_factory=lambda: {way: Tally() for way in WAYS})


def host_way(names: frozenset[bytes]) -> Way:
    """Return the direction judge for one host that is spelled in any of `names` (lower case)."""

    def way(source: bytes, destination: bytes) -> str | None:
        ours = source.lower() in names
        if ours == (destination.lower() in names):
            return None
        return "outgoing" if ours else "incoming"

    return way


def network_way(networks: Iterable[IPNetwork]) -> Way:
    """Return the direction judge for a host group."""
    prefixes: dict[tuple[int, int], set[int]] = {}
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        prefixes.setdefault((network.version, shift), set()).add(
            int(network.network_address) >> shift
        )

    def inside(text: bytes) -> bool:
        address = parse_address(text.decode("ascii", "replace"))
        return address is not None and any(
            address.version == version and int(address) >> shift in numbers
            for (version, shift), numbers in prefixes.items()
        )

    def way(source: bytes, destination: bytes) -> str | None:
        ours = inside(source)
        if ours == inside(destination):
            return None
        return "outgoing" if ours else "incoming"

    return way


def read_lines(text: bytes, way: Way) -> Packets:
    """Return the packet lines in `text`; every line must follow a line feed."""
    packets = Packets()
    for line in _LINE.finditer(text):
        packets.count += 1
        if packets.count > _WEIGHED:
            continue
        source, destination, protocol, flags, fragment, number, tail = line.groups()
        if (side := way(source, destination)) is None:
            continue
        ratio = _RATIO.search(tail)
        packets.ways[side].add(
            protocol_name(protocol.decode("ascii")),
            _flags(flags or b""),
            (int(number or 1) or 1) * ((ratio and int(ratio[1])) or 1),
            fragment=fragment == b"1",
        )
    return packets


def read_detailed(entries: Any, way: Way) -> Packets:
    """Return the packets of `packet_dump_detailed`, a JSON array of objects."""
    packets = Packets()
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        packets.count += 1
        if packets.count > _WEIGHED:
            continue
        side = way(_bytes(entry.get("source_ip")), _bytes(entry.get("destination_ip")))
        if side is None:
            continue
        packets.ways[side].add(
            protocol_name(_text(entry.get("protocol"))),
            _flags(_bytes(entry.get("tcp_flags"))),
            (amount(entry.get("packets")) or 1) * (amount(entry.get("sample_ratio")) or 1),
            fragment=entry.get("fragmentation") is True,
        )
    return packets


@lru_cache(maxsize=256)
def protocol_name(text: str) -> str:
    """Return the IANA name, lower case, that FastNetMon's `text` means, or `unknown`.

    FastNetMon writes `_` where IANA writes `-`; ICMPv6 becomes `icmp`, because every rule that
    speaks of ICMP means the ICMP of the target's family.
    """
    name = text.lower().replace("_", "-")
    if name.isdecimal():
        return _NUMBERS.get(name, "unknown")
    if name in _ICMP:
        return "icmp"
    return name if _PROTOCOL.fullmatch(name) and name != "none" else "unknown"


@lru_cache(maxsize=256)
def _flags(text: bytes) -> frozenset[bytes]:
    return frozenset(text[:48].replace(b"|", b",").split(b","))


def _text(value: Any) -> str:
    if type(value) is int:
        return str(value)
    return value[:32] if isinstance(value, str) else ""


def _bytes(value: Any) -> bytes:
    return value[:64].encode("ascii", "replace") if isinstance(value, str) else b""
