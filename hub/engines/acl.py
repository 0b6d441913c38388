# SPDX-License-Identifier: Apache-2.0
"""What engines share about filter lines: their words, and the ranges in them."""

from typing import Final

from hub.errors import EnginePermanentError
from hub.rules.actions import AclRule

HIGHEST: Final = 65_535


def range_of(text: str, where: str) -> tuple[int, int]:
    """Return both ends of a number or range as a filter line has it.

    Raises:
        EnginePermanentError: the ends are the wrong way round, or too high.
    """
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not low <= high <= HIGHEST:
        raise EnginePermanentError(
            f"{text!r} is not a range within 0 to {HIGHEST}",
            where=where,
            todo="write the lower end first, as 1024-65535",
        )
    return low, high


def step_of(rule: AclRule) -> str:
    """Return a filter line in words."""
    words = [rule.action, rule.protocol if rule.protocol != "any" else "any protocol"]
    if rule.sources:
        words.append("from " + ", ".join(map(str, rule.sources)))
    if rule.source_ports:
        words.append("source port " + ", ".join(rule.source_ports))
    if rule.destination_ports:
        words.append("port " + ", ".join(rule.destination_ports))
    if rule.flags is not None:
        words.append(f"flags {rule.flags}")
    if rule.icmp_types:
        words.append("type " + ", ".join(rule.icmp_types))
    if rule.fragments is not None:
        words.append("fragments" if rule.fragments else "not fragments")
    if rule.length is not None:
        words.append(f"length {rule.length}")
    if rule.action == "limit":
        words.append(f"to {rule.pps} packets/s")
    return " ".join(words)
