# SPDX-License-Identifier: Apache-2.0
"""The shape of a rule file; docs/rules.md is the same for operators."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hub.fields import Duration, Name, Network, StrictModel
from hub.rules.actions import Acl, AclRule, Action, Command, Notify, Sorb, Tcp, flag_bits
from hub.rules.words import (
    AttackTypeName,
    CommandName,
    Comparison,
    DirectionName,
    EngineName,
    IcmpRange,
    Known,
    LifeTime,
    Many,
    NotEmpty,
    NotifyName,
    NumberRange,
    ProtocolName,
    ScopeName,
    ServiceName,
)
from hub.yamlerrors import listed, mistake

KINDS: Final = ("tcp", "acl", "sorb", "notify", "command")
_ALONE: Final = ("tcp", "sorb")
LASTING: Final = frozenset({"tcp", "acl", "sorb", "command"})
"""Countermeasures that are taken back at the end, and so need a lifetime."""
CARRIED: Final = frozenset({"tcp", "acl", "sorb"})
"""Countermeasures that an engine for traffic carries out."""

_WITH_PORTS: Final = frozenset({"any", "tcp", "udp", "sctp"})

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]{0,63}$")]
"""A detector's own word or name."""


class GivenModel(StrictModel):
    """Base of what must not be left half written: a key without a value is a mistake."""

    @field_validator("*", mode="before")
    @classmethod
    def _has_value(cls, value: Any) -> Any:
        if value is None:
            raise mistake("has no value", todo="give it one, or remove the line")
        return value


class ClausesModel(GivenModel):
    """Base of clause groups: at least one clause."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            todo = "write at least one clause; `when: always` matches all"
            raise mistake("says nothing", todo=todo)
        return self


class ReportedSpec(ClausesModel):
    """Clauses on what the detector itself said, right or wrong."""

    direction: Annotated[tuple[Word, ...], Many, NotEmpty] | None = None
    attack_type: Annotated[tuple[Word, ...], Many, NotEmpty] | None = None
    protocol: Annotated[tuple[Word, ...], Many, NotEmpty] | None = None


class EngineSpec(ClausesModel):
    """Clauses on what the engine measures of all countermeasures on the attack, now."""

    hostile_pps: Comparison | None = None
    dropped_pps: Comparison | None = None
    passed_pps: Comparison | None = None
    syn_pps: Comparison | None = None
    cookie_good_pps: Comparison | None = None

    @model_validator(mode="after")
    def _somebody_measures(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, Known) and not info.context.measures:
            text = "no enabled engine measures"
            raise mistake(text, todo="set engines.native.enabled: true, or remove it")
        return self


class WhenSpec(ClausesModel):
    """Clauses that must all hold; a list in a clause means any of its entries."""

    always: Literal[True] | None = None
    direction: Annotated[tuple[DirectionName, ...], Many, NotEmpty] | None = None
    attack_type: Annotated[tuple[AttackTypeName, ...], Many, NotEmpty] | None = None
    protocol: Annotated[tuple[ProtocolName, ...], Many, NotEmpty] | None = None
    service: Annotated[tuple[ServiceName, ...], Many, NotEmpty] | None = None
    scope: Annotated[tuple[ScopeName, ...], Many, NotEmpty] | None = None
    hostgroup: Annotated[tuple[Word, ...], Many, NotEmpty] | None = None
    target: Annotated[tuple[Network, ...], Many, NotEmpty] | None = None
    family: Annotated[tuple[Literal[4, 6], ...], Many, NotEmpty] | None = None
    pps: Comparison | None = None
    bps: Comparison | None = None
    episodes: Comparison | None = None
    detector: Annotated[tuple[Word, ...], Many, NotEmpty] | None = None
    reported: ReportedSpec | None = None
    engine: EngineSpec | None = None
    any: Annotated[tuple["WhenSpec", ...], NotEmpty] | None = None
    all: Annotated[tuple["WhenSpec", ...], NotEmpty] | None = None
    not_: Annotated["WhenSpec | None", Field(alias="not")] = None

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value == "always":
            return {"always": True}
        raise mistake(f"{value!r} is no condition", todo="write always, or clauses as key: value")


class AclRuleSpec(AclRule):
    """`AclRule` with the short forms of the language, and checked for sense."""

    sources: Annotated[tuple[Network, ...], Many] = ()
    source_ports: Annotated[tuple[NumberRange, ...], Many] = ()
    destination_ports: Annotated[tuple[NumberRange, ...], Many] = ()
    length: NumberRange | None = None
    icmp_types: Annotated[tuple[IcmpRange, ...], Many] = ()

    @field_validator("flags", mode="after")
    @classmethod
    def _known_flags(cls, value: str | None) -> str | None:
        try:
            _ = value is None or flag_bits(value)
        except ValueError as error:
            raise mistake(str(error), todo='write e.g. flags: "syn,!ack"') from None
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.action == "limit") != (self.pps is not None):
            todo = "give pps with action: limit, and only there"
            raise mistake("limit and pps go together", todo=todo)
        ports = "source_ports" if self.source_ports else "destination_ports"
        if getattr(self, ports) and self.protocol not in _WITH_PORTS:
            text = f"{self.protocol} has no ports"
            raise mistake(text, todo="remove them, or name tcp, udp or sctp", at=(ports,))
        for name, protocol in (("flags", "tcp"), ("icmp_types", "icmp")):
            if getattr(self, name) and self.protocol != protocol:
                text = f"goes with protocol: {protocol} only"
                raise mistake(text, todo=f"add protocol: {protocol}", at=(name,))
        if self.action == "limit" and len(self.icmp_types) > 1:
            todo = "write a line for each, with a pps of its own"
            raise mistake("a limit takes one range of types", todo=todo, at=("icmp_types",))
        return self


class AclSpec(Acl):
    """`Acl` of such lines."""

    rules: Annotated[tuple[AclRuleSpec, ...], Field(min_length=1, max_length=64)]


class NotifySpec(Notify):
    """`Notify` whose target must be in the configuration."""

    to: Annotated[Name, NotifyName]


class CommandSpec(Command):
    """`Command` that must be in the configuration."""

    run: Annotated[Name, CommandName]


class StepSpec(StrictModel):
    """One countermeasure: its name alone, or a mapping from its name to its parameters."""

    tcp: Tcp | None = None
    acl: AclSpec | None = None
    sorb: Sorb | None = None
    notify: NotifySpec | None = None
    command: CommandSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value in _ALONE:
                return {value: {}}
            if value in KINDS:
                raise mistake(f"{value} needs parameters", todo=f"write {value}: {{...}}")
            text = f"{value!r} is not one of {listed(KINDS)}"
            raise mistake(text, value=value, choices=KINDS)
        if isinstance(value, dict):
            if len(value) != 1:
                todo = "write each countermeasure on a line of its own that begins with -"
                raise mistake(f"names {len(value)} countermeasures, not one", todo=todo)
            return {key: {} if inner is None else inner for key, inner in value.items()}
        return value

    @property
    def action(self) -> Action:
        """Return the countermeasure."""
        found = self.tcp or self.acl or self.sorb or self.notify or self.command
        if found is None:
            msg = "a step without a countermeasure passed the validator"
            raise ValueError(msg)
        return found


class IfSpec(ClausesModel):
    """When a rule goes on to more countermeasures."""

    engine: EngineSpec


class EscalationSpec(GivenModel):
    """More countermeasures, when those of the rule are not enough."""

    after: Annotated[Duration, Field(gt=0)] | None = None
    if_: Annotated[IfSpec | None, Field(alias="if")] = None
    then: Annotated[tuple[StepSpec, ...], NotEmpty]

    @model_validator(mode="after")
    def _has_reason(self) -> Self:
        if self.after is None and self.if_ is None:
            raise mistake("has neither after nor if", todo="say when, or move it into then")
        return self

    @property
    def actions(self) -> tuple[Action, ...]:
        """Return the countermeasures in the order in which they are begun."""
        return tuple(_plain(step.action) for step in self.then)


class RuleSpec(GivenModel):
    """When an attack looks like this, then these countermeasures."""

    name: Name
    when: WhenSpec
    then: tuple[StepSpec, ...]
    ttl: Annotated[Duration, LifeTime] | None = None
    linger: Duration = 30.0
    engine: EngineName | None = None
    dry_run: bool = False
    continue_: Annotated[bool, Field(alias="continue")] = False
    escalate: tuple[EscalationSpec, ...] = ()

    @property
    def actions(self) -> tuple[Action, ...]:
        """Return the countermeasures in the order in which they are begun."""
        return tuple(_plain(step.action) for step in self.then)

    def steps(self) -> list[tuple[tuple["StepSpec", ...], tuple[str | int, ...]]]:
        """Return every list of countermeasures with its place below the rule."""
        more = [
            (one.then, ("escalate", number, "then")) for number, one in enumerate(self.escalate)
        ]
        return [(self.then, ("then",)), *more]


def _plain(action: Action) -> Action:
    """Return `action` as the engines and the journal know it, without what only loading needs."""
    match action:
        case Acl():
            return Acl(rules=tuple(map(_plain_line, action.rules)))
        case Notify():
            return Notify(to=action.to)
        case Command():
            return Command(run=action.run)
        case _:
            return action


def _plain_line(line: AclRule) -> AclRule:
    fields = {name: getattr(line, name) for name in AclRule.model_fields}
    return AclRule.model_construct(**fields)  # checked already; prefixes are no text any more
