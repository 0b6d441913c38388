# SPDX-License-Identifier: Apache-2.0
"""Conditions in words: what they want, what was seen, which clause failed first."""

from collections.abc import Iterator
from typing import Any

from hub.rules.conditions import AllOf, AnyOf, Condition, Facts, Not


def explain(condition: Condition, facts: Facts, *, full: bool = False) -> dict[str, Any]:
    """Return the clause as JSON: what it wants, what was seen, whether it held.

    Groups have `clauses` besides, and their `wanted` and `seen` sum these up in words.

    Args:
        condition: the clause.
        facts: what it looks at.
        full: also show the clauses behind the first one that failed.
    """
    match condition:
        case AllOf():
            clauses, held = _explain_all(condition.parts, facts, full=full)
        case AnyOf():
            clauses = [explain(part, facts, full=full) for part in condition.parts]
            held = any(clause["held"] for clause in clauses)
        case Not():
            clauses = [explain(condition.part, facts, full=full)]
            held = not clauses[0]["held"]
        case leaf:
            held = leaf.compile()(facts)
            seen = leaf.seen(facts)
            return {"clause": leaf.name, "wanted": leaf.wanted, "seen": seen, "held": held}
    return {
        "clause": condition.name,
        "wanted": wanted_words(condition),
        "seen": ", ".join(dict.fromkeys(_seen(condition, facts))),
        "held": held,
        "clauses": clauses,
    }


def wanted_words(condition: Condition) -> str:
    """Return in words what a clause asks for."""
    match condition:
        case AllOf():
            return " and ".join(map(wanted_words, condition.parts)) or "any attack"
        case AnyOf():
            return f"({' or '.join(map(wanted_words, condition.parts))})"
        case Not():
            return f"not ({wanted_words(condition.part)})"
        case leaf:
            return f"{leaf.name} {_text(leaf.wanted)}"


def _seen(condition: Condition, facts: Facts) -> Iterator[str]:
    match condition:
        case AllOf() | AnyOf():
            for part in condition.parts:
                yield from _seen(part, facts)
        case Not():
            yield from _seen(condition.part, facts)
        case leaf:
            yield f"{leaf.name} {_text(leaf.seen(facts))}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def describe(condition: Condition) -> Any:
    """Return what `condition` asks for as JSON, the same in every run."""
    match condition:
        case AllOf() | AnyOf():
            return {condition.name: [describe(part) for part in condition.parts]}
        case Not():
            return {condition.name: describe(condition.part)}
        case _:
            return {condition.name: condition.wanted}


def _explain_all(
    parts: tuple[Condition, ...], facts: Facts, *, full: bool
) -> tuple[list[dict[str, Any]], bool]:
    clauses: list[dict[str, Any]] = []
    held = True
    for part in parts:
        clause = explain(part, facts, full=full)
        if held and not clause["held"]:
            held = False
            clause["failed_first"] = True
        clauses.append(clause)
        if not held and not full:
            break
    return clauses, held
