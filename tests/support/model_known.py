# SPDX-License-Identifier: Apache-2.0
"""What the model of the data plane knows, and small rules that it goes by."""

from dataclasses import dataclass, field
from typing import Final

from tests.support.model_packet import Packet
from tests.support.model_scene import Ports, Rate
from tests.support.packets import ACK, FIN, PSH, RST, SYN, URG

PASS: Final = "PASS"
DROP: Final = "DROP"
TX: Final = "TX"

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
CLOSING: Final = 0x80000000
PROBE: Final = 0x40000000
"""Of a flow whose SYN was let through to see what its server answers."""
_TIME: Final = 0x3FFFFFFF
_XMAS: Final = FIN | URG | PSH
_NEAR_AHEAD: Final = 1 << 25
_NEAR_BEHIND: Final = 1 << 20
_PROGRESS: Final = 1 << 30


@dataclass(slots=True)
class Judgement:
    """What becomes of a packet."""

    verdict: str
    reason: str
    slot: int
    frame: bytes


@dataclass(slots=True)
class Known:
    """A proven source."""

    bucket: Rate
    seen: int


@dataclass(slots=True)
class Sighting:
    """A flow that was seen but not proven."""

    ack: int
    seq: int
    seen: int
    learned: bool
    answer: bool
    """Only an answer to a SYN of the server's own made it."""


@dataclass(slots=True)
class Talker:
    """A source that a sorb counts."""

    pps: Rate
    bps: Rate
    blocked_until: int = 0


@dataclass(slots=True)
class Policy:
    """The slots of a target by kind."""

    acl: list[int] = field(default_factory=list)
    sorb: list[int] = field(default_factory=list)
    tcp: list[int] = field(default_factory=list)
    watch: list[int] = field(default_factory=list)

    def enforcing(self) -> list[int]:
        """Return the slots that drop; the first in force stands for the whole policy."""
        return [*self.acl, *self.sorb, *self.tcp]

    def every(self) -> list[int]:
        """Return all slots."""
        return [*self.enforcing(), *self.watch]


def seconds(now_ms: int) -> int:
    """Return the time as the tables keep it."""
    return now_ms >> 10 & ~CLOSING & _U32 | 1


def age(now: int, seen: int) -> int:
    """Return how long ago `seen` was; what lies ahead is new."""
    passed = now - seen & _TIME
    return 0 if passed > _TIME >> 1 else passed


def in_ports(ports: Ports, port: int) -> bool:
    """Return whether a port is in a list; the empty list holds all."""
    return not ports or any(low <= port <= high for low, high in ports)


def ceiling_place(source: bytes) -> int:
    """Return where the ceiling of a source's /24 or /48 is kept; prefixes may share a place."""
    if len(source) == 4:
        prefix = int.from_bytes(source[:3], "little")
    else:
        prefix = int.from_bytes(source[:4], "little") << 32 | int.from_bytes(source[4:6], "little")
    first = (prefix ^ 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93 & _U64
    second = 0xC2B2AE3D27D4EB4F * 0xFF51AFD7ED558CCD & _U64
    mixed = first ^ (second << 32 & _U64 | second >> 32)
    mixed = (mixed ^ mixed >> 32) * 0xC4CEB9FE1A85EC53 & _U64
    mixed = (mixed ^ mixed >> 29) * 0x94D049BB133111EB & _U64
    return (mixed ^ mixed >> 32) >> 48


def near(number: int, known: int) -> bool:
    """Return whether a number is as near to a known one as those of one flow are."""
    ahead = number - known & _U32
    return ahead <= _NEAR_AHEAD or (known - number & _U32) <= _NEAR_BEHIND


def newest(known: int, number: int) -> int:
    """Return which of two numbers is further on; far ahead is behind."""
    return number if 0 < (number - known & _U32) < _PROGRESS else known


def flags_impossible(flags: int) -> bool:
    """Return whether no stack sends this combination of flags."""
    if not flags:
        return True
    pairs = (SYN | FIN, SYN | RST, FIN | RST)
    if any(flags & pair == pair for pair in pairs):
        return True
    return flags & _XMAS == _XMAS and not flags & ACK


def not_genuine(packet: Packet) -> bool:
    """Return whether no genuine segment comes from that source."""
    source = packet.source
    if packet.source_key == packet.key or not packet.sport or not packet.dport:
        return True
    if packet.family == 4:
        return source[0] in {0, 127} or source[0] >= 224
    never = (bytes(16), bytes(15) + b"\1")
    return source in never or source[0] == 0xFF or source[:12] == bytes(10) + b"\xff\xff"
