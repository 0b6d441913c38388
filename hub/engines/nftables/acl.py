# SPDX-License-Identifier: Apache-2.0
"""Drop, pass and limit rules: the first that matches decides, the rest passes.

What is dropped, at once or beyond a limit, counts as judged.
"""

from collections.abc import Container, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any, Final

from hub.engines.acl import range_of, step_of
from hub.engines.nftables.expr import (
    DROP,
    RETURN,
    Json,
    above,
    count,
    field,
    goto,
    is_,
    is_not,
    masked,
    meta,
    network,
    one_of,
    span,
)
from hub.engines.nftables.layout import hit, protocol
from hub.engines.nftables.profile import NUMBER, OWN, Draft
from hub.errors import EnginePermanentError
from hub.net import IPNetwork
from hub.rules.actions import FLAGS, Acl, AclRule, flag_bits

WITH_PORTS: Final = ("tcp", "udp", "sctp")
FRAGMENT_BITS: Final = 0x3FFF
"""More-fragments flag and offset (RFC 791)."""
LEAST_BURST: Final = 5
ENDS: Final = {"drop": ("_drop", "acl_dropped"), "limit": ("_limit", "acl_limited")}
"""Suffix of the chain that drops, and the counter there, by a rule's action."""


def acl_draft(target: IPNetwork, action: Acl, interface: str | None) -> Draft:
    """Return the filter of `action` for the family and width of `target`.

    Raises:
        EnginePermanentError: a rule says something that no packet can be.
    """
    rules: list[list[Json]] = []
    steps: list[str] = []
    for number, rule in enumerate(action.rules, 1):
        matches = _matches(rule, target.version, f"acl rule {number}")
        if matches is None:
            steps.append(f"rule {number} names sources of the other family only: left out")
            continue
        rules += [[*matches, *verdict] for verdict in _verdicts(rule, f"acl rule {number}")]
        steps.append(step_of(rule))
    if not rules:
        raise EnginePermanentError(
            f"none of the acl rules can match IPv{target.version} packets",
            where=str(target),
            todo="give sources of the target's family, or none",
        )
    if interface:
        rules.insert(0, [is_not(meta("iifname"), interface), RETURN])
    limits = any(rule.action == "limit" for rule in action.rules)
    return Draft(
        kind="acl",
        version=target.version,
        chains={"": rules, **_ends(target, action)},
        gates={"flt": ""},
        sets={},
        steps=tuple(steps),
        # A limit counts: two targets must not share it.
        salt=str(target) if limits else "",
    )


def _ends(target: IPNetwork, action: Acl) -> dict[str, list[list[Json]]]:
    found = [ENDS[one] for one in sorted({rule.action for rule in action.rules} - {"pass"})]
    return {suffix: [[hit(target, NUMBER)], [count(counter), DROP]] for suffix, counter in found}


def counts(name: str, chains: Container[str]) -> bool:
    """Tell whether what the filter of this name drops is counted, given the chains there are."""
    return any(name + suffix in chains for suffix, _ in ENDS.values())


def _verdicts(rule: AclRule, where: str) -> list[list[Json]]:
    if rule.action == "pass":
        return [[RETURN]]
    if rule.action == "drop":
        return [[goto(OWN + ENDS["drop"][0])]]
    if rule.pps is None:
        raise EnginePermanentError(
            "limit has no pps", where=where, todo="add pps, the packets a second that may pass"
        )
    burst = max(LEAST_BURST, rule.pps // 10)
    return [[above(rule.pps, burst), goto(OWN + ENDS["limit"][0])], [RETURN]]


def _matches(rule: AclRule, version: int, where: str) -> list[Json] | None:
    matches: list[Json] = []
    if rule.sources:
        values = _sources(rule.sources, version)
        if not values:
            return None
        matches.append(is_(field(protocol(version), "saddr"), one_of(values)))
    matches += _protocol(rule, version, where)
    for name, ports in (("sport", rule.source_ports), ("dport", rule.destination_ports)):
        if ports:
            matches.append(is_(field("th", name), one_of(_merged(ports, where))))
    if rule.flags is not None:
        matches.append(_flags(rule.flags))
    if rule.icmp_types:
        icmp = "icmp" if version == 4 else "icmpv6"  # noqa: PLR2004
        matches.append(is_(field(icmp, "type"), one_of(_merged(rule.icmp_types, where))))
    if rule.fragments is not None:
        matches.append(_fragments(version, wanted=rule.fragments))
    if rule.length is not None:
        matches.append(is_(meta("length"), span(*range_of(rule.length, where))))
    return matches


def _sources(sources: Sequence[IPNetwork], version: int) -> list[Any]:
    # nft refuses prefixes that overlap within one set.
    v4 = (source for source in sources if isinstance(source, IPv4Network))
    v6 = (source for source in sources if isinstance(source, IPv6Network))
    if version == 4:  # noqa: PLR2004
        return [network(source) for source in collapse_addresses(v4)]
    return [network(source) for source in collapse_addresses(v6)]


def _protocol(rule: AclRule, version: int, where: str) -> list[Json]:
    ports = bool(rule.source_ports or rule.destination_ports)
    if rule.protocol == "any":
        return [is_(meta("l4proto"), one_of(WITH_PORTS))] if ports else []
    if ports and rule.protocol not in WITH_PORTS:
        raise EnginePermanentError(
            f"protocol {rule.protocol} has no ports",
            where=where,
            todo="leave the ports out, or name tcp, udp or sctp",
        )
    icmp = "icmp" if version == 4 else "ipv6-icmp"  # noqa: PLR2004
    return [is_(meta("l4proto"), icmp if rule.protocol == "icmp" else rule.protocol)]


def _fragments(version: int, *, wanted: bool) -> Json:
    if version == 4:  # noqa: PLR2004
        bits = masked(field("ip", "frag-off"), FRAGMENT_BITS)
        return is_not(bits, 0) if wanted else is_(bits, 0)
    return is_({"exthdr": {"name": "frag"}}, wanted)


def _flags(text: str) -> Json:
    mask, value = flag_bits(text)
    named = [[flag for bit, flag in enumerate(FLAGS) if bits >> bit & 1] for bits in (mask, value)]
    return is_(masked(field("tcp", "flags"), named[0]), named[1] or 0)


def _merged(texts: tuple[str, ...], where: str) -> list[Any]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(range_of(text, where) for text in texts):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return [span(low, high) for low, high in merged]
