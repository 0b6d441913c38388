# SPDX-License-Identifier: Apache-2.0
"""Which rules could match an attack on an address, before there is one. Pure."""

from typing import Any, Final

from hub.net import IPNetwork
from hub.rules.conditions import AllOf, AnyOf, Condition, Facts, Not, span_of
from hub.rules.explain import explain, wanted_words
from hub.rules.ruleset import RuleSet

_KNOWN: Final = frozenset({"target", "service", "family"})
"""Clauses that the address alone decides; all others hang on the attack."""


def prospects(rules: RuleSet, target: IPNetwork, service: str | None) -> list[dict[str, Any]]:
    """Return each rule, in order, with what the address alone says about it.

    Each is `{rule, place, possible, ruled_out, needs, dry_run, reached}`: `ruled_out` is the
    first clause that cannot hold, with what was seen and wanted; `needs` says in words what the
    attack must be like; `reached` is False behind a rule that takes every attack.
    """
    facts = _facts(target, service)
    found: list[dict[str, Any]] = []
    reached = True
    for rule in rules.rules:
        held = _held(rule.condition, facts)
        parts = rule.condition.parts
        out = next((part for part in parts if _held(part, facts) is False), None)
        clause = None if out is None else explain(out, facts)
        found.append(
            {
                "rule": rule.name,
                "place": f"{rule.file}:{rule.line}" if rule.file else "",
                "possible": held is not False,
                "ruled_out": clause and {key: clause[key] for key in ("clause", "wanted", "seen")},
                "needs": [wanted_words(part) for part in parts if _held(part, facts) is None],
                "dry_run": rule.dry_run,
                "reached": reached,
            }
        )
        reached = reached and (held is not True or rule.passes_on)
    return found


def _held(condition: Condition, facts: Facts) -> bool | None:
    """Tell whether a clause holds; None where the attack decides."""
    match condition:
        case AllOf():
            parts = {_held(part, facts) for part in condition.parts}
            return False if False in parts else None if None in parts else True
        case AnyOf():
            parts = {_held(part, facts) for part in condition.parts}
            return True if True in parts else None if None in parts else False
        case Not():
            inner = _held(condition.part, facts)
            return None if inner is None else not inner
        case leaf:
            return leaf.compile()(facts) if leaf.name in _KNOWN else None


def _facts(target: IPNetwork, service: str | None) -> Facts:
    """Return what is known; the rest is never looked at."""
    return Facts(
        direction="",
        attack_type="",
        protocol="",
        service=service,
        scope="",
        hostgroup=None,
        family=str(target.version),
        reported_direction=None,
        reported_attack_type=None,
        reported_protocol=None,
        pps=0,
        bps=0,
        episodes=0,
        targets=(target,),
        spans=(span_of(target),),
        detectors=frozenset(),
    )
