# SPDX-License-Identifier: Apache-2.0
"""What is in force: the settings that both the program under test and the model are given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

Network = IPv4Network | IPv6Network
Ports = tuple[tuple[int, int], ...]
"""Ranges, both ends included; none is every port."""

FOREVER: Final = (1 << 64) - 1
SECOND_NS: Final = 1_000_000_000


@dataclass(slots=True)
class Rate:
    """A token bucket by its theoretical arrival time; without an interval there is no limit."""

    interval: int = 0
    burst: int = 0
    tat: int = 0

    def take(self, now_ns: int, cost: int | None = None) -> bool:
        """Return whether a packet is within the rate, and count it if it is."""
        if not self.interval:
            return True
        following = max(self.tat, now_ns) + (self.interval if cost is None else cost)
        if following - now_ns > self.burst:
            return False
        self.tat = following
        return True


def per_second(packets: int, *, burst: int | None = None) -> Rate:
    """Return a bucket of `packets` a second that holds `burst` of them, by default all."""
    interval = SECOND_NS // packets
    return Rate(interval=interval, burst=interval * (packets if burst is None else burst))


def none_at_all() -> Rate:
    """Return a bucket that is always empty."""
    return Rate(interval=1)


@dataclass(frozen=True, slots=True)
class Keys:
    """Pairs of 64 bit words."""

    cookie: tuple[tuple[int, int], tuple[int, int]]
    cookie6: tuple[tuple[int, int], tuple[int, int]]
    timestamp: tuple[int, int]


KEYS: Final = Keys(
    cookie=(
        (0x0706050403020100, 0x0F0E0D0C0B0A0908),
        (0x1716151413121110, 0x1F1E1D1C1B1A1918),
    ),
    cookie6=(
        (0x2726252423222120, 0x2F2E2D2C2B2A2928),
        (0x3736353433323130, 0x3F3E3D3C3B3A3938),
    ),
    timestamp=(0x4746454443424140, 0x4F4E4D4C4B4A4948),
)


@dataclass(slots=True, kw_only=True)
class Tcp:
    """Settings of a tcp slot."""

    mode: str = "isn-sync"
    """Or "reset", or "splice"."""
    keys: Keys = KEYS
    cookie_offset: int = 4_295_000_000
    ts_offset: int = 987_654
    scheme: str = "flow"
    """How the timestamp offset is made: by "flow", by "host" pair, or "none"."""
    mss4: int = 1460
    mss6: int = 1440
    window: int = 65160
    wscale: int = 7
    ttl: int = 64
    has_sack: bool = True
    has_wscale: bool = True
    has_timestamps: bool = True
    has_ecn: bool = False
    grace_until: int = 0
    grace: Rate = field(default_factory=none_at_all)
    unknown: Rate = field(default_factory=none_at_all)
    learned: Rate = field(default_factory=Rate)
    syn_ack_in: Rate = field(default_factory=Rate)
    icmp: Rate = field(default_factory=Rate)
    source: Rate = field(default_factory=Rate)
    """Interval and burst only."""
    ceiling: Rate = field(default_factory=Rate)
    """Interval and burst only."""


@dataclass(slots=True, kw_only=True)
class Sorb:
    """Settings of a sorb slot."""

    pps: Rate = field(default_factory=Rate)
    bps: Rate = field(default_factory=Rate)
    """Its interval is per byte, times 1024."""
    block_ms: int = 60_000


@dataclass(slots=True, kw_only=True)
class Rule:
    """One rule of an acl; what is None matches everything."""

    action: str
    source: Network | None = None
    protocol: int | None = None
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    length: tuple[int, int] | None = None
    flags: tuple[int, int] | None = None
    """Mask and value."""
    icmp_type: tuple[int, int] | None = None
    icmp_code: tuple[int, int] | None = None
    fragments: bool | None = None
    family: int | None = None
    limit: Rate | None = None


@dataclass(slots=True, kw_only=True)
class Slot:
    """One countermeasure; which kind, its settings tell."""

    settings: Tcp | Sorb | Sequence[Rule] | None
    """None is a watch."""
    deadline: int = FOREVER
    generation: int = 1
    ports: Ports = ()

    @property
    def kind(self) -> str:
        """Return its kind as the control protocol names it."""
        match self.settings:
            case Tcp():
                return "tcp"
            case Sorb():
                return "sorb"
            case None:
                return "watch"
            case _:
                return "acl"


@dataclass(slots=True, kw_only=True)
class Scene:
    """All that the data plane is told."""

    slots: dict[int, Slot] = field(default_factory=dict)
    """By index; 0 is none."""
    targets: dict[Network, tuple[int, ...]] = field(default_factory=dict)
    """Which slots guard a target; a narrower target names those of the wider ones too."""
    verify: bool = False
    flow_idle: int = 3600
    flow_closing: int = 60
    source_idle: int = 600
    inserts_per_second: int = 1_000_000
    translated: tuple[Network, ...] = ()
    """Servers of which spliced flows may exist; none: what leaves is not looked at."""
    probe: Rate = field(default_factory=Rate)
    """Of SYNs that are let through to see what servers answer."""

    def of_kind(self, target: Network, kind: str) -> list[int]:
        """Return the slots of one kind on a target, in the order in which they are asked."""
        return [index for index in self.targets[target] if self.slots[index].kind == kind]
