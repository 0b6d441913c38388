# SPDX-License-Identifier: Apache-2.0
"""What one detector call says once it is understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hub.net import IPAddress, IPNetwork


class Action(StrEnum):
    """What the detector reports, in FastNetMon's own words."""

    BAN = "ban"
    UNBAN = "unban"
    ATTACK_DETAILS = "attack_details"
    ATTACK_STATUS = "attack_status"
    PARTIAL_BLOCK = "partial_block"
    PARTIAL_UNBLOCK = "partial_unblock"


class Scope(StrEnum):
    """What is attacked: one host, or a host group as a whole."""

    HOST = "host"
    HOSTGROUP = "hostgroup"


class Direction(StrEnum):
    """Where the attack traffic flows, seen from the target."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"
    UNKNOWN = "unknown"


class AttackType(StrEnum):
    """The kind of flood."""

    SYN_FLOOD = "syn_flood"
    UDP_FLOOD = "udp_flood"
    ICMP_FLOOD = "icmp_flood"
    IP_FRAGMENTATION = "ip_fragmentation"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Stamp:
    """When the sender took up a call; orders the calls of one detector.

    Attributes:
        time: Unix seconds by the sender's clock, which may step.
        mono: seconds since the sender's boot, None where the sender could not tell.
        boot: the sender's boot id, empty where the sender could not tell.
    """

    time: float
    mono: float | None = None
    boot: str = ""

    def before(self, other: "Stamp") -> bool:
        """Tell whether this is older: by the steady clock within one boot, else by wall time."""
        if self.boot and self.boot == other.boot and None not in (self.mono, other.mono):
            return (self.mono or 0.0) < (other.mono or 0.0)
        return self.time < other.time


@dataclass(frozen=True, slots=True)
class Counter:
    """One speed: packets, bits and flows per second; None where the report has no such line."""

    pps: int | None = None
    bps: int | None = None
    flows: int | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """The detector's own judgement, as it said it; None where it said nothing."""

    direction: str | None = None
    attack_type: str | None = None
    protocol: str | None = None
    pps: int | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """Our judgement from the detector's counters and packet lines; rules see this one."""

    direction: Direction = Direction.UNKNOWN
    attack_type: AttackType = AttackType.UNKNOWN
    protocol: str = "unknown"


WAYS = ("incoming", "outgoing")
TRAFFIC_KINDS = ("total", "tcp", "tcp_syn", "udp", "icmp", "fragmented", "dropped")
Counters = Mapping[str, Mapping[str, Counter]]
"""`counters["incoming"]["tcp_syn"]`; both directions and every traffic kind are always there."""


def no_counters() -> Counters:
    """Return counters of a report that has none."""
    return {way: {kind: Counter() for kind in TRAFFIC_KINDS} for way in WAYS}


@dataclass(frozen=True, slots=True)
class Report:
    """One detector call, understood.

    Attributes:
        action: what happened.
        scope: host or host group.
        target: canonical address; None for host groups, and for flow spec rules on no one host.
        hostgroup: name of the host group, None where the report has none.
        dialect: which of the known shapes it was: `community-a` (text of 1.1 to 1.2.5),
            `community-b` (text from 1.2.6), `community` (Community arguments, no telling text),
            `community-json` (Redis, MongoDB), `advanced-json`, `advanced` (Advanced arguments,
            no readable document).
        attack_uuid: the detector's id of the attack; None when absent or all zeros.
        packets: number of packet lines in the report.
        flows: number of flow lines in the report.
        networks: the host group's networks.
        flow_spec_rules: rules as the detector sent them.
    """

    action: Action
    scope: Scope
    target: IPAddress | None
    dialect: str
    hostgroup: str | None = None
    attack_uuid: str | None = None
    reported: Reported = Reported()
    derived: Derived = Derived()
    counters: Counters = field(default_factory=no_counters)
    packets: int = 0
    flows: int = 0
    networks: tuple[IPNetwork, ...] = ()
    flow_spec_rules: tuple[Mapping[str, Any], ...] = ()
