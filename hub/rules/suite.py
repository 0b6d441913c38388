# SPDX-License-Identifier: Apache-2.0
"""The shape of a rule test file: events under a fake clock, and effects at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from hub.attacks.change import Sighting
from hub.config import Attacks, Caps, Config, RulePath, Service
from hub.errors import ConfigError, Problem
from hub.fields import Count, Duration, Name, Network, StrictModel
from hub.intake.model import (
    Action,
    AttackType,
    Counter,
    Derived,
    Direction,
    Report,
    Reported,
    Scope,
    Stamp,
    no_counters,
)
from hub.net import IPAddress
from hub.rates import RATES, Rates
from hub.rules.language import KINDS, Word
from hub.rules.words import AttackTypeName, DirectionName, Many, NotEmpty, ProtocolName, one_of
from hub.yamlerrors import mistake, validate
from hub.yamlfile import scan
from hub.yamlnode import Document

SUFFIX = ".test.yaml"
DIALECT = "rule-test"


def _address(value: Any) -> IPAddress:
    try:
        return ip_address(value if isinstance(value, str) else "")
    except ValueError:
        todo = "write it as 192.0.2.10 or 2001:db8::10"
        raise mistake(f"{value!r} is not an address", todo=todo) from None


Address = Annotated[IPAddress, BeforeValidator(_address)]
KindName = Annotated[str, one_of(KINDS)]
ActionName = Annotated[str, one_of(each.value for each in Action)]
GuardName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,31}$")]
Title = Annotated[str, Field(min_length=1, max_length=120)]


class Overrides(StrictModel):
    """What a test lays over the configuration; what it leaves out stays as configured."""

    dry_run: bool = False
    own_prefixes: tuple[Network, ...] | None = None
    never_block: tuple[Network, ...] | None = None
    min_prefix_v4: Annotated[int, Field(ge=8, le=32)] | None = None
    min_prefix_v6: Annotated[int, Field(ge=16, le=128)] | None = None
    services: tuple[Service, ...] | None = None
    caps: Caps | None = None
    attacks: Attacks | None = None

    def over(self, other: "Overrides") -> "Overrides":
        """Return `other` with the fields that are set here in their place."""
        changes = {name: getattr(self, name) for name in self.model_fields_set}
        return other.model_copy(update=changes)

    def apply(self, config: Config) -> Config:
        """Return `config` under these overrides."""
        names = ("own_prefixes", "never_block", "min_prefix_v4", "min_prefix_v6", "caps")
        guard = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        changes: dict[str, Any] = {"dry_run": self.dry_run}
        changes["guard"] = config.guard.model_copy(update=guard)
        if self.services is not None:
            changes["services"] = self.services
        if self.attacks is not None:
            changes["attacks"] = self.attacks
        return config.model_copy(update=changes)


class ReportedEvent(StrictModel):
    """What the detector says where that differs from the truth."""

    direction: Word | None = None
    attack_type: Word | None = None
    protocol: Word | None = None
    pps: Count | None = None


class Event(StrictModel):
    """One call of a detector, already understood."""

    action: ActionName
    target: Address | None = None
    hostgroup: Word | None = None
    networks: Annotated[tuple[Network, ...], Many] = ()
    direction: DirectionName = Direction.UNKNOWN.value
    attack_type: AttackTypeName = AttackType.UNKNOWN.value
    protocol: ProtocolName = "unknown"
    pps: Count = 0
    bps: Count = 0
    detector: Word = "fastnetmon"
    uuid: Word | None = None
    stamp: Duration | None = None
    reported: ReportedEvent | None = None

    @model_validator(mode="after")
    def _has_target(self) -> Self:
        if (self.target is None) == (self.hostgroup is None):
            raise mistake("names both or neither", todo="give target, or hostgroup and networks")
        return self

    def sighting(self, number: int, start: float, at: float) -> Sighting:
        """Return the event as the tracker sees it.

        Args:
            number: journal number.
            start: Unix time at which the test begins.
            at: seconds since then; also the stamp where none is given.
        """
        derived = Derived(Direction(self.direction), AttackType(self.attack_type), self.protocol)
        return Sighting(
            number=number,
            detector=self.detector,
            stamp=Stamp(start + (at if self.stamp is None else self.stamp)),
            report=Report(
                action=Action(self.action),
                scope=Scope.HOST if self.hostgroup is None else Scope.HOSTGROUP,
                target=self.target,
                dialect=DIALECT,
                hostgroup=self.hostgroup,
                attack_uuid=self.uuid,
                reported=self._reported(),
                derived=derived,
                counters=self._counters(),
                networks=self.networks,
            ),
        )

    def _reported(self) -> Reported:
        said = self.reported or ReportedEvent()
        return Reported(
            direction=said.direction or self.direction,
            attack_type=said.attack_type or self.attack_type,
            protocol=said.protocol or self.protocol,
            pps=self.pps if said.pps is None else said.pps,
        )

    def _counters(self) -> dict[str, dict[str, Counter]]:
        way = "outgoing" if self.direction == Direction.OUTGOING.value else "incoming"
        counters = {name: dict(kinds) for name, kinds in no_counters().items()}
        counters[way]["total"] = Counter(pps=self.pps, bps=self.bps)
        return counters


class Expectation(StrictModel):
    """One effect; what is left out may be anything."""

    on: KindName | None = None
    off: KindName | None = None
    would: KindName | None = None
    refused: GuardName | None = None
    kind: KindName | None = None
    target: Network | None = None
    rule: Name | None = None
    to: Name | None = None
    run: Name | None = None

    @model_validator(mode="after")
    def _one_effect(self) -> Self:
        given = [name for name in ("on", "off", "would", "refused") if getattr(self, name)]
        if len(given) != 1:
            todo = "give exactly one of on, off, would, refused"
            raise mistake(f"names {len(given)} effects", todo=todo)
        if self.kind is not None and self.refused is None:
            raise mistake("kind goes with refused only", todo="remove it", at=("kind",))
        return self


class Measurement(StrictModel):
    """What the engine measures from now on of the countermeasures on an attack, or on each."""

    target: Address | None = None
    hostile_pps: Count = 0
    dropped_pps: Count = 0
    passed_pps: Count = 0
    syn_pps: Count = 0
    cookie_good_pps: Count = 0

    @property
    def rates(self) -> Rates:
        """Return it as an engine gives it."""
        return Rates(**{name: getattr(self, name) for name in RATES})


class Step(StrictModel):
    """One moment: time has passed, then perhaps the engine measured and an event came in."""

    at: Duration
    engine: Measurement | None = None
    event: Event | None = None
    expect: tuple[Expectation, ...]


class Case(StrictModel):
    """One sequence of events."""

    name: Title
    config: Overrides | None = None
    steps: Annotated[tuple[Step, ...], NotEmpty]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for index in range(1, len(self.steps)):
            if self.steps[index].at < self.steps[index - 1].at:
                text = "is earlier than the step before it"
                raise mistake(text, todo="put the steps in order", at=("steps", index, "at"))
        return self


class SuiteSpec(StrictModel):
    """The whole file."""

    rules: Annotated[tuple[RulePath, ...], NotEmpty] | None = None
    config: Overrides = Overrides()
    tests: Annotated[tuple[Case, ...], NotEmpty]

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [case.name for case in self.tests]
        for index, name in enumerate(names):
            if name in names[:index]:
                text = f"two tests are named {name!r}"
                raise mistake(text, todo="rename one", at=("tests", index, "name"))
        return self


@dataclass(frozen=True, slots=True)
class Suite:
    """One rule test file.

    Attributes:
        document: the file with its places.
        spec: what it says.
        rules: the rule files it tests, in order.
    """

    document: Document
    spec: SuiteSpec
    rules: tuple[Path, ...]


def read_suite(path: Path) -> Suite:
    """Return the tests in the file at `path`.

    Raises:
        ConfigError: with every mistake in the file.
    """
    document = scan(path)
    spec, mistakes = validate(document, SuiteSpec)
    problems = sorted([*document.problems, *mistakes], key=lambda each: (each.line, each.column))
    if spec is None or problems:
        raise ConfigError(problems)
    if spec.rules is not None:
        return Suite(document, spec, tuple(path.parent / rule for rule in spec.rules))
    own = path.with_name(path.name.removesuffix(SUFFIX) + ".yaml")
    if not own.is_file():
        what = f"tests {own.name}, which is not beside it"
        raise ConfigError([Problem(what, str(path), todo="name the rule files under rules:")])
    return Suite(document, spec, (own,))


def find_suites(rules: Sequence[Path]) -> tuple[Path, ...]:
    """Return the test files in the folders of the rule files, in a fixed order."""
    folders = dict.fromkeys(rule.parent for rule in rules)
    return tuple(
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.name.endswith(SUFFIX)
    )
