# SPDX-License-Identifier: Apache-2.0
"""Direction, type and protocol of an attack, recomputed from counters and packet lines.

FastNetMon calls every flood `outgoing` that the target answers packet by packet, and everything
that is neither UDP nor ICMP `tcp`. What it counts is right, so the counters are asked again:

- A type needs more than 90 % of one direction's packets, in FastNetMon's order: SYN, ICMP,
  fragments, UDP; then other TCP and other protocols, both `other`. Where no type is found and
  packets are large, bits are asked in the same way.
- The direction is that of the side which asks. SYN tells it best; otherwise it is the side with
  clearly more packets; otherwise the side whose traffic is no mere answer; otherwise the side
  with clearly more bits. ICMP echo answered one to one has no direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hub.intake.model import AttackType, Counter, Counters, Derived, Direction
from hub.intake.packets import Tally

_CLASSES: Final = ("tcp", "udp", "icmp")
_ORDER: Final = (
    ("tcp_syn", AttackType.SYN_FLOOD, "tcp"),
    ("icmp", AttackType.ICMP_FLOOD, "icmp"),
    ("fragmented", AttackType.IP_FRAGMENTATION, ""),
    ("udp", AttackType.UDP_FLOOD, "udp"),
    ("tcp", AttackType.OTHER, "tcp"),
)
"""Traffic kind, type and protocol; fragments have the protocol that most of them carry."""
_LARGE_PACKET: Final = 500
"""Bytes per packet on average from which the bits count: no flood of small packets."""
_SYN_ANSWERS: Final = 3
"""An answered SYN flood may hide among this many times its packets in the other direction."""
_SYN_ACKS: Final = 8
"""A host sends each SYN-ACK up to six times (tcp_synack_retries 5), with some tolerance."""

Load = Mapping[str, int | None]
Kind = tuple[AttackType, str]
_NOTHING: Final[Kind] = (AttackType.UNKNOWN, "unknown")


@dataclass(slots=True)
class _Side:
    """One direction, judged.

    Attributes:
        pps: packets by traffic kind; `total` is None when nothing is known.
        bps: bits by traffic kind.
        lines: its packet lines.
        kind: type and protocol if this side is the attack.
    """

    pps: Load
    bps: Load
    lines: Tally
    kind: Kind = _NOTHING

    @property
    def packets(self) -> int:
        return self.pps["total"] or 0

    def mostly(self, what: str) -> bool:
        """Say whether more than 90 % of the packets are `what`."""
        return _over(self.pps[what], self.packets)


def derive(counters: Counters, lines: Mapping[str, Tally], *, rounding: int) -> Derived:
    """Return our own judgement of an attack.

    Args:
        counters: as reported; without any counter the packet lines stand in for them.
        lines: tally of the packet lines by direction.
        rounding: bits per second by which each `bps` may be too small.
    """
    incoming = _counted(counters["incoming"], lines["incoming"])
    outgoing = _counted(counters["outgoing"], lines["outgoing"])
    if not any(_known(side.pps) or _known(side.bps) for side in (incoming, outgoing)):
        incoming, outgoing = _seen(lines["incoming"]), _seen(lines["outgoing"])
    for side in (incoming, outgoing):
        side.kind = _judge(side, rounding)
    _mark_bare_handshakes(incoming, outgoing)
    _mark_bare_handshakes(outgoing, incoming)
    direction = _direction(incoming, outgoing, rounding)
    first, second = incoming, outgoing
    if direction is Direction.OUTGOING:
        first, second = outgoing, incoming
    kind = first.kind if direction is not Direction.UNKNOWN else _common(incoming, outgoing)
    if kind == (AttackType.OTHER, "unknown"):
        kind = _other(first.lines, second.lines)
    return Derived(direction, *kind)


def _counted(counters: Mapping[str, Counter], lines: Tally) -> _Side:
    return _Side(
        _with_total({kind: counter.pps for kind, counter in counters.items()}),
        _with_total({kind: counter.bps for kind, counter in counters.items()}),
        lines,
    )


def _seen(lines: Tally) -> _Side:
    return _Side(lines.load, dict.fromkeys(lines.load), lines)


def _with_total(load: dict[str, int | None]) -> Load:
    """Fill in a missing total with the least that it can be."""
    if load["total"] is None and _known(load):
        parts = sum(load[kind] or 0 for kind in _CLASSES)
        load["total"] = max(parts, load["fragmented"] or 0)
    return load


def _known(load: Load) -> bool:
    return any(value is not None for value in load.values())


def _over(part: int | None, total: int, slack: int = 0) -> bool:
    return part is not None and 10 * part > 9 * (total + slack)


def _judge(side: _Side, rounding: int) -> Kind:
    """Return type and protocol of one side on its own."""
    kind = _classified(side.pps, 0, side.lines)
    large = (side.bps["total"] or 0) >= 8 * _LARGE_PACKET * max(side.packets, 1)
    if kind is None and large:
        kind = _classified(side.bps, rounding, side.lines)
    if kind is None and all(side.pps[name] is None for name in _CLASSES):
        kind = _classified(side.lines.load, 0, side.lines)
    if kind is None:
        kind = AttackType.UNKNOWN, _half(side.pps, side.lines)
    return kind


def _classified(load: Load, slack: int, lines: Tally) -> Kind | None:
    """Return the class that makes more than 90 % of `load`, if any does.

    `slack` is what each figure may lack by rounding down: a class counts with what it has at
    least, the total with what it has at most.
    """
    total = load["total"]
    if not total:
        return None
    for what, attack_type, protocol in _ORDER:
        if _over(load[what], total, slack):
            return attack_type, protocol or _carried(load, lines)
    if _over(_rest(load, total, slack), total, slack):
        return AttackType.OTHER, "unknown"
    return None


def _rest(load: Load, total: int, slack: int) -> int | None:
    """Return what is neither TCP, UDP nor ICMP; None when one of them is missing."""
    rest = total
    for kind in _CLASSES:
        part = load[kind]
        if part is None:
            return None
        rest -= part + slack
    return rest


def _half(load: Load, lines: Tally) -> str:
    """Return the protocol of more than half of `load`, by packet lines where it is no class."""
    total = load["total"] or 0
    for kind in _CLASSES:
        if 2 * (load[kind] or 0) > total:
            return kind
    rest = _rest(load, total, 0)
    if rest is not None and 2 * rest > total:
        return _other(lines)[1]
    return "unknown"


def _carried(load: Load, lines: Tally) -> str:
    """Return what most fragments carry; later fragments may be counted in no class."""
    by_counters = _half(load, lines)
    return _majority(lines) if by_counters == "unknown" else by_counters


def _majority(lines: Tally) -> str:
    """Return the protocol of more than half of the packet lines by weight."""
    for protocol, weight in lines.protocols.items():
        if 2 * weight > lines.load["total"]:
            return protocol
    return "unknown"


def _other(*lines: Tally) -> Kind:
    """Return what the packet lines say about traffic that is neither TCP, UDP nor ICMP.

    The first tally with lines decides. ICMPv6 stands here where the counters miss it; lines of a
    class that the counters deny are of other traffic and say nothing.
    """
    protocol = next((_majority(tally) for tally in lines if tally.protocols), "unknown")
    if protocol == "icmp":
        return AttackType.ICMP_FLOOD, protocol
    return AttackType.OTHER, "unknown" if protocol in _CLASSES else protocol


def _mark_bare_handshakes(side: _Side, other: _Side) -> None:
    """Call `side` a SYN flood when all it gets are SYN-ACKs, though it also sends resets.

    FastNetMon counts SYN-ACKs as SYN. A flood of an open port from real addresses is half SYN
    and half RST, because the flooding host's own kernel resets what it did not ask for: twice as
    many packets as come back. Where no more come back than go, some ports are closed instead.
    """
    syn, total = side.pps["tcp_syn"] or 0, side.packets
    more = 2 * total >= 3 * other.packets
    if more and side.mostly("tcp") and 5 * syn >= 2 * total and other.mostly("tcp_syn"):
        side.kind = AttackType.SYN_FLOOD, "tcp"


def _direction(incoming: _Side, outgoing: _Side, rounding: int) -> Direction:
    if _has_no_counters(incoming) or _has_no_counters(outgoing):
        return Direction.UNKNOWN
    for asks in (_by_answers, _by_syn):
        if asks(incoming, outgoing):
            return Direction.INCOMING
        if asks(outgoing, incoming):
            return Direction.OUTGOING
    if incoming.mostly("tcp_syn") and outgoing.mostly("tcp_syn"):
        # One side is SYN-ACKs. A host that floods others would reset those it gets, so its own
        # side would not be SYN alone: the flood comes in, unless the amounts forbid it.
        outward = outgoing.packets > _SYN_ACKS * incoming.packets
        return Direction.OUTGOING if outward else Direction.INCOMING
    return _by_volume(incoming, outgoing, rounding)


def _has_no_counters(side: _Side) -> bool:
    return side.pps["total"] is None and side.bps["total"] is None


def _by_answers(side: _Side, other: _Side) -> bool:
    """Say whether the packet lines show `other` only answering `side` (SYN-ACK, RST)."""
    theirs, ours = other.lines, side.lines
    return (
        0 < other.packets <= _SYN_ACKS * side.packets
        and ours.load["total"] > 0
        and _over(theirs.answers, theirs.load["total"])
        and theirs.answers > 0
        and 10 * ours.answers <= 6 * ours.load["total"]
    )


def _by_syn(side: _Side, other: _Side) -> bool:
    """Say whether SYN counters make `side` the one that asks."""
    if side.kind[0] is not AttackType.SYN_FLOOD:
        return False
    if other.kind[0] is not AttackType.SYN_FLOOD:
        return other.packets <= _SYN_ANSWERS * side.packets
    # Both are SYN: one of them is SYN-ACKs. The side with resets among its SYNs asks.
    return other.mostly("tcp_syn") and not side.mostly("tcp_syn")


def _by_volume(incoming: _Side, outgoing: _Side, rounding: int) -> Direction:
    by_packets = _larger(incoming.packets, outgoing.packets, 0)
    by_bits = _larger(incoming.bps["total"] or 0, outgoing.bps["total"] or 0, rounding)
    if by_packets is not None and by_bits in {None, by_packets}:
        return by_packets
    by_rank = _larger(_rank(incoming.kind), _rank(outgoing.kind), 0)
    return by_rank or by_packets or by_bits or Direction.UNKNOWN


def _larger(incoming: int, outgoing: int, slack: int) -> Direction | None:
    """Return the direction with at least one and a half times the other's amount."""
    if incoming and 2 * incoming >= 3 * (outgoing + slack):
        return Direction.INCOMING
    if outgoing and 2 * outgoing >= 3 * (incoming + slack):
        return Direction.OUTGOING
    return None


def _rank(kind: Kind) -> int:
    """Return how little the traffic looks like an answer; each step beats the one below.

    ICMP answers UDP and unknown protocols (unreachable), TCP alone is everyday traffic.
    """
    match kind:
        case AttackType.UNKNOWN, _:
            return 0
        case AttackType.OTHER, "tcp":
            return 1
        case AttackType.ICMP_FLOOD, _:
            return 2
        case AttackType.OTHER, _:
            return 4
        case _:
            return 8


def _common(incoming: _Side, outgoing: _Side) -> Kind:
    """Return what can be said when either side may be the attack."""
    if _has_no_counters(outgoing):
        return incoming.kind
    if _has_no_counters(incoming):
        return outgoing.kind
    (one, protocol), (other, another) = incoming.kind, outgoing.kind
    return (
        one if one is other else AttackType.UNKNOWN,
        protocol if protocol == another else "unknown",
    )
