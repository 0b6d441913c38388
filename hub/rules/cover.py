# SPDX-License-Identifier: Apache-2.0
"""Whether one condition can hold only where another does: finds rules that are never reached.

The answers are one-sided: yes is certain, no means only that it could not be shown cheaply.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hub.rules.conditions import (
    AllOf,
    AnyOf,
    Condition,
    HeldBy,
    Inside,
    Leaf,
    Not,
    OneOf,
    Within,
    covered,
)
from hub.rules.words import EXHAUSTIVE, Range

K = TypeVar("K")

_BUDGET: Final = 2_000
"""Comparisons for one pair of conditions; a pair that needs more counts as not comparable."""
_TOTAL_BUDGET: Final = 100_000
"""Comparisons for all pairs of one rule set; about a quarter of a second."""
_COARSE: Final = frozenset({"direction", "attack_type", "protocol", "scope", "family"})
"""Facts that many rules share, and which therefore tell few of them apart."""


class _Comparison:
    """Questions that share a budget, so that nested groups cannot make a load hang."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def implies(self, one: Condition, other: Condition) -> bool:
        """Tell whether `other` holds wherever `one` does."""
        self._left -= 1
        if self._left < 0:
            return False
        if isinstance(other, AllOf):
            return all(self.implies(one, part) for part in other.parts)
        if isinstance(other, OneOf) and _says_nothing(other):
            return True
        return (
            self._by_parts(one, other)
            or self._by_nature(one, other)
            or (isinstance(other, AnyOf) and any(self.implies(one, part) for part in other.parts))
        )

    def excludes(self, one: Condition, other: Condition) -> bool:
        """Tell whether the two never hold together."""
        self._left -= 1
        if self._left < 0:
            return False
        return (
            self._excludes_by_parts(one, other)
            or self._excludes_by_parts(other, one)
            or _apart(one, other)
        )

    def _by_parts(self, one: Condition, other: Condition) -> bool:
        match one:
            case AllOf():
                return any(self.implies(part, other) for part in one.parts)
            case AnyOf():
                return all(self.implies(part, other) for part in one.parts)
            case _:
                return False

    def _by_nature(self, one: Condition, other: Condition) -> bool:
        if isinstance(other, Not):
            return self.excludes(one, other.part)
        return _plainly(one, other)

    def _excludes_by_parts(self, one: Condition, other: Condition) -> bool:
        match one:
            case AllOf():
                return any(self.excludes(part, other) for part in one.parts)
            case AnyOf():
                return all(self.excludes(part, other) for part in one.parts)
            case Not():
                return self.implies(other, one.part)
            case _:
                return False


def implies(one: Condition, other: Condition) -> bool:
    """Tell whether it is certain that `other` holds wherever `one` does."""
    return _Comparison(_BUDGET).implies(one, other)


def never_holds(condition: AllOf) -> bool:
    """Tell whether it is certain that no attack satisfies `condition`."""
    return any(
        _Comparison(_BUDGET).excludes(one, other)
        for index, one in enumerate(condition.parts)
        for other in condition.parts[index + 1 :]
    )


class Covering(Generic[K]):
    """Finds among many conditions one that holds wherever a new one does.

    Nearly all pairs are told apart by their plain clauses alone; the rest share one budget, so
    that a long rule file loads in bounded time.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[_Profile, K]] = []
        self._equal: dict[AllOf, K] = {}
        self._comparison = _Comparison(_TOTAL_BUDGET)

    def add(self, condition: AllOf, key: K) -> None:
        """Remember `condition` under `key`."""
        self._seen.append((_profile(condition), key))
        self._equal.setdefault(condition, key)

    def find(self, condition: AllOf) -> K | None:
        """Return the key of a condition that certainly holds wherever this one does."""
        if condition in self._equal:
            return self._equal[condition]
        asking = _profile(condition)
        for other, key in self._seen:
            if _may_imply(asking, other) and self._comparison.implies(condition, other.condition):
                return key
        return None


@dataclass(frozen=True, slots=True)
class _Profile:
    """What can be compared at once.

    Attributes:
        clauses: plain clauses that must hold, with their fact, the most telling first.
        grouped: facts that an `any` or `not` looks at, which may imply what no plain clause does.
    """

    condition: AllOf
    clauses: tuple[tuple[str, Leaf], ...]
    grouped: frozenset[str]


def _profile(condition: AllOf) -> _Profile:
    clauses: list[tuple[str, Leaf]] = []
    grouped: frozenset[str] = frozenset()
    pending: list[Condition] = [condition]
    while pending:
        match pending.pop():
            case AllOf() as every:
                pending.extend(every.parts)
            case AnyOf() | Not() as group:
                grouped |= _facts(group)
            case leaf:
                if not (isinstance(leaf, OneOf) and _says_nothing(leaf)):
                    clauses.append((_fact(leaf), leaf))
    clauses.sort(key=lambda each: (each[0] in _COARSE, each[0]))
    return _Profile(condition, tuple(clauses), grouped)


def _may_imply(one: _Profile, other: _Profile) -> bool:
    """Tell apart by plain clauses alone what `implies` would find out slowly."""
    for name, wanted in other.clauses:
        if name in one.grouped:
            continue
        for fact, clause in one.clauses:
            if fact == name and _plainly(clause, wanted):
                break
        else:
            return False
    return True


def _facts(condition: Condition) -> frozenset[str]:
    match condition:
        case AllOf() | AnyOf():
            return frozenset[str]().union(*(_facts(part) for part in condition.parts))
        case Not():
            return _facts(condition.part)
        case leaf:
            return frozenset({_fact(leaf)})


def _fact(leaf: Leaf) -> str:
    return leaf.field if isinstance(leaf, OneOf) else leaf.name


def _says_nothing(clause: OneOf) -> bool:
    every = EXHAUSTIVE.get(clause.field)
    return every is not None and clause.values >= every


def _plainly(one: Condition, other: Condition) -> bool:
    """Tell whether one plain clause implies another."""
    match one, other:
        case OneOf(), OneOf():
            return one.field == other.field and one.values <= other.values
        case Within(), Within():
            return one.name == other.name and _inside(one.range, other.range)
        case HeldBy(), HeldBy():
            return one.values <= other.values
        case Inside(), Inside():
            return covered(one.spans, other.spans)
        case Not(part=OneOf() as part), OneOf():
            every = EXHAUSTIVE.get(part.field)
            return (
                every is not None
                and part.field == other.field
                and every - part.values <= other.values
            )
        case _:
            return False


def _inside(one: Range, other: Range) -> bool:
    if one.low < other.low:
        return False
    return other.high is None or (one.high is not None and one.high <= other.high)


def _apart(one: Condition, other: Condition) -> bool:
    match one, other:
        case OneOf(), OneOf():
            return one.field == other.field and one.values.isdisjoint(other.values)
        case Within(), Within():
            return one.name == other.name and (
                _below(one.range, other.range) or _below(other.range, one.range)
            )
        case _:
            return False


def _below(one: Range, other: Range) -> bool:
    return one.high is not None and one.high < other.low
