# SPDX-License-Identifier: Apache-2.0
"""Conditions on an attack: trees that can be compared and explained, and compiled for speed."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from hub.attacks.model import Attack
from hub.intake.model import Scope
from hub.net import IPNetwork
from hub.rates import NONE, RATES, Rates
from hub.rules.language import EngineSpec, ReportedSpec, WhenSpec
from hub.rules.protocols import canonical_protocol
from hub.rules.words import Range


class Facts(NamedTuple):
    """What conditions look at, drawn from one attack once.

    `family` is `4`, `6`, or `mixed` for a host group with both; words of the detector are in
    lower case, None where it said nothing.
    """

    direction: str
    attack_type: str
    protocol: str
    service: str | None
    scope: str
    hostgroup: str | None
    family: str
    reported_direction: str | None
    reported_attack_type: str | None
    reported_protocol: str | None
    pps: int
    bps: int
    episodes: int
    targets: tuple[IPNetwork, ...]
    spans: tuple["Span", ...]
    detectors: frozenset[str]
    engine_hostile_pps: int = 0
    engine_dropped_pps: int = 0
    engine_passed_pps: int = 0
    engine_syn_pps: int = 0
    engine_cookie_good_pps: int = 0


Span = tuple[int, int, int]
"""A prefix as IP version, first and last address: numbers, which compare fast."""
Test = Callable[[Facts], bool]


def facts_of(attack: Attack, service: str | None, rates: Rates = NONE) -> Facts:
    """Return what conditions look at.

    Args:
        attack: the attack.
        service: name of the one that covers the target.
        rates: what engines measure of its countermeasures now.
    """
    families = {target.version for target in attack.targets}
    reported = attack.reported
    return Facts(
        direction=attack.direction.value,
        attack_type=attack.attack_type.value,
        protocol=canonical_protocol(attack.protocol),
        service=service,
        scope=(Scope.HOST if attack.hostgroup is None else Scope.HOSTGROUP).value,
        hostgroup=attack.hostgroup,
        family=str(min(families)) if len(families) == 1 else "mixed" if families else "none",
        reported_direction=_lower(reported.direction),
        reported_attack_type=_lower(reported.attack_type),
        reported_protocol=_lower(reported.protocol),
        pps=attack.pps,
        bps=attack.bps,
        episodes=attack.episodes,
        targets=attack.targets,
        spans=tuple(map(span_of, attack.targets)),
        detectors=frozenset(holder.detector for holder in attack.holders),
        engine_hostile_pps=rates.hostile_pps,
        engine_dropped_pps=rates.dropped_pps,
        engine_passed_pps=rates.passed_pps,
        engine_syn_pps=rates.syn_pps,
        engine_cookie_good_pps=rates.cookie_good_pps,
    )


@dataclass(frozen=True, slots=True)
class OneOf:
    """One fact is one of some words."""

    name: str
    field: str
    values: frozenset[str]
    written: tuple[str, ...]

    def compile(self) -> Test:
        """Return the test."""
        index, values = Facts._fields.index(self.field), self.values
        return lambda facts: facts[index] in values

    def seen(self, facts: Facts) -> Any:
        """Return what stands against it."""
        return getattr(facts, self.field)

    @property
    def wanted(self) -> Any:
        """Return what it asks for."""
        return list(self.written)


@dataclass(frozen=True, slots=True)
class Within:
    """One number lies in a range."""

    name: str
    range: Range

    def compile(self) -> Test:
        """Return the test."""
        number: Callable[[Facts], int] = itemgetter(Facts._fields.index(self._field))
        low, high = self.range.low, self.range.high
        if high is None:
            return lambda facts: number(facts) >= low
        return lambda facts: low <= number(facts) <= high

    def seen(self, facts: Facts) -> Any:
        """Return what stands against it."""
        return getattr(facts, self._field)

    @property
    def _field(self) -> str:
        return self.name.replace(".", "_")

    @property
    def wanted(self) -> Any:
        """Return what it asks for."""
        return self.range.text


@dataclass(frozen=True, slots=True)
class Inside:
    """There are targets, and each lies inside one of some prefixes."""

    prefixes: tuple[IPNetwork, ...]
    spans: tuple[Span, ...]
    name: str = "target"

    def compile(self) -> Test:
        """Return the test."""
        spans = self.spans
        return lambda facts: bool(facts.spans) and covered(facts.spans, spans)

    def seen(self, facts: Facts) -> Any:
        """Return what stands against it."""
        return [str(target) for target in facts.targets]

    @property
    def wanted(self) -> Any:
        """Return what it asks for."""
        return [str(prefix) for prefix in self.prefixes]


@dataclass(frozen=True, slots=True)
class HeldBy:
    """At least one of some detectors says that the attack goes on."""

    values: frozenset[str]
    written: tuple[str, ...]
    name: str = "detector"

    def compile(self) -> Test:
        """Return the test."""
        values = self.values
        return lambda facts: not values.isdisjoint(facts.detectors)

    def seen(self, facts: Facts) -> Any:
        """Return what stands against it."""
        return sorted(facts.detectors)

    @property
    def wanted(self) -> Any:
        """Return what it asks for."""
        return list(self.written)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without parts it always does."""

    parts: tuple["Condition", ...]
    name: str = "all"

    def compile(self) -> Test:
        """Return the test."""
        tests = tuple(part.compile() for part in self.parts)
        if len(tests) == 1:
            return tests[0]
        return lambda facts: all(test(facts) for test in tests)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple["Condition", ...]
    name: str = "any"

    def compile(self) -> Test:
        """Return the test."""
        tests = tuple(part.compile() for part in self.parts)
        return lambda facts: any(test(facts) for test in tests)


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Condition"
    name: str = "not"

    def compile(self) -> Test:
        """Return the test."""
        test = self.part.compile()
        return lambda facts: not test(facts)


Leaf = OneOf | Within | Inside | HeldBy
Condition = Leaf | AllOf | AnyOf | Not


def condition_of(when: WhenSpec) -> AllOf:
    """Return the condition that `when` describes, its clauses in the order of the language."""
    parts: list[Condition] = [
        *_words("direction", "direction", when.direction),
        *_words("attack_type", "attack_type", when.attack_type),
        *_words("protocol", "protocol", when.protocol),
        *_words("service", "service", when.service),
        *_words("scope", "scope", when.scope),
        *_words("hostgroup", "hostgroup", when.hostgroup),
        *_words("family", "family", tuple(str(each) for each in when.family or ()) or None),
        *_numbers("pps", when.pps),
        *_numbers("bps", when.bps),
        *_numbers("episodes", when.episodes),
    ]
    if when.target is not None:
        parts.append(Inside(when.target, tuple(map(span_of, when.target))))
    if when.detector is not None:
        parts.append(HeldBy(frozenset(when.detector), when.detector))
    if when.reported is not None:
        parts.extend(_reported(when.reported))
    if when.engine is not None:
        parts.extend(engine_clauses(when.engine))
    if when.any is not None:
        parts.append(AnyOf(tuple(_bare(condition_of(each)) for each in when.any)))
    if when.all is not None:
        parts.append(AllOf(tuple(_bare(condition_of(each)) for each in when.all)))
    if when.not_ is not None:
        parts.append(Not(_bare(condition_of(when.not_))))
    return AllOf(tuple(parts))


def engine_clauses(spec: EngineSpec) -> list["Condition"]:
    """Return the clauses on what engines measure."""
    return [clause for name in RATES for clause in _numbers(f"engine.{name}", getattr(spec, name))]


def span_of(prefix: IPNetwork) -> Span:
    """Return `prefix` as numbers."""
    low = int(prefix.network_address)
    return prefix.version, low, int(prefix.broadcast_address)


def covered(inner: tuple[Span, ...], outer: tuple[Span, ...]) -> bool:
    """Tell whether each of `inner` lies inside one of `outer`."""
    for version, low, high in inner:
        for other, least, most in outer:
            if least <= low and high <= most and version == other:
                break
        else:
            return False
    return True


def _bare(condition: AllOf) -> Condition:
    """Return the only clause of a group of one, which is simpler to compare and to explain."""
    return condition.parts[0] if len(condition.parts) == 1 else condition


def _words(name: str, field: str, values: tuple[str, ...] | None) -> list[Condition]:
    return [] if values is None else [OneOf(name, field, frozenset(values), values)]


def _numbers(name: str, wanted: Range | None) -> list[Condition]:
    return [] if wanted is None else [Within(name, wanted)]


def _reported(spec: ReportedSpec) -> list[Condition]:
    clauses: list[Condition] = []
    for name in ("direction", "attack_type", "protocol"):
        values: tuple[str, ...] | None = getattr(spec, name)
        lower = None if values is None else tuple(value.lower() for value in values)
        clauses.extend(_words(f"reported.{name}", f"reported_{name}", lower))
    return clauses


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()
