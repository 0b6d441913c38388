# SPDX-License-Identifier: Apache-2.0
"""What one report says about an attack: whose word it is, and what it shows."""

from dataclasses import replace
from ipaddress import ip_network

from hub.attacks.change import Sighting
from hub.attacks.model import Attack, Holder
from hub.intake.model import WAYS, Action, AttackType, Direction, Report, Scope
from hub.net import IPNetwork


def subject_of(sighting: Sighting) -> str | None:
    """Return the name under which attacks on this target are found; None without a target.

    A drill has names of its own: it never meets a real attack, a tombstone or a flap.
    """
    report = sighting.report
    mark = f"drill:{sighting.drill}:" if sighting.drill else ""
    if report.scope is Scope.HOSTGROUP:
        return f"{mark}group:{report.hostgroup}" if report.hostgroup else None
    return None if report.target is None else f"{mark}host:{report.target}"


def targets_of(report: Report) -> tuple[IPNetwork, ...]:
    """Return what is attacked: the host, or the host group's networks."""
    return report.networks if report.target is None else (ip_network(report.target),)


def key_of(report: Report) -> str:
    """Return the detector's id of the attack, or of the flow spec rule."""
    uuid = report.attack_uuid or ""
    if report.action in (Action.PARTIAL_BLOCK, Action.PARTIAL_UNBLOCK):
        rules = sorted(str(rule.get("uuid", "")) for rule in report.flow_spec_rules)
        return f"{uuid}/{','.join(rules)}"
    return uuid


def leaving(holders: tuple[Holder, ...], sighting: Sighting) -> tuple[Holder, ...]:
    """Return the holders that a sighting speaks for: an unban ends exactly these."""
    key = key_of(sighting.report)
    mine = tuple(holder for holder in holders if holder.detector == sighting.detector)
    exact = tuple(holder for holder in mine if holder.key == key)
    if exact or sighting.report.action in (Action.PARTIAL_BLOCK, Action.PARTIAL_UNBLOCK):
        return exact
    if not key:
        return mine
    return tuple(holder for holder in mine if not holder.key)


def holder_of(sighting: Sighting) -> Holder:
    """Return the word that a sighting gives."""
    return Holder(
        detector=sighting.detector,
        key=key_of(sighting.report),
        direction=sighting.report.reported.direction,
        since=sighting.stamp,
        stamp=sighting.stamp,
    )


def with_holder(holders: tuple[Holder, ...], sighting: Sighting) -> tuple[Holder, ...]:
    """Return `holders` with the word of one more sighting; late ones do not turn time back."""
    new = holder_of(sighting)
    kept: list[Holder] = []
    for holder in holders:
        if holder.detector != new.detector or holder.key not in (new.key, ""):
            kept.append(holder)
        elif new.stamp.before(holder.since):
            new = replace(holder, since=new.since)
        elif new.stamp.before(holder.stamp):
            new = holder
        elif sighting.report.action is not Action.BAN:
            new = replace(new, since=holder.since)
    return (*kept, new)


def reshape(attack: Attack, report: Report) -> Attack:
    """Return `attack` with the better evidence of the two; unknown never replaces known."""
    derived = report.derived
    if report.action is Action.ATTACK_STATUS:
        return attack
    direction = attack.direction if derived.direction is Direction.UNKNOWN else derived.direction
    if derived.attack_type is AttackType.UNKNOWN and derived.protocol == "unknown":
        return replace(attack, direction=direction)
    return replace(
        attack,
        direction=direction,
        attack_type=derived.attack_type,
        protocol=derived.protocol,
        reported=report.reported,
    )


def shape_of(attack: Attack) -> tuple[object, ...]:
    """Return what rules decide on; a change of it is worth a line."""
    return (attack.direction, attack.attack_type, attack.protocol)


def peak_of(report: Report, unit: str) -> int:
    """Return the highest rate in the report: `pps` packets per second, `bps` bits per second."""
    ways = [report.counters[way]["total"] for way in WAYS]
    if report.derived.direction in (Direction.INCOMING, Direction.OUTGOING):
        ways = [report.counters[report.derived.direction]["total"]]
    best = max((getattr(total, unit) or 0 for total in ways), default=0)
    return max(best, report.reported.pps or 0) if unit == "pps" else best
