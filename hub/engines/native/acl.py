# SPDX-License-Identifier: Apache-2.0
"""Filter lines in synproxyd's terms (pure).

What drops all of ICMP would take path MTU discovery along: in front of such a line the message
"packet too big" passes, up to a rate, as behind nftables conntrack lets it pass.
"""

from collections.abc import Iterator
from typing import Any, Final

from hub.engines.acl import range_of, step_of
from hub.errors import EnginePermanentError
from hub.net import IPNetwork
from hub.rules.actions import Acl, AclRule, flag_bits

_NUMBERS: Final = {"tcp": 6, "udp": 17, "gre": 47, "esp": 50, "sctp": 132}
_ICMP: Final = {4: 1, 6: 58}
_TOO_BIG: Final = {4: ([3, 3], [4, 4]), 6: ([2, 2], [0, 0])}
"""Type and code: RFC 792 and RFC 1191, RFC 4443 section 3.2."""


def acl_fields(action: Acl, target: IPNetwork, icmp_pps: int) -> dict[str, Any]:
    """Return the field `acl` of a request.

    Raises:
        EnginePermanentError: no line can match a packet to `target`, or one says nonsense.
    """
    lines: list[dict[str, Any]] = []
    guard = [_too_big(target.version, icmp_pps)]
    for number, rule in enumerate(action.rules, 1):
        found = list(_lines(rule, target.version, f"acl rule {number}"))
        if found and _drops_all_icmp(rule):
            lines, guard = lines + guard, []
        lines += found
    if not lines:
        raise EnginePermanentError(
            f"none of the acl rules can match IPv{target.version} packets",
            where=str(target),
            todo="give sources of the target's family, or none",
        )
    return {"rules": lines}


def acl_steps(action: Acl, target: IPNetwork, icmp_pps: int) -> list[str]:
    """Return the same in words."""
    steps: list[str] = []
    for number, rule in enumerate(action.rules, 1):
        if rule.sources and not _sources(rule, target.version):
            steps.append(f"rule {number} names sources of the other family only: left out")
        else:
            steps.append(step_of(rule))
    if any(_drops_all_icmp(rule) for rule in action.rules):
        steps.insert(0, f"pass up to {icmp_pps} ICMP messages of a packet too big a second")
    return steps


def _lines(rule: AclRule, version: int, where: str) -> Iterator[dict[str, Any]]:
    sources = _sources(rule, version)
    if rule.sources and not sources:
        return
    ports = {"source_ports": rule.source_ports, "destination_ports": rule.destination_ports}
    given: dict[str, Any] = {
        "protocol": _ICMP[version] if rule.protocol == "icmp" else _NUMBERS.get(rule.protocol),
        "sources": sources or None,
        **{key: [_pair(text, where) for text in texts] or None for key, texts in ports.items()},
        "length": rule.length and _pair(rule.length, where),
        "fragments": rule.fragments,
        "flags": rule.flags and dict(zip(("mask", "value"), flag_bits(rule.flags), strict=True)),
        "pps": rule.pps,
    }
    line = {key: value for key, value in given.items() if value is not None}
    for text in rule.icmp_types or (None,):
        kind = {} if text is None else {"icmp_type": _pair(text, where)}
        yield {"action": rule.action, **line, **kind}


def _pair(text: str, where: str) -> list[int]:
    return list(range_of(text, where))


def _drops_all_icmp(rule: AclRule) -> bool:
    plain = not (rule.sources or rule.source_ports or rule.destination_ports or rule.flags)
    whole = rule.length is None and rule.fragments is None and not rule.icmp_types
    return rule.action == "drop" and rule.protocol in ("icmp", "any") and plain and whole


def _too_big(version: int, pps: int) -> dict[str, Any]:
    kind, code = _TOO_BIG[version]
    return {
        "action": "limit",
        "protocol": _ICMP[version],
        "icmp_type": kind,
        "icmp_code": code,
        "pps": pps,
    }


def _sources(rule: AclRule, version: int) -> list[str]:
    return [str(source) for source in rule.sources if source.version == version]
